"""Reads `transforms.json` files: intrinsics and camera-to-world poses, checked.

The format is that of NeRF-synthetic: `camera_angle_x`, the horizontal field of view in radians, and
`frames`, each with a `file_path` relative to the file's folder (with or without the extension) and
a `transform_matrix`, camera to world in OpenGL axes (x right, y up, z backwards). The keys `fl_x`,
`fl_y`, `cx`, `cy`, `w`, `h` of instant-ngp are honoured where they stand.
"""

import json
import math
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igspad_jax.cameras import intrinsics_from_angle, scale_intrinsics, viewmat_from_c2w
from igspad_jax.data.images import IMAGE_SUFFIXES, image_size
from igspad_jax.errors import InputError

_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_MIN_FRAMES = 2
# Files print matrices with six digits or more; a scaled or sheared one is off by far more.
_RIGID_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Transforms:
    """A checked transforms file.

    Attributes:
        K: [3, 3] float64 intrinsics in pixels of the images.
        width: of the images, in pixels.
        height: of the images, in pixels.
        views: image file and [4, 4] float64 viewmat of every frame, in the file's order.
    """

    K: np.ndarray
    width: int
    height: int
    views: tuple[tuple[Path, np.ndarray], ...]


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
    views: list[tuple[Path, np.ndarray]] = []
    seen: dict[Path, int] = {}
    sizes: list[tuple[int, int]] = []
    for number, frame in enumerate(frames):
        where = f"{path}: frame {number}"
        image = _image_of(path.parent, frame, where)
        if image in seen:
            raise InputError(
                f"{where} names {image.name} like frame {seen[image]}: give every image one frame"
            )
        seen[image] = number
        views.append((image, _viewmat(frame.get("transform_matrix"), where)))
        sizes.append(image_size(image))
        if sizes[-1] != sizes[0]:
            raise InputError(
                f"{image} is {sizes[-1][0]} x {sizes[-1][1]} px but {views[0][0].name} is "
                f"{sizes[0][0]} x {sizes[0][1]}: give all images of a category one size"
            )
    width, height = sizes[0]
    return Transforms(_intrinsics(content, path, width, height), width, height, tuple(views))


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
    per_frame = [key for key in ("fl_x", "camera_angle_x", *_DISTORTION) if key in frame]
    if per_frame:
        raise InputError(
            f"{where} has its own '{per_frame[0]}': use one undistorted camera for all frames"
        )
    base = _normal(name)
    for suffix in ("", *IMAGE_SUFFIXES):
        path = folder / (base + suffix)
        if path.is_file():
            return path
    raise InputError(
        f"{where} names {name}, which is not in {folder}: add the image or remove the frame"
    )


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


def _intrinsics(content: dict[str, Any], path: Path, width: int, height: int) -> np.ndarray:
    bent = [key for key in _DISTORTION if _number(content, key, path, 0.0) != 0.0]
    if bent:
        raise InputError(f"{path} has lens distortion '{bent[0]}': undistort the images first")
    if "fl_x" in content:
        file_width = _number(content, "w", path, float(width))
        file_height = _number(content, "h", path, float(height))
        fx = _number(content, "fl_x", path)
        fy = _number(content, "fl_y", path, fx)
        cx = _number(content, "cx", path, 0.5 * file_width)
        cy = _number(content, "cy", path, 0.5 * file_height)
        if min(file_width, file_height, fx, fy) <= 0.0:
            raise InputError(
                f"{path} has a focal length or a size that is not positive: correct it"
            )
        if abs(file_width / file_height * height / width - 1.0) > 2.0 / min(width, height):
            raise InputError(
                f"{path} says w x h = {file_width:g} x {file_height:g} but the images are "
                f"{width} x {height}: give the images the same aspect ratio"
            )
        K = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
        return scale_intrinsics(K, width / file_width, height / file_height)
    if "camera_angle_x" not in content:
        raise InputError(
            f"{path} has no 'camera_angle_x': add the horizontal field of view in radians"
        )
    angle = _number(content, "camera_angle_x", path)
    if not 0.0 < angle < math.pi:
        raise InputError(
            f"{path} has camera_angle_x = {angle:g}: it is in radians, between 0 and pi"
        )
    return intrinsics_from_angle(angle, width, height)


def _number(content: dict[str, Any], key: str, path: Path, default: float | None = None) -> float:
    value = content.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{path} has {key} = {value!r}: it must be a finite number")
    return float(value)
