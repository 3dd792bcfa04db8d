"""Keypoints of images, and where they are kept."""

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from absl import logging

from igspad_jax.files import write_whole
from igspad_jax.match.matching import Matcher, check_images


class Features(NamedTuple):
    """Keypoints of one image.

    Attributes:
        points: [k, 2] x, y in pixels; pixel centres at +0.5.
        descriptors: [k, D].
        size: width and height of the image in pixels.
    """

    points: np.ndarray
    descriptors: np.ndarray
    size: tuple[int, int]


def cached_features(matcher: Matcher, images: np.ndarray, folder: Path) -> Sequence[Features]:
    """`matcher.prepare` of [n, H, W, 3] images in [0, 1], read from a folder if it is there.

    Else it is written there, under a name that stands for the images and the keypoints. A
    damaged file is replaced, with a warning.
    """
    images = check_images(images, "images to match")
    digest = hashlib.sha256(f"{matcher.detector_key} {images.shape}".encode())
    digest.update(images.tobytes())
    path = folder / f"keypoints-{digest.hexdigest()[:16]}.npz"
    if path.exists():
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            logging.warning("%s: damaged (%s); the keypoints are detected again", path, error)
    features = matcher.prepare(images)
    write_whole(path, lambda file: _write(file, features))
    return features


def _write(file: IO[bytes], features: Sequence[Features]) -> None:
    np.savez(
        file,
        counts=np.array([len(f.points) for f in features]),
        points=np.concatenate([f.points for f in features]),
        descriptors=np.concatenate([f.descriptors for f in features]),
        size=np.array(features[0].size),
    )


def _read(path: Path) -> list[Features]:
    with np.load(path) as archive:
        ends = np.cumsum(archive["counts"])[:-1]
        points = np.split(archive["points"], ends)
        descriptors = np.split(archive["descriptors"], ends)
        width, height = archive["size"].tolist()
    pairs = zip(points, descriptors, strict=True)
    return [Features(p, d, (width, height)) for p, d in pairs]
