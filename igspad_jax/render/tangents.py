"""Derivatives of splats by the camera: the analytic pose Jacobian of the projection.

Left perturbation T <- Exp(tau) T of the viewmat, tau = [rho, theta] (Matsuki et al. 2024, with the
view-dependent colour added). With p = W mu + t in camera axes dp = rho + theta x p, and the
Gaussian's axes, as columns of W R S, turn with theta.
"""

import jax
import jax.numpy as jnp
from flax import struct

from igspad_jax.cameras import Camera, camera_centre, hat
from igspad_jax.render.projection import BLUR, NEAR, Placement, Splats, determinant, place, unit
from igspad_jax.scene.gaussians import Gaussians
from igspad_jax.scene.harmonics import colours


class SplatTangents(struct.PyTreeNode):
    """Derivatives of N splats by a twist [rho, theta] of the camera.

    Attributes:
        means2d: [N, 2, 6] of the centres in pixels.
        conics: [N, 3, 6] of the inverse covariances (xx, xy, yy).
        colours: [N, 3, 3] of the RGB colours, by rho: turning the camera about its own centre
            shows every Gaussian from where it was seen before.
    """

    means2d: jax.Array
    conics: jax.Array
    colours: jax.Array


def splat_tangents(
    gaussians: Gaussians,
    camera: Camera,
    splats: Splats,
    *,
    sh_degree: int,
    near: float | jax.Array = NEAR,
    blur: float | jax.Array = BLUR,
) -> SplatTangents:
    """The derivatives of `project` by the pose, exact but for the bounds on huge splats.

    Args:
        gaussians: the scene, N Gaussians.
        camera: one camera, viewmat [4, 4].
        splats: `project` of the two.
        sh_degree: as for `project`.
        near: as for `project`.
        blur: as for `project`.
    """
    placed = place(gaussians, camera, near)
    focal = jnp.diagonal(camera.K)[:2]
    eye = jnp.broadcast_to(jnp.eye(3), (len(gaussians), 3, 3))
    dp = jnp.concatenate([eye, -hat(placed.p)], axis=-1)  # [N, 3, 6]
    z = placed.p[:, 2][:, None, None]
    ratios = placed.p[:, :2] / placed.p[:, 2:]
    d_ratios = (dp[:, :2] - ratios[..., None] * dp[:, 2:]) / z  # [N, 2, 6] of x/z and y/z
    u, v = placed.image_axes[:, 0], placed.image_axes[:, 1]
    du, dv = _image_axes_tangents(placed, focal, dp, d_ratios)
    p, q, r = 2.0 * _dot(u, du), _dot(u, dv) + _dot(v, du), 2.0 * _dot(v, dv)
    # The determinant's own form: that of a b - q^2 would cancel for needles, as in `project`.
    d_area = jnp.cross(du, v[..., None], axis=1) + jnp.cross(u[..., None], dv, axis=1)
    d_det = blur * (p + r) + 2.0 * _dot(jnp.cross(u, v), d_area)
    det = determinant(u, v, blur)[:, None]
    relative = d_det / det
    a, b, c = (splats.conics[:, i, None] for i in range(3))
    d_conics = [r / det - a * relative, -q / det - b * relative, p / det - c * relative]
    return SplatTangents(
        means2d=focal[:, None] * d_ratios,
        conics=jnp.stack(d_conics, axis=1),
        colours=_colour_tangents(gaussians, camera, sh_degree),
    )


def _dot(vectors: jax.Array, tangents: jax.Array) -> jax.Array:
    """[N, 6] products of [N, 3] vectors with [N, 3, 6] tangents."""
    return jnp.sum(vectors[..., None] * tangents, axis=1)


def _image_axes_tangents(
    placed: Placement, focal: jax.Array, dp: jax.Array, d_ratios: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """[N, 3 axes, 6] derivatives of the Gaussians' axes in the image, along x and along y."""
    z = placed.p[:, 2][:, None, None]
    held = placed.offsets != placed.p[:, :2] / placed.p[:, 2:]
    d_offsets = jnp.where(held[..., None], 0.0, d_ratios)
    # Columns turn as d axis = theta x axis; [N, 3 coordinates, 3 axes, 6].
    turned = -hat(jnp.swapaxes(placed.axes, 1, 2))  # [N, axis, coordinate, theta]
    turned = jnp.swapaxes(turned, 1, 2)
    d_axes = jnp.concatenate([jnp.zeros_like(turned), turned], axis=-1)

    def row(i):
        """[N, 3 axes, 6] derivative of the i-th row of the axes in the image."""
        scale = (focal[i] / placed.p[:, 2])[:, None, None]
        moved = d_axes[:, i] - placed.offsets[:, i][:, None, None] * d_axes[:, 2]
        moved = moved - d_offsets[:, i][:, None, :] * placed.axes[:, 2][..., None]
        return scale * moved - (dp[:, 2] / z[:, 0])[:, None, :] * image[i]

    image = [placed.image_axes[:, i][..., None] for i in range(2)]
    return row(0), row(1)


def _colour_tangents(gaussians: Gaussians, camera: Camera, sh_degree: int) -> jax.Array:
    """[N, 3, 3] derivatives of the colours by rho, which moves the camera's centre by -W^T rho."""
    if sh_degree == 0:
        return jnp.zeros((len(gaussians), 3, 3))
    W = camera.viewmat[:3, :3]
    towards = gaussians.means - camera_centre(camera.viewmat)

    def along(axis):
        seen = lambda offset: colours(gaussians.sh, unit(offset), sh_degree)  # noqa: E731
        return jax.jvp(seen, (towards,), (jnp.broadcast_to(axis, towards.shape),))[1]

    # Row j of W is where mean - centre goes with rho_j.
    return jnp.moveaxis(jax.vmap(along)(W), 0, -1)
