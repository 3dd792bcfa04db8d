"""Whether a pose lies where the training views have seen the object."""

from __future__ import annotations

import dataclasses

import numpy as np

from igspad_jax.cameras import view_directions

_NEAR = 1  # views whose roll counts: beyond a pole the next ones are upside down themselves
_SAME_SIDE = 90.0  # degrees from an image within which they must be


@dataclasses.dataclass(frozen=True, eq=False)
class Coverage:
    """From where the training views have seen the object.

    Attributes:
        viewmats: [n, 4, 4] of the training views.
        centre: [3] the object's centre in the world.
    """

    viewmats: np.ndarray
    centre: np.ndarray

    def distance(self, viewmat: np.ndarray) -> tuple[float, float]:
        """How far a [4, 4] pose is from the training views.

        Returns:
            Degrees in viewing direction from the nearest view, and the least degrees by which the
            camera is rolled about its optical axis from one of the nearest views.
        """
        directions = view_directions(np.asarray(self.viewmats, np.float64), self.centre)
        own = view_directions(np.asarray(viewmat, np.float64), self.centre)
        degrees = np.degrees(np.arccos(np.clip(directions @ own, -1.0, 1.0)))
        near = np.argsort(degrees, kind="stable")[:_NEAR]
        # Seen from the other side there is no telling which way is up.
        near = near[degrees[near] <= max(_SAME_SIDE, degrees.min())]
        turns = viewmat[:3, :3] @ np.swapaxes(self.viewmats[near, :3, :3], 1, 2)
        # The rotation about z that is left of a turn once its tilt is taken out.
        rolls = np.arctan2(turns[:, 1, 0] - turns[:, 0, 1], turns[:, 0, 0] + turns[:, 1, 1])
        return float(degrees.min()), float(np.degrees(np.abs(rolls)).min())
