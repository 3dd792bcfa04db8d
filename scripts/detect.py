"""Compares every test image with the normal render at its pose; needs the poses.

    python scripts/detect.py --data=data/toy --run=runs/toy --config=configs/demo.py

Leaves anomaly maps (maps/VARIANT/KIND/N.npy) and image scores (detect.json) in the run folder.
"""

from __future__ import annotations

from igspad_jax.data import Category
from igspad_jax.pipeline import command
from igspad_jax.pipeline.detection import detect_category
from igspad_jax.pipeline.folder import RunFolder


def main() -> None:
    """Scores every category."""
    settings, overwrite = command.settings(), command.overwrite()

    def work(category: Category, folder: RunFolder) -> None:
        detect_category(category, settings, folder, overwrite=overwrite)
        print(folder.stage_path("detect"))

    command.report_failed(command.each_category(work)[1])


if __name__ == "__main__":
    command.launch(main)
