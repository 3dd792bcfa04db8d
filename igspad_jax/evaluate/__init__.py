"""Metrics of anomaly maps, image scores and poses."""

from __future__ import annotations

from igspad_jax.evaluate.evaluate import NATIVE, evaluate_maps
from igspad_jax.evaluate.metrics import auroc, average_precision, pixel_metrics
from igspad_jax.evaluate.poses import pose_metrics
from igspad_jax.evaluate.summary import aggregate, time_metrics, write_metrics
from igspad_jax.evaluate.tables import (
    Table,
    breakdown_table,
    category_table,
    format_table,
    kind_table,
    pose_table,
    run_tables,
    size_table,
    time_table,
    verdict_table,
)
from igspad_jax.evaluate.verdicts import verdict_metrics

__all__ = [
    "NATIVE",
    "Table",
    "aggregate",
    "auroc",
    "average_precision",
    "breakdown_table",
    "category_table",
    "evaluate_maps",
    "format_table",
    "kind_table",
    "pixel_metrics",
    "pose_metrics",
    "pose_table",
    "run_tables",
    "size_table",
    "time_metrics",
    "time_table",
    "verdict_metrics",
    "verdict_table",
    "write_metrics",
]
