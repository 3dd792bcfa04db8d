"""The pictures of a report: overlays on test images, encoded as data URIs.

Images come as float [H, W, 3] in [0, 1] or uint8 [H, W, 3], RGB; panels are uint8 [h, w, 3], RGB.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import matplotlib
import numpy as np

TRUTH_COLOUR = (0, 112, 255)
BOX_COLOUR = (0, 165, 70)
_HEAT = matplotlib.colormaps["YlOrRd"]
_JPEG_QUALITY = 82


@dataclass(frozen=True)
class HeatScale:
    """The colours of the anomaly maps of one category, the same for all its images.

    Attributes:
        low: value at which colour begins; below, the image shows alone.
        high: value from which the colour is the darkest.
        normal: value that 99.9 % of normal images' pixels stay below; NaN without such images.
    """

    low: float
    high: float
    normal: float


def heat_scale(normal_maps: list[np.ndarray], other_maps: list[np.ndarray]) -> HeatScale:
    """The colour scale of a category's anomaly maps.

    It starts at the value that 90 % of the normal images' pixels stay below (of all images',
    without normal ones) and ends at the value that 0.1 % of the pixels of the typical (median)
    other image exceed: a few images with a wrong pose do not pale all others. Nor does it end below
    what 99.9 % of the normal pixels stay under: where no defect stands out, noise is not blown up.

    Args:
        normal_maps: anomaly maps of normal images.
        other_maps: anomaly maps of defective images; of all, where none is known to be normal.
    """
    pixels = np.concatenate([np.ravel(m) for m in (normal_maps or other_maps)])
    low, normal = np.percentile(pixels, [90.0, 99.9])
    high = np.median([np.percentile(m, 99.9) for m in (other_maps or normal_maps)])
    if normal_maps:
        high = max(high, normal)
    return HeatScale(
        float(low), float(max(high, low + 1e-12)), float(normal) if normal_maps else float("nan")
    )


def heat_colours(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours in [0, 1], [..., 3], and opacities, [..., 1], of shares [...] of a heat scale."""
    share = np.clip(share, 0.0, 1.0)
    opacity = np.minimum(1.0, share / 0.3)[..., None]
    return np.asarray(_HEAT(share))[..., :3], opacity


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """An image as uint8, shrunk by area until its longer side is at most `size` pixels."""
    if image.dtype != np.uint8:
        image = np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
    scale = size / max(image.shape[:2])
    if scale >= 1.0:
        return image
    target = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, target, interpolation=cv2.INTER_AREA)


def heat_panel(
    image: np.ndarray,
    anomaly_map: np.ndarray,
    boxes: Sequence[Sequence[float]],
    mask: np.ndarray | None,
    scale: HeatScale,
) -> np.ndarray:
    """The anomaly map over the greyed image, outlines of the ground truth and of the regions on it.

    Args:
        image: uint8 [h, w, 3] panel.
        anomaly_map: float32 anomaly map of any size.
        boxes: left, top, width and height of each region in pixels of the map.
        mask: bool ground truth of any size, or None.
        scale: the category's colours.
    """
    h, w = image.shape[:2]
    heat = cv2.resize(anomaly_map.astype(np.float32), (w, h), interpolation=cv2.INTER_LINEAR)
    colours, opacity = heat_colours((heat - scale.low) / (scale.high - scale.low))
    shown = 255.0 * colours * opacity + _faded(image) * (1.0 - opacity)
    panel = np.round(shown).astype(np.uint8)
    if mask is not None:
        # Drawn around the region, not on it: on a small one the line would hide the heat.
        around = cv2.dilate(_region(mask, (h, w)), np.ones((3, 3), np.uint8), iterations=2)
        cv2.drawContours(panel, _contours(around), -1, TRUTH_COLOUR, 1, cv2.LINE_AA)
    across, down = w / anomaly_map.shape[1], h / anomaly_map.shape[0]
    for left, top, width, height in boxes:
        first = max(0, int(left * across) - 1), max(0, int(top * down) - 1)
        last = int(np.ceil((left + width) * across)), int(np.ceil((top + height) * down))
        cv2.rectangle(panel, first, (min(w - 1, last[0]), min(h - 1, last[1])), BOX_COLOUR, 1)
    return panel


def truth_panel(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The ground truth tinted over the greyed image, small regions ringed to be found."""
    h, w = image.shape[:2]
    region = _region(mask, (h, w))
    tint = 0.55 * region[..., None]
    panel = np.round(_faded(image) * (1.0 - tint) + np.array(TRUTH_COLOUR) * tint).astype(np.uint8)
    contours = _contours(region)
    cv2.drawContours(panel, contours, -1, TRUTH_COLOUR, 1, cv2.LINE_AA)
    margin = 0.04 * max(h, w)
    ringed: list[tuple[float, float, float]] = []
    for contour in sorted(contours, key=len, reverse=True):
        (x, y), radius = cv2.minEnclosingCircle(contour)
        if radius < margin and all(np.hypot(x - a, y - b) > r for a, b, r in ringed):
            ringed.append((x, y, radius + margin))
    for x, y, radius in ringed:
        centre = (round(x), round(y))
        cv2.circle(panel, centre, round(radius), TRUTH_COLOUR, _line(h, w), cv2.LINE_AA)
    return panel


def alignment_panel(image: np.ndarray, render: np.ndarray) -> np.ndarray:
    """The test image in red and the render in cyan: grey where both agree, fringes where not."""
    h, w = image.shape[:2]
    if render.shape != image.shape:
        render = cv2.resize(render, (w, h), interpolation=cv2.INTER_LINEAR)
    test, other = (cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (image, render))
    return np.stack([test, other, other], axis=-1)


def data_uri(panel: np.ndarray) -> str:
    """A JPEG data URI of a panel, without chroma subsampling so that thin lines keep colour."""
    parameters = [
        cv2.IMWRITE_JPEG_QUALITY,
        _JPEG_QUALITY,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
        cv2.IMWRITE_JPEG_OPTIMIZE,
        1,
    ]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(panel, cv2.COLOR_RGB2BGR), parameters)
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def _faded(image: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.repeat((90.0 + 165.0 / 255.0 * grey)[..., None], 3, axis=-1)


def _line(h: int, w: int) -> int:
    return max(1, round(max(h, w) / 250))


def _region(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask at the panel's size, uint8 0 or 1."""
    if mask.shape == size:
        return mask.astype(np.uint8)
    # A quarter of a pixel is enough: a small defect stays visible in a small panel.
    share = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    return (share > 0.25).astype(np.uint8)


def _contours(region: np.ndarray) -> list[np.ndarray]:
    return list(cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0])
