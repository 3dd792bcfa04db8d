"""Inspecting files: what of their results still holds is taken, the rest is made."""

import dataclasses
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from igspad_jax.batches import batches
from igspad_jax.data import read_image
from igspad_jax.detect import weights_of_features
from igspad_jax.files import digest_of, sha256
from igspad_jax.inspector import LANDMARKS, OBJECT, Inspector
from igspad_jax.match import weights_of_matching
from igspad_jax.networks.weights import Sources, digest
from igspad_jax.pipeline.folder import ImageRecord, ImageResults
from igspad_jax.progress import progress_bar
from igspad_jax.settings import InspectorConfig


@dataclasses.dataclass(frozen=True)
class Keys:
    """What results of images are made from, besides the images: hashes of it.

    Attributes:
        pose: of what poses are made from: the object, first poses, the solver.
        features: of what the features are made from, and so what is to be expected.
        comparison: of what anomaly maps are made from besides the pose.
    """

    pose: str
    features: str
    comparison: str

    @classmethod
    def of(cls, folder: Path, config: InspectorConfig, sources: Sources) -> Self:
        """The keys of an inspector of the object in a folder."""
        match, detect = config.match, config.detect
        used = {name: digest(name, sources) for name in weights_of_matching(match)}
        compared = {name: digest(name, sources) for name in weights_of_features(detect.features)}
        landmarks = folder / LANDMARKS
        made_of = [folder / OBJECT, folder / "scene.ply", *([landmarks] * landmarks.is_file())]
        pose = [sha256(*made_of), match, config.invert, used]
        features = digest_of([pose[0], detect.features, detect.dtype, compared])
        comparison = [features, detect.border, detect.expected_strength, detect.expected_views]
        return cls(digest_of(pose), features, digest_of(comparison))

    def of_image(self, path: Path) -> tuple[str, str]:
        """What the pose and the anomaly map of an image file are made from."""
        pose = digest_of([self.pose, sha256(path)])
        return pose, digest_of([pose, self.comparison])


def inspect_files(
    inspector: Inspector, files: Mapping[str, Path], keys: Keys, results: ImageResults, what: str
) -> dict[str, ImageRecord]:
    """Estimate the poses of image files and make their anomaly maps, where that is to do.

    An image is decoded once, and rendered once at its final pose.

    Args:
        inspector: calibrated or not.
        files: by the names of their results.
        keys: what results are made from.
        results: where they are kept, as soon as there are some.
        what: for the progress bar.

    Returns:
        The records of all images, by name; all have a pose and a map.

    Raises:
        InputError: for a file that is no image, or of another shape than the training images.
    """
    wanted = {name: keys.of_image(path) for name, path in files.items()}
    records = {name: results.load(name, *wanted[name]) for name in files}
    to_do = [name for name in files if records[name].map_key != wanted[name][1]]
    with progress_bar(len(to_do), what, "image") as bar:
        for chosen, real in batches(len(to_do), inspector.batch):
            names = [to_do[i] for i in chosen]
            photographs = [inspector.read(read_image(files[n]), str(files[n])) for n in names]
            known = [records[name].pose for name in names]
            clock = time.perf_counter()
            # Of a batch all or none are estimated: the same pose comes out again.
            poses = [pose for pose in known if pose is not None]
            if len(poses) < len(names):
                poses, renders = inspector.locate(photographs)
            else:
                renders = inspector.render(poses)
            located = time.perf_counter()
            anomaly_maps = inspector.compare(photographs, poses, renders)
            share = 1.0 / real
            seconds = {
                "locate": share * (located - clock),
                "compare": share * (time.perf_counter() - located),
            }
            for i, name in enumerate(names[:real]):
                record = records[name]
                if record.pose is None:
                    record.seconds["locate"] = seconds["locate"]
                record.seconds["compare"] = seconds["compare"]
                record.pose, record.map_key = poses[i], wanted[name][1]
                results.save(name, record, anomaly_maps[i], renders[i])
            bar.update(real)
    return records


def seconds_of(records: Mapping[str, ImageRecord]) -> dict[str, float]:
    """Seconds that the results of all images took together, by what took them."""
    total: Counter[str] = Counter()
    for record in records.values():
        total.update(record.seconds)
    return dict(total)
