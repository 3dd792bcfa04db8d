"""Runs all stages: train, calibrate, evaluate, report.

    python scripts/run.py --data=data/toy --run=runs/toy --config=configs/demo.py

Takes one category or a folder of them. Every stage knows by content what its results were made
from: what is there and still holds is taken, what changed is made again, and only that. So a run
that was killed is continued by the same command, one more test image costs one image, and other
--features on a finished run take over its object and its poses. A category that cannot be used is
named at the end; the others run. The report is written as each category ends.
"""

from __future__ import annotations

from igspad_jax.data import Category
from igspad_jax.pipeline import command
from igspad_jax.pipeline.calibration import calibrate_category
from igspad_jax.pipeline.evaluation import evaluate_category
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.summary import print_tables, summarise
from igspad_jax.pipeline.training import train_category


def main() -> None:
    """Run every category and draw the report."""
    settings, files, overwrite = command.settings(), command.given_files(), command.overwrite()
    normals, evaluated, report = command.normals(), command.evaluated(), None

    def work(category: Category, folder: RunFolder) -> None:
        nonlocal report
        train_category(category, settings, folder, overwrite=overwrite, **files)
        calibrate_category(category, settings, folder, normals=normals)
        evaluate_category(category, settings, folder)
        evaluated[category.name] = category, folder
        report = summarise(list(evaluated.values()), settings, command.run_root())

    finished, failed = command.each_category(work)
    if finished:
        print_tables({category.name: folder.load("metrics") for category, folder in finished})
        print(f"\nreport: {report}")
    command.report_failed(failed)


if __name__ == "__main__":
    command.run_script(main, takes_files=True, takes_normals=True)
