"""Stage 2: the pose of every test image."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from igspad_jax.batches import batches
from igspad_jax.cameras import pose_errors
from igspad_jax.data import Category, LoadedViews, load_test, load_train
from igspad_jax.devices import after_first, dealt, is_first, on_first, process_count
from igspad_jax.files import write_whole
from igspad_jax.invert import Inversion, invert
from igspad_jax.invert.verdict import deviations, doubts_of, typical_residuals
from igspad_jax.match import (
    DepthOf,
    Matcher,
    PoseHypothesis,
    TrainingViews,
    Turns,
    all_views,
    initial_poses,
    make_matcher,
    matched_points,
    most_matched,
    pnp_poses,
    prepare_views,
    shortlisted,
    training_features,
)
from igspad_jax.normal_object import NormalObject
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.provenance import check_before, chosen_tests, concerns, left_out
from igspad_jax.pipeline.settings import MatchConfig, Settings
from igspad_jax.pipeline.training import Scene, load_scene
from igspad_jax.render import Capacity

_DEPTHS_KEPT = 64  # depth maps in memory; of 800 pixels each takes 5 MB with its coverage


@dataclasses.dataclass(frozen=True)
class Start:
    """Everything that finds first poses for an image."""

    views: TrainingViews
    matcher: Matcher
    references: Sequence[Any]  # the training images' features; empty where none are matched
    depth_of: DepthOf
    config: MatchConfig

    def hypotheses(self, image: np.ndarray) -> list[PoseHypothesis]:
        """First poses, the likeliest first, at most `config.hypotheses`."""
        count, found = self.config.hypotheses, []
        matching = (image, self.views, self.matcher, self.references)
        if self.config.initial == "matches":
            found = most_matched(*matching, self._turns(image), count)
            if found:
                return found
            logging.warning("an image matches no training view; it starts from retrieval")
        if self.config.initial == "pnp":
            # The best one is nearly always the right one; retrieval errs elsewhere.
            found = pnp_poses(*matching, self.depth_of, self._turns(image), max(1, count // 2))
        left = count - len(found)
        return found + (initial_poses(image, self.views, count=left) if left else [])

    def _turns(self, image: np.ndarray) -> Turns:
        """The training views to match with an image."""
        count = self.config.shortlist
        return shortlisted(image, self.views, count) if count else all_views(image, self.views)


def _start(
    loaded: LoadedViews, settings: Settings, model: NormalObject, folder: RunFolder
) -> Start:
    matcher = make_matcher(settings.match.matcher, settings.weights.by_name)

    @functools.lru_cache(_DEPTHS_KEPT)
    def depth_of(view: int) -> tuple[np.ndarray, np.ndarray]:
        return model.depth(loaded.viewmats[view])

    return Start(
        views=prepare_views(loaded.images, loaded.viewmats, loaded.K, np.asarray(model.centre)),
        matcher=matcher,
        references=()
        if settings.match.initial == "retrieval"
        else after_first(lambda: training_features(matcher, loaded.images, folder.features)),
        depth_of=depth_of,
        config=settings.match,
    )


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
    loaded = load_train(category, **settings.data.reading)
    model = object_model(scene, loaded, settings)
    clock, cpu = time.perf_counter(), time.process_time()
    start = _start(loaded, settings, model, folder)
    images = np.stack([load_test(test, **settings.data.reading).image for test in tests])
    initial = _hypotheses(images, start, category.name)
    matching = {"seconds": time.perf_counter() - clock, "cpu": time.process_time() - cpu}
    inversion, seconds = _inverted(images, initial, start, model, settings, category.name, folder)
    typical = typical_residuals(model, loaded.images, loaded.viewmats)
    doubts = [doubts_of(inversion, i, typical) for i in range(len(tests))]
    _log_trouble(category.name, settings, inversion, doubts)

    entries = []
    for i, test in enumerate(tests):
        first = initial[i][inversion.chosen[i] % len(initial[i])]
        sigma_degrees, sigma_percent = deviations(model, inversion, i)
        entry = {
            "name": test.name,
            "initial_viewmat": first.viewmat,
            "initial_source": first.source,
            "initial_training_view": category.train[first.training_view].path.name,
            "viewmat": inversion.viewmats[i],
            "exposure": inversion.exposures[i],
            "residual": float(inversion.residuals[i]),
            "settled": bool(inversion.settled[i]),
            "sigma_degrees": sigma_degrees,
            "sigma_percent": sigma_percent,
            "doubts": doubts[i],
            "sampled": inversion.sampled[i],
        }
        if test.viewmat is not None:
            for key, viewmat in (
                ("first_", initial[i][0].viewmat),
                ("initial_", first.viewmat),
                ("", inversion.viewmats[i]),
            ):
                degrees, percent = pose_errors(viewmat, test.viewmat, scene.centre)
                entry |= {f"{key}degrees": float(degrees), f"{key}percent": float(percent)}
        entries.append(entry)
    losses = inversion.losses.astype(np.float32)
    on_first(write_whole)(folder.losses, lambda file: np.savez_compressed(file, losses=losses))
    found = {
        "seconds": {"match": matching["seconds"], "invert": seconds},
        "cpu_seconds": {"match": matching["cpu"]},
        "typical_residual": dataclasses.asdict(typical) | {"limit": typical.limit},
        "images": entries,
    }
    folder.finish("poses", made_with, found)
    folder.end_inverting()


def object_model(scene: Scene, loaded: LoadedViews, settings: Settings) -> NormalObject:
    """The trained object before the camera of its training images."""
    height, width = loaded.images.shape[1:3]
    return NormalObject(
        scene.gaussians,
        loaded.K,
        width=width,
        height=height,
        background=np.asarray(settings.data.background),
        centre=scene.centre,
        radius=scene.radius,
        capacity=Capacity(4 * len(scene.gaussians)),
    )


def _hypotheses(images: np.ndarray, start: Start, name: str) -> list[list[PoseHypothesis]]:
    """First poses of every image, each process matching its share."""
    share = -(-len(images) // process_count())
    with tqdm(total=share, desc=f"match {name}", unit="image", disable=not is_first()) as bar:

        def match(image):
            found = start.hypotheses(image)
            bar.update()
            return found

        return dealt(match, list(images))


def _log_trouble(
    name: str, settings: Settings, inversion: Inversion, doubts: list[list[str]]
) -> None:
    """Says what did not go as it should."""
    whole = int(np.count_nonzero(inversion.sampled == 1.0))
    if settings.invert.sampling and whole:
        logging.info(
            "%s: in %d of %d matchings of an image with its render there were fewer than %d "
            "points, and the whole image counted",
            name, whole, inversion.sampled.size, settings.invert.sampling_min_points,
        )  # fmt: skip
    doubtful = sum(bool(reasons) for reasons in doubts)
    if doubtful:
        logging.warning(
            "%s: the poses of %d of %d images cannot be trusted; the report says which, and why",
            name, doubtful, len(doubts),
        )  # fmt: skip


def _inverted(
    images: np.ndarray,
    initial: list[list[PoseHypothesis]],
    start: Start,
    model: NormalObject,
    settings: Settings,
    name: str,
    folder: RunFolder,
) -> tuple[Inversion, float]:
    """Inverts all images, `invert.batch` at once, the last batch filled up with repeats.

    Finished batches are kept on disk, so that a run that was killed does not repeat them.

    Returns:
        The inversion of all images, and the seconds it took, those before a kill included.
    """
    config, count = settings.invert, len(images)
    # Always the same number of hypotheses: another one would cost a compilation.
    padded = np.stack(
        [
            [found[j % len(found)].viewmat for j in range(settings.match.hypotheses)]
            for found in initial
        ]
    )
    parts, seconds = [], 0.0
    total, quiet = count * config.steps, not is_first()
    with tqdm(total=total, desc=f"invert {name}", unit="step", disable=quiet) as bar:
        for chosen, real in batches(count, config.batch):
            first = int(chosen[0])
            part = folder.load_batch(first)
            if part is None:
                clock = time.perf_counter()
                result = invert(
                    model,
                    images[chosen],
                    padded[chosen],
                    config,
                    match_points=functools.partial(matched_points, start.matcher),
                    on_step=lambda steps, real=real: bar.update(steps * real),
                )
                part = {key: value[:real] for key, value in vars(result).items()}
                part["seconds"] = np.array(time.perf_counter() - clock)
                folder.save_batch(first, part)
            else:
                bar.update(real * config.steps)
            seconds += float(part.pop("seconds"))
            parts.append(part)
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return Inversion(**arrays), seconds
