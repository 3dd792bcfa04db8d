"""One self-contained HTML file about a run: verdicts, figures, plots, and every image."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from igspad_jax.data import GOOD, UNLABELLED
from igspad_jax.errors import InputError
from igspad_jax.evaluate.evaluate import NATIVE
from igspad_jax.evaluate.poses import GROSS_DEGREES
from igspad_jax.evaluate.summary import aggregate
from igspad_jax.evaluate.tables import format_value, kind_table, run_tables
from igspad_jax.evaluate.verdicts import VERDICTS
from igspad_jax.files import write_whole
from igspad_jax.report import panels, plots
from igspad_jax.report.records import (
    OFF_DEGREES,
    CategoryReport,
    ImageRecord,
    image_ap,
    kind_order,
    worst_first,
)


@dataclass(frozen=True)
class _Card:
    record: ImageRecord
    place: int
    ap: float | None
    panels: list[dict[str, str]] = field(default_factory=list)


def write_report(
    path: Path | str,
    title: str,
    categories: Sequence[CategoryReport],
    settings: Mapping[str, Any],
    image_size: int = 400,
    megabytes: float = 15.0,
) -> Path:
    """Write the report, in one step.

    Args:
        path: the HTML file; missing folders are made.
        title: the run's name.
        categories: what to show; each must have at least one image.
        settings: what the run used (matcher, features, ...), shown as given, nested or not.
        image_size: longest side of a picture in pixels.
        megabytes: room for pictures, shared evenly by the categories. Images for which none is
            left, the last in order, are listed without pictures, and the report says so.

    Returns:
        The path.

    Raises:
        InputError: for a category without images, a name that occurs twice in one, or a score or
            anomaly map that is not finite.
    """
    for category in categories:
        _check(category)
    room = 1e6 * megabytes / max(1, len(categories))
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("report.html.j2")
    metrics = {category.name: category.metrics for category in categories}
    text = template.render(
        title=title,
        tiles=_tiles(categories),
        tables=run_tables(metrics),
        settings=_flat(settings),
        categories=[
            _section(category, f"category{i}", image_size, room)
            for i, category in enumerate(categories, start=1)
        ],
        gross_degrees=f"{GROSS_DEGREES:g}",
        off_degrees=f"{OFF_DEGREES:g}",
    )
    return write_whole(path, lambda file: file.write(text.encode()))


def _check(category: CategoryReport) -> None:
    names = [record.name for record in category.records]
    if not names:
        raise InputError(f"report: category {category.name} has no images; leave it out")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"report: {category.name} names {twice} twice; name each image once")
    for record in category.records:
        if not np.isfinite(record.score) or not np.isfinite(record.anomaly_map).all():
            raise InputError(
                f"report: {category.name}/{record.name} has a score or anomaly map that is not "
                "finite; leave the image out or correct its map"
            )


def _section(category: CategoryReport, anchor: str, image_size: int, room: float) -> dict[str, Any]:
    records = [category.records[i] for i in worst_first(category.records)]
    normal = [r.anomaly_map for r in records if r.taken_for == "normal"]
    defective = [r.anomaly_map for r in records if r.taken_for == "defective"]
    neither = [] if normal or defective else [r.anomaly_map for r in records]
    scale = panels.heat_scale(normal, defective or neither)
    shown, listed = [], []
    for place, record in enumerate(records):
        drawn = [] if listed else _panels(record, scale, image_size)
        room -= sum(len(panel["uri"]) for panel in drawn)
        fits = room >= 0 and not listed
        (shown if fits else listed).append(_Card(record, place, image_ap(record), drawn))
    with_losses = [r for r in records if r.losses is not None and len(r.losses)]
    metrics = category.metrics
    kinds = Counter(r.kind for r in records)
    verdicts = Counter(r.verdict for r in records)
    return {
        "name": category.name,
        "anchor": anchor,
        "statement": category.statement,
        # The statement is among the notes of a run's metrics as well.
        "notes": [note for note in metrics.get("notes", ()) if note != category.statement],
        "cards": shown,
        "listed": listed,
        "filters": {
            "verdict": {verdict: verdicts[verdict] for verdict in VERDICTS if verdicts[verdict]},
            "kind": {kind: kinds[kind] for kind in sorted(kinds, key=kind_order)},
        },
        "gross": [r for r in records if r.gross],
        "posed": any(r.degrees is not None for r in records),
        "legend": _legend(scale) | {"defective": bool(defective)},
        "table": kind_table({**metrics, "notes": ()}) if "sizes" in metrics else None,
        "histogram": plots.score_histogram(
            [r.score for r in records],
            [r.kind for r in records],
            category.calibration_scores,
            category.threshold,
        ),
        "threshold": f"{category.threshold:.4g}" if np.isfinite(category.threshold) else None,
        "losses": plots.loss_curves(
            [r.losses for r in with_losses if r.losses is not None], [r.gross for r in with_losses]
        )
        if with_losses
        else "",
        "psnr": plots.psnr_curve(category.train_history) if category.train_history else "",
    }


def _panels(record: ImageRecord, scale: panels.HeatScale, size: int) -> list[dict[str, str]]:
    image = panels.fit(record.image, size)
    render = panels.fit(record.render, size)
    drawn = [
        ("image", image, f"Image {record.name}"),
        ("render", render, f"Render of the normal object at the pose estimated for {record.name}"),
        (
            "anomaly map",
            panels.heat_panel(image, record.anomaly_map, record.boxes, record.mask, scale),
            f"Anomaly anomaly map over {record.name}, image score {record.score:.4g}",
        ),
    ]
    if record.mask is not None and record.mask.any():
        count = int(np.count_nonzero(record.mask))
        drawn.append(
            (
                "ground truth",
                panels.truth_panel(image, record.mask),
                f"Ground truth of {record.name}: {count} defective pixels",
            )
        )
    drawn.append(
        (
            "pose",
            panels.alignment_panel(image, render),
            f"{record.name} in red over the render at the estimated pose in cyan",
        )
    )
    return [
        {"title": title, "uri": panels.data_uri(panel), "alt": alt} for title, panel, alt in drawn
    ]


def _legend(scale: panels.HeatScale) -> dict[str, Any]:
    """The colour bar: CSS colour stops over white, and its marks."""
    stops = []
    for share in np.linspace(0.0, 1.0, 13):
        colour, opacity = panels.heat_colours(share)
        red, green, blue = np.round(255.0 * (colour * opacity + 1.0 - opacity)).astype(int)
        stops.append(f"rgb({red} {green} {blue}) {100.0 * share:.0f}%")
    at = (scale.normal - scale.low) / (scale.high - scale.low)
    return {
        "stops": ", ".join(stops),
        "low": f"{scale.low:.3g}",
        "high": f"{scale.high:.3g}",
        "normal": None if np.isnan(at) else f"{scale.normal:.3g}",
        "normal_at": None if np.isnan(at) else f"{100.0 * at:.1f}",
    }


def _tiles(categories: Sequence[CategoryReport]) -> list[dict[str, str]]:
    """The figures a reader looks for first: title, value and style."""
    records = [record for category in categories for record in category.records]
    verdicts = Counter(r.verdict for r in records)
    tiles = [_tile(v, str(verdicts[v]), v if verdicts[v] else "") for v in VERDICTS]
    for title, label, kinds in (
        ("false alarms", "good", {GOOD}),
        ("defects found", "defective", {r.kind for r in records} - {GOOD, UNLABELLED}),
    ):
        failed = [r.verdict == "FAIL" for r in records if r.kind in kinds]
        if failed:
            counts = f"{sum(failed)} of {len(failed)} {label} images"
            tiles.append(_tile(f"{title}: {counts}", f"{sum(failed) / len(failed):.1%}"))
    mean = aggregate({category.name: category.metrics for category in categories})
    if "sizes" in mean:
        overall = mean["sizes"][NATIVE]["overall"]
        for key, title in (("image_auroc", "image AUROC"), ("pixel_ap", "pixel AP")):
            tiles.append(_tile(title, format_value(overall[key])))
    if "pose" in mean:
        median = format_value(mean["pose"]["median_degrees"], 3)
        tiles.append(_tile("median pose error", f"{median}°"))
    return tiles


def _tile(title: str, value: str, style: str = "") -> dict[str, str]:
    return {"title": title, "value": value, "style": style}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            rows.extend(_flat(value, f"{prefix}{key}."))
        else:
            rows.append((f"{prefix}{key}", str(value)))
    return rows
