"""Detection: where a test image differs from the normal render, and how much."""

from igspad_jax.detect.comparison import Comparison
from igspad_jax.detect.expected import ExpectedAnomaly
from igspad_jax.detect.features import Extractor, HandMade
from igspad_jax.detect.registry import (
    best_features,
    extractors_at_hand,
    make_comparison,
    weights_of_features,
)
from igspad_jax.detect.score import feature_distance, own_level, pooled, resize_map
