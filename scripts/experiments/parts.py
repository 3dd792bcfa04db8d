"""Comparisons of matchers and of features, as tables."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from igspad_jax.evaluate.tables import Table, format_value

# By name of the choice and of the category: what `inspections.json` and `metrics.json` hold of it.
Results = Mapping[str, Mapping[str, Mapping[str, Any]]]

_NEAR = 15.0  # degrees of a first pose that is good enough to start from
_FIGURES = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "mean_image_ap": "mean AP of an image",
}
_VARIANTS = {
    "estimated": "Against renders at the estimated poses",
    "clean image": "Against clean images",
}


def matchers_table(results: Results) -> list[Table]:
    """First and final poses, seconds and figures of every matcher, all categories together."""
    rows = []
    for name, categories in results.items():
        images = [entry for own in categories.values() for entry in own["poses"]["images"]]
        posed = [entry for entry in images if "degrees" in entry]
        first, final, percent = (
            np.array([entry[key] for entry in posed])
            for key in ("first_degrees", "degrees", "percent")
        )
        seconds = [own["metrics"]["time"]["locate"]["per_image"] for own in categories.values()]
        overall = [own["metrics"]["sizes"]["native"]["overall"] for own in categories.values()]
        rows.append(
            (
                name,
                str(len(images)),
                f"{np.count_nonzero(first < _NEAR)} of {len(posed)}",
                format_value(float(np.median(first)) if posed else None, 2),
                f"{np.count_nonzero((final < 0.5) & (percent < 1.0))} of {len(posed)}",
                str(sum(bool(entry["doubts"]) for entry in images)),
                _mean(overall, "image_auroc"),
                _mean(overall, "pixel_ap"),
                format_value(float(np.mean(seconds)), 2),
            )
        )
    columns = (
        "matcher and rule", "images", f"first within {_NEAR:g}°", "median first °",
        "found", "doubted", "image AUROC", "pixel AP", "s a pose",
    )  # fmt: skip
    notes = (
        "found: final pose within 0.5° and 1 %; image AUROC and pixel AP are means of the "
        "categories; s a pose: first poses and solver, compilation included",
    )
    return [Table("Matchers", columns, tuple(rows), notes)]


def features_table(results: Results) -> list[Table]:
    """Figures of every combination of features: means of the categories, and by category."""
    tables = [_variant_table(results, variant) for variant in _VARIANTS]
    return [*(table for table in tables if table.rows), _category_table(results)]


def _variant_table(results: Results, variant: str) -> Table:
    rows = []
    for name, categories in results.items():
        found = [own["metrics"].get("breakdown", {}).get(variant) for own in categories.values()]
        if any(entry is None for entry in found):
            continue
        kinds = sorted({kind for entry in found for kind in entry["kinds"]})
        by_kind = [[e["kinds"][kind] for e in found if kind in e["kinds"]] for kind in kinds]
        cells = [_mean([entry["overall"] for entry in found], key) for key in _FIGURES]
        cells += [_mean(entries, "mean_image_ap") for entries in by_kind]
        seconds = [own["metrics"]["time"]["compare"]["per_image"] for own in categories.values()]
        # A product is made of existing maps, so it has no time of its own.
        own_time = None if "*" in name else float(np.mean(seconds))
        rows.append((name, *cells, format_value(own_time, 2)))
    columns = ("features", *_FIGURES.values())
    if rows:
        columns += (*(f"mean AP, {kind}" for kind in kinds), "s an image")
    notes = ("means of the categories",)
    return Table(_VARIANTS[variant], columns, tuple(rows), notes)


def _category_table(results: Results) -> Table:
    names = list(dict.fromkeys(name for own in results.values() for name in own))
    rows = []
    for features, categories in results.items():
        cells = []
        for name in names:
            overall = (
                categories[name]["metrics"]["sizes"]["native"]["overall"]
                if (name in categories)
                else {}
            )
            cells += [
                format_value(overall.get(key), 3)
                for key in ("image_auroc", "pixel_ap", "mean_image_ap")
            ]
        rows.append((features, *cells))
    columns = tuple(
        f"{name} {what}" for name in names for what in ("image AUROC", "pixel AP", "mean AP")
    )
    return Table("By category, at the estimated poses", ("features", *columns), tuple(rows))


def _mean(groups: list[Mapping[str, Any]], key: str) -> str:
    values = [group[key] for group in groups if group.get(key) is not None]
    return format_value(float(np.mean(values)) if values else None, 3)
