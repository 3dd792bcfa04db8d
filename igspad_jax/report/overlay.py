"""The picture of one inspection: the image, what it was compared with, and where it differs."""

import numpy as np

from igspad_jax.inspector import Inspection
from igspad_jax.report.panels import HeatScale, fit, heat_panel


def overlay(image: np.ndarray, inspection: Inspection, size: int = 800) -> np.ndarray:
    """Draw an image [H, W, 3] with the anomaly map of its inspection and the regions' boxes.

    Colour begins where normal images have their highest values, and is the darkest from twice the
    threshold on.

    Args:
        image: float in [0, 1], or uint8.
        inspection: of the image.
        size: longest side in pixels at most.

    Returns:
        uint8 [h, w, 3].
    """
    low = inspection.edge * inspection.level
    high = 2.0 * inspection.threshold * inspection.level
    if not np.isfinite(high):  # not calibrated: the map's own range
        low, high = (float(np.quantile(inspection.anomaly_map, q)) for q in (0.9, 1.0))
    scale = HeatScale(low, max(high, low + 1e-12), float("nan"))
    boxes = [region.box for region in inspection.regions]
    return heat_panel(fit(image, size), inspection.anomaly_map, boxes, None, scale)
