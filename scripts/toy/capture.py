"""Photographs of the toy as a person takes them: on a table in a room, through a bent lens.

A category as it lies on a user's disk: `photos/` and a COLMAP model of them in `sparse/0` (text),
`test/` and `ground_truth/`; the true poses of all are in `truth.json`. Some photographs are
portraits, some nearer than others, and each has its own exposure.
"""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from igspad_jax.cameras import look_at
from igspad_jax.data import Lens, WorkingCamera
from igspad_jax.data.images import to_uint8, write_image
from igspad_jax.match.landmarks import keypoints
from igspad_jax.match.lifting import lift
from igspad_jax.progress import progress_bar
from toy.category import changed_enough, on_sphere, write_once
from toy.defects import KINDS, draw_defect
from toy.model import Figure, make_figure
from toy.scene import Change, Picture, changed_mask, render

_UP = np.array([0.0, 0.0, 1.0])
_DISTORTION = (-0.08, 0.02, 0.002, -0.001)
_FOCAL = 0.95  # of the longer side
_ROOM = 4.0  # half the side of the room, in object radii
_SPOTS = 400  # keypoints of a view; those on the toy are the model's points
_SAME_DEPTH = 0.02
_SIGHTED = 0.5  # pixels between a point and a keypoint that shows it
_GRAIN = 0.008  # standard deviation of the noise of a pixel
_ATTEMPTS = 200
_PARAMETERS = "capture.json"


@dataclasses.dataclass(frozen=True)
class CaptureConfig:
    """What a capture is made from.

    Attributes:
        seed: chooses the bird, the room, the poses and the defects.
        size: longer side of the photographs in pixels.
        photographs: for training.
        test_per_kind: test photographs of each of good, Burrs, Missing and Stains.
        supersample: rays along each side of a pixel.
    """

    seed: int = 0
    size: int = 640
    photographs: int = 40
    test_per_kind: int = 6
    supersample: int = 2


