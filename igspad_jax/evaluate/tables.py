"""Metrics as tables, for the terminal and the report."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from igspad_jax.data import GOOD, UNLABELLED
from igspad_jax.evaluate.evaluate import NATIVE
from igspad_jax.evaluate.summary import aggregate
from igspad_jax.evaluate.verdicts import VERDICTS

_UNDEFINED = "-"
_MAP_COLUMNS = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "aupro": "AUPRO",
    "mean_image_ap": "mean AP",
}
_COUNTS = ("good", "defective")
_POSE_COLUMNS = {
    "median_degrees": "median °",
    "mean_degrees": "mean °",
    "p90_degrees": "90 % °",
    "median_percent": "median %",
    "mean_percent": "mean %",
    "p90_percent": "90 % %",
    "share_below_0.5deg": "< 0.5°",
    "share_below_0.5deg_1pct": "< 0.5° & 1 %",
    "share_below_1deg": "< 1°",
    "share_below_2deg": "< 2°",
    "gross_count": "> 5°",
}


@dataclass(frozen=True)
class Table:
    """A table of formatted cells.

    Attributes:
        title: what it shows.
        columns: headings; the first column names the rows.
        rows: cells, as many as headings each.
        notes: what a reader must know to read it right.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def format_value(value: float | int | None, digits: int = 4) -> str:
    """A number as the tables show it: counts whole, others to `digits` places, undefined as "-"."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return _UNDEFINED
    return str(value) if isinstance(value, int) else f"{value:.{digits}f}"


def format_table(table: Table) -> str:
    """Plain text with aligned columns, the notes below."""
    lines = [table.columns, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    text = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([table.title, *text, *(f"({note})" for note in table.notes)])


def category_table(categories: Mapping[str, Mapping[str, Any]], size: str = NATIVE) -> Table:
    """Overall figures of each category at one evaluation size, and their mean where several."""
    rows = {name: metrics["sizes"][size]["overall"] for name, metrics in categories.items()}
    notes = []
    if len(categories) > 1:
        mean = aggregate(categories)
        rows["mean"] = mean["sizes"][size]["overall"]
        counted = mean["counted"]["sizes"][size]["overall"]
        notes = [
            f"mean {title}: over the {counted[key]} of {len(categories)} categories that have one"
            for key, title in _MAP_COLUMNS.items()
            if counted[key] < len(categories)
        ]
    where = "the images' own size" if size == NATIVE else f"{size} px"
    return _map_table(f"Categories, at {where}", "category", rows, notes, _COUNTS)


def kind_table(metrics: Mapping[str, Any], size: str = NATIVE) -> Table:
    """Figures of each kind of defect and overall, and what `evaluate_maps` had to note."""
    table = metrics["sizes"][size]
    rows = {**table["kinds"], "overall": table["overall"]}
    notes = ["a kind's figures are over its images and all good ones", *metrics.get("notes", ())]
    return _map_table("Kinds of defect", "kind", rows, notes, _COUNTS)


def size_table(metrics: Mapping[str, Any]) -> Table:
    """Overall figures at each evaluation size."""
    rows = {
        "own size" if key == NATIVE else f"{key} px": table["overall"]
        for key, table in metrics["sizes"].items()
    }
    return _map_table("Evaluation sizes", "size", rows, ())


def breakdown_table(metrics: Mapping[str, Any]) -> Table:
    """Overall figures of each variant of the breakdown."""
    rows = {name: table["overall"] for name, table in metrics["breakdown"].items()}
    return _map_table("Where accuracy is lost", "variant", rows, ())


def pose_table(categories: Mapping[str, Mapping[str, Any]]) -> Table:
    """Pose errors of each category that has true poses, and their mean where several."""
    posed = {name: metrics["pose"] for name, metrics in categories.items() if "pose" in metrics}
    notes = [
        f"{name}: {pose['without_pose']} images without any pose, in no median or mean"
        for name, pose in posed.items()
        if pose["without_pose"]
    ]
    notes.append("camera centres in per cent of their distance to the object")
    if len(posed) > 1:
        posed["mean"] = aggregate({name: {"pose": pose} for name, pose in posed.items()})["pose"]
        notes.append("mean: gross failures (> 5°) are added")
    rows = tuple(
        (name, *(format_value(pose[key], 3) for key in _POSE_COLUMNS))
        for name, pose in posed.items()
    )
    return Table("Pose errors", ("category", *_POSE_COLUMNS.values()), rows, tuple(notes))


def verdict_table(categories: Mapping[str, Mapping[str, Any]], rate: str) -> Table:
    """Verdicts on good and on defective images at a promised false-alarm rate, by category."""
    rows, total = [], Counter()
    for name, metrics in categories.items():
        counts = _verdict_counts(metrics["verdicts"][rate]["kinds"])
        total.update(counts)
        rows.append(_verdict_row(name, counts))
    if len(categories) > 1:
        rows.append(_verdict_row("all", total))
    kinds = ("good", "defective", "unlabelled")
    shown = [k for k in kinds if any(total[k, v] for v in VERDICTS)]
    columns = ("category", *(f"{kind}: {v}" for kind in shown for v in VERDICTS))
    columns += ("false alarms", "found", "not judged")
    table = [(row[0], *(row[1][k, v] for k in shown for v in VERDICTS), *row[2]) for row in rows]
    cells = tuple(tuple(str(cell) for cell in row) for row in table)
    return Table(f"Verdicts, at a false-alarm rate of {float(rate):.1%} asked for", columns, cells)


def _verdict_counts(kinds: Mapping[str, Mapping[str, int]]) -> Counter[tuple[str, str]]:
    """Verdicts by (good, defective or unlabelled; verdict)."""
    counts: Counter[tuple[str, str]] = Counter()
    for kind, own in kinds.items():
        group = kind if kind in (GOOD, UNLABELLED) else "defective"
        for verdict, count in own.items():
            counts[group, verdict] += count
    return counts


def _verdict_row(
    name: str, counts: Counter[tuple[str, str]]
) -> tuple[str, Counter[tuple[str, str]], tuple[str, str, str]]:
    def share(kinds: Sequence[str], verdict: str) -> str:
        total = sum(counts[kind, v] for kind in kinds for v in VERDICTS)
        hits = sum(counts[kind, verdict] for kind in kinds)
        return f"{hits / total:.1%}" if total else _UNDEFINED

    every = (GOOD, "defective", UNLABELLED)
    return name, counts, (
        share([GOOD], "FAIL"), share(["defective"], "FAIL"), share(every, "UNSURE")
    )  # fmt: skip


def time_table(categories: Mapping[str, Mapping[str, Any]]) -> Table:
    """Seconds of each stage of each category that has times, in all and per test image."""
    timed = {name: metrics["time"] for name, metrics in categories.items() if "time" in metrics}
    stages = dict.fromkeys(stage for times in timed.values() for stage in times)
    rows = []
    for name, times in timed.items():
        cells = []
        for stage in stages:
            seconds = times.get(stage, {})
            text = format_value(seconds.get("seconds"), 1)
            if "per_image" in seconds:
                text += f" ({format_value(seconds['per_image'], 3)})"
            cells.append(text)
        rows.append((name, *cells))
    note = "seconds; in brackets, per test image"
    return Table("Time", ("category", *stages), tuple(rows), (note,))


def run_tables(categories: Mapping[str, Mapping[str, Any]], *, kinds: bool = False) -> list[Table]:
    """The tables of a run; over several categories, of their means.

    Args:
        categories: category name to its metrics.
        kinds: whether the table of the kinds of defect is among them.
    """
    if not categories:
        return []
    overall = aggregate(categories) if len(categories) > 1 else next(iter(categories.values()))
    counted = [metrics.get("verdicts", {}) for metrics in categories.values()]
    rates = [rate for rate in counted[0] if all(rate in own for own in counted)]
    tables = [verdict_table(categories, rate) for rate in rates]
    labelled = {name: metrics for name, metrics in categories.items() if "sizes" in metrics}
    if len(labelled) > 1:
        tables.append(category_table(labelled))
    if kinds and labelled:
        tables.append(kind_table(overall))
    if labelled:
        tables.append(size_table(overall))
    if "breakdown" in overall:
        tables.append(breakdown_table(overall))
    if "pose" in overall:
        tables.append(pose_table(categories))
    if "time" in overall:
        tables.append(time_table(categories))
    return tables


def _map_table(
    title: str,
    first: str,
    rows: Mapping[str, Mapping[str, Any]],
    notes: Sequence[str],
    counts: tuple[str, ...] = (),
) -> Table:
    return Table(
        title,
        (first, *_MAP_COLUMNS.values(), *counts),
        tuple(
            (name, *(format_value(group[key]) for key in (*_MAP_COLUMNS, *counts)))
            for name, group in rows.items()
        ),
        tuple(notes),
    )
