"""Front-to-back compositing in plain XLA: the definition that every kernel must agree with.

Inside a group of tiles the state of a pixel is [features..., T]: with the colour of the last
channel set to -1, `state += alpha * T * colour` advances the colours and the transmittance T alike.
"""


import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.kernels.compositing.groups import (
    ALPHA_MAX,
    CHUNK,
    GROUP,
    PIXELS,
    from_groups,
    group_tiles,
    load_chunk,
    pair_table,
    pixel_offsets,
    to_tiles,
    windows,
)
from igspad_jax.kernels.compositing.tiles import TileLists


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
    groups = group_tiles(lists, width, height)
    table, _ = pair_table(splats, lists)
    empty = jnp.zeros((channels + 1, GROUP, PIXELS)).at[-1].set(1.0)

    def group(i, out):
        starts, counts, centres = groups.starts[i], groups.counts[i], groups.centres[i]

        def chunk(carry):
            k, state = carry
            splat = load_chunk(table, k, starts, counts, centres)
            minus = jnp.full((CHUNK, 1, GROUP), -1.0)
            colour = jnp.concatenate([splat.features, minus], axis=1)

            def one(state, xs):
                alpha, colour = xs
                return state + (alpha * state[-1])[None] * colour[..., None], None

            state, _ = jax.lax.scan(one, state, (splat.alpha, colour))
            return k + CHUNK, state

        longest = jnp.max(counts)
        start = (jnp.int32(0), empty)
        _, state = jax.lax.while_loop(lambda carry: carry[0] < longest, chunk, start)
        return out.at[i].set(state)

    out = jnp.broadcast_to(empty, (groups.tiles.shape[0], *empty.shape))
    out = jax.lax.fori_loop(0, groups.active, group, out)
    return from_groups(out, groups, batch, width, height)


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
    groups = group_tiles(lists, width, height)
    table, index = pair_table(splats, lists)
    total = to_tiles(jnp.sum(out * cotangent, axis=-1, keepdims=True))[:, 0]
    total = jnp.concatenate([total, jnp.zeros((1, PIXELS))])
    by_features = to_tiles(cotangent[..., :-1])
    by_features = jnp.concatenate([by_features, jnp.zeros((1, *by_features.shape[1:]))])
    x, y = pixel_offsets()
    moments_of = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)

    def group(i, gradient):
        starts, counts, centres = groups.starts[i], groups.counts[i], groups.centres[i]
        g = jnp.swapaxes(by_features[groups.tiles[i]], 0, 1)  # [C, GROUP, PIXELS]

        def chunk(carry):
            k, transmittance, behind, gradient = carry
            splat = load_chunk(table, k, starts, counts, centres)
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
            # d loss / d log(unclamped alpha); there is no gradient through the clamp at 0.99.
            d_log = jnp.where(splat.unclamped < ALPHA_MAX, d_alpha * splat.alpha, 0.0)
            # The gradients of mean and conic are moments of d_log about the splat's centre:
            # take them about the tile's centre, where they are one matrix product, and shift.
            moments = jax.lax.dot(
                d_log.reshape(-1, PIXELS), moments_of, precision=jax.lax.Precision.HIGHEST
            ).reshape(CHUNK, GROUP, 6)
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
            into = windows(index[:, None], starts + k)[..., 0].T
            return k + CHUNK, transmittance, behind, gradient.at[into].add(rows)

        longest = jnp.max(counts)
        start = (jnp.int32(0), jnp.ones((GROUP, PIXELS)), total[groups.tiles[i]], gradient)
        return jax.lax.while_loop(lambda carry: carry[0] < longest, chunk, start)[3]

    zero = jnp.zeros((splats.shape[0] * splats.shape[1], splats.shape[2]))
    gradient = jax.lax.fori_loop(0, groups.active, group, zero).reshape(splats.shape)
    # m0 is the gradient with respect to log(opacity).
    opacity = splats[..., 5]
    safe = jnp.where(opacity > 0.0, opacity, 1.0)
    return gradient.at[..., 5].set(gradient[..., 5] / safe)
