"""What the feature networks share: layers, loops over blocks, and the dtypes of parameters."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from igspad_jax.errors import InputError
from igspad_jax.networks.tensors import Params, Tensors

# Sums of products are float32 whatever their factors are.
einsum = partial(jnp.einsum, preferred_element_type=jnp.float32)
Dense = partial(
    nn.Dense, dot_general=partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
)
Norm = partial(nn.LayerNorm, epsilon=1e-6, use_fast_variance=False)


def gelu(x: jax.Array) -> jax.Array:
    """The exact Gaussian error linear unit."""
    return 0.5 * x * (1.0 + jax.lax.erf(np.float32(np.sqrt(0.5)) * x))


def patches(images: jax.Array, side: int) -> jax.Array:
    """[B, H / side, W / side, side * side * C] the cells of [B, H, W, C] images."""
    batch, height, width, channels = images.shape
    cells = images.reshape(batch, height // side, side, width // side, side * channels)
    return cells.swapaxes(2, 3).reshape(batch, height // side, width // side, -1)


class PatchTransformer(nn.Module):
    """What the transformers on the patches of an image share: sizes and the first layer.

    Attributes:
        heads: of the attention.
        width: channels of a cell.
        grid: side of the image in cells.
        patch: side of a cell in pixels.
        dtype: of the factors in matrix products; all else is float32.
        at_once: logits or hidden values of a layer to hold at once.
    """

    heads: int
    width: int
    grid: int
    patch: int
    dtype: Any
    at_once: int

    @property
    def side(self) -> int:
        """Of the image in pixels."""
        return self.grid * self.patch

    def embed(self, images: jax.Array, network: str) -> jax.Array:
        """Embed the patches of images; to be called from a compact method.

        Args:
            images: [B, side, side, 3] normalised.
            network: its name, for the error.

        Returns:
            [B, grid, grid, width].

        Raises:
            InputError: images of another size than the network's.
        """
        if images.shape[1:] != (self.side, self.side, 3):
            raise InputError(
                f"{network}: images of shape {images.shape} are not "
                f"[B, {self.side}, {self.side}, 3]; resize or pad them"
            )
        x = Dense(self.width, dtype=self.dtype, name="patch_embed")(patches(images, self.patch))
        places = self.param("pos_embed", nn.initializers.zeros, (self.grid**2, self.width))
        return x + places.reshape(x.shape[1:])


def patch_embedding(tensors: Tensors, name: str) -> Params:
    """The convolution of a network's first layer as a dense layer on `patches`."""
    params = tensors.conv(name)
    kernel = params["kernel"]
    return params | {"kernel": kernel.reshape(-1, kernel.shape[-1])}


def in_dtype(params: Params, dtype: Any) -> Params:
    """The parameters with their kernels in a dtype."""

    def cast(path, leaf):
        return leaf.astype(dtype, copy=False) if path[-1].key == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(cast, params)


def held_at_once() -> int:
    """How many values, logits for example, a layer should hold at once.

    A CPU is fastest while they fit its cache; an accelerator needs many.
    """
    return 2**20 if jax.default_backend() == "cpu" else 2**28


def divisor(n: int, most: int) -> int:
    """The largest divisor of n up to `most`, at least 1."""
    return max(i for i in range(1, n + 1) if n % i == 0 and i <= max(most, 1))


def replace(step: Callable, size: int, x: jax.Array, *others: jax.Array, axis: int) -> jax.Array:
    """Replaces an array by what `step` makes of it and others, block by block.

    A loop that gathers results elsewhere needs room for them, and XLA on the CPU sets aside the
    room of all loops of a network at its start.

    Args:
        step: from a block of each array to the block that replaces that of `x`.
        size: of a block; divides the axis.
        x: the array to replace.
        others: arrays that are read along the same axis.
        axis: of the blocks.
    """

    def body(i, x):
        return replace_block(step, i, size, x, *others, axis=axis)

    return jax.lax.fori_loop(0, x.shape[axis] // size, body, x)


def replace_block(
    step: Callable, i: Any, size: int, x: jax.Array, *others: jax.Array, axis: int
) -> jax.Array:
    """Replaces the i-th block alone; see `replace`."""
    blocks = [jax.lax.dynamic_slice_in_dim(t, i * size, size, axis) for t in (x, *others)]
    return jax.lax.dynamic_update_slice_in_dim(x, step(*blocks), i * size, axis)
