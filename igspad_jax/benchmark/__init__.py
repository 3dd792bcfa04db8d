"""The speed of everything that is fast by design, beside other projects' rasterizers.

Programs run in processes of their own; nothing imported here touches a device.
"""

from igspad_jax.benchmark.grid import find_machine, run
from igspad_jax.benchmark.plan import Key, Plan, Record, make_plan
from igspad_jax.benchmark.plot import write_plot
from igspad_jax.benchmark.programs import PARTS, PROGRAMS
from igspad_jax.benchmark.tables import (
    cell_line,
    clock_of,
    dssim_table,
    heading,
    tables,
    targets_table,
)

__all__ = [
    "PARTS",
    "PROGRAMS",
    "Key",
    "Plan",
    "Record",
    "cell_line",
    "clock_of",
    "dssim_table",
    "find_machine",
    "heading",
    "make_plan",
    "run",
    "tables",
    "targets_table",
    "write_plot",
]
