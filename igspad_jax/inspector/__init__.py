"""Inspection: one photograph in, one verdict out."""

from igspad_jax.inspector.automatic import resolve
from igspad_jax.inspector.calibration import Calibration, Measured, calibrate
from igspad_jax.inspector.inspection import Inspection, PoseEstimate, Region, Verdict
from igspad_jax.inspector.inspector import Inspector
from igspad_jax.inspector.storage import (
    FEATURES,
    INSPECTOR,
    LANDMARKS,
    OBJECT,
    find_inspector,
    load_expected,
    load_landmarks,
    load_object,
    save_object,
    weights_of,
)
from igspad_jax.inspector.taken import as_taken
