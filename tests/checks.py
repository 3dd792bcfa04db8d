"""What tests of several files ask of results."""

import jax
import numpy as np
from jax.extend.core import jaxprs_in_params


def assert_finite(tree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        assert np.isfinite(np.asarray(leaf)).all(), jax.tree_util.keystr(path)


def assert_products_are_exact(function, *arguments) -> None:
    """GPUs multiply float32 matrices with 10 bits unless told otherwise; CPUs never do."""
    products = list(_products_of(jax.make_jaxpr(function)(*arguments).jaxpr))
    assert products, "there is no product"
    for product in products:
        assert product.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2, product


def _products_of(jaxpr):
    """The `dot_general` equations of a jaxpr, also those of loops and calls inside it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from _products_of(inner)


def faintest(splats, width: int, height: int) -> np.ndarray:
    """[N] the least alpha of each splat in the image."""
    # The form is convex, so a splat is faintest at one of the corners.
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]])
    dx, dy = np.moveaxis(corners - np.asarray(splats.means2d)[:, None], -1, 0)
    a, b, c = np.asarray(splats.conics).T[..., None]
    exponent = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    return (np.asarray(splats.opacities)[:, None] * np.exp(-exponent)).min(axis=1)


def gpu_kernels(traced) -> int:
    """How many Pallas kernels a traced function holds once it is lowered for CUDA."""
    return traced.lower(lowering_platforms=("cuda",)).as_text().count("@mosaic_gpu")
