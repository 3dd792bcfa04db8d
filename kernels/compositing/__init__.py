"""Compositing of projected splats: arrays in, arrays out, differentiable, batches native."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from igspad_jax.kernels.compositing import backend
from igspad_jax.kernels.compositing.backend import Implementation
from igspad_jax.kernels.compositing.normal import by_shade, gram, weigh
from igspad_jax.kernels.compositing.operations import compositor_of, forward_of, operation_of
from igspad_jax.kernels.compositing.tiles import TileLists

__all__ = [
    "Implementation",
    "by_shade",
    "composite",
    "composite_normal",
    "composite_with_jacobian",
    "gram",
    "weigh",
]


def composite(
    means2d: jax.Array,
    conics: jax.Array,
    opacities: jax.Array,
    features: jax.Array,
    depths: jax.Array,
    radii: jax.Array,
    *,
    width: int,
    height: int,
    capacity: int,
    implementation: Implementation | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Composites splats front to back (Kerbl et al. 2023, equations 2 and 3).

    alpha = min(0.99, opacity * exp(-d^T conic d / 2)), and 0 below 1/255. Differentiable in
    `means2d`, `conics`, `opacities` and `features`; `depths` and `radii` only order and select.

    Args:
        means2d: [B, N, 2] centres in pixels.
        conics: [B, N, 3] inverse covariances (xx, xy, yy).
        opacities: [B, N] in [0, 1].
        features: [B, N, C] any per-splat values.
        depths: [B, N] sorting key, positive where visible.
        radii: [B, N, 2] half sizes in pixels of the box around the 1/255 contour, 0 if invisible.
        width: image width in pixels.
        height: image height in pixels.
        capacity: slots for pairs of a tile and a splat, per image.
        implementation: "xla", "mosaic" or "interpreted"; by default what suits the machine, see
            `backend.chosen`. They have tiles of different sizes and ask for different capacities.

    Returns:
        Composited features [B, H, W, C], transmittance [B, H, W] and the number of slots each
        image asks for [B]. Where that exceeds `capacity` the farthest splats are missing.
    """
    splats = jnp.concatenate([means2d, conics, opacities[..., None], features], axis=-1)
    out, pairs = operation_of(width, height, capacity, backend.chosen(implementation))(
        splats, jax.lax.stop_gradient(depths), jax.lax.stop_gradient(radii)
    )
    return out[..., :-1], out[..., -1], pairs


def composite_with_jacobian(
    means2d: jax.Array,
    conics: jax.Array,
    opacities: jax.Array,
    features: jax.Array,
    depths: jax.Array,
    radii: jax.Array,
    tangents: jax.Array,
    feature_tangents: jax.Array,
    background: jax.Array,
    *,
    width: int,
    height: int,
    capacity: int,
    implementation: Implementation | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Composites splats and says how every pixel moves with P parameters of the splats.

    Forward mode; not differentiable itself.

    Args:
        means2d: this and what follows up to `radii` as for `composite`.
        conics: see there.
        opacities: see there.
        features: see there.
        depths: see there.
        radii: see there.
        tangents: [B, N, 5, P] derivatives of (mean x, mean y, conic xx, xy, yy).
        feature_tangents: [B, N, C, Q] derivatives of the features by the first Q parameters.
        background: [B, C] features behind all splats, over which the Jacobian is taken.
        width: image width in pixels.
        height: image height in pixels.
        capacity: as for `composite`.
        implementation: as for `composite`.

    Returns:
        The three results of `composite`, then the [B, H, W, C, P] Jacobian of
        features + transmittance * background.
    """
    implementation = backend.chosen(implementation)
    splats = jnp.concatenate([means2d, conics, opacities[..., None], features], axis=-1)
    out, lists = forward_of(width, height, capacity, implementation)(splats, depths, radii)
    lists = TileLists(*lists)
    jacobian = compositor_of(implementation).jacobian(
        splats, tangents, feature_tangents, lists, out, background
    )
    return out[..., :-1], out[..., -1], lists.pairs, jacobian


def composite_normal(
    means2d: jax.Array,
    conics: jax.Array,
    opacities: jax.Array,
    features: jax.Array,
    depths: jax.Array,
    radii: jax.Array,
    tangents: jax.Array,
    feature_tangents: jax.Array,
    background: jax.Array,
    basis: jax.Array,
    shades: jax.Array,
    images: jax.Array,
    weights: jax.Array,
    deltas: jax.Array,
    *,
    width: int,
    height: int,
    capacity: int,
    implementation: Implementation | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normal equations of a fit of features + transmittance * background to images.

    With J the Jacobian by the fit's parameters, r the difference and W Cauchy's weights at r: the
    Gram matrix of the columns [J, r] under W, whose blocks are J^T W J, J^T W r and r^T W r.
    Kernels never write J to memory. Not differentiable.

    The fit's parameters are D that move the P of the tangents, and E that change the features of
    all splats alike.

    Args:
        means2d: this and what follows up to `background` as for `composite_with_jacobian`.
        conics: see there.
        opacities: see there.
        features: see there.
        depths: see there.
        radii: see there.
        tangents: see there.
        feature_tangents: see there.
        background: see there.
        basis: [B, P, D] derivatives of the tangents' parameters by the first D of the fit's.
        shades: [B, E, 2] for each of the fit's other parameters, see `by_shade`.
        images: [B, H, W, C] to fit.
        weights: [B, H, W] what each pixel counts.
        deltas: [B] difference at which its weight has fallen to a half.
        width: image width in pixels.
        height: image height in pixels.
        capacity: as for `composite`.
        implementation: as for `composite`.

    Returns:
        Mean robust cost [B], Gram matrix [B, D + E + 1, D + E + 1], mean over the counted values,
        and the slots each image asks for [B].
    """
    implementation = backend.chosen(implementation)
    splats = jnp.concatenate([means2d, conics, opacities[..., None], features], axis=-1)
    out, lists = forward_of(width, height, capacity, implementation)(splats, depths, radii)
    lists = TileLists(*lists)
    values, transmittance = out[..., :-1], out[..., -1]
    difference = values + transmittance[..., None] * background[:, None, None, :] - images
    cost, robust = weigh(difference, weights, deltas)
    shaded = by_shade(values, transmittance, shades)
    known = jnp.concatenate([shaded, difference[..., None]], axis=-1)
    products = compositor_of(implementation).gram(
        splats, tangents, feature_tangents, lists, out, background, basis, known, robust
    )
    return cost, products, lists.pairs
