"""Stage 1: the scene of the normal object."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from igspad_jax.data import Category, LoadedViews, load_train, split_held_out
from igspad_jax.devices import is_first, on_first
from igspad_jax.errors import InputError
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.provenance import concerns
from igspad_jax.pipeline.settings import Settings
from igspad_jax.render import Capacity, CapacityError
from igspad_jax.scene import Gaussians
from igspad_jax.scene.initialise import common_volume, initial_gaussians
from igspad_jax.scene.ply import read_ply, read_points, write_ply
from igspad_jax.train.checkpoints import Checkpoints
from igspad_jax.train.trainer import TrainState, Views, initial_state, quality, train


@dataclasses.dataclass(frozen=True)
class Scene:
    """A trained scene with what the later stages need to know of it.

    Attributes:
        gaussians: the scene.
        centre: [3] the object's centre in the world.
        radius: the object's radius in world units.
    """

    gaussians: Gaussians
    centre: np.ndarray
    radius: float


def _views(loaded: LoadedViews, background: tuple[float, float, float]) -> Views:
    return Views(
        images=jnp.asarray(loaded.images),
        viewmats=jnp.asarray(loaded.viewmats),
        K=jnp.asarray(loaded.K),
        background=jnp.asarray(background, jnp.float32),
    )


def _extent(gaussians: Gaussians) -> tuple[np.ndarray, float]:
    """Centre and radius of what the Gaussians cover, stragglers left out."""
    means = np.asarray(gaussians.means, np.float64)
    weights = np.asarray(gaussians.opacities, np.float64)
    centre = np.average(means, axis=0, weights=weights)
    distances = np.linalg.norm(means - centre, axis=1)
    order = np.argsort(distances)
    covered = np.cumsum(weights[order]) / weights.sum()
    return centre, float(distances[order][np.searchsorted(covered, 0.99)])


def _trimmed(gaussians: Gaussians) -> Gaussians:
    """Without the highest degrees that are zero; viewers want three, but they cost every render."""
    used = np.flatnonzero(np.any(np.asarray(gaussians.sh), axis=(0, 2)))
    degree = int(np.sqrt(used[-1])) if used.size else 0
    return gaussians.replace(sh=gaussians.sh[:, : (degree + 1) ** 2])


def load_split(category: Category, settings: Settings) -> tuple[LoadedViews, LoadedViews | None]:
    """Training and held-out views in memory; None where none are held out.

    Raises:
        InputError: if too few views would be left to train on.
    """
    held = settings.train.held_out
    if not 0 <= held <= len(category.train) // 2:
        raise InputError(
            f"{category.root}: train.held_out={held} of {len(category.train)} views leaves "
            "less than half to train on; hold out fewer"
        )
    views, held_views = split_held_out(category.train, held)

    def load(chosen):
        return load_train(category, views=chosen, **settings.data.reading)

    return load(views), load(held_views) if held_views else None


def train_category(
    category: Category,
    settings: Settings,
    folder: RunFolder,
    *,
    overwrite: bool = False,
    scene: Path | None = None,
    points: Path | None = None,
) -> None:
    """Trains a category's scene into its run folder; resumes, or returns at once when done.

    Args:
        category: the category.
        settings: of the run.
        folder: the category's run folder.
        overwrite: whether to replace results made with other settings.
        scene: a `.ply` scene trained elsewhere to take instead of training one.
        points: a `.ply` point cloud to start training from.

    Raises:
        InputError: for unusable data, or results made with other settings.
    """
    made_with = concerns("train", category, settings)
    made_with["scene"] = str(scene.resolve()) if scene else None
    made_with["points"] = str(points.resolve()) if points else None
    if folder.is_done("train", made_with, overwrite=overwrite):
        logging.info("%s: the scene is there already", category.name)
        return
    folder.start_training(made_with, overwrite=overwrite)
    loaded, held = load_split(category, settings)
    views = _views(loaded, settings.data.background)
    held_views = _views(held, settings.data.background) if held else None
    if scene:
        gaussians, history = on_first(lambda: _trimmed(read_ply(scene)))(), []
        origin = f"{len(gaussians)} Gaussians from {scene}"
        if held_views:
            psnr, ssim = quality(
                gaussians,
                held_views,
                sh_degree=gaussians.sh_degree,
                capacity=Capacity(4 * len(gaussians)),
            )
            history = [{"step": 0, "psnr": psnr, "ssim": ssim, "seconds": 0.0, "cpu_seconds": 0.0}]
        spent = {"seconds": 0.0, "cpu_seconds": 0.0}
    else:
        height, width = loaded.images.shape[1:3]
        _, radius = common_volume(loaded.viewmats, loaded.K, width, height)
        start, origin = initial_gaussians(
            loaded.images,
            loaded.viewmats,
            loaded.K,
            np.asarray(settings.data.background),
            count=settings.train.count,
            sh_degree=settings.train.sh_degree,
            seed=settings.train.seed,
            cloud=read_points(points) if points else None,
        )
        logging.info("%s: starting from %s", category.name, origin)
        # Static in the compiled steps, so rounded: the last bits would cost a compilation.
        radius = float(f"{radius:.4g}")
        state = initial_state(start, settings.train, radius)
        gaussians, history = _trained(state, views, held_views, settings, radius, folder, category)
        spent = history[-1]
    on_first(write_ply)(folder.scene, gaussians)
    centre, radius = _extent(gaussians)
    result = {
        "origin": origin,
        "gaussians": len(gaussians),
        "centre": centre,
        "radius": radius,
        "history": history,
        "seconds": spent["seconds"],
        "cpu_seconds": spent["cpu_seconds"],
    }
    folder.finish("train", made_with, result)


def _trained(
    state: TrainState,
    views: Views,
    held_views: Views | None,
    settings: Settings,
    radius: float,
    folder: RunFolder,
    category: Category,
) -> tuple[Gaussians, list[dict]]:
    if settings.train.batch < jax.device_count():
        logging.warning(
            "train.batch=%d keeps so many of %d devices busy; a larger batch would use the others",
            settings.train.batch, jax.device_count(),
        )  # fmt: skip
    checkpoints = Checkpoints(folder.checkpoints)
    try:
        history: list[dict] = []
        found = checkpoints.restore(state)
        if found:
            state, history = found
            logging.info("%s: resuming at step %d", category.name, int(state.step))
        state, history = train(
            state,
            views,
            held_views,
            settings.train,
            radius,
            on_checkpoint=checkpoints.save,
            history=history,
            name=category.name,
            progress=is_first(),
        )
    except (FloatingPointError, CapacityError) as error:
        raise InputError(
            f"{category.name}: the training diverged, {error}; lower the learning rates, "
            "config.train.rates"
        ) from error
    finally:
        checkpoints.close()
    return state.gaussians, history


@on_first
def load_scene(folder: RunFolder) -> Scene:
    """The scene a finished training left in a run folder.

    Raises:
        InputError: if there is none.
    """
    record = folder.load("train")
    try:
        gaussians = _trimmed(read_ply(folder.scene))
    except InputError as error:
        raise folder.damaged(folder.scene, "train", error) from error
    return Scene(gaussians, np.asarray(record["centre"]), float(record["radius"]))
