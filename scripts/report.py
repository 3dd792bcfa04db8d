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
    finished, settings = [], command.settings()
    try:
        for category, folder in command.each_category(_evaluated):
            finished.append((category, folder))
    finally:
        if finished:
            print(summarise(finished, settings, command.run_root(), anew=True))


def _evaluated(category: Category, folder: RunFolder) -> None:
    """A category without results fails."""
    folder.load("metrics")


if __name__ == "__main__":
    command.run_script(main)
