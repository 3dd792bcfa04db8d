"""A whole run: its tables, its metrics file, its report."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from absl import logging

from igspad_jax.data import Category, load_image, load_mask
from igspad_jax.errors import InputError
from igspad_jax.evaluate import aggregate, format_table, run_tables, write_metrics
from igspad_jax.files import digest_of, read_json
from igspad_jax.pipeline.evaluation import chosen_tests
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.report import CategoryReport, ImageRecord, write_report
from igspad_jax.settings import Settings

T = TypeVar("T")


def print_tables(categories: Mapping[str, Mapping]) -> None:
    """Print the figures of a run's categories, and of their mean."""
    tables = run_tables(categories, kinds=True)
    print("\n\n".join(format_table(table) for table in tables))
    for name, metrics in categories.items():
        for note in metrics.get("notes", []):
            print(f"{name}: {note}")


def has_results(category: Category, folder: RunFolder) -> None:
    """Check that a category is evaluated.

    Raises:
        InputError: if it is not.
    """
    del category
    folder.load("metrics")


def summarise(
    categories: Sequence[tuple[Category, RunFolder]],
    settings: Settings,
    root: Path,
    *,
    anew: bool = False,
) -> Path:
    """Write `metrics.json` and `report.html` of a run; returns the report's path.

    Args:
        categories: what is evaluated.
        settings: of the run.
        root: the run's folder.
        anew: whether to write them even where they are of the same results already.

    Raises:
        InputError: without any category whose results can be read.
    """
    if not categories:
        raise InputError(f"{root}: there is nothing to report; run the stages before first")
    metrics = _readable(categories, lambda _, folder: folder.load("metrics"))
    report, summary = root / "report.html", root / "metrics.json"
    if report.is_file() and summary.is_file() and not anew:
        before = read_json(summary, f"delete {summary}")
        if isinstance(before, dict) and before.get("key") == _key(metrics, settings):
            return report
    reports = _readable(
        [(category, folder) for category, folder in categories if category.name in metrics],
        lambda category, folder: category_report(category, settings, folder),
    )
    if not reports:
        raise InputError(f"{root}: no category has results that can be read, see the warnings")
    metrics = {name: own.metrics for name, own in reports.items()}
    used = {
        "data": [str(category.root) for category, _ in categories if category.name in reports],
        **dataclasses.asdict(settings),
    }
    write_report(report, root.name, list(reports.values()), used)
    key = _key(metrics, settings)  # of what is in it: what was left out comes back once repaired
    write_metrics(summary, {"key": key, "mean": aggregate(metrics), "categories": metrics})
    return report


def _key(metrics: Mapping[str, Any], settings: Settings) -> str:
    return digest_of([{name: own["key"] for name, own in metrics.items()}, settings])


def _readable(
    categories: Sequence[tuple[Category, RunFolder]], read: Callable[[Category, RunFolder], T]
) -> dict[str, T]:
    """What is read of each category, by name; without, and with a warning, those that are damaged.

    Raises:
        InputError: where the only category is damaged.
    """
    found = {}
    for category, folder in categories:
        try:
            found[category.name] = read(category, folder)
        except InputError as error:
            if len(categories) == 1:
                raise
            logging.warning("%s is left out of the report: %s", category.name, error)
    return found


def category_report(category: Category, settings: Settings, folder: RunFolder) -> CategoryReport:
    """What the report of a run shows of a category.

    Raises:
        InputError: for missing results.
    """
    training, metrics = folder.load("training"), folder.load("metrics")
    inspections = folder.load("inspections")
    entries = {entry["name"]: entry for entry in inspections["images"]}
    records = []
    for test in chosen_tests(category, settings):
        entry = entries[test.name]
        render = load_image(folder.inspected.render_path(test.name))
        camera = category.camera.resized(render.shape[1])
        # As taken, but no larger than what was worked on.
        share = max(render.shape[:2]) / max(test.lens.width, test.lens.height)
        small = test.lens.scaled(
            *(max(1, round(share * side)) for side in (test.lens.width, test.lens.height))
        )
        image = load_image(test.path, size=small.width, background=settings.data.background)
        across, down = small.width / test.lens.width, small.height / test.lens.height
        losses = folder.inspected.pose(test.name).losses
        losses = losses[np.isfinite(losses)]
        records.append(
            ImageRecord(
                name=test.name,
                kind=test.kind,
                image=image,
                render=np.clip(camera.resample_back(render, small), 0.0, 1.0),
                anomaly_map=camera.resample_back(folder.inspected.load_map(test.name), small),
                score=entry["score"],
                verdict=entry["verdict"],
                p_value=entry["p_value"],
                doubts=entry["doubts"],
                boxes=[
                    np.multiply(region["box"], [across, down, across, down]).tolist()
                    for region in entry["regions"]
                ],
                mask=load_mask(test.mask_path, size=small.width) if test.mask_path else None,
                degrees=_error(entry, "degrees"),
                percent=_error(entry, "percent"),
                initial_degrees=_error(entry, "initial_degrees"),
                losses=losses if len(losses) > 1 else None,  # one was not solved for
            )
        )
    measured = [entry for entry in training["history"] if entry.get("psnr") is not None]
    history = {key: [entry[key] for entry in measured] for key in ("psnr", "seconds", "step")}
    return CategoryReport(
        name=category.name,
        metrics=metrics,
        records=records,
        # A file holds null where memory holds infinity.
        threshold=np.inf if inspections["threshold"] is None else inspections["threshold"],
        calibration_scores=inspections["calibration_scores"],
        statement=inspections["calibration"],
        train_history=history if len(measured) > 1 else None,
    )


def _error(entry: Mapping[str, Any], key: str) -> float | None:
    """An error of a pose: None where the true one is unknown, NaN where there is no estimate."""
    if key not in entry:
        return None
    return float("nan") if entry[key] is None else entry[key]
