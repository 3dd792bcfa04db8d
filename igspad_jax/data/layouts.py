"""Reads a folder into a `Category`: MAD's layout, NeRF-synthetic's, or photographs with COLMAP's.

MAD's (Zhou et al. 2023): `transforms.json` with the poses of `train/good/N.png`; images to inspect
in `test/KIND/N.png`; regions in `ground_truth/KIND/N_mask.png` for every kind but "good". Images
directly in `test/`, or in `test/unlabelled/`, are inspected and are in no metric. Two
optional parts carry what MAD does not have: `test_poses.json`, a mapping from "./test/KIND/N.png"
to a camera-to-world matrix, and `test_clean/KIND/N.png`, the view without its defect.

NeRF-synthetic's (Mildenhall et al. 2020): `transforms_train.json`, and `transforms_test.json` or
else `transforms_val.json`, whose images are all good and have known poses.

COLMAP's: photographs in `photos/` or `images/`, and a model of them in `sparse/`; images to inspect
as in MAD's. A test image without a lens of its own has that of the training photographs of its
size, or of its proportions, standing or lying.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging

from igspad_jax.data.category import (
    GOOD,
    UNLABELLED,
    Category,
    TestImage,
    TrainView,
    commonest_first,
)
from igspad_jax.data.colmap import Structure, find_model, read_model
from igspad_jax.data.images import IMAGE_SUFFIXES, image_size
from igspad_jax.data.lenses import Lens, WorkingCamera, lens_for
from igspad_jax.data.transforms import Frame, read_poses, read_transforms
from igspad_jax.errors import InputError

_MAD = "transforms.json"
_NERF = "transforms_train.json"
_PHOTOS = ("photos", "images")


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
            f"{root} holds no category: a category folder has a {_MAD} (MAD), a {_NERF} (NeRF), or "
            "photos (photographs, with a COLMAP model in sparse or without)"
        )
    others = [f.name for f in folders if f not in found and not f.name.startswith(".")]
    if others:
        logging.warning("%s: left out %s, without a %s", root, ", ".join(others), _MAD)
    return found


def photographs_of(root: Path) -> Path | None:
    """The folder of a category's photographs; None for another layout."""
    if _transforms_of(root):
        return None
    return next((root / name for name in _PHOTOS if (root / name).is_dir()), None)


def _transforms_of(root: Path) -> Path | None:
    """The file with the poses of a category in MAD's layout or NeRF's; None for another layout."""
    return next((root / name for name in (_MAD, _NERF) if (root / name).is_file()), None)


def read_category(root: str | Path, results: Path | None = None) -> Category:
    """Reads what a category is made of; pixels are read later, by `load_train` and `load_test`.

    Args:
        root: the category's folder.
        results: where a COLMAP model of its photographs lies in `sparse/`, if it has none itself.

    Raises:
        InputError: the folder is no category, or its files contradict each other.
    """
    root = Path(root)
    structure, points_path = None, None
    poses = _transforms_of(root)
    if poses:
        transforms = read_transforms(poses)
        frames, points_path = transforms.frames, transforms.points_path
    elif model := find_model(root) or (results and find_model(results)):
        structure = read_model(model)
        frames = _photographs(root, structure)
    else:
        raise InputError(
            f"{root} has no {_MAD} (MAD), no {_NERF} (NeRF), and no COLMAP model in sparse: give "
            "another folder, or find the poses of its photographs by igspad-train"
        )
    frames = tuple(sorted(frames, key=lambda frame: natural_key(frame.path)))
    lenses = [frame.lens for frame in frames]
    camera = WorkingCamera.of(lenses)
    if poses and poses.name == _NERF:
        test = _nerf_test(root, camera)
    else:
        test = _mad_test(root, commonest_first(lenses), camera)
    if poses and poses.name == _MAD:
        _warn_of_unposed(root, frames)
    for image in test:
        size = (image.lens.width, image.lens.height)
        for path in (image.mask_path, image.clean_path):
            if path is not None and image_size(path) != size:
                raise InputError(
                    f"{path} is {_times(image_size(path))} px but {image.path} is {_times(size)}: "
                    "give an image and what belongs to it one size"
                )
    train = tuple(
        TrainView(f.path, camera.pose(f.viewmat, f.lens), f.lens, f.mask_path, f.name)
        for f in frames
    )
    name = root.resolve().name
    return Category(name, root, camera, train, test, structure, points_path)


