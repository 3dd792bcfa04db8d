"""Lenses of real cameras, and the one working camera that all photographs are resampled to.

Scenes are rendered, and images compared, by one pinhole camera without distortion. A photograph is
resampled to it once, when it is read; poses, points and maps are carried back at the end. A
portrait among landscape photographs is laid on its side by a quarter turn, and so is its pose.

Distortion is OpenCV's: the rational model with k1, k2, p1, p2, k3, k4, k5, k6 (Brown 1966, Claus
and Fitzgibbon 2005), or the fisheye model with k1 to k4 (Kannala and Brandt 2006). Pixels (i, j)
have their centres at (i + 0.5, j + 0.5).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Self

import cv2
import numpy as np

from igspad_jax.cameras import scale_intrinsics

# From a photograph's camera to the working camera after so many quarter turns.
_QUARTER = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
_SAMPLES = 3  # a side, of a working pixel, where a photograph is resampled; all are averaged
_CORRECTIONS = 5
_SAME_ASPECT = 0.005  # relative difference of two aspect ratios that are rounded sizes of one


@dataclasses.dataclass(frozen=True)
class Lens:
    """How a camera maps directions to the pixels of its photographs.

    Attributes:
        width: of the photographs, in pixels.
        height: of the photographs, in pixels.
        focal: fx and fy in pixels.
        centre: cx and cy in pixels.
        distortion: coefficients, see above; empty for none.
        fisheye: whether they are the fisheye model's.
    """

    width: int
    height: int
    focal: tuple[float, float]
    centre: tuple[float, float]
    distortion: tuple[float, ...] = ()
    fisheye: bool = False

    @classmethod
    def pinhole(cls, K: np.ndarray, width: int, height: int) -> Self:
        """The lens of a pinhole camera with [3, 3] intrinsics."""
        fx, fy, cx, cy = (float(K[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
        return cls(width, height, (fx, fy), (cx, cy))

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read what `dataclasses.asdict` gave, after a file."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in content.items()
        }
        return cls(**values)

    @property
    def K(self) -> np.ndarray:
        """[3, 3] float64 intrinsics."""
        (fx, fy), (cx, cy) = self.focal, self.centre
        return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])

    @property
    def bent(self) -> bool:
        """Whether there is distortion."""
        return any(self.distortion) or self.fisheye

    def scaled(self, width: int, height: int) -> "Lens":
        """The lens of the same photographs at another size."""
        K = scale_intrinsics(self.K, width / self.width, height / self.height)
        focal, centre = (float(K[0, 0]), float(K[1, 1])), (float(K[0, 2]), float(K[1, 2]))
        return dataclasses.replace(self, width=width, height=height, focal=focal, centre=centre)

    def turned(self) -> "Lens":
        """The lens of the same photographs, stored turned by a quarter: portraits for landscapes.

        The directions of a turned photograph are those of this one times `_QUARTER`.
        """
        distortion = self.distortion
        if distortion and not self.fisheye:  # (p2, p1) is a direction in the image, and turns
            k1, k2, p1, p2, *rest = distortion
            distortion = (k1, k2, p2, -p1, *rest)
        (fx, fy), (cx, cy) = self.focal, self.centre
        centre = (self.height - cy, cx)
        return Lens(self.height, self.width, (fy, fx), centre, distortion, self.fisheye)

    def fits(self, width: int, height: int) -> bool:
        """Whether photographs of a size have this lens's proportions."""
        return abs(self.width * height / (self.height * width) - 1.0) < _SAME_ASPECT

    def project(self, directions: np.ndarray) -> np.ndarray:
        """[n, 2] pixels of [n, 3] points in front of the camera."""
        points = np.asarray(directions, np.float64).reshape(-1, 1, 3)
        zero = np.zeros(3)
        if self.fisheye:
            found = cv2.fisheye.projectPoints(points, zero, zero, self.K, np.array(self.distortion))
        else:
            found = cv2.projectPoints(points, zero, zero, self.K, np.array(self.distortion))
        return found[0].reshape(-1, 2)

    def directions(self, pixels: np.ndarray) -> np.ndarray:
        """[n, 3] directions, of z = 1, of [n, 2] pixels."""
        pixels = np.asarray(pixels, np.float64).reshape(-1, 2)
        undistort = cv2.fisheye.undistortPoints if self.fisheye else cv2.undistortPoints
        found = undistort(pixels[:, None], self.K, np.array(self.distortion))[:, 0]
        result = np.column_stack([found, np.ones(len(pixels))])
        if self.bent:  # OpenCV's own few iterations leave hundredths of a pixel
            for _ in range(_CORRECTIONS):
                result[:, :2] += (pixels - self.project(result)) / self.focal
        return result


