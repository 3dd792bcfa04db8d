"""What every network that finds keypoints gives."""

from typing import NamedTuple, TypedDict

import jax


class Limits(TypedDict, total=False):
    """What a network that finds keypoints can be limited to; its own defaults where left out.

    Attributes:
        max_keypoints: rows of the result.
        threshold: least score of a keypoint.
    """

    max_keypoints: int
    threshold: float


class Keypoints(NamedTuple):
    """K keypoints of each of B images, padded to one number; strongest first.

    Attributes:
        points: [B, K, 2] x, y in pixels of the image; pixel centres at +0.5.
        scores: [B, K] confidence of detection, 0 where padded.
        descriptors: [B, K, D] of length 1, zeros where padded.
        valid: [B, K] whether the row is a keypoint.
    """

    points: jax.Array
    scores: jax.Array
    descriptors: jax.Array
    valid: jax.Array
