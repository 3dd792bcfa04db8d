"""The evaluation of one category's anomaly maps and image scores.

Results are nested dicts of plain numbers, ready for `write_metrics`; docs/metrics.md describes
every key.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from igspad_jax.errors import InputError
from igspad_jax.evaluate.metrics import auroc, pixel_metrics

NATIVE = "native"
PEER_SIZES = (224, 400)


def evaluate_maps(
    maps: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    labels: np.ndarray,
    scores: np.ndarray,
    kinds: Sequence[str],
    sizes: Sequence[int] = PEER_SIZES,
) -> dict[str, Any]:
    """Evaluates one category: overall and per kind of defect, at several sizes.

    The image's own size always comes first. At a size s, as in PAD and SplatPose (224) and PIAD
    (400), maps are resized bilinearly and masks by nearest neighbour until the shorter side is s;
    smaller images are enlarged. Image scores do not depend on the size.

    A kind's figures are over that kind's images and all good ones: for the image AUROC as for the
    pool of pixels. A defective image without a mask counts for the image AUROC alone.

    Args:
        maps: n anomaly maps, each float32 [h, w].
        masks: n ground truths, each bool [h, w]; None for a good image, or where not known.
        labels: [n] bool, True where the image is defective.
        scores: [n] image scores.
        kinds: n kinds of defect; those of good images are not read.
        sizes: shorter sides in pixels to evaluate at, beside the image's own.

    Returns:
        {"sizes": {"native" | "224" | ...: {"overall": group, "kinds": {kind: group}}},
        "notes": [...]}, a group holding `image_auroc`, `pixel_auroc`, `pixel_ap`, `aupro`,
        `mean_image_ap` and the counts `good`, `defective`, `regions`. Undefined figures are NaN,
        and `notes` says why.

    Raises:
        InputError: for lengths or shapes that disagree, values that are not finite, or a good
            image with defective pixels.
    """
    labels, scores = np.asarray(labels, bool), np.asarray(scores, np.float64)
    masks = _check(maps, masks, labels, scores, kinds)
    groups = {"overall": np.ones(len(maps), bool)}
    of_kind = np.array([str(kind) for kind in kinds], dtype=object)
    for kind in sorted({str(kind) for kind in of_kind[labels]}):
        groups[kind] = ~labels | (of_kind == kind)

    notes: list[str] = []
    unknown = sum(mask is None for mask in masks)
    if unknown:
        notes.append(f"{unknown} defective images without a mask: left out of the pixel figures")
    tables: dict[str, Any] = {}
    for key in (NATIVE, *(str(size) for size in sizes)):
        at_size = _resized(maps, masks, key, notes)
        figures = {
            name: _group(*at_size, labels, scores, np.flatnonzero(member))
            for name, member in groups.items()
        }
        tables[key] = {"overall": figures.pop("overall"), "kinds": figures}
    notes.extend(_undefined(tables[NATIVE]))
    return {"sizes": tables, "notes": notes}


def _check(
    maps: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    labels: np.ndarray,
    scores: np.ndarray,
    kinds: Sequence[str],
) -> list[np.ndarray | None]:
    """Checks the arguments of `evaluate_maps`; an empty mask stands in for a good image's None."""
    lengths = {
        "maps": len(maps),
        "masks": len(masks),
        "labels": len(labels),
        "scores": len(scores),
        "kinds": len(kinds),
    }
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise InputError(f"evaluate_maps: {said}; pass one of each per image")
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise InputError(
            f"evaluate_maps: score of image {bad} is {scores[bad]}; scores must be finite"
        )
    checked: list[np.ndarray | None] = []
    for i, (anomaly_map, mask) in enumerate(zip(maps, masks, strict=True)):
        if not np.isfinite(anomaly_map).all():
            raise InputError(
                f"evaluate_maps: map of image {i} holds NaN or inf; maps must be finite"
            )
        if mask is None and not labels[i]:
            mask = np.zeros(anomaly_map.shape, bool)
        if mask is not None and np.shape(mask) != np.shape(anomaly_map):
            raise InputError(
                f"evaluate_maps: image {i} has a map of {np.shape(anomaly_map)} and a mask of "
                f"{np.shape(mask)}; resize one to the other"
            )
        if mask is not None and not labels[i] and np.any(mask):
            raise InputError(
                f"evaluate_maps: image {i} is labelled good but its mask is not empty; "
                "correct one of them"
            )
        checked.append(None if mask is None else np.asarray(mask, bool))
    return checked


def _resized(
    maps: Sequence[np.ndarray], masks: Sequence[np.ndarray | None], key: str, notes: list[str]
) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Maps and masks at one evaluation size; notes the masks that vanish there."""
    if key == NATIVE:
        return list(maps), list(masks)
    new_maps, new_masks, lost = [], [], 0
    for anomaly_map, mask in zip(maps, masks, strict=True):
        h, w = anomaly_map.shape
        scale = int(key) / min(h, w)
        target = (round(w * scale), round(h * scale))
        new_maps.append(cv2.resize(anomaly_map, target, interpolation=cv2.INTER_LINEAR))
        if mask is None:
            new_masks.append(None)
            continue
        # The exact variant samples at pixel centres, as the peers' image library does.
        small = cv2.resize(mask.astype(np.uint8), target, interpolation=cv2.INTER_NEAREST_EXACT)
        new_masks.append(small.astype(bool))
        lost += bool(mask.any() and not small.any())
    if lost:
        notes.append(f"{key} px: {lost} masks vanish when resized; their pixels count as normal")
    return new_maps, new_masks


def _group(
    maps: list[np.ndarray],
    masks: list[np.ndarray | None],
    labels: np.ndarray,
    scores: np.ndarray,
    members: np.ndarray,
) -> dict[str, float | int]:
    known = [(maps[i], mask) for i in members if (mask := masks[i]) is not None]
    return {
        "image_auroc": auroc(scores[members], labels[members]),
        **pixel_metrics([m for m, _ in known], [mask for _, mask in known]),
        "good": int(np.count_nonzero(~labels[members])),
        "defective": int(np.count_nonzero(labels[members])),
    }


def _undefined(table: Mapping[str, Any]) -> list[str]:
    """Says why figures of the image's own size are NaN."""
    notes = []
    for name, group in {"overall": table["overall"], **table["kinds"]}.items():
        missing = [key for key, value in group.items() if value != value]
        if missing:
            lacks = [
                what
                for what, count in (
                    ("good images", group["good"]),
                    ("defective images", group["defective"]),
                    ("defective pixels", group["regions"]),
                )
                if count == 0
            ]
            why = f"no {' and no '.join(lacks)}" if lacks else "no normal pixels"
            notes.append(f"{name}: {', '.join(missing)} undefined: {why}")
    return notes
