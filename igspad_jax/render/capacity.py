"""Fixed capacities whose overflows are detected: grow and render again."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from absl import logging

_STEP = 2**12
_HEADROOM = 1.2

T = TypeVar("T")


class CapacityError(RuntimeError):
    """A render asked for more slots than `Capacity.LIMIT`."""


class Capacity:
    """The number of (tile, splat) slots a render gets, grown when one asks for more.

    Capacities are static shapes, so each new one costs a compilation: they are rounded up, with
    some headroom, instead of following every request.

    Attributes:
        slots: the present capacity.
        grown: how often it has grown.
    """

    LIMIT = 2**28

    def __init__(self, slots: int = _STEP):
        self.slots = self._rung(slots)
        self.grown = 0

    @staticmethod
    def _rung(slots: float) -> int:
        step = max(_STEP, 2 ** (int(slots).bit_length() - 3))
        return int(-(-slots // step) * step)

    def covers(self, pairs) -> bool:
        """Whether renders that asked for `pairs` slots (any shape) were complete."""
        asked = int(np.max(np.asarray(pairs), initial=0))
        return asked <= self.slots

    def grow(self, pairs) -> None:
        """Makes room for renders that asked for `pairs` slots.

        Raises:
            CapacityError: if they ask for more than `LIMIT` slots an image.
        """
        asked = int(np.max(np.asarray(pairs), initial=0))
        if asked > self.LIMIT:
            raise CapacityError(
                f"a render asks for {asked:,} (tile, splat) pairs, the limit is {self.LIMIT:,}: "
                "the scene has grown out of bounds; lower the learning rates or the image size"
            )
        self.slots = self._rung(asked * _HEADROOM)
        self.grown += 1
        logging.info("render capacity grown to %d slots (%d asked for)", self.slots, asked)

    def run(self, function: Callable[[int], T], pairs_of: Callable[[T], object]) -> T:
        """Calls `function(slots)`, growing and repeating until nothing is missing.

        Args:
            function: renders with the given capacity; must be repeatable.
            pairs_of: the slots asked for, read off the function's result.
        """
        while True:
            result = function(self.slots)
            pairs = pairs_of(result)
            if self.covers(pairs):
                return result
            self.grow(pairs)
