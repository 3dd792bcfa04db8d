"""Densification at a fixed count: dead Gaussians move to where live ones are needed.

"3D Gaussian Splatting as Markov Chain Monte Carlo" (Kheradmand et al. 2024): a dead Gaussian
becomes a copy of a live one, and opacities and scales of the copies change so that together they
look as the original did.
"""

import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.scene import Gaussians

_MAX_COPIES = 16

# binomial(i - 1, k) (-1)^k / sqrt(k + 1): the sum in the paper's equation 9.
_COEFFICIENTS = np.zeros((_MAX_COPIES, _MAX_COPIES), np.float32)
for _i in range(_MAX_COPIES):
    _c = 1.0
    for _k in range(_i + 1):
        _COEFFICIENTS[_i, _k] = _c * (-1.0) ** _k / np.sqrt(_k + 1.0)
        _c *= (_i - _k) / (_k + 1.0)


def split_opacity(opacity: jax.Array, copies: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Opacity [N] of each of `copies` [N] equal Gaussians, and the factor [N] on their scales."""
    copies = jnp.clip(copies, 1, _MAX_COPIES)
    each = 1.0 - (1.0 - opacity) ** (1.0 / copies)
    powers = each[:, None] ** jnp.arange(1, _MAX_COPIES + 1)
    # [N, i]: the sum over k for each i, of terms that nearly cancel.
    inner = jnp.matmul(powers, _COEFFICIENTS.T, precision="highest")
    counted = jnp.arange(_MAX_COPIES)[None, :] < copies[:, None]
    return each, opacity / jnp.maximum(jnp.sum(jnp.where(counted, inner, 0.0), axis=1), 1e-8)


def relocate(
    gaussians: Gaussians, key: jax.Array, *, dead_below: float
) -> tuple[Gaussians, jax.Array]:
    """Moves every Gaussian of opacity below `dead_below` onto a live one.

    Live ones are drawn with probability proportional to their opacity.

    Returns:
        The Gaussians and the mask [N] of those that changed, whose optimiser moments are stale.
    """
    opacity = gaussians.opacities
    dead = opacity < dead_below
    any_alive = jnp.any(~dead)
    # Inverse transform sampling; `jax.random.categorical` would draw N x N numbers.
    cumulative = jnp.cumsum(jnp.where(dead, 0.0, opacity))
    drawn = jax.random.uniform(key, opacity.shape) * cumulative[-1]
    source = jnp.searchsorted(cumulative, drawn, side="right")
    source = jnp.minimum(source, len(gaussians) - 1)
    source = jnp.where(dead & any_alive, source, jnp.arange(len(gaussians)))
    copies = jnp.zeros_like(opacity).at[source].add(1.0)
    each, factor = split_opacity(opacity, copies)
    each = jnp.clip(each, dead_below, 1.0 - 1e-6)
    split = gaussians.replace(
        opacity_logits=jnp.where(
            copies > 1, jnp.log(each) - jnp.log1p(-each), gaussians.opacity_logits
        ),
        log_scales=gaussians.log_scales + jnp.where(copies > 1, jnp.log(factor), 0.0)[:, None],
    )
    return jax.tree.map(lambda leaf: leaf[source], split), (dead & any_alive) | (copies > 1)
