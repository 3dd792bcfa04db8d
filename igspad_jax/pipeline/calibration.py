"""Stage 2: the inspector of a category, calibrated on normal images that it has not seen."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import logging

from igspad_jax.data import Category, TrainView, images_in, read_image
from igspad_jax.errors import InputError
from igspad_jax.files import digest_of, sha256
from igspad_jax.inspector import (
    FEATURES,
    Inspector,
    Measured,
    calibrate,
    load_expected,
    load_landmarks,
    load_object,
    resolve,
)
from igspad_jax.networks.weights import Sources
from igspad_jax.pipeline.folder import ImageRecord, RunFolder
from igspad_jax.pipeline.inspecting import Keys, inspect_files
from igspad_jax.pipeline.training import split_views, stem_of
from igspad_jax.progress import progress_bar
from igspad_jax.settings import Settings


def calibrate_category(
    category: Category, folder: RunFolder, settings: Settings, *, normals: Path | None = None
) -> None:
    """Give a category's object an inspector: what to expect of normal images, and a threshold.

    Args:
        category: the category; its held-out views calibrate, and the photographs in its folder
            `normals`, if there is one.
        folder: the category's run folder, with the object.
        settings: of the run.
        normals: a folder of further normal photographs, without poses, instead of `normals`.

    Raises:
        InputError: without an object, or without any calibration image.
    """
    folder.load("training")
    sources = settings.weights.by_name
    config = resolve(settings.inspector, sources)
    files = calibration_files(category, settings, normals)
    if not files:
        raise InputError(
            f"{category.root}: no normal images are left to calibrate on; hold some out "
            "(config.data.held_out), or give a folder of further ones with --normals"
        )
    keys = Keys.of(folder.object, config, sources)
    contents = {name: sha256(path) for name, path in files.items()}
    key = digest_of([keys.pose, keys.comparison, config.detect, contents])
    if folder.holds("calibration", key) and (inspector := _calibrated(folder, sources)):
        if inspector.config != config:  # the rate alone: nothing has to be measured for it
            inspector.config = config
            record = folder.load("calibration")
            statement = inspector.calibration.statement(config.calibrate.false_alarm_rate)
            folder.save("calibration", key, {**record, "statement": statement})
            inspector.save(folder.object, with_object=False, expected_key=keys.features)
        logging.info("%s: the inspector is calibrated already", category.name)
        return
    normal_object, views = load_object(folder.object)
    inspector = Inspector(
        normal_object,
        views,
        config,
        expected=load_expected(folder.object, keys.features),
        landmarks=load_landmarks(folder.object),
        sources=sources,
        features_folder=folder.object / FEATURES,
    )
    if inspector.expected is None:
        with progress_bar(len(views.images), f"learn {category.name}", "image") as bar:
            inspector.learn(bar.update)
    folder.calibration.keep_only(set(files))
    what = f"calibrate {category.name}"
    records = inspect_files(inspector, files, keys, folder.calibration, what)
    _, held = split_views(category, settings)
    true_poses = {_held_name(category, view): view.viewmat for view in held}
    measured = _measured(inspector, folder, files, records, true_poses)
    inspector.calibration = calibrate(measured)
    inspector.save(folder.object, with_object=False, expected_key=keys.features)
    statement = inspector.calibration.statement(config.calibrate.false_alarm_rate)
    logging.info("%s: %s", category.name, statement)
    left_out = inspector.calibration.left_out
    if left_out:
        logging.warning(
            "%s: the poses of %d calibration images are doubted, and they are left out: %s",
            category.name, len(left_out), ", ".join(left_out),
        )  # fmt: skip
    folder.save("calibration", key, {"statement": statement, "images": measured})


def _calibrated(folder: RunFolder, sources: Sources) -> Inspector | None:
    """The inspector in a run's folder; None where it cannot be read."""
    try:
        return Inspector.load(folder.object, sources)
    except InputError as error:
        logging.warning("%s; it is calibrated anew", error)
        return None


def calibration_files(
    category: Category, settings: Settings, normals: Path | None = None
) -> dict[str, Path]:
    """The calibration images by their names: the held-out views and the further photographs."""
    _, held = split_views(category, settings)
    files = {_held_name(category, view): view.path for view in held}
    return files | _normals(category, normals)


def _held_name(category: Category, view: TrainView) -> str:
    return f"held_out/{stem_of(category, view)}"


def _normals(category: Category, given: Path | None) -> dict[str, Path]:
    """The further normal photographs, but for those that are test images as well."""
    folder = given or category.root / "normals"
    if given and not given.is_dir():
        raise InputError(f"--normals={given} is no folder: give one with normal photographs")
    tests = {sha256(test.path) for test in category.test}
    found = {}
    for path in images_in(folder):
        if sha256(path) in tests:
            logging.warning("%s is a test image as well, and does not calibrate", path)
        else:
            found[f"normals/{path.name}"] = path
    return found


def _measured(
    inspector: Inspector,
    folder: RunFolder,
    files: Mapping[str, Path],
    records: Mapping[str, ImageRecord],
    true_poses: Mapping[str, np.ndarray],
) -> list[Measured]:
    """What the calibration images say of the inspector."""
    poses = {name: record.pose for name, record in records.items() if record.pose is not None}
    compared = (
        (name, inspector.read(read_image(path), str(path)), folder.calibration.load_map(name))
        for name, path in files.items()
    )
    return inspector.measure(poses, compared, true_poses)
