"""Poses by landmarks: points of the object's structure-from-motion model, found again in an image.

Visual localisation as it has long been done: a landmark carries the SIFT descriptors of the
training photographs that observe it (Lowe 2004; square-rooted, Arandjelovic and Zisserman 2012);
those of an image are matched to them view by view, and a camera is fitted to all pairs (P3P, Ke and
Roumeliotis 2017, within RANSAC), then refined on the pairs near it with Cauchy's weights. On
photographs with texture this is exact to a tenth of a degree, whatever the first guess; where all
parts look alike it is lost, and other ways must help.
"""

import dataclasses
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

import cv2
import numpy as np
from scipy.optimize import least_squares
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from igspad_jax.data.images import to_uint8
from igspad_jax.data.lenses import Lens
from igspad_jax.errors import InputError
from igspad_jax.files import write_whole

_KEYPOINTS = 8000  # of an image at most, the strongest
_CONTRAST = 0.01  # of a keypoint; OpenCV's 0.04 leaves few on a bare surface
_LONGEST = 1600  # pixels of an image's longer side; more take time and give little
_NEAR = 1.5  # pixels between an observation of a landmark and a keypoint of its own
_RATIO = 0.8  # of the distances to the best and the second-best descriptor of a view
_VIEWS = 16  # training views that are matched in full
_SIGHTED = 1000  # strongest keypoints that choose them
_TOLERANCE = 4.0  # pixels, at `_REFERENCE` pixels of width, of a pair that a pose explains
_REFERENCE = 1000.0
_CAUCHY = 1.0  # pixels there, at which a pair's influence begins to fall
_LEAST = 8  # pairs
_ITERATIONS = 20_000  # of samples of four pairs; one in eight may be right


class Sighting(NamedTuple):
    """A training photograph of landmarks.

    Attributes:
        pixels: uint8 [H, W, 3 or 4] as taken.
        points: [m] indices of the landmarks that it shows.
        places: [m, 2] where, in pixels.
    """

    pixels: np.ndarray
    points: np.ndarray
    places: np.ndarray


class Located(NamedTuple):
    """A pose by landmarks.

    Attributes:
        viewmat: [4, 4] of the photograph.
        covariance: [6, 6] of a twist [rho, theta] of the camera, in world units and radians, for
            independent errors of the landmarks.
        inliers: number of landmarks that it explains.
        view: training view with most of the pairs.
    """

    viewmat: np.ndarray
    covariance: np.ndarray
    inliers: int
    view: int


@dataclasses.dataclass(frozen=True, eq=False)
class Landmarks:
    """Points of an object and what they look like.

    Attributes:
        points: float64 [P, 3] in the world.
        descriptors: uint8 [n, 128] of training keypoints on landmarks.
        owners: int32 [n] the landmark of each.
        counts: int32 [views] descriptors of each view, which lie together.
    """

    points: np.ndarray
    descriptors: np.ndarray
    owners: np.ndarray
    counts: np.ndarray

    @classmethod
    def describe(cls, points: np.ndarray, sightings: Iterable[Sighting]) -> Self:
        """Learn what [P, 3] points look like, from the training views in their order."""
        descriptors, owners = [], []
        for sighting in sightings:
            places, found = keypoints(sighting.pixels)
            chosen, rows = np.zeros(0, int), np.zeros(0, int)
            if len(places) and len(sighting.places):
                away, nearest = map(np.asarray, KDTree(places).query(sighting.places))
                chosen = np.flatnonzero(away < _NEAR)
                rows = nearest[chosen]
            descriptors.append(found[rows])
            owners.append(sighting.points[chosen].astype(np.int32))
        counts = np.array([len(own) for own in owners], np.int32)
        return cls(points, np.concatenate(descriptors), np.concatenate(owners), counts)

    def save(self, path: Path) -> None:
        """Write a file that `load` reads."""
        arrays = dataclasses.asdict(self)
        write_whole(path, lambda file: np.savez_compressed(file, **arrays))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: if it is missing or damaged.
        """
        try:
            with np.load(path) as file:
                return cls(**{field.name: file[field.name] for field in dataclasses.fields(cls)})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: cannot be read ({error}); run igspad-train again") from error

    def locate(self, pixels: np.ndarray, lens: Lens) -> Located | None:
        """The pose of a photograph; None where too few landmarks are found in it.

        Args:
            pixels: uint8 [H, W, 3 or 4] as taken.
            lens: its lens.
        """
        places, found = keypoints(pixels)
        if len(places) < _LEAST:
            return None
        rows, columns = self._pairs(_vectors(found))
        if len(rows) < _LEAST:
            return None
        scale = max(lens.width, lens.height) / _REFERENCE
        world, places = self.points[self.owners[columns]], places[rows]
        fitted = _fitted(world, places, lens, scale)
        if fitted is None:
            return None
        viewmat, covariance = fitted
        explained = _errors(viewmat, world, places, lens) < _TOLERANCE * scale
        if not explained.any():
            return None
        views = np.repeat(np.arange(len(self.counts)), self.counts)[columns[explained]]
        inliers = len(np.unique(self.owners[columns[explained]]))
        return Located(viewmat, covariance, inliers, int(np.bincount(views).argmax()))

    def _pairs(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of [k, 128] vectors, strongest first, and the descriptors that they match."""
        ends = np.cumsum(self.counts)
        known = _vectors(self.descriptors)

        def matched(query: np.ndarray, view: int) -> tuple[np.ndarray, np.ndarray]:
            first = int(ends[view] - self.counts[view])
            rows, columns = _mutual(query @ known[first : ends[view]].T)
            return rows, columns + first

        views = [view for view, count in enumerate(self.counts) if count > 1]
        if len(views) > _VIEWS:
            likely = [len(matched(found[:_SIGHTED], view)[0]) for view in views]
            views = [views[i] for i in np.argsort(np.negative(likely), kind="stable")[:_VIEWS]]
        pairs = [matched(found, view) for view in views]
        if not pairs:
            return np.zeros(0, int), np.zeros(0, int)
        rows, columns = (np.concatenate(part) for part in zip(*pairs, strict=True))
        return rows, columns


