"""Draws a finished run: one self-contained HTML file with every image and its verdict.

python scripts/report.py --data=data/toy --run=runs/toy --config=configs/demo.py
"""

from __future__ import annotations

from igspad_jax.data import Category
from igspad_jax.pipeline import command
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.summary import summarise


def main() -> None:
    """Write the report of all categories."""
    settings = command.settings()

    def work(category: Category, folder: RunFolder) -> None:
        folder.load("metrics")

    finished, failed = command.each_category(work)
    if finished:
        print(summarise(finished, settings, command.run_root(), anew=True))
    command.report_failed(failed)


if __name__ == "__main__":
    command.run_script(main)
