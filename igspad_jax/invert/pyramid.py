"""From coarse to fine: levels of Levenberg-Marquardt steps, each with fewer hypotheses."""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.cameras import pose_errors
from igspad_jax.devices import to_first_device
from igspad_jax.invert import levenberg
from igspad_jax.invert.equations import Problem
from igspad_jax.invert.inversion import Inversion, Sampler
from igspad_jax.invert.poses import plain_exposures, retract
from igspad_jax.normal_object import Level, NormalObject
from igspad_jax.settings import LevenbergConfig

_SAME = 2.0  # degrees and per cent within which two poses are one hypothesis


class _Hypotheses(NamedTuple):
    """k hypotheses about each of n images.

    Attributes:
        viewmats: [n, k, 4, 4].
        exposures: [n, k, 2].
        path: [n, k, steps + 1, 4, 4] poses from the start on.
        losses: [n, k, steps + 1] robust differences there; none yet before the first step.
        chosen: [n, k] given hypothesis that each comes from.
    """

    viewmats: np.ndarray
    exposures: np.ndarray
    path: np.ndarray
    losses: np.ndarray
    chosen: np.ndarray


class _Scores(NamedTuple):
    """Measures of the n x k hypotheses after a level.

    Attributes:
        costs: [n, k] robust differences.
        covariances: [n, k, 6, 6].
        settled: [n, k] whether they converged.
        sampled: [n] share of the image that counted, mean over the hypotheses.
    """

    costs: np.ndarray
    covariances: np.ndarray
    settled: np.ndarray
    sampled: np.ndarray


def solve(
    model: NormalObject,
    images: np.ndarray,
    initial: np.ndarray,
    settings: LevenbergConfig,
    sample: Sampler,
    on_step: Callable[[int], object],
) -> Inversion:
    """See `igspad_jax.invert.invert`."""
    images = np.asarray(images, np.float32)
    given = _given(np.asarray(initial, np.float32))
    hypotheses = _with_turned(model, given, settings.extra_turn)
    sampled = []
    for level in range(len(settings)):
        if level and level == settings.readmit_level:
            hypotheses = _readmitted(hypotheses, given)
        hypotheses, scores = _refined(model, images, hypotheses, settings, level, sample)
        sampled.append(scores.sampled)
        kept = _best_apart(
            scores.costs,
            hypotheses.viewmats,
            settings.hypotheses_kept[level],
            np.asarray(model.centre),
        )
        hypotheses = _Hypotheses(*(_take(values, kept) for values in hypotheses))
        on_step(settings.steps[level])
    viewmats, exposures = hypotheses.viewmats[:, 0], hypotheses.exposures[:, 0]
    renders = model.renders(viewmats, exposures)
    return Inversion(
        viewmats=viewmats,
        exposures=exposures,
        path=hypotheses.path[:, 0],
        losses=hypotheses.losses[:, 0],
        chosen=hypotheses.chosen[:, 0],
        renders=renders,
        residuals=model.residuals(images, renders, model.outlines(viewmats)),
        covariances=_take(scores.covariances, kept)[:, 0],
        settled=_take(scores.settled, kept)[:, 0],
        sampled=np.stack(sampled, axis=1),
    )


def _refined(
    model: NormalObject,
    images: np.ndarray,
    hypotheses: _Hypotheses,
    settings: LevenbergConfig,
    level: int,
    sample: Sampler,
) -> tuple[_Hypotheses, _Scores]:
    """Runs a level on all hypotheses."""
    n, k = hypotheses.viewmats.shape[:2]
    # Before the first level poses are too rough to match renders at.
    weights = (
        sample(hypotheses.viewmats)
        if level
        else np.ones((n, k, model.height, model.width), np.float32)
    )
    view = model.level(settings.widths[level], settings.merge_cells[level])
    shape = (view.width, view.height)
    counting = jnp.asarray(_resized(_flat(weights), *shape))
    problem = _problem(model, view, settings, level)

    def refined(slots):
        return levenberg.refine(
            jnp.asarray(_flat(hypotheses.viewmats)),
            jnp.asarray(_flat(hypotheses.exposures)),
            jnp.repeat(jnp.asarray(_resized(images, *shape)), k, axis=0),
            counting,
            problem,
            sh_degree=view.gaussians.sh_degree,
            capacity=slots,
            blurred=settings.blurs[level] > 0.0,
            with_exposure=settings.exposure,
            longest=max(settings.steps),
        )

    def unflat(values):
        return np.asarray(values).reshape(n, k, *np.shape(values)[1:])

    state = to_first_device(view.capacity.run(refined, lambda result: result.pairs))
    poses, steps = state.poses, settings.steps[level]
    counted = 3.0 * jnp.sum(counting, axis=(1, 2))
    walked = unflat(state.path)[:, :, 1 : steps + 1]
    # Every level measures in its own way; the first one also where it starts.
    costs = unflat(state.costs)[:, :, min(level, 1) : steps + 1]
    after = _Hypotheses(
        viewmats=unflat(poses.viewmats),
        exposures=unflat(poses.exposures),
        path=np.concatenate([hypotheses.path, walked], axis=2),
        losses=np.concatenate([hypotheses.losses, costs], axis=2),
        chosen=hypotheses.chosen,
    )
    scores = _Scores(
        costs=unflat(poses.cost),
        covariances=unflat(levenberg.covariances(poses.gram, counted)),
        settled=unflat(~poses.active),
        sampled=weights.mean(axis=(1, 2, 3)),
    )
    return after, scores


