"""What both solvers return."""

from collections.abc import Callable

import numpy as np
from flax import struct

# [..., H, W] weights of the images at [n, ..., 4, 4] poses: where the differences count.
Sampler = Callable[[np.ndarray], np.ndarray]


class Inversion(struct.PyTreeNode):
    """Poses of n images.

    Attributes:
        viewmats: [n, 4, 4] estimated poses.
        exposures: [n, 2] gain and bias of the object's colours; 1 and 0 where not solved for.
        path: [n, steps + 1, 4, 4] poses from the start on; an image that converged before
            others of its batch repeats its last pose.
        losses: [n, steps + 1] robust difference at each pose of the path; each level of the
            second-order solver has its own measure. NaN where it was not measured: at the last pose
            of "adam", and before a hypothesis was readmitted.
        chosen: [n] the given hypothesis that the pose comes from.
        renders: [n, H, W, 3] the object at the estimated poses.
        residuals: [n] truncated difference between render and image, see `NormalObject.residuals`.
        covariances: [n, 6, 6] of the twist about the object (object radii, radians), for
            independent noise; NaN for "adam".
        settled: [n] whether the solver converged.
        sampled: [n, refreshes] share of the image that each set of weights let count.
    """

    viewmats: np.ndarray
    exposures: np.ndarray
    path: np.ndarray
    losses: np.ndarray
    chosen: np.ndarray
    renders: np.ndarray
    residuals: np.ndarray
    covariances: np.ndarray
    settled: np.ndarray
    sampled: np.ndarray
