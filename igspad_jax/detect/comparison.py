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
        name: the extractors' names, joined by "*".
    """

    def __init__(self, extractors: Sequence[Extractor]):
        self._extractors = tuple(extractors)
        self.name = "*".join(extractor.name for extractor in extractors)

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
        maps = [
            resize_map(
                feature_distance(
                    own,
                    other,
                    tolerance=extractor.tolerance,
                    edge_discount=extractor.edge_discount,
                ),
                height,
                width,
            )[0]
            for extractor, own, other in zip(
                self._extractors, test, self.features(reference), strict=True
            )
        ]
        product = np.prod([np.asarray(m, np.float64) for m in maps], axis=0)
        return (product ** (1.0 / len(maps))).astype(np.float32)
