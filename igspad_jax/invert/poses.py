"""Steps on SE(3): which point a twist turns about, and in which units."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.cameras import hat, se3_exp
from igspad_jax.settings import Pivot

# By default some GPUs multiply float32 matrices in reduced precision.
_exact = functools.partial(jnp.matmul, precision="highest")


def retract(
    viewmat: jax.Array, tau: jax.Array, centre: jax.Array, radius: jax.Array, pivot: Pivot
) -> jax.Array:
    """Moves a pose by a twist, T <- Exp(tau) T.

    About the object's centre a rotation leaves the object where it is in the image, so that
    rotation and translation hardly couple and descent converges from much farther away; about
    the camera (the paper's choice) every rotation sweeps the object across the image.

    Args:
        viewmat: [4, 4] pose.
        tau: [6] twist [rho, theta]; rho in units of `radius`, theta in radians.
        centre: [3] the object's centre in the world.
        radius: [] the object's radius in world units.
        pivot: "object" or "camera": what the rotation turns about.
    """
    rho, theta = tau[:3] * radius, tau[3:]
    if pivot == "camera":
        return _exact(se3_exp(jnp.concatenate([rho, theta])), viewmat)
    at = _exact(viewmat[:3, :3], centre) + viewmat[:3, 3]
    turn = se3_exp(jnp.concatenate([jnp.zeros(3), theta]))
    rotation = _exact(turn[:3, :3], viewmat[:3, :3])
    # p' = R (p - at) + at + rho with p = W x + t.
    translation = _exact(turn[:3, :3], viewmat[:3, 3] - at) + at + rho
    return viewmat.at[:3, :3].set(rotation).at[:3, 3].set(translation)


def twist_basis(
    viewmat: jax.Array, centre: jax.Array, radius: jax.Array, pivot: Pivot
) -> jax.Array:
    """[6, 6] derivative at zero of the camera's twist by the `tau` of `retract`."""
    scale = jnp.diag(jnp.concatenate([jnp.full(3, radius), jnp.ones(3)]))
    if pivot == "camera":
        return scale
    at = _exact(viewmat[:3, :3], centre) + viewmat[:3, 3]
    # Turning about `at` is turning about the camera and shifting by at - R at, to first order
    # at x theta.
    return scale.at[:3, 3:].set(hat(at))


def orthonormalised(viewmat: jax.Array) -> jax.Array:
    """[..., 4, 4] viewmats with the rounding of many small rotations taken out."""
    u, _, vt = jnp.linalg.svd(viewmat[..., :3, :3])
    return viewmat.at[..., :3, :3].set(_exact(u, vt))


def plain_exposures(initial: np.ndarray) -> np.ndarray:
    """[n, K, 2] gains of one and biases of zero for [n, K, 4, 4] poses."""
    return np.broadcast_to(np.array([1.0, 0.0], np.float32), (*initial.shape[:2], 2))