def write_capture(root: str | Path, config: CaptureConfig) -> Path:
    """Make the category folder, whole or not at all; one from the same parameters stays.

    Raises:
        InputError: the folder exists and is no capture.
    """
    parameters = dataclasses.asdict(config)
    return write_once(
        Path(root), _PARAMETERS, parameters, lambda made: _write(made, config), "capture of the toy"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Shot:
    """A photograph.

    Attributes:
        image: uint8 [H, W, 3].
        mask: bool [H, W] what a defect changed.
        viewmat: [4, 4] its pose.
        lens: it was taken through.
        points: [m, 3] corners and blobs of the toy that it shows, in the world.
        depth: [side, side] camera-space z of the toy as `pinhole` sees it; 0 where it is not.
        pinhole: a camera without distortion at the same place.
    """

    image: np.ndarray
    mask: np.ndarray
    viewmat: np.ndarray
    lens: Lens
    points: np.ndarray
    depth: np.ndarray
    pinhole: Lens

    def shows(self, points: np.ndarray) -> np.ndarray:
        """[n] whether it shows [n, 3] points of the toy, not hidden by other parts."""
        seen = points @ self.viewmat[:3, :3].T + self.viewmat[:3, 3]
        at = np.clip(self.pinhole.project(seen).astype(int), 0, self.pinhole.width - 1)
        near = np.abs(self.depth[at[:, 1], at[:, 0]] - seen[:, 2]) < _SAME_DEPTH
        size = np.array([self.lens.width, self.lens.height])
        place = self.places(points)
        return near & ((place > 0.0) & (place < size)).all(axis=1)

    def places(self, points: np.ndarray) -> np.ndarray:
        """[n, 2] pixels where [n, 3] points are."""
        return self.lens.project(points @ self.viewmat[:3, :3].T + self.viewmat[:3, 3])


class Studio:
    """The toy on its table, to be photographed."""

    def __init__(self, config: CaptureConfig):
        self.figure: Figure = make_figure(config.seed)
        self._config, self._rng = config, np.random.default_rng([config.seed, 77])
        self._table = float(self.figure.lo[:, 2].min())
        self._textures = [self._texture() for _ in range(6)]
        width, height = config.size, config.size * 3 // 4
        focal = _FOCAL * width
        self.lens = Lens(width, height, (focal, focal), (0.5 * width, 0.5 * height), _DISTORTION)

    def _texture(self) -> np.ndarray:
        """[256, 256, 3] blotches, of a colour of its own."""
        noise = self._rng.normal(size=(256, 256, 1))
        coarse = np.sum([s * cv2.GaussianBlur(noise, (0, 0), s) for s in (2.0, 6.0, 20.0)], axis=0)
        colour = self._rng.uniform(0.25, 0.75, 3)
        return np.clip(colour + 0.12 * coarse[..., None] / coarse.std(), 0.02, 0.98)

    def viewmat(self, rng: np.random.Generator) -> np.ndarray:
        """A pose as a person with a phone finds one: from all sides, from above."""
        eye = on_sphere(rng.uniform(0.0, 360.0), rng.uniform(15.0, 65.0), rng.uniform(2.6, 3.6))
        target = rng.uniform(-0.15, 0.15, 3)
        return look_at(eye, target, _UP, roll=np.radians(rng.uniform(-8.0, 8.0)))

    def shoot(
        self,
        viewmat: np.ndarray,
        lens: Lens,
        rng: np.random.Generator,
        kind: str | None = None,
    ) -> Shot:
        """Take a photograph, of the toy with a defect of a kind or without."""
        side = round(1.15 * max(lens.width, lens.height))
        pinhole = Lens(side, side, lens.focal, (0.5 * side, 0.5 * side))
        view = {"K": pinhole.K, "size": side, "supersample": self._config.supersample}
        clean = picture = render(self.figure, viewmat, **view)
        mask = np.zeros((side, side), bool)
        if kind:
            picture, mask = self._defective(kind, clean, viewmat, view, rng)
        shown = self._in_room(picture, viewmat, pinhole)
        light = rng.uniform(0.88, 1.12) * rng.uniform(0.97, 1.03, 3)
        camera = WorkingCamera(lens)
        image = light * camera.resample(shown, pinhole)
        image += rng.normal(scale=_GRAIN, size=image.shape)
        covered = camera.resample(mask.astype(np.float32), pinhole) >= 0.5
        rows, columns = clean.pixels[:, 1], clean.pixels[:, 0]
        place = np.zeros((side, side, 3))
        place[rows, columns] = clean.hits.point[:, 0]
        toy = np.zeros((side, side), bool)
        toy[rows, columns] = (clean.hits.brick >= 0).all(axis=1)
        depth = np.where(toy, place @ viewmat[2, :3] + viewmat[2, 3], 0.0)
        found, _ = keypoints(to_uint8(shown))
        points, sure = lift(found[:_SPOTS], depth, toy.astype(float), viewmat, pinhole.K)
        points = points[sure]
        return Shot(to_uint8(image), covered, viewmat, lens, points, depth, pinhole)

    def _in_room(self, picture: Picture, viewmat: np.ndarray, lens: Lens) -> np.ndarray:
        """[side, side, 3] a picture with the table and the walls behind the toy."""
        side = lens.width
        y, x = np.mgrid[:side, :side] + 0.5
        rays = lens.directions(np.stack([x, y], axis=-1).reshape(-1, 2)) @ viewmat[:3, :3]
        eye = -viewmat[:3, :3].T @ viewmat[:3, 3]
        planes = [(axis, sign * _ROOM) for axis in (0, 1) for sign in (-1, 1)]
        planes += [(2, self._table), (2, _ROOM)]
        nearest, room = np.full(len(rays), np.inf), np.zeros((len(rays), 3))
        for (axis, offset), texture in zip(planes, self._textures, strict=True):
            with np.errstate(divide="ignore"):
                away = (offset - eye[axis]) / rays[:, axis]
            hit = (away > 0.0) & (away < nearest)
            nearest[hit] = away[hit]
            across = np.delete(eye + away[hit, None] * rays[hit], axis, axis=1)
            cells = np.floor((across + _ROOM) / (2 * _ROOM) * 255.99).astype(int) % 256
            room[hit] = texture[cells[:, 1], cells[:, 0]]
        room = room.reshape(side, side, 3)
        coverage = np.zeros((side, side, 1))
        where = picture.pixels[:, 1], picture.pixels[:, 0]
        coverage[where] = (picture.hits.brick >= 0).mean(axis=1)[:, None]
        # The picture is the toy over white: at its edge the room takes white's place.
        return np.clip(picture.image - (1.0 - coverage) * (1.0 - room), 0.0, 1.0)

    def _defective(
        self, kind: str, clean: Picture, viewmat: np.ndarray, view: dict, rng: np.random.Generator
    ) -> tuple[Picture, np.ndarray]:
        for _ in range(_ATTEMPTS):
            change: Change = draw_defect(kind, self.figure, clean, rng)
            picture = render(self.figure, viewmat, **view, change=change)
            mask = changed_mask(clean, picture)
            if changed_enough(clean, picture, mask):
                return picture, mask
        raise RuntimeError(f"no {kind} that shows in {_ATTEMPTS} draws")


def _write(root: Path, config: CaptureConfig) -> None:
    studio, truth = Studio(config), {}
    kinds = ("good", *KINDS)
    (root / "photos").mkdir(parents=True)
    taken: dict[str, Shot] = {}
    total = config.photographs + len(kinds) * config.test_per_kind
    with progress_bar(total, f"photograph {root.name}", "image") as bar:
        for i in range(config.photographs):
            rng = np.random.default_rng([config.seed, 0, i])
            name, lens = f"{i:03d}.png", studio.lens.turned() if i % 4 == 3 else studio.lens
            taken[name] = studio.shoot(studio.viewmat(rng), lens, rng)
            write_image(root / "photos" / name, taken[name].image)
            bar.update()
        for number, kind in enumerate(kinds):
            (root / "test" / kind).mkdir(parents=True)
            if kind != "good":
                (root / "ground_truth" / kind).mkdir(parents=True)
            for i in range(config.test_per_kind):
                rng = np.random.default_rng([config.seed, 1 + number, i])
                lens = studio.lens.turned() if i % 4 == 3 else studio.lens
                viewmat = studio.viewmat(rng)
                shot = studio.shoot(viewmat, lens, rng, None if kind == "good" else kind)
                write_image(root / "test" / kind / f"{i}.png", shot.image)
                truth[f"test/{kind}/{i}.png"] = viewmat.tolist()
                if kind != "good":
                    path = root / "ground_truth" / kind / f"{i}_mask.png"
                    write_image(path, to_uint8(shot.mask))
                bar.update()
    (root / "truth.json").write_text(json.dumps(truth, indent=1))
    _write_model(root / "sparse/0", studio, taken)


def _write_model(folder: Path, studio: Studio, taken: dict[str, Shot]) -> None:
    """A COLMAP model in text, of points that the photographs show."""
    folder.mkdir(parents=True)
    lenses = [studio.lens, studio.lens.turned()]
    cameras, images = [], []
    for i, lens in enumerate(lenses, start=1):
        numbers = (*lens.focal, *lens.centre, *lens.distortion)
        cameras.append(f"{i} OPENCV {lens.width} {lens.height} {_joined(numbers)}")
    points = np.concatenate([shot.points for shot in taken.values()])
    colours = np.zeros((len(points), 3), int)
    tracks: list[list[str]] = [[] for _ in points]
    for i, (name, shot) in enumerate(taken.items(), start=1):
        x, y, z, w = Rotation.from_matrix(shot.viewmat[:3, :3]).as_quat()
        pose = _joined((w, x, y, z, *shot.viewmat[:3, 3]))
        images.append(f"{i} {pose} {1 + lenses.index(shot.lens)} {name}")
        shown = np.flatnonzero(shot.shows(points))
        # Only where SIFT sees the point, as structure from motion does.
        found, _ = keypoints(shot.image)
        away, nearest = map(np.asarray, KDTree(found).query(shot.places(points[shown])))
        shown, places = shown[away < _SIGHTED], found[nearest[away < _SIGHTED]]
        colours[shown] = shot.image[places[:, 1].astype(int), places[:, 0].astype(int)]
        pairs = zip(shown, places, strict=True)
        images.append(" ".join(f"{_joined(place)} {1 + point}" for point, place in pairs))
        for row, point in enumerate(shown):
            tracks[point].append(f"{i} {row}")
    lines = [
        f"{1 + i} {_joined(point)} {_joined(colours[i])} 0.3 {' '.join(tracks[i])}"
        for i, point in enumerate(points)
        if tracks[i]
    ]
    for name, content in (("cameras", cameras), ("images", images), ("points3D", lines)):
        (folder / f"{name}.txt").write_text("\n".join(content) + "\n")


def _joined(numbers: Iterable[float]) -> str:
    return " ".join(f"{number:.12g}" for number in numbers)
