"""Reads `transforms.json` files: lenses and camera-to-world poses, checked.

The format is that of NeRF-synthetic: `camera_angle_x`, the horizontal field of view in radians, and
`frames`, each with a `file_path` relative to the file's folder (with or without the extension) and
a `transform_matrix`, camera to world in OpenGL axes (x right, y up, z backwards). What instant-ngp
and nerfstudio add is honoured, for all frames or in one: `fl_x`, `fl_y`, `cx`, `cy`, `w`, `h`,
`camera_model`, `is_fisheye`, `k1` to `k4`, `p1`, `p2`, `mask_path`, and `ply_file_path`, whose
points share the poses' world. So `applied_transform` needs no work: poses and points both had it.
"""

import json
import math
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from igspad_jax.cameras import intrinsics_from_angle, viewmat_from_c2w
from igspad_jax.data.images import IMAGE_SUFFIXES, image_size
from igspad_jax.data.lenses import Lens
from igspad_jax.errors import InputError

_CAMERA = ("fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x", "camera_model", "is_fisheye")
_RADIAL, _TANGENTIAL = ("k1", "k2", "k3", "k4"), ("p1", "p2")
_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE")
_MIN_FRAMES = 2
# Files print matrices with six digits or more; a scaled or sheared one is off by far more.
_RIGID_TOLERANCE = 1e-3


class Frame(NamedTuple):
    """An image of a transforms file.

    Attributes:
        path: the image file.
        viewmat: [4, 4] float64.
        lens: in pixels of the image.
        mask_path: what of the image is to be taken; None for all.
        name: in the structure from motion.
    """

    path: Path
    viewmat: np.ndarray
    lens: Lens
    mask_path: Path | None
    name: str = ""


@dataclass(frozen=True, eq=False)
class Transforms:
    """A checked transforms file.

    Attributes:
        frames: in the file's order.
        points_path: a `.ply` cloud to start training from; None where there is none.
    """

    frames: tuple[Frame, ...]
    points_path: Path | None


def read_transforms(path: Path) -> Transforms:
    """Reads a transforms file and the sizes of the images it names.

    Raises:
        InputError: the file is no such file, or says what cannot be so.
    """
    content = _read_json(path)
    frames = content.get("frames")
    if not isinstance(frames, list):
        raise InputError(f"{path} has no list 'frames': add one entry for every image")
    if len(frames) < _MIN_FRAMES:
        raise InputError(
            f"{path} has {len(frames)} frame(s): a scene needs at least {_MIN_FRAMES} views"
        )
    found: list[Frame] = []
    seen: dict[Path, int] = {}
    for number, frame in enumerate(frames):
        where = f"{path}: frame {number}"
        image = _image_of(path.parent, frame, where)
        if image in seen:
            raise InputError(
                f"{where} names {image.name} like frame {seen[image]}: give every image one frame"
            )
        seen[image] = number
        viewmat = _viewmat(frame.get("transform_matrix"), where)
        # A frame's own focal length goes before a field of view of all.
        own = {key: frame[key] for key in (*_CAMERA, *_RADIAL, *_TANGENTIAL) if key in frame}
        common = {k: v for k, v in content.items() if "camera_angle_x" not in own or k != "fl_x"}
        lens = _lens(common | own, where if own else str(path), image, image_size(image))
        if not own and found and not found[0].lens.fits(lens.width, lens.height):
            first = found[0]
            raise InputError(
                f"{image} is {lens.width} x {lens.height} px but {first.path.name} is "
                f"{first.lens.width} x {first.lens.height}: give each frame its own fl_x, w and h, "
                "or all images the same proportions"
            )
        found.append(Frame(image, viewmat, lens, _beside(path.parent, frame, "mask_path", where)))
    return Transforms(tuple(found), _beside(path.parent, content, "ply_file_path", str(path)))


def read_poses(path: Path) -> dict[str, np.ndarray]:
    """Reads a mapping from image files to camera-to-world matrices.

    Returns:
        [4, 4] float64 viewmats by POSIX path relative to the file's folder, without a leading "./".

    Raises:
        InputError: the file is no such mapping, or a matrix is no rigid motion.
    """
    content = _read_json(path)
    return {_normal(name): _viewmat(matrix, f"{path}: {name}") for name, matrix in content.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): repair the file") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not an object: repair the file")
    return content


def _normal(name: str) -> str:
    return posixpath.normpath(name.replace("\\", "/"))


