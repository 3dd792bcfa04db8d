"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from igspad_jax.errors import InputError


def write_whole(path: Path | str, write: Callable[[IO[bytes]], Any]) -> Path:
    """Writes a file in one step: a reader sees the old file or the new one, never a part.

    Args:
        path: the file; missing folders are made.
        write: writes the content to an open binary file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        partial = Path(file.name)
        try:
            write(file)
            file.close()
            # Temporary files are private; the finished one has the permissions of any other.
            partial.chmod(0o644)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    return path


def write_json(path: Path | str, content: Any) -> Path:
    """Writes JSON in one step; NumPy values as JSON's own, what is not finite as null."""
    text = json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
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


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
