"""Normal equations straight from the walk: the Jacobian of a pixel never leaves its thread."""


import functools

import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.kernels.compositing import backend
from igspad_jax.kernels.compositing.groups import to_tiles
from igspad_jax.kernels.compositing.jacobian import LinearWalk
from igspad_jax.kernels.compositing.mosaic.common import SIDE
from igspad_jax.kernels.compositing.mosaic.jacobian import Operands, derivatives, operands_of

_THREADS = 128  # a row of sums holds a multiple of so many numbers


def _upper(size: int) -> list[tuple[int, int]]:
    """Places on and above the diagonal of a matrix."""
    return [(i, j) for i in range(size) for j in range(i, size)]


def _body(
    tile, first, counts, table, frame, behind, basis, known, robust, places, out, buffer, barriers,
    *, parameters: int, coloured: int, images: int,
):  # fmt: skip
    """See `backend.launch`; operands as in `Operands` and `composite_gram`."""
    operands = Operands(first, counts, table, frame, behind)
    jacobian = derivatives(
        tile, operands, buffer, barriers, parameters=parameters, coloured=coloured
    )
    channels, extra = known.shape[1:3]
    image = jax.lax.div(tile, jnp.int32(counts.shape[0] // images))
    turns = [[basis[image, i, j] for i in range(parameters)] for j in range(basis.shape[2])]

    columns = []
    for c, by in enumerate(jacobian):
        turned = [sum(d * share for d, share in zip(by, turn, strict=True)) for turn in turns]
        columns.append(turned + [known[tile, c, e] for e in range(extra)])
    weights = [robust[tile, c] for c in range(channels)]
    place = places[:]
    sums = 0.0 * place
    for entry, (i, j) in enumerate(_upper(len(turns) + extra)):
        product = sum(w * column[i] * column[j] for w, column in zip(weights, columns, strict=True))
        sums = jnp.where(place == entry, jnp.sum(product), sums)
    out[tile] = sums


def composite_gram(
    linear: LinearWalk, basis: jax.Array, known: jax.Array, robust: jax.Array, *, interpret: bool
) -> jax.Array:
    """As `normal.composite_gram`, of lists of tiles of `SIDE` pixels."""
    batch, _, _, channels, extra = known.shape
    parameters, coloured = linear.parameters, linear.coloured
    operands = operands_of(linear)
    size = basis.shape[-1] + extra
    places = _upper(size)
    numbers = -(-len(places) // _THREADS) * _THREADS
    tiles = operands.first.size
    columns = to_tiles(known.reshape(*known.shape[:3], channels * extra), SIDE)
    (sums,) = backend.launch(
        functools.partial(_body, parameters=parameters, coloured=coloured, images=batch),
        [(tiles, numbers)],
        *operands,
        basis,
        columns.reshape(tiles, channels, extra, -1),
        to_tiles(robust, SIDE),
        np.arange(numbers, dtype=np.int32),
        blocks=tiles,
        buffer=operands.buffer,
        interpret=interpret,
    )
    sums = jnp.sum(sums.reshape(batch, -1, numbers), axis=1)[:, : len(places)]
    i, j = np.array(places).T
    upper = jnp.zeros((batch, size, size)).at[:, i, j].set(sums)
    return upper.at[:, j, i].set(sums)
