"""Starting a script: its flags, its log, and errors of the user's in one line."""

from __future__ import annotations

import logging as logging_module
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging

from igspad_jax.errors import InputError

_HELP = {"-h", "-help", "--help"}


def launch(
    main: Callable[..., None],
    prepare: Callable[[list[str]], list[str]] | None = None,
    *,
    arguments: str = "",
) -> None:
    """Parses the flags and runs a script's main function; never returns.

    Whatever the user can correct is one line on stderr and exit status 2.

    Args:
        main: the script; the flags are parsed when it runs.
        prepare: looks at the command line before the flags are parsed, and returns what of it is
            left to parse; may define further flags.
        arguments: what the arguments beside the flags are, given to `main` one by one; empty where
            there may be none.
    """

    def parse(argv: list[str]) -> list[str]:
        argv = [argv[0], *map(_underscored, argv[1:])]
        # ABSL would exit with status 1, as if help were a failure.
        if _HELP & set(argv):
            if prepare:
                prepare([argv[0]])
            if main.__module__ == "__main__":
                app.usage(shorthelp=True, writeto_stdout=True)
            else:  # a console command, whose own module is a stub
                print(sys.modules[main.__module__].__doc__)
                print(flags.FLAGS.module_help(main.__module__))
            sys.exit(0)
        try:
            left = flags.FLAGS(prepare(argv) if prepare else argv)
            if len(left) > 1 and not arguments:
                raise InputError(f"unexpected argument {left[1]!r}: flags begin with --")
        except flags.Error as error:
            words = " ".join(str(error).split()).rstrip(".")
            _fail(InputError(f"{words}; --help lists the flags"))
        except InputError as error:
            _fail(error)
        return left

    def guarded(argv: list[str]) -> None:
        # Our own notes are for the user; those of the libraries beneath only when they warn.
        logging.set_verbosity(logging.INFO)
        logging.get_absl_handler().addFilter(_worth_reading)
        try:
            main(*argv[1:])
        except InputError as error:
            _fail(error)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
            sys.exit(130)

    app.run(guarded, flags_parser=parse)


def _underscored(argument: str) -> str:
    """--false-alarm-rate=0.1 as ABSL knows it: --false_alarm_rate=0.1."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _fail(error: InputError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def _worth_reading(record: logging_module.LogRecord) -> bool:
    ours = Path(record.pathname).is_relative_to(Path(__file__).resolve().parent)
    return ours or record.levelno >= logging_module.WARNING
