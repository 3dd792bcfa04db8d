"""Whether a pose can be trusted, and if not, why."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from igspad_jax.cameras import hat
from igspad_jax.invert.config import Inversion
from igspad_jax.invert.residuals import plain_exposures, residuals_at
from igspad_jax.normal_object import NormalObject

_VIEWS = 24  # training views that tell what is usual
_BATCH = 8
_TIMES = 4.0  # how many times the usual residual is out of the ordinary
_ROOM = 0.1  # and by how much it must lie above the usual, however good the scene


@dataclasses.dataclass(frozen=True)
class TypicalResiduals:
    """What `residuals_at` says of normal images at their true poses.

    Attributes:
        median: of the training views looked at.
        largest: of the same.
    """

    median: float
    largest: float

    @property
    def limit(self) -> float:
        """The residual above which a pose is doubted."""
        return max(_TIMES * self.median, self.median + _ROOM, self.largest)


def typical_residuals(
    model: NormalObject, images: np.ndarray, viewmats: np.ndarray
) -> TypicalResiduals:
    """Learns from normal images of known pose, evenly chosen, what residual is usual.

    Args:
        model: the object.
        images: [n, H, W, 3] training images.
        viewmats: [n, 4, 4] their poses.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, _VIEWS).round().astype(int))
    found = []
    for first in range(0, len(chosen), _BATCH):
        # Always the same number of renders: another one would cost a compilation.
        batch = np.resize(chosen[first : first + _BATCH], min(_BATCH, len(chosen)))
        poses = viewmats[batch][:, None]
        found += list(residuals_at(model, images[batch], poses, plain_exposures(poses))[:, 0])
    found = np.array(found)
    return TypicalResiduals(float(np.median(found)), float(np.max(found)))


def doubts_of(inversion: Inversion, index: int, typical: TypicalResiduals) -> list[str]:
    """Why the pose of image `index` cannot be trusted, in a few words each; empty if it can be."""
    residual = float(inversion.residuals[index])
    if not np.isfinite(inversion.viewmats[index]).all() or not np.isfinite(residual):
        return ["no pose found"]
    if residual > typical.limit:
        return [
            f"render and image disagree: {residual:.0%} unexplained, up to {typical.limit:.0%} is "
            "usual"
        ]
    return []


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
