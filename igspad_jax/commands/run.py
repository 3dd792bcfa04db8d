"""Runs all stages: train, calibrate, evaluate, report.

    igspad-run --data=data/toy --run=runs/toy --config=demo

Takes one category or a folder of them. Every stage knows by content what its results were made
from: what is there and still holds is taken, what changed is made again, and only that. So a run
that was killed is continued by the same command, one more test image costs one image, and other
--features on a finished run take over its object and its poses. A category that cannot be used is
named at the end; the others run. The report is written as each category ends.
"""

import functools

from igspad_jax.commands.stage import Arguments, run_stage


def main(arguments: Arguments) -> None:
    """Run every category and draw the report."""
    from igspad_jax.commands.categories import each_category, evaluated, resolved
    from igspad_jax.pipeline.stages import all_stages
    from igspad_jax.pipeline.summary import print_tables, summarise

    settings = resolved(arguments)
    finished, metrics, report = evaluated(arguments), {}, None
    work = functools.partial(
        all_stages,
        settings=settings,
        overwrite=arguments.overwrite,
        normals=arguments.normals,
        scene=arguments.scene,
        points=arguments.points,
    )
    try:
        for category, folder in each_category(arguments, work):
            finished[category.name] = category, folder
            metrics[category.name] = folder.load("metrics")
            report = summarise(list(finished.values()), settings, arguments.run)
    finally:
        if metrics:
            print_tables(metrics)
        if report:
            print(f"\nreport: {report}")


def run() -> None:
    """Run the command."""
    run_stage(main, takes=("scene", "points", "normals", "ray"))
