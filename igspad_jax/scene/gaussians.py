"""The parameters of a 3D Gaussian Splatting scene (Kerbl et al. 2023)."""

import math

import jax
import jax.numpy as jnp
from flax import struct

from igspad_jax.scene.harmonics import C0


class Gaussians(struct.PyTreeNode):
    """N Gaussians as the optimiser sees them: unconstrained parameters.

    Attributes:
        means: [N, 3] centres in the world.
        log_scales: [N, 3] logarithms of the standard deviations along the Gaussian's own axes.
        quats: [N, 4] rotations (wxyz) from the Gaussian's axes to the world's, of any length.
        opacity_logits: [N] logits of the opacities.
        sh: [N, (D + 1)^2, 3] spherical harmonics coefficients of the RGB colour.
    """

    means: jax.Array
    log_scales: jax.Array
    quats: jax.Array
    opacity_logits: jax.Array
    sh: jax.Array

    @property
    def scales(self) -> jax.Array:
        """[N, 3] standard deviations."""
        return jnp.exp(self.log_scales)

    @property
    def opacities(self) -> jax.Array:
        """[N] opacities in (0, 1)."""
        return jax.nn.sigmoid(self.opacity_logits)

    @property
    def sh_degree(self) -> int:
        """Degree D of the spherical harmonics."""
        return math.isqrt(self.sh.shape[1]) - 1

    def __len__(self) -> int:
        return self.means.shape[0]


def exposed(gaussians: Gaussians, gain: jax.Array | float, bias: jax.Array | float) -> Gaussians:
    """The scene photographed otherwise: every colour c becomes gain * c + bias."""
    sh = gain * gaussians.sh
    # Colours are half grey plus the harmonics.
    return gaussians.replace(sh=sh.at[:, 0].add((0.5 * (gain - 1.0) + bias) / C0))


def rotation_matrices(quats: jax.Array) -> jax.Array:
    """[..., 3, 3] rotations of [..., 4] quaternions (wxyz) of any length; zero is the identity."""
    sq = jnp.sum(quats * quats, axis=-1, keepdims=True)
    is_zero = sq < 1e-24
    # Two wheres: the gradient of the unused branch must be finite as well.
    unit = quats * jax.lax.rsqrt(jnp.where(is_zero, 1.0, sq))
    unit = jnp.where(is_zero, jnp.array([1.0, 0.0, 0.0, 0.0], quats.dtype), unit)
    w, x, y, z = jnp.unstack(unit, axis=-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return jnp.stack(rows, axis=-1).reshape(*quats.shape[:-1], 3, 3)
