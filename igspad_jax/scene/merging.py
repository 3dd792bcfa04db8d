"""A coarser scene: the Gaussians of a cell replaced by one of the same moments.

Seen from so far that a cell covers a pixel or two, the two scenes look alike, at a fraction of the
cost. Rendering the fine scene at low resolution would not do: the pixel-wide blur that every splat
gets in the image then fattens the object.
"""

import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from igspad_jax.errors import InputError
from igspad_jax.scene.gaussians import Gaussians, rotation_matrices

_ROUND = 1024  # sizes are rounded up, so that scenes of one kind share compiled functions
_FAINT, _OPAQUE = 0.01, 0.99  # opacities: fainter ones are left out, more is not composited
_WIDE = 2.0  # cells; a Gaussian of a larger standard deviation would make its whole cell as wide
_THIN = 0.02  # cells; the least standard deviation of a merged Gaussian


def merged(gaussians: Gaussians, cell: float) -> Gaussians:
    """Merges the Gaussians whose centres share a cube of a grid.

    Means, covariances and colours are averaged by optical depth times area, moments preserved;
    the opacity is that of the same total spread over the area of the one. A Gaussian alone in its
    cell, or wider than two cells, stays as it is.

    Args:
        gaussians: the scene.
        cell: side of the cubes in world units.

    Returns:
        A scene of a multiple of 1024 Gaussians, the last ones invisible.

    Raises:
        InputError: no Gaussian can be seen.
    """
    opacities = np.asarray(gaussians.opacities, np.float64)
    kept = opacities > _FAINT
    means = np.asarray(gaussians.means, np.float64)[kept]
    if not kept.any():
        raise InputError(
            f"scene: none of its {len(opacities)} Gaussians is more than {_FAINT} opaque; "
            "train it longer, or take another"
        )
    scales = np.asarray(gaussians.scales, np.float64)[kept]
    axes = np.asarray(rotation_matrices(gaussians.quats), np.float64)[kept] * scales[:, None, :]
    covariances = axes @ np.swapaxes(axes, 1, 2)
    depths = -np.log1p(-np.minimum(opacities[kept], _OPAQUE))
    weights = depths * _area(scales)
    # A number of its own keeps a wide one apart from the rest of its cell.
    apart = np.where(scales.max(axis=1) > _WIDE * cell, 1 + np.arange(len(scales)), 0)
    cells = np.column_stack([np.floor(means / cell).astype(np.int64), apart])
    members = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
    total = np.bincount(members, weights)

    def average(values: np.ndarray) -> np.ndarray:
        columns = values.reshape(len(values), -1).T
        sums = [np.bincount(members, weights * column, len(total)) for column in columns]
        return (np.stack(sums, axis=1) / total[:, None]).reshape(-1, *values.shape[1:])

    centres = average(means)
    away = means - centres[members]
    spread = average(covariances + away[:, :, None] * away[:, None, :])
    variances, directions = np.linalg.eigh(spread)
    directions[np.linalg.det(directions) < 0.0, :, 0] *= -1.0
    scales = np.sqrt(np.maximum(variances, (_THIN * cell) ** 2))
    opacities = np.clip(-np.expm1(-total / _area(scales)), _FAINT, _OPAQUE)
    fields = {
        "means": centres,
        "log_scales": np.log(scales),
        "quats": Rotation.from_matrix(directions).as_quat()[:, [3, 0, 1, 2]],
        "opacity_logits": np.log(opacities / (1.0 - opacities)),
        "sh": average(np.asarray(gaussians.sh, np.float64)[kept]),
    }
    missing = -len(total) % _ROUND
    fill = {"opacity_logits": -30.0, "quats": 1.0}
    return Gaussians(
        **{
            name: jnp.asarray(
                np.pad(
                    values.astype(np.float32),
                    [(0, missing)] + [(0, 0)] * (values.ndim - 1),
                    constant_values=fill.get(name, 0.0),
                )
            )
            for name, values in fields.items()
        }
    )


def _area(scales: np.ndarray) -> np.ndarray:
    """[N] areas of Gaussians seen along their shortest axis, from [N, 3] standard deviations."""
    ordered = np.sort(scales, axis=1)
    return 2.0 * np.pi * ordered[:, 1] * ordered[:, 2]