def keypoints(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The keypoints of SIFT, the strongest first.

    Args:
        pixels: uint8 or float in [0, 1], [H, W, 3 or 4].

    Returns:
        [k, 2] pixels, centres at +0.5, and uint8 [k, 128] descriptors.
    """
    if pixels.dtype != np.uint8:
        pixels = to_uint8(pixels)
    grey = cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), cv2.COLOR_RGB2GRAY)
    factor = min(1.0, _LONGEST / max(grey.shape))
    if factor < 1.0:
        grey = cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    across, down = pixels.shape[1] / grey.shape[1], pixels.shape[0] / grey.shape[0]
    sift = cv2.SIFT.create(nfeatures=_KEYPOINTS, contrastThreshold=_CONTRAST)
    found, descriptors = sift.detectAndCompute(grey, None)  # pyright: ignore
    if not found:
        return np.zeros((0, 2)), np.zeros((0, 128), np.uint8)
    order = np.argsort([-point.response for point in found], kind="stable")
    places = (np.array([found[i].pt for i in order]) + 0.5) * [across, down]
    return places, descriptors[order].astype(np.uint8)


def _vectors(descriptors: np.ndarray) -> np.ndarray:
    """float32 [n, 128] unit vectors: square roots of the descriptors over their sums."""
    values = descriptors.astype(np.float32)
    return np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1.0))


def _mutual(products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of [k, m] products that are each other's best, and clearly so."""
    rows = products.argmax(axis=0)
    columns = np.arange(products.shape[1])
    candidates = products[rows]  # of the few rows that some column likes best
    second, best = np.partition(candidates, -2, axis=1)[:, -2:].T
    mutual = candidates[columns, columns] >= best
    # Of unit vectors the squared distance is 2 - 2 a.b.
    clear = 1.0 - best < _RATIO**2 * (1.0 - second)
    kept = mutual & clear
    return rows[kept], columns[kept]


def _fitted(
    world: np.ndarray, places: np.ndarray, lens: Lens, scale: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """[4, 4] viewmat that explains pairs of [m, 3] points and [m, 2] pixels, and its covariance.

    None where too few pairs agree.
    """
    rays = lens.directions(places)[:, :2]
    focal = float(np.mean(lens.focal))
    # In pixels without distortion. Samples are drawn from a generator that always starts the same.
    solved, rotation, translation, chosen = cv2.solvePnPRansac(
        world, focal * rays, np.diag([focal, focal, 1.0]), None, iterationsCount=_ITERATIONS,
        reprojectionError=_TOLERANCE * scale, confidence=0.9999, flags=cv2.SOLVEPNP_AP3P,
    )  # fmt: skip
    if not solved or chosen is None or len(chosen) < _LEAST:
        return None
    viewmat = np.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = cv2.Rodrigues(rotation)[0], translation.ravel()
    covariance = np.zeros((6, 6))
    for tolerance in (4.0, 2.0):  # in tolerances of a pair: the fit draws more of them near
        near = _errors(viewmat, world, places, lens) < tolerance * _TOLERANCE * scale
        if near.sum() < _LEAST:
            return None
        solved = least_squares(
            _offsets, np.zeros(6), loss="cauchy", f_scale=_CAUCHY * scale, x_scale="jac",
            args=(viewmat, world[near], rays[near], focal),
        )  # fmt: skip
        viewmat = _moved(solved.x, viewmat)
        # Of a robust fit: the weighted normal matrix, and the variance that its cost stands for.
        variance = 2.0 * solved.cost / max(1, 2 * int(near.sum()) - 6)
        covariance = variance * np.linalg.pinv(solved.jac.T @ solved.jac)
    return viewmat, covariance


def _moved(twist: np.ndarray, viewmat: np.ndarray) -> np.ndarray:
    """A viewmat [4, 4] after a small motion [rho, theta] of the camera's points."""
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec(twist[3:]).as_matrix()
    motion[:3, 3] = twist[:3]
    return motion @ viewmat


def _offsets(
    twist: np.ndarray, viewmat: np.ndarray, world: np.ndarray, rays: np.ndarray, focal: float
) -> np.ndarray:
    """[2 m] offsets, about in pixels, of [m, 3] points from where [m, 2] directions show them."""
    moved = _moved(twist, viewmat)
    seen = world @ moved[:3, :3].T + moved[:3, 3]
    return (focal * (seen[:, :2] / np.maximum(seen[:, 2:], 1e-6) - rays)).ravel()


def _errors(viewmat: np.ndarray, world: np.ndarray, places: np.ndarray, lens: Lens) -> np.ndarray:
    """[m] pixels between points and where they are seen; infinite behind the camera."""
    seen = world @ viewmat[:3, :3].T + viewmat[:3, 3]
    front = seen[:, 2] > 1e-6
    errors = np.full(len(world), np.inf)
    errors[front] = np.linalg.norm(lens.project(seen[front]) - places[front], axis=1)
    return errors