@dataclasses.dataclass(frozen=True)
class WorkingCamera:
    """The pinhole camera that photographs are resampled to.

    Attributes:
        lens: its own, without distortion.
    """

    lens: Lens

    @classmethod
    def of(cls, lenses: Sequence[Lens]) -> Self:
        """The working camera for photographs of these lenses, one an image.

        The commonest lens without its distortion; its centre moves to the middle, unless it is the
        only one and has none, whose photographs then need no resampling.
        """
        commonest = max(dict.fromkeys(lenses), key=lenses.count)
        if len(set(lenses)) == 1 and not commonest.bent:
            return cls(commonest)
        width, height = commonest.width, commonest.height
        focal = float(np.sqrt(commonest.focal[0] * commonest.focal[1]))
        return cls(Lens(width, height, (focal, focal), (0.5 * width, 0.5 * height)))

    @property
    def K(self) -> np.ndarray:
        """[3, 3] float64 intrinsics."""
        return self.lens.K

    def resized(self, width: int | None) -> "WorkingCamera":
        """The camera with images of a width in pixels; None leaves it as it is."""
        if width is None or width == self.lens.width:
            return self
        height = max(1, round(self.lens.height * width / self.lens.width))
        return WorkingCamera(self.lens.scaled(width, height))

    def takes(self, lens: Lens) -> bool:
        """Whether photographs of a lens only need to be shrunk."""
        scaled = self.lens.scaled(lens.width, lens.height)
        near = np.allclose(scaled.K, lens.K, rtol=1e-6, atol=1e-3 * lens.width / self.lens.width)
        same_height = round(lens.height * self.lens.width / lens.width) == self.lens.height
        return not lens.bent and same_height and bool(near)

    def turn(self, lens: Lens) -> np.ndarray:
        """[3, 3] rotation from a camera of a lens to this one: none, or a quarter."""
        lying = (lens.width > lens.height) - (lens.width < lens.height)
        own = (self.lens.width > self.lens.height) - (self.lens.width < self.lens.height)
        return _QUARTER if lying * own < 0 else np.eye(3)

    def pose(self, viewmat: np.ndarray, lens: Lens) -> np.ndarray:
        """[4, 4] viewmat of this camera for that of a photograph."""
        return _turned(self.turn(lens), viewmat)

    def pose_back(self, viewmat: np.ndarray, lens: Lens) -> np.ndarray:
        """[4, 4] viewmat of a photograph for that of this camera."""
        return _turned(self.turn(lens).T, viewmat)

    def pixels_back(self, pixels: np.ndarray, lens: Lens) -> np.ndarray:
        """[n, 2] pixels of a photograph for [n, 2] pixels of the working image."""
        if self.takes(lens):
            return np.asarray(pixels) * [
                lens.width / self.lens.width, lens.height / self.lens.height
            ]  # fmt: skip
        return lens.project(self.lens.directions(pixels) @ self.turn(lens))

    def resample(self, photograph: np.ndarray, lens: Lens) -> np.ndarray:
        """[h, w, ...] float32 working image of a photograph [H, W, ...], averaged by area.

        Pixels that the photograph does not show are as its border; see `shown`.
        """
        own, scale = self.lens, lens.focal[0] / self.lens.focal[0]
        if scale > _SAMPLES:  # shrunk first, so that no pixel is left out of the averages
            width, height = (max(1, round(v * _SAMPLES / scale)) for v in (lens.width, lens.height))
            photograph = cv2.resize(photograph, (width, height), interpolation=cv2.INTER_AREA)
            lens = lens.scaled(width, height)
        at = _positions(self, lens, _SAMPLES)
        finely = _sampled(np.asarray(photograph, np.float32), at, cv2.BORDER_REPLICATE)
        return cv2.resize(finely, (own.width, own.height), interpolation=cv2.INTER_AREA)

    def shown(self, lens: Lens) -> np.ndarray:
        """[h, w] whether a photograph of a lens shows a working pixel."""
        at = _positions(self, lens, 1)
        size = np.array([lens.width, lens.height])
        return np.all((at > -0.5) & (at < size - 0.5), axis=-1)

    def resample_back(self, values: np.ndarray, lens: Lens) -> np.ndarray:
        """[H, W] a working map [h, w] at the pixels of a photograph of a lens; 0 beyond the map."""
        if self.takes(lens):
            return cv2.resize(values, (lens.width, lens.height), interpolation=cv2.INTER_LINEAR)
        return _sampled(values, _positions_back(self, lens), cv2.BORDER_CONSTANT)


def _sampled(image: np.ndarray, at: np.ndarray, border: int) -> np.ndarray:
    """An image at [h, w, 2] float32 positions, interpolated linearly."""
    return cv2.remap(image, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=border)


@functools.lru_cache(8)
def _positions(camera: WorkingCamera, lens: Lens, samples: int) -> np.ndarray:
    """[h * samples, w * samples, 2] float32 where working samples lie in a photograph's grid."""
    own = camera.lens
    fine = own.scaled(own.width * samples, own.height * samples)
    y, x = np.mgrid[: fine.height, : fine.width] + 0.5
    directions = fine.directions(np.stack([x, y], axis=-1).reshape(-1, 2))
    at = lens.project(directions @ camera.turn(lens)) - 0.5
    return at.reshape(fine.height, fine.width, 2).astype(np.float32)


@functools.lru_cache(8)
def _positions_back(camera: WorkingCamera, lens: Lens) -> np.ndarray:
    """[H, W, 2] float32 where the pixels of a photograph lie in the working image's grid."""
    y, x = np.mgrid[: lens.height, : lens.width] + 0.5
    directions = lens.directions(np.stack([x, y], axis=-1).reshape(-1, 2))
    at = camera.lens.project(directions @ camera.turn(lens).T) - 0.5
    return at.reshape(lens.height, lens.width, 2).astype(np.float32)


def _turned(rotation: np.ndarray, viewmat: np.ndarray) -> np.ndarray:
    result = np.array(viewmat, np.float64)
    result[:3] = rotation @ result[:3]
    return result


def lens_for(lenses: Sequence[Lens], width: int, height: int) -> Lens | None:
    """The lens of a photograph of a size, by known ones: the same size, proportions, or lying down.

    Args:
        lenses: of the training photographs, the commonest first.
        width: of the photograph, in pixels.
        height: of the photograph, in pixels.
    """
    known = [*lenses, *(lens.turned() for lens in lenses)]
    for lens in known:
        if (lens.width, lens.height) == (width, height):
            return lens
    for lens in known:
        if lens.fits(width, height):
            return lens.scaled(width, height)
    return None
