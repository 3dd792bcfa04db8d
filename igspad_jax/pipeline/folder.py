"""The folder of one category's run: what lies where, and which results still hold.

    object/                 the inspector, to be copied wherever it is needed; see
                            `igspad_jax.inspector.storage`
    checkpoints/            of the training
    training.json           settings, data and measurements of the training
    calibration.json        what the calibration images say
    calibration/            results of these images, as below
    inspected/NAME.json     pose of a test image ("Burrs/3"), and what it was made from
    inspected/NAME.png      the normal object at this pose
    inspected/NAME.npy      float32 anomaly map
    breakdown/VARIANT/      anomaly maps for true poses and clean images
    inspections.json        verdict, p-value, score, pose and regions of every test image
    metrics.json            see docs/metrics.md

Every result says by content what it was made from: pictures, settings, weights, the object. What
was made from something else is made again, and only that.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from igspad_jax.data import to_uint8, write_image
from igspad_jax.errors import InputError
from igspad_jax.files import read_json, write_json, write_whole
from igspad_jax.inspector import PoseEstimate

# The stages by the names of their files, and the commands that run them.
STAGES = {
    "training": "train",
    "calibration": "calibrate",
    "inspections": "evaluate",
    "metrics": "evaluate",
}


FORMAT = 2  # of these files; raised whenever an older program's could be misread


class RunFolder:
    """One category's part of a run."""

    def __init__(self, root: Path):
        self.root = root
        self.object = root / "object"
        self.checkpoints = root / "checkpoints"
        self.calibration = ImageResults(root / "calibration")
        self.inspected = ImageResults(root / "inspected")

    def breakdown(self, variant: str) -> "ImageResults":
        """Results of a variant of the breakdown."""
        return ImageResults(self.root / "breakdown" / variant)

    def path(self, stage: str) -> Path:
        """The JSON file of a stage."""
        return self.root / f"{stage}.json"

    def save(self, stage: str, key: str, result: dict[str, Any]) -> None:
        """Write a stage's result, and what it was made from."""
        write_json(self.path(stage), {"format": FORMAT, "key": key, **result})

    def load(self, stage: str) -> dict[str, Any]:
        """What a finished stage recorded.

        Raises:
            InputError: if the stage is not done or its file cannot be read.
        """
        path, command = self.path(stage), f"igspad-{STAGES[stage]}"
        if not path.is_file():
            raise InputError(f"{path} is not there: run {command} first")
        content = read_json(path, f"delete it and run {command} again")
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT or "key" not in content:
            raise InputError(
                f"{path} has format {found or 1}, and this program reads format {FORMAT}: it is of "
                "another version, or damaged; choose another --run folder, or delete this one"
            )
        return content

    def holds(self, stage: str, key: str) -> bool:
        """Whether a stage is done, from what `key` stands for."""
        return self.path(stage).is_file() and self.load(stage)["key"] == key

    def forget_training(self) -> None:
        """Delete the object and its checkpoints."""
        for folder in (self.checkpoints, self.object):
            shutil.rmtree(folder, ignore_errors=True)
        self.path("training").unlink(missing_ok=True)


@dataclasses.dataclass
class ImageRecord:
    """What is known of one image.

    Attributes:
        pose_key: what the pose was made from.
        pose: the estimate; None where it is to do.
        map_key: what the anomaly map was made from; None where it is to do.
        seconds: that its pose and its map took.
    """

    pose_key: str
    pose: PoseEstimate | None = None
    map_key: str | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


class ImageResults:
    """A folder with the results of images, by their names."""

    def __init__(self, root: Path):
        self.root = root

    def load(self, name: str, pose_key: str, map_key: str) -> ImageRecord:
        """What of an image's results still holds; a damaged file holds nothing."""
        path = self.root / f"{name}.json"
        try:
            content = read_json(path, "")
            if content["pose_key"] != pose_key:
                return ImageRecord(pose_key)
            pose = PoseEstimate.from_json(content["pose"])
            held = content["map_key"] == map_key and self._has_map(name)
            seconds = {name: float(value) for name, value in content["seconds"].items()}
            return ImageRecord(pose_key, pose, map_key if held else None, seconds)
        except (InputError, KeyError, TypeError, ValueError, AttributeError):
            return ImageRecord(pose_key)

    def save(
        self,
        name: str,
        record: ImageRecord,
        anomaly_map: np.ndarray,
        render: np.ndarray | None = None,
    ) -> None:
        """Write an image's results: its map, its render, and last what they were made from."""
        values = anomaly_map.astype(np.float32)
        write_whole(self.map_path(name), lambda file: np.save(file, values))
        if render is not None:
            write_image(self.render_path(name), to_uint8(render))
        pose = record.pose.as_json() if record.pose else None
        content = dataclasses.asdict(dataclasses.replace(record, pose=None)) | {"pose": pose}
        write_json(self.root / f"{name}.json", content)

    def pose(self, name: str) -> PoseEstimate:
        """The estimated pose of an image.

        Raises:
            InputError: if the image's results are missing or damaged.
        """
        path = self.root / f"{name}.json"
        try:
            return PoseEstimate.from_json(read_json(path, "run igspad-evaluate again")["pose"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: damaged ({error}); delete it and run igspad-evaluate again"
            ) from error

    def map_path(self, name: str) -> Path:
        """The anomaly map of an image."""
        return self.root / f"{name}.npy"

    def render_path(self, name: str) -> Path:
        """The normal object at the pose of an image."""
        return self.root / f"{name}.png"

    def _has_map(self, name: str) -> bool:
        """Whether an anomaly map is there, and whole."""
        try:
            np.load(self.map_path(name), mmap_mode="r")  # compares the header with the file's size
        except (OSError, ValueError, EOFError):
            return False
        return True

    def load_map(self, name: str) -> np.ndarray:
        """Read an anomaly map.

        Raises:
            InputError: if it is missing or cut short.
        """
        path = self.map_path(name)
        try:
            return np.load(path)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(
                f"{path}: cannot be read ({error}); delete it and run igspad-evaluate again"
            ) from error

    def keep_only(self, names: set[str]) -> None:
        """Delete the results of images that are no more."""
        for path in self.root.rglob("*.json"):
            name = path.relative_to(self.root).with_suffix("").as_posix()
            if name not in names:
                for suffix in (".json", ".npy", ".png"):
                    path.with_suffix(suffix).unlink(missing_ok=True)
