"""The ways of finding a pose that are compared."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from igspad_jax.errors import InputError
from igspad_jax.settings import GradientMode, InvertConfig, Pivot

_PIVOTS: tuple[Pivot, ...] = ("camera", "object")
GRADIENTS: tuple[GradientMode, ...] = ("autodiff", "analytic", "paper")

PAPER = "adam-camera-paper"  # twists about the camera, equation 3: the descent as published
LEVENBERG = "levenberg"
_DESCENTS = {f"adam-{pivot}-{mode}": (pivot, mode) for pivot in _PIVOTS for mode in GRADIENTS}
METHODS = (*_DESCENTS, LEVENBERG)


def check_methods(names: Sequence[str]) -> list[str]:
    """The names without repeats, in the order of `METHODS`.

    Raises:
        InputError: for a name that is none of them, or no names.
    """
    for name in names:
        if name not in METHODS:
            raise InputError(f"there is no method {name!r}: choose among {', '.join(METHODS)}")
    if not names:
        raise InputError(f"no methods: choose among {', '.join(METHODS)}")
    return [name for name in METHODS if name in names]


def config_of(method: str, base: InvertConfig, *, sampling: bool) -> InvertConfig:
    """The settings of a method; what it does not determine is taken from `base`."""
    if method == LEVENBERG:
        return dataclasses.replace(base, solver="levenberg", sampling=sampling)
    pivot, gradient = _DESCENTS[method]
    adam = dataclasses.replace(base.adam, pivot=pivot, gradient=gradient)
    return dataclasses.replace(base, solver="adam", sampling=sampling, adam=adam)


def relevant_settings(config: InvertConfig) -> dict[str, Any]:
    """Return the settings that a result depends on, without those of the other solver."""
    settings = dataclasses.asdict(config)
    del settings["batch"]
    del settings["levenberg" if config.solver == "adam" else "adam"]
    if not config.sampling:
        del settings["sampling_radius"], settings["sampling_min_points"]
    return settings
