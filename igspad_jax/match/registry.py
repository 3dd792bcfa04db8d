"""The matchers by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from igspad_jax.errors import InputError
from igspad_jax.match.features import cached_features
from igspad_jax.match.learned import LearnedMatcher
from igspad_jax.match.matching import Matcher
from igspad_jax.match.opencv import OpenCVMatcher
from igspad_jax.networks.aliked import read_aliked
from igspad_jax.networks.lightglue import read_lightglue
from igspad_jax.networks.superpoint import read_superpoint
from igspad_jax.networks.weight_sets import MATCHERS
from igspad_jax.networks.weights import NO_SOURCES, Sources, is_at_hand, load_tensors
from igspad_jax.networks.xfeat import read_xfeat
from igspad_jax.settings import MatchConfig

_KEYPOINTS = 512
_SIDE = 400  # pixels; ALIKED sees images enlarged or shrunk to this
_LAYERS = 5  # of LightGlue's nine: the last four hardly move a first pose, for half the time


def make_matcher(name: str, sources: Sources = NO_SOURCES) -> Matcher:
    """The matcher of this name; `sources` are of weights that are not the usual ones.

    Raises:
        InputError: there is none, or its weights are not on this machine.
    """
    if name not in MATCHERS:
        raise InputError(f"no matcher is called {name!r}; there are {', '.join(MATCHERS)}")
    if name == "opencv":
        return OpenCVMatcher()
    keypoints, matches = (load_tensors(weights, sources) for weights in MATCHERS[name])
    if name == "aliked":
        detector = read_aliked(keypoints, max_keypoints=_KEYPOINTS, side=_SIDE)
    elif name == "superpoint":
        detector = read_superpoint(keypoints, max_keypoints=_KEYPOINTS)
    else:
        detector = read_xfeat(keypoints, max_keypoints=_KEYPOINTS)
    # LighterGlue has six layers, and costs little.
    return LearnedMatcher(detector, read_lightglue(matches, None if name == "xfeat" else _LAYERS))


def weights_of_matching(config: MatchConfig) -> tuple[str, ...]:
    """The names of the weights that first poses take."""
    return () if config.initial == "retrieval" else MATCHERS[config.matcher]


def matchers_at_hand() -> list[str]:
    """The matchers whose weights are on this machine."""
    return [name for name, weights in MATCHERS.items() if all(map(is_at_hand, weights))]


def best_matcher(sources: Sources = NO_SOURCES) -> tuple[str, tuple[str, ...]]:
    """The best matcher at hand, and the weights that the best of all would need besides."""
    missing = tuple(name for name in MATCHERS["aliked"] if not is_at_hand(name, sources))
    return ("opencv" if missing else "aliked"), missing


def training_features(matcher: Matcher, images: np.ndarray, folder: Path | None) -> Sequence[Any]:
    """`matcher.prepare` of the training images; kept in a folder, if given."""
    return cached_features(matcher, images, folder) if folder else matcher.prepare(images)
