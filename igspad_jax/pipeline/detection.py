"""Stage 3: the anomaly map and the score of every test image.

Besides the run proper, "estimated", a breakdown scores the true poses ("true pose") and clean
images in place of renders ("clean image"): they show which stage loses what. A good image is its
own clean image.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from absl import logging
from tqdm import tqdm

from igspad_jax.cameras import Camera
from igspad_jax.data import Category, LoadedTest, TestImage, intrinsics, load_test, load_train
from igspad_jax.detect import (
    Comparison,
    ExpectedAnomaly,
    Features,
    image_score,
    make_comparison,
)
from igspad_jax.devices import on_first
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.provenance import check_before, chosen_tests, concerns
from igspad_jax.pipeline.settings import DataConfig, Settings
from igspad_jax.pipeline.training import load_scene
from igspad_jax.render import Capacity, render_views
from igspad_jax.scene import Gaussians, exposed

ESTIMATED, TRUE_POSE, CLEAN_IMAGE = "estimated", "true pose", "clean image"


@dataclasses.dataclass(frozen=True)
class Detector:
    """Compares images of one category with renders of its scene."""

    gaussians: Gaussians
    comparison: Comparison
    K: np.ndarray
    config: DataConfig
    capacity: Capacity

    def load(self, test: TestImage) -> LoadedTest:
        """A test image as the settings have it read."""
        return load_test(test, **self.config.reading)

    def compare_at(
        self, features: Features, shape: tuple[int, int], viewmat: np.ndarray,
        exposure: Sequence[float] = (1.0, 0.0),
    ) -> np.ndarray:  # fmt: skip
        """The anomaly map of an image against the scene's render at a pose and exposure.

        Args:
            features: the image's.
            shape: its height and width.
            viewmat: [4, 4].
            exposure: gain and bias of the object's colours.
        """
        height, width = shape
        (reference,) = render_views(
            exposed(self.gaussians, *exposure), viewmat[None], self.K,
            np.asarray(self.config.background),
            width=width, height=height, capacity=self.capacity,
        )  # fmt: skip
        return self.comparison.anomaly_map(features, reference)

    def camera(self, shape: tuple[int, int], viewmat: np.ndarray) -> Camera:
        """The camera of a pose, for images of a height and width."""
        height, width = shape
        return Camera(
            jnp.asarray(viewmat, jnp.float32), jnp.asarray(self.K, jnp.float32), width, height
        )

    def expected(self, category: Category) -> ExpectedAnomaly:
        """What the training images, held-out ones included, teach of the scene's own errors."""
        loaded = load_train(category, **self.config.reading)

        def compared() -> Iterator[tuple[Camera, np.ndarray]]:
            views = zip(loaded.images, loaded.viewmats, strict=True)
            for image, viewmat in tqdm(
                views, desc=f"expect {category.name}", total=len(loaded.images), unit="image"
            ):
                shape, features = image.shape[:2], self.comparison.features(image)
                yield self.camera(shape, viewmat), self.compare_at(features, shape, viewmat)

        return ExpectedAnomaly.learn(self.gaussians, compared(), self.capacity)


def variants_of(tests: tuple[TestImage, ...], breakdown: bool) -> list[str]:
    """The variants of a run that the data can give."""
    variants = [ESTIMATED]
    if breakdown and all(test.viewmat is not None for test in tests):
        variants.append(TRUE_POSE)
    if breakdown and all(test.clean_path for test in tests if test.defective):
        variants.append(CLEAN_IMAGE)
    return variants


@on_first
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
    detector = Detector(
        gaussians=load_scene(folder).gaussians,
        comparison=make_comparison(settings.detect.features),
        K=intrinsics(category, settings.data.width),
        config=settings.data,
        capacity=Capacity(),
    )
    clock = time.perf_counter()
    scale = settings.detect.expectation
    expected = detector.expected(category) if scale else None
    learnt = time.perf_counter()
    found = {entry["name"]: entry for entry in poses["images"]}

    def scored(variant: str, test: TestImage, loaded: LoadedTest, features: Features) -> np.ndarray:
        image = loaded.image
        if variant == CLEAN_IMAGE:
            # A good image is its own clean twin; no scene, so nothing wrong to expect of it.
            clean = image if loaded.clean is None else loaded.clean
            return detector.comparison.anomaly_map(features, clean)
        pose, shape = found[test.name], image.shape[:2]
        viewmat = np.asarray(pose["viewmat"] if variant == ESTIMATED else test.viewmat)
        heat_map = detector.compare_at(features, shape, viewmat, pose["exposure"])
        if expected is None:
            return heat_map
        return expected.discount(detector.camera(shape, viewmat), heat_map, scale)

    entries = []
    for test in tqdm(tests, desc=f"detect {category.name}", unit="image"):
        loaded = detector.load(test)
        scores, features = {}, detector.comparison.features(loaded.image)
        for variant in variants:
            heat_map = scored(variant, test, loaded, features)
            pool = max(1, round(settings.detect.pool * heat_map.shape[1]))
            scores[variant] = float(image_score(jnp.asarray(heat_map[None]), pool=pool)[0])
            folder.save_map(variant, test.name, heat_map)
        entries.append({"name": test.name, "kind": test.kind, "scores": scores})
    seconds = {
        "expect": learnt - clock,
        "detect": (time.perf_counter() - learnt) / len(variants),
    }
    result = {
        "seconds": seconds,
        "features": detector.comparison.name,
        "variants": variants,
        "images": entries,
    }
    folder.finish("detect", made_with, result)
