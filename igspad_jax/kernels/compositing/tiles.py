"""The lists of splats that touch each tile.

Every (tile, splat) pair gets one slot in a list of fixed capacity, sorted by tile and, within a
tile, front to back. The list is integers only; nothing here is differentiated.
"""


from typing import NamedTuple

import jax
import jax.numpy as jnp

TILE = 8  # pixels; on CPUs 8x8 tiles halve the time of 16x16 ones, splats being small
ALPHA_CUT = 1.0 / 255.0


class TileLists(NamedTuple):
    """Pairs of one camera, grouped by tile, front to back in each tile.

    Attributes:
        splats: [capacity] index of the pair's splat; slots past the last pair hold any index.
        starts: [tiles] first slot of each tile, row-major over the image.
        counts: [tiles] number of pairs of each tile.
        pairs: [] slots that the scene asks for. More than the capacity means an overflow: the
            farthest splats are missing from the lists and the caller must grow and repeat.
    """

    splats: jax.Array
    starts: jax.Array
    counts: jax.Array
    pairs: jax.Array


def grid_shape(width: int, height: int, side: int = TILE) -> tuple[int, int]:
    """Number of tile (rows, columns) that cover an image."""
    return -(-height // side), -(-width // side)


def _depth_order(depths: jax.Array, visible: jax.Array) -> jax.Array:
    """Indices of the splats front to back, invisible ones last."""
    # Positive floats order like their bits; integer sorts are several times faster on CPUs.
    bits = jax.lax.bitcast_convert_type(depths, jnp.uint32)
    key = jnp.where(visible, bits, jnp.uint32(0xFFFFFFFF))
    index = jnp.arange(depths.shape[0], dtype=jnp.int32)
    return jax.lax.sort((key, index), num_keys=1)[1]


def _nearest_in_tile(row: jax.Array, left: jax.Array, top: jax.Array, side: int) -> jax.Array:
    """Smallest value over a tile's pixel centres' rectangle of the splat's quadratic form.

    `row` is [..., 6]: mean x, mean y, conic a, b, c, threshold. The minimum of a convex function
    over a rectangle lies on a side that faces its centre, so one candidate on each axis suffices.
    """
    mx, my, a, b, c = (row[..., i] for i in range(5))
    right, bottom = left + (side - 1), top + (side - 1)
    dx = jnp.clip(mx, left, right) - mx
    dy = jnp.clip(my, top, bottom) - my
    y_on_x = jnp.clip(my - b / c * dx, top, bottom) - my
    x_on_y = jnp.clip(mx - b / a * dy, left, right) - mx

    def form(x, y):
        return a * x * x + 2.0 * b * x * y + c * y * y

    return jnp.minimum(form(dx, y_on_x), form(x_on_y, dy))


def tile_lists(
    means2d: jax.Array,
    conics: jax.Array,
    opacities: jax.Array,
    depths: jax.Array,
    radii: jax.Array,
    *,
    width: int,
    height: int,
    capacity: int,
    side: int = TILE,
) -> TileLists:
    """Lists the pairs of tiles and splats whose alpha reaches 1/255 inside the tile.

    Args:
        means2d: [N, 2] splat centres in pixels.
        conics: [N, 3] inverse 2D covariances (xx, xy, yy).
        opacities: [N] in [0, 1].
        depths: [N] positive where the splat is visible.
        radii: [N, 2] half sizes in pixels of the box around the 1/255 contour; 0 where invisible.
        width: image width in pixels.
        height: image height in pixels.
        capacity: number of slots; counts bounding-box pairs, before the exact ellipse test.
        side: of a tile in pixels.
    """
    count = means2d.shape[0]
    rows, columns = grid_shape(width, height, side)
    visible = radii[:, 0] > 0.0
    order = _depth_order(depths, visible)

    # Columns of the per-splat table, front to back: what each pair needs to place itself.
    low = jnp.floor((means2d - radii) / side)
    high = jnp.floor((means2d + radii) / side) + 1.0
    limit = jnp.array([columns, rows], means2d.dtype)
    low = jnp.clip(low, 0.0, limit).astype(jnp.int32)
    high = jnp.clip(high, 0.0, limit).astype(jnp.int32)
    span = jnp.where(visible[:, None], jnp.maximum(high - low, 0), 0)[order]
    low = low[order]
    boxes = span[:, 0] * span[:, 1]
    ends = jnp.cumsum(boxes)
    # The sum of many huge splats wraps around: it must still count as an overflow.
    wraps = jnp.sum(boxes.astype(jnp.float32)) > 2.0**30
    pairs = jnp.where(wraps, jnp.int32(2**31 - 1), ends[-1])
    threshold = 2.0 * jnp.log(jnp.maximum(opacities, ALPHA_CUT) / ALPHA_CUT)
    shape = jnp.concatenate([means2d, conics, threshold[:, None]], axis=1)[order]
    place = jnp.stack([low[:, 0], low[:, 1], jnp.maximum(span[:, 0], 1), ends - boxes], axis=1)

    slot = jnp.arange(capacity, dtype=jnp.int32)
    # `jnp.repeat` of the ranks, which would take one gather more.
    begins = jnp.zeros(capacity, jnp.int32).at[ends - boxes].add(1, mode="drop")
    rank = jnp.cumsum(begins) - 1
    x0, y0, across, first = (place[rank, i] for i in range(4))
    local = slot - first
    tile_x, tile_y = x0 + local % across, y0 + local // across
    row = shape[rank]
    nearest = _nearest_in_tile(row, tile_x * side + 0.5, tile_y * side + 0.5, side)
    # Some slack: the test must never drop a pair that the compositor would still count.
    touches = (slot < pairs) & (nearest <= row[:, 5] * (1.0 + 1e-5) + 1e-5)
    tile = jnp.where(touches, tile_y * columns + tile_x, rows * columns)

    # Sums of integers: the same in any order. A search for the bounds would be a loop.
    counts = jnp.zeros(rows * columns, jnp.int32).at[tile].add(1, mode="drop")
    if (rows * columns + 1) * count < 2**32:
        # One packed key sorts three times faster than a key and its value.
        key = jnp.sort(tile.astype(jnp.uint32) * jnp.uint32(count) + rank.astype(jnp.uint32))
        rank = (key % jnp.uint32(count)).astype(jnp.int32)
    else:
        rank = jax.lax.sort((tile.astype(jnp.uint32), rank), num_keys=1, is_stable=True)[1]
    starts = jnp.cumsum(counts) - counts
    return TileLists(splats=order[rank], starts=starts, counts=counts, pairs=pairs)
