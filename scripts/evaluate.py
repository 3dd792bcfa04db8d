"""Inspects the test images of each category, measures what is labelled, and prints the tables.

    python scripts/evaluate.py --data=data/toy --run=runs/toy --config=configs/demo.py

Leaves inspections.json (verdicts, scores, poses, regions), the anomaly maps and metrics.json in the
run folder; docs/metrics.md describes the keys of the last.
"""

from __future__ import annotations

import functools

from igspad_jax.pipeline import command
from igspad_jax.pipeline.evaluation import evaluate_category
from igspad_jax.pipeline.summary import print_tables


def main() -> None:
    """Evaluate every category."""
    work = functools.partial(evaluate_category, settings=command.settings())
    metrics = {}
    try:
        for category, folder in command.each_category(work, command.cluster()):
            metrics[category.name] = folder.load("metrics")
    finally:
        if metrics:
            print_tables(metrics)


if __name__ == "__main__":
    command.run_script(main, takes_cluster=True)
