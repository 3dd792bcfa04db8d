"""The process of one program: measures parts of one cell of the grid, and tells each at once.

    python -m benchmarking.child JOB

JOB is JSON. `null` only tells what the machine is. Every answer is a line of standard output that
begins with `MARK`; libraries may print what they like around them.
"""

import importlib
import json
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging

from benchmarking import agreement, roofline
from benchmarking.programs import COMPARED, PROGRAMS, REFERENCE, is_hopper
from benchmarking.scenes import Scene, make_scene
from benchmarking.timing import measure
from igspad_jax.files import write_json
from igspad_jax.machine import machine

MARK = "@benchmark "


def probe() -> dict[str, Any]:
    """The machine: `machine()`, and JAX's "platform" and whether it is "hopper" or newer."""
    return {**machine(), "platform": jax.default_backend(), "hopper": is_hopper()}


def _tell(answer: Mapping[str, Any]) -> None:
    print(MARK + json.dumps(answer), flush=True)


def reference_file(folder: Path, part: str) -> Path:
    """Where the XLA path's arrays of a part are kept."""
    return folder / f"{part}.npz"


def _keep_reference(adapter: Any, part: str, scene: Scene, checked: Mapping, folder: Path) -> None:
    more = {}
    if part == "pose":
        more["viewmats"] = adapter.viewmat_gradient(scene)
    agreement.save_reference(reference_file(folder, part), {**checked, **more})


def _bounded(part: str, folder: Path, device: str, wall_ms: float) -> dict[str, Any]:
    """The roofline's part of a record; nothing where the work was not counted."""
    counted = folder / "work.json"
    if not counted.exists():
        return {}
    work = roofline.Work(**json.loads(counted.read_text()))
    bound = roofline.bound(part, work, device)
    found: dict[str, Any] = {"pairs": work.pairs}
    if bound:
        found |= {"bound_ms": bound.ms, "limit": bound.limit, "roofline": bound.ms / wall_ms}
    return found


def _measured(job: Mapping[str, Any], part: str, scene: Scene) -> dict[str, Any]:
    """The record of one part; empty if it only was to be a reference."""
    program, folder = PROGRAMS[job["program"]], Path(job["folder"])
    adapter: Any = importlib.import_module(program.adapter)
    if job["repeats"] is None:
        prepared = adapter.prepare(part, scene)
        _keep_reference(adapter, part, scene, prepared.checked(prepared.run()), folder)
        return {}
    record, checked = measure(
        lambda: adapter.prepare(part, scene), adapter.peak_bytes, job["repeats"]
    )
    if program.name == REFERENCE:
        if part in COMPARED:
            _keep_reference(adapter, part, scene, checked, folder)
        reference = {}
    else:
        reference = agreement.load_reference(reference_file(folder, part))
    tolerance = agreement.OURS if program.ours else agreement.PEERS
    record |= agreement.compare(checked, reference, tolerance)
    record |= _bounded(part, folder, job["device"], record["wall_ms"]["median"])
    return {**record, "versions": adapter.versions()}


def run_job(job: Mapping[str, Any]) -> None:
    """Measures the parts of a job in order, up to the first that fails.

    After a failure the device may be of no use to this process any more.

    Args:
        job: "program", "parts", "count", "size", "batch", "seed", "device", "repeats", None to
            run parts once for their results alone, and "folder", where the XLA path's are kept.
    """
    scene = make_scene(job["count"], job["size"], job["batch"], job["seed"])
    if job["program"] == REFERENCE:
        # Not above: processes of peers import nothing of ours that they do not run.
        from benchmarking.ours import work

        write_json(Path(job["folder"]) / "work.json", work(scene)._asdict())
    for part in job["parts"]:
        try:
            _tell({"part": part, **_measured(job, part, scene)})
        except Exception as error:  # whatever a program's libraries raise is a cell's result
            traceback.print_exc()
            lines = str(error).splitlines() or [""]
            _tell({"part": part, "error": f"{type(error).__name__}: {lines[0]}"})
            sys.exit(1)


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    asked = json.loads(sys.argv[1])
    _tell(probe()) if asked is None else run_job(asked)
