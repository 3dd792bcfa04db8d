"""Inverting the splatting: the pose of an image by descent through the rasterizer."""

from igspad_jax.invert.inversion import Inversion
from igspad_jax.invert.solver import invert
