"""Anomaly maps of one extractor, or of several together."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.detect.features import Extractor
from igspad_jax.detect.score import feature_distance, resize_map

# By extractor and by what two batches of images hold: their maps.
Maps = dict[tuple[str, str, str], np.ndarray]

_REMEMBERED = 2  # batches: a test image is compared with several references one after the other


class _Batch(NamedTuple):
    """[B, H, W, 3] images, and a hash of what they hold."""

    images: np.ndarray
    digest: str

    @classmethod
    def of(cls, images: np.ndarray) -> _Batch:
        """Images with their hash."""
        content = np.ascontiguousarray(images).tobytes()
        return cls(images, hashlib.blake2b(content, digest_size=16).hexdigest())


class Comparison:
    """Compares images with normal ones by the features of one or more extractors.

    The maps of several extractors are multiplied (their geometric mean is taken): what the scene
    gets wrong seldom looks wrong to all of them, a defect does.

    Features of images that come again soon are not computed again.

    Attributes:
        name: the extractors' names, joined by "*", as often as they count.
        batch: images that are best compared together: one on a processor, where more are no
            faster and only take memory.
    """

    def __init__(
        self, extractors: Sequence[Extractor], powers: Sequence[int], maps: Maps | None = None
    ):
        """A comparison.

        Args:
            extractors: whose maps are multiplied.
            powers: how often each of them counts.
            maps: where the single extractors' maps are kept, for other comparisons to take.
        """
        self._extractors, self._powers, self._maps = tuple(extractors), tuple(powers), maps
        self._seen: OrderedDict[tuple[str, str], jax.Array] = OrderedDict()
        pairs = zip(extractors, powers, strict=True)
        self.name = "*".join(extractor.name for extractor, power in pairs for _ in range(power))
        self.batch = 1 if jax.default_backend() == "cpu" else 8

    def anomaly_maps(self, images: np.ndarray, references: np.ndarray) -> np.ndarray:
        """[B, H, W] anomaly maps (equation 5).

        Args:
            images: [B, H, W, 3] test images in [0, 1].
            references: [B, H, W, 3] normal images that they are compared with.
        """
        own, other = _Batch.of(images), _Batch.of(references)
        product = np.ones(images.shape[:3])
        for extractor, power in zip(self._extractors, self._powers, strict=True):
            product *= self._distances(extractor, own, other).astype(np.float64) ** power
        return (product ** (1.0 / sum(self._powers))).astype(np.float32)

    def forget(self) -> None:
        """Forgets the features of the images it has seen last."""
        self._seen.clear()

    def _distances(self, extractor: Extractor, own: _Batch, other: _Batch) -> np.ndarray:
        """[B, H, W] map of one extractor."""
        key = (extractor.name, own.digest, other.digest)
        if self._maps is not None and key in self._maps:
            return self._maps[key]
        distances = feature_distance(
            self._features(extractor, own),
            self._features(extractor, other),
            tolerance=extractor.tolerance,
            edge_discount=extractor.edge_discount,
        )
        result = np.asarray(resize_map(distances, *own.images.shape[1:3]))
        if self._maps is not None:
            self._maps[key] = result
        return result

    def _features(self, extractor: Extractor, batch: _Batch) -> jax.Array:
        key = (extractor.name, batch.digest)
        if key not in self._seen:
            self._seen[key] = extractor(jnp.asarray(batch.images))
            while len(self._seen) > _REMEMBERED * len(self._extractors):
                self._seen.popitem(last=False)
        self._seen.move_to_end(key)
        return self._seen[key]
