"""What the scripts of the stages share: flags, settings, and the loop over categories."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import ml_collections
from absl import flags
from ml_collections import config_flags

from igspad_jax.compilation import use_compilation_cache
from igspad_jax.data import Category, list_categories, read_category
from igspad_jax.detect import EXTRACTORS
from igspad_jax.errors import InputError
from igspad_jax.inspector import resolve
from igspad_jax.launch import launch
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.settings import Settings, config_from, settings_from
from igspad_jax.settings import check_name, setting_names
from igspad_jax.workers import CLUSTER_HELP, run_tasks

_DATA = flags.DEFINE_string(
    "data", None, "Folder of a category, or of several categories (MAD's layout); needed."
)
_RUN = flags.DEFINE_string("run", None, "Folder for the results, a subfolder a category; needed.")
_CATEGORY = flags.DEFINE_list(
    "category", [], "Names of the categories to take, separated by commas; all if empty."
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace an object that was trained with other settings."
)
_FILES = {
    "scene": "A .ply scene trained elsewhere, to take instead of training one.",
    "points": "A .ply point cloud to start the training from, in the cameras' world.",
}
_NORMALS = flags.DEFINE_string(
    "normals",
    None,
    "Folder of further normal photographs, without poses, to calibrate on; the category's folder "
    "normals if not given.",
)
_SHORT = {
    "matcher": ("match.matcher", "Point matcher: auto, opencv, aliked, superpoint or xfeat."),
    "weights": (
        "weights.sources",
        "NAME=SOURCE,...: files, folders or cached repositories with weights to use instead of the "
        "fetched ones.",
    ),
    "false_alarm_rate": (
        "calibrate.false_alarm_rate",
        "Share of normal images that may be called defective.",
    ),
    "features": ("detect.features", f"auto, or extractors joined by *: {', '.join(EXTRACTORS)}."),
}
_CONFIG_HELP = (
    "File of settings; single ones are set by, for example, --config.train.steps=2000. There are "
)


def _given(flag: flags.FlagHolder[str | None], what: str) -> Path:
    if not flag.value:
        raise InputError(f"--{flag.name} is missing: give {what}")
    return Path(flag.value)


def run_root() -> Path:
    """The folder given by --run."""
    return _given(_RUN, "a folder for the results")


def cluster() -> str | None:
    """The Ray cluster given by --ray."""
    return flags.FLAGS["ray"].value


def overwrite() -> bool:
    """Whether --overwrite is on."""
    return _OVERWRITE.value


def settings() -> Settings:
    """The settings of --config and its overrides, with names in the place of "auto"."""
    given = settings_from(cast(ml_collections.ConfigDict, flags.FLAGS["config"].value))
    found = resolve(given.inspector, given.weights.by_name)
    return dataclasses.replace(given, match=found.match, detect=found.detect)


def given_files() -> dict[str, Path | None]:
    """The files given by --scene and --points, by the arguments of `train_category`.

    Raises:
        InputError: for both, or if several categories would get the same one.
    """
    given = {name: flags.FLAGS[name].value for name in _FILES}
    named = [f"--{name}={value}" for name, value in given.items() if value]
    if len(named) > 1:
        raise InputError(f"{' and '.join(named)} exclude each other: give one of them")
    if named and len(category_roots()) > 1:
        raise InputError(f"{named[0]} is for one category: name it with --category")
    return {name: Path(value) if value else None for name, value in given.items()}


def normals() -> Path | None:
    """The folder given by --normals.

    Raises:
        InputError: if several categories would get it.
    """
    if _NORMALS.value and len(category_roots()) > 1:
        raise InputError("--normals is for one category: name it with --category")
    return Path(_NORMALS.value) if _NORMALS.value else None


def category_roots() -> list[Path]:
    """The category folders that --data and --category name.

    Raises:
        InputError: for a folder that is none, or names that are not there.
    """
    data = _given(_DATA, "the folder of a category, or of several")
    # Resolved, for "." has no name.
    roots = {root.resolve().name: root for root in list_categories(data)}
    unknown = [name for name in _CATEGORY.value if name not in roots]
    if unknown:
        raise InputError(f"{data} has no category {', '.join(unknown)}; it has {', '.join(roots)}")
    return [root for name, root in roots.items() if not _CATEGORY.value or name in _CATEGORY.value]


def each_category(
    work: Callable[[Category, RunFolder], None], cluster: str | None = None
) -> Iterator[tuple[Category, RunFolder]]:
    """Call `work` with every category and its run folder.

    One that fails stops no other.

    Args:
        work: a stage, or several.
        cluster: for `run_tasks`.

    Yields:
        The categories that went well, as they end. What was wrong with others is printed.

    Raises:
        InputError: for flags that name no category; at the end, if categories failed.
    """
    results, roots, failed = run_root(), category_roots(), []
    for root, outcome in run_tasks(functools.partial(_done, work, results), roots, cluster):
        name = root.resolve().name
        if not isinstance(outcome, InputError):
            yield outcome
        elif len(roots) == 1:
            raise InputError(f"{name}: {outcome}") from outcome
        else:
            print(f"error: {name}: {outcome}", file=sys.stderr)
            failed.append(name)
    if failed:
        raise InputError(f"these categories failed, for the reasons above: {', '.join(failed)}")


def _done(
    work: Callable[[Category, RunFolder], None], results: Path, root: Path
) -> tuple[Category, RunFolder]:
    category, folder = read_category(root), RunFolder(results / root.resolve().name)
    work(category, folder)
    return category, folder


def evaluated() -> dict[str, tuple[Category, RunFolder]]:
    """The categories whose results are in the run's folder already, by name."""
    found = {}
    for root in category_roots():
        name = root.resolve().name
        folder = RunFolder(run_root() / name)
        try:
            folder.load("metrics")
            found[name] = read_category(root), folder
        except InputError:  # nothing of it yet, or nothing that can be read
            continue
    return found


