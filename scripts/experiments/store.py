"""Results that are made once: each is a file that repeats what it was made with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from igspad_jax.errors import InputError
from igspad_jax.files import read_json, write_json


def load_result(
    path: Path, made_with: Mapping[str, Any], *, overwrite: bool
) -> dict[str, Any] | None:
    """Read the result in a file; None where it is to be made.

    Args:
        path: the file.
        made_with: what the result depends on.
        overwrite: whether a result that was made with something else is to be replaced.

    Raises:
        InputError: for such a result where it is not, or for a damaged file.
    """
    if not path.is_file():
        return None
    result = read_json(path, "delete it to make it again")
    wanted = json.loads(json.dumps(made_with))
    old = result.get("made_with", {}) if isinstance(result, dict) else {}
    if old == wanted:
        return result
    if overwrite:
        return None
    other = [key for key in {**wanted, **old} if old.get(key) != wanted.get(key)]
    raise InputError(
        f"{path} was made with other settings ({', '.join(other)}); choose another --out folder, "
        "or give --overwrite to replace it"
    )


def save_result(
    path: Path, made_with: Mapping[str, Any], result: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a result, and return it as `load_result` will read it."""
    write_json(path, {"made_with": made_with, **result})
    return read_json(path, "delete it to make it again")
