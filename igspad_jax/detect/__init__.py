"""Detection: where a test image differs from the normal render, and how much."""

from igspad_jax.detect.expected import ExpectedAnomaly
from igspad_jax.detect.features import Extractor, HandMade
from igspad_jax.detect.score import feature_distance, image_score, resize_map

__all__ = [
    "ExpectedAnomaly",
    "Extractor",
    "HandMade",
    "feature_distance",
    "image_score",
    "resize_map",
]
