"""Starts with known errors: true poses, turned and shifted."""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from igspad_jax.errors import InputError


class Level(NamedTuple):
    """The error of a start.

    Attributes:
        degrees: of the rotation.
        percent: of the shift, of the distance between camera and object.
    """

    degrees: float
    percent: float

    def __str__(self) -> str:
        return f"{self.degrees:g}/{self.percent:g}"


def parse_levels(values: Sequence[str]) -> list[Level]:
    """Reads levels such as "15/10", 15 degrees and 10 per cent.

    Raises:
        InputError: for anything else.
    """
    levels = []
    for value in values:
        try:
            level = Level(*(float(part) for part in value.split("/")))
        except (TypeError, ValueError):
            level = Level(-1.0, -1.0)
        if not (0.0 <= level.degrees <= 180.0 and 0.0 <= level.percent < 100.0):
            raise InputError(
                f"{value!r} is no error of a pose: give DEGREES/PERCENT, for example 15/10, at "
                "most 180 degrees and less than 100 %"
            )
        levels.append(level)
    if not levels:
        raise InputError("no errors of poses: give at least one DEGREES/PERCENT, for example 15/10")
    return list(dict.fromkeys(levels))


def start(
    viewmat: np.ndarray, level: Level, centre: np.ndarray, *, seed: int, name: str
) -> np.ndarray:
    """A true pose, turned about the object's centre by a random axis and shifted at random.

    The rotation leaves the object's centre where it is before the camera; the shift moves it by
    `level.percent` of its distance. Both directions belong to the image: all levels of one image
    share them.

    Args:
        viewmat: [4, 4] true pose.
        level: the exact error of the start.
        centre: [3] the object's centre in the world.
        seed: of the directions.
        name: of the image, unique.

    Returns:
        float64 [4, 4].
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    axis, shift = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    viewmat = np.asarray(viewmat, np.float64)
    at = viewmat[:3, :3] @ centre + viewmat[:3, 3]
    turn = Rotation.from_rotvec(np.radians(level.degrees) * axis).as_matrix()
    moved = viewmat.copy()
    moved[:3, :3] = turn @ viewmat[:3, :3]
    # p' = R (p - at) + at + shift with p = W x + t.
    moved[:3, 3] = turn @ (viewmat[:3, 3] - at) + at
    moved[:3, 3] += 0.01 * level.percent * np.linalg.norm(at) * shift
    return moved
