"""Detection: where a test image differs from the normal render, and how much."""

from igspad_jax.detect.comparison import Comparison
from igspad_jax.detect.config import DetectConfig
from igspad_jax.detect.expected import ExpectedAnomaly
from igspad_jax.detect.features import Extractor, HandMade
from igspad_jax.detect.registry import (
    EXTRACTORS,
    best_features,
    check_features,
    extractors_at_hand,
    make_comparison,
    weights_of_features,
)
from igspad_jax.detect.score import feature_distance, own_level, pooled, resize_map

__all__ = [
    "EXTRACTORS",
    "Comparison",
    "DetectConfig",
    "ExpectedAnomaly",
    "Extractor",
    "HandMade",
    "best_features",
    "check_features",
    "extractors_at_hand",
    "feature_distance",
    "make_comparison",
    "own_level",
    "pooled",
    "resize_map",
    "weights_of_features",
]
