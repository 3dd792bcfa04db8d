"""Whether a pose lies where the training views have seen the object."""

import dataclasses

import numpy as np

from igspad_jax.cameras import view_directions


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
            Degrees in viewing direction from the nearest view, and the degrees by which the camera
            is rolled about its optical axis from that view.
        """
        directions = view_directions(np.asarray(self.viewmats, np.float64), self.centre)
        own = view_directions(np.asarray(viewmat, np.float64), self.centre)
        degrees = np.degrees(np.arccos(np.clip(directions @ own, -1.0, 1.0)))
        # Of the nearest view alone: beyond a pole the next ones are upside down themselves.
        nearest = int(degrees.argmin())
        turn = viewmat[:3, :3] @ self.viewmats[nearest, :3, :3].T
        # The rotation about z that is left of a turn once its tilt is taken out.
        roll = np.arctan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1])
        return float(degrees[nearest]), float(np.degrees(np.abs(roll)))
