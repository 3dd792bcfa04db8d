"""Front-to-back compositing in plain XLA: the definition that every kernel must agree with.

Tiles are sorted by the length of their lists and worked off in groups of `_GROUP`, so that the
tiles of a group end at about the same time. A group walks its lists `_CHUNK` splats at a time;
all arrays keep the pixels on the minor axis, which is what CPUs vectorise.

Inside a group the state of a pixel is [features..., T]: with the colour of the last channel set
to -1, `state += alpha * T * colour` advances the colours and the transmittance T alike.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.kernels.compositing.tiles import ALPHA_CUT, TILE, TileLists, grid_shape

ALPHA_MAX = 0.99
_PIXELS = TILE * TILE
_GROUP = 16
_CHUNK = 32


class _Groups(NamedTuple):
    """Tiles of a batch, longest list first, in groups.

    Attributes:
        tiles: [groups, _GROUP] index into the batch's tiles; the batch's tile count for padding.
        starts: [groups, _GROUP] first slot in the batch's pairs.
        counts: [groups, _GROUP] pairs.
        centres: [groups, _GROUP, 2] tile centres in pixels.
        active: [] groups that have any pair.
    """

    tiles: jax.Array
    starts: jax.Array
    counts: jax.Array
    centres: jax.Array
    active: jax.Array


def _group_tiles(lists: TileLists, width: int, height: int) -> _Groups:
    batch, per_image = lists.counts.shape
    rows, columns = grid_shape(width, height)
    total = batch * per_image
    capacity = lists.splats.shape[1]
    starts = lists.starts + capacity * jnp.arange(batch, dtype=jnp.int32)[:, None]
    index = jnp.arange(total, dtype=jnp.int32)
    shortest_last = jax.lax.sort((-lists.counts.reshape(-1), index), num_keys=1)[1]
    groups = -(-total // _GROUP)
    tiles = jnp.pad(shortest_last, (0, groups * _GROUP - total), constant_values=total)

    def pick(values):
        return jnp.append(values.reshape(-1), 0)[tiles].reshape(groups, _GROUP)

    inside = tiles % (rows * columns)
    centres = jnp.stack([inside % columns, inside // columns], axis=-1) * TILE + 0.5 * TILE
    counts = pick(lists.counts)
    return _Groups(
        tiles=tiles.reshape(groups, _GROUP),
        starts=pick(starts),
        counts=counts,
        centres=centres.astype(jnp.float32).reshape(groups, _GROUP, 2),
        active=jnp.sum(jnp.any(counts > 0, axis=1)),
    )


def _pixel_offsets() -> tuple[np.ndarray, np.ndarray]:
    """x and y of a tile's pixel centres about the tile's centre, [_PIXELS] each."""
    # Constants on purpose: XLA would fuse their computation into the innermost loop.
    along = np.arange(TILE, dtype=np.float32) + (0.5 - 0.5 * TILE)
    return np.tile(along, TILE), np.repeat(along, TILE)


def _windows(table: jax.Array, starts: jax.Array) -> jax.Array:
    """[_GROUP, _CHUNK, F] rows of `table` that follow each start."""
    dimensions = jax.lax.GatherDimensionNumbers(
        offset_dims=(1, 2), collapsed_slice_dims=(), start_index_map=(0,)
    )
    return jax.lax.gather(
        table,
        starts[:, None],
        dimensions,
        slice_sizes=(_CHUNK, table.shape[1]),
        mode=jax.lax.GatherScatterMode.CLIP,
    )


class _Chunk(NamedTuple):
    """One chunk of splats against the pixels of a group of tiles; k is the place in the chunk."""

    valid: jax.Array  # [_CHUNK, _GROUP]
    mean: tuple[jax.Array, jax.Array]  # [_CHUNK, _GROUP] about the tile's centre
    conic: tuple[jax.Array, jax.Array, jax.Array]  # [_CHUNK, _GROUP]
    features: jax.Array  # [_CHUNK, C, _GROUP]
    unclamped: jax.Array  # [_CHUNK, _GROUP, _PIXELS] opacity times the Gaussian
    alpha: jax.Array  # [_CHUNK, _GROUP, _PIXELS]


def _load_chunk(
    table: jax.Array, k: jax.Array, starts: jax.Array, counts: jax.Array, centres: jax.Array
) -> _Chunk:
    valid = (k + jnp.arange(_CHUNK)[:, None]) < counts
    row = jnp.transpose(_windows(table, starts + k), (1, 2, 0))
    mx, my = row[:, 0] - centres[:, 0], row[:, 1] - centres[:, 1]
    a, b, c = row[:, 2], row[:, 3], row[:, 4]
    opacity = jnp.where(valid, row[:, 5], 0.0)
    x, y = _pixel_offsets()
    dx, dy = x - mx[..., None], y - my[..., None]
    exponent = 0.5 * (a[..., None] * dx * dx + c[..., None] * dy * dy) + b[..., None] * dx * dy
    unclamped = opacity[..., None] * jnp.exp(-exponent)
    alpha = jnp.where(unclamped < ALPHA_CUT, 0.0, jnp.minimum(unclamped, ALPHA_MAX))
    return _Chunk(valid, (mx, my), (a, b, c), row[:, 6:], unclamped, alpha)


def _pair_table(splats: jax.Array, lists: TileLists) -> tuple[jax.Array, jax.Array]:
    """The splats' rows in the order of the pairs, and each pair's index into the flat batch."""
    batch, count, width = splats.shape
    flat = lists.splats + count * jnp.arange(batch, dtype=jnp.int32)[:, None]
    index = jnp.pad(flat.reshape(-1), (0, _CHUNK))
    return splats.reshape(batch * count, width)[index], index


def _to_tiles(image: jax.Array) -> jax.Array:
    """[B, H, W, C] image to [B * tiles, C, _PIXELS], padded with zeros."""
    batch, height, width, channels = image.shape
    rows, columns = grid_shape(width, height)
    padded = jnp.pad(
        image, ((0, 0), (0, rows * TILE - height), (0, columns * TILE - width), (0, 0))
    )
    split = padded.reshape(batch, rows, TILE, columns, TILE, channels)
    return jnp.transpose(split, (0, 1, 3, 5, 2, 4)).reshape(-1, channels, _PIXELS)


def _from_tiles(tiles: jax.Array, batch: int, width: int, height: int) -> jax.Array:
    """Inverse of `_to_tiles`, cropped to the image."""
    rows, columns = grid_shape(width, height)
    channels = tiles.shape[1]
    split = tiles.reshape(batch, rows, columns, channels, TILE, TILE)
    image = jnp.transpose(split, (0, 1, 4, 2, 5, 3))
    return image.reshape(batch, rows * TILE, columns * TILE, channels)[:, :height, :width]


def composite_forward(splats: jax.Array, lists: TileLists, *, width: int, height: int) -> jax.Array:
    """Composites a batch of splat tables front to back.

    Args:
        splats: [B, N, 6 + C] rows of (mean x, mean y, conic a, b, c, opacity, features...).
        lists: the tile lists, each field with a leading batch axis.
        width: image width in pixels.
        height: image height in pixels.

    Returns:
        [B, H, W, C + 1]: sum of w_i f_i over the splats, then the transmittance behind them all.
    """
    batch, channels = splats.shape[0], splats.shape[2] - 6
    groups = _group_tiles(lists, width, height)
    table, _ = _pair_table(splats, lists)
    empty = jnp.zeros((channels + 1, _GROUP, _PIXELS)).at[-1].set(1.0)

    def group(i, out):
        starts, counts, centres = groups.starts[i], groups.counts[i], groups.centres[i]

        def chunk(carry):
            k, state = carry
            splat = _load_chunk(table, k, starts, counts, centres)
            minus = jnp.full((_CHUNK, 1, _GROUP), -1.0)
            colour = jnp.concatenate([splat.features, minus], axis=1)

            def one(state, xs):
                alpha, colour = xs
                return state + (alpha * state[-1])[None] * colour[..., None], None

            state, _ = jax.lax.scan(one, state, (splat.alpha, colour))
            return k + _CHUNK, state

        longest = jnp.max(counts)
        start = (jnp.int32(0), empty)
        _, state = jax.lax.while_loop(lambda carry: carry[0] < longest, chunk, start)
        return out.at[i].set(state)

    out = jnp.broadcast_to(empty, (groups.tiles.shape[0], *empty.shape))
    out = jax.lax.fori_loop(0, groups.active, group, out)
    total = lists.counts.size
    slot = (
        jnp.zeros(total, jnp.int32)
        .at[groups.tiles.reshape(-1)]
        .set(jnp.arange(groups.tiles.size, dtype=jnp.int32), mode="drop")
    )
    tiles = jnp.swapaxes(out, 1, 2).reshape(-1, channels + 1, _PIXELS)[slot]
    return _from_tiles(tiles, batch, width, height)


def composite_backward(
    splats: jax.Array, lists: TileLists, out: jax.Array, cotangent: jax.Array
) -> jax.Array:
    """Gradient of `composite_forward` with respect to `splats`.

    Walks front to back again. What lies behind a splat is the pixel's total less what came
    before it, so nothing but the forward result is kept from the forward pass.

    Args:
        splats: [B, N, 6 + C] as given to `composite_forward`.
        lists: as given to `composite_forward`.
        out: [B, H, W, C + 1] its result.
        cotangent: [B, H, W, C + 1] the loss's gradient with respect to the result.

    Returns:
        [B, N, 6 + C] gradient; zero for splats that touch no pixel.
    """
    _, height, width, _ = out.shape
    groups = _group_tiles(lists, width, height)
    table, index = _pair_table(splats, lists)
    total = _to_tiles(jnp.sum(out * cotangent, axis=-1, keepdims=True))[:, 0]
    total = jnp.concatenate([total, jnp.zeros((1, _PIXELS))])
    pull = _to_tiles(cotangent[..., :-1])
    pull = jnp.concatenate([pull, jnp.zeros((1, *pull.shape[1:]))])
    x, y = _pixel_offsets()
    moments_of = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)

    def group(i, gradient):
        starts, counts, centres = groups.starts[i], groups.counts[i], groups.centres[i]
        g = jnp.swapaxes(pull[groups.tiles[i]], 0, 1)  # [C, _GROUP, _PIXELS]

        def chunk(carry):
            k, transmittance, behind, gradient = carry
            splat = _load_chunk(table, k, starts, counts, centres)
            # Gain of a pixel's loss from this splat's features, were its weight one.
            gain = sum(
                f[..., None] * g[j] for j, f in enumerate(jnp.unstack(splat.features, axis=1))
            )

            def one(carry, xs):
                transmittance, behind = carry
                alpha, gain = xs
                weight = alpha * transmittance
                return (transmittance - weight, behind - weight * gain), carry

            (transmittance, behind), (before, rest) = jax.lax.scan(
                one, (transmittance, behind), (splat.alpha, gain)
            )
            weight = splat.alpha * before
            d_alpha = before * gain - (rest - weight * gain) / (1.0 - splat.alpha)
            # d loss / d log(unclamped alpha); the clamp at 0.99 passes nothing on.
            d_log = jnp.where(splat.unclamped < ALPHA_MAX, d_alpha * splat.alpha, 0.0)
            # The gradients of mean and conic are moments of d_log about the splat's centre:
            # take them about the tile's centre, where they are one matrix product, and shift.
            moments = jax.lax.dot(
                d_log.reshape(-1, _PIXELS), moments_of, precision=jax.lax.Precision.HIGHEST
            ).reshape(_CHUNK, _GROUP, 6)
            m0, m1, m2, m3, m4, m5 = jnp.unstack(moments, axis=-1)
            (mx, my), (a, b, c) = splat.mean, splat.conic
            sx, sy = m1 - mx * m0, m2 - my * m0
            sxx = m3 - 2.0 * mx * m1 + mx * mx * m0
            sxy = m4 - mx * m2 - my * m1 + mx * my * m0
            syy = m5 - 2.0 * my * m2 + my * my * m0
            own = [a * sx + b * sy, b * sx + c * sy, -0.5 * sxx, -sxy, -0.5 * syy, m0]
            of_features = jnp.einsum("kgp,cgp->kgc", weight, g, precision=jax.lax.Precision.HIGHEST)
            rows = jnp.concatenate([jnp.stack(own, axis=-1), of_features], axis=-1)
            rows = jnp.where(splat.valid[..., None], rows, 0.0)
            into = _windows(index[:, None], starts + k)[..., 0].T
            return k + _CHUNK, transmittance, behind, gradient.at[into].add(rows)

        longest = jnp.max(counts)
        start = (jnp.int32(0), jnp.ones((_GROUP, _PIXELS)), total[groups.tiles[i]], gradient)
        return jax.lax.while_loop(lambda carry: carry[0] < longest, chunk, start)[3]

    zero = jnp.zeros((splats.shape[0] * splats.shape[1], splats.shape[2]))
    gradient = jax.lax.fori_loop(0, groups.active, group, zero).reshape(splats.shape)
    # m0 is the gradient with respect to log(opacity).
    opacity = splats[..., 5]
    safe = jnp.where(opacity > 0.0, opacity, 1.0)
    return gradient.at[..., 5].set(gradient[..., 5] / safe)
