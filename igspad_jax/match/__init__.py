"""Matching: which training views explain a query image, and from where it was taken."""

from igspad_jax.match.first_poses import FirstPoses
from igspad_jax.match.initial import (
    PoseHypothesis,
    initial_poses,
    look_up,
    match_views,
    most_matched,
)
from igspad_jax.match.landmarks import Landmarks, Sighting
from igspad_jax.match.lifting import DepthOf, pnp_poses
from igspad_jax.match.matching import Matcher, Matches, matched_points
from igspad_jax.match.opencv import OpenCVMatcher
from igspad_jax.match.registry import (
    best_matcher,
    make_matcher,
    matchers_at_hand,
    training_features,
    weights_of_matching,
)
from igspad_jax.match.retrieval import TrainingViews, prepare_views
from igspad_jax.match.turning import Turns, all_views, shortlisted
