"""Pose-agnostic visual inspection by inverting 3D Gaussian Splatting, in JAX.

    import igspad_jax as ig

    inspector = ig.Inspector.load("runs/duck")
    result = inspector(ig.read_image("part.jpg"))
    print(result.verdict, result.p_value, result.regions)

What is named here is public and kept, and so is what the packages `igspad_jax.render` (the
rasterizer) and `igspad_jax.invert` (the pose solvers) name; every other module may change. Names
are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from igspad_jax.cameras import Camera, pose_errors, se3_exp
    from igspad_jax.compilation import use_compilation_cache
    from igspad_jax.data import LoadedViews, load_train, read_category, read_image, write_image
    from igspad_jax.detect import DetectConfig
    from igspad_jax.errors import InputError
    from igspad_jax.inspector import (
        CalibrateConfig,
        Calibration,
        Inspection,
        Inspector,
        InspectorConfig,
        PoseEstimate,
        Region,
        Verdict,
    )
    from igspad_jax.invert import AdamConfig, InvertConfig, LevenbergConfig
    from igspad_jax.match import MatchConfig
    from igspad_jax.normal_object import NormalObject
    from igspad_jax.report.overlay import overlay
    from igspad_jax.scene import Gaussians
    from igspad_jax.scene.ply import read_ply, write_ply
    from igspad_jax.train import Fitted, TrainConfig, fit

# Where each name is defined.
_HOMES = {
    "AdamConfig": "invert",
    "CalibrateConfig": "inspector",
    "Calibration": "inspector",
    "Camera": "cameras",
    "DetectConfig": "detect",
    "Fitted": "train",
    "Gaussians": "scene",
    "InputError": "errors",
    "Inspection": "inspector",
    "Inspector": "inspector",
    "InspectorConfig": "inspector",
    "InvertConfig": "invert",
    "LevenbergConfig": "invert",
    "LoadedViews": "data",
    "MatchConfig": "match",
    "NormalObject": "normal_object",
    "PoseEstimate": "inspector",
    "Region": "inspector",
    "TrainConfig": "train",
    "Verdict": "inspector",
    "fit": "train",
    "load_train": "data",
    "overlay": "report.overlay",
    "pose_errors": "cameras",
    "read_category": "data",
    "read_image": "data",
    "read_ply": "scene.ply",
    "se3_exp": "cameras",
    "use_compilation_cache": "compilation",
    "write_image": "data",
    "write_ply": "scene.ply",
}

__all__ = [
    "AdamConfig",
    "CalibrateConfig",
    "Calibration",
    "Camera",
    "DetectConfig",
    "Fitted",
    "Gaussians",
    "InputError",
    "Inspection",
    "Inspector",
    "InspectorConfig",
    "InvertConfig",
    "LevenbergConfig",
    "LoadedViews",
    "MatchConfig",
    "NormalObject",
    "PoseEstimate",
    "Region",
    "TrainConfig",
    "Verdict",
    "__version__",
    "fit",
    "load_train",
    "overlay",
    "pose_errors",
    "read_category",
    "read_image",
    "read_ply",
    "se3_exp",
    "use_compilation_cache",
    "write_image",
    "write_ply",
]


def __getattr__(name: str) -> Any:
    """A public name, from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
