"""Figures of inversions with known true poses: success, errors, steps and seconds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.starts import Level

SUCCESS = Level(0.5, 0.5)  # default errors below which a pose is found
_WIDER = Level(0.5, 1.0)


def _finite(values: Sequence[float | None] | np.ndarray) -> np.ndarray:
    """Errors as numbers; a pose that is not finite is infinitely wrong."""
    return np.nan_to_num(np.asarray(values, float), nan=np.inf)


def succeeded(
    degrees: Sequence[float | None] | np.ndarray,
    percent: Sequence[float | None] | np.ndarray,
    threshold: Level,
) -> np.ndarray:
    """Bool [...]: both errors [...] below the threshold."""
    return (_finite(degrees) < threshold.degrees) & (_finite(percent) < threshold.percent)


def steps_until(image: Mapping[str, Any], threshold: Level) -> int | None:
    """The step from which on a path stays inside a threshold; None if it ends outside.

    Args:
        image: as `experiments.runs.run_grid` leaves it.
        threshold: errors to stay below.
    """
    inside = succeeded(image["path_degrees"], image["path_percent"], threshold)
    outside = np.flatnonzero(~inside)
    first = int(outside[-1]) + 1 if outside.size else 0
    return first if first < len(inside) else None


def clock_of(device: str) -> str:
    """Name the seconds to compare: a CPU's own, which other programs hardly change, or a GPU's."""
    return "cpu_seconds" if device == "cpu" else "seconds"


def summary(images: Sequence[Mapping[str, Any]], threshold: Level) -> dict[str, Any]:
    """The figures of a cell, or of several together.

    Args:
        images: as `experiments.runs.run_grid` leaves them.
        threshold: errors below which a pose is found.
    """
    degrees = _finite([image["degrees"] for image in images])
    percent = _finite([image["percent"] for image in images])
    reached = [steps_until(image, threshold) for image in images]
    steps = [step for step in reached if step is not None]
    return {
        "images": len(images),
        "success": float(np.mean(succeeded(degrees, percent, threshold))),
        "share_below_0.5deg_1pct": float(np.mean(succeeded(degrees, percent, _WIDER))),
        "median_degrees": float(np.median(degrees)),
        "median_percent": float(np.median(percent)),
        "median_steps": float(np.median(steps)) if steps else None,
        "cpu_seconds": float(np.median([image["cpu_seconds"] for image in images])),
        "seconds": float(np.median([image["seconds"] for image in images])),
    }


def convergence(
    images: Sequence[Mapping[str, Any]], clock: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The typical course of inversions.

    Args:
        images: of one method, as for `summary`.
        clock: "cpu_seconds" or "seconds".

    Returns:
        [steps + 1] step numbers, the median seconds until each, and the median rotation error in
        degrees at each.
    """
    degrees = np.median([_finite(image["path_degrees"]) for image in images], axis=0)
    steps = np.arange(len(degrees))
    column = {"cpu_seconds": 1, "seconds": 2}[clock]
    times = []
    for image in images:
        known = np.asarray(image["clock"], float)
        times.append(np.interp(steps, known[:, 0], known[:, column]))
    return steps, np.median(times, axis=0), degrees