def _problem(model: NormalObject, view: Level, settings: LevenbergConfig, level: int) -> Problem:
    return Problem(
        gaussians=view.gaussians,
        K=view.K,
        background=model.background,
        centre=model.centre,
        radius=model.radius,
        splat_blur=jnp.float32(view.splat_blur),
        blur=jnp.float32(settings.blurs[level]),
        delta=jnp.float32(settings.deltas[level]),
        damping=jnp.float32(settings.damping),
        translation_penalty=jnp.float32(settings.translation_penalties[level]),
        steps=jnp.int32(settings.steps[level]),
        tolerance=jnp.float32(settings.tolerance),
    )


def _given(viewmats: np.ndarray) -> _Hypotheses:
    """The [n, k, 4, 4] hypotheses that the caller gave."""
    n, k = viewmats.shape[:2]
    return _Hypotheses(
        viewmats=viewmats,
        exposures=plain_exposures(viewmats),
        path=viewmats[:, :, None],
        losses=np.zeros((n, k, 0), np.float32),
        chosen=np.tile(np.arange(k), (n, 1)),
    )


def _with_turned(model: NormalObject, given: _Hypotheses, degrees: float) -> _Hypotheses:
    """Add the first hypothesis turned about the object to the left, right, up and down."""
    if not degrees:
        return given
    turns = np.radians(degrees) * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)
    turned = np.asarray(_turned(given.viewmats[:, 0], turns, model.centre, model.radius))
    return _joined(given, _given(turned)._replace(chosen=np.zeros(turned.shape[:2], int)))


@jax.jit
def _turned(viewmats, turns, centre, radius):
    """[n, k, 4, 4] of [n, 4, 4] poses turned about the object by [k, 2] angles about x and y."""

    def turned(viewmat, turn):
        return retract(viewmat, jnp.pad(turn, (3, 1)), centre, radius, "object")

    return jax.vmap(jax.vmap(turned, (None, 0)), (0, None))(viewmats, turns)


def _readmitted(hypotheses: _Hypotheses, given: _Hypotheses) -> _Hypotheses:
    """Add the first given hypothesis as it was given; its path so far is that one pose."""
    first = _Hypotheses(*(values[:, :1] for values in given))
    path = np.repeat(first.path, hypotheses.path.shape[2], axis=2)
    losses = np.full((*first.chosen.shape, hypotheses.losses.shape[2]), np.nan, np.float32)
    return _joined(hypotheses, first._replace(path=path, losses=losses))


def _joined(hypotheses: _Hypotheses, others: _Hypotheses) -> _Hypotheses:
    return _Hypotheses(
        *(np.concatenate(pair, axis=1) for pair in zip(hypotheses, others, strict=True))
    )


def _take(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """[n, count, ...] of [n, k, ...] values, by [n, count] indices."""
    return np.take_along_axis(values, kept.reshape(*kept.shape, *[1] * (values.ndim - 2)), axis=1)


def _resized(pictures: np.ndarray, width: int, height: int) -> np.ndarray:
    """[n, H, W, ...] float32 pictures, shrunk by averaging areas."""
    if pictures.shape[1:3] == (height, width):
        return pictures
    size = (width, height)
    return np.stack([cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in pictures])


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, *values.shape[2:])


def _best_apart(
    costs: np.ndarray, viewmats: np.ndarray, count: int, centre: np.ndarray
) -> np.ndarray:
    """[n, count] hypotheses to go on with: the best ones that are not the same pose again.

    Args:
        costs: [n, k].
        viewmats: [n, k, 4, 4].
        count: how many; all k if there are no more.
        centre: [3] the object's centre.
    """
    kept = []
    for cost, poses in zip(costs, viewmats, strict=True):
        order = list(np.argsort(cost, kind="stable"))
        apart: list[int] = []
        for i in order:
            degrees, percent = pose_errors(poses[i], poses[apart], centre)
            if len(apart) < count and np.all((degrees > _SAME) | (percent > _SAME)):
                apart.append(i)
        again = [i for i in order if i not in apart]
        kept.append((apart + again)[:count])
    return np.array(kept)
