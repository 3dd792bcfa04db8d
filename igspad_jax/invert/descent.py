"""First-order inversion, the paper's: Adam on twists of the camera, many images at once."""

import functools
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from igspad_jax.cameras import Camera, pose_errors
from igspad_jax.devices import replicated, sharded_map, to_first_device
from igspad_jax.invert.gradients import value_and_pose_gradient
from igspad_jax.invert.inversion import Inversion, Sampler
from igspad_jax.invert.poses import orthonormalised, plain_exposures, retract, twist_basis
from igspad_jax.normal_object import NormalObject
from igspad_jax.settings import AdamConfig, GradientMode, Pivot

_AT_REST = 0.1  # degrees and per cent that the last tenth of a descent may still move


class Descent(NamedTuple):
    """What compiled steps depend on.

    Attributes:
        rate: learning rate, in radians and object radii.
        late_rate: learning rate from `late_step` on.
        late_step: step at which the rate drops.
        pivot: what rotations turn about.
        gradient: how the pose gradient is formed.
    """

    rate: float
    late_rate: float
    late_step: int
    pivot: Pivot
    gradient: GradientMode


def optimiser(descent: Descent) -> optax.GradientTransformation:
    """Adam with the learning rate dropping once (IGSPAD: 0.01, then 0.001 from step 200)."""
    drop = {descent.late_step: descent.late_rate / descent.rate}
    return optax.adam(optax.piecewise_constant_schedule(descent.rate, drop))


@functools.partial(jax.jit, static_argnames=("descent", "steps", "sh_degree", "capacity"))
def descend(
    carry, gaussians, images, weights, K, background, centre, radius, *,
    descent: Descent, steps: int, sh_degree: int, capacity: int,
):  # fmt: skip
    """Runs `steps` steps on n images, sharded over all devices.

    Args:
        carry: [n, 4, 4] poses, and the optimiser's states.
        gaussians: the scene.
        images: [n, H, W, 3].
        weights: [n, H, W] of matching point sampling.
        K: [3, 3] intrinsics.
        background: [3] RGB.
        centre: [3] the object's centre in the world.
        radius: [] the object's radius in world units.
        descent: see there.
        steps: how many.
        sh_degree: of the scene.
        capacity: as for `render`.

    Returns:
        The new carry, the [steps, n, 4, 4] poses and [steps, n] losses before each step, and the
        slots the renders asked for at most.
    """
    height, width = images.shape[1:3]
    adam = optimiser(descent)

    def gradient_of(viewmat, image, weight):
        def loss(seen):
            difference = jnp.mean(jnp.abs(seen.colour - image), axis=-1)
            return jnp.sum(difference * weight) / (width * height), seen.pairs

        value, by_twist = value_and_pose_gradient(
            loss,
            gaussians,
            Camera(viewmat, K, width, height),
            background,
            mode=descent.gradient,
            sh_degree=sh_degree,
            capacity=capacity,
        )
        basis = twist_basis(viewmat, centre, radius, descent.pivot)
        return value, jnp.matmul(basis.T, by_twist, precision="highest")

    def one(start):
        carry, image, weight = start

        def step(carry, _):
            viewmat, state = carry
            (loss, pairs), gradient = gradient_of(viewmat, image, weight)
            update, state = adam.update(gradient, state)
            moved = retract(viewmat, cast(jax.Array, update), centre, radius, descent.pivot)
            return (moved, state), (viewmat, loss, pairs)

        (viewmat, state), walked = jax.lax.scan(step, carry, length=steps)
        return (orthonormalised(viewmat), state), walked

    carry, walked = replicated(sharded_map(one, (carry, images, weights)))
    path, losses, pairs = jax.tree.map(lambda values: jnp.swapaxes(values, 0, 1), walked)
    return carry, path, losses, jnp.max(pairs)


def solve(
    model: NormalObject,
    images: np.ndarray,
    initial: np.ndarray,
    settings: AdamConfig,
    sample: Sampler,
    on_step: Callable[[int], object],
) -> Inversion:
    """See `igspad_jax.invert.invert`."""
    count = len(images)
    plain = plain_exposures(initial)
    chosen = np.zeros(count, int)
    if initial.shape[1] > 1:
        renders, outlines = model.renders(initial), model.outlines(initial)
        chosen = np.argmin(model.residuals(images[:, None], renders, outlines), axis=1)
    descent = Descent(
        settings.rate,
        settings.late_rate,
        settings.late_step,
        settings.pivot,
        settings.gradient,
    )
    viewmats = jnp.asarray(initial[np.arange(count), chosen], jnp.float32)
    # The counts of steps in the optimiser's states run through all segments.
    carry = (viewmats, jax.vmap(optimiser(descent).init)(jnp.zeros((count, 6))))
    constants = (model.K, model.background, model.centre, model.radius)
    refresh = settings.sampling_refresh
    path, losses, sampled, done = [], [], [], 0
    while done < settings.steps:
        weights = sample(np.asarray(carry[0]))
        sampled.append(weights.mean(axis=(1, 2)))
        steps = min(refresh, settings.steps - done)

        def advanced(slots, carry=carry, weights=weights, steps=steps):
            return descend(
                carry, model.gaussians, jnp.asarray(images, jnp.float32), jnp.asarray(weights),
                *constants,
                descent=descent, steps=steps, sh_degree=model.gaussians.sh_degree, capacity=slots,
            )  # fmt: skip

        carry, walked, lost, _ = model.capacity.run(advanced, lambda result: result[3])
        carry = to_first_device(carry)
        path.append(np.asarray(walked))
        losses.append(np.asarray(lost))
        done += steps
        on_step(steps)
    viewmats = np.asarray(carry[0])
    path = np.swapaxes(np.concatenate([*path, viewmats[None]]), 0, 1)
    late = pose_errors(
        path[:, -1 - max(1, settings.steps // 10)], viewmats, np.asarray(model.centre)
    )
    exposures = plain[:, 0]
    renders = model.renders(viewmats)
    return Inversion(
        viewmats=viewmats,
        exposures=exposures,
        path=path,
        losses=np.concatenate([*losses, np.full((1, count), np.nan, np.float32)]).T,
        chosen=chosen,
        renders=renders,
        residuals=model.residuals(images, renders, model.outlines(viewmats)),
        covariances=np.full((count, 6, 6), np.nan),
        settled=(late[0] < _AT_REST) & (late[1] < _AT_REST),
        sampled=np.stack(sampled, axis=1),
    )