def _image_of(folder: Path, frame: Any, where: str) -> Path:
    name = frame.get("file_path") if isinstance(frame, dict) else None
    if not isinstance(name, str) or not name:
        raise InputError(f"{where} has no 'file_path': add the image's path")
    base = _normal(name)
    for suffix in ("", *IMAGE_SUFFIXES):
        path = folder / (base + suffix)
        if path.is_file():
            return path
    raise InputError(
        f"{where} names {name}, which is not in {folder}: add the image or remove the frame"
    )


def _beside(folder: Path, content: dict[str, Any], key: str, where: str) -> Path | None:
    """The file that a key names, if the key is there."""
    name = content.get(key)
    if not name:
        return None
    path = folder / _normal(str(name))
    if not path.is_file():
        raise InputError(f"{where} names {name} as its {key}, which is not in {folder}: add it")
    return path


def _viewmat(matrix: Any, where: str) -> np.ndarray:
    try:
        c2w = np.asarray(matrix, np.float64)
    except (TypeError, ValueError):
        c2w = np.empty(0)
    if c2w.shape != (4, 4):
        raise InputError(f"{where} has no 4 x 4 matrix: give a camera-to-world matrix")
    if not np.isfinite(c2w).all():
        raise InputError(f"{where} has a matrix with NaN or infinity: export the poses again")
    rotation = c2w[:3, :3]
    off = max(
        np.abs(rotation.T @ rotation - np.eye(3)).max(),
        np.abs(c2w[3] - [0.0, 0.0, 0.0, 1.0]).max(),
    )
    if off > _RIGID_TOLERANCE or np.linalg.det(rotation) < 0.0:
        raise InputError(
            f"{where} has a matrix that is not a rotation and a translation (off by {off:.2g}): "
            "export the poses without scale or mirroring"
        )
    return viewmat_from_c2w(c2w)


def _lens(content: dict[str, Any], where: str, image: Path, size: tuple[int, int]) -> Lens:
    """The lens that the keys of a file and of a frame describe, for an image of a size."""
    width, height = size
    file_width = _number(content, "w", where, float(width))
    file_height = _number(content, "h", where, float(height))
    if "fl_x" in content:
        fx = _number(content, "fl_x", where)
        fy = _number(content, "fl_y", where, fx)
        cx = _number(content, "cx", where, 0.5 * file_width)
        cy = _number(content, "cy", where, 0.5 * file_height)
        if min(file_width, file_height, fx, fy) <= 0.0:
            raise InputError(
                f"{where} has a focal length or a size that is not positive: correct it"
            )
    elif "camera_angle_x" in content:
        angle = _number(content, "camera_angle_x", where)
        if not 0.0 < angle < math.pi:
            raise InputError(
                f"{where} has camera_angle_x = {angle:g}: it is in radians, between 0 and pi"
            )
        file_width, file_height = float(width), float(height)
        K = intrinsics_from_angle(angle, width, height)
        fx, fy, cx, cy = (float(K[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
    else:
        raise InputError(
            f"{where} has no 'camera_angle_x': add the horizontal field of view in radians"
        )
    if abs(file_width / file_height * height / width - 1.0) > 2.0 / min(width, height):
        raise InputError(
            f"{where} says w x h = {file_width:g} x {file_height:g} but {image.name} is "
            f"{width} x {height}: give the images the same aspect ratio"
        )
    distortion, fisheye = _distortion(content, where)
    across, down = width / file_width, height / file_height
    return Lens(
        width, height, (fx * across, fy * down), (cx * across, cy * down), distortion, fisheye
    )


def _distortion(content: dict[str, Any], where: str) -> tuple[tuple[float, ...], bool]:
    """Coefficients as `Lens` takes them, and whether they are a fisheye's."""
    model = content.get("camera_model", "OPENCV")
    if model not in _MODELS:
        raise InputError(
            f"{where} has camera_model {model!r}, which is not supported: choose one of "
            f"{', '.join(_MODELS)}"
        )
    k1, k2, k3, k4 = (_number(content, key, where, 0.0) for key in _RADIAL)
    p1, p2 = (_number(content, key, where, 0.0) for key in _TANGENTIAL)
    if model == "OPENCV_FISHEYE" or content.get("is_fisheye"):
        return (k1, k2, k3, k4), True
    if k4:
        raise InputError(
            f"{where} has k4 = {k4:g}, which a lens that is no fisheye seldom needs: calibrate "
            "it again with k1, k2, k3, p1, p2"
        )
    return ((k1, k2, p1, p2, k3) if any((k1, k2, k3, p1, p2)) else ()), False


def _number(content: dict[str, Any], key: str, where: str, default: float | None = None) -> float:
    value = content.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{where} has {key} = {value!r}: it must be a finite number")
    return float(value)
