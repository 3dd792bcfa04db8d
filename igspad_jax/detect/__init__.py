"""Detection: where a test image differs from the normal render, and how much."""

from igspad_jax.detect.choice import (
    EXTRACTORS,
    best_features,
    check_features,
    extractors_at_hand,
    make_comparison,
)
from igspad_jax.detect.comparison import Comparison, Maps
from igspad_jax.detect.expected import ExpectedAnomaly
from igspad_jax.detect.features import Extractor, HandMade
from igspad_jax.detect.score import feature_distance, image_score, resize_map

__all__ = [
    "EXTRACTORS",
    "Comparison",
    "ExpectedAnomaly",
    "Extractor",
    "HandMade",
    "Maps",
    "best_features",
    "check_features",
    "extractors_at_hand",
    "feature_distance",
    "image_score",
    "make_comparison",
    "resize_map",
]
