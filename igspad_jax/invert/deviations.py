"""How well an image determines its pose."""

import jax.numpy as jnp
import numpy as np

from igspad_jax.cameras import hat
from igspad_jax.invert.inversion import Inversion
from igspad_jax.normal_object import NormalObject


def deviations(model: NormalObject, inversion: Inversion, index: int) -> tuple[float, float]:
    """Standard deviations of a pose by its covariance, in degrees and in per cent.

    Per cent of the camera's distance to the object, as in `pose_errors`; NaN without a covariance.
    They tell how well the image determines the pose, were its noise independent; the errors of
    the scene itself come on top.
    """
    covariance = np.asarray(inversion.covariances[index], np.float64)
    radius, centre = float(model.radius), np.asarray(model.centre, np.float64)
    viewmat = np.asarray(inversion.viewmats[index], np.float64)
    at = viewmat[:3, :3] @ centre + viewmat[:3, 3]
    # In its own axes the camera moves by -rho + theta x at, the way round opposite to the object's.
    moves = np.hstack([-radius * np.eye(3), -np.asarray(hat(jnp.asarray(at)))])
    return (
        float(np.degrees(np.sqrt(np.trace(covariance[3:, 3:])))),
        float(100.0 * np.sqrt(np.trace(moves @ covariance @ moves.T)) / np.linalg.norm(at)),
    )
