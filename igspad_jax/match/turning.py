"""In-plane turns: networks that match keypoints know pictures alone that are about upright."""

from collections.abc import Mapping

import cv2
import numpy as np

from igspad_jax.match.photometric import border_colour, resample
from igspad_jax.match.retrieval import STEP, Candidate, TrainingViews, view_angles
from igspad_jax.match.similarity import compose, make_similarity, scale_and_angle

# Training views to match with a query, by their index, and the angle in degrees (from x towards y,
# in [0, 360)) by which each is turned in the query.
Turns = Mapping[int, float]


def shortlisted(candidates: list[Candidate], count: int) -> Turns:
    """The training views that look most like a query, where not all are to be matched.

    Args:
        candidates: training views aligned with the query, best first.
        count: views at most.
    """
    return {
        c.view: _nearest(np.degrees(scale_and_angle(c.similarity)[1])) for c in candidates[:count]
    }


def all_views(query: np.ndarray, views: TrainingViews) -> Turns:
    """All training views, each at the turn at which its thumbnail looks most like the query's.

    Args:
        query: [H, W, 3] in [0, 1], of the training images' size.
        views: the prepared training views.
    """
    angles = np.degrees(view_angles(query, views))
    return {view: _nearest(angle) for view, angle in enumerate(angles)}


def turned_back(image: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """An image turned by -`degrees` about its centre, and the way back.

    Whole quarters are exact and lose nothing; of what is left, at most 45 degrees, corners are lost
    and the border's median colour comes in.

    Args:
        image: [H, W, 3] in [0, 1].
        degrees: from x towards y.

    Returns:
        The image, [W, H, 3] after an odd number of quarters, and the [2, 3] map from its pixels
        to those of `image`.
    """
    quarters = round(degrees / 90.0) % 4
    height, width = image.shape[:2]
    result = np.ascontiguousarray(np.rot90(image, quarters))
    middle, other = np.array([result.shape[1], result.shape[0]]) / 2, np.array([width, height]) / 2
    whole = make_similarity(1.0, quarters * np.pi / 2, middle, other)
    rest = np.radians(degrees - 90.0 * round(degrees / 90.0))
    if not rest:
        return result, whole
    onto = make_similarity(1.0, rest, middle, middle)
    size = (result.shape[1], result.shape[0])
    result = resample(result, onto, border_colour(image), size, cv2.INTER_CUBIC)
    return np.clip(result, 0.0, 1.0), compose(whole, onto)


def _nearest(degrees: float) -> float:
    """The multiple of `STEP`, so that few turned queries have to be made ready."""
    return float(round(degrees / STEP) * STEP % 360.0)
