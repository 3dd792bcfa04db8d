"""Fits the normal object of each category.

    python scripts/train.py --data=data/toy --run=runs/toy --config=configs/demo.py

Leaves the object (its scene.ply opens in viewers of 3D Gaussian Splatting), training.json and
checkpoints in the run folder. A training that was killed goes on where its last checkpoint left it.
"""

from __future__ import annotations

import functools

from igspad_jax.pipeline import command
from igspad_jax.pipeline.training import train_category


def main() -> None:
    """Train every category."""
    work = functools.partial(
        train_category,
        settings=command.settings(),
        overwrite=command.overwrite(),
        **command.given_files(),
    )
    for _, folder in command.each_category(work, command.cluster()):
        print(folder.object)


if __name__ == "__main__":
    command.run_script(main, takes_files=True, takes_cluster=True)
