"""Runs all stages: train, invert, detect, evaluate, report.

    python scripts/run.py --data=data/toy --run=runs/toy --config=configs/demo.py

Takes one category or a folder of them. What is done already is skipped, so a run that was killed is
continued by the same command. A category that cannot be used is named at the end; the others run.
"""

from __future__ import annotations

from igspad_jax.data import Category
from igspad_jax.pipeline import command
from igspad_jax.pipeline.detection import detect_category
from igspad_jax.pipeline.evaluation import evaluate_category
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.inversion import invert_category
from igspad_jax.pipeline.summary import print_tables, summarise
from igspad_jax.pipeline.training import train_category


def main() -> None:
    """Runs every category and draws the report."""
    settings, files, overwrite = command.settings(), command.given_files(), command.overwrite()

    def work(category: Category, folder: RunFolder) -> None:
        train_category(category, settings, folder, overwrite=overwrite, **files)
        for stage in (invert_category, detect_category, evaluate_category):
            stage(category, settings, folder, overwrite=overwrite)

    finished, failed = command.each_category(work)
    if finished:
        report = summarise(finished, settings, command.run_root())
        print_tables({category.name: folder.load("metrics") for category, folder in finished})
        print(f"\nreport: {report}")
    command.report_failed(failed)


if __name__ == "__main__":
    command.launch(main, takes_files=True)
