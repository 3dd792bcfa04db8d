"""What a report is made of, and the order in which it shows its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from igspad_jax.evaluate.metrics import average_precision
from igspad_jax.evaluate.poses import GROSS_DEGREES

GOOD = "good"
OFF_DEGREES = 1.0


@dataclass(frozen=True)
class ImageRecord:
    """What a report shows of one test image.

    Images are float [H, W, 3] in [0, 1] or uint8 [H, W, 3] (a quarter of the memory), RGB.

    Attributes:
        name: the image's name, unique in its category.
        kind: "good", or the kind of defect.
        image: the test image.
        render: the normal object at the estimated pose.
        initial_render: the same at the initial pose; None to leave the panel out.
        heat_map: float32 [h, w] anomaly map.
        score: image score.
        mask: [h, w] bool ground truth; None where unknown, or for a good image.
        degrees: rotation error of the estimated pose; None where the true pose is unknown.
        percent: error of the camera centre, in per cent of its distance to the object.
        initial_degrees: rotation error of the initial pose.
        losses: [steps] loss of the inversion.
        flags: what the program itself doubted, in a few words each.
    """

    name: str
    kind: str
    image: np.ndarray
    render: np.ndarray
    initial_render: np.ndarray | None
    heat_map: np.ndarray
    score: float
    mask: np.ndarray | None = None
    degrees: float | None = None
    percent: float | None = None
    initial_degrees: float | None = None
    losses: np.ndarray | None = None
    flags: Sequence[str] = ()

    @property
    def gross(self) -> bool:
        """Whether the pose is known to be wrong by more than `GROSS_DEGREES`, or not finite."""
        return self.degrees is not None and not self.degrees <= GROSS_DEGREES


@dataclass(frozen=True)
class CategoryReport:
    """What a report shows of one category.

    Attributes:
        name: the category's name.
        metrics: as in its metrics.json.
        records: its test images, in any order.
        train_history: "psnr" (dB) and "seconds" or "step", of one length; None without training.
        threshold: score from which an image is called defective; None where none was set.
    """

    name: str
    metrics: Mapping[str, Any]
    records: Sequence[ImageRecord]
    train_history: Mapping[str, Sequence[float]] | None = None
    threshold: float | None = None


def image_ap(record: ImageRecord) -> float | None:
    """Average precision of the record's map; None without a mask of the map's size."""
    if record.mask is None or not record.mask.any() or record.mask.shape != record.heat_map.shape:
        return None
    return average_precision(record.heat_map, record.mask)


def wrongness(records: Sequence[ImageRecord]) -> tuple[list[float], list[str]]:
    """How wrong each image's score and map are, from 0 to 1, and the scores' part in words.

    A good image's is the share of defective images that do not score above it. A defective one's
    is the share of good images that do not score below it, averaged with 1 - the average precision
    of its map where it has a mask. Ties count half.
    """
    scores = np.array([record.score for record in records])
    good = np.array([record.kind == GOOD for record in records], bool)
    wrong, words = [], []
    for record in records:
        others = scores[~good] if record.kind == GOOD else scores[good]
        ahead = others < record.score if record.kind == GOOD else others > record.score
        lost = int(np.count_nonzero(ahead))
        tied = int(np.count_nonzero(others == record.score))
        share = (lost + 0.5 * tied) / others.size if others.size else 0.0
        if record.kind == GOOD:
            words.append(f"above {lost} of {others.size} defective images")
        else:
            words.append(f"below {lost} of {others.size} good images")
        ap = image_ap(record)
        wrong.append(share if ap is None else 0.5 * (share + 1.0 - ap))
    return wrong, words


def worst_first(records: Sequence[ImageRecord]) -> list[int]:
    """The order in which a report shows its images, as indices.

    Images with a wrong pose come first: above `GROSS_DEGREES`, then above `OFF_DEGREES`, each by
    the error; then those whose pose the program itself doubts, and then the others, by
    `wrongness`.
    """
    wrong, _ = wrongness(records)

    def key(i: int) -> tuple[bool, bool, bool, float]:
        record = records[i]
        off = record.gross or (record.degrees is not None and record.degrees > OFF_DEGREES)
        error = record.degrees if off and record.degrees == record.degrees else np.inf
        how = -(error or 0.0) if off else -wrong[i]
        return not record.gross, not off, off or not record.flags, how

    return sorted(range(len(records)), key=key)
