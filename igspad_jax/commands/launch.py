"""Starting a command: its help, its flags, its log, and errors of the user's in one line."""

import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

from absl import app, flags

from igspad_jax.errors import InputError
from igspad_jax.progress import show_notes
from igspad_jax.settings import entry

CLUSTER_HELP = (
    "Spread the work over a Ray cluster: its address, or auto for the one that runs here, or, if "
    "none does, one of this machine's processors."
)
_HELP = {"-h", "-help", "--help", "--helpfull", "--helpshort"}


def launch(
    main: Callable[..., None],
    prepare: Callable[[list[str]], list[str]] | None = None,
    *,
    arguments: str = "",
    more_help: Callable[[], str] = lambda: "",
) -> None:
    """Parses the flags and runs a command's main function; never returns.

    Whatever the user can correct is one line on stderr and exit status 2.

    Args:
        main: the command; the flags are parsed when it runs.
        prepare: looks at the command line before the flags are parsed, and returns what of it is
            left to parse; may define further flags.
        arguments: what the arguments beside the flags are, given to `main` one by one; empty where
            there may be none.
        more_help: what `--help` prints after the flags, once `prepare` has run.
    """
    module = sys.modules[main.__module__]

    def parse(argv: list[str]) -> list[str]:
        argv = [argv[0], *map(_underscored, argv[1:])]
        try:
            # ABSL would exit with status 1, as if help were a failure.
            if _HELP & set(argv):
                rest = [argument for argument in argv if argument not in _HELP]
                if prepare:
                    prepare(rest)
                print((module.__doc__ or "").strip())
                print("\nFlags:\n" + _flags_help(flags.FLAGS.get_key_flags_for_module(module)))
                print(more_help(), end="")
                sys.exit(0)
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
        show_notes()
        try:
            main(*argv[1:])
        except InputError as error:
            _fail(error)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
            sys.exit(130)

    app.run(guarded, flags_parser=parse)


def _flags_help(known: Iterable[flags.Flag]) -> str:
    lines = []
    for flag in sorted(known, key=lambda flag: flag.name):
        name = f"[no]{flag.name}" if flag.boolean else flag.name
        default = "" if flag.boolean or not flag.default else str(flag.default_as_str).strip("'")
        value = f"={default}" if default else ""
        lines.append(entry(f"  --{name}{value}", flag.help or ""))
    return "\n".join(lines)


def _underscored(argument: str) -> str:
    """--false-alarm-rate=0.1 as ABSL knows it: --false_alarm_rate=0.1."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _fail(error: InputError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
