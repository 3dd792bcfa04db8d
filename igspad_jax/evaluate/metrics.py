"""Exact ranking metrics of anomaly maps and image scores.

Everything follows from one fact per positive: how many negatives score above it, and how many at
or above it. Sorting the negatives once gives both by binary search, so no threshold is binned and
ties are exact. A metric that is undefined, for want of positives or of negatives, is NaN.

Higher scores mean more anomalous; positives are the defective pixels or images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import ndimage

AUPRO_LIMIT = 0.3
_EIGHT_NEIGHBOURS = np.ones((3, 3), int)


@dataclass(frozen=True)
class _Ranks:
    """Positives ranked against negatives.

    Attributes:
        positives: [P] scores, ascending.
        above: [P] number of negatives that score higher.
        at_or_above: [P] number of negatives that score higher or the same.
        negatives: number of negatives.
    """

    positives: np.ndarray
    above: np.ndarray
    at_or_above: np.ndarray
    negatives: int


def _rank(positives: np.ndarray, negatives: np.ndarray) -> _Ranks:
    """Ranks ascending positives; sorts `negatives` in place to save a copy of the largest array."""
    negatives.sort()
    count = negatives.size
    return _Ranks(
        positives,
        count - np.searchsorted(negatives, positives, side="right"),
        count - np.searchsorted(negatives, positives, side="left"),
        count,
    )


def _auroc(ranks: _Ranks) -> float:
    if ranks.positives.size == 0 or ranks.negatives == 0:
        return float("nan")
    # A tie counts as half a pair won: the trapezoid under a tied step of the curve.
    lost = 0.5 * (ranks.above.mean() + ranks.at_or_above.mean())
    return float(1.0 - lost / ranks.negatives)


def _average_precision(ranks: _Ranks) -> float:
    total = ranks.positives.size
    if total == 0:
        return float("nan")
    changes = np.flatnonzero(ranks.positives[1:] != ranks.positives[:-1]) + 1
    first = np.concatenate([[0], changes])
    true_positives = total - first
    precision = true_positives / (true_positives + ranks.at_or_above[first])
    return float(np.sum(np.diff(np.append(first, total)) * precision) / total)


def _aupro(ranks: _Ranks, weights: np.ndarray, limit: float) -> float:
    if ranks.positives.size == 0 or ranks.negatives == 0:
        return float("nan")
    # The overlap curve is a sum over positive pixels: pixel p lifts it by weights[p], linearly
    # while the false positive rate goes from `start` to `end`. The area is the sum of theirs.
    start = ranks.above / ranks.negatives
    end = ranks.at_or_above / ranks.negatives
    full = limit - 0.5 * (start + end)
    cut = 0.5 * np.square(limit - start) / np.where(end > start, end - start, 1.0)
    area = np.where(end <= limit, full, np.where(start < limit, cut, 0.0))
    return float(np.sum(weights * area) / (weights.sum() * limit))


def _split(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ascending positives, and a fresh copy of the negatives."""
    scores, labels = np.ravel(scores), np.ravel(labels).astype(bool)
    return np.sort(scores[labels]), scores[~labels]


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve.

    Args:
        scores: scores of any shape, finite.
        labels: True for positives, same shape.

    Returns:
        The share of (positive, negative) pairs in the right order, ties counting half; NaN without
        positives or without negatives.
    """
    return _auroc(_rank(*_split(scores, labels)))


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Average precision, the step-wise sum of (R_n - R_{n-1}) P_n over distinct thresholds.

    Args:
        scores: scores of any shape, finite.
        labels: True for positives, same shape.

    Returns:
        The average precision; NaN without positives; 1 without negatives.
    """
    return _average_precision(_rank(*_split(scores, labels)))


def region_weights(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """What each defective pixel adds to the summed overlap of the regions.

    Args:
        mask: [h, w] bool ground truth.

    Returns:
        One over the size of its 8-connected region for each pixel of `mask[mask]`, and the number
        of regions.
    """
    labels, count = cast(tuple[np.ndarray, int], ndimage.label(mask, structure=_EIGHT_NEIGHBOURS))
    inside = labels[mask]
    return 1.0 / np.bincount(inside, minlength=count + 1)[inside], count


def pixel_metrics(
    maps: Sequence[np.ndarray], masks: Sequence[np.ndarray], limit: float = AUPRO_LIMIT
) -> dict[str, float | int]:
    """Pixel metrics over the pooled pixels of all images, from a single sort.

    Memory beyond the arguments: one copy of the normal pixels, in the maps' own type, and about 40
    bytes a defective pixel.

    Args:
        maps: anomaly maps, each [h, w], finite; the sizes may differ.
        masks: ground truth, each bool [h, w], True where defective.
        limit: false positive rate up to which AUPRO is integrated.

    Returns:
        `pixel_auroc`, `pixel_ap`; `aupro`, the overlap of a ground-truth region averaged over all
        8-connected regions, integrated over the false positive rate from 0 to `limit` and divided
        by `limit` (Bergmann et al., MVTec AD, IJCV 2021), with linear interpolation between
        thresholds; `mean_image_ap`, the average precision of each image with defective pixels,
        averaged over these; and `regions`, the number of regions. NaN where undefined.
    """
    inside, weights, image_aps, regions = [], [], [], 0
    dtype = np.result_type(*maps) if len(maps) else np.dtype(np.float32)
    negatives = np.empty(sum(int(np.size(m) - np.count_nonzero(m)) for m in masks), dtype)
    filled = 0
    for anomaly_map, mask in zip(maps, masks, strict=True):
        normal = anomaly_map[~mask]
        negatives[filled : filled + normal.size] = normal
        filled += normal.size
        if mask.any():
            inside.append(anomaly_map[mask])
            weight, count = region_weights(mask)
            weights.append(weight)
            regions += count
            image_aps.append(_average_precision(_rank(np.sort(inside[-1]), normal)))
    positives = np.concatenate(inside) if inside else np.empty(0, dtype)
    order = np.argsort(positives)
    ranks = _rank(positives[order], negatives)
    weight = np.concatenate(weights)[order] if weights else np.empty(0)
    return {
        "pixel_auroc": _auroc(ranks),
        "pixel_ap": _average_precision(ranks),
        "aupro": _aupro(ranks, weight, limit),
        "mean_image_ap": float(np.mean(image_aps)) if image_aps else float("nan"),
        "regions": regions,
    }
