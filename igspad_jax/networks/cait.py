"""Class-attention image transformers (Touvron et al., ICCV 2021), as far as dense features go.

The class token enters after the last layer that patches attend to each other in, so features have
no need of it. Heads talk to each other before and after the softmax (Shazeer et al., "Talking-heads
attention", 2020).
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
)
from igspad_jax.networks.tensors import Params, Tensors, check_image_network


class Cait(PatchTransformer):
    """Images to the patches' values after the last layer of self-attention.

    Attributes:
        layers: their number.
    """

    layers: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, grid, grid, width] features of [B, side, side, 3] normalised images.

        Raises:
            InputError: images of another size than the network's.
        """
        x = self.embed(images, "CaiT").reshape(len(images), -1, self.width)
        for i in range(self.layers):
            x = _Layer(self.heads, self.dtype, self.at_once, name=f"layers_{i}")(x)
        return x.reshape(-1, self.grid, self.grid, self.width)


class _Layer(nn.Module):
    """One layer of the transformer: [B, N, C] to the same."""

    heads: int
    dtype: Any
    at_once: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        scales = [self.param(name, nn.initializers.ones, (width,)) for name in ("scale1", "scale2")]
        attention = _Attention(self.heads, self.dtype, self.at_once, name="attn")
        x += scales[0] * attention(Norm(name="norm1")(x))
        hidden = gelu(Dense(4 * width, dtype=self.dtype, name="fc1")(Norm(name="norm2")(x)))
        return x + scales[1] * Dense(width, dtype=self.dtype, name="fc2")(hidden)


class _Attention(nn.Module):
    """Attention of all to all with talking heads: [B, N, C] to the same."""

    heads: int
    dtype: Any
    at_once: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, count, width = x.shape
        depth = width // self.heads
        qkv = Dense(3 * width, dtype=self.dtype, name="qkv")(x).astype(self.dtype)
        qkv = qkv.reshape(batch, count, 3, self.heads, depth)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)
        before, after = (
            (
                self.param(f"{name}_kernel", nn.initializers.zeros, (self.heads, self.heads)),
                self.param(f"{name}_bias", nn.initializers.zeros, (self.heads,)),
            )
            for name in ("before", "after")
        )
        scale = np.asarray(depth**-0.5, q.dtype)

        def of_queries(q):
            weights = _talk(einsum("bhqd,bhkd->bhqk", scale * q, k), *before)
            weights = _talk(jax.nn.softmax(weights), *after)
            return einsum("bhqk,bhkd->bhqd", weights.astype(v.dtype), v).astype(v.dtype)

        size = divisor(count, self.at_once // (batch * self.heads * count))
        out = replace(of_queries, size, q, axis=2).swapaxes(1, 2).reshape(x.shape)
        return Dense(width, dtype=self.dtype, name="proj")(out)


def _talk(weights: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Mixes the heads of [B, h, n, m]; `kernel` is [in, out]."""
    return einsum("bhqk,hi->biqk", weights, kernel) + bias[:, None, None]


def read_cait(tensors: Tensors, dtype: Any = jnp.float32) -> tuple[Cait, Params]:
    """The network of a checkpoint, and its parameters.

    Args:
        tensors: named as by timm. The class token, its layers and the classifier are left out.
        dtype: of the factors in matrix products.

    Raises:
        InputError: tensors are missing, left over, or of a size that does not fit the others.
    """
    tensors.drop("cls_token")
    tensors.drop_under("blocks_token_only", "norm", "head")
    layers = []
    while not layers or f"blocks.{len(layers)}.attn.qkv.weight" in tensors:
        layers.append(_layer(tensors.under(f"blocks.{len(layers)}")))
    params = {
        "patch_embed": patch_embedding(tensors, "patch_embed.proj"),
        "pos_embed": tensors.take("pos_embed", 3)[0],
        **{f"layers_{i}": layer for i, layer in enumerate(layers)},
    }
    tensors.finish()

    cells, width = params["pos_embed"].shape
    network = Cait(
        layers=len(layers),
        heads=len(layers[0]["attn"]["before_bias"]),
        width=width,
        grid=math.isqrt(cells),
        patch=math.isqrt(len(params["patch_embed"]["kernel"]) // 3),
        dtype=dtype,
        at_once=held_at_once(),
    )
    check_image_network(network, params, network.side, tensors.source)
    return network, in_dtype({"params": params}, dtype)


def _layer(tensors: Tensors) -> Params:
    attention = tensors.under("attn")
    before, after = attention.linear("proj_l"), attention.linear("proj_w")
    return {
        "norm1": tensors.norm("norm1"),
        "attn": {
            "qkv": attention.linear("qkv"),
            "before_kernel": before["kernel"],
            "before_bias": before["bias"],
            "after_kernel": after["kernel"],
            "after_bias": after["bias"],
            "proj": attention.linear("proj"),
        },
        "scale1": tensors.take("gamma_1"),
        "norm2": tensors.norm("norm2"),
        "fc1": tensors.linear("mlp.fc1"),
        "fc2": tensors.linear("mlp.fc2"),
        "scale2": tensors.take("gamma_2"),
    }
