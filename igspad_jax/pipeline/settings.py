"""The settings of a run: one frozen dataclass per stage, filled from a config file."""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_collections

from igspad_jax.inspector import InspectorConfig
from igspad_jax.networks.weights import parse_sources
from igspad_jax.settings import filled
from igspad_jax.train import TrainConfig


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How images are read.

    Attributes:
        size: width in pixels at which the program works; 0 keeps the files' size.
        background: RGB in [0, 1] behind transparent pixels and behind the scene.
        held_out: share of the training views that the scene is not fitted to, in blocks of
            neighbouring directions; the threshold of the verdict is calibrated on them.
        limit: test images per kind to look at; 0 takes all.
    """

    size: int = 0
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    held_out: float = 0.2
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
        false_alarm_rates: promised rates at which verdicts are counted, besides the one in force.
        breakdown: whether to score, besides, the true poses in place of the estimated ones and
            clean images in place of the renders, where the data has them.
    """

    sizes: tuple[int, ...] = (224, 400)
    false_alarm_rates: tuple[float, ...] = (0.05, 0.1)
    breakdown: bool = False


@dataclasses.dataclass(frozen=True)
class Settings(InspectorConfig):
    """All settings of a run: a section per stage, and one for the data and one for weights."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    weights: WeightsConfig = dataclasses.field(default_factory=WeightsConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)

    @property
    def inspector(self) -> InspectorConfig:
        """The settings of the inspector."""
        return InspectorConfig(self.match, self.invert, self.detect, self.calibrate)


def settings_from(config: ml_collections.ConfigDict) -> Settings:
    """Read settings from a config file's dictionary.

    Raises:
        InputError: for a name that does not exist or a value out of its choices.
    """
    return filled(Settings, config.to_dict())


def config_from(settings: Settings) -> ml_collections.ConfigDict:
    """The dictionary of a config file with these settings; every one can be overridden."""
    return ml_collections.ConfigDict(dataclasses.asdict(settings))
