"""Adam with one learning rate per kind of parameter, as 3D Gaussian Splatting is trained."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from igspad_jax.scene import Gaussians
from igspad_jax.settings import Rates


class _Count(NamedTuple):
    count: jax.Array


def _scale_by_rates(
    rates: Rates, *, steps: int, radius: float, sh_degree: int, sh_every: int
) -> optax.GradientTransformation:
    # Coefficients of degree d stay at zero, and so out of the picture, until d * sh_every: the
    # degrees open in steps without a new compilation.
    degrees = np.floor(np.sqrt(np.arange((sh_degree + 1) ** 2)))
    opens_at = jnp.asarray(degrees * sh_every, jnp.float32)[:, None]
    sh_rates = jnp.where(jnp.asarray(degrees) == 0, rates.sh, rates.sh_rest)[:, None]
    means_rate = optax.exponential_decay(
        rates.means * radius, steps, rates.means_final / rates.means
    )
    half = max(steps // 2, 1)
    late = optax.exponential_decay(1.0, half, rates.final, transition_begin=steps - half)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        count = state.count
        share = jnp.asarray(late(count))
        means = jnp.asarray(means_rate(count))
        opened = jnp.where(count >= opens_at, sh_rates, 0.0)
        scaled = Gaussians(
            means=-means * updates.means,
            log_scales=-share * rates.log_scales * updates.log_scales,
            quats=-share * rates.quats * updates.quats,
            opacity_logits=-share * rates.opacity_logits * updates.opacity_logits,
            sh=-share * opened * updates.sh,
        )
        return scaled, _Count(count + 1)

    return optax.GradientTransformation(lambda params: _Count(jnp.int32(0)), update)


def make_optimiser(
    rates: Rates, *, steps: int, radius: float, sh_degree: int, sh_every: int
) -> optax.GradientTransformation:
    """Adam on Gaussians.

    Args:
        rates: the learning rates.
        steps: length of the training, for the decays.
        radius: the scene's radius in world units.
        sh_degree: highest degree of the spherical harmonics.
        sh_every: steps between the openings of the degrees.
    """
    return optax.chain(
        optax.scale_by_adam(eps=1e-15),
        _scale_by_rates(rates, steps=steps, radius=radius, sh_degree=sh_degree, sh_every=sh_every),
    )


def forget(opt_state: optax.OptState, changed: jax.Array) -> optax.OptState:
    """Zeroes the moments of the Gaussians in the mask `changed` [N]."""

    def clear(moments):
        if isinstance(moments, Gaussians):
            return jax.tree.map(
                lambda m: jnp.where(changed.reshape(-1, *[1] * (m.ndim - 1)), 0.0, m), moments
            )
        return moments

    return jax.tree.map(clear, opt_state, is_leaf=lambda node: isinstance(node, Gaussians))
