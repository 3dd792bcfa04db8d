"""Draws a finished run: one self-contained HTML file with every image and its verdict.

igspad-report --data=data/toy --run=runs/toy --config=demo
"""

from igspad_jax.commands.stage import Arguments, run_stage


def main(arguments: Arguments) -> None:
    """Write the report of all categories that have results."""
    from igspad_jax.commands.categories import each_category, resolved
    from igspad_jax.pipeline.summary import has_results, summarise

    finished = []
    try:
        finished.extend(each_category(arguments, has_results))
    finally:
        if finished:
            print(summarise(finished, resolved(arguments), arguments.run, anew=True))


def run() -> None:
    """Run the command."""
    run_stage(main)
