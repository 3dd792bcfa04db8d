"""Measures the anomaly maps, image scores and poses of a run, and prints the tables.

    python scripts/evaluate.py --data=data/toy --run=runs/toy --config=configs/demo.py

Leaves metrics.json in the run folder; docs/metrics.md describes its keys.
"""

from __future__ import annotations

from igspad_jax.pipeline import command
from igspad_jax.pipeline.evaluation import evaluate_category
from igspad_jax.pipeline.summary import print_tables


def main() -> None:
    """Evaluates every category."""
    metrics = {}
    for category, folder in command.categories():
        evaluate_category(category, command.settings(), folder, overwrite=command.overwrite())
        metrics[category.name] = folder.load("metrics")
    print_tables(metrics)


if __name__ == "__main__":
    command.launch(main)
