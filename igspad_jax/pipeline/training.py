"""Stage 1: the normal object, from the posed normal images that are not held out."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from igspad_jax.data import Category, TrainView, hold_out_blocks, load_train
from igspad_jax.errors import InputError
from igspad_jax.files import digest_of, read_json, sha256, write_json
from igspad_jax.inspector import OBJECT, load_object, save_object
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.scene.ply import read_ply, read_points
from igspad_jax.settings import Settings, as_json, first_difference
from igspad_jax.train import Fitted, fit, measure, object_from


def split_views(
    category: Category, settings: Settings
) -> tuple[tuple[TrainView, ...], tuple[TrainView, ...]]:
    """The views to fit the object to, and the held-out ones.

    Raises:
        InputError: if fewer than two views would be left.
    """
    views = category.train
    held = hold_out_blocks(np.stack([v.viewmat for v in views]), settings.data.held_out)
    if len(views) - len(held) < 2:
        raise InputError(
            f"{category.root}: data.held_out={settings.data.held_out} of {len(views)} views leaves "
            "fewer than two to fit; hold out fewer"
        )
    chosen = set(held.tolist())
    fitted = tuple(view for i, view in enumerate(views) if i not in chosen)
    return fitted, tuple(views[i] for i in held)


def train_category(
    category: Category,
    folder: RunFolder,
    settings: Settings,
    *,
    overwrite: bool = False,
    scene: Path | None = None,
    points: Path | None = None,
) -> None:
    """Fit a category's object into its run folder; go on after a kill, return when done.

    Args:
        category: the category.
        folder: the category's run folder.
        settings: of the run.
        overwrite: whether to replace an object made with other settings.
        scene: a `.ply` scene trained elsewhere to take instead of training one.
        points: a `.ply` point cloud to start training from.

    Raises:
        InputError: for unusable data, or an object made with other settings.
    """
    fitted, held = split_views(category, settings)
    made_with = as_json(
        {
            "settings": {
                "size": settings.data.size,
                "background": settings.data.background,
                "held_out": settings.data.held_out,
                "train": settings.train,
                "scene": sha256(scene) if scene else None,
                "points": sha256(points) if points else None,
            },
            "data": _contents(category, fitted + held),
        }
    )
    key = digest_of(made_with)
    if _is_done(folder, key, made_with, category.name, overwrite):
        logging.info("%s: the object is there already", category.name)
        return
    _begin(folder, key, made_with)
    views = load_train(category, views=fitted, **settings.data.reading)
    held_views = load_train(category, views=held, **settings.data.reading) if held else None
    background = settings.data.background
    if scene:
        clock, cpu = time.perf_counter(), time.process_time()
        gaussians = read_ply(scene)
        result = Fitted(
            object_from(gaussians, views, background), f"{len(gaussians)} Gaussians of {scene}", []
        )
        entry = {"step": 0, **(measure(result.normal_object, held_views) if held_views else {})}
        entry |= {
            "seconds": time.perf_counter() - clock,
            "cpu_seconds": time.process_time() - cpu,
        }
        result.history.append(entry)
    else:
        result = fit(
            views,
            settings.train,
            background=background,
            held_out=held_views,
            cloud=read_points(points) if points else None,
            checkpoints=folder.checkpoints,
            name=category.name,
        )
    names = [stem_of(category, view) for view in fitted]
    save_object(folder.object, result.normal_object, views, names)
    last = result.history[-1]
    record = {
        "made_with": made_with,
        "origin": result.origin,
        "gaussians": len(result.normal_object.gaussians),
        "fitted": names,
        "held_out": [stem_of(category, view) for view in held],
        "history": result.history,
        "seconds": last["seconds"],
        "cpu_seconds": last["cpu_seconds"],
    }
    folder.save("training", key, record)


def stem_of(category: Category, view: TrainView) -> str:
    """A view's name, unique among the category's."""
    return view.path.relative_to(category.root).with_suffix("").as_posix().replace("/", "_")


def _contents(category: Category, views: tuple[TrainView, ...]) -> dict[str, Any]:
    """What the views hold: a hash of each image's file, and its pose."""
    return {
        stem_of(category, view): [sha256(view.path)[:16], digest_of(view.viewmat.tolist())]
        for view in views
    }


def _is_done(
    folder: RunFolder, key: str, made_with: dict[str, Any], name: str, overwrite: bool
) -> bool:
    """Whether the object is there; what it was begun with must not be lost unasked.

    Raises:
        InputError: if it is another one, made with other settings, and `overwrite` is off.
    """
    note, done = folder.checkpoints / "made_with.json", folder.path("training")
    record = folder.load("training") if done.is_file() else None
    if record and (folder.object / OBJECT).is_file():
        before, what = record["made_with"], str(folder.object)
        if record["key"] == key:
            try:
                load_object(folder.object)
                return True
            except InputError as error:
                logging.warning("%s: %s; the object is made again", name, error)
                return False
    elif note.is_file():
        before = read_json(note, f"delete {folder.checkpoints} to train afresh")
        what = str(folder.checkpoints)
    else:
        return False
    difference = first_difference(before["settings"], made_with["settings"])
    if difference and not overwrite:
        raise InputError(
            f"{what} was made with other settings: {difference}; choose another --run folder, or "
            "give --overwrite to train it anew"
        )
    old, new = before["data"], made_with["data"]
    changed = [view for view in {**old, **new} if old.get(view) != new.get(view)]
    if changed:
        logging.warning(
            "%s: training images changed, and it is trained anew: %s", name, ", ".join(changed)
        )
    return False


def _begin(folder: RunFolder, key: str, made_with: dict[str, Any]) -> None:
    """Keep the checkpoints of the same training, and nothing else of another."""
    note = folder.checkpoints / "made_with.json"
    if not note.is_file() or digest_of(read_json(note, "delete it")) != key:
        folder.forget_training()
    write_json(note, made_with)
