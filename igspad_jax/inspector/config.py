"""The settings of an inspector: how a pose is found, how images are compared, how it decides."""

from __future__ import annotations

import dataclasses

from igspad_jax.detect import DetectConfig
from igspad_jax.invert import InvertConfig
from igspad_jax.match import MatchConfig


@dataclasses.dataclass(frozen=True)
class CalibrateConfig:
    """How the verdict is decided.

    Attributes:
        false_alarm_rate: share of normal images that may be called defective.
        farthest_roll: degrees by which an image may be rolled about its optical axis from the
            nearest training view; an image that is nearer to upside down than to lying on its side
            is not judged.
    """

    false_alarm_rate: float = 0.05
    farthest_roll: float = 135.0


@dataclasses.dataclass(frozen=True)
class InspectorConfig:
    """All settings of an inspector, a section for each of its parts."""

    match: MatchConfig = dataclasses.field(default_factory=MatchConfig)
    invert: InvertConfig = dataclasses.field(default_factory=InvertConfig)
    detect: DetectConfig = dataclasses.field(default_factory=DetectConfig)
    calibrate: CalibrateConfig = dataclasses.field(default_factory=CalibrateConfig)
