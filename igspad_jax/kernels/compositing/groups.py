"""Tiles of a batch in groups of equal work, and their splats a chunk at a time.

Tiles are sorted by the length of their lists and processed in groups of `GROUP`, so that the
tiles of a group end at about the same time. A group walks its lists `CHUNK` splats at a time; all
arrays keep the pixels on the minor axis, which is what CPUs vectorise.
"""


from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.kernels.compositing.tiles import ALPHA_CUT, TILE, TileLists, grid_shape

ALPHA_MAX = 0.99
PIXELS = TILE * TILE
GROUP = 16
CHUNK = 32


class Groups(NamedTuple):
    """Tiles of a batch, longest list first, in groups.

    Attributes:
        tiles: [groups, GROUP] index into the batch's tiles; the batch's tile count for padding.
        starts: [groups, GROUP] first slot in the batch's pairs.
        counts: [groups, GROUP] pairs.
        centres: [groups, GROUP, 2] tile centres in pixels.
        active: [] groups that have any pair.
    """

    tiles: jax.Array
    starts: jax.Array
    counts: jax.Array
    centres: jax.Array
    active: jax.Array


def group_tiles(lists: TileLists, width: int, height: int) -> Groups:
    """Groups the tiles of a batch of lists by the length of their lists."""
    batch, per_image = lists.counts.shape
    rows, columns = grid_shape(width, height)
    total = batch * per_image
    capacity = lists.splats.shape[1]
    starts = lists.starts + capacity * jnp.arange(batch, dtype=jnp.int32)[:, None]
    index = jnp.arange(total, dtype=jnp.int32)
    shortest_last = jax.lax.sort((-lists.counts.reshape(-1), index), num_keys=1)[1]
    groups = -(-total // GROUP)
    tiles = jnp.pad(shortest_last, (0, groups * GROUP - total), constant_values=total)

    def pick(values):
        return jnp.append(values.reshape(-1), 0)[tiles].reshape(groups, GROUP)

    inside = tiles % (rows * columns)
    centres = jnp.stack([inside % columns, inside // columns], axis=-1) * TILE + 0.5 * TILE
    counts = pick(lists.counts)
    return Groups(
        tiles=tiles.reshape(groups, GROUP),
        starts=pick(starts),
        counts=counts,
        centres=centres.astype(jnp.float32).reshape(groups, GROUP, 2),
        active=jnp.sum(jnp.any(counts > 0, axis=1)),
    )


def pixel_offsets() -> tuple[np.ndarray, np.ndarray]:
    """x and y of a tile's pixel centres about the tile's centre, [PIXELS] each."""
    # Constants on purpose: XLA would fuse their computation into the innermost loop.
    along = np.arange(TILE, dtype=np.float32) + (0.5 - 0.5 * TILE)
    return np.tile(along, TILE), np.repeat(along, TILE)


def windows(table: jax.Array, starts: jax.Array) -> jax.Array:
    """[GROUP, CHUNK, F] rows of `table` that follow each start."""
    dimensions = jax.lax.GatherDimensionNumbers(
        offset_dims=(1, 2), collapsed_slice_dims=(), start_index_map=(0,)
    )
    return jax.lax.gather(
        table,
        starts[:, None],
        dimensions,
        slice_sizes=(CHUNK, table.shape[1]),
        mode=jax.lax.GatherScatterMode.CLIP,
    )


class Chunk(NamedTuple):
    """One chunk of splats against the pixels of a group of tiles; k is the place in the chunk."""

    valid: jax.Array  # [CHUNK, GROUP]
    mean: tuple[jax.Array, jax.Array]  # [CHUNK, GROUP] about the tile's centre
    conic: tuple[jax.Array, jax.Array, jax.Array]  # [CHUNK, GROUP]
    features: jax.Array  # [CHUNK, C, GROUP]
    unclamped: jax.Array  # [CHUNK, GROUP, PIXELS] opacity times the Gaussian
    alpha: jax.Array  # [CHUNK, GROUP, PIXELS]


def load_chunk(
    table: jax.Array, k: jax.Array, starts: jax.Array, counts: jax.Array, centres: jax.Array
) -> Chunk:
    """The splats k to k + CHUNK of a group's lists, and their alphas at the group's pixels.

    Args:
        table: [slots, 6 + C] rows of a `pair_table`.
        k: [] first place in the lists.
        starts: [GROUP] first slot of each list.
        counts: [GROUP] length of each list; places past it have alpha 0.
        centres: [GROUP, 2] tile centres in pixels.
    """
    valid = (k + jnp.arange(CHUNK)[:, None]) < counts
    row = jnp.transpose(windows(table, starts + k), (1, 2, 0))
    mx, my = row[:, 0] - centres[:, 0], row[:, 1] - centres[:, 1]
    a, b, c = row[:, 2], row[:, 3], row[:, 4]
    opacity = jnp.where(valid, row[:, 5], 0.0)
    x, y = pixel_offsets()
    dx, dy = x - mx[..., None], y - my[..., None]
    exponent = 0.5 * (a[..., None] * dx * dx + c[..., None] * dy * dy) + b[..., None] * dx * dy
    unclamped = opacity[..., None] * jnp.exp(-exponent)
    alpha = jnp.where(unclamped < ALPHA_CUT, 0.0, jnp.minimum(unclamped, ALPHA_MAX))
    return Chunk(valid, (mx, my), (a, b, c), row[:, 6:], unclamped, alpha)


def pair_table(splats: jax.Array, lists: TileLists) -> tuple[jax.Array, jax.Array]:
    """The splats' rows in the order of the pairs, and each pair's index into the flat batch."""
    batch, count, width = splats.shape
    flat = lists.splats + count * jnp.arange(batch, dtype=jnp.int32)[:, None]
    index = jnp.pad(flat.reshape(-1), (0, CHUNK))
    return splats.reshape(batch * count, width)[index], index


def to_tiles(image: jax.Array, side: int = TILE) -> jax.Array:
    """[B, H, W, C] image to [B * tiles, C, side * side], padded with zeros."""
    batch, height, width, channels = image.shape
    rows, columns = grid_shape(width, height, side)
    padded = jnp.pad(
        image, ((0, 0), (0, rows * side - height), (0, columns * side - width), (0, 0))
    )
    split = padded.reshape(batch, rows, side, columns, side, channels)
    return jnp.transpose(split, (0, 1, 3, 5, 2, 4)).reshape(-1, channels, side * side)


def from_tiles(
    tiles: jax.Array, batch: int, width: int, height: int, side: int = TILE
) -> jax.Array:
    """Inverse of `to_tiles`, cropped to the image."""
    rows, columns = grid_shape(width, height, side)
    channels = tiles.shape[1]
    split = tiles.reshape(batch, rows, columns, channels, side, side)
    image = jnp.transpose(split, (0, 1, 4, 2, 5, 3))
    return image.reshape(batch, rows * side, columns * side, channels)[:, :height, :width]


def from_groups(out: jax.Array, groups: Groups, batch: int, width: int, height: int) -> jax.Array:
    """[batch, H, W, C] image of [groups, C, GROUP, PIXELS] values."""
    rows, columns = grid_shape(width, height)
    slot = (
        jnp.zeros(batch * rows * columns, jnp.int32)
        .at[groups.tiles.reshape(-1)]
        .set(jnp.arange(groups.tiles.size, dtype=jnp.int32), mode="drop")
    )
    tiles = jnp.swapaxes(out, 1, 2).reshape(-1, out.shape[1], PIXELS)[slot]
    return from_tiles(tiles, batch, width, height)
