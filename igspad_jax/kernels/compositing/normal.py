"""Normal equations of a robust least-squares fit of a composited image to a given one."""


import jax
import jax.numpy as jnp

from igspad_jax.kernels.compositing.jacobian import LinearWalk, composite_jacobian


def weigh(
    difference: jax.Array, weights: jax.Array, deltas: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cauchy's robust cost of differences, and what each counts in the normal equations.

    Args:
        difference: [B, H, W, C] image composited less image given.
        weights: [B, H, W] what each pixel counts.
        deltas: [B] difference at which its weight has fallen to a half.

    Returns:
        The mean cost [B] in units of the image, and weights [B, H, W, C] whose sum over an image
        is 1 where no difference is large.
    """
    deltas = deltas[:, None, None, None]
    square = jnp.square(difference / deltas)
    counted = difference.shape[-1] * jnp.maximum(jnp.sum(weights, axis=(1, 2)), 1e-6)
    share = (weights / counted[:, None, None])[..., None]
    cost = jnp.sum(0.5 * deltas * jnp.log1p(square) * share, axis=(1, 2, 3))
    return cost, share / (1.0 + square)


def affine_derivatives(values: jax.Array, transmittance: jax.Array, affine: jax.Array) -> jax.Array:
    """Derivatives of composited features by parameters that change those of all splats alike.

    Args:
        values: [B, H, W, C] composited features, without what lies behind.
        transmittance: [B, H, W].
        affine: [B, E, 2] slope and offset of each parameter: the derivative of a splat's feature f
            is slope * f + offset.

    Returns:
        [B, H, W, C, E].
    """
    slope, offset = (affine[:, None, None, None, :, i] for i in range(2))
    return slope * values[..., None] + offset * (1.0 - transmittance[..., None, None])


def gram(columns: jax.Array, robust: jax.Array) -> jax.Array:
    """[B, D, D] Gram matrix of [B, H, W, C, D] columns under [B, H, W, C] weights."""
    flat = columns.reshape(len(columns), -1, columns.shape[-1])
    weighed = flat * robust.reshape(*flat.shape[:2], 1)
    return jnp.einsum("bpi,bpj->bij", weighed, flat, precision="highest")


def composite_gram(
    walk: LinearWalk, basis: jax.Array, known: jax.Array, robust: jax.Array
) -> jax.Array:
    """Gram matrix of the columns of the Jacobian by the fit's parameters, and of known columns.

    Args:
        walk: as for `composite_jacobian`.
        basis: [B, P, D] derivatives of the tangents' parameters by the fit's.
        known: [B, H, W, C, E] columns that need no walk.
        robust: [B, H, W, C] weights.

    Returns:
        [B, D + E, D + E].
    """
    turned = jnp.einsum("bhwcp,bpd->bhwcd", composite_jacobian(walk), basis, precision="highest")
    return gram(jnp.concatenate([turned, known], axis=-1), robust)
