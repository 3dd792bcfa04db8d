"""Real spherical harmonics to degree 3, in the order and sign of 3D Gaussian Splatting files."""

import jax
import jax.numpy as jnp
import numpy as np

C0 = 0.28209479177387814  # sqrt(1 / (4 pi))
_C1 = 0.4886025119029199  # sqrt(3 / (4 pi))
_C2 = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792,
       0.5462742152960396)  # fmt: skip
_C3 = (-0.5900435899266435, 2.890611442640554, -0.4570457994644658, 0.3731763325901154,
       -0.4570457994644658, 1.445305721320277, -0.5900435899266435)  # fmt: skip


def basis(directions: jax.Array, degree: int) -> jax.Array:
    """[..., (degree + 1)^2] values of the harmonics at unit [..., 3] directions."""
    if not 0 <= degree <= 3:
        raise ValueError(f"spherical harmonics of degree {degree}: only 0 to 3 are defined")
    x, y, z = jnp.unstack(directions, axis=-1)
    values = [jnp.full_like(x, C0)]
    if degree > 0:
        values += [-_C1 * y, _C1 * z, -_C1 * x]
    if degree > 1:
        xx, yy, zz = x * x, y * y, z * z
        values += [
            _C2[0] * x * y,
            _C2[1] * y * z,
            _C2[2] * (2.0 * zz - xx - yy),
            _C2[3] * x * z,
            _C2[4] * (xx - yy),
        ]
        if degree > 2:
            values += [
                _C3[0] * y * (3.0 * xx - yy),
                _C3[1] * x * y * z,
                _C3[2] * y * (4.0 * zz - xx - yy),
                _C3[3] * z * (2.0 * zz - 3.0 * xx - 3.0 * yy),
                _C3[4] * x * (4.0 * zz - xx - yy),
                _C3[5] * z * (xx - yy),
                _C3[6] * x * (xx - 3.0 * yy),
            ]
    return jnp.stack(values, axis=-1)


def colours(sh: jax.Array, directions: jax.Array, degree: int) -> jax.Array:
    """[N, 3] colours of [N, K, 3] coefficients seen along [N, 3] directions, not below 0.

    Only the coefficients up to `degree` count; K must hold at least (degree + 1)^2 of them.
    """
    weights = basis(directions, degree)
    used = sh[:, : weights.shape[-1]]
    rgb = jnp.einsum("nk,nkc->nc", weights, used, precision="highest")
    return jnp.maximum(rgb + 0.5, 0.0)


def coefficients_of(rgb: np.ndarray) -> np.ndarray:
    """The degree-0 coefficients that show `rgb` from everywhere."""
    return (rgb - 0.5) / C0
