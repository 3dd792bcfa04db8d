"""First guesses of a query's camera by PnP: matched points, lifted to the scene's surface.

Ke and Roumeliotis' P3P (CVPR 2017) within RANSAC, then least squares on the inliers.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from igspad_jax.cameras import pose_errors
from igspad_jax.errors import InputError
from igspad_jax.match.initial import (
    PoseHypothesis,
    check_query,
    match_views,
    views_with_most,
)
from igspad_jax.match.matching import Matcher, Matches
from igspad_jax.match.retrieval import TrainingViews
from igspad_jax.match.turning import Turns

_VIEWS = 8  # best-matched views whose points are lifted
_LEAST = 6  # inliers of a pose; three points fit some pose exactly
_TOLERANCE = 0.015  # reprojection error of an inlier, as a share of the image's longer side
_HALVINGS = 2  # refinements, each on the inliers of half the tolerance before
_COVERED = 0.9  # coverage of a surface
_STEEPEST = 10.0  # depth that a surface gains per width of a pixel, in such widths
# Poses this near are one guess; a turn about the object by the one moves a camera by the other.
_SAME_DEGREES, _SAME_PERCENT = 5.0, 8.7

DepthOf = Callable[[int], tuple[np.ndarray, np.ndarray]]


class _Pairs(NamedTuple):
    """Points of the scene and where the query shows them.

    Attributes:
        world: [m, 3] points in the world.
        points: [m, 2] x, y in pixels of the query.
        views: [m] training view that each was lifted from.
    """

    world: np.ndarray
    points: np.ndarray
    views: np.ndarray


def lift(
    points: np.ndarray, depth: np.ndarray, alpha: np.ndarray, viewmat: np.ndarray, K: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lifts pixels to the world through a rendered depth.

    Depth is interpolated between four pixels. At silhouettes, where these lie on different
    surfaces, it would be that of a point in between, on none of them.

    Args:
        points: [m, 2] x, y in pixels; pixel centres at +0.5.
        depth: [H, W] camera-space z, 0 where nothing is.
        alpha: [H, W] coverage.
        viewmat: [4, 4] of the render.
        K: [3, 3] intrinsics of the render.

    Returns:
        [m, 3] world points, and [m] whether they lie on a surface: all four pixels covered, and
        no steeper change of depth than on a surface seen at a grazing angle. The other points
        are not to be used.
    """
    height, width = depth.shape
    corner = np.floor(points - 0.5).astype(int)
    right, below = (points - 0.5 - corner).T
    x = np.clip(corner[:, :1] + np.array([0, 1, 0, 1]), 0, width - 1)
    y = np.clip(corner[:, 1:] + np.array([0, 0, 1, 1]), 0, height - 1)
    weights = np.stack(
        [(1 - right) * (1 - below), right * (1 - below), (1 - right) * below, right * below], axis=1
    )
    around = depth[y, x].astype(np.float64)
    z = np.sum(weights * around, axis=1)
    rays = np.column_stack([points, np.ones(len(points))]) @ np.linalg.inv(K).T
    world = (rays * z[:, None] - viewmat[:3, 3]) @ viewmat[:3, :3]
    covered = (alpha[y, x] > _COVERED).all(axis=1)
    smooth = np.ptp(around, axis=1) < _STEEPEST * z / K[0, 0]
    return world, covered & smooth


def pnp_poses(
    query: np.ndarray,
    views: TrainingViews,
    matcher: Matcher,
    references: Sequence[Any],
    depth_of: DepthOf,
    turns: Turns,
    count: int = 3,
) -> list[PoseHypothesis]:
    """Poses under which matched points of the scene's surface appear where the query shows them.

    The matched points of the best-matched training views are lifted to the surface. One pose is
    solved for from all of them together and one from those of each view; of nearly equal poses
    the one with more inliers stays. The same query always gives the same poses.

    Args:
        query: [H, W, 3] in [0, 1], of the training images' size.
        views: the prepared training views.
        matcher: the matcher.
        references: `matcher.prepare` of the training images, in the order of `views`.
        depth_of: gives the [H, W] depth and the [H, W] coverage of the scene rendered at a
            training view, by its index. Called for few views a query and for the same ones
            again by other queries, so worth remembering.
        turns: as for `match_views`.
        count: number of hypotheses at most.

    Returns:
        Hypotheses of source "pnp", best first; the score is the number of the query's points that
        agree with the pose. Empty where no pose has six of them and the object in front.

    Raises:
        InputError: a query or a depth of another shape than the training images.
    """
    query = check_query(query, views)
    matched = match_views(query, matcher, references, turns)
    lifted = [
        _lifted(matched[view][0], view, views, *depth_of(view))
        for view in views_with_most(matched, _VIEWS)
    ]
    if not lifted:
        return []
    pooled = _Pairs(*(np.concatenate(arrays) for arrays in zip(*lifted, strict=True)))
    found = [_hypothesis(pairs, views) for pairs in (pooled, *lifted)]
    # Stable, so that the pooled pose precedes one with as many inliers.
    ranked = sorted((h for h in found if h is not None), key=lambda h: -h.score)
    kept: list[PoseHypothesis] = []
    for hypothesis in ranked:
        if not any(_same(hypothesis, other, views.centre) for other in kept):
            kept.append(hypothesis)
    return kept[:count]


