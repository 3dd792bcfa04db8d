"""The grid of an experiment: every method from every start, with what it cost."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.methods import config_of, relevant_settings
from experiments.starts import Level, start
from experiments.store import load_result, save_result
from experiments.subjects import Source, Subject, Trial
from igspad_jax.cameras import pose_errors
from igspad_jax.invert import Inversion, invert
from igspad_jax.match import OpenCVMatcher, matched_points
from igspad_jax.normal_object import NormalObject
from igspad_jax.progress import progress_bar
from igspad_jax.render import Capacity
from igspad_jax.settings import InvertConfig


class Cell(NamedTuple):
    """One combination of the grid."""

    source: Source
    level: Level
    sampling: bool
    method: str

    @property
    def key(self) -> str:
        """Names the cell's file."""
        sampling = "mps" if self.sampling else "whole"
        return (
            f"{self.source}-{self.level.degrees:g}-{self.level.percent:g}-{sampling}-{self.method}"
        )


def grid(
    sources: Sequence[Source],
    levels: Sequence[Level],
    samplings: Sequence[bool],
    methods: Sequence[str],
) -> list[Cell]:
    """All combinations, the smallest errors first."""
    return [Cell(*values) for values in itertools.product(sources, levels, samplings, methods)]


class Clock:
    """The seconds that pass between the steps of an inversion.

    Attributes:
        times: (steps done, CPU seconds, wall seconds) since the beginning.
    """

    def __init__(self):
        self._began = time.process_time(), time.perf_counter()
        self.times = [(0, 0.0, 0.0)]

    def spent(self) -> tuple[float, float]:
        """CPU and wall seconds since the beginning."""
        cpu, wall = self._began
        return time.process_time() - cpu, time.perf_counter() - wall

    def on_step(self, steps: int) -> None:
        """Record that `steps` more steps are done."""
        self.times.append((self.times[-1][0] + steps, *self.spent()))


class Bench:
    """Runs inversions of one subject, and measures them free of compilation.

    A compiled program depends on the capacity of its renders. An image that asks for more gets it,
    and is then run once more for the time; the next image has the old capacity again, so that what
    one image costs does not depend on the others.
    """

    def __init__(self, subject: Subject):
        self._model = subject.model
        self._match = functools.partial(matched_points, OpenCVMatcher())
        self._compiled: dict[InvertConfig, list[int]] = {}

    def run(
        self, trial: Trial, initial: np.ndarray, config: InvertConfig
    ) -> tuple[Inversion, Clock, tuple[float, float]]:
        """Inverts one image.

        Args:
            trial: the image.
            initial: [4, 4] pose to start from.
            config: how.

        Returns:
            The result, the clock of its steps, and the CPU and wall seconds it took.
        """
        capacities = _capacities(self._model, config)
        programs = dataclasses.replace(config, sampling=False)  # not compiled in
        if programs not in self._compiled:
            # From the true pose, where nothing diverges and asks for ever more slots.
            self._invert(trial, trial.viewmat, _shortened(config))
            self._compiled[programs] = [capacity.slots for capacity in capacities]
        for capacity, slots in zip(capacities, self._compiled[programs], strict=True):
            capacity.slots = slots
        while True:
            before = [capacity.slots for capacity in capacities]
            clock = Clock()
            found = self._invert(trial, initial, config, clock)
            spent = clock.spent()
            if [capacity.slots for capacity in capacities] == before:
                return found, clock, spent

    def _invert(self, trial, initial, config, clock: Clock | None = None) -> Inversion:
        return invert(
            self._model,
            trial.image[None],
            np.asarray(initial, np.float32)[None, None],
            config,
            match_points=self._match,
            on_step=clock.on_step if clock else None,
        )


def _capacities(model: NormalObject, config: InvertConfig) -> list[Capacity]:
    """The capacities of all renders that an inversion makes."""
    found = [model.capacity]
    if config.solver == "levenberg":
        levels = zip(config.levenberg.widths, config.levenberg.merge_cells, strict=True)
        views = {(width, cells): model.level(width, cells) for width, cells in levels}
        found += [v.capacity for v in views.values() if v.capacity is not model.capacity]
    return found


