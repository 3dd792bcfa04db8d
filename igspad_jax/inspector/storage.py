"""An inspector as a folder that can be copied to another machine.

    object.json       the cameras, the background, centre and radius, the poses of the views
    scene.ply         the Gaussians, for viewers too
    landmarks.npz     what photographs are located by, where there is a structure from motion
    views/NAME.png    the training images, 8 bit
    inspector.json    settings, the weights by name and hash, the calibration
    expected.npz      the anomaly that normal images show, see `ExpectedAnomaly`
    features/         keypoints of the training images; made anew where they are missing

The first four are the normal object, the others what an inspector adds.
"""

import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from igspad_jax.data import Lens, LoadedViews, load_image, to_uint8, write_image
from igspad_jax.detect import ExpectedAnomaly, weights_of_features
from igspad_jax.errors import InputError
from igspad_jax.files import read_json, write_json, write_whole
from igspad_jax.inspector.calibration import Calibration
from igspad_jax.match import Landmarks, weights_of_matching
from igspad_jax.networks.weights import NO_SOURCES, Sources, digest
from igspad_jax.normal_object import NormalObject
from igspad_jax.render import Capacity
from igspad_jax.scene.ply import read_ply, write_ply
from igspad_jax.settings import InspectorConfig, filled

FORMAT = 2  # raised whenever older programs could not read a folder, or newer ones an older folder
OBJECT, INSPECTOR = "object.json", "inspector.json"
FEATURES = "features"
_SCENE, _VIEWS, _EXPECTED = "scene.ply", "views", "expected.npz"
LANDMARKS = "landmarks.npz"

T = TypeVar("T")


def save_object(
    folder: Path, normal_object: NormalObject, views: LoadedViews, names: Sequence[str]
) -> None:
    """Write a normal object and the views it was fitted to; the names are unique file stems."""
    shutil.rmtree(folder / _VIEWS, ignore_errors=True)
    (folder / _VIEWS).mkdir(parents=True)
    for name, image in zip(names, views.images, strict=True):
        write_image(folder / _VIEWS / f"{name}.png", to_uint8(image))
    write_ply(folder / _SCENE, normal_object.gaussians)
    content = {
        "format": FORMAT,
        "width": normal_object.width,
        "height": normal_object.height,
        "K": np.asarray(normal_object.K),
        "background": np.asarray(normal_object.background),
        "centre": np.asarray(normal_object.centre),
        "radius": float(normal_object.radius),
        "surrounded": normal_object.surrounded,
        "lenses": views.lenses,
        "sh_degree": normal_object.gaussians.sh_degree,
        "capacity": normal_object.capacity.slots,
        "views": [
            {"name": name, "viewmat": viewmat}
            for name, viewmat in zip(names, views.viewmats, strict=True)
        ],
    }
    write_json(folder / OBJECT, content)


def load_object(folder: Path) -> tuple[NormalObject, LoadedViews]:
    """Read what `save_object` wrote.

    Raises:
        InputError: if something is missing, damaged, or of another format.
    """

    def read(content: dict[str, Any]) -> tuple[NormalObject, LoadedViews]:
        gaussians = read_ply(folder / _SCENE)
        bases = (int(content["sh_degree"]) + 1) ** 2
        K = np.array(content["K"], np.float32)
        images = [load_image(folder / _VIEWS / f"{v['name']}.png") for v in content["views"]]
        viewmats = np.array([view["viewmat"] for view in content["views"]], np.float32)
        normal_object = NormalObject(
            gaussians.replace(sh=gaussians.sh[:, :bases]),
            K,
            width=int(content["width"]),
            height=int(content["height"]),
            background=np.array(content["background"]),
            centre=np.array(content["centre"]),
            radius=float(content["radius"]),
            surrounded=bool(content["surrounded"]),
            capacity=Capacity(int(content["capacity"])),
        )
        lenses = tuple(Lens.from_json(lens) for lens in content["lenses"])
        return normal_object, LoadedViews(np.stack(images), viewmats, K, lenses=lenses)

    return _read(folder / OBJECT, read, "copy the folder again, or run igspad-train")


class Parts(NamedTuple):
    """What an inspector is made of; see `igspad_jax.inspector.inspector.Inspector`."""

    normal_object: NormalObject
    views: LoadedViews
    config: InspectorConfig
    expected: ExpectedAnomaly | None
    calibration: Calibration
    landmarks: Landmarks | None
    features_folder: Path


