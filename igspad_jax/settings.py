"""Settings as frozen dataclasses: filled from mappings, checked by name, type and range."""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from igspad_jax.errors import InputError

# The least and greatest values of numbers that have them.
_LEAST: dict[str, float] = {
    "data.size": 0, "data.limit": 0, "data.background": 0, "data.held_out": 0,
    "train.steps": 1, "train.batch": 1, "train.count": 1, "train.sh_degree": 0, "train.sh_every": 0,
    "train.relocate_every": 1, "train.evaluate_every": 1,
    "train.checkpoint_every": 1, "train.seed": 0,
    "match.hypotheses": 1, "match.shortlist": 0,
    "invert.batch": 1, "invert.sampling_radius": 0, "invert.sampling_min_points": 0,
    "invert.adam.steps": 1, "invert.adam.sampling_refresh": 1,
    "invert.levenberg.widths": 0, "invert.levenberg.blurs": 0, "invert.levenberg.merge_cells": 0,
    "invert.levenberg.steps": 1, "invert.levenberg.hypotheses_kept": 1,
    "invert.levenberg.tolerance": 0,
    "invert.levenberg.translation_penalties": 0, "invert.levenberg.extra_turn": 0,
    "invert.levenberg.readmit_level": 0,
    "detect.pool": 0, "detect.expected_strength": 0, "detect.expected_views": 0,
    "detect.normalise": 0, "calibrate.farthest_roll": 0,
    "evaluate.sizes": 1,
}  # fmt: skip
_MOST = {
    "data.background": 1, "data.held_out": 0.5, "train.sh_degree": 3, "detect.pool": 1,
    "detect.normalise": 1, "calibrate.false_alarm_rate": 0.5, "calibrate.farthest_roll": 180,
    "evaluate.false_alarm_rates": 0.5,
}  # fmt: skip
_POSITIVE = (
    "invert.adam.rate", "invert.adam.late_rate", "invert.levenberg.deltas",
    "invert.levenberg.damping", "train.rates.means", "train.rates.means_final",
    "calibrate.false_alarm_rate", "evaluate.false_alarm_rates",
)  # fmt: skip
_KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a name"}


def _unknown(name: str, where: str, known: Iterable[str]) -> InputError:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean config.{where}{close[0]}? " if close else ""
    return InputError(
        f"unknown setting config.{where}{name}: {hint}"
        f"config{'.' if where else ''}{where.rstrip('.')} has {', '.join(known)}"
    )


def setting_names(kind: type) -> str:
    """The names of all settings of a dataclass of sections, a section after the other."""
    sections = typing.get_type_hints(kind).items()
    return "; ".join(f"{name}: {', '.join(typing.get_type_hints(s))}" for name, s in sections)


def check_name(kind: type, dotted: str) -> None:
    """Check that a setting such as "train.steps" exists in a dataclass of sections.

    Raises:
        InputError: if it does not.
    """
    where = ""
    for name in dotted.split("."):
        hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
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
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint or value != value:
        raise InputError(f"setting config.{name} is {value!r}: give {_KINDS[hint]}")
    if value < _LEAST.get(name, value):
        raise InputError(f"setting config.{name} is {value}: give at least {_LEAST[name]}")
    if value > _MOST.get(name, value):
        raise InputError(f"setting config.{name} is {value}: give at most {_MOST[name]}")
    if name in _POSITIVE and value <= 0.0:
        raise InputError(f"setting config.{name} is {value}: give more than 0")
    return value


def filled(kind: type, values: Mapping[str, Any], where: str = "") -> Any:
    """Make an instance of a dataclass of settings, checked by name, type and range.

    Args:
        kind: the dataclass; its fields may be dataclasses themselves.
        values: by the names of the fields; those that are missing keep their defaults.
        where: the section's name with a dot, for errors and ranges; empty for the whole.

    Raises:
        InputError: for a name that does not exist or a value out of its choices.
    """
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise _unknown(name, where, hints)
    return kind(**{n: _checked(hints[n], v, f"{where}{n}") for n, v in values.items()})


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
