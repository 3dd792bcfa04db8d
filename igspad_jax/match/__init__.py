"""Matching: which training views explain a query image, and from where it was taken."""

from igspad_jax.match.config import MatchConfig
from igspad_jax.match.first_poses import FirstPoses
from igspad_jax.match.initial import (
    PoseHypothesis,
    initial_poses,
    look_up,
    match_views,
    most_matched,
)
from igspad_jax.match.lifting import DepthOf, pnp_poses
from igspad_jax.match.matching import Matcher, Matches, matched_points
from igspad_jax.match.opencv import OpenCVMatcher
from igspad_jax.match.registry import (
    MATCHERS,
    best_matcher,
    make_matcher,
    matchers_at_hand,
    training_features,
    weights_of_matching,
)
from igspad_jax.match.retrieval import TrainingViews, prepare_views
from igspad_jax.match.turning import Turns, all_views, shortlisted

__all__ = [
    "MATCHERS",
    "DepthOf",
    "FirstPoses",
    "MatchConfig",
    "Matcher",
    "Matches",
    "OpenCVMatcher",
    "PoseHypothesis",
    "TrainingViews",
    "Turns",
    "all_views",
    "best_matcher",
    "initial_poses",
    "look_up",
    "make_matcher",
    "match_views",
    "matched_points",
    "matchers_at_hand",
    "most_matched",
    "pnp_poses",
    "prepare_views",
    "shortlisted",
    "training_features",
    "weights_of_matching",
]
