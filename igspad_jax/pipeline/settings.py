"""The settings of a run: one frozen dataclass per stage, filled from a config file."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping
from typing import Any, Literal

import ml_collections

from igspad_jax.errors import InputError
from igspad_jax.invert import InvertConfig
from igspad_jax.train.trainer import TrainConfig


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How images are read.

    Attributes:
        size: width in pixels at which the program works; 0 keeps the files' size.
        background: RGB in [0, 1] behind transparent pixels and behind the scene.
        limit: test images per kind to look at; 0 takes all.
    """

    size: int = 0
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    limit: int = 0


@dataclasses.dataclass(frozen=True)
class MatchConfig:
    """Where the inversion starts.

    Attributes:
        matcher: point matcher, for "matches" and for matching point sampling.
        initial: "retrieval" compares the image with all training views, turned and shifted in the
            plane; "matches" is the paper's rule, the view with most matched points.
        hypotheses: initial poses that are rendered, the best of which is taken.
    """

    matcher: Literal["opencv"] = "opencv"
    initial: Literal["retrieval", "matches"] = "retrieval"
    hypotheses: int = 3


@dataclasses.dataclass(frozen=True)
class DetectConfig:
    """How images and renders are compared.

    Attributes:
        features: the extractor.
        pool: side of the averaging window before the image score, as a share of the width.
    """

    features: Literal["handmade"] = "handmade"
    pool: float = 0.025


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What is measured.

    Attributes:
        sizes: widths in pixels at which peers evaluate, besides the images' own.
        breakdown: whether to score, besides, the true poses in place of the estimated ones and
            clean images in place of the renders, where the data has them.
    """

    sizes: tuple[int, ...] = (224, 400)
    breakdown: bool = False


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of a run, a section per stage."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    match: MatchConfig = dataclasses.field(default_factory=MatchConfig)
    invert: InvertConfig = dataclasses.field(default_factory=InvertConfig)
    detect: DetectConfig = dataclasses.field(default_factory=DetectConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)


def _filled(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """An instance of the dataclass `kind` with the given values, checked by name and type."""
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise InputError(
            f"unknown setting {where}{unknown[0]}: the settings here are {', '.join(hints)}"
        )
    arguments = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            value = _filled(typing.cast(type, hint), value, f"{where}{name}.")
        elif typing.get_origin(hint) is tuple:
            value = tuple(value)
        elif typing.get_origin(hint) is typing.Literal and value not in typing.get_args(hint):
            choices = ", ".join(map(repr, typing.get_args(hint)))
            raise InputError(f"setting {where}{name} is {value!r}: choose one of {choices}")
        elif hint is float and isinstance(value, int):
            value = float(value)
        arguments[name] = value
    return kind(**arguments)


def settings_from(config: ml_collections.ConfigDict) -> Settings:
    """Reads settings from a config file's dictionary.

    Raises:
        InputError: for a name that does not exist or a value out of its choices.
    """
    return _filled(Settings, config.to_dict(), "config.")


def config_from(settings: Settings) -> ml_collections.ConfigDict:
    """The dictionary of a config file with these settings; every one can be overridden."""
    return ml_collections.ConfigDict(dataclasses.asdict(settings))


def as_json(part: Any) -> Any:
    """A settings dataclass as JSON reads it back, for comparison with what a file holds."""
    return json.loads(json.dumps(dataclasses.asdict(part)))


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
