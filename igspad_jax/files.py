"""Files that are written whole or not at all."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from igspad_jax.errors import InputError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place to write a file to, moved to `path` in one step if nothing is raised.

    A reader of `path` sees the old file or the new one, never a part. The place has the same
    suffix, since some writers choose a format by it.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        # mkstemp gives 0600; other users may read what a plain open() would let them read.
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path | str, write: Callable[[IO[bytes]], Any]) -> Path:
    """Writes a file in one step, as `whole_file`.

    Args:
        path: the file; missing folders are made.
        write: writes the content to an open binary file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial, partial.open("wb") as file:
        write(file)
    return path


def sha256(*paths: Path) -> str:
    """The SHA-256 of the contents of files, one after the other, in hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def digest_of(content: Any) -> str:
    """A short hash of what `write_json` would write of some content."""
    text = json.dumps(plain(content), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_json(path: Path | str, content: Any) -> Path:
    """Writes JSON in one step; NumPy and dataclasses as JSON's own, what is not finite as null."""
    text = json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return write_whole(path, lambda file: file.write(text.encode()))


def read_json(path: Path | str, remedy: str) -> Any:
    """Reads a JSON file.

    Args:
        path: the file.
        remedy: what to do where it cannot be read, for the error's end.

    Raises:
        InputError: if it is missing or damaged.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; {remedy}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {remedy}") from error


def plain(value: Any) -> Any:
    """Content as JSON can hold it; what is not finite as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