def _lifted(
    matches: Matches, view: int, views: TrainingViews, depth: np.ndarray, alpha: np.ndarray
) -> _Pairs:
    """The matches with one training view whose points there lie on a surface."""
    if depth.shape != views.shape or alpha.shape != views.shape:
        raise InputError(
            f"training view {view}: its depth and coverage have shapes {depth.shape} and "
            f"{alpha.shape}, its image has {views.shape}; render them at the images' size"
        )
    world, sure = lift(matches.reference_points, depth, alpha, views.viewmats[view], views.K)
    return _Pairs(world[sure], matches.query_points[sure], np.full(sure.sum(), view))


def _hypothesis(pairs: _Pairs, views: TrainingViews) -> PoseHypothesis | None:
    tolerance = _TOLERANCE * max(views.shape)
    viewmat = _solve(pairs, views.K, tolerance)
    if viewmat is None or viewmat[2, :3] @ views.centre + viewmat[2, 3] <= 0.0:
        return None
    inliers = _agreeing(pairs, viewmat, views.K, tolerance)
    # A point of the query that several views have matched is still one point.
    score = len(np.unique(pairs.points[inliers].round(2), axis=0))
    if score < _LEAST:
        return None
    view = int(np.bincount(pairs.views[inliers]).argmax())
    turn = viewmat[:3, :3] @ views.viewmats[view, :3, :3].T
    degrees = np.degrees(np.arctan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1]))
    return PoseHypothesis(viewmat, float(score), "pnp", view, float(degrees))


def _solve(pairs: _Pairs, K: np.ndarray, tolerance: float) -> np.ndarray | None:
    """[4, 4] viewmat that most pairs agree with, or None where fewer than six do."""
    if len(pairs.world) < _LEAST:
        return None
    # Samples of four points, drawn from a generator of its own that always starts the same.
    solved, rotation, translation, chosen = cv2.solvePnPRansac(
        pairs.world,
        pairs.points,
        K,
        None,
        iterationsCount=2000,
        reprojectionError=tolerance,
        confidence=0.999,
        flags=cv2.SOLVEPNP_AP3P,
    )
    if not solved:
        return None
    inliers = np.isin(np.arange(len(pairs.world)), chosen)
    viewmat = None
    for halving in range(_HALVINGS + 1):
        if inliers.sum() < _LEAST:
            break
        rotation, translation = cv2.solvePnPRefineLM(
            pairs.world[inliers], pairs.points[inliers], K, None, rotation, translation
        )
        viewmat = np.eye(4)
        viewmat[:3, :3] = cv2.Rodrigues(rotation)[0]
        viewmat[:3, 3] = translation.ravel()
        inliers = _agreeing(pairs, viewmat, K, tolerance / 2 ** (halving + 1))
    return viewmat


def _agreeing(pairs: _Pairs, viewmat: np.ndarray, K: np.ndarray, tolerance: float) -> np.ndarray:
    """[m] whether points appear, in front of the camera, within `tolerance` pixels."""
    seen = (pairs.world @ viewmat[:3, :3].T + viewmat[:3, 3]) @ K.T
    front = seen[:, 2] > 0.0
    offset = seen[:, :2] / np.where(front, seen[:, 2], 1.0)[:, None] - pairs.points
    return front & (np.linalg.norm(offset, axis=1) <= tolerance)


def _same(a: PoseHypothesis, b: PoseHypothesis, centre: np.ndarray) -> bool:
    degrees, percent = pose_errors(a.viewmat, b.viewmat, centre)
    return bool(degrees < _SAME_DEGREES and percent < _SAME_PERCENT)
