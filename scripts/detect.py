"""Compares every test image with the normal render at its pose; needs the poses.

    python scripts/detect.py --data=data/toy --run=runs/toy --config=configs/demo.py

Leaves anomaly maps (maps/VARIANT/KIND/N.npy) and image scores (detect.json) in the run folder.
"""

from __future__ import annotations

from igspad_jax.pipeline import command
from igspad_jax.pipeline.detection import detect_category


def main() -> None:
    """Scores every category."""
    for category, folder in command.categories():
        detect_category(category, command.settings(), folder, overwrite=command.overwrite())
        print(folder.stage_path("detect"))


if __name__ == "__main__":
    command.launch(main)
