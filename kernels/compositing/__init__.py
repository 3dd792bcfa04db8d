"""Compositing of projected splats: arrays in, arrays out, differentiable, batches native."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from igspad_jax.kernels.compositing import backend, mosaic, normal, xla
from igspad_jax.kernels.compositing.backend import Implementation
from igspad_jax.kernels.compositing.jacobian import composite_jacobian
from igspad_jax.kernels.compositing.tiles import TILE, TileLists, tile_lists

__all__ = ["Implementation", "composite", "composite_normal", "composite_with_jacobian"]


class _Compositor(NamedTuple):
    """What an implementation brings: the side of its tiles, and its functions of their lists."""

    side: int
    forward: Callable
    backward: Callable
    gram: Callable


@functools.cache
def _compositor(implementation: Implementation) -> _Compositor:
    if implementation == "xla":
        parts = (xla.composite_forward, xla.composite_backward, normal.composite_gram)
        side = TILE
    else:
        parts = (mosaic.composite_forward, mosaic.composite_backward, mosaic.composite_gram)
        parts = [functools.partial(f, interpret=implementation == "interpreted") for f in parts]
        side = mosaic.SIDE
    forward, backward, gram = parts
    return _Compositor(side, forward, _folding_batches(backward), _folding_batches(gram))


def _folding_batches(function):
    """Makes `vmap` of a function of [B, ...] arrays one call on the flat batch.

    A plain `vmap` of a loop of dynamic length runs every image as long as the longest; the flat
    list of tiles does each image's own work once.
    """
    folded = custom_vmap(function)

    @folded.def_vmap
    def rule(axis_size, in_batched, *args):
        leaves, tree = jax.tree.flatten(args)
        batched = jax.tree.leaves(in_batched)

        def fold(leaf, is_batched):
            leaf = leaf if is_batched else jnp.broadcast_to(leaf, (axis_size, *leaf.shape))
            return leaf.reshape(axis_size * leaf.shape[1], *leaf.shape[2:])

        flat = [fold(*pair) for pair in zip(leaves, batched, strict=True)]
        out = folded(*jax.tree.unflatten(tree, flat))
        out = jax.tree.map(lambda x: x.reshape(axis_size, -1, *x.shape[1:]), out)
        return out, jax.tree.map(lambda _: True, out)

    return folded


@functools.cache
def _forward(width: int, height: int, capacity: int, implementation: Implementation):
    """The tile lists of a batch and its composition, for one image size and capacity."""
    compositor = _compositor(implementation)

    @_folding_batches
    def forward(splats, depths, radii):
        def lists_of(splats, depths, radii):
            return tile_lists(
                splats[:, :2],
                splats[:, 2:5],
                splats[:, 5],
                depths,
                radii,
                width=width,
                height=height,
                capacity=capacity,
                side=compositor.side,
            )

        lists = jax.vmap(lists_of)(splats, depths, radii)
        return compositor.forward(splats, lists, width=width, height=height), lists

    return forward


@functools.cache
def _operation(width: int, height: int, capacity: int, implementation: Implementation):
    """The differentiable operation for one image size and capacity."""
    forward = _forward(width, height, capacity, implementation)
    backward = _compositor(implementation).backward

    @jax.custom_vjp
    def operation(splats, depths, radii):
        out, lists = forward(splats, depths, radii)
        return out, lists.pairs

    def operation_fwd(splats, depths, radii):
        out, lists = forward(splats, depths, radii)
        return (out, lists.pairs), (splats, lists, out)

    def operation_bwd(residuals, cotangents):
        splats, lists, out = residuals
        gradient = backward(splats, TileLists(*lists), out, cotangents[0])
        return gradient, jnp.zeros(splats.shape[:2]), jnp.zeros((*splats.shape[:2], 2))

    operation.defvjp(operation_fwd, operation_bwd)
    return operation


_jacobian = _folding_batches(composite_jacobian)


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
    out, pairs = _operation(width, height, capacity, backend.chosen(implementation))(
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
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Composites splats and says how every pixel moves with P parameters of the splats.

    Forward mode; not differentiable itself. In XLA on every machine.

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

    Returns:
        The three results of `composite`, then the [B, H, W, C, P] Jacobian of
        features + transmittance * background.
    """
    splats = jnp.concatenate([means2d, conics, opacities[..., None], features], axis=-1)
    out, lists = _forward(width, height, capacity, "xla")(splats, depths, radii)
    lists = TileLists(*lists)
    jacobian = _jacobian(splats, tangents, feature_tangents, lists, out, background)
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

    With J the Jacobian by the P parameters, r the difference and W Cauchy's weights at r: the
    Gram matrix of the columns [J, r] under W, whose blocks are J^T W J, J^T W r and r^T W r.
    Kernels never write J to memory. Not differentiable.

    Args:
        means2d: this and what follows up to `background` as for `composite_with_jacobian`.
        conics: see there.
        opacities: see there.
        features: see there.
        depths: see there.
        radii: see there.
        tangents: see there; a basis of the parameters is contracted with them beforehand.
        feature_tangents: see there.
        background: see there.
        images: [B, H, W, C] to fit.
        weights: [B, H, W] what each pixel counts.
        deltas: [B] difference at which its weight has fallen to a half.
        width: image width in pixels.
        height: image height in pixels.
        capacity: as for `composite`.
        implementation: as for `composite`.

    Returns:
        Mean robust cost [B], Gram matrix [B, P + 1, P + 1], mean over the counted values, and
        the slots each image asks for [B].
    """
    implementation = backend.chosen(implementation)
    splats = jnp.concatenate([means2d, conics, opacities[..., None], features], axis=-1)
    out, lists = _forward(width, height, capacity, implementation)(splats, depths, radii)
    lists = TileLists(*lists)
    difference = out[..., :-1] + out[..., -1:] * background[:, None, None, :] - images
    cost, robust = normal.weigh(difference, weights, deltas)
    gram = _compositor(implementation).gram(
        splats, tangents, feature_tangents, lists, out, background, difference, robust
    )
    return cost, gram, lists.pairs
