"""What every point matcher gives, and how it is asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from igspad_jax.errors import InputError


@dataclass(frozen=True)
class Matches:
    """Matched points between a query and one reference image; M may be zero.

    Attributes:
        query_points: [M, 2] x, y in pixels of the query; pixel centres at +0.5.
        reference_points: [M, 2] x, y in pixels of the reference.
        scores: [M] confidence in [0, 1], higher is better.
    """

    query_points: np.ndarray
    reference_points: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        """The number of matches M (not the number of fields)."""
        return len(self.scores)


def no_matches() -> Matches:
    """Matches between images that have nothing in common."""
    return Matches(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))


class Matcher(Protocol):
    """A point matcher whose work on the training images is done once.

    Attributes:
        rotation_invariant: whether images rotated in the plane by any angle still match.
        detector_key: stands for all that the features of an image depend on besides the image.
    """

    rotation_invariant: bool
    detector_key: str

    def prepare(self, images: np.ndarray) -> Sequence[Any]:
        """Computes the features of [n, H, W, 3] images in [0, 1], one item an image.

        The items are `igspad_jax.match.features.Features`; only `match` of the same matcher can
        tell what their descriptors mean.
        """
        ...

    def match(self, query: Sequence[Any], references: Sequence[Any]) -> list[Matches]:
        """Matches the features of one image against those of n images: n `Matches`."""
        ...


def matched_points(matcher: Matcher, image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[M, 2] points in pixels of a [H, W, 3] image that match another one."""
    (matches,) = matcher.match(matcher.prepare(image[None]), matcher.prepare(other[None]))
    return matches.query_points


def check_images(images: np.ndarray, what: str) -> np.ndarray:
    """Returns `images` as float32 [n, H, W, 3].

    Raises:
        InputError: the shape is another, an image is smaller than 16 pixels, or a value is not
            finite.
    """
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or images.shape[-1] != 3 or min(images.shape[1:3]) < 16:
        raise InputError(
            f"{what}: shape {images.shape} is not [n, H, W, 3] with sides of at least 16 pixels; "
            "pass RGB images of one size, batch first"
        )
    if not np.isfinite(images).all():
        raise InputError(f"{what}: values that are not finite; pass images in [0, 1]")
    return images
