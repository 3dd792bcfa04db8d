"""What "auto" in the settings stands for on this machine."""

from __future__ import annotations

import dataclasses

from absl import logging

from igspad_jax.detect import best_features
from igspad_jax.inspector.config import InspectorConfig
from igspad_jax.match import best_matcher
from igspad_jax.networks.weights import NO_SOURCES, Sources


def resolve(config: InspectorConfig, sources: Sources = NO_SOURCES) -> InspectorConfig:
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
            "`python scripts/fetch_weights.py --weights=%s` gets them",
            what, name, ",".join(missing),
        )  # fmt: skip
    else:
        logging.info("%s: %s", what, name)
