"""The robust normal equations of a level, which a Levenberg-Marquardt step solves.

The residual is the difference between render and image, iteratively reweighted by Cauchy's function
(Holland and Welsch 1977): squared where it is small, its logarithm where it is large, so that a
defect has little influence on the pose, and the less the larger it is. At coarse levels image and
render are blurred alike, and with the render its pose Jacobian: blurring the splats instead would
fatten the object, whose opaque surfaces do not add up. The coarse scene is a merged one, so that
coarse steps cost little.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from igspad_jax.cameras import Camera
from igspad_jax.invert.poses import twist_basis
from igspad_jax.kernels.compositing import affine_derivatives, gram, weigh
from igspad_jax.render import (
    LinearRender,
    NormalEquations,
    exposure_derivatives,
    render_normal,
    render_with_jacobian,
)
from igspad_jax.scene import Gaussians, exposed

_einsum = functools.partial(jnp.einsum, precision="highest")


class Problem(NamedTuple):
    """What a level is about; all arrays, so that levels of one size share a program.

    Attributes:
        gaussians: the scene.
        K: [3, 3] intrinsics at this level's size.
        background: [3] RGB.
        centre: [3] the object's centre in the world.
        radius: [] the object's radius in world units.
        splat_blur: [] pixels^2 of the splats.
        blur: [] standard deviation in pixels of the blur of images and renders.
        delta: [] difference at which its weight has fallen to a half.
        damping: [] to begin with.
        translation_penalty: [] cost of moving the object by its radius from where it was at the
            start of the level. An object that fits badly would otherwise lower the cost by leaving
            the image or moving far away.
        steps: [] at most.
        tolerance: [] pixels; steps that move the object's outline less are the last.
    """

    gaussians: Gaussians
    K: jax.Array
    background: jax.Array
    centre: jax.Array
    radius: jax.Array
    splat_blur: jax.Array
    blur: jax.Array
    delta: jax.Array
    damping: jax.Array
    translation_penalty: jax.Array
    steps: jax.Array
    tolerance: jax.Array


def normal_equations(
    viewmat: jax.Array,
    exposure: jax.Array | None,
    image: jax.Array,
    weight: jax.Array,
    problem: Problem,
    *,
    sh_degree: int,
    capacity: int,
    blurred: bool,
    near: float | jax.Array,
) -> NormalEquations:
    """The normal equations of one pose, by a twist about the object and by the exposure.

    Args:
        viewmat: [4, 4] pose.
        exposure: [2] gain and bias of the object's colours, None where they are not solved for.
        image: [H, W, 3] at the level's size, not yet blurred.
        weight: [H, W] what each pixel counts.
        problem: the level.
        sh_degree: of the scene.
        capacity: as for `render`.
        blurred: whether `problem.blur` is to be applied. Without it the
            image of the Jacobian is never formed.
        near: as for `render`.
    """
    basis = twist_basis(viewmat, problem.centre, problem.radius, "object")
    camera = Camera(viewmat, problem.K, *image.shape[1::-1])
    how = {"sh_degree": sh_degree, "capacity": capacity, "near": near, "blur": problem.splat_blur}
    background, delta = problem.background, problem.delta
    if not blurred:
        fit = (background, image, weight, delta, basis, exposure)
        return render_normal(problem.gaussians, camera, *fit, **how)
    lit = problem.gaussians if exposure is None else exposed(problem.gaussians, *exposure)
    seen = render_with_jacobian(lit, camera, background, **how)
    columns = _blurred(_columns(seen, image, background, basis, exposure), problem.blur)
    cost, robust = weigh(columns[None, ..., -1], weight[None], delta[None])
    return NormalEquations(cost[0], gram(columns[None], robust)[0], seen.pairs)


def _columns(
    seen: LinearRender,
    image: jax.Array,
    background: jax.Array,
    basis: jax.Array,
    exposure: jax.Array | None,
) -> jax.Array:
    """[H, W, 3, D + 1] columns of the Jacobian and of render - image."""
    by_pose = _einsum("hwci,ij->hwcj", seen.jacobian, basis)
    transmittance = 1.0 - seen.alpha
    values = seen.colour - transmittance[..., None] * background
    affine = exposure_derivatives(exposure)
    (by_exposure,) = affine_derivatives(values[None], transmittance[None], affine[None])
    difference = (seen.colour - image)[..., None]
    return jnp.concatenate([by_pose, by_exposure, difference], axis=-1)


def _blurred(columns: jax.Array, sigma: jax.Array) -> jax.Array:
    """[H, W, ...] values, blurred over the image."""
    height, width = columns.shape[:2]
    flat = columns.reshape(height, width, -1)
    flat = _einsum("ij,jwc->iwc", _blur_matrix(height, sigma), flat)
    return _einsum("ij,hjc->hic", _blur_matrix(width, sigma), flat).reshape(columns.shape)


def _blur_matrix(size: int, sigma: jax.Array) -> jax.Array:
    """[size, size] rows of Gaussians; at the border what is left of one is scaled up."""
    place = jnp.arange(size, dtype=jnp.float32)
    weights = jnp.exp(-0.5 * jnp.square((place[:, None] - place) / sigma))
    return weights / jnp.sum(weights, axis=1, keepdims=True)
