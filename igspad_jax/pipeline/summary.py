"""A whole run: its tables, its metrics file, its report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from igspad_jax.data import Category
from igspad_jax.devices import on_first
from igspad_jax.errors import InputError
from igspad_jax.evaluate import aggregate, format_table, run_tables, write_metrics
from igspad_jax.pipeline.evaluation import category_report
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.settings import Settings
from igspad_jax.report import write_report


def print_tables(categories: Mapping[str, Mapping]) -> None:
    """Prints the figures of a run's categories, and of their mean."""
    tables = run_tables(categories, kinds=True)
    print("\n\n".join(format_table(table) for table in tables))
    for name, metrics in categories.items():
        for note in metrics.get("notes", []):
            print(f"{name}: {note}")


@on_first
def summarise(
    categories: Sequence[tuple[Category, RunFolder]], settings: Settings, root: Path
) -> Path:
    """Writes `metrics.json` and `report.html` of a run; returns the report's path.

    Raises:
        InputError: without any category, or for one that is not evaluated.
    """
    if not categories:
        raise InputError(f"{root}: there is nothing to report; run the stages before first")
    metrics = {category.name: folder.load("metrics") for category, folder in categories}
    write_metrics(root / "metrics.json", {"mean": aggregate(metrics), "categories": metrics})
    reports = [category_report(category, settings, folder) for category, folder in categories]
    used = {
        "data": [str(category.root) for category, _ in categories],
        **dataclasses.asdict(settings),
    }
    return write_report(root / "report.html", root.name, reports, used)
