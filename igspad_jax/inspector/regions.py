"""Where an image differs from the normal object: connected regions of its anomaly map."""

from collections.abc import Callable
from typing import cast

import numpy as np
from scipy import ndimage

from igspad_jax.inspector.inspection import Region

# Depth [H, W], 0 where nothing is, and coverage [H, W] of the object at the image's pose.
DepthOf = Callable[[], tuple[np.ndarray, np.ndarray]]

_COVERED = 0.5  # coverage of a surface
_EIGHT_NEIGHBOURS = np.ones((3, 3), int)


def find_regions(
    values: np.ndarray,
    *,
    offset: int,
    seed: float,
    edge: float,
    depth_of: DepthOf,
    viewmat: np.ndarray,
    K: np.ndarray,
) -> tuple[Region, ...]:
    """Find the connected regions of a map that hold a value above `seed`, grown down to `edge`.

    Args:
        values: [h, w] pooled map in units of the image score.
        offset: pixels of the image to the left of and above the map's first value.
        seed: the threshold of the image score.
        edge: the level at which a region ends, at most `seed`.
        depth_of: asked once, and only if there is a region.
        viewmat: [4, 4] pose of the image.
        K: [3, 3] intrinsics.

    Returns:
        The regions, the one with the highest peak first.
    """
    if not np.any(values > seed):
        return ()
    found = ndimage.label(values > min(edge, seed), structure=_EIGHT_NEIGHBOURS)
    labels, _ = cast(tuple[np.ndarray, int], found)
    depth, alpha = depth_of()
    regions = []
    for i, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[rows, columns] == i
        own = np.where(inside, values[rows, columns], -np.inf)
        y, x = np.unravel_index(int(own.argmax()), own.shape)
        if own[y, x] <= seed:
            continue
        row, column = int(rows.start + y) + offset, int(columns.start + x) + offset
        point = None
        if alpha[row, column] > _COVERED:
            ray = np.linalg.solve(K, [column + 0.5, row + 0.5, 1.0])
            world = (ray * depth[row, column] - viewmat[:3, 3]) @ viewmat[:3, :3]
            point = (float(world[0]), float(world[1]), float(world[2]))
        regions.append(
            Region(
                area=int(inside.sum()),
                peak=float(own[y, x]),
                box=(
                    columns.start + offset,
                    rows.start + offset,
                    columns.stop - columns.start,
                    rows.stop - rows.start,
                ),
                pixel=(column + 0.5, row + 0.5),
                point=point,
            )
        )
    return tuple(sorted(regions, key=lambda region: -region.peak))
