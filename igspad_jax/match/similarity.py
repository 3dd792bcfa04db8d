"""From an in-plane similarity between two pictures to the second picture's camera.

A similarity is a [2, 3] matrix A = s [R(phi) | d] that takes pixels of a training image to pixels
of the query. A camera that turns about its own centre warps its picture and shows nothing new, and
one that moves along the ray to a small object only scales it. So only cameras that see
the object from the training camera's direction are considered for the query.
"""

import numpy as np


def viewmat_from_similarity(
    viewmat: np.ndarray, K: np.ndarray, similarity: np.ndarray, centre: np.ndarray
) -> np.ndarray:
    """The viewmat of the camera that sees the training picture moved by a similarity.

    The camera turns by phi about its optical axis, moves along the ray to the object's centre to
    1/s of its distance, and then turns by the smallest rotation that brings the centre to its
    place in the query. Exact at the centre; elsewhere to first order in object size over distance.

    Args:
        viewmat: [4, 4] of the training image.
        K: [3, 3] intrinsics of both images.
        similarity: [2, 3] from pixels of the training image to pixels of the query.
        centre: [3] the object's centre in the world, in front of the training camera.

    Returns:
        [4, 4] viewmat.
    """
    rotation = viewmat[:3, :3]
    seen = rotation @ centre + viewmat[:3, 3]
    projected = K @ seen
    target = similarity[:, :2] @ (projected[:2] / projected[2]) + similarity[:, 2]
    ray = np.linalg.solve(K, [*target, 1.0])
    ray /= np.linalg.norm(ray)
    scale, phi = scale_and_angle(similarity)
    cos, sin = np.cos(phi), np.sin(phi)
    roll = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    distance = np.linalg.norm(seen)
    result = np.eye(4)
    result[:3, :3] = _smallest_rotation(roll @ seen / distance, ray) @ roll @ rotation
    result[:3, 3] = ray * distance / scale - result[:3, :3] @ centre
    return result


def scale_and_angle(similarity: np.ndarray) -> tuple[float, float]:
    """Scale s and angle phi in radians (from x towards y) of a [2, 3] similarity."""
    scale = np.sqrt(np.linalg.det(similarity[:, :2]))
    return float(scale), float(np.arctan2(similarity[1, 0], similarity[0, 0]))


def make_similarity(scale: float, phi: float, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[2, 3] similarity of scale `scale` and angle `phi` that takes `source` to `target`, [2]."""
    cos, sin = scale * np.cos(phi), scale * np.sin(phi)
    linear = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([linear, np.asarray(target) - linear @ source])


def compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """[2, 3] map that applies `inner` first, then `outer`."""
    linear = outer[:, :2] @ inner[:, :2]
    return np.column_stack([linear, outer[:, :2] @ inner[:, 2] + outer[:, 2]])


def invert(similarity: np.ndarray) -> np.ndarray:
    """[2, 3] inverse of a [2, 3] map."""
    linear = np.linalg.inv(similarity[:, :2])
    return np.column_stack([linear, -linear @ similarity[:, 2]])


def _smallest_rotation(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[3, 3] rotation by the smallest angle that takes one unit vector to another."""
    v = np.cross(source, target)
    hat = np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])
    # Both point into the half space in front of the camera, so 1 + cos stays away from zero.
    return np.eye(3) + hat + hat @ hat / (1.0 + source @ target)
