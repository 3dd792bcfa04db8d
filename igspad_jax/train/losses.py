"""Photometric losses and image quality."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

_WINDOW = 11
_SIGMA = 1.5
_BLOCK = 32  # pixels whose means are one matrix product; fastest of 32, 64, 100 and all, on a CPU


@functools.cache
def _window_band() -> np.ndarray:
    """[_BLOCK + _WINDOW - 1, _BLOCK] weights of a block's surroundings in its windowed means."""
    weights = np.exp(-0.5 * np.square(np.arange(_WINDOW) - _WINDOW // 2) / _SIGMA**2)
    band = np.zeros((_BLOCK + _WINDOW - 1, _BLOCK))
    for pixel in range(_BLOCK):
        band[pixel : pixel + _WINDOW, pixel] = weights / weights.sum()
    return band.astype(np.float32)


def _windowed(values: jax.Array, axis: int) -> jax.Array:
    """Means under the SSIM window along the second or third axis of [C, H, W], zero padded.

    Block by block as matrix products: a convolution is many times slower on CPUs, and so is the
    product with one matrix for the whole axis, which is mostly zeros, wherever images are large.
    """
    size = values.shape[axis]
    count = -(-size // _BLOCK)
    half = _WINDOW // 2
    pad = [(0, 0)] * 3
    pad[axis] = (half, (count + 1) * _BLOCK - size - half)
    padded = jnp.pad(values, pad)

    def blocks(first: int) -> jax.Array:
        part = jax.lax.slice_in_dim(padded, first, first + count * _BLOCK, axis=axis)
        return part.reshape(*part.shape[:axis], count, _BLOCK, *part.shape[axis + 1 :])

    beyond = jax.lax.slice_in_dim(blocks(_BLOCK), 0, _WINDOW - 1, axis=axis + 1)
    surroundings = jnp.concatenate([blocks(0), beyond], axis=axis + 1)
    # The variances below are small differences of these means: they need all their digits.
    product = "cnkw,kv->cnvw" if axis == 1 else "chnk,kv->chnv"
    means = jnp.einsum(product, surroundings, _window_band(), precision="highest")
    means = means.reshape(*values.shape[:axis], count * _BLOCK, *values.shape[axis + 1 :])
    return jax.lax.slice_in_dim(means, 0, size, axis=axis)


def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean structural similarity of two [H, W, C] images in [0, 1] (Wang et al. 2004).

    Gaussian window of 11 pixels with sigma 1.5 and zero padding, as 3D Gaussian Splatting uses.
    """
    a, b = jnp.moveaxis(a, -1, 0), jnp.moveaxis(b, -1, 0)
    stacked = jnp.concatenate([a, b, a * a, b * b, a * b])
    mean_a, mean_b, aa, bb, ab = jnp.split(_windowed(_windowed(stacked, 1), 2), 5)
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
