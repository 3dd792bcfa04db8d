"""Residual networks (He et al., CVPR 2016), as far as dense features need them.

ResNet18 is made of basic blocks, WideResNet50-2 (Zagoruyko and Komodakis, BMVC 2016) of bottlenecks
twice as wide as usual. Batch norms are folded into the convolutions before them.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from igspad_jax.networks.layers import in_dtype
from igspad_jax.networks.tensors import Params, Tensors, check_image_network

STRIDES = (4, 8, 16)  # of the stages' cells in pixels


class ResNet(nn.Module):
    """Images to the features after each of the first three stages.

    Attributes:
        blocks: of each stage.
        widths: channels within the blocks of each stage.
        channels: of each stage's features.
        bottleneck: whether a block is convolutions of 1x1, 3x3 and 1x1; else two of 3x3.
        dtype: of the convolutions.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    channels: tuple[int, ...]
    bottleneck: bool
    dtype: Any

    @nn.compact
    def __call__(self, images: jax.Array) -> list[jax.Array]:
        """Features of [B, H, W, 3] normalised images.

        Returns:
            For each stage, [B, H / s, W / s, channels], rounded up, with s of `STRIDES`. The cell
            at (i, j) is centred on the pixel at (s i, s j).
        """
        x = nn.relu(_conv(64, 7, 2, dtype=self.dtype, name="conv1")(images))
        # Padded as in PyTorch; XLA's "SAME" is off by one pixel at stride 2.
        margin = ((0, 0), (1, 1), (1, 1), (0, 0))
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), margin)
        features = []
        for stage, shape in enumerate(zip(self.widths, self.channels, strict=True)):
            for i in range(self.blocks[stage]):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"layer{stage + 1}_{i}"
                x = _Block(*shape, stride, self.bottleneck, self.dtype, name=name)(x)
            features.append(x.astype(jnp.float32))
        return features


class _Block(nn.Module):
    width: int
    channels: int
    stride: int
    bottleneck: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = partial(_conv, dtype=self.dtype)
        past = x
        if self.stride > 1 or x.shape[-1] != self.channels:
            past = conv(self.channels, 1, self.stride, name="downsample")(x)
        if self.bottleneck:
            x = nn.relu(conv(self.width, 1, 1, name="conv1")(x))
            x = nn.relu(conv(self.width, 3, self.stride, name="conv2")(x))
            x = conv(self.channels, 1, 1, name="conv3")(x)
        else:
            x = nn.relu(conv(self.width, 3, self.stride, name="conv1")(x))
            x = conv(self.channels, 3, 1, name="conv2")(x)
        return nn.relu(x + past)


def _conv(channels: int, size: int, stride: int, *, dtype: Any, name: str) -> nn.Conv:
    kernel = (size, size)
    return nn.Conv(channels, kernel, stride, padding=size // 2, dtype=dtype, name=name)


def read_resnet(tensors: Tensors, dtype: Any = jnp.float32) -> tuple[ResNet, Params]:
    """The network of a checkpoint, and its parameters.

    Args:
        tensors: named as by timm. The fourth stage and the classifier are left out.
        dtype: of the convolutions.

    Raises:
        InputError: tensors are missing, left over, or of a size that does not fit the others.
    """
    tensors.drop_under("layer4", "fc")
    params, stages = {"conv1": tensors.conv_with_norm("conv1", "bn1")}, []
    for stage in range(1, len(STRIDES) + 1):
        blocks = []
        while not blocks or f"layer{stage}.{len(blocks)}.conv1.weight" in tensors:
            blocks.append(_block(tensors.under(f"layer{stage}.{len(blocks)}")))
        params |= {f"layer{stage}_{i}": block for i, block in enumerate(blocks)}
        stages.append(blocks)
    tensors.finish()

    bottleneck = "conv3" in stages[0][0]
    last = "conv3" if bottleneck else "conv2"
    network = ResNet(
        blocks=tuple(len(blocks) for blocks in stages),
        widths=tuple(len(blocks[0]["conv1"]["bias"]) for blocks in stages),
        channels=tuple(len(blocks[0][last]["bias"]) for blocks in stages),
        bottleneck=bottleneck,
        dtype=dtype,
    )
    check_image_network(network, params, 32, tensors.source)
    return network, in_dtype({"params": params}, dtype)


def _block(tensors: Tensors) -> Params:
    pairs = {"conv1": "bn1", "conv2": "bn2"}
    if "conv3.weight" in tensors:
        pairs["conv3"] = "bn3"
    params = {conv: tensors.conv_with_norm(conv, norm) for conv, norm in pairs.items()}
    if "downsample.0.weight" in tensors:
        params["downsample"] = tensors.conv_with_norm("downsample.0", "downsample.1")
    return params
