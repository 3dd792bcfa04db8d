"""Gives the object of each category an inspector: a threshold from normal images.

    python scripts/calibrate.py --data=data/toy --run=runs/toy --config=configs/demo.py
    python scripts/calibrate.py --data=object --run=runs/object --normals=more/normal/photographs

The images are the training views that were held out, and any further photographs of normal objects,
without poses, in the folder that --normals names or in the category's own folder `normals`. All are
posed by inversion, as a photograph to inspect is. Prints what their number supports.
"""

from __future__ import annotations

import functools

from igspad_jax.pipeline import command
from igspad_jax.pipeline.calibration import calibrate_category


def main() -> None:
    """Calibrate every category's inspector."""
    work = functools.partial(
        calibrate_category, settings=command.settings(), normals=command.normals()
    )
    for category, folder in command.each_category(work, command.cluster()):
        print(f"{category.name}: {folder.load('calibration')['statement']}")


if __name__ == "__main__":
    command.run_script(main, takes_normals=True, takes_cluster=True)
