"""What an experiment runs on: an object and images of it whose true poses are known."""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from igspad_jax.data import TestImage
from igspad_jax.errors import InputError
from igspad_jax.normal_object import NormalObject

Source = Literal["real", "model"]

_NOISE = 0.01  # standard deviation of the noise on rendered images, of the range of values


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """An image to find the pose of.

    Attributes:
        name: for example "Burrs/3".
        image: float32 [H, W, 3] in [0, 1].
        viewmat: [4, 4] true pose.
    """

    name: str
    image: np.ndarray
    viewmat: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """An object under experiment.

    Attributes:
        name: of its category.
        model: the object.
        trials: the images of each source.
        origin: what scene and images come from, as JSON, to distinguish results.
    """

    name: str
    model: NormalObject
    trials: dict[Source, tuple[Trial, ...]]
    origin: dict[str, Any]

    @property
    def centre(self) -> np.ndarray:
        """[3] the object's centre in the world."""
        return np.asarray(self.model.centre, np.float64)


def select_tests(tests: Sequence[TestImage], count: int) -> list[TestImage]:
    """Select test images with known poses, evenly over the kinds and within each kind.

    Args:
        tests: of a category.
        count: how many.

    Raises:
        InputError: if there are not so many.
    """
    kinds: dict[str, list[TestImage]] = {}
    for test in tests:
        if test.viewmat is not None:
            kinds.setdefault(test.kind, []).append(test)
    known = sum(map(len, kinds.values()))
    if not known:
        raise InputError(
            "no test image has a known pose; put the poses into the category's test_poses.json"
        )
    if not 1 <= count <= known:
        raise InputError(
            f"{count} test images are asked for, but {known} have a known pose; give "
            f"a number from 1 to {known}"
        )
    shares = dict.fromkeys(kinds, 0)
    while sum(shares.values()) < count:
        for kind, own in kinds.items():
            shares[kind] += shares[kind] < len(own) and sum(shares.values()) < count
    return [
        own[(2 * i + 1) * len(own) // (2 * shares[kind])]
        for kind, own in kinds.items()
        for i in range(shares[kind])
    ]


def rendered(model: NormalObject, trial: Trial, seed: int) -> Trial:
    """The same view as the model itself shows it, with slight noise."""
    rng = np.random.default_rng([seed, zlib.crc32(trial.name.encode())])
    image = model.renders(trial.viewmat)
    noisy = image + rng.normal(scale=_NOISE, size=image.shape)
    return dataclasses.replace(trial, image=np.clip(noisy, 0.0, 1.0).astype(np.float32))
