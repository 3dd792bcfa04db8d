"""What an inspector says of an image."""

import dataclasses
import enum
from typing import Any, Self

import numpy as np


class Verdict(enum.StrEnum):
    """Whether an image shows a defect."""

    PASS = "PASS"
    FAIL = "FAIL"
    UNSURE = "UNSURE"


@dataclasses.dataclass(frozen=True, eq=False)
class PoseEstimate:
    """The pose of an image, and how it was found.

    Attributes:
        viewmat: float32 [4, 4] world to camera.
        exposure: [2] gain and bias of the object's colours; 1 and 0 where not solved for.
        residual: how badly the render explains the image, see `NormalObject.residuals`.
        settled: whether the solver came to rest.
        sigma_degrees: standard deviation of the rotation for independent noise; NaN if unknown.
        sigma_percent: of the camera's centre, in per cent of its distance to the object.
        first_viewmat: [4, 4] the first hypothesis.
        initial_viewmat: [4, 4] the hypothesis that the solver went on with.
        initial_source: the way that proposed it.
        initial_view: index of the training view that it rests on most.
        losses: [steps + 1] robust difference at each step of the solver.
        sampled: share of the image that each set of sampling weights let count.
    """

    viewmat: np.ndarray
    exposure: np.ndarray
    residual: float
    settled: bool
    sigma_degrees: float
    sigma_percent: float
    first_viewmat: np.ndarray
    initial_viewmat: np.ndarray
    initial_source: str
    initial_view: int
    losses: np.ndarray
    sampled: np.ndarray

    def as_json(self) -> dict[str, Any]:
        """The estimate as a dictionary that `from_json` reads."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read what `as_json` wrote, after a file."""
        values = dict(content)
        for name in ("viewmat", "exposure", "losses", "sampled"):
            # A file holds null where memory holds NaN.
            values[name] = np.array(values[name], np.float32)
        for name in ("first_viewmat", "initial_viewmat"):
            values[name] = np.array(values[name], np.float64)
        for name in ("sigma_degrees", "sigma_percent", "residual"):
            values[name] = float("nan") if values[name] is None else values[name]
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class Region:
    """A connected part of an image where it differs from the normal object.

    Pixels are those of the image that was inspected: of the photograph as it was taken, or within
    the program of the working camera.

    Attributes:
        area: in pixels.
        peak: largest value of the pooled map, in units of the image score.
        box: left, top, width and height in pixels.
        pixel: x, y of the peak in pixels.
        point: [3] point of the object's surface there, in the world; None beside the object.
    """

    area: int
    peak: float
    box: tuple[int, int, int, int]
    pixel: tuple[float, float]
    point: tuple[float, float, float] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Inspection:
    """What an inspector says of an image.

    Attributes:
        verdict: PASS, FAIL or UNSURE.
        doubts: why the image cannot be judged; empty unless the verdict is UNSURE.
        p_value: how often a normal image would score as high, by the calibration images.
        score: image score.
        threshold: score above which an image fails.
        anomaly_map: float32 [H, W] difference from the normal object.
        level: the map's own level, by which the score is divided.
        edge: score at which a region ends.
        regions: where the image differs most, the strongest first.
        pose: the estimated pose.
    """

    verdict: Verdict
    doubts: tuple[str, ...]
    p_value: float
    score: float
    threshold: float
    anomaly_map: np.ndarray
    level: float
    edge: float
    regions: tuple[Region, ...]
    pose: PoseEstimate

    @property
    def viewmat(self) -> np.ndarray:
        """[4, 4] estimated pose, world to camera."""
        return self.pose.viewmat

    def as_json(self) -> dict[str, Any]:
        """All but the map and how the pose was found, for `write_json`."""
        pose = {
            name: getattr(self.pose, name)
            for name in ("viewmat", "exposure", "residual", "sigma_degrees", "sigma_percent")
        }
        return {
            "verdict": str(self.verdict),
            "doubts": list(self.doubts),
            "p_value": self.p_value,
            "score": self.score,
            "threshold": self.threshold,
            "regions": [dataclasses.asdict(region) for region in self.regions],
            **pose,
        }
