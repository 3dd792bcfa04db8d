"""Small pictures of the object, and how well two of them agree.

Distances are truncated: a pixel that differs by more than `CAP` in the sum over the channels counts
`CAP`, so that a defect of any kind costs no more than its area.
"""

from typing import NamedTuple

import cv2
import numpy as np

from igspad_jax.match.similarity import compose, make_similarity

SIZE = 32  # pixels of a thumbnail's side
CAP = 0.6  # the largest difference of a pixel, summed over the channels
_MIN_OBJECT = 16  # pixels of foreground below which an image shows no object


class Frame(NamedTuple):
    """Where a thumbnail lies in an image.

    Attributes:
        centre: [2] x, y in pixels.
        radius: half the thumbnail's side in pixels.
        background: [3] colour around the image.
    """

    centre: np.ndarray
    radius: float
    background: np.ndarray

    def to_image(self, phi: float = 0.0) -> np.ndarray:
        """[2, 3] map from thumbnail pixels, rotated by `phi` radians, to image pixels."""
        middle = np.array([SIZE / 2, SIZE / 2])
        return make_similarity(2.0 * self.radius / SIZE, phi, middle, self.centre)


class Frames(NamedTuple):
    """The frames of one image: three ways to centre and scale it.

    Attributes:
        box: contains the whole foreground.
        centroid: follows the foreground's centroid and area.
        fixed: the middle of the image, whatever it shows.
    """

    box: Frame
    centroid: Frame
    fixed: Frame


def border_colour(image: np.ndarray) -> np.ndarray:
    """[3] median colour of the border of a [H, W, 3] image."""
    return np.median(_border(image), axis=0)


def _border(image: np.ndarray) -> np.ndarray:
    return np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])


def find_frames(image: np.ndarray) -> Frames:
    """Finds the foreground of a [H, W, 3] image on a plain background.

    The background is the median colour of the image's border, plain where most of the border has
    that colour. Where it is not plain, or nothing stands out, all frames cover the image's middle.
    """
    height, width = image.shape[:2]
    border = _border(image)
    background = border_colour(image)
    deviation = np.abs(border - background).max(axis=1)
    # Up to 30 % of the border may be the object's.
    plain = np.quantile(deviation, 0.7) < 0.05
    threshold = 0.05 + 3.0 * np.median(deviation)
    y, x = np.nonzero(np.abs(image - background).max(axis=2) > threshold)
    middle, half = np.array([width / 2, height / 2]), min(width, height) / 2
    fixed = Frame(middle, 0.85 * half, background)
    if not plain or len(x) < _MIN_OBJECT:
        whole = Frame(middle, half, background)
        return Frames(whole, whole, fixed)
    points = np.stack([x, y], axis=1) + 0.5
    low, high = points.min(axis=0), points.max(axis=0)
    box = Frame((low + high) / 2, 1.15 * max((high - low).max() / 2, 1.0), background)
    # The disc of the foreground's area, enlarged until most objects fit in.
    radius = 1.44 * np.sqrt(len(x) / np.pi)
    return Frames(box, Frame(points.mean(axis=0), radius, background), fixed)


def shrink(image: np.ndarray, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Low-passes an image for thumbnails of `frame`.

    Args:
        image: [H, W, 3].
        frame: the frame whose resolution is wanted.

    Returns:
        A smaller, blurred image and the [2, 3] map from the image's pixels to its pixels.
    """
    step = 2.0 * frame.radius / SIZE
    factor = max(1, int(step))
    height, width = image.shape[:2]
    if factor > 1:
        size = (max(1, width // factor), max(1, height // factor))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    scale = np.array([image.shape[1] / width, image.shape[0] / height])
    sigma = 0.45 * step / factor
    if sigma > 0.5:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    return image, np.column_stack([np.diag(scale), np.zeros(2)])


def resample(
    image: np.ndarray,
    to_image: np.ndarray,
    background: np.ndarray,
    size: tuple[int, int] = (SIZE, SIZE),
    interpolation: int = cv2.INTER_LINEAR,
) -> np.ndarray:
    """[height, width, 3] samples of `image` under the [2, 3] map `to_image`.

    The map takes pixels of the result to pixels of the image, both with centres at +0.5; OpenCV
    puts them at whole numbers.

    Args:
        image: [H, W, 3].
        to_image: the map.
        background: [3] colour around the image.
        size: width and height of the result; a thumbnail's if not given.
        interpolation: OpenCV's.
    """
    matrix = to_image.copy()
    matrix[:, 2] += 0.5 * to_image[:, :2].sum(axis=1) - 0.5
    return cv2.warpAffine(
        image,
        matrix,
        size,
        flags=interpolation | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=[float(c) for c in background],
    )


def thumbnails(image: np.ndarray, frame: Frame, angles: np.ndarray) -> np.ndarray:
    """[n, SIZE, SIZE, 3] thumbnails of `frame`, turned by each of n angles in radians."""
    small, to_small = shrink(image, frame)
    maps = [compose(to_small, frame.to_image(phi)) for phi in angles]
    return np.stack([resample(small, m, frame.background) for m in maps])


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean truncated difference of [..., SIZE, SIZE, 3] thumbnails, in [0, CAP]: [...]."""
    return np.minimum(np.abs(a - b).sum(axis=-1), CAP).mean(axis=(-2, -1))


def align(
    query: np.ndarray, picture: np.ndarray, background: np.ndarray, start: np.ndarray, steps: int
) -> tuple[np.ndarray, float]:
    """Refines the similarity under which a picture explains the query's thumbnail.

    Gauss-Newton steps on the sum of differences, reweighted to be absolute and truncated.

    Args:
        query: [SIZE, SIZE, 3] thumbnail.
        picture: [h, w, 3] image of about the query's resolution.
        background: [3] colour around the picture.
        start: [2, 3] similarity from the query's thumbnail to the picture.
        steps: number of steps at most.

    Returns:
        The best [2, 3] similarity met and its `distance`.
    """
    grid = (np.arange(SIZE) + 0.5 - SIZE / 2) / (SIZE / 2)
    u, v = grid[None, :, None], grid[:, None, None]
    middle = np.array([SIZE / 2, SIZE / 2])
    current, best, least = start, start, np.inf
    for step in range(steps + 1):
        moved = resample(picture, current, background)
        error = moved - query
        size = np.abs(error).sum(axis=-1)
        value = float(np.minimum(size, CAP).mean())
        if value < least:
            best, least = current, value
        elif step > 2:
            break
        if step == steps:
            break
        gx = np.gradient(moved, axis=1) * (SIZE / 2)
        gy = np.gradient(moved, axis=0) * (SIZE / 2)
        # Columns: shift in x and y in half sides, log scale, angle.
        columns = np.stack([gx, gy, gx * u + gy * v, gy * u - gx * v], axis=-1)
        weight = (size < CAP) / np.maximum(size, 0.05)
        flat, weighted = columns.reshape(-1, 4), (columns * weight[..., None, None]).reshape(-1, 4)
        delta = np.linalg.solve(weighted.T @ flat + 1e-3 * np.eye(4), -weighted.T @ error.ravel())
        delta = np.clip(delta, -0.2, 0.2)
        update = make_similarity(
            np.exp(delta[2]), delta[3], middle, middle + delta[:2] * (SIZE / 2)
        )
        current = compose(current, update)
    return best, least
