"""Where the object is: the ball that cameras look at, and the points that can be relied on."""

import numpy as np
from scipy.spatial import KDTree

from igspad_jax.errors import InputError

_CLOSE_UPS = 0.75  # share of photographs that may cut the ball about their object
_INSIDE, _IN_COMPANY = 0.99, 0.95  # shares of the points kept: by distance, and by spacing
_FEW = 100  # points, of which none is dropped


def common_volume(
    viewmats: np.ndarray, K: np.ndarray, width: int, height: int, *, close_ups: float = 0.0
) -> tuple[np.ndarray, float]:
    """The ball that the cameras see whole.

    Args:
        viewmats: [n, 4, 4] of the training cameras.
        K: [3, 3] intrinsics.
        width: image width in pixels.
        height: image height in pixels.
        close_ups: share of the cameras that need not see it whole, the nearest ones.

    Returns:
        Centre [3], the point nearest to all optical axes, and the radius of the largest ball
        about it that lies inside the other cameras' views, both in world units.

    Raises:
        InputError: if the cameras do not look at a common point.
    """
    axes = viewmats[:, 2, :3]
    eyes = np.linalg.inv(viewmats)[:, :3, 3]
    projectors = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    system = projectors.sum(0)
    if np.linalg.eigvalsh(system)[0] < 1e-6 * len(viewmats):
        raise InputError(
            f"the {len(viewmats)} training cameras look along one direction, so the object's "
            "place is unknown: give more views, or a point cloud to start from"
        )
    centre = np.linalg.solve(system, (projectors @ eyes[:, :, None]).sum(0)[:, 0])
    behind = int(np.sum(viewmats[:, 2, :3] @ centre + viewmats[:, 2, 3] <= 0.0))
    if behind > close_ups * len(viewmats):
        raise InputError(
            f"{behind} of {len(viewmats)} training cameras look away from the common "
            "centre: transforms.json must hold camera-to-world matrices in OpenGL axes"
        )
    radius = float(np.quantile(_room(centre, viewmats, K, width, height), close_ups))
    if radius <= 0.0:
        radius = 0.25 * float(np.median(np.linalg.norm(eyes - centre, axis=1)))
    return centre, radius


def _room(
    centre: np.ndarray, viewmats: np.ndarray, K: np.ndarray, width: int, height: int
) -> np.ndarray:
    """[n] distances from a point [3] to the nearest of the four side planes of each view."""
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    x, y, z = (viewmats[:, :3, :3] @ centre + viewmats[:, :3, 3]).T
    sides = [
        (fx * x + cx * z) / np.hypot(fx, cx),
        ((width - cx) * z - fx * x) / np.hypot(fx, width - cx),
        (fy * y + cy * z) / np.hypot(fy, cy),
        ((height - cy) * z - fy * y) / np.hypot(fy, height - cy),
    ]
    return np.min(sides, axis=0)


def looked_at(
    points: np.ndarray, viewmats: np.ndarray, K: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, float]:
    """The ball about what photographs show in their middles, where they have a background.

    Its centre is half-way between the point nearest to all optical axes, which close-ups and uneven
    paths pull aside, and the mean of the points by how near the middles they appear, which lie
    where the object has texture.

    Args:
        points: [P, 3] of structure from motion.
        viewmats: [n, 4, 4] of the training cameras.
        K: [3, 3] intrinsics.
        width: image width in pixels.
        height: image height in pixels.

    Returns:
        Centre [3] and radius; three quarters of the cameras see less than all of it, so that it
        holds an object that fills their pictures.
    """
    axes_point, _ = common_volume(viewmats, K, width, height, close_ups=_CLOSE_UPS)
    seen = np.einsum("vij,nj->vni", viewmats[:, :3, :3], points) + viewmats[:, None, :3, 3]
    front = seen[..., 2] > 0.0
    away = np.linalg.norm(seen[..., :2], axis=-1) / np.where(front, seen[..., 2], 1.0)
    middle = np.where(front, np.exp(-2.0 * (away * K[0, 0] / (0.5 * height)) ** 2), 0.0)
    weights = middle.mean(axis=0) ** 2
    centre = 0.5 * (axes_point + weights @ points / weights.sum())
    room = _room(centre, viewmats, K, width, height)
    return centre, float(np.quantile(room, _CLOSE_UPS))


def without_outliers(points: np.ndarray, colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[P, 3] points of structure from motion and their colours without what is far off or alone.

    A single point far outside would start as a Gaussian of its distance's size, and stay as fog.
    """
    if len(points) < _FEW:
        return points, colours
    away = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    spacing = KDTree(points).query(points, k=4)[0][:, 1:].mean(axis=1)
    kept = (away <= np.quantile(away, _INSIDE)) & (spacing <= np.quantile(spacing, _IN_COMPANY))
    return points[kept], colours[kept]
