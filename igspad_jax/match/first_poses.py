"""First poses of an image: ways that each propose hypotheses, all judged by one measure."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from igspad_jax.data import LoadedViews, Photograph
from igspad_jax.match.initial import (
    PoseHypothesis,
    check_query,
    initial_poses,
    look_up,
    most_matched,
)
from igspad_jax.match.landmarks import Landmarks
from igspad_jax.match.lifting import pnp_poses
from igspad_jax.match.matching import Matcher, matched_points
from igspad_jax.match.registry import make_matcher, training_features
from igspad_jax.match.retrieval import Candidate, TrainingViews, prepare_views
from igspad_jax.match.turning import Turns, all_views, shortlisted
from igspad_jax.networks.weights import NO_SOURCES, Sources
from igspad_jax.normal_object import NormalObject
from igspad_jax.settings import MatchConfig

_SURE = 25  # landmarks that agree on a pose, which wrong poses seldom reach
_SHARP = 0.35  # degrees, standard deviation of a pose that the solver would not better
_DEPTHS_KEPT = 64  # depth maps in memory; of 800 pixels each takes 5 MB with its coverage


@dataclasses.dataclass(frozen=True, eq=False)
class Query:
    """An image whose pose is asked for.

    Attributes:
        photograph: the photograph.
        views: the prepared training views.
    """

    photograph: Photograph
    views: TrainingViews

    @property
    def image(self) -> np.ndarray:
        """[H, W, 3] in [0, 1], of the training images' size."""
        return self.photograph.image

    @functools.cached_property
    def candidates(self) -> list[Candidate]:
        """The training views that look like the image, best first; looked up once."""
        return look_up(self.image, self.views)


# Proposes at most so many poses of a query, the likeliest first; none where it fails.
Way = Callable[[Query, int], list[PoseHypothesis]]


class FirstPoses:
    """Finds first poses for photographs."""

    def __init__(
        self,
        normal_object: NormalObject,
        views: LoadedViews,
        config: MatchConfig,
        sources: Sources = NO_SOURCES,
        features_folder: Path | None = None,
        landmarks: Landmarks | None = None,
    ):
        """Take what the ways need; each is made ready when it is first asked.

        Args:
            normal_object: whose poses are sought.
            views: the training images.
            config: see `MatchConfig`; the matcher by its name, not "auto".
            sources: of weights that are not the usual ones.
            features_folder: where a network's keypoints of the training images are kept.
            landmarks: of the object, where it has some; they are asked first.
        """
        self._object, self._loaded, self._config = normal_object, views, config
        self._sources, self._features_folder = sources, features_folder
        self._landmarks = landmarks
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
        # Asked by `sure`, and again where it is not.
        self._by_landmarks = functools.lru_cache(1)(self._located)

    @functools.cached_property
    def matcher(self) -> Matcher:
        """Finds matched points, for whoever needs some besides.

        Raises:
            InputError: its weights are not on this machine.
        """
        return make_matcher(self._config.matcher, self._sources)

    @functools.cached_property
    def _references(self) -> Sequence[Any]:
        return training_features(self.matcher, self._loaded.images, self._features_folder)

    @functools.cached_property
    def _views(self) -> TrainingViews:
        views, centre = self._loaded, np.asarray(self._object.centre)
        return prepare_views(views.images, views.viewmats, views.K, centre)

    def sure(self, photograph: Photograph) -> PoseHypothesis | None:
        """The pose that many landmarks agree on, and determine well; None where there is none."""
        pose = self._by_landmarks(photograph)
        return pose if pose and pose.score >= _SURE and pose.sigmas[0] < _SHARP else None

    def __call__(self, photograph: Photograph) -> list[PoseHypothesis]:
        """Find `config.hypotheses` poses of a photograph, the one that explains it best first.

        All ways are judged by `NormalObject.residuals` of the renders at their poses. Where there
        are fewer poses, they repeat: the solver is compiled for one number of them.

        Raises:
            InputError: an image of another size than the training images.
        """
        query = Query(photograph, self._views)
        check_query(query.image, self._views)
        located = self._by_landmarks(photograph)
        found = [located] if located else []
        count = self._config.hypotheses
        for way in self._ways:
            if len(found) < count:
                found += way(query, count - len(found))
        found = [found[i % len(found)] for i in range(count)]
        # One by one, in the program that renders depths: another one would have to be compiled.
        viewmats = np.stack([pose.viewmat for pose in found])
        renders = np.stack([self._object.renders(viewmat[None])[0] for viewmat in viewmats])
        outlines = self._object.outlines(viewmats)
        residuals = self._object.residuals(query.image, renders, outlines)
        return [found[i] for i in np.argsort(residuals, kind="stable")]

    def matched_points(self, image: np.ndarray, other: np.ndarray) -> np.ndarray:
        """[M, 2] points in pixels of a [H, W, 3] image that match another one."""
        return matched_points(self.matcher, image, other)

    def _located(self, photograph: Photograph) -> PoseHypothesis | None:
        if self._landmarks is None:
            return None
        located = self._landmarks.locate(photograph.pixels, photograph.lens)
        if located is None:
            return None
        viewmat = self._object.working_camera.pose(located.viewmat, photograph.lens)
        away = np.linalg.norm(viewmat[:3, :3] @ np.asarray(self._object.centre) + viewmat[:3, 3])
        variances = np.diag(located.covariance)
        sigmas = (
            float(np.degrees(np.sqrt(variances[3:].sum()))),
            float(100.0 * np.sqrt(variances[:3].sum()) / away),
        )
        return PoseHypothesis(viewmat, located.inliers, "landmarks", located.view, 0.0, sigmas)

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
