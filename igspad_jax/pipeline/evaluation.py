"""Stage 4: the figures of a category, and the report of a run."""

from __future__ import annotations

from zipfile import BadZipFile

import numpy as np
from absl import logging

from igspad_jax.data import Category, intrinsics, load_test
from igspad_jax.devices import on_first
from igspad_jax.evaluate import breakdown, evaluate_maps, pose_metrics, time_metrics
from igspad_jax.pipeline.detection import ESTIMATED
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.provenance import check_before, chosen_tests, concerns, left_out
from igspad_jax.pipeline.settings import Settings
from igspad_jax.pipeline.training import load_scene
from igspad_jax.render import Capacity, render_views
from igspad_jax.report import CategoryReport, ImageRecord
from igspad_jax.scene import exposed


@on_first
def evaluate_category(
    category: Category, settings: Settings, folder: RunFolder, *, overwrite: bool = False
) -> None:
    """Measures a category's results into `metrics.json` of its run folder.

    Raises:
        InputError: for missing results, or results made with other settings.
    """
    check_before("metrics", category, settings, folder)
    detected = folder.load("detect")
    made_with = {"detect": detected["made_with"], **concerns("metrics", category, settings)}
    if folder.is_done("metrics", made_with, overwrite=overwrite):
        logging.info("%s: the metrics are there already", category.name)
        return
    folder.start("metrics")
    tests = chosen_tests(category, settings)
    masks = [
        load_test(test, **settings.data.reading).mask if test.mask_path else None for test in tests
    ]
    labels = np.array([test.defective for test in tests])
    kinds = [test.kind for test in tests]

    def results(variant):
        maps = [folder.load_map(variant, test.name) for test in tests]
        return maps, np.array([entry["scores"][variant] for entry in detected["images"]])

    maps, scores = results(ESTIMATED)
    metrics = evaluate_maps(maps, masks, labels, scores, kinds, sizes=settings.evaluate.sizes)
    missing = left_out(category, settings)
    if missing:
        metrics["notes"].append(missing)
    variants = detected["variants"]
    if len(variants) > 1:
        metrics["breakdown"] = breakdown({v: results(v) for v in variants}, masks, labels, kinds)
    trained, poses = folder.load("train"), folder.load("poses")
    doubted = [entry["name"] for entry in poses["images"] if entry["doubts"]]
    metrics["doubted_poses"] = doubted
    if doubted:
        metrics["notes"].append(
            f"the poses of {len(doubted)} of {len(tests)} images cannot be trusted: "
            + ", ".join(doubted)
        )
    posed = [i for i, test in enumerate(tests) if test.viewmat is not None]
    if posed:
        metrics["pose"] = pose_metrics(
            np.stack([np.asarray(poses["images"][i]["viewmat"]) for i in posed]),
            np.stack([np.asarray(tests[i].viewmat) for i in posed]),
            np.asarray(trained["centre"]),
            [tests[i].name for i in posed],
            np.array([tests[i].name in doubted for i in posed]),
        )
    seconds = {"train": trained["seconds"], **poses["seconds"], **detected["seconds"]}
    metrics["time"] = time_metrics(seconds, len(tests), once=("train", "expect"))
    folder.finish("metrics", made_with, metrics)


def category_report(category: Category, settings: Settings, folder: RunFolder) -> CategoryReport:
    """What the report of a run shows of a category.

    Raises:
        InputError: for missing results.
    """
    trained, poses = folder.load("train"), folder.load("poses")
    detected, metrics = folder.load("detect"), folder.load("metrics")
    tests = chosen_tests(category, settings)
    scene = load_scene(folder)
    capacity = Capacity(4 * len(scene.gaussians))
    K = intrinsics(category, settings.data.width)
    try:
        with np.load(folder.losses) as file:
            losses = file["losses"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise folder.damaged(folder.losses, "poses", error) from error
    records = []
    for i, test in enumerate(tests):
        loaded = load_test(test, **settings.data.reading)
        pose = poses["images"][i]
        height, width = loaded.image.shape[:2]
        initial, final = render_views(
            exposed(scene.gaussians, *pose["exposure"]),
            np.stack([np.asarray(pose["initial_viewmat"]), np.asarray(pose["viewmat"])]),
            K,
            np.asarray(settings.data.background),
            width=width,
            height=height,
            capacity=capacity,
        )
        records.append(
            ImageRecord(
                name=test.name,
                kind=test.kind,
                image=loaded.image,
                render=final,
                initial_render=initial,
                heat_map=folder.load_map(ESTIMATED, test.name),
                score=detected["images"][i]["scores"][ESTIMATED],
                mask=loaded.mask if test.mask_path else None,
                degrees=pose.get("degrees"),
                percent=pose.get("percent"),
                initial_degrees=pose.get("initial_degrees"),
                losses=losses[i][np.isfinite(losses[i])],
                flags=pose["doubts"],
            )
        )
    measured = [entry for entry in trained["history"] if entry.get("psnr") is not None]
    history = {key: [entry[key] for entry in measured] for key in ("psnr", "seconds", "step")}
    return CategoryReport(
        name=category.name,
        metrics=metrics,
        records=records,
        train_history=history if len(measured) > 1 else None,
    )
