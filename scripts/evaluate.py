"""Inspects the test images of each category, measures what is labelled, and prints the tables.

    python scripts/evaluate.py --data=data/toy --run=runs/toy --config=configs/demo.py

Leaves inspections.json (verdicts, scores, poses, regions), the anomaly maps and metrics.json in the
run folder; docs/metrics.md describes the keys of the last.
"""

from __future__ import annotations

from igspad_jax.data import Category
from igspad_jax.pipeline import command
from igspad_jax.pipeline.evaluation import evaluate_category
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.summary import print_tables


def main() -> None:
    """Evaluate every category."""
    settings = command.settings()

    def work(category: Category, folder: RunFolder) -> None:
        evaluate_category(category, settings, folder)

    finished, failed = command.each_category(work)
    if finished:
        print_tables({category.name: folder.load("metrics") for category, folder in finished})
    command.report_failed(failed)


if __name__ == "__main__":
    command.run_script(main)
