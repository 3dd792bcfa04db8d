"""Gives the object of each category an inspector: a threshold from normal images.

    igspad-calibrate --data=data/toy --run=runs/toy --config=demo
    igspad-calibrate --data=object --run=runs/object --normals=more/normal/photographs

The images are the training views that were held out, and any further photographs of normal objects,
without poses, in the folder that --normals names or in the category's own folder `normals`. All are
posed by inversion, as a photograph to inspect is. Prints what their number supports.
"""

import functools

from igspad_jax.commands.stage import Arguments, run_stage


def main(arguments: Arguments) -> None:
    """Calibrate every category's inspector."""
    from igspad_jax.commands.categories import each_category, resolved
    from igspad_jax.pipeline.calibration import calibrate_category

    work = functools.partial(
        calibrate_category, settings=resolved(arguments), normals=arguments.normals
    )
    for category, folder in each_category(arguments, work):
        print(f"{category.name}: {folder.load('calibration')['statement']}")


def run() -> None:
    """Run the command."""
    run_stage(main, takes=("normals", "ray"))
