"""From coarse to fine: levels of Levenberg-Marquardt steps, each with fewer hypotheses."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.cameras import pose_errors
from igspad_jax.invert import levenberg
from igspad_jax.invert.config import Inversion, LevenbergConfig, Sampler
from igspad_jax.invert.model import ObjectModel, resized
from igspad_jax.invert.poses import retract
from igspad_jax.invert.residuals import plain_exposures, residuals_at

_SAME = 2.0  # degrees and per cent within which two poses are one hypothesis


def solve(
    model: ObjectModel,
    images: np.ndarray,
    initial: np.ndarray,
    settings: LevenbergConfig,
    sample: Sampler,
    on_step: Callable[[int], object],
) -> Inversion:
    """See `igspad_jax.invert.invert`."""
    count = len(images)
    images = np.asarray(images, np.float32)
    viewmats, chosen = _with_spread(model, np.asarray(initial, np.float32), settings.spread)
    exposures = plain_exposures(viewmats)
    path: np.ndarray = viewmats[:, :, None]
    losses: np.ndarray = np.zeros((*viewmats.shape[:2], 0), np.float32)
    sampled = []
    for level in range(len(settings)):
        if level and level == settings.rejoin:
            given = np.asarray(initial[:, :1], np.float32)
            viewmats, chosen = _joined(viewmats, given), np.pad(chosen, ((0, 0), (0, 1)))
            exposures = _joined(exposures, plain_exposures(given))
            path = _joined(path, np.repeat(given[:, :, None], path.shape[2], axis=2))
            losses = _joined(losses, np.full((count, 1, losses.shape[2]), np.nan, np.float32))
        hypotheses = viewmats.shape[1]
        weights = (
            sample(viewmats)
            if level
            else np.ones((*viewmats.shape[:2], model.height, model.width), np.float32)
        )
        sampled.append(weights.mean(axis=(1, 2, 3)))
        view = model.view(settings.widths[level], settings.cells[level])
        shape = (view.width, view.height)
        problem = levenberg.Problem(
            gaussians=view.gaussians,
            images=jnp.repeat(jnp.asarray(resized(images, *shape)), hypotheses, axis=0),
            weights=jnp.asarray(resized(_flat(weights), *shape)),
            K=view.K,
            background=model.background,
            centre=model.centre,
            radius=model.radius,
            **{
                name: jnp.float32(value)
                for name, value in {
                    "splat_blur": view.splat_blur,
                    "blur": settings.blurs[level],
                    "delta": settings.deltas[level],
                    "damping": settings.damping,
                    "anchor": settings.anchors[level],
                    "tolerance": settings.tolerance,
                }.items()
            },
            steps=jnp.int32(settings.steps[level]),
        )

        def refined(slots, viewmats=viewmats, exposures=exposures, problem=problem, level=level):
            return levenberg.refine(
                jnp.asarray(_flat(viewmats)),
                jnp.asarray(_flat(exposures)),
                problem,
                sh_degree=problem.gaussians.sh_degree,
                capacity=slots,
                blurred=settings.blurs[level] > 0.0,
                with_exposure=settings.exposure,
                longest=max(settings.steps),
            )

        state = view.capacity.run(refined, lambda result: result.pairs)

        unflat = functools.partial(_unflat, count=count)
        poses = state.poses
        counted = 3.0 * jnp.sum(problem.weights, axis=(1, 2))
        covariances = unflat(levenberg.covariances(poses.gram, counted))
        walked, lost = _trace(state, settings.steps[level])
        path = np.concatenate([path, unflat(walked)[:, :, 1:]], axis=2)
        losses = np.concatenate([losses, unflat(lost)[:, :, min(level, 1) :]], axis=2)
        viewmats, exposures = unflat(poses.viewmats), unflat(poses.exposures)
        kept = _best_apart(
            unflat(poses.cost), viewmats, settings.keep[level], np.asarray(model.centre)
        )

        take = functools.partial(_take, kept=kept)
        viewmats, exposures, chosen = take(viewmats), take(exposures), take(chosen)
        path, losses = take(path), take(losses)
        covariances, settled = take(covariances), take(~unflat(poses.active))
        on_step(settings.steps[level])

    return Inversion(
        viewmats=viewmats[:, 0],
        exposures=exposures[:, 0],
        path=path[:, 0],
        losses=losses[:, 0],
        chosen=chosen[:, 0],
        residuals=residuals_at(model, images, viewmats[:, :1], exposures[:, :1])[:, 0],
        covariances=covariances[:, 0],
        settled=settled[:, 0],
        sampled=np.stack(sampled, axis=1),
    )


def _with_spread(
    model: ObjectModel, initial: np.ndarray, degrees: float
) -> tuple[np.ndarray, np.ndarray]:
    """Adds the first hypothesis turned about the object, to the left, right, above and below.

    Returns:
        [n, K', 4, 4] hypotheses and [n, K'] which of the `initial` ones each comes from.
    """
    count, given = initial.shape[:2]
    chosen = np.tile(np.arange(given), (count, 1))
    if not degrees:
        return initial, chosen
    turns = np.radians(degrees) * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)
    twists = jnp.asarray(np.pad(turns, ((0, 0), (3, 1))))
    by_twist = jax.vmap(retract, (None, 0, None, None, None))
    turned = jax.vmap(by_twist, (0, None, None, None, None))(
        jnp.asarray(initial[:, 0]), twists, model.centre, model.radius, "object"
    )
    added = np.zeros((count, len(twists)), int)
    return np.concatenate([initial, turned], axis=1), np.concatenate([chosen, added], axis=1)


def _take(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """[n, keep, ...] of [n, k, ...] values, by [n, keep] indices."""
    return np.take_along_axis(values, kept.reshape(*kept.shape, *[1] * (values.ndim - 2)), axis=1)


def _joined(hypotheses: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.concatenate([hypotheses, others], axis=1)


def _unflat(values: jax.Array | np.ndarray, count: int) -> np.ndarray:
    return np.asarray(values).reshape(count, -1, *np.shape(values)[1:])


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, *values.shape[2:])


def _trace(state: levenberg.Refined, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """[m, steps + 1, 4, 4] poses and [m, steps + 1] costs, the last ones repeated to the end."""
    place = np.minimum(np.arange(steps + 1), int(state.taken))
    path, costs = np.asarray(state.path)[place], np.asarray(state.costs)[place]
    return np.swapaxes(path, 0, 1), costs.T


def _best_apart(
    costs: np.ndarray, viewmats: np.ndarray, keep: int, centre: np.ndarray
) -> np.ndarray:
    """[n, keep] hypotheses to go on with: the best ones that are not the same pose again.

    Args:
        costs: [n, k].
        viewmats: [n, k, 4, 4].
        keep: how many; all k if there are no more.
        centre: [3] the object's centre.
    """
    kept = []
    for cost, poses in zip(costs, viewmats, strict=True):
        order = list(np.argsort(cost, kind="stable"))
        apart: list[int] = []
        for i in order:
            degrees, percent = pose_errors(poses[i], poses[apart], centre)
            if len(apart) < keep and np.all((degrees > _SAME) | (percent > _SAME)):
                apart.append(i)
        again = [i for i in order if i not in apart]
        kept.append((apart + again)[:keep])
    return np.array(kept)
