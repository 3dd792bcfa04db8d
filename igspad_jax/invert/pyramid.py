"""From coarse to fine: levels of Levenberg-Marquardt steps, each with fewer hypotheses."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from igspad_jax.cameras import pose_errors
from igspad_jax.invert import levenberg
from igspad_jax.invert.config import Inversion, LevenbergConfig, Sampler
from igspad_jax.invert.model import ObjectModel, resized
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
    images32 = np.asarray(images, np.float32)
    viewmats, exposures = np.asarray(initial, np.float32), plain_exposures(initial)
    chosen = np.tile(np.arange(initial.shape[1]), (count, 1))
    costs, paths, losses, sampled = None, [viewmats[:, :, None]], [], []
    state = None
    for level in range(len(settings)):
        keep = min(settings.keep[level], viewmats.shape[1])
        kept = _best_apart(costs, viewmats, keep, np.asarray(model.centre))

        def take(values, kept=kept):
            return np.take_along_axis(
                values, kept.reshape(*kept.shape, *[1] * (values.ndim - 2)), axis=1
            )

        viewmats, exposures, chosen = take(viewmats), take(exposures), take(chosen)
        paths, losses = [take(p) for p in paths], [take(x) for x in losses]
        weights = sample(viewmats) if level else np.ones((count, keep, *images.shape[1:3]))
        sampled.append(weights.mean(axis=(1, 2, 3)))
        view = model.view(settings.widths[level], settings.cells[level])
        shape = (view.width, view.height)
        problem = levenberg.Problem(
            gaussians=view.gaussians,
            images=jnp.repeat(jnp.asarray(resized(images32, *shape)), keep, axis=0),
            weights=jnp.asarray(resized(_flat(weights).astype(np.float32), *shape)),
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

        def unflat(values, keep=keep):
            return np.asarray(values).reshape(count, keep, *np.shape(values)[1:])

        viewmats, exposures = unflat(state.poses.viewmats), unflat(state.poses.exposures)
        costs = unflat(state.poses.cost)
        walked, lost = _trace(state, settings.steps[level])
        paths.append(unflat(walked)[:, :, 1:])
        losses.append(unflat(lost)[:, :, 0 if level == 0 else 1 :])
        on_step(settings.steps[level])

    best = np.argmin(costs, axis=1)
    rows = np.arange(count)
    flat = rows * viewmats.shape[1] + best
    counted = 3.0 * np.asarray(problem.weights).sum(axis=(1, 2))
    covariances = levenberg.covariances(state.poses.gram, jnp.asarray(counted))
    final, light = viewmats[rows, best], exposures[rows, best]
    return Inversion(
        viewmats=final,
        exposures=light,
        path=np.concatenate([p[rows, best] for p in paths], axis=1),
        losses=np.concatenate([x[rows, best] for x in losses], axis=1),
        chosen=chosen[rows, best],
        residuals=residuals_at(model, images, final[:, None], light[:, None])[:, 0],
        covariances=np.asarray(covariances)[flat],
        settled=~np.asarray(state.poses.active)[flat],
        sampled=np.stack(sampled, axis=1),
    )


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, *values.shape[2:])


def _trace(state: levenberg.Refined, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """[m, steps + 1, 4, 4] poses and [m, steps + 1] costs, the last ones repeated to the end."""
    place = np.minimum(np.arange(steps + 1), int(state.taken))
    path, costs = np.asarray(state.path)[place], np.asarray(state.costs)[place]
    return np.swapaxes(path, 0, 1), costs.T


def _best_apart(
    costs: np.ndarray | None, viewmats: np.ndarray, keep: int, centre: np.ndarray
) -> np.ndarray:
    """[n, keep] hypotheses to go on with: the best ones that are not the same pose again.

    Args:
        costs: [n, k]; None keeps the first ones.
        viewmats: [n, k, 4, 4].
        keep: how many.
        centre: [3] the object's centre.
    """
    count, hypotheses = viewmats.shape[:2]
    if costs is None or keep == hypotheses:
        return np.tile(np.arange(keep), (count, 1))
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
