"""The differentiable Gaussian rasterizer."""

from igspad_jax.render.capacity import Capacity, CapacityError
from igspad_jax.render.linear import (
    LinearRender,
    NormalEquations,
    exposure_derivatives,
    render_normal,
    render_with_jacobian,
)
from igspad_jax.render.rasterizer import Render, render, render_features, render_splats
from igspad_jax.render.views import render_views
