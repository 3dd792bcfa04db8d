"""Photometric losses and image quality."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

_WINDOW = 11
_SIGMA = 1.5


@functools.cache
def _window_matrix(size: int) -> np.ndarray:
    """[size, size] banded matrix that applies the SSIM window along an axis, zero padded.

    As a matrix product the window costs a fraction of a convolution on CPUs.
    """
    offsets = np.arange(size)[:, None] - np.arange(size)[None, :]
    window = np.exp(-0.5 * np.square(np.arange(_WINDOW) - _WINDOW // 2) / _SIGMA**2).sum()
    weights = np.exp(-0.5 * np.square(offsets) / _SIGMA**2) / window
    return np.where(np.abs(offsets) <= _WINDOW // 2, weights, 0.0).astype(np.float32)


def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean structural similarity of two [H, W, C] images in [0, 1] (Wang et al. 2004).

    Gaussian window of 11 pixels with sigma 1.5 and zero padding, as 3D Gaussian Splatting uses.
    """
    height, width, _ = a.shape
    rows, columns = _window_matrix(height), _window_matrix(width)
    a, b = jnp.moveaxis(a, -1, 0), jnp.moveaxis(b, -1, 0)
    stacked = jnp.concatenate([a, b, a * a, b * b, a * b])
    # The variances below are small differences of these means: they need all their digits.
    means = jnp.einsum("ij,cjw,vw->civ", rows, stacked, columns, precision="highest")
    mean_a, mean_b, aa, bb, ab = jnp.split(means, 5)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    variances = (aa - mean_a**2) + (bb - mean_b**2)
    contrast = (2 * (ab - mean_a * mean_b) + c2) / (variances + c2)
    return jnp.mean(luminance * contrast)


def photometric_loss(rendered: jax.Array, target: jax.Array, dssim_weight: float) -> jax.Array:
    """(1 - w) L1 + w (1 - SSIM) of [H, W, 3] images (Kerbl et al. 2023, equation 7)."""
    l1 = jnp.mean(jnp.abs(rendered - target))
    return (1.0 - dssim_weight) * l1 + dssim_weight * (1.0 - ssim(rendered, target))


def psnr(a: jax.Array, b: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in dB of two images in [0, 1], over all their pixels."""
    return -10.0 * jnp.log10(jnp.maximum(jnp.mean(jnp.square(a - b)), 1e-10))
