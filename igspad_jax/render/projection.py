"""EWA projection of 3D Gaussians to image splats (Zwicker et al. 2001, Kerbl et al. 2023)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from igspad_jax.cameras import Camera, camera_centre
from igspad_jax.kernels.compositing.tiles import ALPHA_CUT
from igspad_jax.scene.gaussians import Gaussians, rotation_matrices
from igspad_jax.scene.harmonics import colours

BLUR = 0.3  # pixels^2, added to every 2D covariance: no splat is thinner than about a pixel
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


def _unit(vectors: jax.Array) -> jax.Array:
    sq = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.where(sq > 0.0, sq, 1.0))


def project(gaussians: Gaussians, camera: Camera, *, sh_degree: int, near: float = 0.01) -> Splats:
    """Projects Gaussians into one camera; differentiable in both.

    S' = J W S W^T J^T + 0.3 I, with the determinant formed without cancellation, so that needles
    stay right in float32. Gaussians nearer than `near`, fainter than 1/255 or wholly outside the
    image are invisible: their radii and opacities are 0 and no gradient reaches them.

    Args:
        gaussians: the scene, N Gaussians.
        camera: one camera, viewmat [4, 4].
        sh_degree: degree of the spherical harmonics in use.
        near: smallest visible camera-space z, in world units.
    """
    W, t = camera.viewmat[:3, :3], camera.viewmat[:3, 3]
    fx, fy = camera.K[0, 0], camera.K[1, 1]
    cx, cy = camera.K[0, 2], camera.K[1, 2]
    # GPUs would round the factors of these products to 10 bits: whole pixels.
    p = jnp.matmul(gaussians.means, W.T, precision="highest") + t
    in_front = p[:, 2] > near
    # Invisible Gaussians take a harmless place; a NaN in an unused branch would still spread.
    p = jnp.where(in_front[:, None], p, jnp.array([0.0, 0.0, 1.0], p.dtype))
    x, y, z = jnp.unstack(p, axis=-1)
    means2d = jnp.stack([fx * x / z + cx, fy * y / z + cy], axis=-1)

    low_x, high_x = -cx / fx, (camera.width - cx) / fx
    low_y, high_y = -cy / fy, (camera.height - cy) / fy
    slack_x = (_FRUSTUM_SLACK - 1.0) * 0.5 * (high_x - low_x)
    slack_y = (_FRUSTUM_SLACK - 1.0) * 0.5 * (high_y - low_y)
    x_over_z = jnp.clip(x / z, low_x - slack_x, high_x + slack_x)
    y_over_z = jnp.clip(y / z, low_y - slack_y, high_y + slack_y)

    # Bounded as a logarithm: the gradient of an overflowing exponential is NaN.
    largest = jnp.log(_LARGEST * z / jnp.maximum(fx, fy))
    scales = jnp.exp(jnp.minimum(gaussians.log_scales, largest[:, None]))
    # Rows of J W R S: the splat's axes in the image.
    rotated = jnp.matmul(W, rotation_matrices(gaussians.quats), precision="highest")
    axes = rotated * scales[:, None, :]
    u = (fx / z)[:, None] * (axes[:, 0] - x_over_z[:, None] * axes[:, 2])
    v = (fy / z)[:, None] * (axes[:, 1] - y_over_z[:, None] * axes[:, 2])
    u_u, u_v, v_v = jnp.sum(u * u, -1), jnp.sum(u * v, -1), jnp.sum(v * v, -1)
    area = jnp.cross(u, v)
    # u_u v_v - u_v^2 cancels for needles; Lagrange's identity does not.
    det = BLUR * BLUR + BLUR * (u_u + v_v) + jnp.sum(area * area, -1)
    cov_xx, cov_xy, cov_yy = u_u + BLUR, u_v, v_v + BLUR
    conics = jnp.stack([cov_yy / det, -cov_xy / det, cov_xx / det], axis=-1)

    opacities = gaussians.opacities
    reach = 2.0 * jnp.log(jnp.maximum(opacities, ALPHA_CUT) / ALPHA_CUT)
    radii = jnp.sqrt(jax.lax.stop_gradient(jnp.stack([cov_xx, cov_yy], -1) * reach[:, None]))
    size = jnp.array([camera.width, camera.height], p.dtype)
    visible = in_front & (opacities > ALPHA_CUT) & jnp.all(jnp.isfinite(radii), -1)
    visible &= jnp.all((means2d + radii > 0.0) & (means2d - radii < size), axis=-1)

    directions = _unit(gaussians.means - camera_centre(camera.viewmat))
    return Splats(
        means2d=means2d,
        conics=conics,
        opacities=jnp.where(visible, opacities, 0.0),
        colours=colours(gaussians.sh, directions, sh_degree),
        depths=z,
        radii=jnp.where(visible[:, None], radii, 0.0),
    )
