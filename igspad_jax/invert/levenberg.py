"""Second-order inversion: robust Levenberg-Marquardt steps, coarse to fine, on many poses at once.

The residual is the difference between render and image, iteratively reweighted by Cauchy's function
(Holland and Welsch 1977): squared where it is small, its logarithm where it is large, so that a
defect hardly pulls at the pose, and the less the larger it is. At coarse levels image and
render are blurred alike, and with the render its pose Jacobian: blurring the splats instead would
fatten the object, whose opaque surfaces do not add up. The coarse scene is a merged one, so that
coarse steps cost little.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from igspad_jax.cameras import Camera
from igspad_jax.invert.poses import orthonormalised, retract, twist_basis
from igspad_jax.render import render_with_jacobian
from igspad_jax.render.projection import NEAR
from igspad_jax.scene import Gaussians, exposed

_FASTER, _SLOWER = 0.3, 5.0  # factors of the damping after a step that helped, and one that did not
_GIVE_UP = 1e6  # damping beyond which no step helps any more
_FARTHEST = 0.35  # radians and object radii of one step; the image's derivative tells no farther

_einsum = functools.partial(jnp.einsum, precision="highest")


class Poses(NamedTuple):
    """Hypotheses about m images, and how well each explains its image.

    Attributes:
        viewmats: [m, 4, 4].
        exposures: [m, 2] gain and bias of the object's colours.
        cost: [m] mean robust difference between render and image, in units of the image.
        gram: [m, D + 1, D + 1] of the robustly weighted columns of Jacobian and difference, mean
            over the counted values; D is 6, or 8 with the exposure.
        active: [m] whether the last step moved the object by more than the tolerance.
    """

    viewmats: jax.Array
    exposures: jax.Array
    cost: jax.Array
    gram: jax.Array
    active: jax.Array


class Problem(NamedTuple):
    """What a level is about; all arrays, so that levels of one size share a program.

    Attributes:
        gaussians: the scene.
        images: [m, H, W, 3] at this level's size, not yet blurred.
        weights: [m, H, W] what each pixel counts.
        K: [3, 3] intrinsics at this level's size.
        background: [3] RGB.
        centre: [3] the object's centre in the world.
        radius: [] the object's radius in world units.
        splat_blur: [] pixels^2 of the splats.
        blur: [] standard deviation in pixels of the blur of images and renders.
        delta: [] difference at which its weight has fallen to a half.
        damping: [] to begin with.
        anchor: [] cost of moving the object by its radius from where the level found it. Out of
            sight or far away an object that fits badly disagrees less than where it belongs.
        steps: [] at most.
        tolerance: [] pixels; steps that move the object's outline less are the last.
    """

    gaussians: Gaussians
    images: jax.Array
    weights: jax.Array
    K: jax.Array
    background: jax.Array
    centre: jax.Array
    radius: jax.Array
    splat_blur: jax.Array
    blur: jax.Array
    delta: jax.Array
    damping: jax.Array
    anchor: jax.Array
    steps: jax.Array
    tolerance: jax.Array


class Refined(NamedTuple):
    """What a level leaves.

    Attributes:
        poses: the best met.
        path: [longest + 1, m, 4, 4] the best so far after each step; what lies beyond `taken` is 0.
        costs: [longest + 1, m] theirs.
        taken: [] steps.
        pairs: [] slots the renders asked for at most.
    """

    poses: Poses
    path: jax.Array
    costs: jax.Array
    taken: jax.Array
    pairs: jax.Array


def _blur_matrix(size: int, sigma: jax.Array) -> jax.Array:
    """[size, size] rows of Gaussians; at the border what is left of one is scaled up."""
    place = jnp.arange(size, dtype=jnp.float32)
    weights = jnp.exp(-0.5 * jnp.square((place[:, None] - place) / sigma))
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def _blurred(values: jax.Array, sigma: jax.Array) -> jax.Array:
    """[H, W, C] values, blurred."""
    height, width = values.shape[:2]
    values = _einsum("ij,jwc->iwc", _blur_matrix(height, sigma), values)
    return _einsum("ij,hjc->hic", _blur_matrix(width, sigma), values)


def _differences(
    viewmat, exposure, image, near, problem: Problem, *,
    sh_degree: int, capacity: int, blurred: bool, with_exposure: bool,
):  # fmt: skip
    """[H, W, 3, D + 1] columns of the Jacobian and of render - image; and the slots asked for."""
    height, width = image.shape[:2]
    gaussians = problem.gaussians
    if with_exposure:
        gaussians = exposed(gaussians, exposure[0], exposure[1])
    camera = Camera(viewmat, problem.K, width, height)
    seen = render_with_jacobian(
        gaussians,
        camera,
        problem.background,
        sh_degree=sh_degree,
        capacity=capacity,
        near=near,
        blur=problem.splat_blur,
    )
    basis = twist_basis(viewmat, problem.centre, problem.radius, "object")
    columns = [_einsum("hwci,ij->hwcj", seen.jacobian, basis)]
    if with_exposure:
        cover = jnp.broadcast_to(seen.alpha[..., None], image.shape)
        unexposed = seen.colour - (1.0 - cover) * problem.background - exposure[1] * cover
        columns += [(unexposed / exposure[0])[..., None], cover[..., None]]
    columns.append((seen.colour - image)[..., None])
    stacked = jnp.concatenate(columns, axis=-1)
    if blurred:
        flat = _blurred(stacked.reshape(height, width, -1), problem.blur)
        stacked = flat.reshape(stacked.shape)
    return stacked, seen.pairs


def _weighed(columns: jax.Array, weight: jax.Array, delta: jax.Array):
    """The robust cost and Gram matrix of [H, W, 3, D + 1] columns; see `Poses`."""
    square = jnp.square(columns[..., -1] / delta)
    robust = weight[..., None] / (1.0 + square)
    loss = 0.5 * delta * jnp.log1p(square) * weight[..., None]
    counted = 3.0 * jnp.maximum(jnp.sum(weight), 1e-6)
    flat = columns.reshape(-1, columns.shape[-1])
    gram = _einsum("pi,pj->ij", flat * robust.reshape(-1, 1), flat)
    return jnp.sum(loss) / counted, gram / counted


def _step(gram: jax.Array, damping: jax.Array) -> jax.Array:
    """[m, D] Levenberg-Marquardt steps, no longer than the derivatives can be trusted."""
    normal, slope = gram[:, :-1, :-1], gram[:, :-1, -1]
    size = normal.shape[-1]
    diagonal = jnp.diagonal(normal, axis1=1, axis2=2)
    # A direction that moves no pixel stays where it is.
    floor = 1e-9 + 1e-6 * jnp.max(diagonal, axis=1, keepdims=True)
    added = damping[:, None] * diagonal + floor
    step = -jnp.linalg.solve(normal + added[..., None] * jnp.eye(size), slope[..., None])[..., 0]
    length = jnp.maximum(
        jnp.linalg.norm(step[:, :3], axis=1), jnp.linalg.norm(step[:, 3:6], axis=1)
    )
    return step * jnp.minimum(1.0, _FARTHEST / jnp.maximum(length, 1e-9))[:, None]


@functools.partial(
    jax.jit,
    static_argnames=("sh_degree", "capacity", "blurred", "with_exposure", "longest"),
)
def refine(
    viewmats: jax.Array,
    exposures: jax.Array,
    problem: Problem,
    *,
    sh_degree: int,
    capacity: int,
    blurred: bool,
    with_exposure: bool,
    longest: int,
) -> Refined:
    """Runs one level on m hypotheses.

    Hypotheses that have come to rest see nothing any more, so that their tiles cost nothing.

    Args:
        viewmats: [m, 4, 4] to start from.
        exposures: [m, 2] to start from.
        problem: the level.
        sh_degree: of the scene.
        capacity: as for `render`.
        blurred: whether `problem.blur` is to be applied.
        with_exposure: whether gain and bias of the object's colours are solved for.
        longest: length of the traces; no less than `problem.steps`.
    """
    differences = functools.partial(
        _differences,
        problem=problem,
        sh_degree=sh_degree,
        capacity=capacity,
        blurred=blurred,
        with_exposure=with_exposure,
    )

    def place(viewmat):
        return _einsum("ij,j->i", viewmat[:3, :3], problem.centre) + viewmat[:3, 3]

    found_at = jax.vmap(place)(viewmats)

    def weighed(viewmats, exposures, active):
        def one(viewmat, exposure, image, weight, active, found_at):
            near = jnp.where(active, NEAR, jnp.inf)
            columns, pairs = differences(viewmat, exposure, image, near)
            cost, gram = _weighed(columns, weight, problem.delta)
            away = (place(viewmat) - found_at) / problem.radius
            # The Gram matrix belongs to delta times the cost.
            pull = 2.0 * problem.anchor * problem.delta
            gram = gram.at[:3, :3].add(pull * jnp.eye(3)).at[:3, -1].add(pull * away)
            return cost + problem.anchor * jnp.sum(jnp.square(away)), gram, pairs

        return jax.vmap(one)(viewmats, exposures, problem.images, problem.weights, active, found_at)

    def moved(viewmats, exposures, step):
        viewmats = jax.vmap(
            lambda v, s: retract(v, s[:6], problem.centre, problem.radius, "object")
        )(viewmats, step)
        if with_exposure:
            exposures = exposures + step[:, 6:]
        return viewmats, exposures

    def pixels(viewmats, step):
        """How far a step moves points at the object's outline."""
        depth = jax.vmap(place)(viewmats)[:, 2]
        reach = problem.K[0, 0] * problem.radius / jnp.maximum(depth, NEAR)
        return reach * (
            jnp.linalg.norm(step[:, :3], axis=1) + jnp.linalg.norm(step[:, 3:6], axis=1)
        )

    everyone = jnp.ones(len(viewmats), bool)
    cost, gram, pairs = weighed(viewmats, exposures, everyone)
    start = Poses(viewmats, exposures, cost, gram, everyone)
    path = jnp.zeros((longest + 1, *viewmats.shape)).at[0].set(viewmats)
    costs = jnp.zeros((longest + 1, len(viewmats))).at[0].set(cost)
    damping = jnp.broadcast_to(problem.damping, cost.shape)

    def unfinished(carry):
        taken, poses = carry[0], carry[1]
        return (taken < problem.steps) & jnp.any(poses.active)

    def advance(carry):
        taken, poses, damping, path, costs, most = carry
        step = _step(poses.gram, damping)
        viewmats, exposures = moved(poses.viewmats, poses.exposures, step)
        cost, gram, pairs = weighed(viewmats, exposures, poses.active)
        better = poses.active & (cost < poses.cost)
        small = pixels(poses.viewmats, step) < problem.tolerance
        damping = jnp.where(better, damping * _FASTER, damping * _SLOWER)

        def pick(new, old):
            return jnp.where(better.reshape(-1, *[1] * (old.ndim - 1)), new, old)

        poses = Poses(
            viewmats=pick(viewmats, poses.viewmats),
            exposures=pick(exposures, poses.exposures),
            cost=pick(cost, poses.cost),
            gram=pick(gram, poses.gram),
            active=poses.active & ~small & (damping < _GIVE_UP),
        )
        path = path.at[taken + 1].set(poses.viewmats)
        costs = costs.at[taken + 1].set(poses.cost)
        return taken + 1, poses, damping, path, costs, jnp.maximum(most, jnp.max(pairs))

    carry = (jnp.int32(0), start, damping, path, costs, jnp.max(pairs))
    taken, poses, _, path, costs, most = jax.lax.while_loop(unfinished, advance, carry)
    poses = poses._replace(viewmats=orthonormalised(poses.viewmats))
    return Refined(poses, path, costs, taken, most)


def covariances(gram: jax.Array, counted: jax.Array) -> jax.Array:
    """[m, 6, 6] covariances of the twists (object radii, radians) about the object.

    s^2 (J^T W J)^-1 with s^2 the robustly weighted residual variance (Huber and Ronchetti 2009,
    section 7.6), for differences that are independent from value to value. A scene's own errors
    are not: true deviations are larger.

    Args:
        gram: [m, D + 1, D + 1] of `Poses`.
        counted: [m] sum of the weights of all values, three to a pixel.
    """
    normal, size = gram[:, :-1, :-1], gram.shape[-1] - 1
    variance = gram[:, -1, -1] * counted / jnp.maximum(counted - size, 1.0)
    eye = 1e-9 * jnp.eye(size)
    inverse = jnp.linalg.inv(normal * counted[:, None, None] + eye)
    return (variance[:, None, None] * inverse)[:, :6, :6]
