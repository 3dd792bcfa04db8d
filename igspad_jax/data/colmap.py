"""Structure from motion by COLMAP (Schoenberger and Frahm 2016), through pycolmap.

pycolmap is an optional dependency: `pip install igspad-jax[photos]`.
"""

import dataclasses
import hashlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from igspad_jax.data.lenses import Lens
from igspad_jax.errors import InputError

_FILES = ("cameras", "images", "points3D")


@dataclasses.dataclass(frozen=True, eq=False)
class Structure:
    """What structure from motion found.

    Attributes:
        lenses: by the names of the photographs.
        viewmats: [4, 4] float64 by the names of the photographs.
        points: float64 [P, 3] in the world.
        colours: float32 [P, 3] in [0, 1].
        errors: [P] mean reprojection error of each point in pixels.
        shown: by the names of the photographs, [m] which points each shows and [m, 2] where, in
            pixels.
    """

    lenses: dict[str, Lens]
    viewmats: dict[str, np.ndarray]
    points: np.ndarray
    colours: np.ndarray
    errors: np.ndarray
    shown: dict[str, tuple[np.ndarray, np.ndarray]]

    @property
    def digest(self) -> str:
        """Stands for the points and where they are seen."""
        places = [values for pair in self.shown.values() for values in pair]
        hashed = hashlib.sha256(b"".join(map(np.ndarray.tobytes, [self.points, *places])))
        return hashed.hexdigest()[:16]


def pycolmap() -> ModuleType:
    """The module.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import pycolmap
    except ImportError as error:
        raise InputError(
            "photographs and COLMAP models need pycolmap, which is not installed: "
            "pip install 'igspad-jax[photos]'"
        ) from error
    return pycolmap


def find_model(folder: Path) -> Path | None:
    """The COLMAP model in a category's folder, binary or text; None where there is none.

    Of several in `sparse/` the one with the most bytes of images, which is the largest.
    """
    inside = [folder / "sparse", *sorted((folder / "sparse").glob("*")), *folder.glob("colmap")]
    found = [place for place in inside if all(_file(place, name) for name in _FILES)]
    return max(found, key=lambda place: _size(_file(place, "images")), default=None)


def _file(folder: Path, name: str) -> Path | None:
    files = (folder / f"{name}{suffix}" for suffix in (".bin", ".txt"))
    return next((file for file in files if file.is_file()), None)


def _size(path: Path | None) -> int:
    return path.stat().st_size if path else 0


def read_model(folder: Path) -> Structure:
    """Read a COLMAP model.

    Raises:
        InputError: if pycolmap is missing, or the files are damaged or of cameras that cannot be.
    """
    library = pycolmap()
    try:
        return structure_of(library.Reconstruction(folder))
    except (RuntimeError, ValueError, IndexError, KeyError) as error:
        words = " ".join(str(error).split())
        raise InputError(f"{folder}: not a COLMAP model that can be read ({words})") from error


def structure_of(reconstruction: Any) -> Structure:
    """The structure of a `pycolmap.Reconstruction`."""
    lenses = {i: lens_of(camera) for i, camera in reconstruction.cameras.items()}
    ids = sorted(reconstruction.points3D)
    row = {point: i for i, point in enumerate(ids)}
    points = [reconstruction.points3D[i] for i in ids]
    found = {image.name: image for image in reconstruction.images.values() if image.has_pose}
    shown = {}
    for name, image in found.items():
        own = [p for p in image.points2D if p.has_point3D()]
        which = np.array([row[p.point3D_id] for p in own], np.int64)
        shown[name] = which, np.array([p.xy for p in own], np.float64).reshape(-1, 2)
    return Structure(
        lenses={name: lenses[image.camera_id] for name, image in found.items()},
        viewmats={name: _viewmat(image.cam_from_world()) for name, image in found.items()},
        points=np.array([p.xyz for p in points], np.float64).reshape(-1, 3),
        colours=np.array([p.color for p in points], np.float32).reshape(-1, 3) / 255.0,
        errors=np.array([p.error for p in points], np.float64),
        shown=shown,
    )


def _viewmat(motion: Any) -> np.ndarray:
    return np.vstack([np.asarray(motion.matrix(), np.float64), [0.0, 0.0, 0.0, 1.0]])


def lens_of(camera: Any) -> Lens:
    """The lens of a `pycolmap.Camera`.

    Raises:
        InputError: for a model that OpenCV has none for.
    """
    named = dict(zip(camera.params_info.replace(" ", "").split(","), camera.params, strict=True))
    model = camera.model.name
    given = {name: float(value) for name, value in named.items()}
    if "k" in given:
        given["k1"] = given.pop("k")
    fx, fy = (given.get(name, given.get("f", 0.0)) for name in ("fx", "fy"))
    fisheye = model.endswith("FISHEYE")
    known = {"f", "fx", "fy", "cx", "cy", "p1", "p2", *(f"k{i}" for i in range(1, 7))}
    if not known >= given.keys():
        raise InputError(
            f"camera {camera.camera_id} has the model {model}, which is not supported: use "
            "PINHOLE, RADIAL, OPENCV, FULL_OPENCV or a fisheye model with k1 to k4"
        )
    names = (
        ["k1", "k2", "k3", "k4"] if fisheye else ["k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"]
    )
    distortion = tuple(given.get(name, 0.0) for name in names)
    if not any(distortion) and not fisheye:
        distortion = ()
    return Lens(
        int(camera.width), int(camera.height), (fx, fy), (given["cx"], given["cy"]),
        distortion, fisheye,
    )  # fmt: skip
