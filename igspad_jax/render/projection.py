"""EWA projection of 3D Gaussians to image splats (Zwicker et al. 2001, Kerbl et al. 2023)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from igspad_jax.cameras import Camera, camera_centre
from igspad_jax.kernels.compositing.tiles import ALPHA_CUT
from igspad_jax.scene.gaussians import Gaussians, rotation_matrices
from igspad_jax.scene.harmonics import colours

BLUR = 0.3  # pixels^2, added to every 2D covariance: no splat is thinner than about a pixel
NEAR = 0.01  # smallest visible camera-space z, in world units
_FRUSTUM_SLACK = 1.3  # the projection is linearised no farther out than this many half views
_LARGEST = 1e8  # pixels; the fourth power of a standard deviation must fit a float32


class Splats(struct.PyTreeNode):
    """Gaussians as one camera sees them.

    Attributes:
        means2d: [N, 2] centres in pixels.
        conics: [N, 3] inverse covariances (xx, xy, yy) in 1 / pixels^2.
        opacities: [N] in [0, 1]; 0 where the Gaussian is not visible.
        colours: [N, 3] RGB.
        depths: [N] camera-space z; 1 where the Gaussian is not visible.
        radii: [N, 2] half sizes in pixels of the box around the 1/255 contour; 0 where invisible.
    """

    means2d: jax.Array
    conics: jax.Array
    opacities: jax.Array
    colours: jax.Array
    depths: jax.Array
    radii: jax.Array


def unit(vectors: jax.Array) -> jax.Array:
    """[..., 3] vectors of length 1; zero stays zero."""
    sq = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.where(sq > 0.0, sq, 1.0))


class Placement(NamedTuple):
    """Gaussians before a camera, as far as all of the projection builds on it.

    Attributes:
        p: [N, 3] means in camera axes; a harmless place where not in front.
        in_front: [N] bool.
        offsets: [N, 2] x/z and y/z, held within somewhat more than the image.
        axes: [N, 3, 3] columns: the Gaussian's axes, times their scales, in camera axes.
        image_axes: [N, 2, 3] columns: the same in the image, rows of J W R S.
    """

    p: jax.Array
    in_front: jax.Array
    offsets: jax.Array
    axes: jax.Array
    image_axes: jax.Array


def place(gaussians: Gaussians, camera: Camera, near: float | jax.Array) -> Placement:
    """Takes Gaussians into the axes of one camera; see `Placement`."""
    W, t = camera.viewmat[:3, :3], camera.viewmat[:3, 3]
    # GPUs would round the factors of these products to 10 bits: whole pixels.
    p = jnp.matmul(gaussians.means, W.T, precision="highest") + t
    in_front = p[:, 2] > near
    # Invisible Gaussians take a harmless place; a NaN in an unused branch would still propagate.
    p = jnp.where(in_front[:, None], p, jnp.array([0.0, 0.0, 1.0], p.dtype))
    z = p[:, 2]

    focal, middle = _focal_and_middle(camera)
    size = jnp.array([camera.width, camera.height], p.dtype)
    low, high = -middle / focal, (size - middle) / focal
    slack = (_FRUSTUM_SLACK - 1.0) * 0.5 * (high - low)
    offsets = jnp.clip(p[:, :2] / z[:, None], low - slack, high + slack)

    # Bounded as a logarithm: the gradient of an overflowing exponential is NaN.
    largest = jnp.log(_LARGEST * z / jnp.max(focal))
    scales = jnp.exp(jnp.minimum(gaussians.log_scales, largest[:, None]))
    rotated = jnp.matmul(W, rotation_matrices(gaussians.quats), precision="highest")
    axes = rotated * scales[:, None, :]
    image_axes = (focal / z[:, None])[..., None] * (axes[:, :2] - offsets[..., None] * axes[:, 2:])
    return Placement(p, in_front, offsets, axes, image_axes)


def _focal_and_middle(camera: Camera) -> tuple[jax.Array, jax.Array]:
    """[2] focal lengths and [2] principal point in pixels."""
    return jnp.diagonal(camera.K)[:2], camera.K[:2, 2]


def determinant(u: jax.Array, v: jax.Array, blur: float | jax.Array) -> jax.Array:
    """[N] determinants of the image covariances [[u.u, u.v], [u.v, v.v]] + blur I.

    Args:
        u: [N, 3] first rows of `Placement.image_axes`.
        v: [N, 3] second rows.
        blur: pixels^2.
    """
    # u.u v.v - (u.v)^2 cancels for needles; Lagrange's identity does not.
    area = jnp.cross(u, v)
    return blur * blur + blur * jnp.sum(u * u + v * v, -1) + jnp.sum(area * area, -1)


def project(
    gaussians: Gaussians,
    camera: Camera,
    *,
    sh_degree: int,
    near: float | jax.Array = NEAR,
    blur: float | jax.Array = BLUR,
) -> Splats:
    """Projects Gaussians into one camera; differentiable in both.

    S' = J W S W^T J^T + blur I, with the determinant formed without cancellation, so that needles
    stay right in float32. Gaussians nearer than `near`, fainter than 1/255 or wholly outside the
    image are invisible: their radii and opacities are 0 and no gradient reaches them.

    Args:
        gaussians: the scene, N Gaussians.
        camera: one camera, viewmat [4, 4].
        sh_degree: degree of the spherical harmonics in use.
        near: smallest visible camera-space z, in world units.
        blur: pixels^2 added to the splats' covariances; scenes are trained with `BLUR`.
    """
    placed = place(gaussians, camera, near)
    z = placed.p[:, 2]
    focal, middle = _focal_and_middle(camera)
    means2d = focal * placed.p[:, :2] / z[:, None] + middle
    u, v = placed.image_axes[:, 0], placed.image_axes[:, 1]
    cov_xx, cov_xy, cov_yy = (
        jnp.sum(u * u, -1) + blur,
        jnp.sum(u * v, -1),
        jnp.sum(v * v, -1) + blur,
    )
    det = determinant(u, v, blur)
    conics = jnp.stack([cov_yy / det, -cov_xy / det, cov_xx / det], axis=-1)

    opacities = gaussians.opacities
    reach = 2.0 * jnp.log(jnp.maximum(opacities, ALPHA_CUT) / ALPHA_CUT)
    radii = jnp.sqrt(jax.lax.stop_gradient(jnp.stack([cov_xx, cov_yy], -1) * reach[:, None]))
    size = jnp.array([camera.width, camera.height], means2d.dtype)
    visible = placed.in_front & (opacities > ALPHA_CUT) & jnp.all(jnp.isfinite(radii), -1)
    visible &= jnp.all((means2d + radii > 0.0) & (means2d - radii < size), axis=-1)

    directions = unit(gaussians.means - camera_centre(camera.viewmat))
    return Splats(
        means2d=means2d,
        conics=conics,
        opacities=jnp.where(visible, opacities, 0.0),
        colours=colours(gaussians.sh, directions, sh_degree),
        depths=z,
        radii=jnp.where(visible[:, None], radii, 0.0),
    )
