"""The plots of an experiment: how far a method reaches, and how fast it gets there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from experiments.measures import SUCCESS, clock_of, convergence
from experiments.methods import LEVENBERG, METHODS
from experiments.starts import Level
from experiments.tables import pooled
from igspad_jax.files import write_whole

_COLOURS = {"camera": "#e07b1a", "object": "#3d8bd4"}
_STYLES = {
    "autodiff": {"ls": "-", "marker": "o"},
    "analytic": {"ls": (0, (5, 3)), "marker": "s"},
    "paper": {"ls": (0, (1, 1.5)), "marker": "x"},
}
_SOURCES = {"real": "test images", "model": "rendered images"}
_SAMPLING = {False: "whole image", True: "matching points"}
_LEAST_SECONDS = 0.01
_DPI = 110
_LEGEND_INCHES = 1.9  # of a method in the legend


def _style(method: str) -> dict[str, Any]:
    if method == LEVENBERG:
        return {"color": "#111111", "ls": "-", "marker": "D", "lw": 2.2, "ms": 5}
    _, pivot, gradient = method.split("-")
    return {"color": _COLOURS[pivot], "lw": 1.5, "ms": 5, "mfc": "none", **_STYLES[gradient]}


def write_success(
    path: Path, records: Sequence[Mapping[str, Any]], success: Level = SUCCESS
) -> None:
    """Success rates against the initial error: a row a source, a column with and without sampling.

    Args:
        path: a .png file.
        records: as `experiments.runs.run_grid` returns them, of any categories.
        success: errors below which a pose is found.
    """
    cells = pooled(records, success)
    sources, samplings = _values(cells, 0), _values(cells, 2)
    levels = [Level(*level) for level in _values(cells, 1)]
    figure, axes = _figure(4.6 * len(samplings), 3.1 * len(sources), len(sources), len(samplings))
    for row, source in zip(axes, sources, strict=True):
        for axis, sampling in zip(row, samplings, strict=True):
            methods = [m for m in METHODS if any((source, x, sampling, m) in cells for x in levels)]
            for i, method in enumerate(methods):
                found = [cells.get((source, level, sampling, method)) for level in levels]
                rates = [cell.figures["success"] if cell else np.nan for cell in found]
                # Beside each other: many rates are equal.
                place = np.arange(len(levels)) + 0.05 * (i - 0.5 * (len(methods) - 1))
                axis.plot(place, rates, **_style(method), label=method)
            axis.set_title(f"{_SOURCES[source]}, {_SAMPLING[sampling]}", fontsize=10)
            axis.set_xticks(range(len(levels)), [str(level) for level in levels])
            axis.set_ylim(-0.04, 1.04)
            axis.grid(axis="y", alpha=0.3, lw=0.6)
        row[0].set_ylabel(f"share below {success.degrees:g}° and {success.percent:g} %")
    for axis in axes[-1]:
        axis.set_xlabel("initial error, degrees/per cent")
    _finish(figure, axes, path)


def write_convergence(
    path: Path, records: Sequence[Mapping[str, Any]], success: Level = SUCCESS
) -> None:
    """Median rotation error over steps and seconds: a row an initial error.

    Args:
        path: a .png file.
        records: as for `write_success`.
        success: the line to get below.
    """
    cells = pooled(records, success)
    rows = list(dict.fromkeys(key[:2] for key in cells))
    samplings = _values(cells, 2)
    seconds = clock_of(records[0]["device"])
    figure, axes = _figure(6.4 * len(samplings), 2.2 * len(rows), len(rows), 2 * len(samplings))
    for axis_row, (source, level) in zip(axes, rows, strict=True):
        for i, sampling in enumerate(samplings):
            over_steps, over_seconds = axis_row[2 * i : 2 * i + 2]
            for method in METHODS:
                cell = cells.get((source, level, sampling, method))
                if cell is None:
                    continue
                style = {**_style(method), "marker": "", "label": method}
                steps, times, degrees = convergence(cell.images, seconds)
                over_steps.plot(steps, degrees, **style)
                over_seconds.plot(np.maximum(times, _LEAST_SECONDS), degrees, **style)
            over_steps.set_xscale("symlog", linthresh=1.0, linscale=0.3)
            over_seconds.set_xscale("log")
            for axis in (over_steps, over_seconds):
                axis.set_yscale("log")
                axis.axhline(success.degrees, color="#888888", lw=0.8)
                axis.grid(alpha=0.25, lw=0.5)
            over_steps.set_title(
                f"{_SOURCES[source]}, from {Level(*level)}, {_SAMPLING[sampling]}", fontsize=9
            )
        axis_row[0].set_ylabel("median rotation error, °", fontsize=9)
        low, high = axis_row[0].get_ylim()
        subs = (1.0, 2.0, 5.0) if high < 1e3 * low else (1.0,)
        axis_row[0].yaxis.set_major_locator(LogLocator(subs=subs))
        axis_row[0].yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis_row[0].yaxis.set_minor_formatter(NullFormatter())
    unit = "CPU seconds an image" if seconds == "cpu_seconds" else "seconds an image"
    for i, axis in enumerate(axes[-1]):
        axis.set_xlabel(unit if i % 2 else "step")
    _finish(figure, axes, path)


def _values(cells: Mapping[tuple, Any], place: int) -> list:
    return list(dict.fromkeys(key[place] for key in cells))


def _figure(width: float, height: float, rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(max(width, 6.0), height + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey="row")
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes


def _finish(figure: Figure, axes: np.ndarray, path: Path) -> None:
    handles: dict[str, Any] = {}
    for axis in axes.flat:
        assert isinstance(axis, Axes)
        handles |= {label: h for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    ordered = [method for method in METHODS if method in handles]
    figure.legend(
        [handles[method] for method in ordered],
        ordered,
        loc="outside upper center",
        ncols=min(len(ordered), int(figure.get_figwidth() // _LEGEND_INCHES)),
        fontsize=8,
        frameon=False,
    )
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=_DPI))
