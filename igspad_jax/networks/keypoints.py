"""What every network that finds keypoints gives."""

from __future__ import annotations

from typing import NamedTuple

import jax


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