def save_parts(
    folder: Path,
    config: InspectorConfig,
    expected: ExpectedAnomaly | None,
    calibration: Calibration,
    sources: Sources = NO_SOURCES,
    *,
    capacity: int,
    expected_key: str = "",
) -> None:
    """Write what an inspector adds to the normal object, which is there already.

    Args:
        folder: the folder.
        config: the settings.
        expected: what normal images show.
        calibration: what the verdict rests on.
        sources: of weights that are not the usual ones.
        capacity: slots that renders of the object asked for so far: a later process need not find
            out by compiling for too few.
        expected_key: stands for what `expected` was learnt from, for `load_expected`.
    """
    if expected is None:
        (folder / _EXPECTED).unlink(missing_ok=True)
        expected_key = ""
    else:
        arrays = {
            "sums": expected.sums, "directions": expected.directions, "typical": expected.typical
        }  # fmt: skip
        write_whole(folder / _EXPECTED, lambda file: np.savez_compressed(file, **arrays))
    content = {
        "format": FORMAT,
        "settings": config,
        "weights": {name: digest(name, sources) for name in weights_of(config)},
        "calibration": calibration,
        "capacity": capacity,
        "expected_key": expected_key,
    }
    write_json(folder / INSPECTOR, content)


def load_parts(folder: Path, sources: Sources = NO_SOURCES) -> Parts:
    """Read an inspector's parts from its folder, or from a run's that holds one.

    Args:
        folder: the folder.
        sources: of weights that are not the usual ones.

    Raises:
        InputError: if something is missing, damaged, of another format, or the weights on this
            machine are not those that the inspector was calibrated with.
    """
    folder = find_inspector(folder)

    def read(content: dict[str, Any]) -> tuple[InspectorConfig, Calibration, Capacity]:
        config = filled(InspectorConfig, content["settings"])
        for name, expected in content["weights"].items():
            if digest(name, sources) != expected:
                raise InputError(
                    f"{folder / INSPECTOR}: the weights {name} on this machine are not those that "
                    "the inspector was calibrated with; copy them from there, or calibrate it here"
                )
        calibration = content["calibration"]
        for name in ("scores", "left_out"):
            calibration[name] = tuple(calibration[name])
        return config, Calibration(**calibration), Capacity(int(content["capacity"]))

    config, calibration, capacity = _read(
        folder / INSPECTOR, read, "run igspad-calibrate, which makes it"
    )
    normal_object, views = load_object(folder)
    normal_object.capacity = capacity
    expected = None
    if config.detect.expected_strength:
        expected = _load_expected(folder / _EXPECTED)
    landmarks = load_landmarks(folder)
    return Parts(normal_object, views, config, expected, calibration, landmarks, folder / FEATURES)


def load_landmarks(folder: Path) -> Landmarks | None:
    """The landmarks of the object in a folder; None where it has none."""
    path = folder / LANDMARKS
    return Landmarks.load(path) if path.is_file() else None


def find_inspector(folder: Path) -> Path:
    """The folder with the normal object: the given one, its `object`, or its only category's.

    Raises:
        InputError: if there is none, or several.
    """
    inside = [folder, folder / "object", *sorted(folder.glob("*/object"))]
    found = [candidate for candidate in inside if (candidate / OBJECT).is_file()]
    if not found:
        raise InputError(
            f"{folder} holds no trained object ({OBJECT} is missing): give the folder of a run, "
            "or train one with igspad-train"
        )
    if len(found) > 1:
        names = ", ".join(str(candidate) for candidate in found)
        raise InputError(f"{folder} holds several trained objects, choose one: {names}")
    return found[0]


def weights_of(config: InspectorConfig) -> list[str]:
    """The names of the weights that an inspector takes."""
    features = weights_of_features(config.detect.features)
    return list(dict.fromkeys([*weights_of_matching(config.match), *features]))


def load_expected(folder: Path, key: str) -> ExpectedAnomaly | None:
    """The expected anomaly in a folder, if it was learnt from what `key` stands for."""
    try:
        if read_json(folder / INSPECTOR, "")["expected_key"] != key:
            return None
        return _load_expected(folder / _EXPECTED)
    except (InputError, KeyError, TypeError):
        return None


def _load_expected(path: Path) -> ExpectedAnomaly:
    try:
        with np.load(path) as file:
            return ExpectedAnomaly(file["sums"], file["directions"], float(file["typical"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({error}); run igspad-calibrate again") from error


def _read(path: Path, read: Callable[[dict[str, Any]], T], remedy: str) -> T:
    """Reads a JSON file of this format."""
    content = read_json(path, remedy)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise InputError(
            f"{path}: format {found}, this program reads format {FORMAT}; make it again with "
            "this program"
        )
    try:
        return read(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}: {error}); {remedy}") from error
