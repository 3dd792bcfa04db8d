"""Running a plan: the programs one after the other in every place of the grid."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarking.child import reference_file
from benchmarking.plan import Key, Plan, Record
from benchmarking.processes import ask
from benchmarking.programs import COMPARED, PROGRAMS, REFERENCE, absence
from igspad_jax.errors import InputError
from igspad_jax.progress import progress_bar

_PROBE_SECONDS = 300.0


def find_machine() -> dict[str, Any]:
    """What this machine is; in a process of its own, since JAX would keep a GPU's memory.

    Raises:
        InputError: JAX does not start.
    """
    # Whatever the user insists on, the device decides what can run.
    (*_, answer) = ask(None, {"IGSPAD_JAX_COMPOSITOR": ""}, _PROBE_SECONDS)
    if "error" in answer:
        raise InputError(f"JAX does not start on this machine: {answer['error']}")
    return answer


def run(
    plan: Plan,
    record: Record,
    *,
    overwrite: bool,
    say: Callable[[str], None],
    on_cell: Callable[[dict[str, Any]], None],
) -> None:
    """Measures what is not measured yet, and keeps every cell at once.

    Args:
        plan: the grid.
        record: where the cells go.
        overwrite: whether to measure finished cells again.
        say: takes what the user should read.
        on_cell: takes every cell that was measured now.
    """
    device = record.content["machine"]
    absent = {name: absence(PROGRAMS[name], device) for name in plan.programs}
    record.content["absent"] = {name: reason for name, reason in absent.items() if reason}
    record.write()
    for name, reason in record.content["absent"].items():
        say(f"{name} is left out: {reason}")
    present = [name for name in plan.programs if not absent[name]]
    wanted: dict[tuple[int, int, int], dict[str, list[str]]] = {}
    for place in plan.places():
        for name in present:
            keys = [Key(name, part, *place) for part in plan.parts_of(name)]
            left = [key.part for key in keys if overwrite or record.cell(key) is None]
            if left:
                wanted.setdefault(place, {})[name] = left
    if overwrite:
        # What others are compared with may be of another day's code.
        for place in wanted:
            for part in COMPARED:
                reference_file(plan.references(*place), part).unlink(missing_ok=True)
    total = sum(len(parts) for jobs in wanted.values() for parts in jobs.values())
    with progress_bar(total, "benchmark", "cell") as bar:
        for place, jobs in wanted.items():
            for name, parts in jobs.items():
                bar.set_postfix_str("{} at {}x{}, batch {}".format(name, *place))
                _make_references(plan, place, name, parts, device, say)
                for part, measured in _answers(plan, place, name, parts, device, plan.repeats):
                    on_cell(record.put(Key(name, part, *place), measured))
                    bar.update()


def _answers(
    plan: Plan,
    place: tuple[int, int, int],
    name: str,
    parts: Sequence[str],
    device: Mapping[str, Any],
    repeats: int | None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each part with its record or {"error": why}; after a failure a new process goes on."""
    count, size, batch = place
    left = list(parts)
    while left:
        job = {
            "program": name,
            "parts": left,
            "count": count,
            "size": size,
            "batch": batch,
            "seed": plan.seed,
            "repeats": repeats,
            "device": device["device"],
            "folder": str(plan.references(*place)),
        }
        before = len(left)
        for answer in ask(job, PROGRAMS[name].environment, plan.timeout):
            # A process that ends without a word was at the next part.
            part = left[0]
            left = left[1:]
            yield part, {key: value for key, value in answer.items() if key != "part"}
            if not left:
                break
        if len(left) == before:
            raise RuntimeError(f"{name} ended without a word on {', '.join(left)}")


def _make_references(
    plan: Plan,
    place: tuple[int, int, int],
    name: str,
    parts: Sequence[str],
    device: Mapping[str, Any],
    say: Callable[[str], None],
) -> None:
    """Runs the XLA path on what another program is to be compared in, where that was not done."""
    folder = plan.references(*place)
    missing = [p for p in parts if p in COMPARED and not reference_file(folder, p).exists()]
    if name == REFERENCE or not missing:
        return
    for part, answer in _answers(plan, place, REFERENCE, missing, device, None):
        if "error" in answer:
            say(f"{part} of {name} cannot be compared: the XLA path failed ({answer['error']})")
