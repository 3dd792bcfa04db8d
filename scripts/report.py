"""Draws a finished run: one self-contained HTML file with every image, worst cases first.

python scripts/report.py --data=data/toy --run=runs/toy --config=configs/demo.py
"""

from __future__ import annotations

from igspad_jax.pipeline import command
from igspad_jax.pipeline.summary import summarise


def main() -> None:
    """Writes the report of all categories."""
    print(summarise(command.categories(), command.settings(), command.run_root()))


if __name__ == "__main__":
    command.launch(main)
