"""Fits the normal object of each category.

    python scripts/train.py --data=data/toy --run=runs/toy --config=configs/demo.py

Leaves the object (its scene.ply opens in viewers of 3D Gaussian Splatting), training.json and
checkpoints in the run folder. A training that was killed goes on where its last checkpoint left it.
"""

from __future__ import annotations

from igspad_jax.data import Category
from igspad_jax.pipeline import command
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.training import train_category


def main() -> None:
    """Train every category."""
    settings, files, overwrite = command.settings(), command.given_files(), command.overwrite()

    def work(category: Category, folder: RunFolder) -> None:
        train_category(category, settings, folder, overwrite=overwrite, **files)
        print(folder.object)

    command.report_failed(command.each_category(work)[1])


if __name__ == "__main__":
    command.run_script(main, takes_files=True)
