"""The differentiable Gaussian rasterizer."""

from igspad_jax.render.capacity import Capacity, CapacityError
from igspad_jax.render.rasterizer import Render, render

__all__ = ["Capacity", "CapacityError", "Render", "render"]
