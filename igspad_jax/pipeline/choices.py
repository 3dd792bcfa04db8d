"""What "auto" in the settings stands for on this machine."""

from __future__ import annotations

import dataclasses

from absl import logging

from igspad_jax.detect import best_features
from igspad_jax.match import best_matcher
from igspad_jax.pipeline.settings import Settings


def chosen(settings: Settings) -> Settings:
    """The settings with the names of the matcher and the features in the place of "auto".

    Both depend on which weights are at hand; results are kept with the names, so that none is
    mixed with those of another choice. A second-best choice is said aloud.
    """
    match, detect, sources = settings.match, settings.detect, settings.weights.by_name
    if match.matcher == "auto":
        name, missing = best_matcher(sources)
        _say("matcher", name, missing)
        match = dataclasses.replace(match, matcher=name)
    if detect.features == "auto":
        name, missing = best_features(sources)
        _say("features", name, missing)
        detect = dataclasses.replace(detect, features=name)
    return dataclasses.replace(settings, match=match, detect=detect)


def _say(what: str, name: str, missing: tuple[str, ...]) -> None:
    if missing:
        weights = ",".join(missing)
        logging.warning(
            "%s: %s, for better ones need weights that are not on this machine; "
            "`python scripts/fetch_weights.py --weights=%s` gets them",
            what, name, weights,
        )  # fmt: skip
    else:
        logging.info("%s: %s", what, name)
