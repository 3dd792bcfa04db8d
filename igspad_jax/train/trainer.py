"""Training a scene: the loop, in jitted segments, with the host's work between them."""

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from igspad_jax.cameras import Camera
from igspad_jax.devices import replicated, sharded_map, to_first_device
from igspad_jax.progress import progress_bar
from igspad_jax.render import Capacity, render
from igspad_jax.scene import Gaussians
from igspad_jax.settings import TrainConfig
from igspad_jax.train.losses import photometric_loss, psnr, ssim
from igspad_jax.train.optimiser import forget, make_optimiser
from igspad_jax.train.relocation import relocate

_LARGEST = 0.1  # scale of a Gaussian over its distance from the object, where that is bounded


class TrainState(struct.PyTreeNode):
    """All that changes during training.

    Attributes:
        gaussians: the scene.
        opt_state: the optimiser's state.
        step: [] steps done.
    """

    gaussians: Gaussians
    opt_state: optax.OptState
    step: jax.Array


class Views(struct.PyTreeNode):
    """Images with cameras.

    Attributes:
        images: [n, H, W, 3] in [0, 1].
        viewmats: [n, 4, 4].
        K: [3, 3].
        background: [3] RGB.
        shown: bool [n, H, W], False where an image does not reach; None where all do.
        ball: [4] centre and radius of the ball that holds the object, where the images show its
            surroundings too: Gaussians are kept small by their distance from it.
    """

    images: jax.Array
    viewmats: jax.Array
    K: jax.Array
    background: jax.Array
    shown: jax.Array | None = None
    ball: jax.Array | None = None

    def camera(self, viewmat: jax.Array) -> Camera:
        """The camera of one view."""
        height, width = self.images.shape[1:3]
        return Camera(viewmat, self.K, width, height)

    def halved(self) -> "Views":
        """The views at half the width; of an odd one the last row or column is left out."""
        height, width = (size // 2 * 2 for size in self.images.shape[1:3])

        def means(values: jax.Array) -> jax.Array:
            cut = values[:, :height, :width]
            return cut.reshape(len(cut), height // 2, 2, width // 2, 2, -1).mean(axis=(2, 4))

        shown = None if self.shown is None else means(self.shown.astype(jnp.float32))[..., 0] > 0.99
        K = self.K * jnp.array([[0.5], [0.5], [1.0]])
        return self.replace(images=means(self.images), shown=shown, K=K)

    def target(self, index: jax.Array, render: jax.Array) -> jax.Array:
        """[H, W, 3] what a render [H, W, 3] of a view should be: itself where nothing is shown."""
        if self.shown is None:
            return self.images[index]
        return jnp.where(
            self.shown[index][..., None], self.images[index], jax.lax.stop_gradient(render)
        )


def _bounded(gaussians: Gaussians, ball: jax.Array) -> Gaussians:
    """Gaussians no larger than a share of their distance from a ball's centre, or of its radius.

    Large ones near the object would be fog before its surroundings.
    """
    away = jnp.linalg.norm(gaussians.means - ball[:3], axis=1)
    largest = jnp.log(_LARGEST * jnp.maximum(away, ball[3]))
    return gaussians.replace(log_scales=jnp.minimum(gaussians.log_scales, largest[:, None]))


def optimiser_of(config: TrainConfig, radius: float) -> optax.GradientTransformation:
    """The optimiser a configuration asks for."""
    return make_optimiser(
        config.rates,
        steps=config.steps,
        radius=radius,
        sh_degree=config.sh_degree,
        sh_every=config.sh_every,
    )


def initial_state(gaussians: Gaussians, config: TrainConfig, radius: float) -> TrainState:
    """The state before the first step."""
    opt_state = optimiser_of(config, radius).init(cast(Any, gaussians))
    return TrainState(gaussians=gaussians, opt_state=opt_state, step=jnp.int32(0))


def view_order(seed: int, first: int, last: int, views: int) -> np.ndarray:
    """Views `first` to `last` of a training: every epoch has a permutation of its own."""
    steps = np.arange(first, last)
    epochs = steps // views
    orders = {int(e): np.random.default_rng([seed, int(e)]).permutation(views) for e in set(epochs)}
    return np.array([orders[int(e)][s % views] for e, s in zip(epochs, steps, strict=True)])


@functools.partial(jax.jit, static_argnames=("config", "radius", "capacity"))
def segment(
    state: TrainState,
    views: Views,
    order: jax.Array | np.ndarray,
    *,
    config: TrainConfig,
    radius: float,
    capacity: int,
) -> tuple[TrainState, jax.Array, jax.Array]:
    """Runs the steps whose views are in `order` [steps, batch], in one compiled program.

    Args:
        state: before the first of them.
        views: training images and cameras.
        order: int32 [steps, batch] indices of the views.
        config: see `TrainConfig`.
        radius: the scene's radius in world units.
        capacity: as for `render`.

    Returns:
        The state, the mean loss, and the slots the renders asked for at most.
    """
    optimiser = optimiser_of(config, radius)

    def loss_of(gaussians, views, index):
        result = render(
            gaussians,
            views.camera(views.viewmats[index]),
            views.background,
            sh_degree=config.sh_degree,
            capacity=capacity,
        )
        target = views.target(index, result.colour)
        loss = photometric_loss(result.colour, target, config.dssim_weight)
        prior = config.opacity_decay * jnp.mean(gaussians.opacities)
        prior += config.scale_decay * jnp.mean(gaussians.scales) / radius
        return loss + prior, (loss, result.pairs)

    def gradient_of(gaussians, indices):
        def one(index, gaussians, views):
            return jax.grad(loss_of, has_aux=True)(gaussians, views, index)

        if config.batch == 1:  # nothing to shard: every process trains for itself
            return one(indices[0], gaussians, views)
        gradients, measured = sharded_map(one, indices, gaussians, views)
        return replicated(jax.tree.map(lambda g: jnp.mean(g, axis=0), gradients)), measured

    def step(state, indices):
        gradient, measured = gradient_of(state.gaussians, indices)
        updates, opt_state = optimiser.update(gradient, state.opt_state)
        gaussians = jax.tree.map(jnp.add, state.gaussians, updates)
        if views.ball is not None:
            gaussians = _bounded(gaussians, views.ball)
        return TrainState(gaussians, opt_state, state.step + 1), measured

    state, (losses, pairs) = jax.lax.scan(step, state, order)
    result = state, jnp.mean(losses), jnp.max(pairs)
    return result if config.batch == 1 else replicated(result)


@functools.partial(jax.jit, static_argnames=("dead_below",))
def _relocated(state: TrainState, key, *, dead_below: float) -> TrainState:
    gaussians, changed = relocate(state.gaussians, key, dead_below=dead_below)
    return state.replace(gaussians=gaussians, opt_state=forget(state.opt_state, changed))


@functools.partial(jax.jit, static_argnames=("sh_degree", "capacity"))
def _quality(gaussians, views: Views, *, sh_degree: int, capacity: int):
    def one(index):
        result = render(
            gaussians,
            views.camera(views.viewmats[index]),
            views.background,
            sh_degree=sh_degree,
            capacity=capacity,
        )
        colour = jnp.clip(result.colour, 0.0, 1.0)
        image = views.target(index, colour)
        return psnr(colour, image), ssim(colour, image), result.pairs

    return jax.lax.map(one, jnp.arange(len(views.images)))


def quality(
    gaussians: Gaussians, views: Views, *, sh_degree: int, capacity: Capacity
) -> tuple[float, float]:
    """Mean PSNR in dB and mean SSIM over views."""

    def measured(slots):
        return _quality(gaussians, views, sh_degree=sh_degree, capacity=slots)

    psnrs, ssims, _ = capacity.run(measured, lambda result: result[2])
    return float(jnp.mean(psnrs)), float(jnp.mean(ssims))


def _segment_ends(config: TrainConfig, first: int) -> Iterator[int]:
    """Step numbers at which the host takes over, up to the last one.

    All segments but the last have one length, so that the steps are compiled once.
    """
    length = math.gcd(config.relocate_every, config.evaluate_every, config.checkpoint_every)
    for step in range(first, config.steps, length):
        yield min(step + length, config.steps)


def train(
    state: TrainState,
    views: Views,
    held_out: Views | None,
    config: TrainConfig,
    radius: float,
    *,
    on_checkpoint: Callable[[TrainState, list[dict]], None] | None = None,
    history: list[dict] | None = None,
    name: str = "scene",
) -> tuple[TrainState, list[dict]]:
    """Trains from `state` to `config.steps`; the same steps whether interrupted or not.

    Args:
        state: where to start; `initial_state` or a checkpoint.
        views: training images and cameras.
        held_out: images and cameras to measure quality on, or None.
        config: see `TrainConfig`.
        radius: the scene's radius in world units.
        on_checkpoint: called with the state and the history every `checkpoint_every` steps and
            at the end.
        history: measurements so far, when resuming.
        name: what is trained, for the progress bar.

    Returns:
        The final state and the history: dicts of step, loss, psnr, ssim, seconds, cpu_seconds.
    """
    history = list(history or [])
    capacity = Capacity(4 * config.count)
    spent = history[-1] if history else {"seconds": 0.0, "cpu_seconds": 0.0}
    clock, cpu_clock = time.perf_counter(), time.process_time()
    if config.batch > 1:
        views = jax.jit(replicated)(views)  # once, not with every segment
    first = int(state.step)
    key = jax.random.key(config.seed)
    bar = progress_bar(config.steps, f"train {name}", "step", done=first)
    half = views.halved() if config.coarse else views
    for end in _segment_ends(config, first):
        begin = int(state.step)
        span = begin * config.batch, end * config.batch
        order = view_order(config.seed, *span, len(views.images)).reshape(-1, config.batch)
        shown = half if begin < config.coarse * config.steps else views

        def advanced(slots, state=state, order=order, shown=shown):
            return segment(state, shown, order, config=config, radius=radius, capacity=slots)

        state, loss, _ = to_first_device(capacity.run(advanced, lambda result: result[2]))
        if not np.isfinite(loss):
            raise FloatingPointError(f"the training loss is {loss} at step {end}")
        if end % config.relocate_every == 0 and end <= config.relocate_until * config.steps:
            state = _relocated(state, jax.random.fold_in(key, end), dead_below=config.dead_below)
        if end % config.evaluate_every == 0 or end == config.steps:
            entry = {"step": end, "loss": float(loss)}
            if held_out is not None:
                entry["psnr"], entry["ssim"] = quality(
                    state.gaussians, held_out, sh_degree=config.sh_degree, capacity=capacity
                )
            entry["seconds"] = spent["seconds"] + time.perf_counter() - clock
            entry["cpu_seconds"] = spent["cpu_seconds"] + time.process_time() - cpu_clock
            history.append(entry)
        if on_checkpoint and (end % config.checkpoint_every == 0 or end == config.steps):
            on_checkpoint(state, history)
        latest = history[-1].get("psnr") if history else None
        quality_now = "-" if latest is None else f"{latest:.2f}"
        bar.set_postfix(loss=f"{loss:.4f}", psnr=quality_now, refresh=False)
        bar.update(end - begin)
    bar.close()
    return state, history