def load_config(path: Path) -> Settings:
    """Runs a config file.

    Raises:
        InputError: if it is missing, fails, or holds settings that do not exist.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such config file; configs/ holds some")
    try:
        config = runpy.run_path(str(path))["get_config"]()
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if _same(f, path)]
        where = f"{path}, line {lines[-1]}" if lines else f"{path}"
        words = " ".join(str(error).split())
        raise InputError(f"{where}: {type(error).__name__}: {words}; correct the file") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(
            f"{path}: get_config() returns a {type(config).__name__}, not a ConfigDict; correct it"
        )
    try:
        return settings_from(config)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _same(frame: traceback.FrameSummary, path: Path) -> bool:
    return Path(frame.filename) == path


def _take_config(argv: list[str], default: Path) -> tuple[Path, list[str]]:
    """The config file that a command line names, and the rest of the line."""
    path, left, i = default, [], 0
    while i < len(argv):
        if argv[i] in ("-config", "--config"):
            if i + 1 == len(argv):
                raise InputError("--config needs a file: give --config=FILE")
            i += 1
            path = Path(argv[i])
        elif found := re.fullmatch(r"--?config=(.*)", argv[i]):
            path = Path(found[1])
        else:
            left.append(argv[i])
        i += 1
    return path, left


def run_script(
    main: Callable[[], None],
    *,
    takes_files: bool = False,
    takes_normals: bool = False,
    takes_cluster: bool = False,
) -> None:
    """Runs a stage's script: parses the flags that all of them share, prints errors in one line.

    Args:
        main: the script.
        takes_files: whether it has the flags --scene and --points.
        takes_normals: whether it has the flag --normals.
        takes_cluster: whether it has the flag --ray.
    """
    names = ["data", "run", "config", "category", "overwrite"]
    names += ["normals"] if takes_normals else []
    for name, (setting, what) in _SHORT.items():
        flags.DEFINE_string(name, None, f"{what} Short for --config.{setting}.")
        names.append(name)
    if takes_cluster:
        flags.DEFINE_string("ray", None, CLUSTER_HELP)
        names.append("ray")
    if takes_files:
        for name, what in _FILES.items():
            flags.DEFINE_string(name, None, what)
        names.extend(_FILES)
    # Beside the scripts, wherever the package is installed.
    default = Path(inspect.getfile(main)).resolve().parents[1] / "configs" / "default.py"

    def prepare(argv: list[str]) -> list[str]:
        path, argv = _take_config(argv, default)
        for name, (setting, _) in _SHORT.items():
            argv = [re.sub(rf"^--?{name}(=|$)", rf"--config.{setting}\1", a) for a in argv]
        for argument in argv:
            if found := re.match(r"--?(?:no)?config\.([^=]+)", argument):
                check_name(Settings, found[1])
        config_flags.DEFINE_config_dict(
            "config",
            config_from(load_config(path)),
            _CONFIG_HELP + setting_names(Settings),
            sys_argv=argv,
        )
        flags.FLAGS["config"].default_as_str = "configs/default.py"
        for name in names:
            flags.FLAGS.register_key_flag_for_module(argv[0], flags.FLAGS[name])
        return argv

    def cached() -> None:
        use_compilation_cache()
        main()

    launch(cached, prepare)
