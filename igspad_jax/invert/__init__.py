"""Inverting the splatting: the pose of an image by gradient descent through the rasterizer."""

from igspad_jax.invert.solver import Inversion, InvertConfig, invert

__all__ = ["Inversion", "InvertConfig", "invert"]
