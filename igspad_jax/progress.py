"""What a user sees of long work: notes, and a bar on a terminal, elsewhere a line now and then."""

import logging as logging_module
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import logging
from tqdm import tqdm

_SECONDS = 30.0  # between lines

T = TypeVar("T")


class _Lines(tqdm):
    """A bar whose every state is a line of its own, for logs."""

    @staticmethod
    def status_printer(file: Any) -> Any:
        def write(text: str) -> None:
            if text.strip():
                file.write(text.rstrip() + "\n")
                file.flush()

        return write

    def close(self) -> None:
        """Write the last state, without the line ends that bars need."""
        if not self.disable:
            self.refresh()
            self.disable = True
            self._decr_instances(self)  # pyright: ignore[reportAttributeAccessIssue]


def progress_bar(total: int, what: str, unit: str, *, done: int = 0) -> tqdm:
    """Return a bar on stderr; none where there is nothing to do.

    Args:
        total: units of work.
        what: the work's name.
        unit: of the work.
        done: units that are done already.
    """
    common: dict[str, Any] = {
        "total": total, "initial": done, "desc": what, "unit": unit, "disable": done >= total
    }  # fmt: skip
    if sys.stderr.isatty():
        return tqdm(**common)
    return _Lines(**common, mininterval=_SECONDS, maxinterval=_SECONDS, miniters=1, ncols=80)


def tracked(items: Sequence[T], what: str, unit: str) -> Iterator[T]:
    """Yield items, and show how many are done."""
    with progress_bar(len(items), what, unit) as bar:
        for item in items:
            yield item
            bar.update()


def show_notes() -> None:
    """Log this package's notes, and of the libraries beneath only what they warn of."""
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_worth_reading)


def _worth_reading(record: logging_module.LogRecord) -> bool:
    ours = Path(record.pathname).is_relative_to(Path(__file__).resolve().parent)
    return ours or record.levelno >= logging_module.WARNING
