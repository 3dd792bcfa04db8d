"""The differentiable Gaussian rasterizer."""

from igspad_jax.render.capacity import Capacity, CapacityError
from igspad_jax.render.rasterizer import Render, render, render_features

__all__ = ["Capacity", "CapacityError", "Render", "render", "render_features"]
