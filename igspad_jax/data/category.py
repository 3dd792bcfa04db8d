"""One category of posed images: what it is made of, and loading its images.

`igspad_jax.data.layouts` reads a folder into a `Category`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from absl import logging

from igspad_jax.cameras import scale_intrinsics
from igspad_jax.data.images import WHITE, load_image, load_mask, resized_shape
from igspad_jax.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class TrainView:
    """A normal image with its pose.

    Attributes:
        path: the image file.
        viewmat: [4, 4] float64, world to camera, OpenCV axes.
    """

    path: Path
    viewmat: np.ndarray


@dataclass(frozen=True, eq=False)
class TestImage:
    """An image to inspect.

    Attributes:
        name: unique in its category, for example "Burrs/3".
        kind: "good", or the kind of defect.
        path: the image file.
        mask_path: the region of the defect; None where kind is "good".
        viewmat: [4, 4] float64 true pose, None where unknown.
        clean_path: the same view without the defect, None where there is none.
    """

    __test__ = False  # the name starts with "Test", but pytest has nothing to collect here

    name: str
    kind: str
    path: Path
    mask_path: Path | None
    viewmat: np.ndarray | None
    clean_path: Path | None

    @property
    def defective(self) -> bool:
        """Whether the image shows a defect."""
        return self.kind != "good"


@dataclass(frozen=True, eq=False)
class Category:
    """One object: normal images with poses and images to inspect, all of one size.

    Attributes:
        name: name of its folder.
        root: its folder.
        K: [3, 3] float64 intrinsics in pixels of the files' size.
        width: width of the files in pixels.
        height: height of the files in pixels.
        train: normal views in file order, numbers sorted as numbers.
        test: images to inspect, "good" first, then the kinds by name.
    """

    name: str
    root: Path
    K: np.ndarray
    width: int
    height: int
    train: tuple[TrainView, ...]
    test: tuple[TestImage, ...]

    @property
    def camera_angle_x(self) -> float:
        """Horizontal field of view in radians."""
        return float(2.0 * np.arctan(0.5 * self.width / self.K[0, 0]))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds among the test images, in their order."""
        return tuple(dict.fromkeys(image.kind for image in self.test))


@dataclass(frozen=True, eq=False)
class LoadedViews:
    """Normal views in memory.

    Attributes:
        images: float32 [n, h, w, 3] in [0, 1].
        viewmats: float32 [n, 4, 4].
        K: float32 [3, 3], shared by the views, in pixels of `images`.
    """

    images: np.ndarray
    viewmats: np.ndarray
    K: np.ndarray


@dataclass(frozen=True, eq=False)
class LoadedTest:
    """A test image in memory.

    Attributes:
        image: float32 [h, w, 3] in [0, 1].
        mask: bool [h, w], True on the defect.
        clean: float32 [h, w, 3], the same view without the defect; None where there is none.
    """

    image: np.ndarray
    mask: np.ndarray
    clean: np.ndarray | None


def intrinsics(category: Category, size: int | None = None) -> np.ndarray:
    """[3, 3] float64 intrinsics of the category's images loaded at `size` pixels width."""
    width, height = resized_shape(category.width, category.height, size)
    return scale_intrinsics(category.K, width / category.width, height / category.height)


def load_train(
    category: Category,
    *,
    size: int | None = None,
    background: tuple[float, float, float] = WHITE,
    views: Sequence[TrainView] | None = None,
) -> LoadedViews:
    """Loads normal views.

    Args:
        category: the category.
        size: width in pixels, None for the files'.
        background: RGB in [0, 1] behind transparent pixels.
        views: which of the category's views; None for all.

    Raises:
        InputError: an image cannot be read, or `size` would enlarge it.
    """
    views = category.train if views is None else views
    width, height = resized_shape(category.width, category.height, size)
    # Filled in place: at 800 px a category takes 1.6 GB, and stacking a list would double it.
    images = np.empty((len(views), height, width, 3), np.float32)
    for slot, view in zip(images, views, strict=True):
        slot[...] = load_image(view.path, size=size, background=background)
    viewmats = np.stack([view.viewmat for view in views]).astype(np.float32)
    return LoadedViews(images, viewmats, intrinsics(category, size).astype(np.float32))


def load_test(
    image: TestImage,
    *,
    size: int | None = None,
    background: tuple[float, float, float] = WHITE,
) -> LoadedTest:
    """Loads one test image with its mask; a good image has an empty mask.

    Raises:
        InputError: a file cannot be read, or `size` would enlarge it.
    """
    pixels = load_image(image.path, size=size, background=background)
    mask = np.zeros(pixels.shape[:2], bool)
    if image.mask_path is not None:
        mask = load_mask(image.mask_path, size=size)
        if not mask.any():
            logging.warning("%s is empty, so %s counts no pixel", image.mask_path, image.name)
    clean = None
    if image.clean_path is not None:
        clean = load_image(image.clean_path, size=size, background=background)
    return LoadedTest(pixels, mask, clean)


def split_held_out(items: Sequence[T], number: int) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """Splits off `number` items, evenly spread over the sequence and the same at every call.

    Returns:
        The items that stay, and the items held out, both in order.

    Raises:
        InputError: fewer than 2 items would stay.
    """
    if not 0 <= number <= len(items) - 2:
        raise InputError(
            f"{number} of {len(items)} views cannot be held out: "
            f"choose a number from 0 to {len(items) - 2}"
        )
    held = {(2 * k + 1) * len(items) // (2 * number) for k in range(number)}
    stay = tuple(item for i, item in enumerate(items) if i not in held)
    return stay, tuple(items[i] for i in sorted(held))
