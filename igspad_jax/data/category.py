"""One category of posed images: what it is made of, and loading its images.

`igspad_jax.data.layouts` reads a folder into a `Category`.
"""

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import logging
from scipy.cluster.vq import kmeans2

from igspad_jax.data.colmap import Structure
from igspad_jax.data.images import WHITE, load_mask, read_image
from igspad_jax.data.lenses import Lens, WorkingCamera
from igspad_jax.data.photographs import Photograph, working_mask
from igspad_jax.errors import InputError

GOOD, UNLABELLED = "good", "unlabelled"  # kinds that are no defects
_NEIGHBOURS = 30.0  # degrees within which two views cover the directions between them


@dataclass(frozen=True, eq=False)
class TrainView:
    """A normal image with its pose.

    Attributes:
        path: the image file.
        viewmat: [4, 4] float64, world to the working camera, OpenCV axes.
        lens: of the photograph.
        mask_path: white where the photograph is to be learnt from; None where all of it is.
        name: of the photograph in the structure from motion.
    """

    path: Path
    viewmat: np.ndarray
    lens: Lens
    mask_path: Path | None = None
    name: str = ""


@dataclass(frozen=True, eq=False)
class TestImage:
    """An image to inspect.

    Attributes:
        name: unique in its category, for example "Burrs/3".
        kind: "good", the kind of defect, or "unlabelled" where it is not known.
        path: the image file.
        mask_path: the region of the defect; None where kind is "good" or "unlabelled".
        viewmat: [4, 4] float64 true pose of the working camera, None where unknown.
        clean_path: the same view without the defect, None where there is none.
        lens: of the photograph.
    """

    __test__ = False  # the name starts with "Test", but pytest has nothing to collect here

    name: str
    kind: str
    path: Path
    mask_path: Path | None
    viewmat: np.ndarray | None
    clean_path: Path | None
    lens: Lens

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
    """One object: normal images with poses and images to inspect.

    Attributes:
        name: name of its folder.
        root: its folder.
        camera: the working camera, at the size of most photographs.
        train: normal views in file order, numbers sorted as numbers.
        test: images to inspect, "good" first, then the kinds by name, then the unlabelled ones.
        structure: what structure from motion found; None for poses of another origin.
        points_path: a `.ply` cloud to start training from; None where there is none.
    """

    name: str
    root: Path
    camera: WorkingCamera
    train: tuple[TrainView, ...]
    test: tuple[TestImage, ...]
    structure: Structure | None = None
    points_path: Path | None = None

    @property
    def lenses(self) -> list[Lens]:
        """The lenses of the training photographs, the commonest first."""
        return commonest_first(view.lens for view in self.train)

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
        shown: bool [n, h, w], False where a photograph does not reach; None where all do.
        lenses: of the photographs, the commonest first; none where they are the working camera's.
    """

    images: np.ndarray
    viewmats: np.ndarray
    K: np.ndarray
    shown: np.ndarray | None = None
    lenses: tuple[Lens, ...] = ()


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


def commonest_first(lenses: Iterable[Lens]) -> list[Lens]:
    """The different ones among lenses, the commonest first."""
    return [lens for lens, _ in Counter(lenses).most_common()]


def load_train(
    category: Category,
    *,
    size: int | None = None,
    background: tuple[float, float, float] = WHITE,
    views: Sequence[TrainView] | None = None,
) -> LoadedViews:
    """Loads normal views, as the working camera takes them.

    Args:
        category: the category.
        size: width in pixels, None for the photographs'.
        background: RGB in [0, 1] behind transparent pixels.
        views: which of the category's views; None for all.

    Raises:
        InputError: an image cannot be read, or `size` would enlarge it.
    """
    views = category.train if views is None else views
    camera = category.camera.resized(size)
    # Filled in place: at 800 px a category takes 1.6 GB, and stacking a list would double it.
    images = np.empty((len(views), camera.lens.height, camera.lens.width, 3), np.float32)
    shown = np.empty(images.shape[:3], bool)
    for i, view in enumerate(views):
        pixels, what = read_image(view.path), str(view.path)
        photograph = Photograph.read(pixels, view.lens, camera, background=background, what=what)
        images[i], shown[i] = photograph.image, photograph.shown
        if view.mask_path:
            shown[i] &= _load_mask(view.mask_path, view.lens, camera)
    viewmats = np.stack([view.viewmat for view in views]).astype(np.float32)
    K = camera.K.astype(np.float32)
    return LoadedViews(images, viewmats, K, None if shown.all() else shown, tuple(category.lenses))


def load_test(
    category: Category,
    image: TestImage,
    *,
    size: int | None = None,
    background: tuple[float, float, float] = WHITE,
) -> LoadedTest:
    """Loads one test image with its mask; a good image has an empty mask.

    Raises:
        InputError: a file cannot be read, or `size` would enlarge it.
    """
    camera = category.camera.resized(size)

    def read(path: Path) -> np.ndarray:
        pixels, what = read_image(path), str(path)
        return Photograph.read(pixels, image.lens, camera, background=background, what=what).image

    pixels = read(image.path)
    mask = np.zeros(pixels.shape[:2], bool)
    if image.mask_path is not None:
        mask = load_defect(image, camera)
        if not mask.any():
            logging.warning("%s is empty, so %s counts no pixel", image.mask_path, image.name)
    return LoadedTest(pixels, mask, read(image.clean_path) if image.clean_path else None)


def load_defect(image: TestImage, camera: WorkingCamera) -> np.ndarray:
    """[h, w] the region of an image's defect, as a working camera sees it; empty if it has none."""
    if image.mask_path is None:
        return np.zeros((camera.lens.height, camera.lens.width), bool)
    return _load_mask(image.mask_path, image.lens, camera)


def _load_mask(path: Path, lens: Lens, camera: WorkingCamera) -> np.ndarray:
    """[h, w] a region in a file of a photograph's size, as a working camera sees it."""
    if camera.takes(lens):
        return load_mask(path, size=camera.lens.width)
    mask = load_mask(path)
    if mask.shape != (lens.height, lens.width):
        raise InputError(
            f"{path} is {mask.shape[1]} x {mask.shape[0]} px but its photograph is {lens.width} x "
            f"{lens.height}: give a mask of the photograph's size"
        )
    return working_mask(mask, lens, camera)


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
