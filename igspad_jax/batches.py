"""Batches of one size: another one would cost another compilation."""

from collections.abc import Iterator

import numpy as np


def batches(count: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Splits items into batches of one size, the last one filled up with the last item again.

    Args:
        count: of the items; none make no batch.
        size: of a batch, where there are so many items.

    Yields:
        The indices of a batch's items, and how many of them, the first ones, are no repeats.
    """
    size = min(size, count)
    for first in range(0, count, size or 1):
        yield np.minimum(first + np.arange(size), count - 1), min(size, count - first)
