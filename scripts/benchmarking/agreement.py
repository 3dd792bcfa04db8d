"""Whether a program draws what the XLA path draws.

Rounding decides a few alphas at the cut of 1/255 and the order of equal depths, so that a few
pixels jump whoever draws them. An image agrees if no more than a small share of its pixels differ
by more than a tolerance, and none by much. Other arrays agree if the norm of the difference is
small beside the array's.

Depths moved by one unit in their last place, which changes the order of splats nearly as deep as
each other, moved pixels of this benchmark's scene by up to 0.009 with 50,000 Gaussians at 400
pixels, and with 500,000 at 800 by up to 0.05: 0.3 % of them by more than 1e-4, 0.03 % by more than
4e-3. Peers round depths in their own way, so no single pixel condemns them. Our programs share
projection and sorting; should they be marked there, look at the depths first.

Peers stop a pixel *before* the splat that would leave less than 1e-4 of its light, so up to
1e-4 / (1 - 0.95) = 2e-3 of it goes missing there: their tolerances are wider than those of our own
kernels.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from igspad_jax.files import write_whole


class Tolerance(NamedTuple):
    """What still counts as agreement.

    Attributes:
        pixel: difference of a pixel that needs no excuse.
        jumping: share of the pixels that may differ by more.
        jump: largest difference of any pixel.
        norm: of the difference of gradients and other arrays, over the array's norm.
    """

    pixel: float
    jumping: float
    jump: float
    norm: float


OURS = Tolerance(pixel=1e-4, jumping=1e-3, jump=2e-2, norm=1e-3)
PEERS = Tolerance(pixel=4e-3, jumping=2e-3, jump=0.25, norm=2e-2)


def compare(
    checked: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], tolerance: Tolerance
) -> dict[str, Any]:
    """Compares named arrays with those of the same names.

    Args:
        checked: the program's; "images" are [..., H, W, 3].
        reference: the XLA path's.
        tolerance: see there.

    Returns:
        "agrees", None where there is nothing to compare, and "differences" by name: "largest", of
        images "beyond", the share of pixels beyond the tolerance, of other arrays "norm".

    Raises:
        ValueError: two arrays of one name differ in shape.
    """
    differences, agrees = {}, []
    for name in sorted(checked.keys() & reference.keys()):
        got, expected = (np.asarray(part[name], np.float64) for part in (checked, reference))
        if got.shape != expected.shape:
            raise ValueError(f"{name}: shape {got.shape}, the XLA path has {expected.shape}")
        apart = np.abs(got - expected)
        found = {"largest": float(apart.max(initial=0.0))}
        if name == "images":
            found["beyond"] = float(np.mean(apart.max(axis=-1) > tolerance.pixel))
            near = found["beyond"] <= tolerance.jumping and found["largest"] <= tolerance.jump
        else:
            norm = np.linalg.norm(got - expected) / max(np.linalg.norm(expected), 1e-30)
            found["norm"] = float(norm)
            near = found["norm"] <= tolerance.norm  # not so for NaN
        differences[name] = found
        agrees.append(bool(near))
    return {"agrees": all(agrees) if agrees else None, "differences": differences}


def save_reference(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Keeps the XLA path's arrays of one part."""
    write_whole(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def load_reference(path: Path) -> dict[str, np.ndarray]:
    """The arrays kept by `save_reference`; none where there are none."""
    if not path.exists():
        return {}
    with np.load(path) as arrays:
        return dict(arrays)
