"""Stage 3: the anomaly map and the score of every test image.

Besides the run proper, "estimated", a breakdown scores the true poses ("true pose") and clean
images in place of renders ("clean image"): they show which stage loses what. A good image is its
own clean image.
"""

from __future__ import annotations

import time

import jax.numpy as jnp
import numpy as np
from absl import logging
from tqdm import tqdm

from igspad_jax.data import Category, LoadedTest, TestImage, intrinsics, load_test
from igspad_jax.detect import Extractor, HandMade, feature_distance, image_score, resize_map
from igspad_jax.invert.solver import render_views
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.provenance import check_before, chosen_tests, concerns
from igspad_jax.pipeline.settings import Settings
from igspad_jax.pipeline.training import load_scene
from igspad_jax.render import Capacity

ESTIMATED, TRUE_POSE, CLEAN_IMAGE = "estimated", "true pose", "clean image"


def anomaly_map(extractor: Extractor, image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """[H, W] anomaly map of a [H, W, 3] image against its normal reference (equation 5)."""
    height, width = image.shape[:2]
    features = extractor(jnp.asarray(np.stack([image, reference])))
    distance = feature_distance(
        features[:1],
        features[1:],
        tolerance=extractor.tolerance,
        edge_discount=extractor.edge_discount,
    )
    return np.asarray(resize_map(distance, height, width)[0])


def variants_of(tests: tuple[TestImage, ...], breakdown: bool) -> list[str]:
    """The variants of a run that the data can give."""
    variants = [ESTIMATED]
    if breakdown and all(test.viewmat is not None for test in tests):
        variants.append(TRUE_POSE)
    if breakdown and all(test.clean_path for test in tests if test.defective):
        variants.append(CLEAN_IMAGE)
    return variants


def detect_category(
    category: Category, settings: Settings, folder: RunFolder, *, overwrite: bool = False
) -> None:
    """Scores a category's test images into its run folder.

    Raises:
        InputError: for unusable data, missing poses, or results made with other settings.
    """
    check_before("detect", category, settings, folder)
    tests = chosen_tests(category, settings)
    poses = folder.load("poses")
    variants = variants_of(tests, settings.evaluate.breakdown)
    made_with = {"poses": poses["made_with"], **concerns("detect", category, settings)}
    if folder.is_done("detect", made_with, overwrite=overwrite):
        logging.info("%s: the anomaly maps are there already", category.name)
        return
    if settings.evaluate.breakdown and len(variants) < 3:
        missing = {TRUE_POSE, CLEAN_IMAGE} - set(variants)
        logging.warning(
            "%s: the breakdown goes without %s, which the data lacks",
            category.name,
            " and ".join(sorted(missing)),
        )
    folder.start("detect")
    scene = load_scene(folder)
    extractor = HandMade()
    capacity = Capacity(4 * len(scene.gaussians))
    K = intrinsics(category, settings.data.size or None)
    background = np.asarray(settings.data.background)
    estimated = {entry["name"]: np.asarray(entry["viewmat"]) for entry in poses["images"]}

    def reference(variant: str, test: TestImage, loaded: LoadedTest) -> np.ndarray:
        if variant == CLEAN_IMAGE:
            # A good image is its own clean twin.
            return loaded.image if loaded.clean is None else loaded.clean
        viewmat = estimated[test.name] if variant == ESTIMATED else test.viewmat
        height, width = loaded.image.shape[:2]
        return render_views(
            scene.gaussians, np.asarray(viewmat)[None], K, background,
            width=width, height=height, capacity=capacity,
        )[0]  # fmt: skip

    clock = time.perf_counter()
    entries = []
    for test in tqdm(tests, desc=f"detect {category.name}", unit="image"):
        loaded = load_test(
            test, size=settings.data.size or None, background=settings.data.background
        )
        scores = {}
        for variant in variants:
            heat_map = anomaly_map(extractor, loaded.image, reference(variant, test, loaded))
            pool = max(1, round(settings.detect.pool * heat_map.shape[1]))
            scores[variant] = float(image_score(jnp.asarray(heat_map[None]), pool=pool)[0])
            folder.save_map(variant, test.name, heat_map)
        entries.append({"name": test.name, "kind": test.kind, "scores": scores})
    seconds = (time.perf_counter() - clock) / len(variants)
    result = {
        "seconds": seconds,
        "features": extractor.name,
        "variants": variants,
        "images": entries,
    }
    folder.finish("detect", made_with, result)
