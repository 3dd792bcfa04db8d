"""The parts that are measured, and the programs that are measured on them."""

import dataclasses
import importlib.util
from collections.abc import Mapping
from typing import Any

from igspad_jax.kernels.compositing.backend import resolve

# What each part does once, in the order in which it is measured.
PARTS = {
    "forward": "renders",
    "backward": "renders and takes the gradient of all parameters of the Gaussians",
    "pose": "ours: a render with its normal equations, and the 6 x 6 solve; peers: a render and "
    "the gradient by the viewmat",
    "jacobian": "renders with the Jacobian of every pixel by the pose",
    "train": "one step of training: renders, L1 and D-SSIM, gradient, Adam",
    "dssim": "D-SSIM of given images and its gradient, as in a training step",
    "match": "first poses of images: retrieval and point matcher",
    "invert": "poses of images from given first ones, by the default solver",
    "detect": "features of image and render, anomaly map and score",
}
COMPARED = ("forward", "backward", "pose", "jacobian", "train", "dssim")  # with the XLA path's
_RASTERIZED = ("forward", "backward", "pose")


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that is measured in processes of its own.

    Attributes:
        name: on the command line.
        adapter: module with `prepare(part, scene)`, `peak_bytes()` and `versions()`.
        parts: what it can do.
        runs_on: "any", "nvidia" or "hopper": the device it needs.
        package: that must be installed.
        install: how.
        environment: variables of its processes.
    """

    name: str
    adapter: str
    parts: tuple[str, ...]
    runs_on: str
    package: str
    install: str
    environment: Mapping[str, str]

    @property
    def ours(self) -> bool:
        """Whether it is this project's."""
        return self.package == "igspad_jax"


def _ours(name: str, runs_on: str) -> Program:
    environment = {"IGSPAD_JAX_COMPOSITOR": name}
    adapter = "benchmarking.ours"
    return Program(name, adapter, tuple(PARTS), runs_on, "igspad_jax", "", environment)


def _peer(name: str, runs_on: str, install: str, environment: Mapping[str, str]) -> Program:
    adapter = f"benchmarking.peer_{name}"
    return Program(name, adapter, _RASTERIZED, runs_on, name, install, environment)


# JAX makes the scene in all of them, and would take a GPU's memory away from PyTorch and Warp.
_WITHOUT_JAX = {"JAX_PLATFORMS": "cpu"}
PROGRAMS = {
    program.name: program
    for program in (
        _ours("xla", "any"),
        _ours("mosaic", "hopper"),
        _peer(
            "gsplat",
            "nvidia",
            "pip install torch gsplat ninja setuptools packaging; its first run needs CUDA's nvcc",
            _WITHOUT_JAX,
        ),
        _peer(
            "splax",
            "nvidia",
            "pip install splax",
            # It wants to be the first to import SciPy, unless this is set.
            {"SCIPY_ARRAY_API": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        ),
        _peer("torch", "any", "pip install -e .[bench]", _WITHOUT_JAX),
    )
}
REFERENCE = "xla"


def absence(program: Program, device: Mapping[str, Any]) -> str | None:
    """Why a program cannot run here, and what to do about it; None where it can.

    Args:
        program: the program.
        device: what `benchmarking.child.probe` found.
    """
    if program.runs_on != "any" and device["platform"] != "gpu":
        need = "an NVIDIA GPU" + (
            " of Hopper's kind or newer" if program.runs_on == "hopper" else ""
        )
        there = (
            f"it needs {need}, and JAX sees none here ({device['device']}); pip install -e .[cuda]"
        )
        return there + (f"; then {program.install}" if program.install else "")
    if program.runs_on == "hopper" and not device["hopper"]:
        return f"it needs an NVIDIA GPU of compute capability 9.0 or newer, not {device['device']}"
    if importlib.util.find_spec(program.package) is None:
        return f"it is not installed; {program.install}"
    return None


def is_hopper() -> bool:
    """Whether the compositor, left to itself, takes our kernels on the first device."""
    return resolve(None) == "mosaic"