def _shortened(config: InvertConfig) -> InvertConfig:
    """Settings that compile the same programs with fewer steps of "adam"."""
    steps, refresh = config.adam.steps, config.adam.sampling_refresh
    adam = dataclasses.replace(config.adam, steps=min(steps, refresh + steps % refresh))
    return dataclasses.replace(config, adam=adam)


def start_of(subject: Subject, trial: Trial, level: Level, seed: int) -> np.ndarray:
    """[4, 4] the pose that every method starts from."""
    name = f"{subject.name}/{trial.name}"
    return start(trial.viewmat, level, subject.centre, seed=seed, name=name)


def run_grid(
    subject: Subject,
    cells: Sequence[Cell],
    base: InvertConfig,
    folder: Path,
    *,
    seed: int,
    overwrite: bool = False,
) -> list[dict[str, Any]]:
    """Runs all cells that are not done yet; each is written when it is done.

    Args:
        subject: the object and its images.
        cells: the combinations.
        base: settings that the methods share.
        folder: for the results, a file a cell.
        seed: of the starts.
        overwrite: whether to replace results made with other settings.

    Returns:
        A record a cell: `category`, the cell's own fields, `device`, and `images`. An image has
        the final errors in `degrees` and `percent`, `cpu_seconds` and `seconds`, the errors along
        the path in `path_degrees` and `path_percent`, and the `clock`, see `Clock.times`.

    Raises:
        InputError: for results made with other settings, if `overwrite` is off.
    """
    todo, records = [], {}
    for cell in cells:
        made_with = _made_with(subject, cell, base, seed)
        path = folder / f"{cell.key}.json"
        found = load_result(path, made_with, overwrite=overwrite)
        if found:
            records[cell] = found
        else:
            todo.append((cell, made_with, path))
    bench = Bench(subject)
    if todo:
        _grow_capacity(subject, [cell for cell, *_ in todo], seed)
    total = sum(len(subject.trials[cell.source]) for cell, *_ in todo)
    with progress_bar(total, f"poses {subject.name}", "image") as bar:
        for cell, made_with, path in todo:
            config = config_of(cell.method, base, sampling=cell.sampling)
            bar.set_postfix_str(cell.key)
            images = []
            for trial in subject.trials[cell.source]:
                images.append(_run(bench, subject, trial, cell.level, config, seed))
                bar.update()
            record = {
                "category": subject.name,
                "source": cell.source,
                "level": list(cell.level),
                "sampling": cell.sampling,
                "method": cell.method,
                "device": jax.devices()[0].platform,
                "images": images,
            }
            records[cell] = save_result(path, made_with, record)
    return [records[cell] for cell in cells]


def _made_with(subject: Subject, cell: Cell, base: InvertConfig, seed: int) -> dict[str, Any]:
    return {
        "origin": subject.origin,
        "images": [trial.name for trial in subject.trials[cell.source]],
        "seed": seed,
        "invert": relevant_settings(config_of(cell.method, base, sampling=cell.sampling)),
    }


def _grow_capacity(subject: Subject, cells: Sequence[Cell], seed: int) -> None:
    """Grow the capacity to what all the starts ask for, so that few images are run again for it."""
    poses = {
        (trial.name, cell.level): start_of(subject, trial, cell.level, seed)
        for cell in cells
        for trial in subject.trials[cell.source]
    }
    for pose in poses.values():
        subject.model.renders(pose)


def _run(
    bench: Bench, subject: Subject, trial: Trial, level: Level, config: InvertConfig, seed: int
) -> Mapping[str, Any]:
    found, clock, (cpu, wall) = bench.run(trial, start_of(subject, trial, level, seed), config)
    degrees, percent = pose_errors(found.path[0], trial.viewmat, subject.centre)
    final = pose_errors(found.viewmats[0], trial.viewmat, subject.centre)
    return {
        "name": trial.name,
        "degrees": _rounded(float(final[0])),
        "percent": _rounded(float(final[1])),
        "cpu_seconds": _rounded(cpu),
        "seconds": _rounded(wall),
        "settled": bool(found.settled[0]),
        "residual": _rounded(found.residuals[0]),
        "sampled": [_rounded(share) for share in found.sampled[0]],
        "path_degrees": [_rounded(value) for value in degrees],
        "path_percent": [_rounded(value) for value in percent],
        "clock": [(steps, *map(_rounded, times)) for steps, *times in clock.times],
    }


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
