"""The cells of a benchmark as lines and tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarking.programs import PARTS, PROGRAMS
from benchmarking.targets import targets
from igspad_jax.evaluate.tables import Table

_NONE = "-"
_ERRORS = {"degrees": "degrees off", "percent": "% off"}
_HEADINGS = (
    ("part", 9), ("program", 8), ("Gaussians", 10), ("pixels", 7), ("batch", 6), ("ms", 10),
    ("least", 10), ("spread", 9), ("CPU ms", 10), ("compile s", 10), ("MB", 8), ("roofline", 9),
    ("as XLA", 9),
)  # fmt: skip


def number(value: float | None) -> str:
    """Three digits or so; "-" for none."""
    if value is None:
        return _NONE
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _agreement(cell: Mapping[str, Any]) -> str:
    return {None: _NONE, True: "yes", False: "NO"}[cell["agrees"]]


def _line(words: Sequence[str]) -> str:
    widths = (width for _, width in _HEADINGS)
    return "".join(word.rjust(width) for word, width in zip(words, widths, strict=True))


def heading() -> str:
    """Above the lines of cells; times are milliseconds of the batch, `train`'s of one step."""
    return _line([name for name, _ in _HEADINGS])


def cell_line(cell: Mapping[str, Any]) -> str:
    """A measured cell as one line, or more where it failed or disagrees."""
    where = [cell["part"], cell["program"], *(str(cell[k]) for k in ("count", "size", "batch"))]
    if "error" in cell:
        return _line([*where, *[""] * (len(_HEADINGS) - len(where))]).rstrip() + (
            f"   FAILED: {cell['error']}"
        )
    wall, share, memory = cell["wall_ms"], cell.get("roofline"), cell["memory_bytes"]
    line = _line(
        [
            *where,
            number(wall["median"]),
            number(wall["least"]),
            number(wall["spread"]),
            number(cell["cpu_ms"]["median"]),
            f"{cell['compile_s']:.1f}",
            _NONE if memory is None else number(memory / 1e6),
            _NONE if share is None else f"{100 * share:.0f} %",
            _agreement(cell),
        ]
    )
    told = (f"{name} {cell[name]}" for name in ("matcher", "features") if name in cell)
    errors = (f"{cell[k]:.2g} {unit}" for k, unit in _ERRORS.items() if cell.get(k) is not None)
    line = "   ".join([line, *told, *errors])
    if cell["agrees"] is False:
        apart = (
            f"{name} {' '.join(f'{k} {v:.1e}' for k, v in found.items() if v is not None)}"
            for name, found in cell["differences"].items()
        )
        line += f"\n!!! {cell['program']} DISAGREES with the XLA path: {'; '.join(apart)}"
    return line


def clock_of(platform: str) -> str:
    """The clock that tells most: other work on a machine disturbs a CPU's own time least."""
    return "wall_ms" if platform == "gpu" else "cpu_ms"


def tables(cells: Sequence[Mapping[str, Any]], clock: str) -> list[Table]:
    """A table for each part, with a column for each program; median milliseconds an image.

    Args:
        cells: of a benchmark.
        clock: see `clock_of`.
    """
    found = []
    for part, what in PARTS.items():
        own = [cell for cell in cells if cell["part"] == part]
        programs = [name for name in PROGRAMS if any(cell["program"] == name for cell in own)]
        places = sorted({(cell["count"], cell["size"], cell["batch"]) for cell in own})
        by = {(c["program"], c["count"], c["size"], c["batch"]): c for c in own}
        rows = [
            (
                str(place[0]),
                *map(str, place[1:]),
                *(_short(by.get((p, *place)), clock) for p in programs),
            )
            for place in places
        ]
        if rows:
            columns = ("Gaussians", "pixels", "batch", *programs)
            unit = "CPU ms" if clock == "cpu_ms" else "ms"
            found.append(Table(f"{part}, {unit} an image: {what}", columns, tuple(rows)))
    return found


def _short(cell: Mapping[str, Any] | None, clock: str) -> str:
    if cell is None or "error" in cell:
        return _NONE if cell is None else "failed"
    # A training step sees the batch at once, as everything else does.
    ms = number(cell[clock]["median"] / cell["batch"])
    return f"{ms} (disagrees)" if cell["agrees"] is False else ms


def dssim_table(cells: Sequence[Mapping[str, Any]], clock: str) -> Table | None:
    """How much of a training step D-SSIM takes; None where not both were measured."""
    parts = {
        part: {
            (c["program"], c["count"], c["size"], c["batch"]): c[clock]["median"]
            for c in cells
            if c["part"] == part and "error" not in c
        }
        for part in ("train", "dssim")
    }
    both = sorted(parts["train"].keys() & parts["dssim"].keys())
    rows = tuple(
        (*map(str, key), f"{100 * parts['dssim'][key] / parts['train'][key]:.0f} %") for key in both
    )
    columns = ("program", "Gaussians", "pixels", "batch", "share")
    return Table("share of D-SSIM in a training step", columns, rows) if rows else None


def targets_table(cells: Sequence[Mapping[str, Any]]) -> Table:
    """The five targets."""
    rows = tuple((t.text, t.figure or _NONE, t.state) for t in targets(cells))
    return Table("targets, for an H100", ("target", "measured", "state"), rows)
