"""SuperPoint (DeTone et al., CVPR workshops 2018): keypoints and their descriptors.

Its weights are for non-commercial research only.
"""

from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from igspad_jax.networks.keypoints import Keypoints, Limits
from igspad_jax.networks.sampling import (
    check_images,
    maxima,
    padded_keypoints,
    sample,
    strongest,
    unit,
)
from igspad_jax.networks.tensors import Params, Tensors, check_image_network

_STAGES = (64, 64, 128, 128)  # channels; the image is halved after all but the last
_CHANNELS = 256  # of a descriptor, and of the layer before both results
_CELL = 8  # pixels along a side of the last stage's cells
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_RADIUS = 4  # pixels around a keypoint without another
_BORDER = 4  # pixels without keypoints, at the left and the top only


class SuperPoint(nn.Module):
    """Images to keypoints.

    As in Hugging Face's port, keypoints keep a distance from the left and the upper border only.
    Where a side is no multiple of 8, what is over at its end has none.

    Attributes:
        max_keypoints: rows of the result.
        threshold: least score of a keypoint; the default is the one that LightGlue comes with.
    """

    max_keypoints: int = 1024
    threshold: float = 0.0005

    @nn.compact
    def __call__(self, images: jax.Array) -> Keypoints:
        """Keypoints of [B, H, W, 3] images in [0, 1].

        Raises:
            InputError: images of another shape, or smaller than 16 pixels.
        """
        check_images(images, "SuperPoint", 2 * _CELL)
        x = jnp.einsum("bhwc,c->bhw", images, _LUMA, precision="highest")[..., None]
        for i, channels in enumerate(_STAGES):
            for name in ("a", "b"):
                x = nn.relu(nn.Conv(channels, (3, 3), padding=1, name=f"stage{i}_{name}")(x))
            if i + 1 < len(_STAGES):
                x = nn.max_pool(x, (2, 2), (2, 2))
        scores = _maxima(_pixel_scores(_Head(_CELL**2 + 1, name="score")(x)))
        scores, pixels = strongest(scores, self.max_keypoints)
        descriptors = unit(_Head(_CHANNELS, name="descriptor")(x))
        return padded_keypoints(
            pixels + 0.5,
            scores,
            unit(sample(descriptors, _cells(pixels, *x.shape[1:3]))),
            scores > self.threshold,
        )


class _Head(nn.Module):
    """What all cells see, [B, h, w, C] to [B, h, w, channels]."""

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(_CHANNELS, (3, 3), padding=1, name="a")(x))
        return nn.Conv(self.channels, (1, 1), name="b")(x)


def _pixel_scores(logits: jax.Array) -> jax.Array:
    """[B, 8h, 8w] of [B, h, w, 65]: each cell has one keypoint, or none, the last channel."""
    batch, height, width, _ = logits.shape
    scores = jax.nn.softmax(logits)[..., :-1].reshape(batch, height, width, _CELL, _CELL)
    return scores.swapaxes(2, 3).reshape(batch, _CELL * height, _CELL * width)


def _maxima(scores: jax.Array) -> jax.Array:
    """[B, H, W] scores of the maxima that keep away from the left and the upper border; else 0."""
    rows, columns = np.ogrid[: scores.shape[1], : scores.shape[2]]
    inside = (rows >= _BORDER) & (columns >= _BORDER)
    return jnp.where(maxima(scores, _RADIUS) & inside, scores, 0.0)


def _cells(pixels: jax.Array, height: int, width: int) -> jax.Array:
    """Where a [height, width] map of cells is read for [B, K, 2] pixels.

    As in the original the map is stretched by half a cell: the image's last pixel reads the last
    cell's centre.
    """
    size, first = np.array([width, height]), (_CELL - 1) / 2
    return (pixels - first) * np.float32((size - 1) / (_CELL * size - 1 - first))


def read_superpoint(tensors: Tensors, **limits: Unpack[Limits]) -> tuple[SuperPoint, Params]:
    """Builds the network from Hugging Face's weights, alone or in a file with LightGlue.

    Args:
        tensors: the weights; this finishes them.
        **limits: as for `SuperPoint`.

    Raises:
        InputError: other tensors than SuperPoint's.
    """
    tensors.drop_under(
        "input_projection",
        "positional_encoder",
        "transformer_layers",
        "match_assignment_layers",
        "token_confidence",
    )
    if "keypoint_detector.encoder.conv_blocks.0.conv_a.weight" in tensors:
        tensors = tensors.under("keypoint_detector")
    params = {
        f"stage{i}_{name}": tensors.conv(f"encoder.conv_blocks.{i}.conv_{name}")
        for i in range(len(_STAGES))
        for name in ("a", "b")
    }
    for head, decoder in (("score", "keypoint_decoder"), ("descriptor", "descriptor_decoder")):
        params[head] = {n: tensors.conv(f"{decoder}.conv_{head}_{n}") for n in ("a", "b")}
    tensors.finish()
    network = SuperPoint(**limits)
    check_image_network(network, params, 2 * _CELL, "SuperPoint")
    return network, params