def _photographs(root: Path, structure: Structure) -> list[Frame]:
    """The photographs of a COLMAP model, with their poses; others are named in the log."""
    folder = photographs_of(root)
    if folder is None:
        raise InputError(f"{root} has a COLMAP model but no folder {' or '.join(_PHOTOS)}: add it")
    frames, missing = [], []
    for name, lens in structure.lenses.items():
        path = folder / name
        if not path.is_file():
            missing.append(name)
            continue
        if image_size(path) != (lens.width, lens.height):
            lens = _scaled(lens, path)
        frames.append(Frame(path, structure.viewmats[name], lens, _mask_beside(root, name), name))
    if len(frames) < 2:
        raise InputError(
            f"{folder} holds {len(frames)} of the {len(structure.lenses)} photographs of the "
            "COLMAP model: add them under the names that the model gives them"
        )
    if missing:
        logging.warning("%s lacks %d photographs, first %s", folder, len(missing), missing[0])
    unknown = [path.name for path in images_in(folder) if path.name not in structure.lenses]
    if unknown:
        logging.warning(
            "%s: %d photographs are not in the model and not used: %s",
            folder, len(unknown), ", ".join(unknown),
        )  # fmt: skip
    return frames


def _scaled(lens: Lens, path: Path) -> Lens:
    width, height = image_size(path)
    if not lens.fits(width, height):
        raise InputError(
            f"{path} is {width} x {height} px but its camera in the model takes {lens.width} x "
            f"{lens.height}: give the photographs that the model was made from"
        )
    return lens.scaled(width, height)


def _mask_beside(root: Path, name: str) -> Path | None:
    """The mask of a photograph in `masks/`: of the same name, as a PNG, or with .png behind it."""
    named = (f"{name}.png", str(Path(name).with_suffix(".png")), name)
    paths = (root / "masks" / mask for mask in named)
    return next((path for path in paths if path.is_file()), None)


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts 2.png before 10.png."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _is_category(folder: Path) -> bool:
    return any(find(folder) for find in (_transforms_of, find_model, photographs_of))


def _mad_test(root: Path, lenses: list[Lens], camera: WorkingCamera) -> tuple[TestImage, ...]:
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
            lens = _test_lens(path, lenses)
            images.append(_mad_test_image(root, path, kind.name, lens, camera, poses, poses_file))
    for path in images_in(folder):
        lens = _test_lens(path, lenses)
        images.append(_mad_test_image(root, path, UNLABELLED, lens, camera, poses, poses_file))
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


def _test_lens(path: Path, lenses: list[Lens]) -> Lens:
    """The lens of a photograph to inspect."""
    width, height = image_size(path)
    lens = lens_for(lenses, width, height)
    if lens is None:
        raise InputError(
            f"{path} is {width} x {height} px, as no training photograph is ({_sizes(lenses)}), "
            "nor the same proportions: take it with a camera of the training photographs"
        )
    return lens


def _sizes(lenses: list[Lens]) -> str:
    return ", ".join(dict.fromkeys(f"{lens.width} x {lens.height}" for lens in lenses))


def _mad_test_image(
    root: Path,
    path: Path,
    kind: str,
    lens: Lens,
    camera: WorkingCamera,
    poses: dict[str, np.ndarray] | None,
    poses_file: Path,
) -> TestImage:
    """An image of a kind; takes its pose out of `poses`."""
    labelled, viewmat = kind != UNLABELLED, None
    if poses is not None:
        key = path.relative_to(root).as_posix()
        if labelled and key not in poses:
            raise InputError(f"{poses_file} has no pose for ./{key}: add it, or remove the file")
        viewmat = poses.pop(key, None)
        viewmat = None if viewmat is None else camera.pose(viewmat, lens)
    clean = root / "test_clean" / kind / path.name
    return TestImage(
        name=path.relative_to(root / "test").with_suffix("").as_posix(),
        kind=kind,
        path=path,
        mask_path=_mask_of(root, path) if labelled and kind != GOOD else None,
        viewmat=viewmat,
        clean_path=clean if clean.is_file() else None,
        lens=lens,
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


def _nerf_test(root: Path, camera: WorkingCamera) -> tuple[TestImage, ...]:
    for name in ("transforms_test.json", "transforms_val.json"):
        if (root / name).is_file():
            test = read_transforms(root / name)
            break
    else:
        logging.warning("%s: no transforms_test.json, so nothing to inspect", root)
        return ()
    return tuple(
        TestImage(
            name=f"good/{frame.path.stem}",
            kind="good",
            path=frame.path,
            mask_path=None,
            viewmat=camera.pose(frame.viewmat, frame.lens),
            clean_path=None,
            lens=frame.lens,
        )
        for frame in sorted(test.frames, key=lambda frame: natural_key(frame.path))
    )


def _warn_of_unposed(root: Path, frames: Sequence[Frame]) -> None:
    folder = root / "train" / "good"
    posed = {frame.path.resolve() for frame in frames}
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
