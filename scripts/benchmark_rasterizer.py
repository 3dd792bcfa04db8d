"""Measures the rasterizer, beside a plain PyTorch one where `torch` is installed.

    pip install -e .[bench]
    python scripts/benchmark_rasterizer.py --out runs/rasterizer.json

The scene is a shell of thin splats like a trained object: standard deviations of 1 to 3 pixels
whatever the image's size, so that the work grows with the number of splats. Times are CPU
milliseconds (process time, all threads together), the least of several repeats, and contain
projection, tile lists, compositing and, in the second column of each kind, the gradient of all the
splats' parameters; a column of its own has the render with its Jacobian by the pose. On a GPU
process time says nothing about the device: use wall_ms of the JSON.

The PyTorch version is what one would write with tensors and autograd: the same projection and the
same lists, each tile's list padded to the longest of a chunk of tiles. Before anything is timed,
both must agree in image and gradients.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from torch_rasterizer import TorchRasterizer

from igspad_jax.cameras import Camera, intrinsics_from_angle, look_at
from igspad_jax.files import write_json
from igspad_jax.kernels.compositing.tiles import tile_lists
from igspad_jax.machine import machine
from igspad_jax.render import Capacity, render, render_with_jacobian
from igspad_jax.render.projection import project
from igspad_jax.scene import Gaussians

_COUNTS = flags.DEFINE_list("counts", ["5000", "20000", "50000"], "Numbers of splats.")
_SIZES = flags.DEFINE_list("sizes", ["128", "256", "400"], "Widths of the square images in pixels.")
_TORCH = flags.DEFINE_list(
    "torch", ["5000x128", "20000x256"], "What PyTorch runs too, as SPLATSxSIZE; it is slow."
)
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed repeats; the least one counts.", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", 1, "CPU cores that both may use.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the scene.")
_OUT = flags.DEFINE_string("out", None, "JSON file for the results.")

_BACKGROUND = (1.0, 1.0, 1.0)
_PIXEL_TOLERANCE = 1e-4
# Rounding decides a few alphas at the cut of 1/255 and a few equal depths, so a few pixels jump.
_JUMPING_SHARE = 5e-3
_LARGEST_JUMP = 2e-2
_GRADIENT_TOLERANCE = 5e-3  # of each gradient's norm, jumps included


def object_scene(count: int, size: int, seed: int) -> tuple[Gaussians, Camera]:
    """Thin splats that lie in the surface of a bumpy ball, and a camera that sees it whole."""
    rng = np.random.default_rng(seed)
    K = intrinsics_from_angle(0.691, size, size)
    distance = 3.5
    viewmat = look_at(
        distance * np.array([0.6, -0.7, 0.39]), np.zeros(3), np.array([0.0, 0.0, 1.0])
    )
    normals = rng.normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    means = normals * (0.85 + 0.15 * np.sin(4.0 * normals).prod(axis=1, keepdims=True))
    depths = means @ viewmat[2, :3] + viewmat[2, 3]
    pixels = rng.uniform(1.0, 3.0, (count, 3)) * [1.0, 1.0, 0.2]
    # The rotation that takes z to the normal: the thin axis.
    quats = np.column_stack([1.0 + normals[:, 2], -normals[:, 1], normals[:, 0], np.zeros(count)])
    arrays = (
        means,
        np.log(pixels * (depths / K[0, 0])[:, None]),
        quats,
        rng.normal(1.0, 1.5, count),
        rng.normal(0.0, 0.8, (count, 1, 3)),
    )
    gaussians = Gaussians(*(jnp.asarray(array, jnp.float32) for array in arrays))
    camera = Camera(jnp.asarray(viewmat, jnp.float32), jnp.asarray(K, jnp.float32), size, size)
    return gaussians, camera


def slots_asked(gaussians: Gaussians, camera: Camera) -> int:
    """Slots for (tile, splat) pairs that the view needs."""
    splats = project(gaussians, camera, sh_degree=0)
    lists = tile_lists(
        splats.means2d,
        splats.conics,
        splats.opacities,
        splats.depths,
        splats.radii,
        width=camera.width,
        height=camera.height,
        capacity=1,
    )
    return int(lists.pairs)


def least_ms(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Least CPU and wall milliseconds of a call."""
    cpu, wall = [], []
    for _ in range(repeats):
        cpu_start, start = time.process_time(), time.perf_counter()
        run()
        cpu.append(time.process_time() - cpu_start)
        wall.append(time.perf_counter() - start)
    return 1e3 * min(cpu), 1e3 * min(wall)


def timings(name: str, run: Callable[[], object], repeats: int) -> dict:
    """One warm-up and the least times, under names for the record."""
    run()
    cpu, wall = least_ms(run, repeats)
    return {f"{name}_ms": cpu, f"{name}_wall_ms": wall}


def compiled(function: Callable, *args) -> tuple[Callable, float]:
    """The function compiled for its arguments, and the CPU seconds that took."""
    start = time.process_time()
    program = jax.jit(function).lower(*args).compile()
    return program, time.process_time() - start


