"""Measures SAM's image encoder beside the PyTorch one of transformers, on the CPU.

    pip install -e .[bench]
    python scripts/benchmark_sam.py --out runs/sam.json

Both read the same random weights from one checkpoint and encode the same image, each in a process
of its own, on the same cores. The seconds are CPU seconds (process time, all threads together) of
one image, the least of several, after one that is not counted; compiling is in a column of its own.
The memory is the process's largest resident set, which contains interpreter, libraries and
weights, and their loading. The last column compares the features with those of the first program:
the largest difference over the features' standard deviation.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from igspad_jax.commands.launch import launch
from igspad_jax.errors import InputError
from igspad_jax.files import write_json

_SIZES = {  # width, layers, heads, global layers
    "base": (768, 12, 12, (2, 5, 8, 11)),
    "large": (1024, 24, 16, (5, 11, 17, 23)),
    "huge": (1280, 32, 16, (7, 15, 23, 31)),
}
_REFERENCE = "eager-float32"
_PROGRAMS = (_REFERENCE, "sdpa-float32", "ours-float32", "sdpa-bfloat16", "ours-bfloat16")
_WEIGHTS = "make-weights"

_SIZE = flags.DEFINE_enum("size", "base", list(_SIZES), "Of the encoder.")
_RUN = flags.DEFINE_list(
    "programs",
    list(_PROGRAMS),
    f"What to run, of {', '.join(_PROGRAMS)}; all are compared with the first.",
)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed images; the least one counts.", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", 1, "CPU cores that each may use.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "JSON file for the results.")
_CHILD = flags.DEFINE_string("child", "", "For the script's own use: what this process runs.")
_FOLDER = flags.DEFINE_string("folder", "", "For the script's own use: where the weights are.")


def make_weights(folder: Path) -> None:
    """Writes a checkpoint of random weights, and an image."""
    import torch
    from transformers import SamVisionConfig, SamVisionModel

    width, depth, heads, everywhere = _SIZES[_SIZE.value]
    config = SamVisionConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        global_attn_indexes=everywhere,
    )
    model = SamVisionModel(config)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and name.endswith("weight"):
            torch.nn.init.normal_(parameter, 1.0, 0.2)
        else:
            torch.nn.init.normal_(parameter, 0.0, parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
    image = np.random.default_rng(0).normal(size=(1, 1024, 1024, 3)).astype(np.float32)
    np.save(folder / "image.npy", image)


def prepare_torch(folder: Path, attention: str, dtype: str) -> tuple[Callable, float]:
    """A function that encodes the image, and 0 seconds of compiling."""
    import torch
    from transformers import SamVisionModel

    torch.set_num_threads(_THREADS.value)
    torch.set_grad_enabled(False)
    model = SamVisionModel.from_pretrained(
        folder, attn_implementation=attention, dtype=getattr(torch, dtype)
    ).eval()
    image = torch.from_numpy(np.load(folder / "image.npy")).permute(0, 3, 1, 2).to(model.dtype)
    return lambda: model(image).last_hidden_state.permute(0, 2, 3, 1).float().numpy(), 0.0


def prepare_ours(folder: Path, dtype: str) -> tuple[Callable, float]:
    """A function that encodes the image, and the seconds that compiling took."""
    import jax

    from igspad_jax.networks.checkpoints import read_checkpoint
    from igspad_jax.networks.sam import read_sam
    from igspad_jax.networks.tensors import Tensors

    encoder, params = read_sam(Tensors(read_checkpoint(folder), str(folder)), dtype)
    params = jax.device_put(params)
    image = jax.device_put(np.load(folder / "image.npy"))
    start = time.process_time()
    program = jax.jit(encoder.apply).lower(params, image).compile()
    return lambda: np.asarray(program(params, image)), time.process_time() - start


def run_child(name: str, folder: Path) -> dict[str, float]:
    """Encodes the image repeatedly, keeps its features in the folder, returns the record."""
    kind, dtype = name.split("-")
    if kind == "ours":
        encode, compile_s = prepare_ours(folder, dtype)
    else:
        encode, compile_s = prepare_torch(folder, kind, dtype)
    np.save(folder / f"{name}.npy", encode())
    cpu, wall = [], []
    for _ in range(_REPEATS.value):
        cpu_start, start = time.process_time(), time.perf_counter()
        encode()
        cpu.append(time.process_time() - cpu_start)
        wall.append(time.perf_counter() - start)
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "cpu_s": min(cpu),
        "wall_s": min(wall),
        "compile_cpu_s": compile_s,
        "peak_mb": peak_kb / 1024,
    }


def start_child(name: str, folder: Path) -> str:
    """Runs this script for one program in a process of its own; returns what it printed."""
    command = [sys.executable, __file__, f"--child={name}", f"--folder={folder}"]
    command += [f"--size={_SIZE.value}", f"--repeats={_REPEATS.value}"]
    command += [f"--threads={_THREADS.value}"]
    settings = {"OMP_NUM_THREADS": str(_THREADS.value), "JAX_PLATFORMS": "cpu", "TQDM_DISABLE": "1"}
    return subprocess.run(
        command, env=os.environ | settings, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def compare(names: list[str]) -> list[dict[str, Any]]:
    """Runs the programs one after the other and prints a table."""
    print(f"SAM ViT-{_SIZE.value} at 1024 x 1024, {_THREADS.value} thread(s)", flush=True)
    print("program         CPU s   wall s   compile s   peak MB   difference", flush=True)
    records = []
    with tempfile.TemporaryDirectory() as folder:
        start_child(_WEIGHTS, Path(folder))
        for name in names:
            record = json.loads(start_child(name, Path(folder)).splitlines()[-1])
            features = [np.load(Path(folder) / f"{which}.npy") for which in (name, names[0])]
            difference = np.abs(features[0] - features[1]).max() / features[1].std()
            records.append({"program": name, **record, "difference": float(difference)})
            print(
                f"{name:15s} {record['cpu_s']:5.2f} {record['wall_s']:8.2f} "
                f"{record['compile_cpu_s']:11.2f} {record['peak_mb']:9.0f} {difference:12.1e}",
                flush=True,
            )
    return records


def main() -> None:
    """Runs what the flags tell."""
    if hasattr(os, "sched_setaffinity"):
        # Before any computation: XLA makes as many threads as it may use cores.
        cores = sorted(os.sched_getaffinity(0))
        if _THREADS.value > len(cores):
            raise InputError(
                f"--threads={_THREADS.value}: there are {len(cores)} cores; give fewer"
            )
        os.sched_setaffinity(0, cores[: _THREADS.value])
    if _CHILD.value == _WEIGHTS:
        make_weights(Path(_FOLDER.value))
    elif _CHILD.value:
        print(json.dumps(run_child(_CHILD.value, Path(_FOLDER.value))))
    else:
        if unknown := set(_RUN.value) - set(_PROGRAMS):
            raise InputError(f"--programs: {unknown.pop()} is none of {', '.join(_PROGRAMS)}")
        records = compare(_RUN.value)
        if _OUT.value:
            from igspad_jax.machine import machine

            on = machine() | {"threads": _THREADS.value}
            write_json(_OUT.value, {"machine": on, "size": _SIZE.value, "results": records})


if __name__ == "__main__":
    launch(main)
