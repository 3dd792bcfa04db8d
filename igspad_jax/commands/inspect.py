"""Inspects photographs of a trained object: is it defective, and where?

    igspad-inspect --object=runs/duck photo.jpg more/photos
    ls photos/*.jpg | igspad-inspect --object=runs/duck --json -

Prints a line for each photograph, or with --json an object a line. With --out=FOLDER it draws each
photograph with its heat map and the regions' boxes. The photographs need no pose, but the camera
and the proportions of the training images; larger ones are shrunk.

Exit status: 0 all pass, 1 one fails, 3 none fails but one cannot be judged, 2 an error; a
photograph that cannot be read stops no other.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from igspad_jax.data import images_in, read_image, write_image
from igspad_jax.errors import InputError
from igspad_jax.files import plain
from igspad_jax.inspector import Inspection, Inspector, Verdict
from igspad_jax.launch import launch
from igspad_jax.networks.weights import parse_sources
from igspad_jax.progress import progress_bar
from igspad_jax.report.overlay import overlay
from igspad_jax.workers import CLUSTER_HELP, run_tasks

_CHUNK = 16  # photographs that a worker gets at once

_OBJECT = flags.DEFINE_string(
    "object", None, "Folder of a calibrated object, or of the run that made it; needed."
)
_OUT = flags.DEFINE_string("out", None, "Folder for a picture of each photograph.")
_JSON = flags.DEFINE_bool("json", False, "Print an object of JSON a line.")
_RATE = flags.DEFINE_float(
    "false_alarm_rate",
    None,
    "Share of normal photographs that may fail; as calibrated if not given.",
    lower_bound=1e-6,
    upper_bound=0.5,
)
_WEIGHTS = flags.DEFINE_string(
    "weights", "", "NAME=SOURCE,...: weights that are not where fetch_weights.py puts them."
)
_RAY = flags.DEFINE_string("ray", None, CLUSTER_HELP)


def main(*arguments: str) -> None:
    """Inspect the files that the command line names."""
    if not _OBJECT.value:
        raise InputError("--object is missing: give the folder of a calibrated object")
    files = _files(arguments)
    load = functools.partial(_inspector, _OBJECT.value, _WEIGHTS.value, _RATE.value)
    inspector = load()
    logging.info("%s", inspector.calibration.statement(inspector.config.calibrate.false_alarm_rate))
    pictures = _pictures(files) if _OUT.value else {}
    verdicts: list[Verdict | None] = []
    size = _CHUNK if _RAY.value else inspector.batch
    chunks = [files[first : first + size] for first in range(0, len(files), size)]
    with progress_bar(len(files) if len(files) > 1 else 0, "inspect", "image") as bar:
        for chunk, outcome in run_tasks(functools.partial(_inspected, load), chunks, _RAY.value):
            if isinstance(outcome, InputError):  # of all its files
                outcome = [(None, outcome)] * len(chunk)
            for path, (image, result) in zip(chunk, outcome, strict=True):
                with bar.external_write_mode():
                    print(_json(path, result) if _JSON.value else _line(path, result), flush=True)
                if isinstance(result, Inspection) and path in pictures:
                    write_image(pictures[path], overlay(image, result))
                verdicts.append(result.verdict if isinstance(result, Inspection) else None)
                bar.update()
    sys.exit(_status(verdicts))


@functools.cache  # once a process, also a worker's
def _inspector(folder: str, weights: str, rate: float | None) -> Inspector:
    # Compiling makes many objects that stay: to look for garbage among them takes long.
    gc.set_threshold(200_000, 50, 50)
    inspector = Inspector.load(folder, parse_sources(weights))
    if rate is not None:
        calibrate = dataclasses.replace(inspector.config.calibrate, false_alarm_rate=rate)
        inspector.config = dataclasses.replace(inspector.config, calibrate=calibrate)
    return inspector


def _files(arguments: tuple[str, ...]) -> list[Path]:
    """The image files that the arguments name: files, folders, or "-" for a list on stdin."""
    files: list[Path] = []
    for argument in arguments:
        if argument == "-":
            files += [Path(line) for line in sys.stdin.read().splitlines() if line.strip()]
        elif Path(argument).is_dir():
            files += images_in(Path(argument))
        else:
            files.append(Path(argument))
    if not files:
        raise InputError("no photograph is given: name files or folders, or - to read a list")
    return list(dict.fromkeys(files))


def _pictures(files: list[Path]) -> dict[Path, Path]:
    """Where the picture of each file goes; names that several files share get a number."""
    folder = Path(_OUT.value or "")
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
    """Each file's image and its inspection, or why it has none, twice."""
    inspector = load()
    read: list[Any] = []
    for path in files:
        try:
            read.append(inspector.read(read_image(path), str(path)))
        except InputError as error:
            read.append(error)
    results = inspector.inspect([image for image in read if not isinstance(image, InputError)])
    return [(one, one if isinstance(one, InputError) else next(results)) for one in read]


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


def run() -> None:
    """Run the command."""
    launch(main, arguments="photographs")


if __name__ == "__main__":
    run()
