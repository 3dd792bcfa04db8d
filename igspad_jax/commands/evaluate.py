"""Inspects the test images of each category, measures what is labelled, and prints the tables.

    igspad-evaluate --data=data/toy --run=runs/toy --config=demo

Leaves inspections.json (verdicts, scores, poses, regions), the anomaly maps and metrics.json in the
run folder; docs/metrics.md describes the keys of the last.
"""

import functools

from igspad_jax.commands.stage import Arguments, run_stage


def main(arguments: Arguments) -> None:
    """Evaluate every category."""
    from igspad_jax.commands.categories import each_category, resolved
    from igspad_jax.pipeline.evaluation import evaluate_category
    from igspad_jax.pipeline.summary import print_tables

    work = functools.partial(evaluate_category, settings=resolved(arguments))
    metrics = {}
    try:
        for category, folder in each_category(arguments, work):
            metrics[category.name] = folder.load("metrics")
    finally:
        if metrics:
            print_tables(metrics)


def run() -> None:
    """Run the command."""
    run_stage(main, takes=("ray",))
