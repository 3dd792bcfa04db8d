"""What a report is made of, and the order in which it shows its images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from igspad_jax.data import GOOD, UNLABELLED
from igspad_jax.evaluate.metrics import average_precision
from igspad_jax.evaluate.poses import GROSS_DEGREES

OFF_DEGREES = 1.0
# What an image is shown for, in the order of the report.
_ORDER = ("pose failed", "pose off", "missed", "false alarm", "UNSURE", "FAIL", "PASS")


@dataclass(frozen=True)
class ImageRecord:
    """What a report shows of one inspected image.

    Images are float [H, W, 3] in [0, 1] or uint8 [H, W, 3] (a quarter of the memory), RGB.

    Attributes:
        name: the image's name, unique in its category.
        kind: "good", the kind of defect, or "unlabelled".
        image: the image.
        render: the normal object at the estimated pose.
        anomaly_map: float32 [h, w] anomaly map.
        score: image score.
        verdict: "PASS", "FAIL" or "UNSURE".
        p_value: how often a normal image would score as high.
        doubts: why the image cannot be judged; empty unless the verdict is UNSURE.
        boxes: left, top, width and height of each region in pixels of the map, strongest first.
        mask: [h, w] bool ground truth; None where unknown, or for a good image.
        degrees: rotation error of the estimated pose; None where the true pose is unknown.
        percent: error of the camera centre, in per cent of its distance to the object.
        initial_degrees: rotation error of the initial pose.
        losses: [steps] loss of the inversion.
    """

    name: str
    kind: str
    image: np.ndarray
    render: np.ndarray
    anomaly_map: np.ndarray
    score: float
    verdict: str
    p_value: float
    doubts: Sequence[str]
    boxes: Sequence[Sequence[float]]
    mask: np.ndarray | None = None
    degrees: float | None = None
    percent: float | None = None
    initial_degrees: float | None = None
    losses: np.ndarray | None = None

    @property
    def gross(self) -> bool:
        """Whether the pose is known to be wrong by more than `GROSS_DEGREES`, or not finite."""
        return self.degrees is not None and not self.degrees <= GROSS_DEGREES

    @property
    def pose_fault(self) -> str:
        """What is known to be wrong with the pose, or ""."""
        off = self.degrees is not None and not self.degrees <= OFF_DEGREES
        return "pose failed" if self.gross else "pose off" if off else ""

    @property
    def mistake(self) -> str:
        """What is known to be wrong with the verdict, or ""."""
        if self.kind == GOOD:
            return "false alarm" if self.verdict == "FAIL" else ""
        return "missed" if self.kind != UNLABELLED and self.verdict == "PASS" else ""

    @property
    def taken_for(self) -> str:
        """The label, "normal" or "defective"; where unlabelled the verdict's, or "" if UNSURE."""
        if self.kind == UNLABELLED:
            return {"PASS": "normal", "FAIL": "defective"}.get(self.verdict, "")
        return "normal" if self.kind == GOOD else "defective"


@dataclass(frozen=True)
class CategoryReport:
    """What a report shows of one category.

    Attributes:
        name: the category's name.
        metrics: as in its metrics.json.
        records: its inspected images, in any order.
        threshold: score above which an image fails; inf if nothing can be judged.
        calibration_scores: image scores of the calibration images.
        statement: what the calibration images support, in words.
        train_history: "psnr" (dB) and "seconds" or "step", of one length; None without training.
    """

    name: str
    metrics: Mapping[str, Any]
    records: Sequence[ImageRecord]
    threshold: float
    calibration_scores: Sequence[float]
    statement: str
    train_history: Mapping[str, Sequence[float]] | None = None


def kind_order(kind: str) -> tuple[bool, bool, str]:
    """Sort kinds by this: good, the kinds of defect by name, unlabelled."""
    return kind != GOOD, kind == UNLABELLED, kind


def image_ap(record: ImageRecord) -> float | None:
    """Average precision of the record's map; None without a mask of the map's size."""
    if (
        record.mask is None
        or not record.mask.any()
        or record.mask.shape != record.anomaly_map.shape
    ):
        return None
    return average_precision(record.anomaly_map, record.mask)


def wrongness(records: Sequence[ImageRecord]) -> list[float]:
    """How wrong each image's score and map are, from 0 to 1; 0 where unlabelled.

    A good image's is the share of defective images that do not score above it. A defective one's
    is the share of good images that do not score below it, averaged with 1 - the average precision
    of its map where it has a mask. Ties count half.
    """
    good = np.array([r.score for r in records if r.kind == GOOD])
    defective = np.array([r.score for r in records if r.kind not in (GOOD, UNLABELLED)])

    def own(record: ImageRecord) -> float:
        if record.kind == UNLABELLED:
            return 0.0
        others, ahead = (defective, -1.0) if record.kind == GOOD else (good, 1.0)
        lost = 0.5 + 0.5 * ahead * np.sign(others - record.score)
        share = float(lost.mean()) if lost.size else 0.0
        ap = image_ap(record)
        return share if ap is None else 0.5 * (share + 1.0 - ap)

    return [own(record) for record in records]


def worst_first(records: Sequence[ImageRecord]) -> list[int]:
    """The order in which a report shows its images, as indices.

    Images whose pose is known to be wrong come first: above `GROSS_DEGREES`, then above
    `OFF_DEGREES`, each by the error; then missed defects, false alarms, and the others by verdict:
    UNSURE, FAIL, PASS; each by `wrongness`, and the unlabelled ones last, by their score.
    """
    wrong = wrongness(records)

    def key(i: int) -> tuple[int, bool, float]:
        record = records[i]
        group = _ORDER.index(record.pose_fault or record.mistake or record.verdict)
        if record.pose_fault:
            finite = record.degrees is not None and np.isfinite(record.degrees)
            return group, False, -(record.degrees or 0.0) if finite else -np.inf
        unlabelled = record.kind == UNLABELLED
        return group, unlabelled, -record.score if unlabelled else -wrong[i]

    return sorted(range(len(records)), key=key)
