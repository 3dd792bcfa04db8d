"""Measures every part of the program, beside other projects' rasterizers where they are installed.

    python scripts/benchmark.py --out=runs/benchmark.json

Parts: forward, backward (forward and the gradient of all parameters), pose (one second-order step;
peers: forward and the gradient by the viewmat), jacobian, train (one step), dssim (what it takes of
that), and of whole images match, invert and detect. Programs: our kernels on a Hopper GPU
("mosaic"), our XLA path ("xla"), gsplat, splax, and a plain PyTorch rasterizer on the CPU
("torch"). Which of them cannot run here, and what to do about it, is said. All draw one scene, and
all are compared with the XLA path: what disagrees is marked.

Every program runs in processes of its own, and every cell is kept as soon as it is measured: the
same command goes on after a kill. To compare on CPUs give all one core, as in `taskset -c 0 python
scripts/benchmark.py`. --out gets the figures, and a plot beside it.
"""

from pathlib import Path

from absl import flags
from tqdm import tqdm

from benchmarking import (
    PARTS,
    PROGRAMS,
    Record,
    cell_line,
    clock_of,
    dssim_table,
    find_machine,
    heading,
    make_plan,
    run,
    tables,
    targets_table,
    write_plot,
)
from igspad_jax.commands.launch import launch
from igspad_jax.errors import InputError
from igspad_jax.evaluate.tables import format_table

_OUT = flags.DEFINE_string("out", "runs/benchmark.json", "JSON file for the figures.")
_COUNTS = flags.DEFINE_list(
    "counts", None, "Numbers of Gaussians; 20000,100000,500000 on a GPU, else 5000,20000,50000."
)
_SIZES = flags.DEFINE_list("sizes", None, "Widths in pixels; 400,800 on a GPU, else 128,256,400.")
_BATCHES = flags.DEFINE_list("batches", None, "Images at once; 1,16 on a GPU, else 1.")
_PARTS = flags.DEFINE_list("parts", None, f"Among {', '.join(PARTS)}; all if not given.")
_PROGRAMS = flags.DEFINE_list(
    "programs", None, f"Among {', '.join(PROGRAMS)}; all if not given, without torch on a GPU."
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 20, "Timed runs of each cell, fewer of slow ones.", lower_bound=2
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the scene.", lower_bound=0)
_TIMEOUT = flags.DEFINE_float(
    "timeout", 900.0, "Seconds after which a cell counts as failed.", lower_bound=1.0
)
_OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Measure again what was measured.")


def _say(text: str) -> None:
    # Below the progress bar the lines would run into it.
    tqdm.write(text)


def main() -> None:
    """Runs the benchmark, prints tables, writes the plot."""
    out = Path(_OUT.value)
    if out.suffix != ".json":
        raise InputError(f"--out={out}: give the name of a .json file")
    given = {
        "counts": _COUNTS.value,
        "sizes": _SIZES.value,
        "batches": _BATCHES.value,
        "parts": _PARTS.value,
        "programs": _PROGRAMS.value,
    }
    how = {
        "repeats": _REPEATS.value,
        "seed": _SEED.value,
        "timeout": _TIMEOUT.value,
        "out": out,
    }
    make_plan(given, on_gpu=False, **how)  # wrong words are told before anything starts
    machine = find_machine()
    on_gpu = machine["platform"] == "gpu"
    plan = make_plan(given, on_gpu=on_gpu, **how)
    if not on_gpu:
        _say(f"JAX sees no GPU here, only {machine['device']} ({machine['cpu']}, "
             f"{machine['cores']} cores): whatever the flags leave open is small.")  # fmt: skip
    record = Record(plan, machine, overwrite=_OVERWRITE.value)
    _say(heading())
    run(
        plan,
        record,
        overwrite=_OVERWRITE.value,
        say=_say,
        on_cell=lambda cell: _say(cell_line(cell)),
    )
    cells, clock = record.content["cells"], clock_of(machine["platform"])
    shown = [*tables(cells, clock), dssim_table(cells, clock), targets_table(cells)]
    print("\n" + "\n\n".join(format_table(table) for table in shown if table), end="\n\n")
    plot = out.with_suffix(".png")
    write_plot(plot, cells, clock, machine["device"])
    print(f"{out}, {plot}")


if __name__ == "__main__":
    launch(main)
