"""What is to be measured, and the record of what was."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarking.programs import PARTS, PROGRAMS
from igspad_jax.errors import InputError
from igspad_jax.files import read_json, write_json

# On a GPU and on a CPU: Gaussians, pixels, images at once, programs.
_GPU = ((20_000, 100_000, 500_000), (400, 800), (1, 16), ("xla", "mosaic", "gsplat", "splax"))
_CPU = ((5_000, 20_000, 50_000), (128, 256, 400), (1,), tuple(PROGRAMS))


class Key(NamedTuple):
    """One cell."""

    program: str
    part: str
    count: int
    size: int
    batch: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """The grid, and how it is measured.

    Attributes:
        counts: numbers of Gaussians.
        sizes: widths of the square images in pixels.
        batches: images at once.
        parts: among `PARTS`.
        programs: among `PROGRAMS`.
        repeats: timed runs of each cell.
        seed: of the scene.
        timeout: seconds to wait for one cell.
        out: JSON file; the plot and what programs are compared with lie beside it.
    """

    counts: tuple[int, ...]
    sizes: tuple[int, ...]
    batches: tuple[int, ...]
    parts: tuple[str, ...]
    programs: tuple[str, ...]
    repeats: int
    seed: int
    timeout: float
    out: Path

    def places(self) -> list[tuple[int, int, int]]:
        """(count, size, batch), the small ones first."""
        return [(n, s, b) for n in self.counts for s in self.sizes for b in self.batches]

    def parts_of(self, program: str) -> list[str]:
        """The parts that a program is measured on."""
        able = PROGRAMS[program].parts
        return [part for part in PARTS if part in self.parts and part in able]

    def references(self, count: int, size: int, batch: int) -> Path:
        """The folder of the XLA path's results in one place of the grid."""
        folder = self.out.parent / f"{self.out.stem}-xla"
        return folder / f"{count}x{size}x{batch}-seed{self.seed}"


def make_plan(
    given: Mapping[str, Sequence[str] | None],
    *,
    on_gpu: bool,
    repeats: int,
    seed: int,
    timeout: float,
    out: Path,
) -> Plan:
    """A plan from the words of the command line.

    Args:
        given: "counts", "sizes", "batches", "parts" and "programs"; None takes what suits the
            machine.
        on_gpu: whether there is one.
        repeats: this and what follows as in `Plan`.
        seed: see there.
        timeout: see there.
        out: see there.

    Raises:
        InputError: no number, or no such part or program.
    """
    counts, sizes, batches, programs = _GPU if on_gpu else _CPU
    return Plan(
        counts=_numbers("counts", given["counts"]) or counts,
        sizes=_numbers("sizes", given["sizes"]) or sizes,
        batches=_numbers("batches", given["batches"]) or batches,
        parts=_names("parts", given["parts"], PARTS) or tuple(PARTS),
        programs=_names("programs", given["programs"], PROGRAMS) or programs,
        repeats=repeats,
        seed=seed,
        timeout=timeout,
        out=out,
    )


def _numbers(flag: str, words: Sequence[str] | None) -> tuple[int, ...]:
    if words is None:
        return ()
    try:
        numbers = {int(word) for word in words}
    except ValueError:
        numbers = set()
    if min(numbers, default=0) < 1:
        raise InputError(f"--{flag}={','.join(words)}: give positive integers, as in --{flag}=1,16")
    return tuple(sorted(numbers))


def _names(flag: str, words: Sequence[str] | None, known: Mapping[str, Any]) -> tuple[str, ...]:
    if words is None:
        return ()
    for word in words or ["nothing"]:
        if word not in known:
            raise InputError(f"--{flag}: {word!r} is none of {', '.join(known)}")
    return tuple(name for name in known if name in words)


class Record:
    """The JSON file of a benchmark.

    Attributes:
        content: "machine", "settings" (repeats and seed), "absent" (why, by program) and "cells":
            each with its key's five entries and what was measured there, or an "error".
    """

    def __init__(self, plan: Plan, machine: Mapping[str, Any], *, overwrite: bool):
        """Opens the file, or begins one.

        Raises:
            InputError: what is there was measured otherwise, and is not to be overwritten.
        """
        self._path = plan.out
        header = {
            "machine": dict(machine),
            "settings": {"repeats": plan.repeats, "seed": plan.seed},
        }
        self.content: dict[str, Any] = {**header, "absent": {}, "cells": []}
        if not self._path.exists():
            return
        old = read_json(self._path, "delete it, or give another --out")
        if all(old.get(name) == value for name, value in header.items()):
            self.content = old
        elif not overwrite:
            what = next(name for name, value in header.items() if old.get(name) != value)
            raise InputError(
                f"{self._path}: measured with another {what} ({old.get(what)}, now "
                f"{header[what]}); give another --out, or --overwrite to begin anew"
            )

    def cell(self, key: Key) -> dict[str, Any] | None:
        """What was measured; None if nothing was, or it failed."""
        found = self._find(key)
        return None if found is None or "error" in found else found

    def put(self, key: Key, measured: Mapping[str, Any]) -> dict[str, Any]:
        """Keeps a cell in place of what was there, and writes the file."""
        cell = {**key._asdict(), **measured}
        old = self._find(key)
        if old is None:
            self.content["cells"].append(cell)
        else:
            self.content["cells"][self.content["cells"].index(old)] = cell
        self.write()
        return cell

    def write(self) -> None:
        """Writes the file."""
        write_json(self._path, self.content)

    def _find(self, key: Key) -> dict[str, Any] | None:
        entries = key._asdict().items()
        for cell in self.content["cells"]:
            if all(cell[name] == value for name, value in entries):
                return cell
        return None
