"""Measures the anomaly maps, image scores and poses of a run, and prints the tables.

    python scripts/evaluate.py --data=data/toy --run=runs/toy --config=configs/demo.py

Leaves metrics.json in the run folder; docs/metrics.md describes its keys.
"""

from __future__ import annotations

from igspad_jax.data import Category
from igspad_jax.pipeline import command
from igspad_jax.pipeline.evaluation import evaluate_category
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.summary import print_tables


def main() -> None:
    """Evaluates every category."""
    settings, overwrite = command.settings(), command.overwrite()

    def work(category: Category, folder: RunFolder) -> None:
        evaluate_category(category, settings, folder, overwrite=overwrite)

    finished, failed = command.each_category(work)
    if finished:
        print_tables({category.name: folder.load("metrics") for category, folder in finished})
    command.report_failed(failed)


if __name__ == "__main__":
    command.launch(main)
