"""Normal equations straight from the walk: the Jacobian of a pixel never leaves its thread."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.kernels.compositing import backend
from igspad_jax.kernels.compositing.groups import ALPHA_MAX, to_tiles
from igspad_jax.kernels.compositing.jacobian import log_alpha_slopes
from igspad_jax.kernels.compositing.mosaic.common import (
    CHUNK,
    SIDE,
    chunk_lists,
    chunk_table,
    frame,
    shade,
    walk,
)
from igspad_jax.kernels.compositing.tiles import TileLists

_THREADS = 128  # a row of sums holds a multiple of so many numbers


def _upper(size: int) -> list[tuple[int, int]]:
    """Places on and above the diagonal of a matrix."""
    return [(i, j) for i in range(size) for j in range(i, size)]


def _body(
    tile, first, counts, table, frame, behind, difference, robust, places, out, buffer, landed, *,
    parameters: int, coloured: int,
):  # fmt: skip
    """See `backend.launch`; operands as in `composite_gram`."""
    channels = behind.shape[1]
    x, y, one, zero = (frame[i] for i in range(4))
    slopes = 6 + channels
    tints = slopes + 5 * parameters

    def splat(row, state):
        transmittance, behind, jacobian = state
        at = shade(row, x, y)
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

    start = tuple(behind[tile, c] for c in range(channels))
    state = (one, start, (zero,) * (channels * parameters))
    _, state = walk(table, first[tile], counts[tile], buffer, landed, state, splat)
    jacobian = state[2]

    columns = [
        [*jacobian[c * parameters : (c + 1) * parameters], difference[tile, c]]
        for c in range(channels)
    ]
    weights = [robust[tile, c] for c in range(channels)]
    place = places[:]
    sums = 0.0 * place
    for entry, (i, j) in enumerate(_upper(parameters + 1)):
        product = sum(w * column[i] * column[j] for w, column in zip(weights, columns, strict=True))
        sums = jnp.where(place == entry, jnp.sum(product), sums)
    out[tile] = sums


def composite_gram(
    splats: jax.Array,
    tangents: jax.Array,
    feature_tangents: jax.Array,
    lists: TileLists,
    out: jax.Array,
    background: jax.Array,
    difference: jax.Array,
    robust: jax.Array,
    *,
    interpret: bool,
) -> jax.Array:
    """As `normal.composite_gram`, of lists of tiles of `SIDE` pixels."""
    batch, count, _ = splats.shape
    _, height, width, _ = out.shape
    parameters, coloured = tangents.shape[-1], feature_tangents.shape[-1]
    chunks = chunk_lists(lists, count, width, height)
    slopes = log_alpha_slopes(splats, tangents)
    rows = [r.reshape(*r.shape[:2], math.prod(r.shape[2:])) for r in (slopes, feature_tangents)]
    table = chunk_table(jnp.concatenate([splats, *rows], axis=-1), chunks)
    behind = to_tiles(out[..., :-1] + out[..., -1:] * background[:, None, None, :], SIDE)
    places = _upper(parameters + 1)
    numbers = -(-len(places) // _THREADS) * _THREADS
    tiles = chunks.first.size
    (sums,) = backend.launch(
        functools.partial(_body, parameters=parameters, coloured=coloured),
        [(tiles, numbers)],
        chunks.first,
        chunks.counts,
        table,
        frame(),
        behind,
        to_tiles(difference, SIDE),
        to_tiles(robust, SIDE),
        np.arange(numbers, dtype=np.int32),
        blocks=tiles,
        buffer=(2, CHUNK, table.shape[-1]),
        interpret=interpret,
    )
    sums = jnp.sum(sums.reshape(batch, -1, numbers), axis=1)[:, : len(places)]
    i, j = np.array(places).T
    upper = jnp.zeros((batch, parameters + 1, parameters + 1)).at[:, i, j].set(sums)
    return upper.at[:, j, i].set(sums)
