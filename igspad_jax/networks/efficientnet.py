"""EfficientNet-Lite0 (Tan and Le, ICML 2019; the Lite variants, TensorFlow 2020), to stride 16.

Blocks are inverted residuals: a 1x1 convolution widens, a depthwise one looks around, a 1x1
convolution narrows. The Lite variants have no squeeze-and-excitation, and ReLU6. Batch norms are
folded into the convolutions before them; padding is TensorFlow's.
"""

import jax
from flax import linen as nn

from igspad_jax.networks.tensors import Params, Tensors, as_dense, check_image_network

_STEM = 32
# Channels, kernel size, stride and number of the blocks of each group; stages end with the groups
# of `_ENDS`, at which the next one halves the resolution.
_GROUPS = ((16, 3, 1, 1), (24, 3, 2, 2), (40, 5, 2, 2), (80, 3, 2, 3), (112, 5, 1, 3))
_ENDS = (0, 1, 2, 4)
_EXPANSION = 6  # of the channels within a block; the first block has none
_EPSILON = 1e-3  # of the batch norms
_BLOCKS_IN_ALL = 16  # of a checkpoint

STRIDES = (2, 4, 8, 16)  # of the stages' cells in pixels
MULTIPLE = 16  # pixels; on sides that are multiples, cell (i, j) of stride s is centred on
# the pixel at (s i + s - 1, s j + s - 1)


class EfficientNet(nn.Module):
    """Images to features.

    Attributes:
        stages: how many stages to compute, 1 to 4.
    """

    stages: int = len(STRIDES)

    @nn.compact
    def __call__(self, images: jax.Array) -> list[jax.Array]:
        """Features of [B, H, W, 3] images in [-1, 1].

        Returns:
            For each stage, [B, H / s, W / s, channels], rounded up, with s of `STRIDES`.
        """
        x = nn.relu6(nn.Conv(_STEM, (3, 3), 2, name="stem")(images))
        features, number = [], 0
        for group, (channels, size, stride, blocks) in enumerate(_GROUPS):
            for i in range(blocks):
                name = f"block{number}"
                x = _Block(channels, size, stride if i == 0 else 1, number > 0, name=name)(x)
                number += 1
            if group in _ENDS:
                features.append(x)
            if len(features) == self.stages:
                break
        return features


class _Block(nn.Module):
    channels: int
    size: int
    stride: int
    expanded: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        past = x
        if self.expanded:
            x = nn.relu6(nn.Dense(_EXPANSION * x.shape[-1], name="expand")(x))
        kernel = self.size, self.size
        around = nn.Conv(
            x.shape[-1], kernel, self.stride, feature_group_count=x.shape[-1], name="around"
        )
        x = nn.Dense(self.channels, name="project")(nn.relu6(around(x)))
        return x + past if x.shape == past.shape else x


def read_efficientnet(tensors: Tensors, stages: int = len(STRIDES)) -> tuple[EfficientNet, Params]:
    """The network of a checkpoint, and its parameters.

    Args:
        tensors: named as by efficientnet-lite-pytorch. The last blocks and the classifier are left
            out.
        stages: how many stages to compute, 1 to 4.

    Raises:
        InputError: tensors are missing, left over, or of a size that does not fit the others.
    """
    first = sum(blocks for *_, blocks in _GROUPS[: _ENDS[stages - 1] + 1])
    beyond = (f"_blocks.{i}" for i in range(first, _BLOCKS_IN_ALL))
    tensors.drop_under(*beyond, "_conv_head", "_bn1", "_fc")
    params = {"stem": tensors.conv_with_norm("_conv_stem", "_bn0", epsilon=_EPSILON)}
    for i in range(first):
        own = tensors.under(f"_blocks.{i}")
        block = {"around": own.conv_with_norm("_depthwise_conv", "_bn1", epsilon=_EPSILON)}
        if i:
            block["expand"] = as_dense(own.conv_with_norm("_expand_conv", "_bn0", epsilon=_EPSILON))
        block["project"] = as_dense(own.conv_with_norm("_project_conv", "_bn2", epsilon=_EPSILON))
        params[f"block{i}"] = block
    tensors.finish()
    network = EfficientNet(stages)
    check_image_network(network, params, 2 * MULTIPLE, tensors.source)
    return network, {"params": params}
