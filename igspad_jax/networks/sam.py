"""The image encoder of Segment Anything (Kirillov et al., ICCV 2023), sizes B, L and H.

A plain vision transformer. Most layers attend within windows, a few over the whole grid; relative
positions are decomposed into rows and columns (Li et al., "MViTv2", CVPR 2022).

Nothing is held for all pairs of cells: heads and queries are taken a few at a time, and the terms
of a query's row and column are added to its logits as these are made.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from igspad_jax.networks.layers import (
    Dense,
    Norm,
    PatchTransformer,
    divisor,
    einsum,
    gelu,
    held_at_once,
    in_dtype,
    patch_embedding,
    replace,
    replace_block,
)
from igspad_jax.networks.tensors import Params, Tensors, check_image_network


class SamEncoder(PatchTransformer):
    """Images to dense features.

    Attributes:
        windows: side in cells of each layer's attention window; the grid's where it is global.
        channels: of the features.
    """

    windows: tuple[int, ...]
    channels: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, grid, grid, channels] features of [B, side, side, 3] normalised images.

        Raises:
            InputError: images of another size than the network's.
        """
        x = self.embed(images, "SAM")
        for i, window in enumerate(self.windows):
            x = _Layer(self.heads, window, self.dtype, self.at_once, name=f"layers_{i}")(x)
        x = Dense(self.channels, use_bias=False, dtype=self.dtype, name="conv1")(x)
        x = Norm(name="norm1")(x)
        x = nn.Conv(self.channels, (3, 3), use_bias=False, dtype=self.dtype, name="conv2")(x)
        return Norm(name="norm2")(x.astype(jnp.float32))


