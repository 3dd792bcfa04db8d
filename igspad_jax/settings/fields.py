"""Settings as frozen dataclasses: filled from mappings, checked by name, type and range."""

import dataclasses
import difflib
import json
import re
import textwrap
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from igspad_jax.errors import InputError

_KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a name"}
_COLUMN = 26  # where meanings begin in `--help`


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that a number may have.

    Attributes:
        least: smallest value.
        most: largest value.
        above: the value is greater than this.
    """

    least: float = -float("inf")
    most: float = float("inf")
    above: float = -float("inf")

    def violated(self, value: float) -> str | None:
        """What to give in the place of a value; None where the value is allowed."""
        if value < self.least:
            return f"at least {self.least:g}"
        if value > self.most:
            return f"at most {self.most:g}"
        return f"more than {self.above:g}" if value <= self.above else None

    def __str__(self) -> str:
        low = f"more than {self.above:g}" if self.above > self.least else f"at least {self.least:g}"
        if self.most == float("inf"):
            return low
        return f"{self.least:g} to {self.most:g}" if self.above < self.least else (
            f"{low}, at most {self.most:g}"
        )  # fmt: skip


def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _unknown(name: str, where: str, known: Iterable[str]) -> InputError:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean config.{where}{close[0]}? " if close else ""
    return InputError(
        f"unknown setting config.{where}{name}: {hint}"
        f"config{'.' if where else ''}{where.rstrip('.')} has {', '.join(known)}"
    )


def check_name(kind: type, dotted: str) -> None:
    """Check that a setting such as "train.steps" exists in a dataclass of sections.

    Raises:
        InputError: if it does not.
    """
    where = ""
    for name in dotted.split("."):
        hints = _hints(kind) if dataclasses.is_dataclass(kind) else {}
        if not hints:
            raise InputError(f"unknown setting config.{dotted}: config.{where[:-1]} has no parts")
        if name not in hints:
            raise _unknown(name, where, hints)
        kind, where = hints[name], f"{where}{name}."


def _checked(hint: Any, value: Any, name: str) -> Any:
    """A value of the type `hint`, or an InputError."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise InputError(f"setting config.{name} is {value!r}: set its parts one by one")
        return filled(typing.cast(type, hint), value, f"{name}.")
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        values = tuple(value) if isinstance(value, list | tuple) else (value,)
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(values)
        if len(values) != len(kinds):
            raise InputError(f"setting config.{name} is {values}: give {len(kinds)} values")
        return tuple(_checked(k, v, name) for k, v in zip(kinds, values, strict=True))
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            choices = ", ".join(map(repr, typing.get_args(hint)))
            raise InputError(f"setting config.{name} is {value!r}: choose one of {choices}")
        return value
    hint, limits = _unpacked(hint)
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint or value != value:
        raise InputError(f"setting config.{name} is {value!r}: give {_KINDS[hint]}")
    if limits and (allowed := limits.violated(value)):
        raise InputError(f"setting config.{name} is {value}: give {allowed}")
    return value


def _unpacked(hint: Any) -> tuple[Any, Range | None]:
    """A type and the range that it is annotated with."""
    if typing.get_origin(hint) is Annotated:
        kind, limits = typing.get_args(hint)
        return kind, limits
    return hint, None


def filled(kind: type, values: Mapping[str, Any], where: str = "") -> Any:
    """Make an instance of a dataclass of settings, checked by name, type and range.

    Args:
        kind: the dataclass; its fields may be dataclasses themselves.
        values: by the names of the fields; those that are missing keep their defaults.
        where: the section's name with a dot, for errors; empty for the whole.

    Raises:
        InputError: for a name that does not exist or a value out of its choices.
    """
    hints = _hints(kind)
    for name in values:
        if name not in hints:
            raise _unknown(name, where, hints)
    return kind(**{n: _checked(hints[n], v, f"{where}{n}") for n, v in values.items()})


def settings_help(settings: Any) -> str:
    """All settings with their values, what they mean and what they may be, for `--help`."""
    return "\n".join(_help_lines(settings, "config."))


def _help_lines(part: Any, where: str) -> Iterator[str]:
    hints, meanings = _hints(type(part)), _meanings(type(part))
    sections = [name for name in hints if dataclasses.is_dataclass(hints[name])]
    settings = [name for name in hints if name not in sections]
    if settings:
        yield f"\n{where.rstrip('.')}: {(type(part).__doc__ or '').splitlines()[0]}"
    for name in settings:
        value = getattr(part, name)
        shown = str(value) if not isinstance(value, tuple) else ",".join(map(str, value))
        head = f"  --{where}{name}={shown or repr(shown)}"
        text = f"{meanings.get(name, '')} ({_allowed(hints[name])})"
        yield entry(head, text)
    for name in sections:
        yield from _help_lines(getattr(part, name), f"{where}{name}.")


def entry(name: str, meaning: str) -> str:
    """A name and what it means, as `--help` prints them: the meaning in a column of its own."""
    lines = [" " * _COLUMN + line for line in textwrap.wrap(meaning, 100 - _COLUMN)]
    if lines and len(name) < _COLUMN:
        lines[0] = name.ljust(_COLUMN) + lines[0].strip()
        return "\n".join(lines)
    return "\n".join([name, *lines])


def _allowed(hint: Any) -> str:
    """What a setting may be, in words."""
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        several = "any number of values" if kinds[-1] is Ellipsis else f"{len(kinds)} values"
        return f"{several}, each {_allowed(kinds[0])}"
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(typing.get_args(hint))
    kind, limits = _unpacked(hint)
    return f"{_KINDS[kind]}, {limits}" if limits else _KINDS[kind]


def _meanings(kind: type) -> dict[str, str]:
    """What the docstring of a dataclass says of its attributes."""
    _, _, attributes = (kind.__doc__ or "").partition("Attributes:\n")
    found = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", attributes, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def as_json(part: Any) -> Any:
    """Settings as JSON reads them back, for comparison with what a file holds."""
    return json.loads(json.dumps(part, default=dataclasses.asdict))


def first_difference(old: Any, new: Any, where: str = "") -> str | None:
    """Names the first setting in which two JSON values differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*new, *(n for n in old if n not in new)]:
            if (name in old) != (name in new):
                return f"{where}{name} ({'gone' if name in old else 'new'})"
            found = first_difference(old[name], new[name], f"{where}{name}.")
            if found:
                return found
        return None
    return None if old == new else f"{where.rstrip('.')} was {old!r} and is {new!r}"
