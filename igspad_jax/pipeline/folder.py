"""The folder of one category's run: what lies where, and which stages are done.

    scene.ply               the scene, for viewers
    training.json           settings the training was begun with
    checkpoints/            of the training
    train.json              measurements of the training, the object's place and size
    poses.json              initial and estimated pose of every test image
    losses.npz              loss curves of the inversions
    features/               of the training images, for matching
    inverting/              batches of an inversion that is not finished
    detect.json             image scores
    maps/VARIANT/NAME.npy   float32 anomaly maps
    metrics.json            see docs/metrics.md

A stage's JSON file is written last and in one step, so it is there exactly when the stage is done.
It repeats the settings it was made with.

Of several processes only the first touches the folder, and tells the others what is in it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from igspad_jax.devices import on_first
from igspad_jax.errors import InputError
from igspad_jax.files import read_json, write_json, write_whole
from igspad_jax.pipeline.settings import first_difference

# The stages by the names of their files, and the scripts that run them.
_SCRIPTS = {"train": "train", "poses": "invert", "detect": "detect", "metrics": "evaluate"}
STAGES = tuple(_SCRIPTS)


class RunFolder:
    """One category's part of a run."""

    def __init__(self, root: Path):
        self.root = root

    @property
    def scene(self) -> Path:
        """The scene's .ply file."""
        return self.root / "scene.ply"

    @property
    def checkpoints(self) -> Path:
        """The folder of training checkpoints."""
        return self.root / "checkpoints"

    @property
    def losses(self) -> Path:
        """The loss curves of the inversions, [images, steps]."""
        return self.root / "losses.npz"

    @property
    def features(self) -> Path:
        """The folder of the training images' keypoints."""
        return self.root / "features"

    @property
    def _inverting(self) -> Path:
        return self.root / "inverting"

    @on_first
    def start_inverting(self, made_with: Any) -> None:
        """Keeps the finished batches of an inversion with the same settings, and no others."""
        note = self._inverting / "made_with.json"
        try:
            same = first_difference(json.loads(note.read_text()), made_with) is None
        except (OSError, ValueError):
            same = False
        if not same:
            self.end_inverting()
            write_json(note, made_with)

    @on_first
    def end_inverting(self) -> None:
        """Forgets the batches of an inversion."""
        shutil.rmtree(self._inverting, ignore_errors=True)

    @on_first
    def save_batch(self, first: int, arrays: Mapping[str, Any]) -> None:
        """Writes the results of the batch that begins with image `first`."""
        path = self._inverting / f"{first}.npz"
        write_whole(path, lambda file: np.savez(file, **arrays))

    @on_first
    def load_batch(self, first: int) -> dict[str, np.ndarray] | None:
        """The results of a finished batch; None where it is to do."""
        try:
            with np.load(self._inverting / f"{first}.npz") as file:
                return dict(file)
        except FileNotFoundError:
            return None

    def map_path(self, variant: str, name: str) -> Path:
        """The anomaly map of a test image ("Burrs/3") in a variant of the run."""
        return self.root / "maps" / variant / f"{name}.npy"

    @on_first
    def save_map(self, variant: str, name: str, heat_map: np.ndarray) -> None:
        """Writes an anomaly map [h, w] as float32."""
        values = heat_map.astype(np.float32)
        write_whole(self.map_path(variant, name), lambda file: np.save(file, values))

    @on_first
    def load_map(self, variant: str, name: str) -> np.ndarray:
        """Reads an anomaly map.

        Raises:
            InputError: if it is missing or cut short.
        """
        path = self.map_path(variant, name)
        try:
            return np.load(path)
        except (OSError, ValueError, EOFError) as error:
            raise self.damaged(path, "detect", error) from error

    def stage_path(self, stage: str) -> Path:
        """The JSON file that says a stage is done."""
        return self.root / f"{stage}.json"

    @on_first
    def finish(self, stage: str, made_with: Any, result: dict) -> None:
        """Records that a stage is done, with the settings it was made with."""
        write_json(self.stage_path(stage), {"made_with": made_with, **result})

    @on_first
    def load(self, stage: str) -> dict:
        """What a finished stage recorded.

        Raises:
            InputError: if the stage is not done or its file cannot be read.
        """
        path = self.stage_path(stage)
        if not path.is_file():
            raise InputError(f"{path} is not there: run scripts/{_SCRIPTS[stage]}.py first")
        return read_json(path, self._remedy(stage))

    def damaged(self, path: Path, stage: str, error: Exception) -> InputError:
        """The error for a file of a stage that cannot be read."""
        return InputError(f"{path}: cannot be read ({error}); {self._remedy(stage)}")

    def _remedy(self, stage: str) -> str:
        return f"delete {self.stage_path(stage)} and run scripts/{_SCRIPTS[stage]}.py again"

    @on_first
    def require(self, stage: str, concerned: Mapping[str, Any]) -> None:
        """Checks that a stage is done, with settings that hold `concerned`.

        Raises:
            InputError: if it is not.
        """
        made_with = self.load(stage).get("made_with", {})
        difference = first_difference({key: made_with.get(key) for key in concerned}, concerned)
        if difference:
            raise InputError(
                f"{self.stage_path(stage)} was made with other settings: {difference}; give the "
                f"same ones here, or run scripts/{_SCRIPTS[stage]}.py with --overwrite"
            )

    @on_first
    def is_done(self, stage: str, made_with: Any, *, overwrite: bool) -> bool:
        """Whether a stage is done with these settings.

        Raises:
            InputError: if it was done with others and `overwrite` is off.
        """
        if not self.stage_path(stage).is_file():
            return False
        difference = first_difference(self.load(stage).get("made_with"), made_with)
        if difference is None:
            return True
        if not overwrite:
            raise InputError(
                f"{self.stage_path(stage)} was made with other settings: {difference}; choose "
                "another --run folder, or give --overwrite to replace it and what follows from it"
            )
        return False

    @on_first
    def start_training(self, made_with: Any, *, overwrite: bool) -> None:
        """Makes ready to train: checkpoints of other settings must not be resumed.

        Raises:
            InputError: if there are such checkpoints and `overwrite` is off.
        """
        note = self.root / "training.json"
        if note.is_file():
            started_with = read_json(note, f"delete {self.checkpoints} to train afresh")
            difference = first_difference(started_with, made_with)
            if difference and not overwrite:
                raise InputError(
                    f"{self.checkpoints} was begun with other settings: {difference}; choose "
                    "another --run folder, or give --overwrite to train afresh"
                )
            if difference:
                shutil.rmtree(self.checkpoints, ignore_errors=True)
        self.start("train")
        write_json(note, made_with)

    @on_first
    def start(self, stage: str) -> None:
        """Forgets a stage and all that follow from it."""
        for later in STAGES[STAGES.index(stage) :]:
            self.stage_path(later).unlink(missing_ok=True)
        if stage in ("train", "poses", "detect"):
            shutil.rmtree(self.root / "maps", ignore_errors=True)
        self.root.mkdir(parents=True, exist_ok=True)
