"""The differentiable Gaussian rasterizer."""

from igspad_jax.render.capacity import Capacity, CapacityError
from igspad_jax.render.rasterizer import Render, render, render_features
from igspad_jax.render.views import render_views

__all__ = ["Capacity", "CapacityError", "Render", "render", "render_features", "render_views"]
