"""Stage 1: the normal object, from the posed normal images that are not held out."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from igspad_jax.cameras import pixels_of
from igspad_jax.data import (
    Category,
    LoadedViews,
    Structure,
    TrainView,
    hold_out_blocks,
    load_train,
    read_image,
)
from igspad_jax.errors import InputError
from igspad_jax.files import digest_of, read_json, sha256, write_json
from igspad_jax.inspector import LANDMARKS, OBJECT, load_object, save_object
from igspad_jax.light import gains_of
from igspad_jax.match import Landmarks, Sighting
from igspad_jax.normal_object import NormalObject, lit
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.progress import tracked
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
            "structure": category.structure and category.structure.digest,
        }
    )
    key = digest_of(made_with)
    if _is_done(folder, key, made_with, category.name, overwrite):
        logging.info("%s: the object is there already", category.name)
        return
    _begin(folder, key, made_with)
    views = load_train(category, views=fitted, **settings.data.reading)
    held_views = load_train(category, views=held, **settings.data.reading) if held else None
    given = points or category.points_path
    cloud = read_points(given) if given else None
    if category.structure:
        cloud = cloud or (category.structure.points, category.structure.colours)
        if settings.train.even_light:
            views, held_views = evened(category.structure, views, fitted, held_views, held)
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
            cloud=cloud,
            checkpoints=folder.checkpoints,
            name=category.name,
        )
    names = [stem_of(category, view) for view in fitted]
    save_object(folder.object, result.normal_object, views, names)
    if category.structure:
        normal = result.normal_object
        ball = np.asarray(normal.centre), float(normal.radius)
        described(category.structure, fitted, *ball).save(folder.object / LANDMARKS)
    last = result.history[-1]
    record = {
        "made_with": made_with,
        "origin": result.origin,
        "gaussians": len(result.normal_object.gaussians),
        "object_psnr": _object_psnr(result.normal_object, held_views),
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


def evened(
    structure: Structure,
    views: LoadedViews,
    fitted: Sequence[TrainView],
    held_views: LoadedViews | None,
    held: Sequence[TrainView],
) -> tuple[LoadedViews, LoadedViews | None]:
    """Views in one light: without the exposures and white balances that their points tell of."""
    both = [(views, fitted), *([(held_views, held)] if held_views else [])]
    colours, points = [], []
    for loaded, own in both:
        for image, viewmat, view in zip(loaded.images, loaded.viewmats, own, strict=True):
            which, _ = structure.shown[view.name]
            size = image.shape[1], image.shape[0]
            u, v, within = pixels_of(structure.points[which], viewmat, loaded.K, *size)
            colours.append(image[v[within], u[within]])
            points.append(which[within])
    gains = gains_of(colours, points, len(structure.points))
    result = []
    for loaded, own in both:
        part, gains = gains[: len(own), None, None], gains[len(own) :]
        images = np.clip(loaded.images / part, 0.0, 1.0).astype(np.float32)
        result.append(dataclasses.replace(loaded, images=images))
    return result[0], result[1] if held_views else None


def _object_psnr(normal_object: NormalObject, views: LoadedViews | None) -> float | None:
    """Mean PSNR in dB within the outlines of an object, renders in the light of views.

    None without views, or where the scene holds the object alone: it is that of the whole image.
    """
    if views is None or not normal_object.surrounded:
        return None
    psnrs = []
    for image, viewmat in zip(views.images, views.viewmats, strict=True):
        outlines = normal_object.outlines(viewmat[None])
        if outlines is None or not outlines.any():
            continue
        render = lit(image[None], normal_object.renders(viewmat[None]), outlines)[0]
        error = np.square(render - image)[outlines[0]].mean()
        psnrs.append(-10.0 * np.log10(max(float(error), 1e-10)))
    return float(np.mean(psnrs)) if psnrs else None


def described(
    structure: Structure, views: Sequence[TrainView], centre: np.ndarray, radius: float
) -> Landmarks:
    """The points of a structure in a ball, and what they look like in some of its photographs.

    Points beyond are of no use: the object may lie elsewhere, with other things about it.
    """
    within = np.linalg.norm(structure.points - centre, axis=1) < radius

    def sightings() -> Iterator[Sighting]:
        for view in tracked(views, "describe landmarks", "image"):
            which, places = structure.shown[view.name]
            own = within[which]
            yield Sighting(read_image(view.path), which[own], places[own])

    return Landmarks.describe(structure.points, sightings())


def _contents(category: Category, views: tuple[TrainView, ...]) -> dict[str, Any]:
    """What the views hold: a hash of each image's file, and its pose."""
    return {
        stem_of(category, view): [
            sha256(view.path, *([view.mask_path] if view.mask_path else []))[:16],
            digest_of([view.viewmat.tolist(), view.lens]),
        ]
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
