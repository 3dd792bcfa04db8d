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

from igspad_jax.batches import batches
from igspad_jax.cameras import Camera
from igspad_jax.data import Category, LoadedTest, TestImage, intrinsics, load_test, load_train
from igspad_jax.detect import Comparison, ExpectedAnomaly, Maps, image_score, make_comparison
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

    def renders(
        self, images: np.ndarray, viewmats: Sequence[np.ndarray],
        exposures: Sequence[Sequence[float]],
    ) -> np.ndarray:  # fmt: skip
        """[B, H, W, 3] renders for [B, H, W, 3] images, at poses [4, 4] and gains and biases."""
        height, width = images.shape[1:3]
        seen = [
            render_views(
                exposed(self.gaussians, *exposure), np.asarray(viewmat)[None], self.K,
                np.asarray(self.config.background),
                width=width, height=height, capacity=self.capacity,
            )
            for viewmat, exposure in zip(viewmats, exposures, strict=True)
        ]  # fmt: skip
        return np.concatenate(seen)

    def camera(self, shape: tuple[int, ...], viewmat: np.ndarray) -> Camera:
        """The camera of a pose, for images of a height and width."""
        height, width = shape
        return Camera(
            jnp.asarray(viewmat, jnp.float32), jnp.asarray(self.K, jnp.float32), width, height
        )

    def expected(self, category: Category) -> ExpectedAnomaly:
        """What the training images, held-out ones included, teach of the scene's own errors."""
        loaded = load_train(category, **self.config.reading)

        def compared() -> Iterator[tuple[Camera, np.ndarray]]:
            count, plain = len(loaded.images), (1.0, 0.0)
            with tqdm(desc=f"expect {category.name}", total=count, unit="image") as bar:
                for chosen, real in batches(count, self.comparison.batch):
                    images, viewmats = loaded.images[chosen], loaded.viewmats[chosen]
                    references = self.renders(images, list(viewmats), [plain] * len(chosen))
                    heat_maps = self.comparison.anomaly_maps(images, references)
                    for viewmat, heat_map in zip(viewmats[:real], heat_maps[:real], strict=True):
                        yield self.camera(heat_map.shape, viewmat), heat_map
                    bar.update(real)

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
    category: Category,
    settings: Settings,
    folder: RunFolder,
    *,
    overwrite: bool = False,
    maps: Maps | None = None,
) -> None:
    """Scores a category's test images into its run folder.

    Args:
        category: the category.
        settings: of the run.
        folder: the category's run folder.
        overwrite: whether results of other settings are replaced.
        maps: where single extractors' maps are kept, for a caller that tries many combinations.

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
        comparison=make_comparison(
            settings.detect.features,
            settings.weights.by_name,
            dtype=settings.detect.dtype,
            maps=maps,
        ),
        K=intrinsics(category, settings.data.width),
        config=settings.data,
        capacity=Capacity(),
    )
    clock = time.perf_counter()
    scale = settings.detect.expectation
    expected = detector.expected(category) if scale else None
    learnt = time.perf_counter()
    found = {entry["name"]: entry for entry in poses["images"]}

    def scored(variant: str, tests: Sequence[TestImage], loaded: Sequence[LoadedTest]):
        """[B, H, W] anomaly maps."""
        images = np.stack([one.image for one in loaded])
        if variant == CLEAN_IMAGE:
            # A good image is its own clean twin; no scene, so nothing wrong to expect of it.
            clean = [one.image if one.clean is None else one.clean for one in loaded]
            return detector.comparison.anomaly_maps(images, np.stack(clean))
        poses = [found[test.name] for test in tests]
        viewmats = [
            np.asarray(pose["viewmat"] if variant == ESTIMATED else test.viewmat)
            for pose, test in zip(poses, tests, strict=True)
        ]
        references = detector.renders(images, viewmats, [pose["exposure"] for pose in poses])
        heat_maps = detector.comparison.anomaly_maps(images, references)
        if expected is None:
            return heat_maps
        cameras = [detector.camera(images.shape[1:3], viewmat) for viewmat in viewmats]
        pairs = zip(cameras, heat_maps, strict=True)
        return np.stack([expected.discount(*pair, scale) for pair in pairs])

    entries = []
    with tqdm(desc=f"detect {category.name}", total=len(tests), unit="image") as bar:
        for chosen, real in batches(len(tests), detector.comparison.batch):
            group = [tests[i] for i in chosen]
            loaded = [detector.load(test) for test in group]
            maps_of = {variant: scored(variant, group, loaded) for variant in variants}
            for i, test in enumerate(group[:real]):
                scores = {}
                for variant, heat_maps in maps_of.items():
                    pool = max(1, round(settings.detect.pool * heat_maps.shape[2]))
                    scores[variant] = float(image_score(heat_maps[i : i + 1], pool=pool)[0])
                    folder.save_map(variant, test.name, heat_maps[i])
                entries.append({"name": test.name, "kind": test.kind, "scores": scores})
            bar.update(real)
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
