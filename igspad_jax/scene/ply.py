"""Scenes in the `.ply` layout of 3D Gaussian Splatting, which viewers and trainers share.

Little-endian float32 vertices: x y z, nx ny nz, f_dc_0..2, f_rest_* (channel by channel), opacity
(a logit), scale_0..2 (logarithms), rot_0..3 (wxyz).
"""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.errors import InputError
from igspad_jax.files import write_whole
from igspad_jax.scene.gaussians import Gaussians

_REST_OF_DEGREE = {0: 0, 1: 9, 2: 24, 3: 45}
_TYPES = {"float": "<f4", "float32": "<f4", "double": "<f8", "float64": "<f8", "uchar": "u1",
          "uint8": "u1", "char": "i1", "int8": "i1", "short": "<i2", "int16": "<i2",
          "ushort": "<u2", "uint16": "<u2", "int": "<i4", "int32": "<i4", "uint": "<u4",
          "uint32": "<u4"}  # fmt: skip


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
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    header += [f"property float {name}" for name in _names(45)] + ["end_header", ""]
    body = np.concatenate(columns, axis=1).astype("<f4").tobytes()
    write_whole(path, lambda file: file.write("\n".join(header).encode() + body))


def _vertices(path: Path, header: str) -> tuple[int, np.dtype]:
    """Number of vertices and their record type."""
    count, fields, element = 0, [], ""
    for line in header.splitlines():
        words = line.split()
        if words[:1] == ["format"] and words[1] != "binary_little_endian":
            raise InputError(
                f"{path}: format {words[1]} is not supported; save it as binary_little_endian"
            )
        if words[:1] == ["element"]:
            if element == "" and words[1] != "vertex":
                raise InputError(f"{path}: its first element is {words[1]!r}, not 'vertex'")
            element = words[1]
            if element == "vertex":
                count = int(words[2])
        if words[:1] == ["property"] and element == "vertex":
            if words[1] not in _TYPES:
                raise InputError(
                    f"{path}: property {words[-1]!r} has type {words[1]!r}, not a number"
                )
            fields.append((words[2], _TYPES[words[1]]))
    if count < 1:
        raise InputError(f"{path}: has no vertices; give another file")
    return count, np.dtype(fields)


def _header(path: Path, data: bytes) -> tuple[int, np.dtype, int]:
    """Number of vertices, their record type and where they start."""
    end = re.search(rb"end_header\r?\n", data)
    if not data.startswith(b"ply") or end is None:
        raise InputError(f"{path}: not a .ply file; give another file")
    try:
        count, record = _vertices(path, data[: end.start()].decode("ascii", "replace"))
    except (IndexError, ValueError) as error:
        raise InputError(f"{path}: its header is damaged; copy it again") from error
    return count, record, end.end()


def _records(path: Path) -> np.ndarray:
    """The vertices of a file as a structured array [N]."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the path of a .ply file")
    data = path.read_bytes()
    count, record, start = _header(path, data)
    if len(data) < start + count * record.itemsize:
        held = (len(data) - start) // max(record.itemsize, 1)
        raise InputError(f"{path}: cut short, {held} of {count} vertices are there; copy it again")
    return np.frombuffer(data, record, count, start)


def read_points(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads a point cloud, such as structure from motion leaves.

    Returns:
        Points [N, 3] in the file's units and colours [N, 3] in [0, 1], grey where it has none.

    Raises:
        InputError: if the file is missing, cut short, or holds no finite points.
    """
    vertices = _records(path)
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
    vertices = _records(path)
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
