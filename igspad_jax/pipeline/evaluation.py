"""Stage 3: every test image inspected, and the figures of those whose labels are known."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from igspad_jax.cameras import pose_errors
from igspad_jax.data import Category, TestImage, load_defect
from igspad_jax.errors import InputError
from igspad_jax.evaluate import (
    evaluate_maps,
    pose_metrics,
    time_metrics,
    verdict_metrics,
)
from igspad_jax.files import digest_of, sha256
from igspad_jax.inspector import (
    INSPECTOR,
    Inspection,
    Inspector,
    PoseEstimate,
    Verdict,
    as_taken,
    resolve,
)
from igspad_jax.pipeline.breakdown import CLEAN_IMAGE, TRUE_POSE, break_down
from igspad_jax.pipeline.folder import ImageRecord, RunFolder
from igspad_jax.pipeline.inspecting import Keys, inspect_files, seconds_of
from igspad_jax.settings import Settings, as_json, first_difference


def chosen_tests(category: Category, settings: Settings) -> tuple[TestImage, ...]:
    """The test images a run looks at: all, or the first `data.limit` of each kind.

    Raises:
        InputError: if there are none.
    """
    if not category.test:
        raise InputError(f"{category.root} has no test images; put them into {category.root}/test")
    limit = settings.data.limit
    taken: dict[str, list[TestImage]] = {}
    for image in category.test:
        taken.setdefault(image.kind, []).append(image)
    return tuple(image for kind in taken.values() for image in kind[: limit or None])


def evaluate_category(category: Category, folder: RunFolder, settings: Settings) -> None:
    """Inspect a category's test images into its run folder, and measure what is labelled.

    What is there already, from the same images, object and settings, is not made again.

    Raises:
        InputError: for unusable data, or an object that is missing or not calibrated.
    """
    tests = chosen_tests(category, settings)
    sources = settings.weights.by_name
    inspector = Inspector.load(folder.object, sources)
    wanted = resolve(settings.inspector, sources)
    difference = first_difference(as_json(inspector.config), as_json(wanted))
    if difference:
        raise InputError(
            f"{folder.object} was calibrated with other settings: {difference}; give the same ones "
            "here, or run igspad-calibrate with these"
        )
    keys = Keys.of(folder.object, inspector.config, sources)
    files = {test.name: test.path for test in tests}
    every = {test.name for test in category.test}
    for results in (folder.inspected, *map(folder.breakdown, (TRUE_POSE, CLEAN_IMAGE))):
        results.keep_only(every)
    records = inspect_files(inspector, files, keys, folder.inspected, f"inspect {category.name}")
    _measure(category, settings, folder, inspector, keys, tests, records)


def _measure(
    category: Category,
    settings: Settings,
    folder: RunFolder,
    inspector: Inspector,
    keys: Keys,
    tests: Sequence[TestImage],
    records: Mapping[str, ImageRecord],
) -> None:
    """Writes `inspections.json` and `metrics.json` from the images' results."""
    beside = {
        test.name: [sha256(path) if path else None for path in (test.mask_path, test.clean_path)]
        for test in tests
    }
    key = digest_of(
        [
            {name: record.map_key for name, record in records.items()},
            sha256(folder.object / INSPECTOR),
            [None if test.viewmat is None else test.viewmat.tolist() for test in tests],
            beside,
            settings.evaluate,
            settings.data.limit,
        ]
    )
    if folder.holds("metrics", key) and folder.holds("inspections", key):
        logging.info("%s: all images are inspected already", category.name)
        return
    centre = np.asarray(inspector.normal_object.centre)
    names = folder.load("training")["fitted"]
    entries, inspections = [], []
    for test in tests:
        pose = records[test.name].pose
        assert pose is not None
        inspection = inspector.judge(pose, folder.inspected.load_map(test.name))
        inspections.append(inspection)
        taken = as_taken(inspection, inspector.normal_object.working_camera, test.lens)
        entry = {"name": test.name, "kind": test.kind, **taken.as_json()}
        entry |= {
            "initial_source": pose.initial_source,
            "initial_training_view": names[pose.initial_view],
        }
        entries.append(entry | _pose_errors(pose, test, centre))
    rate = inspector.config.calibrate.false_alarm_rate
    statement = inspector.calibration.statement(rate)
    judged = {
        "calibration": statement,
        "threshold": inspector.calibration.threshold(rate),
        "calibration_scores": inspector.calibration.scores,
        "images": entries,
    }
    folder.save("inspections", key, judged)
    camera = inspector.normal_object.working_camera
    masks = [load_defect(t, camera) if t.mask_path else None for t in tests]
    metrics = _figures(settings, inspector, tests, inspections, masks)
    labelled = [i for i, test in enumerate(tests) if test.labelled]
    if settings.evaluate.breakdown and labelled:
        metrics["breakdown"] = break_down(
            category.name, folder, inspector, keys,
            [tests[i] for i in labelled], records, [masks[i] for i in labelled],
        )  # fmt: skip
    metrics["notes"].insert(0, statement)
    missing = len(category.test) - len(tests)
    if missing:
        limit = settings.data.limit
        metrics["notes"].append(
            f"data.limit={limit} leaves out {missing} of {len(category.test)} test images"
        )
    seconds = {"train": folder.load("training")["seconds"], **seconds_of(records)}
    metrics["time"] = time_metrics(seconds, len(tests), once=("train",))
    folder.save("metrics", key, metrics)


