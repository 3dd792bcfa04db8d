"""Reads a folder into a `Category`: MAD's layout, and NeRF-synthetic's.

MAD's (Zhou et al. 2023): `transforms.json` with the poses of `train/good/N.png`; images to inspect
in `test/KIND/N.png`; regions in `ground_truth/KIND/N_mask.png` for every kind but "good". Images
directly in `test/`, or in `test/unlabelled/`, are inspected and are in no metric. Two
optional parts carry what MAD does not have: `test_poses.json`, a mapping from "./test/KIND/N.png"
to a camera-to-world matrix, and `test_clean/KIND/N.png`, the view without its defect.

NeRF-synthetic's (Mildenhall et al. 2020): `transforms_train.json`, and `transforms_test.json` or
else `transforms_val.json`, whose images are all good and have known poses.
"""

import re
from collections import Counter
from pathlib import Path

import numpy as np
from absl import logging

from igspad_jax.data.category import GOOD, UNLABELLED, Category, TestImage, TrainView
from igspad_jax.data.images import IMAGE_SUFFIXES, image_size
from igspad_jax.data.transforms import Transforms, read_poses, read_transforms
from igspad_jax.errors import InputError

_MAD = "transforms.json"
_NERF = "transforms_train.json"


def list_categories(root: str | Path) -> list[Path]:
    """The category folders at `root`: `root` itself if it is one, else its subfolders that are.

    Raises:
        InputError: there is none.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: give a category or a folder of categories")
    if _is_category(root):
        return [root]
    folders = sorted((f for f in root.iterdir() if f.is_dir()), key=natural_key)
    found = [folder for folder in folders if _is_category(folder)]
    if not found:
        raise InputError(
            f"{root} holds no category: a category folder has a {_MAD} (MAD) or a {_NERF} (NeRF)"
        )
    others = [f.name for f in folders if f not in found and not f.name.startswith(".")]
    if others:
        logging.warning("%s: left out %s, without a %s", root, ", ".join(others), _MAD)
    return found


def read_category(root: str | Path) -> Category:
    """Reads what a category is made of; pixels are read later, by `load_train` and `load_test`.

    Raises:
        InputError: the folder is no category, or its files contradict each other.
    """
    root = Path(root)
    if (root / _MAD).is_file():
        transforms = read_transforms(root / _MAD)
        test = _mad_test(root)
        _warn_of_unposed(root, transforms)
    elif (root / _NERF).is_file():
        transforms = read_transforms(root / _NERF)
        test = _nerf_test(root, transforms)
    else:
        raise InputError(f"{root} has no {_MAD} (MAD) and no {_NERF} (NeRF): give another folder")
    train = tuple(
        TrainView(path, viewmat)
        for path, viewmat in sorted(transforms.views, key=lambda view: natural_key(view[0]))
    )
    size = (transforms.width, transforms.height)
    for image in test:
        for path in (image.path, image.mask_path, image.clean_path):
            if path is not None and image_size(path) != size:
                raise InputError(
                    f"{path} is {_times(image_size(path))} px but the training images are "
                    f"{_times(size)}: give all images and masks of a category one size"
                )
    return Category(
        name=root.resolve().name,
        root=root,
        K=transforms.K,
        width=transforms.width,
        height=transforms.height,
        train=train,
        test=test,
    )


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts 2.png before 10.png."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _is_category(folder: Path) -> bool:
    return (folder / _MAD).is_file() or (folder / _NERF).is_file()


def _mad_test(root: Path) -> tuple[TestImage, ...]:
    folder = root / "test"
    if not folder.is_dir():
        logging.warning("%s: no test folder, so nothing to inspect", root)
        return ()
    poses_file = root / "test_poses.json"
    poses = read_poses(poses_file) if poses_file.is_file() else None
    kinds = sorted((f for f in folder.iterdir() if _is_shown(f)), key=natural_key)
    kinds.sort(key=lambda kind: (kind.name != GOOD, kind.name == UNLABELLED))
    images = []
    for kind in kinds:
        for path in images_in(kind):
            images.append(_mad_test_image(root, path, kind.name, poses, poses_file))
    for path in images_in(folder):
        images.append(_mad_test_image(root, path, UNLABELLED, poses, poses_file))
    counts = Counter(image.name for image in images)
    for image in images:
        if counts[image.name] > 1:
            raise InputError(
                f"{image.path.with_suffix('')} names several images, told apart by their suffixes "
                "alone: rename all but one"
            )
    if poses:
        logging.warning(
            "%s: %d poses without an image, first ./%s", poses_file, len(poses), next(iter(poses))
        )
    return tuple(images)


def _mad_test_image(
    root: Path, path: Path, kind: str, poses: dict[str, np.ndarray] | None, poses_file: Path
) -> TestImage:
    """An image of a kind; takes its pose out of `poses`."""
    labelled, viewmat = kind != UNLABELLED, None
    if poses is not None:
        key = path.relative_to(root).as_posix()
        if labelled and key not in poses:
            raise InputError(f"{poses_file} has no pose for ./{key}: add it, or remove the file")
        viewmat = poses.pop(key, None)
    clean = root / "test_clean" / kind / path.name
    return TestImage(
        name=path.relative_to(root / "test").with_suffix("").as_posix(),
        kind=kind,
        path=path,
        mask_path=_mask_of(root, path) if labelled and kind != GOOD else None,
        viewmat=viewmat,
        clean_path=clean if clean.is_file() else None,
    )


def _is_shown(folder: Path) -> bool:
    return folder.is_dir() and not folder.name.startswith(".")


def _mask_of(root: Path, path: Path) -> Path:
    folder = root / "ground_truth" / path.parent.name
    for name in (f"{path.stem}_mask.png", f"{path.stem}.png"):
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        f"{folder / path.stem}_mask.png is missing: every image of a defect needs its mask"
    )


def _nerf_test(root: Path, train: Transforms) -> tuple[TestImage, ...]:
    for name in ("transforms_test.json", "transforms_val.json"):
        if (root / name).is_file():
            test = read_transforms(root / name)
            break
    else:
        logging.warning("%s: no transforms_test.json, so nothing to inspect", root)
        return ()
    if abs(test.K - train.K).max() > 1e-3 * train.width:
        raise InputError(
            f"{root / name} has other intrinsics than {_NERF}: use one camera for a category"
        )
    views = sorted(test.views, key=lambda view: natural_key(view[0]))
    return tuple(
        TestImage(
            name=f"good/{path.stem}",
            kind="good",
            path=path,
            mask_path=None,
            viewmat=viewmat,
            clean_path=None,
        )
        for path, viewmat in views
    )


def _warn_of_unposed(root: Path, transforms: Transforms) -> None:
    folder = root / "train" / "good"
    posed = {path.resolve() for path, _ in transforms.views}
    unposed = [path for path in images_in(folder) if path.resolve() not in posed]
    if unposed:
        logging.warning(
            "%s: %d images without a frame in %s are not used, first %s",
            folder,
            len(unposed),
            _MAD,
            unposed[0].name,
        )


def images_in(folder: Path) -> list[Path]:
    """The image files directly in a folder, numbers sorted as numbers; the log names others."""
    if not folder.is_dir():
        return []
    shown = (f for f in folder.iterdir() if f.is_file() and not f.name.startswith("."))
    files = sorted(shown, key=natural_key)
    images = [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES]
    others = [f.name for f in files if f not in images]
    if others:
        logging.warning(
            "%s: left out %d files that are no images, first %s", folder, len(others), others[0]
        )
    return images


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
