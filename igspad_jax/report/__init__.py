"""A run as one self-contained HTML file."""

from igspad_jax.report.records import CategoryReport, ImageRecord, worst_first
from igspad_jax.report.report import write_report
