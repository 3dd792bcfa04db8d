"""Matching point sampling (IGSPAD, equation 4): where the photometric loss may look.

Defects hardly match the render of the normal object, so they do not influence a loss that counts
only the surroundings of matched points.
"""

import cv2
import numpy as np


def matching_weights(
    points: np.ndarray, *, width: int, height: int, radius: float, min_points: int
) -> np.ndarray:
    """The weight image W of equation 4.

    Args:
        points: [M, 2] matched points of the test image in pixels, centres at +0.5.
        width: image width in pixels.
        height: image height in pixels.
        radius: k, in pixels.
        min_points: with fewer matches than this the whole image counts.

    Returns:
        float32 [height, width], 1 within `radius` of a matched point and 0 elsewhere, or 1
        everywhere where there are too few matches.
    """
    if len(points) < min_points:
        return np.ones((height, width), np.float32)
    away = np.full((height, width), 255, np.uint8)
    column = np.clip(np.floor(points[:, 0]).astype(int), 0, width - 1)
    row = np.clip(np.floor(points[:, 1]).astype(int), 0, height - 1)
    away[row, column] = 0
    distance = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return (distance <= radius).astype(np.float32)
