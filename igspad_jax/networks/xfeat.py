"""XFeat (Potje et al., CVPR 2024): fast keypoints from a small convolutional network.

Batch norms are folded into the convolutions before them.
"""

import itertools
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from igspad_jax.networks.keypoints import Keypoints, Limits
from igspad_jax.networks.layers import patches
from igspad_jax.networks.sampling import (
    check_images,
    largest_around,
    padded_keypoints,
    sample,
    strongest,
    unit,
)
from igspad_jax.networks.tensors import Params, Tensors, as_dense, check_image_network

_CELL = 8  # side of a cell of the feature map in pixels
_MULTIPLE = 32  # sides are brought down to multiples of this
_RADIUS = 2  # in pixels, of a maximum
# Channels, kernel size and stride of each layer.
_BLOCKS = {
    "block1": ((4, 3, 1), (8, 3, 2), (8, 3, 1), (24, 3, 2)),
    "block2": ((24, 3, 1), (24, 3, 1)),
    "block3": ((64, 3, 2), (64, 3, 1), (64, 1, 1)),
    "block4": ((64, 3, 2), (64, 3, 1), (64, 3, 1)),
    "block5": ((128, 3, 2), (128, 3, 1), (128, 3, 1), (64, 1, 1)),
    "block_fusion": ((64, 3, 1), (64, 3, 1)),
    "heatmap_head": ((64, 1, 1), (64, 1, 1)),
    "keypoint_head": ((64, 1, 1), (64, 1, 1), (64, 1, 1)),
}
_LAST = {"block_fusion": 64, "heatmap_head": 1, "keypoint_head": _CELL**2 + 1}


class XFeat(nn.Module):
    """Images to keypoints.

    Attributes:
        max_keypoints: rows of the result.
        threshold: least probability that a keypoint lies in its pixel, at least 0.
    """

    max_keypoints: int = 1024
    threshold: float = 0.05

    def __call__(self, images: jax.Array) -> Keypoints:
        """Keypoints of [B, H, W, 3] images in [0, 1].

        Sides are first brought down to multiples of 32 pixels. Points come back to the images'
        pixels with regard to their centres; the original is half a pixel of the difference off.

        Raises:
            InputError: images of another shape, or smaller than 32 pixels.
        """
        features, logits, reliability = self._maps(images)
        probability = _pixels_of_cells(jax.nn.softmax(logits)[..., :-1])
        height, width = probability.shape[1:]
        pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
        all_pixels = jnp.broadcast_to(pixels.reshape(-1, 2), (len(images), height * width, 2))
        reliability = sample(reliability, _cells(all_pixels, width, height))

        peaks = probability == largest_around(probability, _RADIUS)
        peaks &= probability > self.threshold
        # The original reads the last row and column as beyond the map.
        peaks &= np.all(pixels < np.array([width, height]) - 1, axis=-1)
        scores = jnp.where(peaks, probability * reliability.reshape(probability.shape), 0.0)
        scores, points = strongest(scores, self.max_keypoints)
        scale = np.array([images.shape[2] / width, images.shape[1] / height], np.float32)
        return padded_keypoints(
            (points + 0.5) * scale,
            scores,
            unit(sample(features, _cells(points, width, height), cubic=True)),
            scores > 0.0,
        )

    def dense(self, images: jax.Array) -> jax.Array:
        """[B, H / 8, W / 8, 64] features of length 1 of [B, H, W, 3] images in [0, 1].

        Sides are first brought down to multiples of 32 pixels, so the map has multiples of 4.

        Raises:
            InputError: images of another shape, or smaller than 32 pixels.
        """
        return self._maps(images)[0]

    @nn.compact
    def _maps(self, images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Features, logits of where in a cell a keypoint lies, or nowhere, and reliability."""

        def block(name: str, x: jax.Array) -> jax.Array:
            for i, (channels, size, stride) in enumerate(_BLOCKS[name]):
                layer = f"{name}_{i}"
                if x.shape[-1] == 1:
                    x = nn.relu(_GreyConv(channels, name=layer)(x))
                else:
                    conv = nn.Conv(channels, (size, size), stride, padding=size // 2, name=layer)
                    x = nn.relu(conv(x))
            return nn.Dense(_LAST[name], name=f"{name}_last")(x) if name in _LAST else x

        x = _normalised_grey(images)
        fine = block("block1", x) + nn.Dense(24, name="skip")(nn.avg_pool(x, (4, 4), (4, 4)))
        x3 = block("block3", block("block2", fine))
        x4 = block("block4", x3)
        x5 = block("block5", x4)
        features = block("block_fusion", x3 + _resize(x4, x3.shape) + _resize(x5, x3.shape))
        logits = block("keypoint_head", patches(x, _CELL))
        return unit(features), logits, nn.sigmoid(block("heatmap_head", features))


class _GreyConv(nn.Module):
    """A 3x3 convolution of one channel, which XLA's own is slow at on a processor."""

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3, 1, self.channels))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        height, width = x.shape[1:3]
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        taps = itertools.product(range(3), range(3))
        return sum((padded[:, i : i + height, j : j + width] * kernel[i, j] for i, j in taps), bias)


def _normalised_grey(images: jax.Array) -> jax.Array:
    """[B, H', W', 1] grey images of mean 0 and variance 1, with sides that are multiples of 32."""
    check_images(images, "XFeat", _MULTIPLE)
    grey = images.mean(axis=-1, keepdims=True)
    height, width = (n // _MULTIPLE * _MULTIPLE for n in images.shape[1:3])
    grey = _resize(grey, (len(images), height, width, 1))
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    return grey * jax.lax.rsqrt(jnp.mean(grey * grey, axis=(1, 2), keepdims=True) + 1e-5)


def _resize(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.image.resize(
        x, shape, "bilinear", antialias=False, precision=jax.lax.Precision.HIGHEST
    )


def _pixels_of_cells(x: jax.Array) -> jax.Array:
    """[B, H, W] of [B, H / 8, W / 8, 64]."""
    batch, rows, columns, _ = x.shape
    x = x.reshape(batch, rows, columns, _CELL, _CELL).swapaxes(2, 3)
    return x.reshape(batch, rows * _CELL, columns * _CELL)


def _cells(points: jax.Array, width: int, height: int) -> jax.Array:
    """Where the original reads maps of cells for [..., 2] points in pixels.

    Not quite at the points: the outermost pixels read half a cell outside of the map.
    """
    size = np.array([width, height])
    return points * np.float32(size / _CELL / (size - 1)) - 0.5


def read_xfeat(tensors: Tensors, **limits: Unpack[Limits]) -> tuple[XFeat, Params]:
    """Builds the network from weights, under the original's names.

    The matcher of dense features that travels with it (`fine_matcher`) is left out.

    Args:
        tensors: the weights; this finishes them.
        **limits: as for `XFeat`.

    Raises:
        InputError: other tensors than XFeat's.
    """
    tensors.drop_under("fine_matcher")
    params = {"skip": as_dense(tensors.conv("skip1.1"))}
    for name, layers in _BLOCKS.items():
        for i in range(len(layers)):
            layer = tensors.under(f"{name}.{i}.layer")
            params[f"{name}_{i}"] = layer.conv_with_norm("0", "1", affine=False)
        if name in _LAST:
            params[f"{name}_last"] = as_dense(tensors.conv(f"{name}.{len(layers)}"))
    tensors.finish()

    network = XFeat(**limits)
    check_image_network(network, params, _MULTIPLE, "XFeat")
    return network, params
