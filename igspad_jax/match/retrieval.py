"""Photometric retrieval: the training views, turned in the plane, that look like the query."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from igspad_jax.errors import InputError
from igspad_jax.match.matching import check_images
from igspad_jax.match.photometric import (
    CAP,
    Frame,
    align,
    distance,
    find_frames,
    shrink,
    thumbnails,
)
from igspad_jax.match.similarity import compose, invert

STEP = 15.0  # degrees between the turns that are tried
_ANGLES = np.radians(np.arange(0.0, 360.0, STEP))
_STEPS = 8


@dataclass(frozen=True)
class TrainingViews:
    """The training images, made ready for retrieval; n views of one size.

    Attributes:
        viewmats: [n, 4, 4].
        K: [3, 3] intrinsics of the training images and of every query.
        centre: [3] the object's centre in the world.
        shape: height and width of the images.
        pictures: per view a low-passed image and the [2, 3] map from image pixels to its pixels.
        boxes: per view the frame that holds the object.
        coarse: per way of centring, [n, SIZE, SIZE, 3] thumbnails and their n frames.
    """

    viewmats: np.ndarray
    K: np.ndarray
    centre: np.ndarray
    shape: tuple[int, int]
    pictures: list[tuple[np.ndarray, np.ndarray]]
    boxes: list[Frame]
    coarse: list[tuple[np.ndarray, list[Frame]]]


@dataclass(frozen=True)
class Candidate:
    """A training view that may explain the query.

    Attributes:
        view: index of the training view.
        similarity: [2, 3] from the training image's pixels to the query's.
        agreement: 1 for an identical picture, 0 where every pixel differs.
    """

    view: int
    similarity: np.ndarray
    agreement: float


def prepare_views(
    images: np.ndarray, viewmats: np.ndarray, K: np.ndarray, centre: np.ndarray
) -> TrainingViews:
    """Prepares training images once for all queries.

    Args:
        images: [n, H, W, 3] in [0, 1].
        viewmats: [n, 4, 4].
        K: [3, 3] intrinsics of the images.
        centre: [3] the object's centre in the world.

    Returns:
        The prepared views.

    Raises:
        InputError: shapes that do not fit, no image, or a camera that looks away from the centre.
    """
    images = check_images(images, "training images")
    viewmats = np.asarray(viewmats, np.float64)
    K, centre = np.asarray(K, np.float64), np.asarray(centre, np.float64)
    shapes = (viewmats.shape, K.shape, centre.shape)
    if not len(images) or shapes != ((len(images), 4, 4), (3, 3), (3,)):
        raise InputError(
            f"training views: {len(images)} images with viewmats, K and centre of shapes {shapes}; "
            "pass n > 0 images, [n, 4, 4], [3, 3] and [3]"
        )
    behind = np.flatnonzero((viewmats[:, 2, :3] @ centre + viewmats[:, 2, 3]) <= 0.0)
    if len(behind):
        raise InputError(
            f"training view {behind[0]}: the object's centre {centre.tolist()} is behind the "
            "camera; check the poses' axes and the centre"
        )
    frames = [find_frames(image) for image in images]
    boxes = [f.box for f in frames]
    coarse = []
    for centred in ([f.centroid for f in frames], [f.fixed for f in frames]):
        pairs = zip(images, centred, strict=True)
        coarse.append((np.stack([thumbnails(i, f, np.zeros(1))[0] for i, f in pairs]), centred))
    pictures = [shrink(image, box) for image, box in zip(images, boxes, strict=True)]
    return TrainingViews(viewmats, K, centre, images.shape[1:3], pictures, boxes, coarse)


def retrieve(query: np.ndarray, views: TrainingViews, count: int = 12) -> list[Candidate]:
    """Find the training views that look most like the query, turned in the plane.

    The thumbnails of the query, turned by multiples of 15 degrees, are compared with those of all
    views: once centred on the foreground's centroid and scaled by its area, and once with the
    image's own centre and scale, which a large missing part leaves alone.

    Args:
        query: [H, W, 3] in [0, 1], of the training images' size.
        views: the prepared training views.
        count: views taken from each of the two comparisons.

    Returns:
        At most 2 * count candidates, not yet aligned and without a common agreement: see `refine`.
    """
    candidates = []
    for frame, frames, distances in _compared(query, views):
        for view in np.argsort(distances.min(axis=0))[:count]:
            turn = distances[:, view].argmin()
            # The same thumbnail pixel seen in both images.
            similarity = compose(frame.to_image(_ANGLES[turn]), invert(frames[view].to_image()))
            candidates.append(Candidate(int(view), similarity, 1.0 - distances[turn, view] / CAP))
    return candidates


def view_angles(query: np.ndarray, views: TrainingViews) -> np.ndarray:
    """Return the turn at which every training view looks most like the query.

    Args:
        query: [H, W, 3] in [0, 1], of the training images' size.
        views: the prepared training views.

    Returns:
        [n] angles in radians (from x towards y), multiples of 15 degrees, by which the views are
        turned in the query; not meaningful for a view of another side.
    """
    least = np.minimum(*(distances for _, _, distances in _compared(query, views)))
    return _ANGLES[least.argmin(axis=0)]


def _compared(
    query: np.ndarray, views: TrainingViews
) -> Iterator[tuple[Frame, list[Frame], np.ndarray]]:
    """Per way of centring the query's frame, the views' frames, and the [turns, n] distances."""
    found = find_frames(query)
    for frame, (references, frames) in zip(
        (found.centroid, found.fixed), views.coarse, strict=True
    ):
        turned = thumbnails(query, frame, _ANGLES)
        yield frame, frames, np.stack([distance(t, references) for t in turned])


def refine(query: np.ndarray, views: TrainingViews, candidates: list[Candidate]) -> list[Candidate]:
    """Aligns candidates with the query and ranks them by one criterion.

    All are compared within the frame that holds the query's foreground; of the candidates of one
    view the best is kept.

    Args:
        query: [H, W, 3] in [0, 1].
        views: the prepared training views.
        candidates: from `retrieve` or from a matcher.

    Returns:
        Candidates of different views, best first.
    """
    box = find_frames(query).box
    thumbnail = thumbnails(query, box, np.zeros(1))[0]
    best: dict[int, Candidate] = {}
    for candidate in candidates:
        picture, to_picture = views.pictures[candidate.view]
        onto = compose(to_picture, compose(invert(candidate.similarity), box.to_image()))
        background = views.boxes[candidate.view].background
        onto, value = align(thumbnail, picture, background, onto, _STEPS)
        from_image = compose(box.to_image(), compose(invert(onto), to_picture))
        aligned = Candidate(candidate.view, from_image, 1.0 - value / CAP)
        previous = best.get(candidate.view)
        if previous is None or aligned.agreement > previous.agreement:
            best[candidate.view] = aligned
    return sorted(best.values(), key=lambda c: -c.agreement)
