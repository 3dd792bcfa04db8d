"""Runs all stages: train, calibrate, evaluate, report.

    python scripts/run.py --data=data/toy --run=runs/toy --config=configs/demo.py

Takes one category or a folder of them. Every stage knows by content what its results were made
from: what is there and still holds is taken, what changed is made again, and only that. So a run
that was killed is continued by the same command, one more test image costs one image, and other
--features on a finished run take over its object and its poses. A category that cannot be used is
named at the end; the others run. The report is written as each category ends.
"""

from __future__ import annotations

import functools
from pathlib import Path

from igspad_jax.data import Category
from igspad_jax.pipeline import command
from igspad_jax.pipeline.calibration import calibrate_category
from igspad_jax.pipeline.evaluation import evaluate_category
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.settings import Settings
from igspad_jax.pipeline.summary import print_tables, summarise
from igspad_jax.pipeline.training import train_category


def main() -> None:
    """Run every category and draw the report."""
    settings, evaluated, metrics = command.settings(), command.evaluated(), {}
    work = functools.partial(
        all_stages,
        settings=settings,
        overwrite=command.overwrite(),
        normals=command.normals(),
        files=command.given_files(),
    )
    report = None
    try:
        for category, folder in command.each_category(work, command.cluster()):
            evaluated[category.name] = category, folder
            metrics[category.name] = folder.load("metrics")
            report = summarise(list(evaluated.values()), settings, command.run_root())
    finally:
        if report:
            print_tables(metrics)
            print(f"\nreport: {report}")


def all_stages(
    category: Category,
    folder: RunFolder,
    *,
    settings: Settings,
    overwrite: bool,
    normals: Path | None,
    files: dict[str, Path | None],
) -> None:
    """Train, calibrate and evaluate a category."""
    train_category(category, folder, settings, overwrite=overwrite, **files)
    calibrate_category(category, folder, settings, normals=normals)
    evaluate_category(category, folder, settings)


if __name__ == "__main__":
    command.run_script(main, takes_files=True, takes_normals=True, takes_cluster=True)
