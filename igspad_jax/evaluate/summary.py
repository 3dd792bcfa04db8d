"""Times, the mean over categories, and the metrics as a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from igspad_jax.files import write_json


def time_metrics(
    seconds: Mapping[str, float], images: int, once: Sequence[str] = ("train",)
) -> dict[str, dict[str, float]]:
    """Seconds of each stage, and of each stage that runs per test image, per image.

    Args:
        seconds: stage to its seconds, in the order in which to show them.
        images: number of test images.
        once: stages that run once a category, whatever the number of test images.

    Returns:
        {stage: {"seconds": s, "per_image": s / images}}, without `per_image` for stages in `once`.
    """
    return {
        stage: {"seconds": float(s)}
        | ({} if stage in once or images == 0 else {"per_image": float(s) / images})
        for stage, s in seconds.items()
    }


def aggregate(categories: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The unweighted mean over categories.

    Args:
        categories: category name to its metrics.

    Returns:
        Metrics of the same shape: floats are averaged over the categories where they are defined,
        integers (counts) are added; names, notes and per-image figures are left out. `categories`
        lists the names; `counted` has the same shape again and holds, for each float, the number
        of categories it was averaged over.
    """
    mean, counted = _merge(list(categories.values()))
    return {"categories": list(categories), **mean, "counted": counted}


def write_metrics(path: Path | str, metrics: Mapping[str, Any]) -> Path:
    """Writes metrics as JSON, in one step: a reader sees the old file or the new, never a part.

    Args:
        path: the file; missing folders are made.
        metrics: nested dicts and lists of numbers, strings and NumPy values; what is not finite
            is written as null.

    Returns:
        The path.
    """
    return write_json(path, metrics)


def _merge(trees: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    mean: dict[str, Any] = {}
    counted: dict[str, Any] = {}
    for key in dict.fromkeys(key for tree in trees for key in tree if key != "image_errors"):
        values = [tree[key] for tree in trees if key in tree]
        if isinstance(values[0], Mapping):
            mean[key], counted[key] = _merge(values)
        elif all(isinstance(value, int) for value in values):
            mean[key] = sum(values)
        elif all(isinstance(value, int | float | None) for value in values):
            # Files hold null where memory holds NaN.
            defined = [v for v in values if v is not None and np.isfinite(v)]
            mean[key] = float(np.mean(defined)) if defined else float("nan")
            counted[key] = len(defined)
    return mean, counted
