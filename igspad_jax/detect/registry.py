"""The extractors by name."""

from collections import Counter

import jax.numpy as jnp

from igspad_jax.detect.comparison import Comparison
from igspad_jax.detect.dense import AlikedFeatures, EfficientNetFeatures, XFeatFeatures
from igspad_jax.detect.extractors import Pretrained
from igspad_jax.detect.features import Extractor, HandMade
from igspad_jax.errors import InputError
from igspad_jax.networks.weight_sets import EXTRACTORS, check_features
from igspad_jax.networks.weights import NO_SOURCES, Sources, is_at_hand, load_tensors

# Measured in docs/choices.md.
_BEST = "xfeat*handmade"


def make_comparison(
    features: str, sources: Sources = NO_SOURCES, *, dtype: str = "float32"
) -> Comparison:
    """The comparison by an extractor, or by several joined by "*".

    Args:
        features: their names.
        sources: of weights that are not the usual ones.
        dtype: of the factors in matrix products, "float32" or "bfloat16"; SAM, ResNets and CaiT
            alone know the latter.

    Raises:
        InputError: if there is no such extractor, its weights are not on this machine, or none of
            them knows the dtype.
    """
    check_features(features)
    powers = Counter(features.split("*"))
    extractors = [_extractor(name, sources, dtype) for name in powers]
    if dtype != "float32" and not any(isinstance(e, Pretrained) for e in extractors):
        raise InputError(
            f"features {features} are not computed in {dtype}: leave config.detect.dtype at "
            "float32, or choose features of SAM, a ResNet or CaiT"
        )
    return Comparison(extractors, list(powers.values()))


def weights_of_features(features: str) -> list[str]:
    """The names of the weights that extractors, joined by "*", take."""
    return list(dict.fromkeys(name for part in features.split("*") for name in EXTRACTORS[part]))


def extractors_at_hand() -> list[str]:
    """The extractors whose weights are on this machine."""
    return [name for name, weights in EXTRACTORS.items() if all(map(is_at_hand, weights))]


def best_features(sources: Sources = NO_SOURCES) -> tuple[str, tuple[str, ...]]:
    """The best features at hand, and the weights that the best of all would need besides."""
    needed = weights_of_features(_BEST)
    missing = tuple(weights for weights in needed if not is_at_hand(weights, sources))
    return ("handmade" if missing else _BEST), missing


def _extractor(name: str, sources: Sources, dtype: str) -> Extractor:
    if name == "handmade":
        return HandMade()
    (weights,) = EXTRACTORS[name]
    tensors = load_tensors(weights, sources)
    if name == "xfeat":
        return XFeatFeatures(tensors)
    if name == "aliked":
        return AlikedFeatures(tensors)
    if weights == "efficientnet-lite0":
        return EfficientNetFeatures(tensors, int(name.rpartition("-")[2]))
    return Pretrained(name, tensors, jnp.dtype(dtype))
