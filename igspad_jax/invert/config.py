"""Settings and results of both solvers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
from flax import struct

from igspad_jax.errors import InputError
from igspad_jax.invert.gradients import GradientMode
from igspad_jax.invert.poses import Pivot

# [..., H, W] weights of the images at [n, ..., 4, 4] poses: where the differences count.
Sampler = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class AdamConfig:
    """The paper's descent.

    Attributes:
        steps: optimiser steps.
        rate: learning rate, in radians and object radii.
        late_rate: learning rate from `late_step` on.
        late_step: step at which the rate drops.
        pivot: what rotations turn about: "object", or "camera" as in the paper.
        gradient: "autodiff", "analytic" (the same, by formula), or "paper" (the covariance left
            out of the translation's part).
        sampling_refresh: steps after which renders are matched with the images again.
    """

    steps: int = 300
    rate: float = 0.01
    late_rate: float = 0.001
    late_step: int = 200
    pivot: Pivot = "object"
    gradient: GradientMode = "autodiff"
    sampling_refresh: int = 100


@dataclasses.dataclass(frozen=True)
class LevenbergConfig:
    """Levenberg-Marquardt from coarse to fine; the tuples hold one value a level.

    Attributes:
        widths: of the images in pixels; 0 is the images' own width, and none is wider.
        blurs: standard deviations in pixels of the level's blur of images and renders.
        merge_cells: Gaussians are merged within cells of the object's radius over this; 0 merges
            none.
        steps: at most.
        deltas: difference at which its weight has fallen to a half.
        translation_penalties: cost, in units of the image, of moving the object by its radius.
        hypotheses_kept: number of hypotheses of an image, the best ones, that go on after the
            level; 1 at the last.
        extra_turn: degrees by which the first hypothesis is turned about the object to the left,
            right, up and down, for four more hypotheses; 0 adds none.
        readmit_level: level that the first hypothesis enters once more, as it was given: where much
            of the object is missing, coarse levels can move a good one away. 0 is never.
        damping: of the first step of each level.
        tolerance: a step that moves the object by fewer pixels ends the level.
        exposure: whether gain and bias of the object's colours are solved for with the pose.
    """

    widths: tuple[int, ...] = (50, 50, 100, 0)
    blurs: tuple[float, ...] = (4.0, 1.5, 0.5, 0.0)
    merge_cells: tuple[int, ...] = (12, 12, 24, 0)
    steps: tuple[int, ...] = (10, 6, 5, 8)
    deltas: tuple[float, ...] = (0.2, 0.05, 0.05, 0.05)
    translation_penalties: tuple[float, ...] = (0.002, 0.0, 0.0, 0.0)
    hypotheses_kept: tuple[int, ...] = (2, 1, 1, 1)
    extra_turn: float = 25.0
    readmit_level: int = 2
    damping: float = 0.01
    tolerance: float = 0.05
    exposure: bool = False

    def __post_init__(self) -> None:
        """Check that the settings fit each other.

        Raises:
            InputError: if the tuples differ in length, or there is no level `readmit_level`.
        """
        lengths = {
            f.name: len(value)
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), tuple)
        }
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{name} {count}" for name, count in lengths.items())
            raise InputError(f"setting config.invert.levenberg: levels differ in number ({counts})")
        if self.readmit_level >= len(self):
            raise InputError(
                f"setting config.invert.levenberg.readmit_level: there is no level "
                f"{self.readmit_level}; 0 (never) to {len(self) - 1} are there"
            )

    def __len__(self) -> int:
        """The number of levels."""
        return len(self.widths)


@dataclasses.dataclass(frozen=True)
class InvertConfig:
    """How poses are found.

    Attributes:
        solver: "levenberg" or "adam".
        batch: images inverted at once.
        sampling: whether matching point sampling weights the differences; never at the coarsest
            level, where poses are too rough to match at.
        sampling_radius: k of equation 4, as a share of the image's width.
        sampling_min_points: fewer matches than this and the whole image counts.
        adam: settings of that solver.
        levenberg: settings of that solver.
    """

    solver: Literal["levenberg", "adam"] = "levenberg"
    batch: int = 8
    sampling: bool = False
    sampling_radius: float = 0.1
    sampling_min_points: int = 12
    adam: AdamConfig = dataclasses.field(default_factory=AdamConfig)
    levenberg: LevenbergConfig = dataclasses.field(default_factory=LevenbergConfig)

    @property
    def steps(self) -> int:
        """Steps an image takes at most."""
        return self.adam.steps if self.solver == "adam" else sum(self.levenberg.steps)


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
