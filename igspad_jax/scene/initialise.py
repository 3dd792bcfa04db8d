"""Where the Gaussians start: carved from silhouettes, drawn at random, or from a point cloud."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from igspad_jax.cameras import pixels_of
from igspad_jax.scene.gaussians import Gaussians
from igspad_jax.scene.harmonics import coefficients_of
from igspad_jax.scene.volume import common_volume

_BACKGROUND_TOLERANCE = 3.0 / 255.0
_THINNED = 0.4  # size of those over their spacing: larger ones cost much, and are fog at first
_SURROUNDINGS = 0.15  # share of the Gaussians that starts outside the object's ball
_FARTHEST = 10.0  # radii of the ball
_PLAIN_SHARE = 0.9  # of the border's pixels that must show the background for it to be plain


def silhouettes(images: np.ndarray, background: np.ndarray) -> np.ndarray | None:
    """[n, H, W] masks of the object, or None where the background is not plain.

    The background is what resembles `background` and hangs together with the border, so that
    highlights of the same colour inside the object stay object.
    """
    like = np.all(np.abs(images - background) <= _BACKGROUND_TOLERANCE, axis=-1)
    border = np.concatenate(
        [like[:, 0].ravel(), like[:, -1].ravel(), like[:, :, 0].ravel(), like[:, :, -1].ravel()]
    )
    if border.mean() < _PLAIN_SHARE:
        return None
    outside = np.zeros_like(like)
    seed = np.zeros(like.shape[1:], bool)
    seed[[0, -1]] = seed[:, [0, -1]] = True
    for i, region in enumerate(like):
        outside[i] = ndimage.binary_propagation(seed & region, mask=region)
    return ~outside


def _carve(points, masks, viewmats, K):
    """[P] whether each point lies in every silhouette that its projection falls into."""
    height, width = masks.shape[1:]
    left = np.arange(len(points))
    for mask, viewmat in zip(masks, viewmats, strict=True):
        u, v, inside = pixels_of(points[left], viewmat, K, width, height)
        hit = ~inside
        hit[inside] = mask[v[inside], u[inside]]
        left = left[hit]
    carved = np.zeros(len(points), bool)
    carved[left] = True
    return carved


def _surface_points(masks, viewmats, K, centre, radius, count, rng):
    """[count, 3] points on the visual hull and their [count, 3] outward normals."""
    cells = 96
    # A first coarse pass finds the box that holds the hull, a second one carves it finely.
    low, high = centre - radius, centre + radius
    for _ in range(2):
        edges = [np.linspace(low[i], high[i], cells + 1) for i in range(3)]
        mids = [0.5 * (e[1:] + e[:-1]) for e in edges]
        grid = np.stack(np.meshgrid(*mids, indexing="ij"), axis=-1)
        solid = _carve(grid.reshape(-1, 3), masks, viewmats, K).reshape(cells, cells, cells)
        if not solid.any():
            return None
        step = (high - low) / cells
        filled = np.nonzero(solid)
        low, high = (
            np.array([mids[i][f.min()] for i, f in enumerate(filled)]) - 1.5 * step,
            np.array([mids[i][f.max()] for i, f in enumerate(filled)]) + 1.5 * step,
        )
    shell = solid & np.logical_not(ndimage.binary_erosion(solid))
    smooth = ndimage.gaussian_filter(solid.astype(np.float32), 1.5)
    normals = -np.stack(np.gradient(smooth), axis=-1)[shell]
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
    points = grid[shell]
    pick = rng.choice(len(points), count, replace=len(points) < count)
    jitter = rng.uniform(-0.5, 0.5, (count, 3)) * step
    return points[pick] + jitter, normals[pick]


def _around(centre, radius, count, viewmats, rng):
    """[count, 3] points about a ball, ever sparser outwards; none close to a camera."""
    eyes, points = np.linalg.inv(viewmats)[:, :3, 3], np.zeros((0, 3))
    while len(points) < count:
        directions = rng.normal(size=(count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        away = np.exp(rng.uniform(0.0, np.log(_FARTHEST), (count, 1)))
        drawn = centre + radius * away * directions
        free = KDTree(eyes).query(drawn)[0] > radius
        points = np.concatenate([points, drawn[free]])
    return points[:count]


def _colours(points, normals, images, viewmats, K):
    """[P, 3] mean colour over the views that face each point; rough, occlusion is ignored.

    Without normals, over all views that it lies in front of.
    """
    height, width = images.shape[1:3]
    total = np.zeros((len(points), 3))
    weight = np.full((len(points), 1), 1e-6)
    for image, viewmat in zip(images, viewmats, strict=True):
        u, v, inside = pixels_of(points, viewmat, K, width, height)
        u, v = np.clip(u, 0, width - 1), np.clip(v, 0, height - 1)
        if normals is None:
            facing = inside[:, None].astype(float)
        else:
            toward = -viewmat[:3, :3].T @ viewmat[:3, 3] - points
            toward /= np.linalg.norm(toward, axis=1, keepdims=True)
            facing = np.maximum(np.sum(toward * normals, axis=1, keepdims=True), 0.0) ** 4
        total += facing * image[v, u]
        weight += facing
    return (total + 1e-6 * 0.5) / weight


def from_points(
    points: np.ndarray, rgb: np.ndarray, *, sh_degree: int, opacity: float = 0.3, size: float = 1.0
) -> Gaussians:
    """Round Gaussians at [N, 3] points with [N, 3] colours, of a size times their spacing."""
    count = len(points)
    distances = KDTree(points).query(points, k=min(4, count))[0]
    spacing = np.sqrt(np.mean(np.square(distances[:, 1:]), axis=1)) if count > 1 else np.ones(1)
    spacing = np.clip(size * spacing, 1e-7, None)
    sh = np.zeros((count, (sh_degree + 1) ** 2, 3))
    sh[:, 0] = coefficients_of(rgb)
    quats = np.tile([1.0, 0.0, 0.0, 0.0], (count, 1))

    def f32(x):
        return jnp.asarray(x, jnp.float32)

    return Gaussians(
        means=f32(points),
        log_scales=f32(np.repeat(np.log(spacing)[:, None], 3, axis=1)),
        quats=f32(quats),
        opacity_logits=f32(np.full(count, np.log(opacity / (1.0 - opacity)))),
        sh=f32(sh),
    )


def initial_gaussians(
    images: np.ndarray,
    viewmats: np.ndarray,
    K: np.ndarray,
    background: np.ndarray,
    *,
    count: int,
    sh_degree: int,
    seed: int = 0,
    cloud: tuple[np.ndarray, np.ndarray] | None = None,
    ball: tuple[np.ndarray, float] | None = None,
    surroundings: bool = True,
) -> tuple[Gaussians, str]:
    """The Gaussians that training starts from.

    On a point cloud where one is given; else on the surface of the visual hull where the
    background is plain; else uniformly at random in the ball that all cameras see.

    Args:
        images: [n, H, W, 3] training images in [0, 1].
        viewmats: [n, 4, 4] their cameras.
        K: [3, 3] intrinsics.
        background: [3] RGB.
        count: number of Gaussians.
        sh_degree: highest degree of the spherical harmonics.
        seed: of the random choice of points.
        cloud: points [N, 3] in the world and their colours [N, 3] in [0, 1]; with more than
            `count` of them a random choice is taken, with fewer some are taken several times.
        ball: centre [3] and radius of the ball that holds the object, where images show its
            surroundings too.
        surroundings: whether a share of the Gaussians then starts outside of it.

    Returns:
        The Gaussians, and one sentence that says where they came from.
    """
    rng = np.random.default_rng(seed)
    if cloud is not None:
        points, rgb = cloud
        outside = round(_SURROUNDINGS * count) if ball and surroundings else 0
        own = count - outside
        pick = rng.choice(len(points), own, replace=len(points) < own)
        # Copies need places of their own, or no gradient could tell them apart.
        spacing = np.median(KDTree(points).query(points, k=min(2, len(points)))[0].max(axis=-1))
        points = points[pick] + rng.normal(scale=0.1 * spacing, size=(own, 3))
        colours, origin = rgb[pick], f"{count} points drawn from a cloud of {len(rgb)}"
        if ball and outside:
            around = _around(*ball, outside, viewmats, rng)
            seen = _colours(around, None, images, viewmats, K)
            inner = from_points(points, colours, sh_degree=sh_degree)
            outer = from_points(around, seen, sh_degree=sh_degree, size=_THINNED)
            origin = f"{own} points drawn from a cloud of {len(rgb)}, and {outside} about them"
            return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), inner, outer), origin
        return from_points(points, colours, sh_degree=sh_degree), origin
    height, width = images.shape[1:3]
    centre, radius = common_volume(viewmats, K, width, height)
    masks = silhouettes(images, background)
    reason = "the background is not plain"
    if masks is not None:
        surface = _surface_points(masks, viewmats, K, centre, radius, count, rng)
        if surface is not None:
            points, normals = surface
            rgb = _colours(points, normals, images, viewmats, K)
            gaussians = from_points(points, rgb, sh_degree=sh_degree)
            return gaussians, f"{count} points on the visual hull of {len(images)} silhouettes"
        reason = "the silhouettes have no common volume (wrong poses?)"
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points = centre + radius * directions * rng.uniform(size=(count, 1)) ** (1 / 3)
    gaussians = from_points(points, rng.uniform(size=(count, 3)), sh_degree=sh_degree, opacity=0.1)
    return gaussians, f"{count} random points, because {reason}"
