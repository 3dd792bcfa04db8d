"""Inverting the splatting: the pose of an image by descent through the rasterizer."""

from igspad_jax.invert.config import AdamConfig, Inversion, InvertConfig, LevenbergConfig
from igspad_jax.invert.solver import invert

__all__ = [
    "AdamConfig",
    "Inversion",
    "InvertConfig",
    "LevenbergConfig",
    "invert",
]
