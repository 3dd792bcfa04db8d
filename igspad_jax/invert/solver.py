"""IGS: first-order pose inversion of a batch of images, in jitted segments of steps.

Between two segments the host matches the renders with the images anew and passes the weights of
matching point sampling to the next segment.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from igspad_jax.cameras import Camera
from igspad_jax.invert.poses import Pivot, orthonormalised, retract
from igspad_jax.invert.sampling import matching_weights
from igspad_jax.render import Capacity, render, render_views
from igspad_jax.scene import Gaussians

PointMatcher = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class InvertConfig:
    """How poses are found.

    Attributes:
        steps: optimiser steps.
        rate: learning rate, in radians and object radii.
        late_rate: learning rate from `late_step` on.
        late_step: step at which the rate drops.
        pivot: what rotations turn about: "object", or "camera" as in the paper.
        sampling: whether matching point sampling weights the loss.
        sampling_radius: k of equation 4, as a share of the image's width.
        sampling_refresh: steps after which renders are matched with the images anew.
        sampling_min_points: fewer matches than this and the whole image counts.
        batch: images inverted at once.
    """

    steps: int = 300
    rate: float = 0.01
    late_rate: float = 0.001
    late_step: int = 200
    pivot: Pivot = "object"
    sampling: bool = True
    sampling_radius: float = 0.1
    sampling_refresh: int = 100
    sampling_min_points: int = 12
    batch: int = 8


class Inversion(struct.PyTreeNode):
    """Poses of n images.

    Attributes:
        viewmats: [n, 4, 4] estimated poses.
        losses: [n, steps] loss before each step.
        sampled: [n, refreshes] share of the image that each set of weights let count.
    """

    viewmats: np.ndarray
    losses: np.ndarray
    sampled: np.ndarray


class _Descent(NamedTuple):
    """The part of an `InvertConfig` that compiled steps depend on."""

    rate: float
    late_rate: float
    late_step: int
    pivot: Pivot


@functools.partial(jax.jit, static_argnames=("descent", "steps", "sh_degree", "capacity"))
def _segment(
    carry, gaussians, images, weights, K, background, centre, radius, *,
    descent: _Descent, steps: int, sh_degree: int, capacity: int,
):  # fmt: skip
    """Runs `steps` steps of every image; returns carry, losses [steps, n], slots asked for."""
    height, width = images.shape[1:3]
    schedule = optax.piecewise_constant_schedule(
        descent.rate, {descent.late_step: descent.late_rate / descent.rate}
    )
    optimiser = optax.adam(schedule)

    def loss_of(tau, viewmat, image, weight):
        moved = retract(viewmat, tau, centre, radius, descent.pivot)
        camera = Camera(moved, K, width, height)
        result = render(gaussians, camera, background, sh_degree=sh_degree, capacity=capacity)
        difference = jnp.mean(jnp.abs(result.colour - image), axis=-1)
        return jnp.sum(difference * weight) / (width * height), result.pairs

    def step(carry, _):
        viewmats, opt_state = carry
        zero = jnp.zeros((len(viewmats), 6))
        (losses, pairs), gradient = jax.vmap(jax.value_and_grad(loss_of, has_aux=True))(
            zero, viewmats, images, weights
        )
        update, opt_state = optimiser.update(gradient, opt_state)
        viewmats = jax.vmap(lambda v, u: retract(v, u, centre, radius, descent.pivot))(
            viewmats, update
        )
        return (viewmats, opt_state), (losses, jnp.max(pairs))

    (viewmats, opt_state), (losses, pairs) = jax.lax.scan(step, carry, length=steps)
    return (orthonormalised(viewmats), opt_state), losses, jnp.max(pairs)


def invert(
    gaussians: Gaussians,
    images: np.ndarray,
    initial: np.ndarray,
    K: np.ndarray,
    background: np.ndarray,
    centre: np.ndarray,
    radius: float,
    config: InvertConfig,
    *,
    match_points: PointMatcher | None = None,
    capacity: Capacity,
    on_step: Callable[[int], object] | None = None,
) -> Inversion:
    """Estimates the poses of a batch of images by inverting the splatting.

    L = sum |I_r - I_t| W / n^2 (IGSPAD, equation 4), Adam on twists, the learning rate dropping
    once; the paper's 300 steps at 0.01 and 0.001 from step 200 are the defaults.

    Args:
        gaussians: the scene of the normal object.
        images: [n, H, W, 3] test images in [0, 1].
        initial: [n, 4, 4] viewmats to start from.
        K: [3, 3] intrinsics.
        background: [3] RGB.
        centre: [3] the object's centre in the world.
        radius: the object's radius in world units.
        config: see `InvertConfig`.
        match_points: gives the [M, 2] points of a test image that match a render, from (test
            image, render); needed with `config.sampling`.
        capacity: of the renders; grown where they ask for more.
        on_step: called with the number of steps done, for progress bars.

    Raises:
        ValueError: if sampling is on and no matcher is given.
    """
    if config.sampling and match_points is None:
        raise ValueError("matching point sampling needs `match_points`")
    count, height, width, _ = images.shape
    degree = gaussians.sh_degree

    def f32(x):
        return jnp.asarray(x, jnp.float32)

    viewmats = f32(initial)
    constants = (f32(K), f32(background), f32(centre), f32(radius))
    # The count of steps in the optimiser's state runs through all segments.
    carry = (viewmats, optax.adam(optax.constant_schedule(config.rate)).init(jnp.zeros((count, 6))))
    descent = _Descent(config.rate, config.late_rate, config.late_step, config.pivot)
    refresh = config.sampling_refresh if config.sampling else config.steps
    losses, sampled, done = [], [], 0
    weights = np.ones((count, height, width), np.float32)
    while done < config.steps:
        if config.sampling and match_points is not None:
            renders = render_views(
                gaussians, np.asarray(carry[0]), K, background,
                width=width, height=height, capacity=capacity,
            )  # fmt: skip
            for i in range(count):
                weights[i] = matching_weights(
                    match_points(images[i], renders[i]),
                    width=width,
                    height=height,
                    radius=config.sampling_radius * width,
                    min_points=config.sampling_min_points,
                )
        sampled.append(weights.mean(axis=(1, 2)))
        steps = min(refresh, config.steps - done)

        def advanced(slots, carry=carry, steps=steps):
            return _segment(
                carry, gaussians, f32(images), jnp.asarray(weights), *constants,
                descent=descent, steps=steps, sh_degree=degree, capacity=slots,
            )  # fmt: skip

        carry, segment_losses, _ = capacity.run(advanced, lambda result: result[2])
        losses.append(np.asarray(segment_losses).T)
        done += steps
        if on_step:
            on_step(steps)
    return Inversion(
        viewmats=np.asarray(carry[0]),
        losses=np.concatenate(losses, axis=1),
        sampled=np.stack(sampled, axis=1),
    )
