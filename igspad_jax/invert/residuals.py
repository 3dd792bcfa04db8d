"""How badly a pose explains an image, whichever way it was found."""

from __future__ import annotations

import numpy as np

from igspad_jax.normal_object import NormalObject

_TRUNCATION = 0.2  # of differences between a render and an image; a defect counts no more


def plain_exposures(initial: np.ndarray) -> np.ndarray:
    """[n, K, 2] gains of one and biases of zero."""
    return np.broadcast_to(np.array([1.0, 0.0], np.float32), (*initial.shape[:2], 2))


def residuals_at(
    model: NormalObject, images: np.ndarray, viewmats: np.ndarray, exposures: np.ndarray
) -> np.ndarray:
    """How badly poses explain images, with little regard for how large a difference is.

    The mean of min(|render - image|, 0.2) over the pixels where either shows the object, as a
    share of 0.2: 0 is a perfect explanation, 1 none at all.

    Args:
        model: the object.
        images: [n, H, W, 3].
        viewmats: [n, k, 4, 4] poses.
        exposures: [n, k, 2] gains and biases.

    Returns:
        [n, k].
    """
    renders = model.renders(viewmats, exposures)
    difference = np.minimum(np.abs(renders - images[:, None]), _TRUNCATION).mean(axis=-1)
    background = np.asarray(model.background)

    def shows(pictures):
        return np.abs(pictures - background).max(axis=-1) > 0.5 * _TRUNCATION

    counts = shows(renders) | shows(images)[:, None]
    total = np.maximum(counts.sum(axis=(2, 3)), 1)
    return (difference * counts).sum(axis=(2, 3)) / (_TRUNCATION * total)
