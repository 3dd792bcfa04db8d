"""One category of posed images: what it is made of, and loading its images.

`igspad_jax.data.layouts` reads a folder into a `Category`.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import logging
from scipy.cluster.vq import kmeans2

from igspad_jax.cameras import scale_intrinsics
from igspad_jax.data.images import WHITE, load_image, load_mask, resized_shape

GOOD, UNLABELLED = "good", "unlabelled"  # kinds that are no defects
_NEIGHBOURS = 30.0  # degrees within which two views cover the directions between them


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
        kind: "good", the kind of defect, or "unlabelled" where it is not known.
        path: the image file.
        mask_path: the region of the defect; None where kind is "good" or "unlabelled".
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
    def labelled(self) -> bool:
        """Whether it is known if the image shows a defect."""
        return self.kind != UNLABELLED

    @property
    def defective(self) -> bool:
        """Whether the image is known to show a defect."""
        return self.labelled and self.kind != GOOD


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
        test: images to inspect, "good" first, then the kinds by name, then the unlabelled ones.
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


def hold_out_blocks(viewmats: np.ndarray, share: float) -> np.ndarray:
    """Choose views to hold out: blocks of neighbouring viewing directions, from all sides.

    A held-out view should be as far from its nearest fitted one as an image from anywhere is. So a
    block is all views within a radius about its middle: the typical distance between a direction
    that the views cover and the view nearest to it. Where the views are a grid, a block is a view
    or a few; where they are as dense as frames of a film, it is a stretch of them.

    Args:
        viewmats: [n, 4, 4] of the views.
        share: of the views to hold out, about; at most a half.

    Returns:
        Ascending indices of the views to hold out, the same at every call; none where the share is
        less than one view.
    """
    axes = np.asarray(viewmats, np.float64)[:, 2, :3]
    count = round(share * len(axes))
    if not count:
        return np.zeros(0, int)
    cosines = np.clip(axes @ axes.T, -1.0, 1.0)
    # The middles of equal regions of directions, to be taken far apart first.
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore")  # equal views leave regions empty, which does no harm
        middles, region_of = kmeans2(axes, count, minit="++", rng=0, iter=50)
    left = [
        int(np.argmax(np.where(region_of == r, axes @ middles[r], -2.0))) for r in set(region_of)
    ]
    held: list[int] = []
    order = [left.pop(0)]
    while len(held) < count:
        near = np.flatnonzero(cosines[order[-1]] >= _block_cosine(axes, cosines))
        held += [int(view) for view in near if view not in held]
        if not left:
            break
        order.append(min(left, key=lambda view: cosines[view, order].max()))
        left.remove(order[-1])
    return np.sort(np.array(held[: len(axes) // 2]))


def _block_cosine(axes: np.ndarray, cosines: np.ndarray) -> float:
    """Cosine of the typical angle between a direction that views [n, 3] cover and the nearest."""
    pairs = np.nonzero(np.triu(cosines > np.cos(np.radians(_NEIGHBOURS)), 1))
    between = axes[pairs[0]] + axes[pairs[1]]
    if not len(between):
        return 1.0 - 1e-9
    between /= np.linalg.norm(between, axis=1, keepdims=True)
    return float(np.median((between @ axes.T).max(axis=1))) - 1e-9
