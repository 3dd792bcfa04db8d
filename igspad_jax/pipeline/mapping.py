"""Photographs without poses: structure from motion, and whether a capture will do.

COLMAP's incremental mapping through pycolmap. One camera is calibrated for all photographs of a
size, which a phone's are; the largest model is kept.
"""

import dataclasses
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
from absl import logging

from igspad_jax.data import Category, Structure, images_in, read_category, read_image
from igspad_jax.data.colmap import find_model, pycolmap
from igspad_jax.data.images import image_size
from igspad_jax.data.layouts import photographs_of
from igspad_jax.errors import InputError
from igspad_jax.files import sha256

_FEW = 8  # photographs that no structure comes of
_KEYPOINTS = 8000  # of an image at most
_LONGEST = 1600  # pixels of the longer side, to which photographs are shrunk for keypoints
# What a capture must show; see `Gate`.
_LEAST_REGISTERED, _MOST_ERROR, _WIDEST_GAP, _LEAST_SHARP = 0.8, 1.5, 45.0, 0.25
_SHARPNESS_WIDTH = 640  # pixels at which blur is judged


@dataclasses.dataclass(frozen=True)
class Gate:
    """Whether a capture will do.

    Attributes:
        given: photographs in the folder.
        left_out: names of those that the model does not hold, with the reason.
        error: mean reprojection error in pixels.
        gap: degrees between a camera's direction and its nearest neighbour's, at most.
        blurred: names of photographs much less sharp than the others.
    """

    given: int
    left_out: dict[str, str]
    error: float
    gap: float
    blurred: tuple[str, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with the capture, and what to do about it; empty where it will do."""
        faults, registered = [], self.given - len(self.left_out)
        if registered < _LEAST_REGISTERED * self.given:
            faults.append(
                f"{len(self.left_out)} of {self.given} photographs fit no place: take more in "
                "between, with something in view that has texture"
            )
        if self.error > _MOST_ERROR:
            faults.append(
                f"points are off by {self.error:.1f} pixels on average: keep the object still, and "
                "the zoom as it is"
            )
        if self.gap > _WIDEST_GAP:
            faults.append(
                f"a gap of {self.gap:.0f} degrees between the photographs: take some from there"
            )
        if len(self.blurred) > 0.2 * self.given:
            faults.append(
                f"{len(self.blurred)} photographs are blurred: hold the camera still, in more light"
            )
        return tuple(faults)

    def statement(self) -> str:
        """The capture in a line."""
        return (
            f"{self.given - len(self.left_out)} of {self.given} photographs placed, reprojection "
            f"error {self.error:.2f} px, widest gap {self.gap:.0f} degrees, "
            f"{len(self.blurred)} blurred"
        )


def mapped(root: Path, results: Path) -> Category:
    """Read a category; where its photographs have no poses, find them first.

    What was found before is taken, from the category's folder or from that of the results. Where
    it is found now the log says whether the photographs will do.

    Args:
        root: the category.
        results: folder for a model of photographs without poses, in its folder `sparse/0`.

    Raises:
        InputError: for unusable data, or if no two photographs fit together.
    """
    folder = photographs_of(root)
    if folder is None or find_model(root):
        return read_category(root)
    if find_model(results):
        return read_category(root, results)
    photographs = images_in(folder)
    reasons = _map(folder, photographs, results)
    category = read_category(root, results)
    assert category.structure is not None
    gate = judged(folder, photographs, category.structure, reasons)
    logging.info("%s: %s", category.name, gate.statement())
    for name, reason in gate.left_out.items():
        logging.warning("%s: %s is left out: %s", category.name, name, reason)
    for fault in gate.faults:
        logging.warning("%s: %s", category.name, fault)
    return category


def _map(folder: Path, photographs: list[Path], results: Path) -> dict[str, str]:
    """Writes the largest model; returns why photographs were left out before.

    Raises:
        InputError: without pycolmap, for few photographs, or if no two of them fit together.
    """
    if len(photographs) < _FEW:
        raise InputError(
            f"{folder} holds {len(photographs)} photographs: take at least {_FEW}, better 40 to 80"
        )
    library = pycolmap()
    library.logging.minloglevel = library.logging.ERROR.value
    by_size, reasons, seen = defaultdict(list), {}, {}
    for path in photographs:
        content = sha256(path)
        if content in seen:
            reasons[path.name] = f"the same as {seen[content]}"
            continue
        seen[content] = path.name
        by_size[image_size(path)].append(path.name)
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=results, prefix=".sparse.") as name:
        work = Path(name)
        database = work / "database.db"
        options = library.FeatureExtractionOptions()
        options.max_image_size = _LONGEST
        options.sift.max_num_features = _KEYPOINTS
        for size, names in by_size.items():
            logging.info("%s: keypoints of %d photographs, %d x %d", folder, len(names), *size)
            reader = library.ImageReaderOptions()
            reader.camera_model = "OPENCV" if len(names) >= _FEW else "SIMPLE_RADIAL"
            library.extract_features(
                database, folder, names, camera_mode=library.CameraMode.SINGLE,
                reader_options=reader, extraction_options=options,
            )  # fmt: skip
        logging.info("%s: matching", folder)
        library.match_exhaustive(database)
        logging.info("%s: mapping", folder)
        mapper = library.IncrementalPipelineOptions()
        mapper.random_seed = 1
        models = library.incremental_mapping(database, folder, work, mapper)
        if not models:
            raise InputError(
                f"{folder}: no two photographs fit together: take them closer to each other, of an "
                "object with texture, or on a table with some"
            )
        largest = max(models.values(), key=lambda model: model.num_reg_images())
        made = work / "largest"
        made.mkdir()
        largest.write(made)
        target = results / "sparse" / "0"
        shutil.rmtree(target.parent, ignore_errors=True)
        target.parent.mkdir()
        made.replace(target)
    return reasons


def judged(
    folder: Path, photographs: list[Path], structure: Structure, reasons: dict[str, str]
) -> Gate:
    """What a capture shows.

    Args:
        folder: of the photographs.
        photographs: all of them.
        structure: that was found.
        reasons: why photographs were left out, where that is known.
    """
    names = [path.relative_to(folder).as_posix() for path in photographs]
    left_out = {
        name: reasons.get(name, "too little of it is seen in the others, or it is blurred")
        for name in names
        if name not in structure.viewmats
    }
    sharpness = {name: _sharpness(path) for name, path in zip(names, photographs, strict=True)}
    usual = float(np.median(list(sharpness.values())))
    blurred = tuple(name for name, value in sharpness.items() if value < _LEAST_SHARP * usual)
    return Gate(
        given=len(names),
        left_out=left_out,
        error=float(np.mean(structure.errors)) if len(structure.errors) else 0.0,
        gap=_widest_gap(np.stack(list(structure.viewmats.values()))),
        blurred=blurred,
    )


def _sharpness(path: Path) -> float:
    """Mean square of the Laplacian over the contrast, at a common width."""
    grey = cv2.cvtColor(np.ascontiguousarray(read_image(path)[..., :3]), cv2.COLOR_RGB2GRAY)
    factor = _SHARPNESS_WIDTH / max(grey.shape)
    if factor < 1.0:
        grey = cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var() / max(1.0, float(grey.var())))


def _widest_gap(viewmats: np.ndarray) -> float:
    """Largest angle in degrees between a camera's direction and its nearest neighbour's."""
    axes = viewmats[:, 2, :3]
    cosines = np.clip(axes @ axes.T, -1.0, 1.0)
    np.fill_diagonal(cosines, -1.0)
    return float(np.degrees(np.arccos(cosines.max(axis=1))).max())
