"""Errors of estimated poses."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from igspad_jax.cameras import pose_errors
from igspad_jax.errors import InputError

GROSS_DEGREES = 5.0
_OFF_DEGREES = 2.0


def pose_metrics(
    estimated: np.ndarray,
    true: np.ndarray,
    centre: np.ndarray,
    names: Sequence[str],
    flagged: np.ndarray | None = None,
) -> dict[str, Any]:
    """Errors of estimated poses, per image and in summary.

    A pose that is not finite has no error: it is a gross failure, misses every share, and is left
    out of medians, means and percentiles.

    Args:
        estimated: [n, 4, 4] estimated viewmats.
        true: [n, 4, 4] true viewmats.
        centre: [3] the object's centre in the world.
        names: n image names.
        flagged: [n] bool, True where the program itself doubted the pose; None where it does not
            say.

    Returns:
        Figures in degrees (rotation) and per cent (camera centre, of its distance to `centre`), as
        described in docs/metrics.md.

    Raises:
        InputError: for lengths that disagree.
    """
    lengths = [len(estimated), len(true), len(names), len(names if flagged is None else flagged)]
    if len(set(lengths)) > 1:
        raise InputError(
            f"pose_metrics: {lengths[0]} estimated poses, {lengths[1]} true poses, {lengths[2]} "
            f"names, {lengths[3]} flags; pass one of each per image"
        )
    finite = np.isfinite(np.asarray(estimated, np.float64)).all(axis=(-2, -1))
    degrees = np.full(len(names), np.nan)
    percent = np.full(len(names), np.nan)
    degrees[finite], percent[finite] = pose_errors(
        np.asarray(estimated)[finite], np.asarray(true)[finite], centre
    )
    gross = ~(degrees <= GROSS_DEGREES)
    result: dict[str, Any] = {
        "images": len(names),
        "without_pose": int(np.count_nonzero(~finite)),
        **_spread("degrees", degrees[finite]),
        **_spread("percent", percent[finite]),
        "share_below_0.5deg": _share(degrees < 0.5),
        "share_below_0.5deg_1pct": _share((degrees < 0.5) & (percent < 1.0)),
        "share_below_1deg": _share(degrees < 1.0),
        "share_below_2deg": _share(degrees < 2.0),
        "gross_count": int(np.count_nonzero(gross)),
        "gross_failures": [name for name, bad in zip(names, gross, strict=True) if bad],
        "image_errors": {
            name: {"degrees": float(d), "percent": float(p)}
            for name, d, p in zip(names, degrees, percent, strict=True)
        },
    }
    if flagged is not None:
        flagged = np.asarray(flagged, bool)
        result["flagged_count"] = int(np.count_nonzero(flagged))
        result["gross_flagged_count"] = int(np.count_nonzero(flagged & gross))
        off = ~(degrees <= _OFF_DEGREES)
        result["off_unflagged"] = [
            name for name, bad, seen in zip(names, off, flagged, strict=True) if bad and not seen
        ]
        result["flagged_within_count"] = int(np.count_nonzero(flagged & ~off))
    return result


def _spread(unit: str, values: np.ndarray) -> dict[str, float]:
    if values.size == 0:
        return {f"{name}_{unit}": float("nan") for name in ("median", "mean", "p90")}
    return {
        f"median_{unit}": float(np.median(values)),
        f"mean_{unit}": float(np.mean(values)),
        f"p90_{unit}": float(np.percentile(values, 90)),
    }


def _share(hits: np.ndarray) -> float:
    return float(np.mean(hits)) if hits.size else float("nan")
