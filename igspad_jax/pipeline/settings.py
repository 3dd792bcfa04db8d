"""The settings of a run: one frozen dataclass per stage, filled from a config file."""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import ml_collections

from igspad_jax.detect import check_features
from igspad_jax.errors import InputError
from igspad_jax.invert import InvertConfig
from igspad_jax.networks.weights import parse_sources
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

    @property
    def width(self) -> int | None:
        """The width as the readers take it: None keeps the files'."""
        return self.size or None

    @property
    def reading(self) -> Any:
        """The keyword arguments of `load_train` and `load_test`."""
        return {"size": self.width, "background": self.background}


@dataclasses.dataclass(frozen=True)
class MatchConfig:
    """Where the inversion starts.

    Attributes:
        matcher: point matcher: "opencv" (SIFT, no weights), "aliked" (ALIKED and LightGlue),
            "superpoint" (SuperPoint and LightGlue), "xfeat" (XFeat and LighterGlue); "auto" is
            "aliked" where its weights are at hand, else "opencv".
        initial: "pnp" lifts matched points to the scene's surface and solves for the pose, and
            takes hypotheses of retrieval besides; "retrieval" compares the image with all training
            views, turned and shifted in the plane; "matches" is the paper's rule, the view with
            most matched points.
        shortlist: training views that are matched with an image, the ones that look most like it;
            0 matches all, as in the paper.
        hypotheses: initial poses an image; the solver goes on with the best.
    """

    matcher: Literal["auto", "opencv", "aliked", "superpoint", "xfeat"] = "auto"
    initial: Literal["pnp", "retrieval", "matches"] = "pnp"
    shortlist: int = 8
    hypotheses: int = 4


@dataclasses.dataclass(frozen=True)
class DetectConfig:
    """How images and renders are compared.

    Attributes:
        features: the extractor, or several joined by "*", whose maps are multiplied; "auto" takes
            the best combination whose weights are at hand. See `igspad_jax.detect.EXTRACTORS`.
        pool: side of the averaging window before the image score, as a share of the width.
        expectation: how little the anomaly that the scene shows on normal images, learnt from the
            training views, discounts the same place in a test image, in typical values; smaller
            discounts more, and 0 turns it off (the paper's score).
        dtype: of the factors in the matrix products of SAM, ResNets and CaiT.
    """

    features: str = "auto"
    pool: float = 0.025
    expectation: float = 3.0
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Checks the names of the features.

        Raises:
            InputError: if there are none of a name.
        """
        if self.features != "auto":
            check_features(self.features)


@dataclasses.dataclass(frozen=True)
class WeightsConfig:
    """Where pretrained weights come from.

    Attributes:
        sources: NAME=SOURCE, several separated by commas: a file, a folder or a repository in the
            cache of the Hugging Face hub to read instead of what `fetch_weights.py` fetches. Names
            are those of `fetch_weights.py --list`.
    """

    sources: str = ""

    def __post_init__(self) -> None:
        """Checks the form.

        Raises:
            InputError: if it is wrong, or a name unknown.
        """
        parse_sources(self.sources)

    @property
    def by_name(self) -> dict[str, str]:
        """The sources by the names of the weights."""
        return parse_sources(self.sources)


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
    """All settings of a run: a section per stage, and one for the data and one for weights."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    weights: WeightsConfig = dataclasses.field(default_factory=WeightsConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    match: MatchConfig = dataclasses.field(default_factory=MatchConfig)
    invert: InvertConfig = dataclasses.field(default_factory=InvertConfig)
    detect: DetectConfig = dataclasses.field(default_factory=DetectConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)


# The least and greatest values of numbers that have them.
_LEAST: dict[str, float] = {
    "data.size": 0, "data.limit": 0, "data.background": 0,
    "train.steps": 1, "train.batch": 1, "train.count": 1, "train.sh_degree": 0, "train.sh_every": 0,
    "train.relocate_every": 1, "train.held_out": 0, "train.evaluate_every": 1,
    "train.checkpoint_every": 1, "train.seed": 0,
    "match.hypotheses": 1, "match.shortlist": 0,
    "invert.batch": 1, "invert.sampling_radius": 0, "invert.sampling_min_points": 0,
    "invert.adam.steps": 1, "invert.adam.sampling_refresh": 1,
    "invert.levenberg.widths": 0, "invert.levenberg.blurs": 0, "invert.levenberg.cells": 0,
    "invert.levenberg.steps": 1, "invert.levenberg.keep": 1, "invert.levenberg.tolerance": 0,
    "invert.levenberg.anchors": 0, "invert.levenberg.spread": 0,
    "invert.levenberg.rejoin": 0,
    "detect.pool": 0, "detect.expectation": 0,
    "evaluate.sizes": 1,
}  # fmt: skip
_MOST = {"data.background": 1, "train.sh_degree": 3, "detect.pool": 1}
_POSITIVE = (
    "invert.adam.rate", "invert.adam.late_rate", "invert.levenberg.deltas",
    "invert.levenberg.damping", "train.rates.means", "train.rates.means_final",
)  # fmt: skip
_KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a name"}


def _unknown(name: str, where: str, known: Iterable[str]) -> InputError:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean config.{where}{close[0]}? " if close else ""
    return InputError(
        f"unknown setting config.{where}{name}: {hint}"
        f"config{'.' if where else ''}{where.rstrip('.')} has {', '.join(known)}"
    )


def setting_names() -> str:
    """The names of all settings, a section after the other."""
    sections = typing.get_type_hints(Settings).items()
    return "; ".join(f"{name}: {', '.join(typing.get_type_hints(s))}" for name, s in sections)


def check_name(dotted: str) -> None:
    """Checks that a setting such as "train.steps" exists.

    Raises:
        InputError: if it does not.
    """
    kind, where = Settings, ""
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
        return _filled(typing.cast(type, hint), value, f"{name}.")
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


def _filled(kind: type, values: Mapping[str, Any], where: str = "") -> Any:
    """An instance of the dataclass `kind` with the given values, checked by name and type."""
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise _unknown(name, where, hints)
    return kind(**{n: _checked(hints[n], v, f"{where}{n}") for n, v in values.items()})


def settings_from(config: ml_collections.ConfigDict) -> Settings:
    """Reads settings from a config file's dictionary.

    Raises:
        InputError: for a name that does not exist or a value out of its choices.
    """
    return _filled(Settings, config.to_dict())


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
