"""Writes a procedural toy category in MAD's layout, with the true poses of its test images.

The toy is a brick bird (`toy_model`), ray cast under lights fixed in the world (`toy_tracer`).
Cameras follow MAD: field of view 0.691 rad, 3.5 units from an object of radius 1.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igspad_jax.cameras import c2w_from_viewmat, intrinsics_from_angle, look_at
from igspad_jax.data.images import to_uint8, write_image
from igspad_jax.errors import InputError
from igspad_jax.progress import progress_bar
from toy.defects import KINDS, draw_defect
from toy.model import Figure, make_figure
from toy.scene import Picture, changed_mask, render

CAMERA_ANGLE_X = 0.6911111611634243
DISTANCE = 3.5

_PARAMETERS = "toy.json"
# Raised whenever the same parameters give other files.
_VERSION = 1
_RINGS = 6
_UP = np.array([0.0, 0.0, 1.0])
# A defect must cover this share of the pixels and differ this much from the intact view.
_MASK_SHARE = (0.001, 0.06)
_MIN_LEVELS = 8.0
_ATTEMPTS = 200


@dataclass(frozen=True)
class ToyConfig:
    """What the toy category is made from.

    Attributes:
        seed: chooses the bird's shape and colours, the test poses and the defects.
        size: width and height of the images in pixels.
        train_views: normal views, on up to 6 rings from 75 to -20 degrees of elevation.
        test_per_kind: test images of each of good, Burrs, Missing and Stains.
        supersample: rays along each side of a pixel.

    Raises:
        InputError: a value is out of its range.
    """

    seed: int = 0
    size: int = 128
    train_views: int = 96
    test_per_kind: int = 6
    supersample: int = 3

    def __post_init__(self):
        ranges = {
            "seed": (0, 2**31 - 1),
            "size": (32, 2048),
            "train_views": (2, 10_000),
            "test_per_kind": (0, 10_000),
            "supersample": (1, 16),
        }
        for name, (least, greatest) in ranges.items():
            value = getattr(self, name)
            if not least <= value <= greatest:
                raise InputError(
                    f"toy category: {name} is {value}: choose from {least} to {greatest}"
                )


def write_toy_category(root: str | Path, config: ToyConfig) -> Path:
    """Makes the category folder `root`, whole or not at all.

    A folder that was made from the same parameters is left as it is; one made from others is
    replaced.

    Args:
        root: the category folder; parents are made as needed.
        config: the parameters.

    Returns:
        `root`.

    Raises:
        InputError: `root` exists and is no toy category.
    """
    parameters = {"version": _VERSION, **asdict(config)}
    return write_once(
        Path(root), _PARAMETERS, parameters, lambda made: _write(made, config), "toy category"
    )


def write_once(
    root: Path,
    note: str,
    parameters: dict[str, Any],
    write: Callable[[Path], None],
    what: str,
) -> Path:
    """Make a folder, whole or not at all; one that was made from the same parameters stays.

    Args:
        root: the folder; parents are made as needed.
        note: name of the file in it that holds the parameters.
        parameters: that it is made from.
        write: fills the folder that it is given.
        what: names such a folder in errors.

    Raises:
        InputError: `root` exists and is no such folder.
    """
    if root.exists():
        if _read_parameters(root / note) == parameters:
            return root
        if not root.is_dir() or (any(root.iterdir()) and not (root / note).is_file()):
            raise InputError(f"{root} exists and is no {what}: give another folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as temporary:
        made = Path(temporary) / root.name
        write(made)
        (made / note).write_text(json.dumps(parameters, indent=1))
        if root.exists():
            shutil.rmtree(root)
        made.replace(root)
    return root


def train_viewmats(number: int) -> np.ndarray:
    """[number, 4, 4] viewmats on rings about the z axis that look at the origin, top ring first."""
    rings = min(_RINGS, number)
    viewmats = []
    for ring, members in enumerate(np.array_split(np.arange(number), rings)):
        elevation = 75.0 - 95.0 * ring / max(rings - 1, 1)
        for i in range(len(members)):
            # Each ring starts at another azimuth, so that views of two rings are not alike.
            azimuth = 360.0 * (i + 0.382 * ring) / len(members)
            viewmats.append(look_at(on_sphere(azimuth, elevation, DISTANCE), np.zeros(3), _UP))
    return np.stack(viewmats)


def draw_test_viewmat(rng: np.random.Generator) -> np.ndarray:
    """[4, 4] viewmat away from the training views: rolled, nearer or farther, looking past."""
    azimuth, elevation = rng.uniform(0.0, 360.0), rng.uniform(-25.0, 80.0)
    eye = on_sphere(azimuth, elevation, DISTANCE * rng.uniform(0.85, 1.15))
    target = rng.uniform(-0.05, 0.05, 3)
    return look_at(eye, target, _UP, roll=np.radians(rng.uniform(-25.0, 25.0)))


def on_sphere(azimuth: float, elevation: float, radius: float) -> np.ndarray:
    """[3] point about the origin, by angles in degrees."""
    a, e = np.radians([azimuth, elevation])
    return radius * np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])


def _read_parameters(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _write(root: Path, config: ToyConfig) -> None:
    figure = make_figure(config.seed)
    K = intrinsics_from_angle(CAMERA_ANGLE_X, config.size, config.size)
    view = {"K": K, "size": config.size, "supersample": config.supersample}
    kinds = ("good", *KINDS)
    total = config.train_views + len(kinds) * config.test_per_kind
    frames, poses = [], {}
    with progress_bar(total, f"toy {root.name}", "image") as progress:
        (root / "train/good").mkdir(parents=True)
        for i, viewmat in enumerate(train_viewmats(config.train_views)):
            picture = render(figure, viewmat, **view)
            _save(root / f"train/good/{i}.png", picture.image)
            pose = c2w_from_viewmat(viewmat).tolist()
            frames.append({"file_path": f"./train/good/{i}.png", "transform_matrix": pose})
            progress.update()
        for number, kind in enumerate(kinds):
            for part in ("test",) if kind == "good" else ("test", "ground_truth", "test_clean"):
                (root / part / kind).mkdir(parents=True)
            for i in range(config.test_per_kind):
                rng = np.random.default_rng([config.seed, 1 + number, i])
                viewmat = draw_test_viewmat(rng)
                poses[f"./test/{kind}/{i}.png"] = c2w_from_viewmat(viewmat).tolist()
                clean = render(figure, viewmat, **view)
                if kind == "good":
                    _save(root / f"test/good/{i}.png", clean.image)
                else:
                    picture, mask = _defective(kind, figure, clean, viewmat, view, rng)
                    _save(root / f"test/{kind}/{i}.png", picture.image)
                    _save(root / f"ground_truth/{kind}/{i}_mask.png", mask)
                    _save(root / f"test_clean/{kind}/{i}.png", clean.image)
                progress.update()
    transforms = {"camera_angle_x": CAMERA_ANGLE_X, "frames": frames}
    (root / "transforms.json").write_text(json.dumps(transforms, indent=1))
    (root / "test_poses.json").write_text(json.dumps(poses, indent=1))


def _defective(
    kind: str, figure: Figure, clean: Picture, viewmat: np.ndarray, view: dict, rng
) -> tuple[Picture, np.ndarray]:
    """Draws defects until one shows; returns the picture and its bool mask."""
    for _ in range(_ATTEMPTS):
        change = draw_defect(kind, figure, clean, rng)
        picture = render(figure, viewmat, **view, change=change)
        mask = changed_mask(clean, picture)
        if changed_enough(clean, picture, mask):
            return picture, mask
    raise RuntimeError(f"no {kind} that shows in {_ATTEMPTS} draws")


def changed_enough(clean: Picture, defective: Picture, mask: np.ndarray) -> bool:
    """Whether a defect shows, and is no larger than a defect."""
    if not _MASK_SHARE[0] <= mask.mean() <= _MASK_SHARE[1]:
        return False
    return 255.0 * np.abs(defective.image - clean.image)[mask].mean() >= _MIN_LEVELS


def _save(path: Path, image: np.ndarray) -> None:
    write_image(path, to_uint8(image))
