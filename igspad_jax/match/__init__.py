"""Matching: which training views explain a query image, and from where it was taken."""

from igspad_jax.match.initial import PoseHypothesis, initial_poses, match_views, most_matched
from igspad_jax.match.lifting import DepthOf, pnp_poses
from igspad_jax.match.matching import Matcher, Matches, matched_points
from igspad_jax.match.opencv import OpenCVMatcher
from igspad_jax.match.retrieval import TrainingViews, prepare_views

__all__ = [
    "DepthOf",
    "Matcher",
    "Matches",
    "OpenCVMatcher",
    "PoseHypothesis",
    "TrainingViews",
    "initial_poses",
    "match_views",
    "matched_points",
    "most_matched",
    "pnp_poses",
    "prepare_views",
]
