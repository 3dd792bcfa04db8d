"""Anomaly maps of one extractor, or of several together."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.detect.features import Extractor
from igspad_jax.detect.score import feature_distance, resize_map


class Comparison:
    """Compares images with normal ones by the features of one or more extractors.

    The maps of several extractors are multiplied (their geometric mean is taken): what the scene
    gets wrong seldom looks wrong to all of them, a defect does.

    Attributes:
        name: the extractors' names, joined by "*", as often as they count.
    """

    def __init__(self, extractors: Sequence[Extractor], powers: Sequence[int]):
        """Take the extractors whose maps are multiplied, and how often each of them counts."""
        self._extractors, self._powers = tuple(extractors), tuple(powers)
        pairs = zip(extractors, powers, strict=True)
        self.name = "*".join(extractor.name for extractor, power in pairs for _ in range(power))

    def anomaly_maps(self, images: np.ndarray, references: np.ndarray) -> np.ndarray:
        """[B, H, W] anomaly maps (equation 5).

        Args:
            images: [B, H, W, 3] test images in [0, 1].
            references: [B, H, W, 3] normal images that they are compared with.
        """
        product = np.ones(images.shape[:3])
        for extractor, power in zip(self._extractors, self._powers, strict=True):
            distances = feature_distance(
                extractor(jnp.asarray(images)),
                extractor(jnp.asarray(references)),
                tolerance=extractor.tolerance,
                edge_discount=extractor.edge_discount,
            )
            product *= np.asarray(_resized(distances, *images.shape[1:3]), np.float64) ** power
        return (product ** (1.0 / sum(self._powers))).astype(np.float32)


_resized = jax.jit(resize_map, static_argnums=(1, 2))
