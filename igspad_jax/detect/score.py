"""Anomaly scores from the features of a test image and of its normal render.

Equations 5 and 6 of Jiang et al., "IGSPAD: Inverting 3D Gaussian Splatting for Pose-agnostic
Anomaly Detection" (ACM MM 2024), with two additions against what a good but imperfect render gets
wrong: a tolerance to small shifts, and a discount where the reference itself changes from pixel to
pixel.
"""

from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.errors import InputError

_LEVEL_SHARE, _COMPARED_SHARE = 0.025, 0.1


@partial(jax.jit, static_argnames=("tolerance", "edge_discount"))
def feature_distance(
    test: jax.Array, reference: jax.Array, *, tolerance: int = 0, edge_discount: float = 0.0
) -> jax.Array:
    """The anomaly map of equation 5, S = 1 - cos(f_t, f_r), at the features' resolution.

    Computed as half the squared distance of the normalised vectors, which keeps the digits of a
    small distance that 1 - cos loses.

    Args:
        test: [B, h, w, C] features of the test images.
        reference: [B, h, w, C] features of the normal renders.
        tolerance: the least distance over shifts of the reference by up to this many cells in x
            and in y is taken; 0 is the paper's equation.
        edge_discount: d of S / (1 + d V), where V is the mean distance of a reference's vector to
            its eight neighbours: a render errs most beside its own edges, and a pixel there must
            differ by more to count as much. 0 is the paper's equation.

    Returns:
        [B, h, w] distances, 0 for equal directions. A vector of length zero is at distance 1/2
        from any other.

    Raises:
        InputError: features of different shapes.
    """
    if test.shape != reference.shape or test.ndim != 4:
        raise InputError(
            f"features: shapes {test.shape} and {reference.shape} are not both [B, h, w, C]; "
            "extract both from images of one size"
        )
    test, reference = _normalise(test), _normalise(reference)
    distances = [_half_square(test, _shift(reference, *s)) for s in _shifts(tolerance)]
    result = jnp.stack(distances).min(axis=0)
    if edge_discount:
        own = [_half_square(reference, _shift(reference, *s)) for s in _shifts(1) if s != (0, 0)]
        result = result / (1.0 + edge_discount * jnp.stack(own).mean(axis=0))
    return result


def resize_map(scores: jax.Array, height: int, width: int) -> jax.Array:
    """[B, height, width] bilinear resampling of [B, h, w] maps; pixel centres at +0.5."""
    return jax.image.resize(
        scores, (scores.shape[0], height, width), method="bilinear", antialias=False
    )


def pooled(anomaly_map: np.ndarray, pool: int) -> np.ndarray:
    """[H - pool + 1, W - pool + 1] means over square windows that lie wholly within a [H, W] map.

    Args:
        anomaly_map: the map.
        pool: side of the window in pixels, from 1 to min(H, W).

    Raises:
        InputError: a window that does not fit.
    """
    height, width = anomaly_map.shape
    if not 1 <= pool <= min(height, width):
        raise InputError(
            f"image score: a pooling window of {pool} pixels does not fit maps of "
            f"{width}x{height}; choose 1 to {min(height, width)}"
        )
    means = cv2.blur(anomaly_map, (pool, pool), borderType=cv2.BORDER_REPLICATE)
    before = pool // 2  # of the window's pixels, those before its anchor
    return means[before : before + height - pool + 1, before : before + width - pool + 1]


def own_level(anomaly_map: np.ndarray, whole: bool = True) -> float:
    """The level of a map's own highest values.

    Args:
        anomaly_map: [H, W].
        whole: whether all of the image was compared: the mean of the largest 2.5 % of its pixels
            is taken then, else that of the largest tenth of those that were, which are not zero.
    """
    values, share = anomaly_map.ravel(), _LEVEL_SHARE
    if not whole:
        values, share = values[values > 0.0], _COMPARED_SHARE
    if not values.size:
        return 0.0
    count = max(1, round(share * values.size))
    return float(np.partition(values, -count)[-count:].mean())


def _normalise(features: jax.Array) -> jax.Array:
    squares = jnp.sum(features * features, axis=-1, keepdims=True)
    return features * jax.lax.rsqrt(jnp.maximum(squares, 1e-20))


def _half_square(a: jax.Array, b: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum((a - b) ** 2, axis=-1)


def _shifts(radius: int) -> list[tuple[int, int]]:
    steps = range(-radius, radius + 1)
    return [(y, x) for y in steps for x in steps]


def _shift(features: jax.Array, y: int, x: int) -> jax.Array:
    """Moves [B, h, w, C] features by whole cells; the border repeats."""
    rows = jnp.clip(jnp.arange(features.shape[1]) + y, 0, features.shape[1] - 1)
    columns = jnp.clip(jnp.arange(features.shape[2]) + x, 0, features.shape[2] - 1)
    return features[:, rows][:, :, columns]
