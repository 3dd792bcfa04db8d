"""The figures of an experiment as tables."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.measures import SUCCESS, clock_of, steps_until, summary
from experiments.methods import METHODS, PAPER
from experiments.starts import Level
from igspad_jax.evaluate.tables import Table, format_value

Key = tuple[str, Level, bool, str]  # source, initial error, sampling, method

_COLUMNS = (
    "method", "sampling", "images", "success", "< 0.5° & 1 %", "median °", "median %", "steps",
    "CPU s", "wall s", "of the paper's",
)  # fmt: skip
_PATHS = ("path_degrees", "path_percent", "clock")  # long, and in the categories' files
_NOTES = (
    "success: below {0.degrees:g}° and {0.percent:g} %; steps: until the path stays below, "
    "median of the successes",
    "seconds: medians of the images, without compilation; the last column divides them by those "
    f"of {PAPER} with the same sampling",
    "camera centres in per cent of their distance to the object",
)


class Pooled(NamedTuple):
    """A cell of the grid over all categories.

    Attributes:
        images: of all categories.
        figures: their `summary`, and `of_paper`: the seconds as a share of those of the paper's
            descent, None where that was not run.
    """

    images: list[Mapping[str, Any]]
    figures: dict[str, Any]


def pooled(records: Sequence[Mapping[str, Any]], success: Level = SUCCESS) -> dict[Key, Pooled]:
    """The cells of all categories together, in the order of the grid."""
    images: dict[Key, list[Mapping[str, Any]]] = {}
    for record in records:
        key = (
            record["source"],
            Level(*record["level"]),
            record["sampling"],
            record["method"],
        )
        images.setdefault(key, []).extend(record["images"])
    figures = {key: summary(own, success) for key, own in images.items()}
    seconds = clock_of(records[0]["device"])
    cells = {}
    for key, own in figures.items():
        paper = figures.get((*key[:3], PAPER))
        own["of_paper"] = own[seconds] / paper[seconds] if paper else None
        cells[key] = Pooled(images[key], own)
    return cells


def results(records: Sequence[Mapping[str, Any]], success: Level = SUCCESS) -> dict[str, Any]:
    """The figures of all cells in `summary`, and of all images in `images`, for a file.

    Args:
        records: as `experiments.runs.run_grid` returns them, of any categories.
        success: errors below which a pose is found.
    """
    cells = [
        {
            "source": source,
            "level": list(level),
            "sampling": sampling,
            "method": method,
            **cell.figures,
        }
        for (source, level, sampling, method), cell in pooled(records, success).items()
    ]
    images = [
        {key: record[key] for key in ("category", "source", "level", "sampling", "method")}
        | {key: value for key, value in image.items() if key not in _PATHS}
        | {"steps": steps_until(image, success)}
        for record in records
        for image in record["images"]
    ]
    return {"success": list(success), "summary": cells, "images": images}


def experiment_tables(
    records: Sequence[Mapping[str, Any]], success: Level = SUCCESS
) -> list[Table]:
    """Success by initial error, then all figures of each initial error; see `results`."""
    cells = pooled(records, success)
    all_notes = tuple(note.format(success) for note in _NOTES)
    tables = []
    for source in dict.fromkeys(key[0] for key in cells):
        own = {key[1:]: cell.figures for key, cell in cells.items() if key[0] == source}
        levels = list(dict.fromkeys(key[0] for key in own))
        rows = [
            (method, sampling)
            for sampling in dict.fromkeys(key[1] for key in own)
            for method in METHODS
            if any((level, sampling, method) in own for level in levels)
        ]
        reached = [
            (
                method,
                _on(sampling),
                *(
                    format_value(own.get((level, sampling, method), {}).get("success"), 2)
                    for level in levels
                ),
            )
            for method, sampling in rows
        ]
        title = f"Success by initial error in degrees/per cent, {source} images"
        columns = ("method", "sampling", *map(str, levels))
        tables.append(Table(title, columns, tuple(reached)))
        for level in levels:
            lines = [
                (method, _on(sampling), *_cells(own[level, sampling, method]))
                for method, sampling in rows
                if (level, sampling, method) in own
            ]
            notes = all_notes if level == levels[-1] else ()
            tables.append(
                Table(f"{source} images, initial error {level}", _COLUMNS, tuple(lines), notes)
            )
    return tables


def _on(sampling: bool) -> str:
    return "on" if sampling else "off"


def _cells(figures: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(figures["images"]),
        format_value(figures["success"], 2),
        format_value(figures["share_below_0.5deg_1pct"], 2),
        format_value(figures["median_degrees"], 3),
        format_value(figures["median_percent"], 3),
        format_value(figures["median_steps"], 0),
        format_value(figures["cpu_seconds"], 2),
        format_value(figures["seconds"], 2),
        format_value(figures["of_paper"], 3),
    )


def markdown(table: Table) -> str:
    """A table in Markdown, the title above and the notes below."""
    lines = [table.columns, ("---",) * len(table.columns), *table.rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([f"### {table.title}", text, *table.notes]) + "\n"
