"""Scenes in the `.ply` layout of 3D Gaussian Splatting, which viewers and trainers share.

Written as little-endian float32 vertices: x y z, nx ny nz, f_dc_0..2, f_rest_* (channel by
channel), opacity (a logit), scale_0..2 (logarithms), rot_0..3 (wxyz).
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from plyfile import PlyData, PlyElement, PlyParseError

from igspad_jax.errors import InputError
from igspad_jax.files import write_whole
from igspad_jax.scene.gaussians import Gaussians

_REST_OF_DEGREE = {0: 0, 1: 9, 2: 24, 3: 45}


def _names(rest: int) -> list[str]:
    return (
        ["x", "y", "z", "nx", "ny", "nz"]
        + [f"f_dc_{i}" for i in range(3)]
        + [f"f_rest_{i}" for i in range(rest)]
        + ["opacity"]
        + [f"scale_{i}" for i in range(3)]
        + [f"rot_{i}" for i in range(4)]
    )


def write_ply(path: Path, gaussians: Gaussians) -> None:
    """Writes a scene, padded with zeros to degree 3, which some viewers insist on."""
    count = len(gaussians)
    sh = np.zeros((count, 16, 3), np.float32)
    sh[:, : gaussians.sh.shape[1]] = np.asarray(gaussians.sh)
    rest = np.swapaxes(sh[:, 1:], 1, 2).reshape(count, 45)
    columns = [
        np.asarray(gaussians.means),
        np.zeros((count, 3)),
        sh[:, 0],
        rest,
        np.asarray(gaussians.opacity_logits)[:, None],
        np.asarray(gaussians.log_scales),
        np.asarray(gaussians.quats),
    ]
    rows = np.concatenate(columns, axis=1).astype("<f4")
    record = np.dtype([(name, "<f4") for name in _names(45)])
    vertices = PlyElement.describe(rows.view(record)[:, 0], "vertex")
    write_whole(path, PlyData([vertices], byte_order="<").write)


def _vertices(path: Path) -> np.ndarray:
    """The vertices of a file as a structured array [N] of numbers."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the path of a .ply file")
    try:
        vertices = PlyData.read(path)["vertex"].data
    except KeyError:
        raise InputError(f"{path}: has no element 'vertex'; give a cloud or a scene") from None
    except (PlyParseError, ValueError, IndexError, OverflowError, OSError) as error:
        words = " ".join(str(error).split())
        raise InputError(
            f"{path}: not a .ply file, or a damaged one ({words}); copy it again, or give another"
        ) from error
    if not len(vertices):
        raise InputError(f"{path}: has no vertices; give another file")
    lists = [name for name in vertices.dtype.names or () if vertices.dtype[name].kind == "O"]
    if lists:
        raise InputError(f"{path}: property {lists[0]!r} is a list, not a number")
    return vertices


def read_points(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads a point cloud, such as structure from motion leaves.

    Returns:
        Points [N, 3] in the file's units and colours [N, 3] in [0, 1], grey where it has none.

    Raises:
        InputError: if the file is missing, cut short, or holds no finite points.
    """
    vertices = _vertices(path)
    names = vertices.dtype.names or ()
    if not {"x", "y", "z"} <= set(names):
        raise InputError(f"{path}: its vertices have no x, y and z; give a point cloud")
    points = np.stack([vertices[axis] for axis in "xyz"], axis=-1).astype(np.float64)
    if not np.isfinite(points).all():
        raise InputError(f"{path}: holds points that are not finite; clean the cloud")
    channels = ("red", "green", "blue")
    if not set(channels) <= set(names):
        return points, np.full(points.shape, 0.5)
    rgb = np.stack([vertices[channel] for channel in channels], axis=-1)
    return points, rgb / 255.0 if rgb.dtype.kind in "ui" else rgb.astype(np.float64)


def read_ply(path: Path) -> Gaussians:
    """Reads a scene trained anywhere; the degree follows from the number of coefficients.

    Raises:
        InputError: if the file is missing, cut short, or not a Gaussian scene.
    """
    vertices = _vertices(path)
    count, names = len(vertices), set(vertices.dtype.names or ())
    rest = sum(name.startswith("f_rest_") for name in names)
    if rest not in _REST_OF_DEGREE.values():
        raise InputError(f"{path}: {rest} f_rest coefficients fit no degree from 0 to 3")
    missing = [n for n in _names(rest) if n not in names and not n.startswith("n")]
    if missing:
        raise InputError(f"{path}: not a Gaussian scene, it lacks {', '.join(missing)}")

    def stack(prefix, size):
        return np.stack([vertices[f"{prefix}_{i}"] for i in range(size)], axis=-1)

    sh = stack("f_dc", 3)[:, None]
    if rest:
        coefficients = stack("f_rest", rest).reshape(count, 3, rest // 3)
        sh = np.concatenate([sh, np.swapaxes(coefficients, 1, 2)], axis=1)
    means = np.stack([vertices[axis] for axis in "xyz"], axis=-1)
    arrays = (means, stack("scale", 3), stack("rot", 4), vertices["opacity"], sh)
    with np.errstate(over="ignore"):  # a double too large becomes infinite, and is reported
        gaussians = Gaussians(*(jnp.asarray(a, jnp.float32) for a in arrays))
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gaussians)):
        raise InputError(f"{path}: holds numbers that are not finite; the training diverged")
    return gaussians
