"""Finds the pose of every test image by inverting the splatting; needs a trained scene.

    python scripts/invert.py --data=data/toy --run=runs/toy --config=configs/demo.py

Leaves poses.json and losses.npz in the run folder, and prints the errors where true poses exist.
"""

from __future__ import annotations

import numpy as np

from igspad_jax.data import Category
from igspad_jax.pipeline import command
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.inversion import invert_category


def main() -> None:
    """Inverts every category."""
    settings, overwrite = command.settings(), command.overwrite()

    def work(category: Category, folder: RunFolder) -> None:
        invert_category(category, settings, folder, overwrite=overwrite)
        errors = [e["degrees"] for e in folder.load("poses")["images"] if "degrees" in e]
        median = f", median error {np.median(errors):.3f} degrees" if errors else ""
        print(f"{folder.stage_path('poses')}{median}")

    command.report_failed(command.each_category(work)[1])


if __name__ == "__main__":
    command.launch(main)
