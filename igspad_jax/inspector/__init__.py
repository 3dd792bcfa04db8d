"""Inspection: one photograph in, one verdict out."""

from igspad_jax.inspector.automatic import resolve
from igspad_jax.inspector.calibration import Calibration, Measured, calibrate
from igspad_jax.inspector.config import CalibrateConfig, InspectorConfig
from igspad_jax.inspector.inspection import Inspection, PoseEstimate, Region, Verdict
from igspad_jax.inspector.inspector import Inspector
from igspad_jax.inspector.storage import (
    FEATURES,
    INSPECTOR,
    OBJECT,
    find_inspector,
    load_expected,
    load_object,
    save_object,
    weights_of,
)

__all__ = [
    "FEATURES",
    "INSPECTOR",
    "OBJECT",
    "CalibrateConfig",
    "Calibration",
    "Inspection",
    "Inspector",
    "InspectorConfig",
    "Measured",
    "PoseEstimate",
    "Region",
    "Verdict",
    "calibrate",
    "find_inspector",
    "load_expected",
    "load_object",
    "resolve",
    "save_object",
    "weights_of",
]
