"""An implementation's parts as operations on batches, whose `vmap` is one call on a flat batch."""


import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from igspad_jax.kernels.compositing import mosaic, normal, xla
from igspad_jax.kernels.compositing.backend import Implementation
from igspad_jax.kernels.compositing.jacobian import composite_jacobian
from igspad_jax.kernels.compositing.tiles import TILE, TileLists, tile_lists


class Compositor(NamedTuple):
    """What an implementation brings: the side of its tiles, and its functions of their lists."""

    side: int
    forward: Callable
    backward: Callable
    jacobian: Callable
    gram: Callable


@functools.cache
def compositor_of(implementation: Implementation) -> Compositor:
    """The parts of an implementation."""
    if implementation == "xla":
        side, forward, backward = TILE, xla.composite_forward, xla.composite_backward
        linear = (composite_jacobian, normal.composite_gram)
    else:

        def here(kernel):
            return functools.partial(kernel, interpret=implementation == "interpreted")

        side, forward = mosaic.SIDE, here(mosaic.composite_forward)
        backward = here(mosaic.composite_backward)
        linear = (here(mosaic.composite_jacobian), here(mosaic.composite_gram))
    return Compositor(side, forward, *map(_folding_batches, (backward, *linear)))


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
def forward_of(width: int, height: int, capacity: int, implementation: Implementation):
    """The tile lists of a batch and its composition, for one image size and capacity."""
    compositor = compositor_of(implementation)

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
def operation_of(width: int, height: int, capacity: int, implementation: Implementation):
    """The differentiable operation for one image size and capacity."""
    forward = forward_of(width, height, capacity, implementation)
    backward = compositor_of(implementation).backward

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
