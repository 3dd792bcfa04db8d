"""Gradient of the compositor.

One walk through each tile stores the state at the start of every chunk; then all chunks are
processed in parallel, so that a long list does not delay the others. Each pair of a tile and a
splat has a row of its own for what it adds to the splat's gradient: the kernels need no atomic
additions. The rows of a splat are added up afterwards in an order that depends on the lists alone:
the same bits every time.
"""


import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.kernels.compositing import backend
from igspad_jax.kernels.compositing.groups import ALPHA_MAX, to_tiles
from igspad_jax.kernels.compositing.mosaic.common import (
    CHUNK,
    DARK,
    PIXELS,
    SIDE,
    alpha_at,
    chunk_lists,
    chunk_table,
    frame,
    padded,
    walk,
)
from igspad_jax.kernels.compositing.tiles import TileLists


def _gain(row, cotangents):
    """Gain of the pixels' loss from a splat's features, were its weights one."""
    return sum(row(6 + c) * g for c, g in enumerate(cotangents))


def _states_body(tile, first, counts, table, frame, total, cotangent, states, buffer, barriers):
    """Store the transmittance and what lies behind, [2, PIXELS], at the beginning of each chunk.

    What lies behind is the loss's gain from it: the pixel's total less what came before.
    """
    x, y, one, zero = (frame[i] for i in range(4))
    cotangents = [cotangent[tile, c] for c in range(cotangent.shape[1])]

    def splat(row, state):
        transmittance, behind = state
        weight = alpha_at(row, x, y).alpha * transmittance
        return transmittance - weight, behind - weight * _gain(row, cotangents)

    def enter(chunk, state):
        states[chunk, 0], states[chunk, 1] = state

    def skip(chunk, _):
        enter(chunk, (zero, zero))

    start, count = first[tile], counts[tile]
    state = (one, total[tile])
    walked, _ = walk(table, start, count, buffer, barriers, state, splat, enter)
    jax.lax.fori_loop(start + walked, start + count, skip, None)


def _rows_body(
    chunk, first, counts, tiles, table, frame, cotangent, states, places, out, buffer, barriers
):
    """Writes a row of sums over the tile's pixels for each splat of a chunk.

    With d = d loss / d log alpha and (dx, dy) = pixel - mean, those of d dx, d dy, d dx^2,
    d dx dy, d dy^2, d, and of weight times the loss's gradient for each feature. Zeros where it
    is dark, and in chunks that no tile uses.
    """
    columns = table.shape[-1]
    tile = tiles[chunk]
    x, y = frame[0], frame[1]
    cotangents = [cotangent[tile, c] for c in range(cotangent.shape[1])]
    place = places[:]  # which number of the chunk's rows is whose
    transmittance, behind = states[chunk, 0], states[chunk, 1]
    used = (chunk < first[tile] + counts[tile]) & (jnp.max(transmittance) > DARK)

    def splat(k, state):
        def row(column):
            return buffer[0, k, column]

        transmittance, behind, rows = state
        at = alpha_at(row, x, y)
        weight = at.alpha * transmittance
        gain = _gain(row, cotangents)
        rest = behind - weight * gain
        d_alpha = transmittance * gain - rest / (1.0 - at.alpha)
        # There is no gradient through the clamp at 0.99.
        d = jnp.where(at.unclamped < ALPHA_MAX, d_alpha * at.alpha, 0.0)
        by_x, by_y = d * at.dx, d * at.dy
        shares = [by_x, by_y, by_x * at.dx, by_x * at.dy, by_y * at.dy, d]
        shares += [weight * g for g in cotangents]
        for j, share in enumerate(shares):
            rows = jnp.where(place == k * columns + j, jnp.sum(share), rows)
        return transmittance - weight, rest, rows

    backend.fetch(table.at[chunk], buffer.at[0], barriers.at[0])
    backend.wait(barriers.at[0])
    state = (transmittance, behind, 0.0 * place)
    out[chunk] = jax.lax.fori_loop(0, jnp.where(used, CHUNK, 0), splat, state)[2]


def composite_backward(
    splats: jax.Array, lists: TileLists, out: jax.Array, cotangent: jax.Array, *, interpret: bool
) -> jax.Array:
    """As `xla.composite_backward`, of lists of tiles of `SIDE` pixels."""
    batch, count, columns = splats.shape
    _, height, width, _ = out.shape
    chunks = chunk_lists(lists, count, width, height)
    table = chunk_table(splats, chunks)
    total = to_tiles(jnp.sum(out * cotangent, axis=-1, keepdims=True), SIDE)[:, 0]
    cotangent = to_tiles(cotangent[..., :-1], SIDE)
    (states,) = backend.launch(
        _states_body,
        [(len(table), 2, PIXELS)],
        chunks.first,
        chunks.counts,
        table,
        frame(),
        total,
        cotangent,
        blocks=len(chunks.first),
        buffer=(2, *table.shape[1:]),
        interpret=interpret,
    )
    numbers = CHUNK * table.shape[-1]
    (rows,) = backend.launch(
        _rows_body,
        [(len(table), numbers)],
        chunks.first,
        chunks.counts,
        chunks.tiles,
        table,
        frame(),
        cotangent,
        states,
        np.arange(numbers, dtype=np.int32),
        blocks=len(table),
        buffer=(1, *table.shape[1:]),
        interpret=interpret,
    )
    rows = rows.reshape(-1, padded(columns))[:, :columns]
    sums = sum_by_splat(rows, chunks.index.reshape(-1), batch * count).reshape(splats.shape)
    a, b, c, opacity = (splats[..., i] for i in (2, 3, 4, 5))
    sx, sy, sxx, sxy, syy, s = (sums[..., i] for i in range(6))
    own = [a * sx + b * sy, b * sx + c * sy, -0.5 * sxx, -sxy, -0.5 * syy]
    own.append(s / jnp.where(opacity > 0.0, opacity, 1.0))
    return jnp.concatenate([jnp.stack(own, axis=-1), sums[..., 6:]], axis=-1)


def sum_by_splat(rows: jax.Array, splats: jax.Array, count: int) -> jax.Array:
    """[count, F] sums of the rows of each splat, always added up in the same order.

    A scatter would add in an order that is not fixed on GPUs.

    Args:
        rows: [R, F]; those of no splat may be anything.
        splats: [R] int32 splat of each row, `count` for those of none.
        count: of splats.
    """
    place = jnp.arange(len(rows), dtype=jnp.int32)
    splats, order = jax.lax.sort((splats, place), num_keys=1, is_stable=True)
    rows = rows[order]

    def joined(distance):
        """Rows whose splat has another row so far on."""
        other = jnp.roll(splats, -distance)
        return (splats == other) & (splats < count) & (place + distance < len(rows))

    def double(carry):
        """Each row is the sum of the `distance` rows that begin with it; now of twice as many."""
        distance, rows = carry
        on = jnp.roll(rows, -distance, axis=0)
        return 2 * distance, jnp.where(joined(distance)[:, None], rows + on, rows)

    _, rows = jax.lax.while_loop(
        lambda carry: jnp.any(joined(carry[0])), double, (jnp.int32(1), rows)
    )
    begins = (splats < count) & (splats != jnp.roll(splats, 1)).at[0].set(True)
    into = jnp.where(begins, splats, count)
    return jnp.zeros((count, rows.shape[1])).at[into].set(rows, mode="drop")
