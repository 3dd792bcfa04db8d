"""What "auto" in the settings stands for on this machine."""

import dataclasses
from typing import TypeVar

from absl import logging

from igspad_jax.detect import best_features
from igspad_jax.match import best_matcher
from igspad_jax.networks.weights import NO_SOURCES, Sources
from igspad_jax.settings import InspectorConfig

Config = TypeVar("Config", bound=InspectorConfig)


def resolve(config: Config, sources: Sources = NO_SOURCES) -> Config:
    """The settings with the names of the matcher and the features in the place of "auto".

    Both depend on which weights are on this machine; where the best ones are missing, the log
    says how to get them.
    """
    match, detect = config.match, config.detect
    if match.matcher == "auto":
        name, missing = best_matcher(sources)
        _log("matcher", name, missing)
        match = dataclasses.replace(match, matcher=name)
    if detect.features == "auto":
        name, missing = best_features(sources)
        _log("features", name, missing)
        detect = dataclasses.replace(detect, features=name)
    return dataclasses.replace(config, match=match, detect=detect)


def _log(what: str, name: str, missing: tuple[str, ...]) -> None:
    if missing:
        logging.warning(
            "%s: %s, for better ones need weights that are not on this machine; "
            "`igspad-fetch-weights --weights=%s` gets them",
            what, name, ",".join(missing),
        )  # fmt: skip
    else:
        logging.info("%s: %s", what, name)
