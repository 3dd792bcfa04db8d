"""The least time that a part could take on a device, from counted work.

A model, not a measurement: the larger of two bounds, each of which ignores the other, and all
latency, launches and sorting beyond what is named here.

**Issue.** A multiprocessor issues an instruction for one warp of 32 threads on each of its four
schedulers every cycle. Work is counted as pairs of a splat and a tile of 16 x 16 pixels, after
the exact test of the splat's ellipse against the tile, times 256 pixels, times instructions for a
pixel and a splat. The latter are those of our own kernels as compiled (docs/kernels.md gives them
for a thread, which has two pixels): 70 / 2 forward, (74 + 328) / 2 more for the gradient, 211 / 2
more for normal equations and for the Jacobian, of colours that do not depend on the view. Kernels
that need fewer instructions, or that stop early where no light is left, can beat this bound; a
share above 1 is then no error.

**Memory.** Numbers of four bytes, each counted as often as it must cross between memory and
multiprocessors: parameters in; splats (mean 2, conic 3, opacity, four features: 10 numbers) out and
in; for each pair a key out and in, and the splat's numbers in; images out. The gradient: splats of
the pairs in once more, ten numbers for each pair out and in, the splats' gradients out and in,
images in, the parameters' gradients out. Normal equations: splats of the pairs in once more, the
splats' tangents (five numbers by six parameters) out, and in for each pair; images in. The
Jacobian: the same, but for 18 numbers a pixel out. A training step: the gradient of its images, two
reads and three writes a parameter by Adam, and D-SSIM. D-SSIM alone: images in, five maps of means
for each channel out and in, as many on the way back, a gradient out.

Parts that mostly run on the host have no bound. Only devices whose peaks are written here have one.
"""

from typing import NamedTuple

TILE_SIDE = 16
_PIXELS = TILE_SIDE * TILE_SIDE
_WARP, _ISSUED = 32, 4  # threads, warp instructions a cycle of a multiprocessor
_FLOAT = 4  # bytes
_SPLAT = 10  # numbers
_TANGENTS = 5 * 6  # numbers
_GEOMETRY = 3 + 3 + 4 + 1  # parameters of a Gaussian beside its harmonics
_CHANNELS = 4  # of a composited image: colour and transmittance

_FORWARD, _GRADIENT, _DERIVATIVES = 70 / 2, (74 + 328) / 2, 211 / 2
_INSTRUCTIONS = {  # a pixel and splat
    "forward": _FORWARD,
    "backward": _FORWARD + _GRADIENT,
    "pose": _FORWARD + _DERIVATIVES,
    "jacobian": _FORWARD + _DERIVATIVES,
    "train": _FORWARD + _GRADIENT,
    "dssim": 0.0,
}


class Peaks(NamedTuple):
    """What a device can do.

    Attributes:
        processors: multiprocessors.
        hertz: their clock under load.
        bytes_s: of its memory.
    """

    processors: int
    hertz: float
    bytes_s: float


# By the name that JAX gives the device; the clock is a usual one under load, not the boost.
PEAKS = {
    "NVIDIA H100 80GB HBM3": Peaks(132, 1.7e9, 3.35e12),
    "NVIDIA H200": Peaks(132, 1.7e9, 4.8e12),
}


class Work(NamedTuple):
    """What is drawn.

    Attributes:
        gaussians: in the scene.
        coefficients: of the harmonics of a Gaussian, each channel.
        trained_coefficients: the same in a training.
        batch: images.
        pixels: of one image.
        pairs: of a splat and a 16 x 16 tile that it touches, all images together.
    """

    gaussians: int
    coefficients: int
    trained_coefficients: int
    batch: int
    pixels: int
    pairs: int


class Bound(NamedTuple):
    """The least milliseconds, and what sets them: "issue" or "memory"."""

    ms: float
    limit: str


def _bytes(part: str, work: Work) -> float:
    coefficients = work.trained_coefficients if part == "train" else work.coefficients
    parameters = work.gaussians * (_GEOMETRY + 3 * coefficients)
    splats = work.batch * work.gaussians * _SPLAT
    images = work.batch * work.pixels
    tangents = work.batch * work.gaussians * _TANGENTS + work.pairs * _TANGENTS
    forward = parameters + 2 * splats + work.pairs * (2 + _SPLAT) + images * _CHANNELS
    backward = forward + work.pairs * 3 * _SPLAT + 2 * splats + images * _CHANNELS + parameters
    dssim = images * 3 * (2 + 5 * 2 + 5 * 2 + 1)
    numbers = {
        "forward": forward,
        "backward": backward,
        "pose": forward + tangents + work.pairs * _SPLAT + images * (_CHANNELS + 3 + 1),
        "jacobian": forward + tangents + work.pairs * _SPLAT + images * 18,
        "train": backward + 5 * parameters + dssim,
        "dssim": dssim,
    }
    return _FLOAT * numbers[part]


def bound(part: str, work: Work, device: str) -> Bound | None:
    """The roofline of a part.

    Args:
        part: see `benchmarking.programs.PARTS`.
        work: what is drawn.
        device: its name as JAX has it.

    Returns:
        None for a part or a device that the model does not know.
    """
    if device not in PEAKS or part not in _INSTRUCTIONS:
        return None
    peaks = PEAKS[device]
    rate = peaks.processors * peaks.hertz * _ISSUED * _WARP
    issue = work.pairs * _PIXELS * _INSTRUCTIONS[part] / rate
    memory = _bytes(part, work) / peaks.bytes_s
    return Bound(1e3 * max(issue, memory), "issue" if issue > memory else "memory")
