"""First guesses of a query's camera.

The paper's rule is `most_matched`: the pose of the training image with the most verified matches.
`initial_poses` is photometric retrieval, its views judged by one robust criterion.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from igspad_jax.cameras import pose_errors
from igspad_jax.errors import InputError
from igspad_jax.match.matching import Matcher, Matches, check_images, no_matches
from igspad_jax.match.retrieval import Candidate, TrainingViews, refine, retrieve
from igspad_jax.match.similarity import (
    make_similarity,
    scale_and_angle,
    viewmat_from_similarity,
)
from igspad_jax.match.turning import Turns, turned_back

_SAME_MODE = 25.0  # degrees within which poses are guesses at the same view
_SHARPNESS = 0.2  # relative excess of disagreement at which a view's weight falls to 1/e


@dataclass(frozen=True)
class PoseHypothesis:
    """A guess at the query's camera.

    Attributes:
        viewmat: [4, 4].
        score: higher is better; comparable among hypotheses of one call only. The number of
            verified matches for `most_matched`, that of agreeing points for `pnp_poses` and
            landmarks, a
            photometric agreement in [0, 1] for `initial_poses`.
        source: "landmarks", "matches", "pnp", "view" (one training view, moved in the plane) or
            "blend" (the mean of the neighbouring views' guesses).
        training_view: index of the training view it rests on most.
        rotation_deg: in-plane rotation from that view to the query, in degrees from x towards y.
        sigmas: standard deviations in degrees, and in per cent of the camera's distance to the
            object; NaN where they are not known.
    """

    viewmat: np.ndarray
    score: float
    source: str
    training_view: int
    rotation_deg: float
    sigmas: tuple[float, float] = (math.nan, math.nan)


def check_query(query: np.ndarray, views: TrainingViews) -> np.ndarray:
    """Returns `query` as float32 [H, W, 3].

    Raises:
        InputError: it is no image, or of another size than the training images.
    """
    query = check_images(np.asarray(query)[None], "query image")[0]
    if query.shape[:2] != views.shape:
        raise InputError(
            f"query image: {query.shape[1]}x{query.shape[0]} pixels, the training images have "
            f"{views.shape[1]}x{views.shape[0]}; resize it to the same size"
        )
    return query


def match_views(
    query: np.ndarray, matcher: Matcher, references: Sequence[Any], turns: Turns
) -> list[tuple[Matches, float]]:
    """Matches a query against training images, turned to be upright where the matcher needs it.

    Args:
        query: [H, W, 3] in [0, 1].
        matcher: the matcher.
        references: `matcher.prepare` of the training images.
        turns: the training images to try, and how each is turned in the query; the others count
            as without a match.

    Returns:
        Per training image the matches, in pixels of the query as given, and its turn.
    """
    chosen_at: dict[float, list[int]] = {}
    for view, degrees in turns.items():
        chosen_at.setdefault(0.0 if matcher.rotation_invariant else degrees, []).append(view)
    matched = [(no_matches(), 0.0)] * len(references)
    for degrees, chosen in sorted(chosen_at.items()):
        upright, back = turned_back(query, degrees)
        found = matcher.match(matcher.prepare(upright[None]), [references[v] for v in chosen])
        for view, matches in zip(chosen, found, strict=True):
            points = matches.query_points @ back[:, :2].T + back[:, 2]
            matched[view] = (replace(matches, query_points=points), turns[view])
    return matched


def views_with_most(matched: list[tuple[Matches, float]], count: int) -> list[int]:
    """Indices of the views with most matches, most first; none without a match, `count` at most."""
    order = sorted(range(len(matched)), key=lambda i: -len(matched[i][0]))
    return [view for view in order[:count] if len(matched[view][0])]


def most_matched(
    query: np.ndarray,
    views: TrainingViews,
    matcher: Matcher,
    references: Sequence[Any],
    turns: Turns,
    count: int = 1,
) -> list[PoseHypothesis]:
    """The paper's rule: the poses of the training images with most verified matches.

    The paper says nothing of in-plane turns; here a pose is turned about its optical axis as its
    image was for matching.

    Args:
        query: [H, W, 3] in [0, 1].
        views: the prepared training views.
        matcher: the matcher.
        references: `matcher.prepare` of the training images, in the order of `views`.
        turns: as for `match_views`; the paper tries `all_views`.
        count: number of hypotheses at most.

    Returns:
        Hypotheses, most matches first. Views without a match are left out, so the list may be
        empty.
    """
    check_query(query, views)
    matched = match_views(query, matcher, references, turns)
    hypotheses = []
    middle = views.K[:2, 2]
    for view in views_with_most(matched, count):
        matches, degrees = matched[view]
        turn = make_similarity(1.0, np.radians(degrees), middle, middle)
        viewmat = viewmat_from_similarity(views.viewmats[view], views.K, turn, views.centre)
        hypotheses.append(PoseHypothesis(viewmat, float(len(matches)), "matches", view, degrees))
    return hypotheses


def look_up(query: np.ndarray, views: TrainingViews) -> list[Candidate]:
    """The training views that look like a query, aligned with it in the plane, best first.

    Args:
        query: [H, W, 3] in [0, 1], of the training images' size.
        views: the prepared training views.

    Raises:
        InputError: a query of another shape than the training images.
    """
    query = check_query(query, views)
    return refine(query, views, retrieve(query, views))


def initial_poses(
    candidates: list[Candidate], views: TrainingViews, count: int = 3
) -> list[PoseHypothesis]:
    """Photometric first guesses.

    Guesses within 25 degrees of the best are averaged, weighted by how well they agree, for the
    true view lies between the training views; this blend comes first. Then follow, by agreement,
    the single views it was made of and the like blends of more distant guesses.

    Args:
        candidates: of `look_up`.
        views: the prepared training views.
        count: number of hypotheses at most.

    Returns:
        At least one hypothesis, the one to try first in front.
    """
    singles = [_single(candidate, views) for candidate in candidates]
    members, left = _split_mode(singles, views.centre)
    first, others = _blend(members, views.centre), members
    while left:
        members, left = _split_mode(left, views.centre)
        others.append(_blend(members, views.centre))
    return [first, *sorted(others, key=lambda h: -h.score)][:count]


def _single(candidate: Candidate, views: TrainingViews) -> PoseHypothesis:
    viewmat = viewmat_from_similarity(
        views.viewmats[candidate.view], views.K, candidate.similarity, views.centre
    )
    degrees = float(np.degrees(scale_and_angle(candidate.similarity)[1]))
    return PoseHypothesis(viewmat, candidate.agreement, "view", candidate.view, degrees)


def _split_mode(
    hypotheses: list[PoseHypothesis], centre: np.ndarray
) -> tuple[list[PoseHypothesis], list[PoseHypothesis]]:
    """Splits guesses, best first, into those near the best one and the rest."""
    poses = np.stack([h.viewmat for h in hypotheses])
    near = pose_errors(poses, hypotheses[0].viewmat, centre)[0] < _SAME_MODE
    pairs = list(zip(hypotheses, near, strict=True))
    return [h for h, n in pairs if n], [h for h, n in pairs if not n]


def _blend(members: list[PoseHypothesis], centre: np.ndarray) -> PoseHypothesis:
    """The weighted mean of guesses, best first; the object's centre keeps its mean place."""
    loss = np.array([1.0 - h.score for h in members])
    weights = np.exp(-(loss / max(loss[0], 1e-6) - 1.0) / _SHARPNESS)
    weights /= weights.sum()
    rotations = np.stack([h.viewmat[:3, :3] for h in members])
    seen = np.stack([h.viewmat[:3, :3] @ centre + h.viewmat[:3, 3] for h in members])
    viewmat = np.eye(4)
    viewmat[:3, :3] = Rotation.from_matrix(rotations).mean(weights).as_matrix()
    viewmat[:3, 3] = weights @ seen - viewmat[:3, :3] @ centre
    best = members[0]
    return PoseHypothesis(viewmat, best.score, "blend", best.training_view, best.rotation_deg)
