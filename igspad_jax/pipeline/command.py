"""What all scripts share: flags, the loop over categories, and errors in one line."""

from __future__ import annotations

import logging as logging_module
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from igspad_jax.data import Category, list_categories, read_category
from igspad_jax.errors import InputError
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.settings import Settings, settings_from

_CONFIGS = Path(__file__).resolve().parents[2] / "configs"

_DATA = flags.DEFINE_string(
    "data", None, "Folder of a category, or of several categories (MAD's layout).", required=True
)
_RUN = flags.DEFINE_string(
    "run", None, "Folder for the results, one subfolder a category.", required=True
)
_CATEGORY = flags.DEFINE_list(
    "category", [], "Names of the categories to take, separated by commas; all if empty."
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace results that were made with other settings."
)
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    str(_CONFIGS / "default.py"),
    "File of settings; single ones are set by, for example, --config.train.steps=2000.",
)


def data_root() -> Path:
    """The folder given by --data."""
    return Path(_DATA.value)


def run_root() -> Path:
    """The folder given by --run."""
    return Path(_RUN.value)


def overwrite() -> bool:
    """Whether --overwrite is on."""
    return _OVERWRITE.value


def settings() -> Settings:
    """The settings of --config and its overrides."""
    return settings_from(_CONFIG.value)


def categories() -> list[tuple[Category, RunFolder]]:
    """The categories that --data and --category name, with their run folders.

    Raises:
        InputError: for a folder that is none, or names that are not there.
    """
    roots = list_categories(data_root())
    names = [root.name for root in roots]
    unknown = [name for name in _CATEGORY.value if name not in names]
    if unknown:
        raise InputError(
            f"{data_root()} has no category {', '.join(unknown)}; it has {', '.join(names)}"
        )
    wanted = [root for root in roots if not _CATEGORY.value or root.name in _CATEGORY.value]
    return [(read_category(root), RunFolder(run_root() / root.name)) for root in wanted]


def _parse(argv: list[str]) -> list[str]:
    """Parses the command line; what is wrong with it is one line."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, FileNotFoundError, AttributeError, KeyError, TypeError, ValueError) as e:
        words = " ".join(str(e).replace("\n", " ").split())
        print(f"{argv[0]}: {words}; --help lists the flags", file=sys.stderr)
        sys.exit(2)


def _worth_reading(record: logging_module.LogRecord) -> bool:
    ours = Path(record.pathname).is_relative_to(Path(__file__).resolve().parents[1])
    return ours or record.levelno >= logging_module.WARNING


def launch(main: Callable[[], None]) -> None:
    """Runs a script's main function: parses flags, prints user errors in one line."""

    def guarded(argv: list[str]) -> None:
        # Our own notes are for the user; those of the libraries beneath only when they warn.
        logging.set_verbosity(logging.INFO)
        logging.get_absl_handler().addFilter(_worth_reading)
        try:
            if len(argv) > 1:
                raise InputError(f"unexpected argument {argv[1]!r}: flags begin with --")
            main()
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
            sys.exit(130)

    flags.adopt_module_key_flags(sys.modules[__name__])
    app.run(guarded, flags_parser=_parse)