def measure_ours(gaussians: Gaussians, camera: Camera, weights: np.ndarray) -> tuple[dict, tuple]:
    """The record of our rasterizer; its image and gradient for comparison."""
    capacity = Capacity()
    asked = slots_asked(gaussians, camera)
    capacity.grow(asked)

    def image(gaussians, viewmat):
        view = camera.replace(viewmat=viewmat)
        return render(
            gaussians, view, jnp.array(_BACKGROUND), sh_degree=0, capacity=capacity.slots
        ).colour

    def loss(gaussians, viewmat):
        colour = image(gaussians, viewmat)
        return jnp.sum(colour * weights), colour

    def linear(gaussians, viewmat):
        view = camera.replace(viewmat=viewmat)
        return render_with_jacobian(
            gaussians, view, jnp.array(_BACKGROUND), sh_degree=0, capacity=capacity.slots
        ).jacobian

    forward, forward_s = compiled(image, gaussians, camera.viewmat)
    jacobian, _ = compiled(linear, gaussians, camera.viewmat)
    both, both_s = compiled(jax.grad(loss, has_aux=True), gaussians, camera.viewmat)

    def run(program):
        return lambda: jax.block_until_ready(program(gaussians, camera.viewmat))

    record = {"pairs": asked, "slots": capacity.slots}
    record |= {"compile_forward_s": forward_s, "compile_both_s": both_s}
    record |= timings("forward", run(forward), _REPEATS.value)
    record |= timings("both", run(both), _REPEATS.value)
    record |= timings("jacobian", run(jacobian), _REPEATS.value)
    gradient, colour = both(gaussians, camera.viewmat)
    return record, (np.asarray(colour), [np.asarray(leaf) for leaf in jax.tree.leaves(gradient)])


def measure_torch(gaussians: Gaussians, camera: Camera, weights: np.ndarray, ours: tuple) -> dict:
    """The record of the PyTorch rasterizer, after checking that it shows what ours shows."""
    rasterizer = TorchRasterizer(
        [np.asarray(leaf) for leaf in jax.tree.leaves(gaussians)],
        np.asarray(camera.viewmat),
        np.asarray(camera.K),
        camera.width,
        _BACKGROUND,
        weights,
        threads=_THREADS.value,
    )
    image, gradient = rasterizer.both()
    difference = np.abs(image - ours[0]).max(axis=-1)
    jumping = np.mean(difference > _PIXEL_TOLERANCE)
    if jumping > _JUMPING_SHARE or difference.max() > _LARGEST_JUMP:
        raise AssertionError(
            f"the images differ in {100 * jumping:.2f} % of the pixels, by {difference.max():.1e}"
        )
    for own, other in zip(ours[1], gradient, strict=True):
        error = np.linalg.norm(own - other) / np.linalg.norm(other)
        if error > _GRADIENT_TOLERANCE:
            raise AssertionError(f"the gradients of shape {own.shape} differ by {error:.1e}")
    record = timings("torch_forward", rasterizer.forward, max(_REPEATS.value // 2, 1))
    return record | timings("torch_both", rasterizer.both, max(_REPEATS.value // 2, 1))


def _row(cells: list[str]) -> str:
    return "".join(
        cell.rjust(width) for cell, width in zip(cells, (8, 6, 9, 17, 14, 17, 19), strict=True)
    )


def _pair(record: dict, first: str, second: str, digits: int) -> str:
    if first not in record:
        return "-"
    return f"{record[first]:.{digits}f} / {record[second]:.{digits}f}"


def _numbers(name: str, values: list[str]) -> list[int]:
    try:
        numbers = [int(value) for value in values]
    except ValueError:
        numbers = [0]
    if min(numbers, default=0) < 1:
        raise app.UsageError(f"--{name}={','.join(values)}: give positive integers")
    return numbers


def main(argv: list[str]) -> None:
    """Measures every combination of the flags and prints a table."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: use flags")
    logging.set_verbosity(logging.WARNING)
    if hasattr(os, "sched_setaffinity"):
        # Before the first computation: XLA makes as many threads as it may use cores.
        cores = sorted(os.sched_getaffinity(0))
        if _THREADS.value > len(cores):
            raise app.UsageError(f"--threads={_THREADS.value}: there are {len(cores)} cores")
        os.sched_setaffinity(0, cores[: _THREADS.value])
    counts, sizes = _numbers("counts", _COUNTS.value), _numbers("sizes", _SIZES.value)
    has_torch = importlib.util.find_spec("torch") is not None
    if _TORCH.value and not has_torch:
        print("torch is not installed, so ours is measured alone; pip install -e .[bench]")
    print(
        "CPU-ms, forward / forward + backward, render with pose Jacobian; compile time in CPU-s",
        flush=True,
    )
    print(_row(["splats", "size", "slots", "ours", "Jacobian", "compile", "torch"]), flush=True)
    records = []
    for count in counts:
        for size in sizes:
            gaussians, camera = object_scene(count, size, _SEED.value)
            shape = (size, size, 3)
            weights = np.random.default_rng(1).normal(size=shape).astype(np.float32)
            record, ours = measure_ours(gaussians, camera, weights)
            if has_torch and f"{count}x{size}" in _TORCH.value:
                record |= measure_torch(gaussians, camera, weights, ours)
            records.append({"count": count, "size": size, **record})
            cells = [str(count), str(size), str(record["pairs"])]
            cells += [_pair(record, "forward_ms", "both_ms", 0)]
            cells += [f"{record['jacobian_ms']:.0f}"]
            cells += [_pair(record, "compile_forward_s", "compile_both_s", 1)]
            cells += [_pair(record, "torch_forward_ms", "torch_both_ms", 0)]
            print(_row(cells), flush=True)
    if _OUT.value:
        on = machine() | {"threads": _THREADS.value}
        write_json(_OUT.value, {"machine": on, "results": records})


if __name__ == "__main__":
    app.run(main)
