"""What the choices behind the image score are worth, on finished runs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from igspad_jax.evaluate import auroc, pixel_metrics
from igspad_jax.evaluate.tables import Table, format_value
from igspad_jax.inspector import Calibration, Inspector, PoseEstimate
from igspad_jax.progress import tracked
from igspad_jax.settings import DetectConfig

# The paper's score, one change after the other, and neighbours of what is the default.
VARIANTS: dict[str, dict[str, Any]] = {
    "the paper's: no expectation, windows of 2.5 %": {
        "expected_strength": 0.0, "pool": 0.025, "normalise": 0.0,
    },
    "expectation over all views": {"expected_views": 0, "pool": 0.025, "normalise": 0.0},
    "expectation by direction": {"pool": 0.025, "normalise": 0.0},
    "windows of 1.5 %": {"normalise": 0.0},
    "normalised (the default)": {},
    "normalised fully": {"normalise": 1.0},
    "3 views": {"expected_views": 3},
    "12 views": {"expected_views": 12},
    "strength 0.06": {"expected_strength": 0.06},
    "strength 0.25": {"expected_strength": 0.25},
    "strength 0.5": {"expected_strength": 0.5},
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Inspected:
    """An image with a pose.

    Attributes:
        image: [H, W, 3] in [0, 1].
        pose: the estimate.
        mask: [H, W] region of the defect, empty for a good image; None for a calibration image.
    """

    image: np.ndarray
    pose: PoseEstimate
    mask: np.ndarray | None = None


def score_figures(
    name: str, inspector: Inspector, images: Sequence[Inspected], rate: float
) -> dict[str, dict[str, float]]:
    """Figures of each variant on one category.

    Args:
        name: of the category.
        inspector: calibrated; its scene, features and expectation are taken.
        images: calibration images that are not left out, and test images.
        rate: promised false-alarm rate.

    Returns:
        By variant: `image_auroc`, `pixel_ap`, `mean_image_ap`, and at the rate `false_alarms` and
        `found`.
    """
    compared = []
    for one in tracked(images, f"compare {name}", "image"):
        render = inspector.render([one.pose])
        compared.append(inspector.comparison.anomaly_maps(one.image[None], render)[0])
    figures = {}
    for variant, changed in VARIANTS.items():
        detect = dataclasses.replace(DetectConfig(features=inspector.comparison.name), **changed)
        inspector.config = dataclasses.replace(inspector.config, detect=detect)
        maps = [
            inspector.discount(anomaly_map, one.pose.viewmat)
            for anomaly_map, one in zip(compared, images, strict=True)
        ]
        figures[variant] = _figures(inspector, images, maps, rate)
    return figures


def score_tables(figures: Mapping[str, Mapping[str, Mapping[str, float]]], rate: float) -> Table:
    """A table of the figures of several categories, by category and variant."""
    keys = ("image_auroc", "pixel_ap", "mean_image_ap", "false_alarms", "found")
    rows = []
    for variant in VARIANTS:
        own = {name: by_variant[variant] for name, by_variant in figures.items()}
        cells = [format_value(figure["image_auroc"], 3) for figure in own.values()]
        means = [float(np.mean([figure[key] for figure in own.values()])) for key in keys]
        rows.append((variant, *cells, *(format_value(mean, 3) for mean in means)))
    columns = (
        "score", *figures, "mean image AUROC", "pixel AP", "mean AP of an image",
        f"false alarms at {rate:.0%}", "found",
    )  # fmt: skip
    notes = ("by category: image AUROC; the others are means of the categories",)
    return Table("Image scores", columns, tuple(rows), notes)


def _figures(
    inspector: Inspector, images: Sequence[Inspected], maps: Sequence[np.ndarray], rate: float
) -> dict[str, float]:
    pairs = list(zip(images, maps, strict=True))
    calibration = [inspector.score(anomaly_map) for one, anomaly_map in pairs if one.mask is None]
    threshold = Calibration(tuple(sorted(calibration)), 1.0, 180.0).threshold(rate)
    tests = [(one.mask, anomaly_map) for one, anomaly_map in pairs if one.mask is not None]
    masks, test_maps = [mask for mask, _ in tests], [anomaly_map for _, anomaly_map in tests]
    scores = np.array([inspector.score(anomaly_map) for anomaly_map in test_maps])
    labels = np.array([mask.any() for mask in masks])
    pixels = pixel_metrics(test_maps, masks)
    return {
        "image_auroc": auroc(scores, labels),
        "pixel_ap": pixels["pixel_ap"],
        "mean_image_ap": pixels["mean_image_ap"],
        "false_alarms": float(np.mean(scores[~labels] > threshold)),
        "found": float(np.mean(scores[labels] > threshold)),
    }