class _Layer(nn.Module):
    """One layer of the transformer: [B, H, W, C] to the same."""

    heads: int
    window: int
    dtype: Any
    at_once: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        attention = _Attention(self.heads, self.window, self.dtype, self.at_once, name="attn")
        x += attention(Norm(name="norm")(x))
        cells = x.reshape(-1, x.shape[-1])
        size = divisor(len(cells), self.at_once // (4 * x.shape[-1]))
        # Flax's loop, for the parameters within; as `replace`.
        loop = nn.scan(
            lambda mlp, cells, i: (replace_block(mlp, i, size, cells, axis=0), None),
            variable_broadcast="params",
            split_rngs={"params": False},
        )
        cells, _ = loop(_Mlp(self.dtype, name="mlp"), cells, np.arange(len(cells) // size))
        return cells.reshape(x.shape)


class _Mlp(nn.Module):
    """Layer norm and two dense layers, and a way past them: [n, C] to the same."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = Dense(4 * x.shape[-1], dtype=self.dtype, name="lin1")(Norm(name="norm")(x))
        return x + Dense(x.shape[-1], dtype=self.dtype, name="lin2")(gelu(hidden))


class _Attention(nn.Module):
    """Attention within windows: [B, H, W, C] to the same.

    Windows reach beyond the grid where it is no multiple of them. The zeros there are not masked:
    their keys and values are the bias.
    """

    heads: int
    window: int
    dtype: Any
    at_once: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        side, depth = self.window, channels // self.heads
        rows, columns = -(-height // side), -(-width // side)
        beyond = ((0, 0), (0, rows * side - height), (0, columns * side - width), (0, 0))

        qkv = Dense(3 * channels, use_bias=False, dtype=self.dtype, name="qkv")(x)
        qkv = jnp.pad(qkv, beyond) + self.param("bias", nn.initializers.zeros, (3 * channels,))
        qkv = qkv.astype(self.dtype)
        qkv = qkv.reshape(batch, rows, side, columns, side, 3, self.heads, depth)
        q, k, v = qkv.transpose(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, side, side, depth)

        offsets = np.arange(side)[:, None] - np.arange(side) + side - 1
        vectors = [
            self.param(name, nn.initializers.zeros, (2 * side - 1, depth))[offsets]
            for name in ("rel_pos_h", "rel_pos_w")
        ]
        out = _attend(q, k, v, *vectors, at_once=self.at_once)
        out = out.reshape(batch, rows, columns, self.heads, side, side, depth)
        out = out.transpose(0, 1, 4, 2, 5, 3, 6).reshape(batch, rows * side, columns * side, -1)
        return Dense(channels, dtype=self.dtype, name="proj")(out[:, :height, :width])


def _attend(q, k, v, by_row, by_column, *, at_once: int) -> jax.Array:
    """Attention within each of G squares of cells, one for every window and head.

    Args:
        q: [G, S, S, D] queries.
        k: [G, S, S, D] keys.
        v: [G, S, S, D] values.
        by_row: [S, S, D] vector that a query in a row is multiplied with for the keys of a row.
        by_column: [S, S, D] likewise for columns.
        at_once: logits to hold at once.

    Returns:
        [G, S, S, D] sums of the values.
    """
    side, depth = q.shape[2:]
    cells = side * side
    squares = divisor(len(q), at_once // cells**2)
    queries = divisor(cells, at_once // cells)
    by_row, by_column = by_row.astype(q.dtype), by_column.astype(q.dtype)
    scale = np.asarray(depth**-0.5, q.dtype)

    def of_squares(q, k, v):
        rows = einsum("gyxd,ykd->gyxk", q, by_row)
        columns = einsum("gyxd,xkd->gyxk", q, by_column)
        q, k, v, rows, columns = (t.reshape(squares, cells, -1) for t in (q, k, v, rows, columns))

        def of_queries(q, rows, columns):
            # The scale is of the keys' term alone.
            logits = einsum("gqd,gkd->gqk", scale * q, k).reshape(squares, queries, side, side)
            logits += rows[..., :, None] + columns[..., None, :]
            weights = jax.nn.softmax(logits.reshape(squares, queries, cells))
            return einsum("gqk,gkd->gqd", weights.astype(v.dtype), v).astype(v.dtype)

        out = replace(of_queries, queries, q, rows, columns, axis=1)
        return out.reshape(squares, side, side, depth)

    return replace(of_squares, squares, q, k, v, axis=0)


def read_sam(tensors: Tensors, dtype: Any = jnp.float32) -> tuple[SamEncoder, Params]:
    """The encoder of a checkpoint, and its parameters.

    Args:
        tensors: of a whole SAM, or of its vision encoder alone, named as by transformers or as in
            the checkpoints of segment-anything. The prompt encoder and the mask decoder are left
            out.
        dtype: of the factors in matrix products.

    Raises:
        InputError: tensors are missing, left over, or of a size that does not fit the others.
    """
    if "image_encoder.pos_embed" in tensors:
        tensors = tensors.renamed(_transformers_name)
    tensors.drop_under("shared_image_embedding", "prompt_encoder", "mask_decoder")
    vision = tensors if "pos_embed" in tensors else tensors.under("vision_encoder")
    layers = []
    while not layers or f"layers.{len(layers)}.attn.qkv.weight" in vision:
        layers.append(_layer(vision.under(f"layers.{len(layers)}")))
    places = vision.take("pos_embed", 4)[0]
    params = {
        "patch_embed": patch_embedding(vision, "patch_embed.projection"),
        "pos_embed": places.reshape(-1, places.shape[-1]),
        **{f"layers_{i}": layer for i, layer in enumerate(layers)},
        "conv1": {"kernel": vision.conv("neck.conv1", bias=False)["kernel"][0, 0]},
        "norm1": vision.norm("neck.layer_norm1"),
        "conv2": vision.conv("neck.conv2", bias=False),
        "norm2": vision.norm("neck.layer_norm2"),
    }
    vision.finish()

    vectors = [layer["attn"]["rel_pos_h"] for layer in layers]
    cells, width = params["pos_embed"].shape
    encoder = SamEncoder(
        heads=width // vectors[0].shape[1],
        windows=tuple((len(vector) + 1) // 2 for vector in vectors),
        width=width,
        channels=len(params["norm2"]["bias"]),
        grid=math.isqrt(cells),
        patch=math.isqrt(len(params["patch_embed"]["kernel"]) // 3),
        dtype=dtype,
        at_once=held_at_once(),
    )
    check_image_network(encoder, params, encoder.side, tensors.source)
    return encoder, in_dtype({"params": params}, dtype)


# What the encoder's parts are called in segment-anything's checkpoints, and by transformers.
_NAMES = (
    ("image_encoder.", "vision_encoder."),
    ("patch_embed.proj.", "patch_embed.projection."),
    ("neck.0.", "neck.conv1."),
    ("neck.1.", "neck.layer_norm1."),
    ("neck.2.", "neck.conv2."),
    ("neck.3.", "neck.layer_norm2."),
    (".blocks.", ".layers."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
)


def _transformers_name(name: str) -> str:
    if name.startswith("image_encoder."):
        for theirs, ours in _NAMES:
            name = name.replace(theirs, ours)
    return name


def _layer(tensors: Tensors) -> Params:
    attention = tensors.under("attn")
    qkv = attention.linear("qkv")
    return {
        "norm": tensors.norm("layer_norm1"),
        "attn": {
            "qkv": {"kernel": qkv["kernel"]},
            "bias": qkv["bias"],
            "rel_pos_h": attention.take("rel_pos_h", 2),
            "rel_pos_w": attention.take("rel_pos_w", 2),
            "proj": attention.linear("proj"),
        },
        "mlp": {
            "norm": tensors.norm("layer_norm2"),
            "lin1": tensors.linear("mlp.lin1"),
            "lin2": tensors.linear("mlp.lin2"),
        },
    }
