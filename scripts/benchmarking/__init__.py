"""The speed of everything that is fast by design, beside other projects' rasterizers.

Programs run in processes of their own; nothing imported here touches a device.
"""

from benchmarking.grid import find_machine, run
from benchmarking.plan import Key, Plan, Record, make_plan
from benchmarking.plot import write_plot
from benchmarking.programs import PARTS, PROGRAMS
from benchmarking.tables import (
    cell_line,
    clock_of,
    dssim_table,
    heading,
    tables,
    targets_table,
)
