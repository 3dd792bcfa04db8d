"""Front-to-back compositing of tiles."""


import jax

from igspad_jax.kernels.compositing import backend
from igspad_jax.kernels.compositing.groups import from_tiles
from igspad_jax.kernels.compositing.mosaic.common import (
    CHUNK,
    PIXELS,
    SIDE,
    alpha_at,
    chunk_lists,
    chunk_table,
    frame,
    walk,
)
from igspad_jax.kernels.compositing.tiles import TileLists


def _body(tile, first, counts, table, frame, out, buffer, barriers):
    """See `backend.launch`; operands as in `composite_forward`."""
    channels = out.shape[1] - 1
    x, y, one, zero = (frame[i] for i in range(4))

    def splat(row, state):
        transmittance, features = state
        weight = alpha_at(row, x, y).alpha * transmittance
        features = tuple(f + weight * row(6 + c) for c, f in enumerate(features))
        return transmittance - weight, features

    state = (one, (zero,) * channels)
    _, (transmittance, features) = walk(
        table, first[tile], counts[tile], buffer, barriers, state, splat
    )
    for c, feature in enumerate(features):
        out[tile, c] = feature
    out[tile, channels] = transmittance


def composite_forward(
    splats: jax.Array, lists: TileLists, *, width: int, height: int, interpret: bool
) -> jax.Array:
    """As `xla.composite_forward`, of lists of tiles of `SIDE` pixels."""
    batch, count, columns = splats.shape
    chunks = chunk_lists(lists, count, width, height)
    table = chunk_table(splats, chunks)
    tiles = chunks.first.size
    (out,) = backend.launch(
        _body,
        [(tiles, columns - 6 + 1, PIXELS)],
        chunks.first,
        chunks.counts,
        table,
        frame(),
        blocks=tiles,
        buffer=(2, CHUNK, table.shape[-1]),
        interpret=interpret,
    )
    return from_tiles(out, batch, width, height, SIDE)
