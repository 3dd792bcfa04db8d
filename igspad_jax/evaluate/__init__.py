"""Metrics of anomaly maps, image scores and poses."""

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
