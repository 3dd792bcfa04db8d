"""Inspecting files: a line or a JSON object for each photograph, and its picture."""

import dataclasses
import functools
import gc
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from igspad_jax.data import images_in, read_image, write_image
from igspad_jax.errors import InputError
from igspad_jax.files import plain
from igspad_jax.inspector import Inspection, Inspector, Verdict
from igspad_jax.networks.weights import Sources
from igspad_jax.progress import progress_bar
from igspad_jax.report.overlay import overlay
from igspad_jax.workers import run_tasks

_CHUNK = 16  # photographs that a worker gets at once


def inspect_photographs(
    folder: Path,
    names: Sequence[str],
    sources: Sources,
    *,
    rate: float | None = None,
    pictures: Path | None = None,
    as_json: bool = False,
    cluster: str | None = None,
) -> int:
    """Inspect photographs and print what is found.

    Args:
        folder: of a calibrated object, or of the run that made it.
        names: files, folders, or "-" for a list on standard input.
        sources: of weights that are not the usual ones.
        rate: promised false-alarm rate; None as calibrated.
        pictures: folder for a picture of each photograph.
        as_json: whether to print JSON.
        cluster: as for `run_tasks`.

    Returns:
        The exit status: 0 all pass, 1 one fails, 3 none fails but one is not judged, 2 one cannot
        be read.

    Raises:
        InputError: for an object that cannot be used, or if no photograph is named.
    """
    files = _files(names)
    load = functools.partial(_inspector, str(folder), tuple(sources.items()), rate)
    inspector = load()
    logging.info("%s", inspector.calibration.statement(inspector.config.calibrate.false_alarm_rate))
    places = _places(files, pictures) if pictures else {}
    verdicts: list[Verdict | None] = []
    size = _CHUNK if cluster else inspector.batch
    chunks = [files[first : first + size] for first in range(0, len(files), size)]
    with progress_bar(len(files) if len(files) > 1 else 0, "inspect", "image") as bar:
        for chunk, outcome in run_tasks(functools.partial(_inspected, load), chunks, cluster):
            if isinstance(outcome, InputError):  # of all its files
                outcome = [(None, outcome)] * len(chunk)
            for path, (image, result) in zip(chunk, outcome, strict=True):
                with bar.external_write_mode():
                    print(_json(path, result) if as_json else _line(path, result), flush=True)
                if isinstance(result, Inspection) and path in places:
                    write_image(places[path], overlay(image, result))
                verdicts.append(result.verdict if isinstance(result, Inspection) else None)
                bar.update()
    return _status(verdicts)


@functools.cache  # once a process, also a worker's
def _inspector(folder: str, sources: tuple[tuple[str, str], ...], rate: float | None) -> Inspector:
    # Compiling makes many objects that stay: to look for garbage among them takes long.
    gc.set_threshold(200_000, 50, 50)
    inspector = Inspector.load(folder, dict(sources))
    if rate is not None:
        calibrate = dataclasses.replace(inspector.config.calibrate, false_alarm_rate=rate)
        inspector.config = dataclasses.replace(inspector.config, calibrate=calibrate)
    return inspector


def _files(names: Sequence[str]) -> list[Path]:
    """The image files that are named: files, folders, or "-" for a list on standard input."""
    files: list[Path] = []
    for name in names:
        if name == "-":
            files += [Path(line) for line in sys.stdin.read().splitlines() if line.strip()]
        elif Path(name).is_dir():
            files += images_in(Path(name))
        else:
            files.append(Path(name))
    if not files:
        raise InputError("no photograph is given: name files or folders, or - to read a list")
    return list(dict.fromkeys(files))


def _places(files: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Where the picture of each file goes; names that several files share get a number."""
    folder.mkdir(parents=True, exist_ok=True)
    places: dict[Path, Path] = {}
    taken: set[str] = set()
    for path in files:
        names = itertools.chain([path.stem], (f"{path.stem}-{i}" for i in itertools.count(2)))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        places[path] = folder / f"{name}.png"
    return places


def _inspected(
    load: Callable[[], Inspector], files: Sequence[Path]
) -> list[tuple[Any, Inspection | InputError]]:
    """Each file's pixels and its inspection; nothing and the reason where it has none."""
    inspector = load()
    read: list[Any] = []
    for path in files:
        try:
            read.append(inspector.read(read_image(path), str(path)))
        except InputError as error:
            read.append(error)
    results = inspector.inspect_read([one for one in read if not isinstance(one, InputError)])
    return [
        (None, one) if isinstance(one, InputError) else (one.pixels[..., :3], next(results))
        for one in read
    ]


def _line(path: Path, result: Inspection | InputError) -> str:
    if isinstance(result, InputError):
        return f"{path}: ERROR: {result}"
    line = f"{path}: {result.verdict}"
    if result.doubts:
        return f"{line}: {'; '.join(result.doubts)}"
    line += f", p = {result.p_value:.3g}, score {result.score:.4g}, limit {result.threshold:.4g}"
    for region in result.regions:
        left, top, width, height = region.box
        line += f"; {region.area} px at {left},{top} ({width} x {height})"
    return line


def _json(path: Path, result: Inspection | InputError) -> str:
    content: dict[str, Any] = {"file": str(path)}
    if isinstance(result, InputError):
        content["error"] = str(result)
    else:
        content |= result.as_json()
    return json.dumps(plain(content), ensure_ascii=False)


def _status(verdicts: list[Verdict | None]) -> int:
    """The exit status for verdicts; None stands for a file that could not be read."""
    if None in verdicts:
        return 2
    if Verdict.FAIL in verdicts:
        return 1
    return 3 if Verdict.UNSURE in verdicts else 0
