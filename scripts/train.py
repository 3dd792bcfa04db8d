"""Trains the scene of the normal object of each category.

    python scripts/train.py --data=data/toy --run=runs/toy --config=configs/demo.py

Leaves scene.ply (opens in viewers of 3D Gaussian Splatting), train.json and checkpoints in the run
folder. A training that was killed goes on where its last checkpoint left it.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from igspad_jax.pipeline import command
from igspad_jax.pipeline.training import train_category

_SCENE = flags.DEFINE_string(
    "scene", None, "A .ply scene trained elsewhere, to take instead of training one."
)


def main() -> None:
    """Trains every category."""
    for category, folder in command.categories():
        train_category(
            category,
            command.settings(),
            folder,
            overwrite=command.overwrite(),
            scene=Path(_SCENE.value) if _SCENE.value else None,
        )
        print(folder.scene)


if __name__ == "__main__":
    command.launch(main)
