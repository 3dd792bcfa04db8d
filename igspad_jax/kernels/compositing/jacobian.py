"""Forward mode through the compositor: every pixel's derivatives by a few parameters.

The parameters (six for a pose) move every splat's mean, conic and colour by given tangents. A
second walk over the tiles adds up what each splat adds to the pixel's Jacobian; what lies
behind a splat is the pixel's total, known from the first walk, less what came before it.
"""


import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

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
)
from igspad_jax.kernels.compositing.tiles import TileLists


class LinearWalk(NamedTuple):
    """What the second walk over the tiles starts from; F features, P parameters.

    Attributes:
        splats: [B, N, 6 + C] as given to `composite_forward`.
        tangents: [B, N, 5, P] derivatives of (mean x, mean y, conic a, b, c) by P parameters.
        feature_tangents: [B, N, C, Q] derivatives of the features by the first Q <= P parameters;
            the others leave them alone.
        lists: as given to `composite_forward`.
        out: [B, H, W, C + 1] its result.
        background: [B, C] features behind all splats.
    """

    splats: jax.Array
    tangents: jax.Array
    feature_tangents: jax.Array
    lists: TileLists
    out: jax.Array
    background: jax.Array

    @property
    def parameters(self) -> int:
        """P."""
        return self.tangents.shape[-1]

    @property
    def coloured(self) -> int:
        """Q."""
        return self.feature_tangents.shape[-1]

    @property
    def rows(self) -> jax.Array:
        """[B, N, 6 + C + 5 P + C Q] the splats, slopes of log alpha and feature tangents."""
        slopes = log_alpha_slopes(self.splats, self.tangents)
        parts = [
            part.reshape(*part.shape[:2], math.prod(part.shape[2:]))
            for part in (slopes, self.feature_tangents)
        ]
        return jnp.concatenate([self.splats, *parts], axis=-1)

    @property
    def total(self) -> jax.Array:
        """[B, H, W, C] features over the background."""
        return self.out[..., :-1] + self.out[..., -1:] * self.background[:, None, None, :]


def log_alpha_slopes(splats: jax.Array, tangents: jax.Array) -> jax.Array:
    """Derivatives of log alpha by each parameter, as polynomials in the pixel's offset.

    log alpha = log opacity - (a dx^2 + c dy^2) / 2 - b dx dy with (dx, dy) = pixel - mean.

    Args:
        splats: [B, N, 6 + C] rows of (mean x, mean y, conic a, b, c, opacity, features...).
        tangents: [B, N, 5, P] derivatives of mean and conic by P parameters.

    Returns:
        [B, N, 5, P] coefficients of dx, dy, dx^2, dx dy and dy^2.
    """
    a, b, c = (splats[..., i, None] for i in (2, 3, 4))
    mx, my, ta, tb, tc = (tangents[..., i, :] for i in range(5))
    rows = [a * mx + b * my, b * mx + c * my, -0.5 * ta, -tb, -0.5 * tc]
    return jnp.stack(rows, axis=-2)


def composite_jacobian(walk: LinearWalk) -> jax.Array:
    """Derivatives of the composited features, background included.

    Returns:
        [B, H, W, C, P]. Opacities count as constant, and so does what the cuts of alpha at 1/255
        and 0.99 switch.
    """
    batch, height, width, channels = walk.total.shape
    parameters, coloured = walk.parameters, walk.coloured
    groups = group_tiles(walk.lists, width, height)
    table, _ = pair_table(walk.rows, walk.lists)
    total = to_tiles(walk.total)
    total = jnp.concatenate([total, jnp.zeros((1, *total.shape[1:]))])
    x, y = pixel_offsets()

    def group(i, jacobians):
        starts, counts, centres = groups.starts[i], groups.counts[i], groups.centres[i]
        behind = jnp.swapaxes(total[groups.tiles[i]], 0, 1)  # [C, GROUP, PIXELS]

        def chunk(carry):
            k, transmittance, behind, jacobian = carry
            splat = load_chunk(table, k, starts, counts, centres)
            colour, slope, tint = jnp.split(
                splat.features, [channels, channels + 5 * parameters], axis=1
            )
            slope = slope.reshape(CHUNK, 5, parameters, GROUP)
            tint = tint.reshape(CHUNK, channels, coloured, GROUP)

            def one(carry, xs):
                transmittance, behind = carry
                alpha, colour = xs
                weight = alpha * transmittance
                rest = behind - weight * colour[..., None]
                return (transmittance - weight, rest), (transmittance, rest)

            (transmittance, behind), (before, rest) = jax.lax.scan(
                one, (transmittance, behind), (splat.alpha, colour)
            )
            weight = splat.alpha * before
            moving = jnp.where(splat.unclamped < ALPHA_MAX, splat.alpha, 0.0)
            dx, dy = x - splat.mean[0][..., None], y - splat.mean[1][..., None]
            monomials = (dx, dy, dx * dx, dx * dy, dy * dy)
            log_alpha = [
                sum(slope[:, m, j][..., None] * value for m, value in enumerate(monomials))
                for j in range(parameters)
            ]
            added = []
            for c in range(channels):
                own = before * colour[:, c][..., None]
                by_log_alpha = moving * (own - rest[:, c] / (1.0 - splat.alpha))
                for j in range(parameters):
                    share = by_log_alpha * log_alpha[j]
                    if j < coloured:
                        share = share + weight * tint[:, c, j][..., None]
                    added.append(jnp.sum(share, axis=0))
            return k + CHUNK, transmittance, behind, jacobian + jnp.stack(added)

        longest = jnp.max(counts)
        zero = jnp.zeros((channels * parameters, GROUP, PIXELS))
        start = (jnp.int32(0), jnp.ones((GROUP, PIXELS)), behind, zero)
        jacobian = jax.lax.while_loop(lambda carry: carry[0] < longest, chunk, start)[3]
        return jacobians.at[i].set(jacobian)

    jacobians = jnp.zeros((groups.tiles.shape[0], channels * parameters, GROUP, PIXELS))
    jacobians = jax.lax.fori_loop(0, groups.active, group, jacobians)
    image = from_groups(jacobians, groups, batch, width, height)
    return image.reshape(batch, height, width, channels, parameters)
