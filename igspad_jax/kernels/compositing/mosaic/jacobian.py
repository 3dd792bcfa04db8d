"""Forward mode: a walk that keeps a pixel's derivatives in registers, and one way to end it.

Here they are stored; `normal.py` beside this sums up their products instead.
"""


import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from igspad_jax.kernels.compositing import backend
from igspad_jax.kernels.compositing.groups import ALPHA_MAX, from_tiles, to_tiles
from igspad_jax.kernels.compositing.jacobian import LinearWalk
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


class Operands(NamedTuple):
    """What the walk reads, as `backend.launch` takes it.

    Attributes:
        first: [B * tiles] first chunk of each tile.
        counts: [B * tiles] chunks of each tile.
        table: [chunks, CHUNK, F] splats with the slopes of log alpha and the features' tangents.
        frame: see `common.frame`.
        behind: [B * tiles, C, PIXELS] all that a pixel shows, background included.
    """

    first: jax.Array
    counts: jax.Array
    table: jax.Array
    frame: jax.Array
    behind: jax.Array

    @property
    def buffer(self) -> tuple[int, ...]:
        """Shape of the two slots in shared memory."""
        return (2, CHUNK, self.table.shape[-1])


def operands_of(linear: LinearWalk) -> Operands:
    """The walk's operands."""
    _, height, width, _ = linear.out.shape
    chunks = chunk_lists(linear.lists, linear.splats.shape[1], width, height)
    table, behind = chunk_table(linear.rows, chunks), to_tiles(linear.total, SIDE)
    return Operands(chunks.first, chunks.counts, table, jnp.asarray(frame()), behind)


def derivatives(
    tile, operands: Operands, buffer, barriers, parameters: int, coloured: int
) -> list[list[jax.Array]]:
    """A tile's derivatives: [PIXELS] for each channel and parameter.

    Args:
        tile: [] which one.
        operands: references to them.
        buffer: reference to shared memory, `Operands.buffer`.
        barriers: its two barriers.
        parameters: how many there are.
        coloured: how many of them, the first ones, move the features.
    """
    channels = operands.behind.shape[1]
    x, y, one, zero = (operands.frame[i] for i in range(4))
    slopes = 6 + channels
    tints = slopes + 5 * parameters

    def splat(row, state):
        transmittance, behind, jacobian = state
        at = alpha_at(row, x, y)
        weight = at.alpha * transmittance
        moving = jnp.where(at.unclamped < ALPHA_MAX, at.alpha, 0.0)
        beyond = 1.0 / (1.0 - at.alpha)
        monomials = (at.dx, at.dy, at.dx * at.dx, at.dx * at.dy, at.dy * at.dy)
        log_alpha = [
            sum(row(slopes + m * parameters + j) * value for m, value in enumerate(monomials))
            for j in range(parameters)
        ]
        rests, moved = [], []
        for c in range(channels):
            colour = row(6 + c)
            rest = behind[c] - weight * colour
            by_log_alpha = moving * (transmittance * colour - rest * beyond)
            for j in range(parameters):
                share = by_log_alpha * log_alpha[j]
                if j < coloured:
                    share = share + weight * row(tints + c * coloured + j)
                moved.append(jacobian[c * parameters + j] + share)
            rests.append(rest)
        return transmittance - weight, tuple(rests), tuple(moved)

    behind = tuple(operands.behind[tile, c] for c in range(channels))
    state = (one, behind, (zero,) * (channels * parameters))
    start, count = operands.first[tile], operands.counts[tile]
    _, state = walk(operands.table, start, count, buffer, barriers, state, splat)
    flat = state[2]
    return [list(flat[c * parameters : (c + 1) * parameters]) for c in range(channels)]


def _body(
    tile, first, counts, table, frame, behind, out, buffer, barriers, *,
    parameters: int, coloured: int,
):  # fmt: skip
    """See `backend.launch`; operands as in `Operands`."""
    operands = Operands(first, counts, table, frame, behind)
    jacobian = derivatives(
        tile, operands, buffer, barriers, parameters=parameters, coloured=coloured
    )
    for c, row in enumerate(jacobian):
        for j, derivative in enumerate(row):
            out[tile, c * parameters + j] = derivative


def composite_jacobian(linear: LinearWalk, *, interpret: bool) -> jax.Array:
    """As `jacobian.composite_jacobian`, of lists of tiles of `SIDE` pixels."""
    batch, height, width, channels = linear.total.shape
    parameters, coloured = linear.parameters, linear.coloured
    operands = operands_of(linear)
    tiles = operands.first.size
    (jacobian,) = backend.launch(
        functools.partial(_body, parameters=parameters, coloured=coloured),
        [(tiles, channels * parameters, PIXELS)],
        *operands,
        blocks=tiles,
        buffer=operands.buffer,
        interpret=interpret,
    )
    image = from_tiles(jacobian, batch, width, height, SIDE)
    return image.reshape(batch, height, width, channels, parameters)
