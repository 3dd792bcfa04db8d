"""Runs all stages: train, invert, detect, evaluate, report.

    python scripts/run.py --data=data/toy --run=runs/toy --config=configs/demo.py

Takes one category or a folder of them. What is done already is skipped, so a run that was killed is
continued by the same command. A category that cannot be used is named at the end; the others run.
"""

from __future__ import annotations

import sys

from igspad_jax.errors import InputError
from igspad_jax.pipeline import command
from igspad_jax.pipeline.detection import detect_category
from igspad_jax.pipeline.evaluation import evaluate_category
from igspad_jax.pipeline.inversion import invert_category
from igspad_jax.pipeline.summary import print_tables, summarise
from igspad_jax.pipeline.training import train_category

_STAGES = (train_category, invert_category, detect_category, evaluate_category)


def main() -> None:
    """Runs every category and draws the report."""
    settings = command.settings()
    finished, failed = [], []
    for category, folder in command.categories():
        try:
            for stage in _STAGES:
                stage(category, settings, folder, overwrite=command.overwrite())
            finished.append((category, folder))
        except InputError as error:
            failed.append(f"error: {category.name}: {error}")
            print(failed[-1], file=sys.stderr)
    if finished:
        report = summarise(finished, settings, command.run_root())
        print_tables({category.name: folder.load("metrics") for category, folder in finished})
        print(f"\nreport: {report}")
    if failed:
        raise InputError(f"{len(failed)} categories failed: " + "; ".join(failed))


if __name__ == "__main__":
    command.launch(main)
