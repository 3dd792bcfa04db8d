"""A run as one self-contained HTML file."""

from __future__ import annotations

from igspad_jax.report.records import CategoryReport, ImageRecord, worst_first
from igspad_jax.report.report import write_report

__all__ = ["CategoryReport", "ImageRecord", "worst_first", "write_report"]
