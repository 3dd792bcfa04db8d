"""Second-order inversion: robust Levenberg-Marquardt steps on many poses at once, for one level."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from igspad_jax.devices import replicated, sharded_map
from igspad_jax.invert.equations import Problem, normal_equations
from igspad_jax.invert.poses import orthonormalised, retract
from igspad_jax.render import NormalEquations
from igspad_jax.render.projection import NEAR

_FASTER, _SLOWER = 0.3, 5.0  # factors of the damping after a step that helped, and one that did not
_GIVE_UP = 1e6  # damping beyond which no step lowers the cost any more
_FARTHEST = 0.35  # radians and object radii of one step; derivatives are not valid farther

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


class Refined(NamedTuple):
    """What a level leaves.

    Attributes:
        poses: the best met.
        path: [m, longest + 1, 4, 4] the best so far after each step, the last one to the end.
        costs: [m, longest + 1] theirs.
        pairs: [m] slots the renders asked for at most.
    """

    poses: Poses
    path: jax.Array
    costs: jax.Array
    pairs: jax.Array


def _step(gram: jax.Array, damping: jax.Array) -> jax.Array:
    """[D] Levenberg-Marquardt step, no longer than the derivatives can be trusted."""
    normal, slope = gram[:-1, :-1], gram[:-1, -1]
    diagonal = jnp.diagonal(normal)
    # A direction that moves no pixel stays where it is.
    floor = 1e-9 + 1e-6 * jnp.max(diagonal)
    step = -jnp.linalg.solve(normal + jnp.diag(damping * diagonal + floor), slope)
    length = jnp.maximum(jnp.linalg.norm(step[:3]), jnp.linalg.norm(step[3:6]))
    return step * jnp.minimum(1.0, _FARTHEST / jnp.maximum(length, 1e-9))


@functools.partial(
    jax.jit,
    static_argnames=("sh_degree", "capacity", "blurred", "with_exposure", "longest"),
)
def refine(
    viewmats: jax.Array,
    exposures: jax.Array,
    images: jax.Array,
    weights: jax.Array,
    problem: Problem,
    *,
    sh_degree: int,
    capacity: int,
    blurred: bool,
    with_exposure: bool,
    longest: int,
) -> Refined:
    """Runs one level on m hypotheses, sharded over all devices.

    Args:
        viewmats: [m, 4, 4] to start from.
        exposures: [m, 2] to start from.
        images: [m, H, W, 3] at the level's size, not yet blurred.
        weights: [m, H, W] what each pixel counts.
        problem: the level.
        sh_degree: of the scene.
        capacity: as for `render`.
        blurred: whether `problem.blur` is to be applied.
        with_exposure: whether gain and bias of the object's colours are solved for.
        longest: length of the traces less one; no less than `problem.steps`.
    """

    equations = functools.partial(
        normal_equations, problem=problem, sh_degree=sh_degree, capacity=capacity, blurred=blurred
    )

    def one(start):
        return _refine_one(
            *start,
            problem=problem,
            equations=equations,
            with_exposure=with_exposure,
            longest=longest,
        )

    return replicated(sharded_map(one, (viewmats, exposures, images, weights)))


def _refine_one(
    viewmat: jax.Array,
    exposure: jax.Array,
    image: jax.Array,
    weight: jax.Array,
    *,
    problem: Problem,
    equations: Callable[..., NormalEquations],
    with_exposure: bool,
    longest: int,
) -> Refined:
    """`refine` of one hypothesis; `equations` is `normal_equations` with all settings given."""

    def place(viewmat):
        return _einsum("ij,j->i", viewmat[:3, :3], problem.centre) + viewmat[:3, 3]

    def weighed(viewmat, exposure, active):
        # A converged hypothesis of a batch renders nothing any more: its tiles cost nothing.
        near = jnp.where(active, NEAR, jnp.inf)
        fit = equations(viewmat, exposure if with_exposure else None, image, weight, near=near)
        away = (place(viewmat) - found_at) / problem.radius
        # The Gram matrix belongs to delta times the cost.
        penalty = problem.translation_penalty
        slope = 2.0 * penalty * problem.delta
        gram = fit.gram.at[:3, :3].add(slope * jnp.eye(3)).at[:3, -1].add(slope * away)
        return fit.cost + penalty * jnp.sum(jnp.square(away)), gram, fit.pairs

    def pixels(viewmat, step):
        """How far a step moves points at the object's outline."""
        reach = problem.K[0, 0] * problem.radius / jnp.maximum(place(viewmat)[2], NEAR)
        return reach * (jnp.linalg.norm(step[:3]) + jnp.linalg.norm(step[3:6]))

    def unfinished(carry):
        return carry[1].active & (carry[0] < problem.steps)

    def advance(carry):
        taken, poses, damping, path, costs, most = carry
        # The first round only measures the start: a separate program would double the compilation.
        measures = taken < 0
        step = jnp.where(measures, 0.0, _step(poses.gram, damping))
        viewmat = retract(poses.viewmats, step[:6], problem.centre, problem.radius, "object")
        viewmat = jnp.where(measures, poses.viewmats, viewmat)
        exposure = poses.exposures + step[6:] if with_exposure else poses.exposures
        cost, gram, pairs = weighed(viewmat, exposure, poses.active)
        better = cost < poses.cost
        small = pixels(poses.viewmats, step) < problem.tolerance
        tried = jnp.where(better, damping * _FASTER, damping * _SLOWER)
        found = Poses(viewmat, exposure, cost, gram, poses.active)
        best = jax.tree.map(lambda new, old: jnp.where(better | measures, new, old), found, poses)
        best = best._replace(active=measures | (~small & (tried < _GIVE_UP)))
        path = path.at[taken + 1].set(best.viewmats)
        costs = costs.at[taken + 1].set(best.cost)
        damping = jnp.where(measures, damping, tried)
        return taken + 1, best, damping, path, costs, jnp.maximum(most, pairs)

    size = 9 if with_exposure else 7
    found_at = place(viewmat)
    start = Poses(
        viewmats=viewmat,
        exposures=exposure,
        cost=jnp.inf * jnp.ones(()),
        gram=jnp.zeros((size, size)),
        active=jnp.bool_(True),
    )
    path, costs = jnp.zeros((longest + 1, 4, 4)), jnp.zeros(longest + 1)
    carry = (jnp.int32(-1), start, problem.damping, path, costs, jnp.int32(0))
    taken, poses, _, path, costs, most = jax.lax.while_loop(unfinished, advance, carry)
    till = jnp.minimum(jnp.arange(longest + 1), taken)
    poses = poses._replace(viewmats=orthonormalised(poses.viewmats))
    return Refined(poses, path[till], costs[till], most)


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
