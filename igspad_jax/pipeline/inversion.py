"""Stage 2: the pose of every test image."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
from absl import logging
from tqdm import tqdm

from igspad_jax.cameras import pose_errors
from igspad_jax.data import Category, load_test, load_train
from igspad_jax.files import write_whole
from igspad_jax.invert import Inversion, InvertConfig, invert
from igspad_jax.match import (
    OpenCVMatcher,
    PoseHypothesis,
    TrainingViews,
    initial_poses,
    most_matched,
    prepare_views,
)
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.provenance import check_before, chosen_tests, concerns, left_out
from igspad_jax.pipeline.settings import Settings
from igspad_jax.pipeline.training import Scene, load_scene
from igspad_jax.render import Capacity, render_views

_TRUNCATION = 0.2  # of differences between a hypothesis and the image; a defect counts no more


@dataclasses.dataclass(frozen=True)
class _Start:
    """Everything that finds a first pose for an image."""

    views: TrainingViews
    matcher: OpenCVMatcher
    references: object  # the training images' features; None where no image is matched with them
    scene: Scene
    K: np.ndarray
    background: np.ndarray
    capacity: Capacity
    settings: Settings

    def hypotheses(self, image: np.ndarray) -> list[PoseHypothesis]:
        config = self.settings.match
        if config.initial == "matches":
            found = most_matched(
                image, self.views, self.matcher, self.references, config.hypotheses
            )
            if found:
                return found
            logging.warning("an image matches no training view; it starts from retrieval")
        return initial_poses(image, self.views, count=config.hypotheses)

    def best(self, image: np.ndarray) -> PoseHypothesis:
        """The hypothesis whose render resembles the image most."""
        found = self.hypotheses(image)
        if len(found) == 1:
            return found[0]
        height, width = image.shape[:2]
        # Always the same number of renders: another one would cost a compilation.
        padded = found + [found[0]] * (self.settings.match.hypotheses - len(found))
        renders = render_views(
            self.scene.gaussians,
            np.stack([h.viewmat for h in padded]),
            self.K,
            self.background,
            width=width,
            height=height,
            capacity=self.capacity,
        )
        difference = np.minimum(np.abs(renders - image), _TRUNCATION).mean(axis=(1, 2, 3))
        return found[int(np.argmin(difference[: len(found)]))]


def _start(category: Category, settings: Settings, scene: Scene, capacity: Capacity) -> _Start:
    loaded = load_train(category, **settings.data.reading)
    views = prepare_views(loaded.images, loaded.viewmats, loaded.K, scene.centre)
    matcher = OpenCVMatcher()
    return _Start(
        views=views,
        matcher=matcher,
        references=matcher.prepare(loaded.images) if settings.match.initial == "matches" else None,
        scene=scene,
        K=loaded.K,
        background=np.asarray(settings.data.background),
        capacity=capacity,
        settings=settings,
    )


def _matched_points(matcher: OpenCVMatcher, image: np.ndarray, render: np.ndarray) -> np.ndarray:
    """[M, 2] points of the image that match its render."""
    (matches,) = matcher.match(matcher.prepare(image[None]), matcher.prepare(render[None]))
    return matches.query_points


def invert_category(
    category: Category, settings: Settings, folder: RunFolder, *, overwrite: bool = False
) -> None:
    """Estimates the poses of a category's test images into its run folder.

    Raises:
        InputError: for unusable data, a missing scene, or results made with other settings.
    """
    check_before("poses", category, settings, folder)
    tests = chosen_tests(category, settings)
    missing = left_out(category, settings)
    if missing:
        logging.warning("%s: %s", category.name, missing)
    made_with = {
        "train": folder.load("train")["made_with"],
        **concerns("poses", category, settings),
    }
    if folder.is_done("poses", made_with, overwrite=overwrite):
        logging.info("%s: the poses are there already", category.name)
        return
    folder.start("poses")
    folder.start_inverting(made_with)
    scene = load_scene(folder)
    capacity = Capacity(4 * len(scene.gaussians))
    clock = time.perf_counter()
    start = _start(category, settings, scene, capacity)
    images = [load_test(test, **settings.data.reading).image for test in tests]
    initial = []
    for image in tqdm(images, desc=f"match {category.name}", unit="image"):
        initial.append(start.best(image))
    matched = time.perf_counter()
    inversion, seconds = _inverted(images, initial, start, settings.invert, category.name, folder)
    seconds = {"match": matched - clock, "invert": seconds}
    whole = int(np.count_nonzero(inversion.sampled == 1.0))
    if settings.invert.sampling and whole:
        logging.info(
            "%s: in %d of %d matchings of an image with its render there were fewer than %d "
            "points, and the whole image counted",
            category.name, whole, inversion.sampled.size, settings.invert.sampling_min_points,
        )  # fmt: skip

    entries = []
    for i, test in enumerate(tests):
        entry = {
            "name": test.name,
            "initial_viewmat": initial[i].viewmat,
            "initial_source": initial[i].source,
            "initial_training_view": category.train[initial[i].training_view].path.name,
            "viewmat": inversion.viewmats[i],
            "final_loss": float(inversion.losses[i, -1]),
            "sampled": inversion.sampled[i],
        }
        if test.viewmat is not None:
            for key, viewmat in (("initial_", initial[i].viewmat), ("", inversion.viewmats[i])):
                degrees, percent = pose_errors(viewmat, test.viewmat, scene.centre)
                entry |= {f"{key}degrees": float(degrees), f"{key}percent": float(percent)}
        entries.append(entry)
    losses = inversion.losses.astype(np.float32)
    write_whole(folder.losses, lambda file: np.savez_compressed(file, losses=losses))
    folder.finish("poses", made_with, {"seconds": seconds, "images": entries})
    folder.end_inverting()


def _inverted(
    images: list[np.ndarray],
    initial: list[PoseHypothesis],
    start: _Start,
    config: InvertConfig,
    name: str,
    folder: RunFolder,
) -> tuple[Inversion, float]:
    """Inverts all images, `config.batch` at once, the last batch filled up with repeats.

    Finished batches are kept on disk, so that a run that was killed does not repeat them.

    Returns:
        The inversion of all images, and the seconds it took, those before a kill included.
    """
    count = len(images)
    batch = min(config.batch, count)
    parts, seconds = [], 0.0
    with tqdm(total=count * config.steps, desc=f"invert {name}", unit="step") as bar:
        for first in range(0, count, batch):
            real = min(batch, count - first)
            part = folder.load_batch(first)
            if part is None:
                clock = time.perf_counter()
                chosen = [min(first + i, count - 1) for i in range(batch)]
                result = invert(
                    start.scene.gaussians,
                    np.stack([images[i] for i in chosen]),
                    np.stack([initial[i].viewmat for i in chosen]),
                    start.K,
                    start.background,
                    start.scene.centre,
                    start.scene.radius,
                    config,
                    match_points=lambda im, render: _matched_points(start.matcher, im, render),
                    capacity=start.capacity,
                    on_step=lambda steps, real=real: bar.update(steps * real),
                )
                part = {
                    "viewmats": result.viewmats[:real],
                    "losses": result.losses[:real],
                    "sampled": result.sampled[:real],
                    "seconds": np.array(time.perf_counter() - clock),
                }
                folder.save_batch(first, part)
            else:
                bar.update(real * config.steps)
            seconds += float(part["seconds"])
            parts.append(part)
    arrays = {
        key: np.concatenate([part[key] for part in parts])
        for key in ("viewmats", "losses", "sampled")
    }
    return Inversion(**arrays), seconds
