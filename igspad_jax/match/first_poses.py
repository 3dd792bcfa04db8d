"""First poses of an image: ways that each propose hypotheses, all judged by one measure."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from igspad_jax.match.initial import (
    PoseHypothesis,
    check_query,
    initial_poses,
    look_up,
    most_matched,
)
from igspad_jax.match.lifting import pnp_poses
from igspad_jax.match.matching import Matcher, matched_points
from igspad_jax.match.registry import make_matcher, training_features
from igspad_jax.match.retrieval import Candidate, TrainingViews
from igspad_jax.match.turning import Turns, all_views, shortlisted
from igspad_jax.networks.weights import NO_SOURCES, Sources
from igspad_jax.normal_object import NormalObject
from igspad_jax.settings import MatchConfig

_DEPTHS_KEPT = 64  # depth maps in memory; of 800 pixels each takes 5 MB with its coverage


@dataclasses.dataclass(frozen=True, eq=False)
class Query:
    """An image whose pose is asked for.

    Attributes:
        image: [H, W, 3] in [0, 1], of the training images' size.
        views: the prepared training views.
    """

    image: np.ndarray
    views: TrainingViews

    @functools.cached_property
    def candidates(self) -> list[Candidate]:
        """The training views that look like the image, best first; looked up once."""
        return look_up(self.image, self.views)


# Proposes at most so many poses of a query, the likeliest first; none where it fails.
Way = Callable[[Query, int], list[PoseHypothesis]]


class FirstPoses:
    """Finds first poses for images.

    Attributes:
        matcher: finds matched points, for whoever needs some besides.
    """

    def __init__(
        self,
        normal_object: NormalObject,
        images: np.ndarray,
        views: TrainingViews,
        config: MatchConfig,
        sources: Sources = NO_SOURCES,
        features_folder: Path | None = None,
    ):
        """Make the ways ready that the settings ask for.

        Args:
            normal_object: whose poses are sought.
            images: [n, H, W, 3] training images in [0, 1].
            views: the same, prepared for retrieval.
            config: see `MatchConfig`; the matcher by its name, not "auto".
            sources: of weights that are not the usual ones.
            features_folder: where a network's keypoints of the training images are kept.

        Raises:
            InputError: the matcher's weights are not on this machine.
        """
        self._object, self._views, self._config = normal_object, views, config
        self.matcher: Matcher = make_matcher(config.matcher, sources)
        self._references: Sequence[Any] = ()
        if config.initial != "retrieval":
            self._references = training_features(self.matcher, images, features_folder)
        # To be asked in this order, until there are enough poses.
        self._ways: list[Way] = {
            "pnp": [self._by_lifting, self._by_retrieval],
            "retrieval": [self._by_retrieval],
            "matches": [self._by_most_matches, self._by_retrieval],
        }[config.initial]

        @functools.lru_cache(_DEPTHS_KEPT)
        def depth_of(view: int) -> tuple[np.ndarray, np.ndarray]:
            return normal_object.depth(views.viewmats[view])

        self._depth_of = depth_of

    def __call__(self, image: np.ndarray) -> list[PoseHypothesis]:
        """Find `config.hypotheses` poses of a [H, W, 3] image, the one that explains it best first.

        All ways are judged by `NormalObject.residuals` of the renders at their poses. Where there
        are fewer poses, they repeat: the solver is compiled for one number of them.

        Raises:
            InputError: an image of another size than the training images.
        """
        query = Query(check_query(image, self._views), self._views)
        count = self._config.hypotheses
        found: list[PoseHypothesis] = []
        for way in self._ways:
            if len(found) < count:
                found += way(query, count - len(found))
        found = [found[i % len(found)] for i in range(count)]
        # One by one, in the program that renders depths: another one would have to be compiled.
        renders = [self._object.renders(pose.viewmat[None])[0] for pose in found]
        residuals = self._object.residuals(query.image, np.stack(renders))
        return [found[i] for i in np.argsort(residuals, kind="stable")]

    def matched_points(self, image: np.ndarray, other: np.ndarray) -> np.ndarray:
        """[M, 2] points in pixels of a [H, W, 3] image that match another one."""
        return matched_points(self.matcher, image, other)

    def _by_retrieval(self, query: Query, count: int) -> list[PoseHypothesis]:
        return initial_poses(query.candidates, self._views, count)

    def _by_lifting(self, query: Query, count: int) -> list[PoseHypothesis]:
        # The best one is nearly always the right one; retrieval errs elsewhere.
        turns, half = self._turns(query), max(1, count // 2)
        matching = query.image, self._views, self.matcher, self._references
        return pnp_poses(*matching, self._depth_of, turns, half)

    def _by_most_matches(self, query: Query, count: int) -> list[PoseHypothesis]:
        matching = query.image, self._views, self.matcher, self._references
        found = most_matched(*matching, self._turns(query), count)
        if not found:
            logging.warning("an image matches no training view; it starts from retrieval")
        return found

    def _turns(self, query: Query) -> Turns:
        """The training views to match with an image."""
        if self._config.shortlist:
            return shortlisted(query.candidates, self._config.shortlist)
        return all_views(query.image, self._views)
