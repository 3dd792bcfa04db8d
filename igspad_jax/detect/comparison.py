"""Anomaly maps of one extractor, or of several together."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.detect.features import Extractor
from igspad_jax.detect.score import feature_distance, resize_map

Features = tuple[jax.Array, ...]


class Comparison:
    """Compares images with normal ones by the features of one or more extractors.

    The maps of several extractors are multiplied (their geometric mean is taken): what the scene
    gets wrong seldom looks wrong to all of them, a defect does.

    Attributes:
        name: the extractors' names, joined by "*", as often as they count.
    """

    def __init__(self, extractors: Sequence[Extractor], powers: Sequence[int]):
        """A comparison.

        Args:
            extractors: whose maps are multiplied.
            powers: how often each of them counts.
        """
        self._extractors, self._powers = tuple(extractors), tuple(powers)
        pairs = zip(extractors, powers, strict=True)
        self.name = "*".join(extractor.name for extractor, power in pairs for _ in range(power))

    def features(self, image: np.ndarray) -> Features:
        """Every extractor's features of a [H, W, 3] image in [0, 1]."""
        images = jnp.asarray(image)[None]
        return tuple(extractor(images) for extractor in self._extractors)

    def anomaly_map(self, test: Features, reference: np.ndarray) -> np.ndarray:
        """[H, W] anomaly map (equation 5).

        Args:
            test: `features` of the test image.
            reference: [H, W, 3] normal image that it is compared with.
        """
        height, width = reference.shape[:2]
        product = np.ones((height, width))
        for extractor, power, own, other in zip(
            self._extractors, self._powers, test, self.features(reference), strict=True
        ):
            distance = feature_distance(
                own, other, tolerance=extractor.tolerance, edge_discount=extractor.edge_discount
            )
            product *= np.asarray(resize_map(distance, height, width)[0], np.float64) ** power
        return (product ** (1.0 / sum(self._powers))).astype(np.float32)
