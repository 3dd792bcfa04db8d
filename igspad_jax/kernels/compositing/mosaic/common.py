"""What the kernels share: splats in chunks of rows, tile by tile, and the walk through them.

A warpgroup has a tile of 16 x 16 pixels, two to a thread. Its list begins at a chunk of its own, so
that a chunk is one copy into shared memory and no tile writes to another's rows. Two slots take
turns: while one is processed the next chunk is copied to the other.
"""


from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from igspad_jax.kernels.compositing import backend
from igspad_jax.kernels.compositing.groups import ALPHA_MAX
from igspad_jax.kernels.compositing.tiles import ALPHA_CUT, TileLists, grid_shape

SIDE = 16
PIXELS = SIDE * SIDE
CHUNK = 16
# What lies behind so little light changes a sum of order one by less than float32 resolves.
DARK = 1e-7


class Chunks(NamedTuple):
    """The tile lists of a batch, each rounded up to whole chunks, and room for one more an image.

    Attributes:
        first: [B * tiles] first chunk of each tile.
        counts: [B * tiles] chunks of each tile.
        tiles: [chunks] tile of each chunk; of chunks in use only.
        index: [chunks, CHUNK] splat of each row in the flat batch; B * N where there is none.
        centres: [chunks, 2] centre in pixels of the chunk's tile.
    """

    first: jax.Array
    counts: jax.Array
    tiles: jax.Array
    index: jax.Array
    centres: jax.Array


def chunk_lists(lists: TileLists, count: int, width: int, height: int) -> Chunks:
    """Rounds the lists of a batch of images of `count` splats each up to whole chunks."""
    batch, capacity = lists.splats.shape
    rows, columns = grid_shape(width, height, SIDE)
    # The walk fetches one chunk beyond the last.
    room = -(-(capacity + rows * columns * (CHUNK - 1)) // CHUNK) + 1

    def of_image(lists: TileLists) -> Chunks:
        counts = -(-lists.counts // CHUNK)
        first = jnp.cumsum(counts) - counts
        tile = jnp.arange(rows * columns, dtype=jnp.int32)
        tile = jnp.repeat(tile, counts, total_repeat_length=room)
        place = (jnp.arange(room, dtype=jnp.int32) - first[tile]) * CHUNK
        place = place[:, None] + jnp.arange(CHUNK, dtype=jnp.int32)
        index = lists.splats[lists.starts[tile, None] + place]
        index = jnp.where(place < lists.counts[tile, None], index, -1)
        corner = jnp.stack([tile % columns, tile // columns], axis=-1) * SIDE
        return Chunks(first, counts, tile, index, corner.astype(jnp.float32) + 0.5 * SIDE)

    chunks = jax.vmap(of_image)(lists)
    image = jnp.arange(batch, dtype=jnp.int32)
    index = chunks.index + count * image[:, None, None]
    return Chunks(
        first=(chunks.first + room * image[:, None]).reshape(-1),
        counts=chunks.counts.reshape(-1),
        tiles=(chunks.tiles + rows * columns * image[:, None]).reshape(-1),
        index=jnp.where(chunks.index < 0, batch * count, index).reshape(-1, CHUNK),
        centres=chunks.centres.reshape(-1, 2),
    )


def padded(columns: int) -> int:
    """Width of a row that holds so many columns."""
    # Copies need multiples of 16 bytes, and a chunk must divide evenly over the threads.
    return -(-columns // 16) * 16


def chunk_table(rows: jax.Array, chunks: Chunks) -> jax.Array:
    """[chunks, CHUNK, padded(F)] rows in the order of the walk; zeros where there is none.

    Args:
        rows: [B, N, F], beginning with the means in pixels, which become offsets from the
            centre of the chunk's tile.
        chunks: of the batch.
    """
    width = rows.shape[-1]
    flat = rows.reshape(-1, width)
    flat = jnp.pad(flat, ((0, 0), (0, padded(width) - width)))
    table = flat.at[chunks.index].get(mode="fill", fill_value=0.0)
    return table.at[..., :2].add(-chunks.centres[:, None])


def frame() -> np.ndarray:
    """[4, PIXELS] x and y of a tile's pixels about its centre, ones, zeros.

    Operands, as the kernels' constants must come out of memory to be distributed over the threads.
    """
    along = np.arange(SIDE, dtype=np.float32) + (0.5 - 0.5 * SIDE)
    x, y = np.tile(along, SIDE), np.repeat(along, SIDE)
    return np.stack([x, y, np.ones_like(x), np.zeros_like(x)])


class SplatAlpha(NamedTuple):
    """One splat at a tile's pixels, [PIXELS] each."""

    dx: jax.Array
    dy: jax.Array
    unclamped: jax.Array
    alpha: jax.Array


def alpha_at(row: Callable[[int], jax.Array], x: jax.Array, y: jax.Array) -> SplatAlpha:
    """The alphas of a splat: `row` gives the numbers of its row in the table."""
    dx, dy = x - row(0), y - row(1)
    exponent = 0.5 * (row(2) * dx * dx + row(4) * dy * dy) + row(3) * dx * dy
    unclamped = row(5) * jnp.exp(-exponent)
    alpha = jnp.where(unclamped < ALPHA_CUT, 0.0, jnp.minimum(unclamped, ALPHA_MAX))
    return SplatAlpha(dx, dy, unclamped, alpha)


def walk(
    table,
    first: jax.Array,
    count: jax.Array,
    buffer,
    barriers,
    state: tuple,
    splat: Callable,
    enter: Callable = lambda chunk, state: None,
) -> tuple[jax.Array, tuple]:
    """Walks through a tile's chunks front to back, until the end or until all is dark.

    Args:
        table: reference to [chunks, CHUNK, F] rows.
        first: [] the tile's first chunk.
        count: [] how many.
        buffer: reference to [2, CHUNK, F] in shared memory.
        barriers: its two barriers.
        state: to begin with; the first part is the transmittance [PIXELS].
        splat: (row, state) -> state, where row(i) is the i-th number of the splat's row.
        enter: (chunk, state) -> None, before the chunk's first splat.

    Returns:
        The number of chunks walked through, and the state after them.
    """

    def chunk(carry):
        i, _, state = carry
        slot = lax.rem(i, jnp.int32(2))
        backend.wait(barriers.at[slot])
        backend.fetch(table.at[first + i + 1], buffer.at[1 - slot], barriers.at[1 - slot])

        enter(first + i, state)
        state = lax.fori_loop(
            0, CHUNK, lambda k, state: splat(lambda column: buffer[slot, k, column], state), state
        )
        return i + 1, jnp.max(state[0]), state

    backend.fetch(table.at[first], buffer.at[0], barriers.at[0])
    start = (jnp.int32(0), jnp.float32(1.0), state)
    walked, _, state = lax.while_loop(
        lambda carry: (carry[0] < count) & (carry[1] > DARK), chunk, start
    )
    # A block must not end before its last copy is complete.
    backend.wait(barriers.at[lax.rem(walked, jnp.int32(2))])
    return walked, state
