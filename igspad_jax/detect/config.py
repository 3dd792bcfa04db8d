"""How images and renders are compared: settings."""

from __future__ import annotations

import dataclasses
from typing import Literal

from igspad_jax.detect.registry import check_features


@dataclasses.dataclass(frozen=True)
class DetectConfig:
    """How images and renders are compared.

    Attributes:
        features: the extractor, or several joined by "*", whose maps are multiplied; "auto" takes
            the best combination whose weights are at hand. See `igspad_jax.detect.EXTRACTORS`.
        pool: side of the averaging window before the image score, as a share of the width.
        expected_strength: how strongly the anomaly that the scene shows on normal images, learnt
            from the training views, discounts the same place in a test image: values are divided
            by 1 + strength x expected / typical. 0 turns it off (the paper's map).
        expected_views: training views, nearest in viewing direction, that tell what to expect; 0
            takes all, whatever the direction.
        normalise: power of the map's own level, the mean of its largest values, by which the image
            score is divided, so that scores are comparable from view to view; 0 turns it off (the
            paper's score).
        dtype: of the factors in the matrix products of SAM, ResNets and CaiT.
    """

    features: str = "auto"
    pool: float = 0.015
    expected_strength: float = 0.125
    expected_views: int = 6
    normalise: float = 0.5
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Check the names of the features.

        Raises:
            InputError: if there are none of a name.
        """
        if self.features != "auto":
            check_features(self.features)
