"""Reading checkpoints: safetensors, and what `torch.save` writes, without torch.

A file of `torch.save` is a pickle, which names the functions that its reader should call. This
reader accepts only those that rebuild tensors and records their arguments instead of calling them;
the arrays are made afterwards.
"""

import functools
import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file

from igspad_jax.errors import InputError
from igspad_jax.files import read_json

_SUFFIXES = {".safetensors", ".pth", ".pt", ".bin"}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    # Importing ml_dtypes is also what lets safetensors give bfloat16 as NumPy arrays.
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


def read_checkpoint(path: Path | str) -> dict[str, np.ndarray]:
    """Reads the named tensors of a checkpoint.

    Args:
        path: a .safetensors file; a file of `torch.save` that holds a dictionary of tensors, or one
            such dictionary beside numbers and text; or a folder with model.safetensors, with the
            parts that model.safetensors.index.json lists, or with a single checkpoint.

    Returns:
        The tensors as they were saved, float16 and bfloat16 as float32.

    Raises:
        InputError: if there is no checkpoint, or it is damaged, or holds anything but tensors.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        elif zipfile.is_zipfile(path):
            tensors = _read_zip(path)
        else:
            tensors = _read_legacy(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give a checkpoint's file or folder") from error
    except Exception as error:  # a damaged pickle can raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{path}: cannot be read as a checkpoint ({reason}); fetch it again, or save it again "
            "as .safetensors or with torch.save(model.state_dict(), file)"
        ) from error
    return {name: _widened(tensor) for name, tensor in tensors.items()}


def _widened(tensor: np.ndarray) -> np.ndarray:
    return tensor.astype(np.float32) if tensor.dtype in (np.float16, ml_dtypes.bfloat16) else tensor


def _read_folder(folder: Path) -> dict[str, np.ndarray]:
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if not whole.exists() and index.exists():
        match read_json(index, "fetch it again"):
            case {"weight_map": dict(parts)}:
                files = [folder / str(part) for part in sorted(set(parts.values()))]
            case _:
                raise InputError(f"{index}: lists no tensors under weight_map; fetch it again")
    else:
        files = [whole] if whole.exists() else _checkpoints(folder)
    return {name: tensor for file in files for name, tensor in read_checkpoint(file).items()}


def _checkpoints(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES)
    if len(files) != 1:
        raise InputError(
            f"{folder}: {len(files)} checkpoints ({', '.join(sorted(_SUFFIXES))}) where one is "
            "needed; give the file itself"
        )
    return files


class _Storage(NamedTuple):
    """A block of numbers that tensors look into.

    Attributes:
        key: its name in the file.
        kind: a name of `_DTYPES`.
    """

    key: str
    kind: str


class _Tensor(NamedTuple):
    """A tensor as a pickle describes it; offset and strides count elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self, content: Callable[[str], bytes]) -> np.ndarray:
        """The tensor; `content` gives the bytes of a storage by its key.

        Raises:
            ValueError: if it reaches beyond its storage.
        """
        dtype = _DTYPES[self.storage.kind]
        if 0 in self.size:
            return np.empty(self.size, dtype)
        offset, *strides = (dtype.itemsize * count for count in (self.offset, *self.stride))
        block = content(self.storage.key)
        if not block:  # NumPy checks the reach of strides, but not in an empty buffer
            raise ValueError("a tensor in an empty storage")
        return np.asarray(np.ndarray(self.size, dtype, block, offset, strides), order="C")


class _Unpickler(pickle.Unpickler):
    """An unpickler that can name tensors, their storages and dictionaries.

    Whatever a pickle names it can also try to alter, so it is given nothing that alters: strings,
    bound methods, and a built-in class.

    Attributes:
        storages: those that were met.
    """

    def __init__(self, file: IO[bytes]):
        super().__init__(file)
        self.storages: set[_Storage] = set()

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for; any other name ends the reading."""
        match module, name:
            case "torch", _ if name in _DTYPES:
                return name
            case "torch._utils", "_rebuild_tensor_v2":
                return self._tensor
            case "torch._utils", "_rebuild_parameter":
                return self._parameter
            case "collections", "OrderedDict":
                return OrderedDict
        raise pickle.UnpicklingError(f"it names {module}.{name}, no part of a tensor; nothing ran")

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage of an identifier ("storage", kind, key, device, count[, view])."""
        what, kind, key, _, _, *view = pid
        if what != "storage" or any(view):
            raise pickle.UnpicklingError(f"a storage of an unknown sort: {pid}")
        storage = _Storage(key, kind)
        self.storages.add(storage)
        return storage

    def _tensor(self, storage: _Storage, offset: int, size: Any, stride: Any, *_: Any) -> _Tensor:
        return _Tensor(storage, offset, size, stride)

    def _parameter(self, tensor: _Tensor, *_: Any) -> _Tensor:
        return tensor


def _named_tensors(content: Any) -> dict[str, _Tensor]:
    values = content.items() if isinstance(content, dict) else ()
    tensors = {str(name): value for name, value in values if isinstance(value, _Tensor)}
    inner = [value for _, value in values if isinstance(value, dict)]
    if tensors and not inner:
        return tensors
    if len(inner) == 1 and not tensors:
        return _named_tensors(inner[0])
    raise ValueError("not one dictionary of tensors")


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    """The format since PyTorch 1.6: a pickle, and a file for each storage."""
    with zipfile.ZipFile(path) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        tensors = _named_tensors(_Unpickler(io.BytesIO(archive.read(pickled))).load())
        folder = pickled.removesuffix("data.pkl") + "data"
        content = functools.cache(lambda key: archive.read(f"{folder}/{key}"))
        return {name: tensor.array(content) for name, tensor in tensors.items()}


def _read_legacy(path: Path) -> dict[str, np.ndarray]:
    """The format before: five pickles, then the storages in the order that the last one lists."""

    with path.open("rb") as file:
        if _Unpickler(file).load() != _LEGACY_MAGIC:
            raise ValueError("not a file of torch.save")
        for _ in ("version", "machine"):
            _Unpickler(file).load()
        unpickler = _Unpickler(file)
        tensors = _named_tensors(unpickler.load())
        kinds, content = dict(unpickler.storages), {}
        for key in _Unpickler(file).load():
            count = int.from_bytes(file.read(8), "little")
            content[key] = file.read(count * _DTYPES[kinds[key]].itemsize)
    return {name: tensor.array(content.__getitem__) for name, tensor in tensors.items()}
