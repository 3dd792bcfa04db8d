"""Matching with networks: a keypoint network, and LightGlue for pairs of its keypoints."""

import functools
import hashlib
from collections.abc import Sequence

import jax
import numpy as np
from flax import linen as nn

from igspad_jax.batches import batches
from igspad_jax.devices import batch_size
from igspad_jax.match.features import Features
from igspad_jax.match.matching import Matches, check_images, no_matches
from igspad_jax.networks.keypoints import Keypoints
from igspad_jax.networks.lightglue import LightGlue, Points, pad_points, pair_with_many
from igspad_jax.networks.tensors import Params

_FEWEST = 128  # rows; every doubling of them is compiled once


class LearnedMatcher:
    """Pairs of keypoints by LightGlue.

    Attributes:
        detector_key: a hash of the keypoint network, its settings and its weights.
    """

    rotation_invariant = False

    def __init__(
        self,
        detector: tuple[nn.Module, Params],
        lightglue: tuple[LightGlue, Params],
        *,
        at_once: int | None = None,
    ):
        """Sets up the matcher.

        Args:
            detector: a network from [B, H, W, 3] images in [0, 1] to `Keypoints`, and its
                parameters.
            lightglue: what pairs the keypoints, and its parameters.
            at_once: images, or pairs of them, that a network sees together; None for what
                suits the device, see `batch_size`.
        """
        network, params = detector
        self.detector_key = _hash_network(network, params)
        self._detector_params = jax.device_put(params)
        self._detect = jax.jit(lambda params, images: network.apply({"params": params}, images))
        self._lightglue_params = jax.device_put(lightglue[1])
        self._pair = jax.jit(functools.partial(pair_with_many, lightglue[0]))
        self._at_once = at_once or batch_size(16)

    def prepare(self, images: np.ndarray) -> list[Features]:
        """Finds the keypoints of [n, H, W, 3] images in [0, 1]."""
        images = check_images(images, "images to match")
        size = images.shape[2], images.shape[1]
        features = []
        for indices, real in batches(len(images), self._at_once):
            found = jax.device_get(self._detect(self._detector_params, images[indices]))
            features += [Features(*_valid(found, row), size) for row in range(real)]
        return features

    def match(self, query: Sequence[Features], references: Sequence[Features]) -> list[Matches]:
        """Pairs the keypoints of one prepared query with those of n prepared references.

        Keypoints are padded to one of a few numbers of rows, so that few programs are compiled,
        and small ones where there are few keypoints. The padding changes no result.
        """
        (features,) = query
        matches = [no_matches()] * len(references)
        if not len(features.points):
            return matches
        rows = np.array([_rows(reference) for reference in references])
        left = _pad(features, _rows(features))
        for count in np.unique(rows[rows > 0]):
            alike = np.flatnonzero(rows == count)
            for places, _ in batches(len(alike), self._at_once):
                indices = alike[places]
                padded = [_pad(references[i], int(count)) for i in indices]
                right = Points(*map(np.stack, zip(*padded, strict=True)))
                found = jax.device_get(self._pair(self._lightglue_params, left, right))
                for i, index, scores in zip(indices, found.index, found.scores, strict=True):
                    matches[i] = _matches(features, references[i], index, scores)
        return matches


def _hash_network(network: nn.Module, params: Params) -> str:
    digest = hashlib.sha256(repr(network).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}".encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _valid(found: Keypoints, row: int) -> tuple[np.ndarray, np.ndarray]:
    valid = np.asarray(found.valid[row])
    return np.asarray(found.points[row])[valid], np.asarray(found.descriptors[row])[valid]


def _rows(features: Features) -> int:
    """Rows to pad to; 0 where there is no keypoint."""
    count = len(features.points)
    return max(_FEWEST, 1 << (count - 1).bit_length()) if count else 0


def _pad(features: Features, rows: int) -> Points:
    return pad_points(features.points, features.descriptors, features.size, rows)


def _matches(
    query: Features, reference: Features, index: np.ndarray, scores: np.ndarray
) -> Matches:
    (paired,) = np.nonzero(index >= 0)
    return Matches(
        query.points[paired].astype(np.float64),
        reference.points[index[paired]].astype(np.float64),
        scores[paired].astype(np.float64),
    )
