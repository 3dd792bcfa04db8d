"""The cells of a benchmark as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from benchmarking.programs import PARTS, PROGRAMS
from igspad_jax.files import write_whole

_COLOURS = dict(zip(PROGRAMS, ("#3d8bd4", "#111111", "#d1495b", "#e07b1a", "#7a9e4b"), strict=True))
_MARKERS = "os^Dvp"
_LINES = ("-", (0, (5, 3)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
_COLUMNS = 3
_DPI = 120


def write_plot(path: Path, cells: Sequence[Mapping[str, Any]], clock: str, device: str) -> None:
    """Milliseconds an image over the number of Gaussians, a panel for each part.

    Args:
        path: a .png file.
        cells: of a benchmark; failed ones and those that disagree are left out.
        clock: see `benchmarking.tables.clock_of`.
        device: what they were measured on.
    """
    good = [c for c in cells if "error" not in c and c["agrees"] is not False]
    parts = [part for part in PARTS if any(c["part"] == part for c in good)]
    if not parts:
        return
    counts, sizes, batches = (sorted({c[k] for c in good}) for k in ("count", "size", "batch"))
    programs = [name for name in PROGRAMS if any(c["program"] == name for c in good)]
    markers = {size: _MARKERS[i % len(_MARKERS)] for i, size in enumerate(sizes)}
    lines = {batch: _LINES[i % len(_LINES)] for i, batch in enumerate(batches)}
    rows, columns = -(-len(parts) // _COLUMNS), min(len(parts), _COLUMNS)
    figure = Figure(figsize=(3.9 * columns, 3.1 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, part in zip(axes, parts, strict=False):
        for name in programs:
            for size in sizes:
                for batch in batches:
                    found = sorted(
                        (c["count"], c[clock]["median"] / batch)
                        for c in good
                        if (c["part"], c["program"], c["size"], c["batch"])
                        == (part, name, size, batch)
                    )
                    if found:
                        style = {"color": _COLOURS[name], "marker": markers[size], "ms": 5}
                        style |= {"ls": lines[batch], "lw": 1.4, "mfc": "none"}
                        axis.plot(*zip(*found, strict=True), **style)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(counts, [f"{count / 1000:g}k" for count in counts])
        axis.minorticks_off()
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_title(part, fontsize=10)
        axis.grid(which="both", alpha=0.3, lw=0.6)
    for axis in list(axes)[len(parts) :]:
        axis.set_visible(False)
    figure.supxlabel("Gaussians", fontsize=10)
    unit = "CPU ms" if clock == "cpu_ms" else "ms"
    figure.supylabel(f"{unit} an image", fontsize=10)
    entries = [Line2D([], [], color=_COLOURS[name], lw=3, label=name) for name in programs]
    grey: dict[str, Any] = {"color": "#666666", "mfc": "none"}
    entries += [Line2D([], [], ls="", marker=markers[s], label=f"{s} px", **grey) for s in sizes]
    entries += [Line2D([], [], ls=lines[b], label=f"batch {b}", **grey) for b in batches]
    figure.legend(handles=entries, loc="outside upper center", ncols=6, fontsize=9, title=device)
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=_DPI))
