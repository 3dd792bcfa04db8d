"""What the commands on data folders share: their flags and settings, parsed before any work."""

import dataclasses
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, cast

import ml_collections
from absl import flags
from ml_collections import config_flags

from igspad_jax.commands.launch import CLUSTER_HELP, launch
from igspad_jax.errors import InputError
from igspad_jax.networks.weight_sets import EXTRACTORS
from igspad_jax.settings import Settings, check_name, filled, settings_help

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_FLAGS = {
    "data": "Folder of a category, or of several categories (MAD's layout); needed.",
    "run": "Folder for the results, a subfolder a category; needed.",
    "category": "Names of the categories to take, separated by commas; all if not given.",
    "scene": "A .ply scene trained elsewhere, to take instead of training one.",
    "points": "A .ply point cloud to start the training from, in the cameras' world.",
    "normals": "Folder of further normal photographs, without poses, to calibrate on; the "
    "category's folder normals if not given.",
    "ray": CLUSTER_HELP,
}
# Flags that stand for a setting.
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


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What a command on data folders was asked for.

    Attributes:
        data: folder of a category, or of several.
        run: folder for the results.
        settings: of the run, as given: "auto" is not resolved yet.
        category: names of the categories to take; all if empty.
        overwrite: whether to replace an object made with other settings.
        scene: a `.ply` scene to take instead of training one.
        points: a `.ply` cloud to start the training from.
        normals: folder of further normal photographs.
        ray: a Ray cluster; None for this process.
    """

    data: Path
    run: Path
    settings: Settings = dataclasses.field(default_factory=Settings)
    category: tuple[str, ...] = ()
    overwrite: bool = False
    scene: Path | None = None
    points: Path | None = None
    normals: Path | None = None
    ray: str | None = None

    def __post_init__(self) -> None:
        """Check that the arguments fit each other.

        Raises:
            InputError: for --scene and --points together.
        """
        if self.scene and self.points:
            raise InputError("--scene and --points exclude each other: give one of them")


def run_stage(main: Callable[[Arguments], None], takes: Collection[str] = ()) -> None:
    """Run a command on data folders; errors are one line. Never returns.

    Args:
        main: the command.
        takes: which of the flags --scene, --points, --normals and --ray it has.
    """
    module = sys.modules[main.__module__]
    names = ["data", "run", "category", *takes]
    for name in names:
        flags.DEFINE_string(name, None, _FLAGS[name])
    flags.DEFINE_bool("overwrite", False, "Replace an object made with other settings.")
    for name, (setting, what) in _SHORT.items():
        flags.DEFINE_string(name, None, f"{what} Short for --config.{setting}.")
    base = []

    def prepare(argv: list[str]) -> list[str]:
        path, argv = _take_config(argv)
        for name, (setting, _) in _SHORT.items():
            argv = [re.sub(rf"^--?{name}(=|$)", rf"--config.{setting}\1", a) for a in argv]
        for argument in argv:
            if found := re.match(r"--?(?:no)?config\.([^=]+)", argument):
                check_name(Settings, found[1])
        base.append(load_config(path))
        config_flags.DEFINE_config_dict(
            "config",
            ml_collections.ConfigDict(dataclasses.asdict(base[0])),
            f"Settings: {', '.join(sorted(p.stem for p in CONFIGS.glob('*.py')))}, or a file of "
            "your own. Single ones are set by, for example, --config.train.steps=2000; --help "
            "lists all, with the values of the file given by --config.",
            sys_argv=argv,
        )
        flags.FLAGS["config"].default_as_str = "default"
        for name in ("config", "overwrite", *names, *_SHORT):
            flags.FLAGS.register_key_flag_for_module(module.__name__, flags.FLAGS[name])
        return argv

    def parsed() -> None:
        main(_arguments(names))

    parsed.__module__ = main.__module__
    launch(parsed, prepare, more_help=lambda: settings_help(base[0]) + "\n")


def _arguments(names: Collection[str]) -> Arguments:
    """The arguments, after the flags are parsed."""
    values: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    for name, what in (
        ("data", "the folder of a category, or of several"),
        ("run", "a folder for the results"),
    ):
        if not values[name]:
            raise InputError(f"--{name} is missing: give {what}")
    for name in {"data", "run", "scene", "points", "normals"} & values.keys():
        values[name] = Path(values[name]) if values[name] else None
    values["category"] = tuple(filter(None, (values["category"] or "").split(",")))
    values["overwrite"] = flags.FLAGS["overwrite"].value
    config = cast(ml_collections.ConfigDict, flags.FLAGS["config"].value)
    return Arguments(**values, settings=filled(Settings, config.to_dict()))


def load_config(path: Path) -> Settings:
    """Run a config file, whose `get_config()` returns `Settings` or a ConfigDict of some of them.

    Raises:
        InputError: if it is missing, fails, or holds settings that do not exist.
    """
    named = CONFIGS / f"{path}.py"
    if not path.is_file() and named.is_file():
        path = named
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.py")))
        raise InputError(f"{path}: no such config file; there are also the names {names}")
    try:
        config = runpy.run_path(str(path))["get_config"]()
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if _same(f, path)]
        where = f"{path}, line {lines[-1]}" if lines else f"{path}"
        words = " ".join(str(error).split())
        raise InputError(f"{where}: {type(error).__name__}: {words}; correct the file") from error
    if isinstance(config, Settings):
        values = dataclasses.asdict(config)
    elif isinstance(config, ml_collections.ConfigDict):
        values = config.to_dict()
    else:
        kind = type(config).__name__
        raise InputError(f"{path}: get_config() returns a {kind}, not Settings; correct it")
    try:
        return filled(Settings, values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _same(frame: traceback.FrameSummary, path: Path) -> bool:
    return Path(frame.filename) == path


def _take_config(argv: list[str]) -> tuple[Path, list[str]]:
    """The config file that a command line names, and the rest of the line."""
    path, left, i = Path("default"), [], 0
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
