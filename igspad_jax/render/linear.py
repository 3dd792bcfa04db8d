"""Renders with their first derivatives by the pose, in forward mode."""

import jax
import jax.numpy as jnp
from flax import struct

from igspad_jax.cameras import Camera
from igspad_jax.kernels.compositing import (
    ProjectedSplats,
    composite_normal,
    composite_with_jacobian,
)
from igspad_jax.render.projection import BLUR, NEAR, project
from igspad_jax.render.rasterizer import one_image
from igspad_jax.render.tangents import splat_tangents
from igspad_jax.scene.gaussians import Gaussians, exposed


class LinearRender(struct.PyTreeNode):
    """The render of one camera, and its derivatives by the pose.

    Attributes:
        colour: as for `Render`.
        alpha: as for `Render`.
        jacobian: [..., H, W, 3, 6] derivatives of `colour` by tau = [rho, theta] of
            T <- Exp(tau) T.
        pairs: as for `Render`.
    """

    colour: jax.Array
    alpha: jax.Array
    jacobian: jax.Array
    pairs: jax.Array


class NormalEquations(struct.PyTreeNode):
    """The normal equations of a render's fit to an image, for a Gauss-Newton step.

    Attributes:
        cost: [...] mean robust difference, in units of the image.
        gram: [..., D + 1, D + 1] of the robustly weighted columns of Jacobian and difference, mean
            over the counted values.
        pairs: as for `Render`.
    """

    cost: jax.Array
    gram: jax.Array
    pairs: jax.Array


def render_with_jacobian(
    gaussians: Gaussians,
    camera: Camera,
    background: jax.Array,
    *,
    sh_degree: int,
    capacity: int,
    near: float | jax.Array = NEAR,
    blur: float | jax.Array = BLUR,
) -> LinearRender:
    """Renders a scene together with the Jacobian of its colours by the pose, in forward mode.

    Works under `jit` and `vmap`, a batch made by `vmap` is one flat list of tiles; not
    differentiable itself.

    Args:
        gaussians: the scene.
        camera: one camera, viewmat [4, 4].
        background: [3] RGB behind the scene.
        sh_degree: degree of the spherical harmonics in use.
        capacity: as for `render`.
        near: as for `render`.
        blur: as for `project`.
    """
    moving = _moving(gaussians, camera, sh_degree=sh_degree, near=near, blur=blur)
    colour, transmittance, pairs, jacobian = composite_with_jacobian(
        *moving,
        background[None],
        width=camera.width,
        height=camera.height,
        capacity=capacity,
    )
    return LinearRender(
        colour=colour[0] + transmittance[0][..., None] * background,
        alpha=1.0 - transmittance[0],
        jacobian=jacobian[0],
        pairs=pairs[0],
    )


def render_normal(
    gaussians: Gaussians,
    camera: Camera,
    background: jax.Array,
    image: jax.Array,
    weight: jax.Array,
    delta: jax.Array,
    basis: jax.Array,
    exposure: jax.Array | None = None,
    *,
    sh_degree: int,
    capacity: int,
    near: float | jax.Array = NEAR,
    blur: float | jax.Array = BLUR,
) -> NormalEquations:
    """The robust normal equations of a render's fit to an image, see `composite_normal`.

    Works under `jit` and `vmap` as `render_with_jacobian` does; not differentiable.

    Args:
        gaussians: the scene.
        camera: one camera, viewmat [4, 4].
        background: [3] RGB behind the scene.
        image: [H, W, 3] to fit.
        weight: [H, W] what each pixel counts.
        delta: [] difference at which its weight has fallen to a half.
        basis: [6, 6] derivative of the camera's twist by the fit's first six parameters, the pose.
        exposure: [2] gain and bias of the scene's colours, which are two parameters more, or None:
            the colours are right as they are.
        sh_degree: as for `render`.
        capacity: as for `render`.
        near: as for `render`.
        blur: as for `project`.
    """
    if exposure is not None:
        gaussians = exposed(gaussians, *exposure)
    moving = _moving(gaussians, camera, sh_degree=sh_degree, near=near, blur=blur)
    fit = (background, basis, exposure_derivatives(exposure), image, weight, delta)
    cost, gram, pairs = composite_normal(
        *moving,
        *(jnp.asarray(part)[None] for part in fit),
        width=camera.width,
        height=camera.height,
        capacity=capacity,
    )
    return NormalEquations(cost=cost[0], gram=gram[0], pairs=pairs[0])


def exposure_derivatives(exposure: jax.Array | None) -> jax.Array:
    """Return the derivatives of exposed colours by gain and bias, for `affine_derivatives`.

    Args:
        exposure: [2] gain and bias, or None.

    Returns:
        [2, 2] slope and offset of each; [0, 2] without an exposure.
    """
    if exposure is None:
        return jnp.zeros((0, 2))
    gain, bias = exposure
    # A colour is gain * c + bias: its derivatives are c, and 1.
    return jnp.array([[1.0 / gain, -bias / gain], [0.0, 1.0]])


def _moving(
    gaussians: Gaussians,
    camera: Camera,
    *,
    sh_degree: int,
    near: float | jax.Array,
    blur: float | jax.Array,
) -> tuple[ProjectedSplats, jax.Array, jax.Array]:
    """One camera's splats and their tangents, the first arguments of `composite_with_jacobian`."""
    splats = project(gaussians, camera, sh_degree=sh_degree, near=near, blur=blur)
    tangents = splat_tangents(gaussians, camera, splats, sh_degree=sh_degree, near=near, blur=blur)
    shapes = jnp.concatenate([tangents.means2d, tangents.conics], axis=1)
    # Colours of degree 0 stay as they are, wherever the camera goes.
    colours = tangents.colours[..., : 3 if sh_degree else 0]
    return one_image(splats, splats.colours), shapes[None], colours[None]
