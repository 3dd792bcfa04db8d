"""Fits the normal object of each category.

    igspad-train --data=data/toy --run=runs/toy --config=demo

Leaves the object (its scene.ply opens in viewers of 3D Gaussian Splatting), training.json and
checkpoints in the run folder. A training that was killed goes on where its last checkpoint left it.
"""

import functools

from igspad_jax.commands.stage import Arguments, run_stage


def main(arguments: Arguments) -> None:
    """Train every category."""
    from igspad_jax.commands.categories import each_category
    from igspad_jax.pipeline.training import train_category

    work = functools.partial(
        train_category,
        settings=arguments.settings,
        overwrite=arguments.overwrite,
        scene=arguments.scene,
        points=arguments.points,
    )
    for _, folder in each_category(arguments, work):
        print(folder.object)


def run() -> None:
    """Run the command."""
    run_stage(main, takes=("scene", "points", "ray"))