def _pose_errors(pose: PoseEstimate, test: TestImage, centre: np.ndarray) -> dict[str, float]:
    """Errors of the first, the initial and the final pose, where the true one is known."""
    found: dict[str, float] = {}
    if test.viewmat is not None:
        stages = {"first_": pose.first_viewmat, "initial_": pose.initial_viewmat, "": pose.viewmat}
        for stage, viewmat in stages.items():
            degrees, percent = pose_errors(viewmat, test.viewmat, centre)
            found |= {f"{stage}degrees": float(degrees), f"{stage}percent": float(percent)}
    return found


def _figures(
    settings: Settings,
    inspector: Inspector,
    tests: Sequence[TestImage],
    inspections: Sequence[Inspection],
    masks: Sequence[np.ndarray | None],
) -> dict[str, Any]:
    """The metrics of a category."""
    metrics: dict[str, Any] = {"notes": []}
    labelled = [i for i, test in enumerate(tests) if test.labelled]
    if labelled:
        known = [tests[i] for i in labelled]
        metrics |= evaluate_maps(
            [inspections[i].anomaly_map for i in labelled],
            [masks[i] for i in labelled],
            np.array([test.defective for test in known]),
            np.array([inspections[i].score for i in labelled]),
            [test.kind for test in known],
            sizes=settings.evaluate.sizes,
        )
    rates = dict.fromkeys(
        [inspector.config.calibrate.false_alarm_rate, *settings.evaluate.false_alarm_rates]
    )
    metrics["verdicts"] = verdict_metrics(
        {f"{rate:g}": [inspector.verdict(i, rate) for i in inspections] for rate in rates},
        [test.kind for test in tests],
    )
    doubted = [
        test.name
        for test, inspection in zip(tests, inspections, strict=True)
        if inspection.verdict is Verdict.UNSURE
    ]
    metrics["unsure"] = doubted
    if doubted:
        metrics["notes"].append(
            f"{len(doubted)} of {len(tests)} images cannot be judged: {', '.join(doubted)}"
        )
    posed = [i for i, test in enumerate(tests) if test.viewmat is not None]
    if posed:
        metrics["pose"] = pose_metrics(
            np.stack([inspections[i].viewmat for i in posed]),
            np.stack([np.asarray(tests[i].viewmat) for i in posed]),
            np.asarray(inspector.normal_object.centre),
            [tests[i].name for i in posed],
            np.array([tests[i].name in doubted for i in posed]),
        )
    return metrics
