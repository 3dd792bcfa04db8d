"""ALIKED (Zhao et al., IEEE T-IM 2023): keypoints with deformable descriptors.

The variants (n16, n16rot, n32, t16) differ in sizes only, which are read off the tensors.

Where keypoints lie is decided on a map of scores. Their descriptors read a map of features, of
which few pixels are ever needed.
"""

from collections.abc import Callable
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from igspad_jax.networks.feature_map import STRIDES, FeatureMap, crop, enlarge, pad_edges
from igspad_jax.networks.keypoints import Keypoints, Limits
from igspad_jax.networks.sampling import (
    at,
    check_images,
    maxima,
    padded_keypoints,
    sample,
    strongest,
    unit,
)
from igspad_jax.networks.tensors import Params, Tensors, check_image_network

_RADIUS = 2  # in pixels, of a maximum and of the patch that refines it
_TEMPERATURE = 0.1  # of the refinement's weights
_FARTHEST = 0.25  # an offset, as a share of the map's longer side
_TAPS = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(-1, 2)  # x, y of a 3x3 patch


class Aliked(nn.Module):
    """Images to keypoints.

    Attributes:
        channels: of the four levels' blocks.
        samples: places where a descriptor reads the feature map.
        max_keypoints: rows of the result.
        threshold: least score of a keypoint, at least 0.
        side: the longer side, in pixels, to which images are resized before, up or down; None
            leaves them. The original's default is 1024.
    """

    channels: tuple[int, ...]
    samples: int
    max_keypoints: int = 1024
    threshold: float = 0.2
    side: int | None = None

    def setup(self):
        """Makes the layers."""
        width = self.channels[-1] // 4
        self.blocks = [_Block(n, skip=i > 0, deformable=i > 1) for i, n in enumerate(self.channels)]
        self.merges = [nn.Conv(width, (1, 1), use_bias=False) for _ in self.channels]
        # The head's first layer is linear, so each level passes its share of it before it is
        # enlarged: of 8 channels rather than of a quarter of the features'.
        self.shares = [nn.Conv(8, (1, 1), use_bias=False) for _ in self.channels]
        self.score = [nn.Conv(n, (3, 3), padding=1, use_bias=False) for n in (4, 4, 1)]
        self.descriptor = _Descriptor(self.samples)

    def __call__(self, images: jax.Array) -> Keypoints:
        """Keypoints of [B, H, W, 3] images in [0, 1].

        They come in the order of their peaks' scores; theirs are read where they were moved to.
        Unlike in the original, an image without a score above the threshold has no keypoints.

        Raises:
            InputError: images of another shape.
        """
        check_images(images, "ALIKED")
        resized = self._resize(images)
        height, width = resized.shape[1:3]
        levels = self._levels(resized)
        shares = zip(self.shares, levels, STRIDES, strict=True)
        x = sum((enlarge(share(y), stride) for share, y, stride in shares), jnp.zeros(()))
        for conv in self.score:
            x = conv(nn.selu(x))
        scores = nn.sigmoid(crop(x, height, width)[..., 0])
        peaks, pixels = strongest(_maxima(scores), self.max_keypoints)
        points = _refine(scores, pixels)
        descriptors = self.descriptor(FeatureMap(levels, height, width), points)
        scale = np.array([images.shape[2] / width, images.shape[1] / height], np.float32)
        return padded_keypoints(
            (points + 0.5) * scale,
            sample(scores[..., None], points)[..., 0],
            descriptors,
            peaks > self.threshold,
        )

    def dense(self, images: jax.Array) -> jax.Array:
        """[B, H, W, C] features of length 1 of [B, H, W, 3] images in [0, 1].

        Images are not resized.

        Raises:
            InputError: images of another shape.
        """
        check_images(images, "ALIKED")
        return FeatureMap(self._levels(images), *images.shape[1:3]).whole()

    def _resize(self, images: jax.Array) -> jax.Array:
        height, width = images.shape[1:3]
        if self.side is None or self.side == max(height, width):
            return images
        size = (round(n * self.side / max(height, width)) for n in (height, width))
        shape = (len(images), *(max(n, 1) for n in size), 3)
        return jax.image.resize(images, shape, "bilinear", precision=jax.lax.Precision.HIGHEST)

    def _levels(self, images: jax.Array) -> list[jax.Array]:
        """The pyramid of the images, their borders repeated up to multiples of 32 pixels."""
        x = pad_edges(images)
        levels = []
        for i, (block, merge) in enumerate(zip(self.blocks, self.merges, strict=True)):
            if i > 0:
                x = _mean_pool(x, STRIDES[i] // STRIDES[i - 1])
            x = block(x)
            levels.append(nn.selu(merge(x)))
        return levels


class _Block(nn.Module):
    """Two 3x3 convolutions: [B, H, W, C] to [B, H, W, channels]."""

    channels: int
    skip: bool
    deformable: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def conv(name: str, x: jax.Array) -> jax.Array:
            if self.deformable:
                return _DeformableConv(self.channels, name=name)(x)
            return nn.Conv(self.channels, (3, 3), padding=1, name=name)(x)

        y = conv("conv2", nn.selu(conv("conv1", x)))
        if self.skip:
            y += nn.Conv(self.channels, (1, 1), name="downsample")(x)
        return nn.selu(y)


class _DeformableConv(nn.Module):
    """A 3x3 convolution that reads its nine pixels at learned offsets (Dai et al., ICCV 2017)."""

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, inner = x.shape
        farthest = _FARTHEST * max(height, width)
        offsets = nn.Conv(2 * len(_TAPS), (3, 3), padding=1, name="offsets")(x)
        offsets = jnp.clip(offsets, -farthest, farthest).reshape(batch, height, width, -1, 2)
        pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
        # The network gives y before x.
        points = offsets[..., ::-1] + np.float32(pixels[:, :, None] + _TAPS)
        read = sample(x, points.reshape(batch, -1, 2))
        # A matrix product, in a form before which XLA still reads whole vectors of channels.
        rows = read.reshape(batch, height, len(_TAPS) * width, inner)
        patch = (1, len(_TAPS))
        return nn.Conv(self.channels, patch, patch, padding="VALID", name="conv")(rows)


class _Descriptor(nn.Module):
    """Descriptors from places that a keypoint's 3x3 patch points to (section III-C)."""

    samples: int

    @nn.compact
    def __call__(self, features: FeatureMap, points: jax.Array) -> jax.Array:
        """[B, K, C] descriptors of [B, K, 2] points."""
        channels, outer = features.channels, 2 * self.samples
        initial = nn.initializers.lecun_normal()
        around = self.param("around", initial, (len(_TAPS), channels, outer))
        bias = self.param("bias", nn.initializers.zeros, (outer,))
        sampled = self.param("sampled", initial, (channels, channels))
        aggregate = self.param("aggregate", initial, (self.samples, channels, channels))

        size = np.array([features.width, features.height])
        # The original stays off the last row and column.
        middle = jnp.clip(jnp.floor(points).astype(jnp.int32), 1, np.maximum(size - 3, 1))
        patch = jnp.minimum(middle + _TAPS[:, None, None], size - 1)
        hidden = nn.selu(_sum_of_products(features.at, patch, around) + bias)
        offsets = nn.Dense(outer, name="offsets")(hidden)
        farthest = _FARTHEST * size.max()
        offsets = jnp.clip(offsets, -farthest, farthest).reshape(*points.shape, self.samples)
        places = points + jnp.moveaxis(offsets, 3, 0)

        def read(places):
            return nn.selu(features.sample(places) @ sampled)

        return unit(_sum_of_products(read, places, aggregate))


def _sum_of_products(
    read: Callable[[jax.Array], jax.Array], places: jax.Array, kernels: jax.Array
) -> jax.Array:
    """The sum over N places of what is read there, times the place's kernel.

    In a loop: all places at once would take as much memory as the rest of the network.

    Args:
        read: gives [B, K, C] at [B, K, 2] places.
        places: [N, B, K, 2].
        kernels: [N, C, D].

    Returns:
        [B, K, D].
    """

    def add(total, step):
        place, kernel = step
        return total + read(place) @ kernel, None

    none = jnp.zeros((*places.shape[1:3], kernels.shape[2]))
    return jax.lax.scan(add, none, (places, kernels))[0]


def _maxima(scores: jax.Array) -> jax.Array:
    """Scores where they are the largest around, 0 elsewhere and near the border."""
    height, width = scores.shape[1:]
    inside = np.zeros((height, width), bool)
    inside[_RADIUS : height - _RADIUS, _RADIUS : width - _RADIUS] = True
    return jnp.where(maxima(scores, _RADIUS) & inside, scores, 0.0)


def _refine(scores: jax.Array, pixels: jax.Array) -> jax.Array:
    """Moves [B, K, 2] pixels to the means of the scores around them (soft argmax)."""
    batch, height, width = scores.shape
    along = np.arange(-_RADIUS, _RADIUS + 1)
    steps = np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2)
    around = jnp.clip(pixels[:, :, None] + steps, 0, np.array([width, height]) - 1)
    values = at(scores[..., None], around.reshape(batch, -1, 2)).reshape(*around.shape[:3])
    weights = jnp.exp((values - values.max(axis=-1, keepdims=True)) / _TEMPERATURE)
    moments = jnp.einsum("bkn,nd->bkd", weights, np.float32(steps), precision="highest")
    return pixels + moments / weights.sum(axis=-1, keepdims=True)


def _mean_pool(x: jax.Array, size: int) -> jax.Array:
    batch, height, width, channels = x.shape
    blocks = x.reshape(batch, height // size, size, width // size, size, channels)
    return blocks.mean(axis=(2, 4))


def read_aliked(
    tensors: Tensors,
    *,
    side: int | None = None,
    **limits: Unpack[Limits],
) -> tuple[Aliked, Params]:
    """Builds the network from weights, under the original's names.

    Args:
        tensors: the weights; this finishes them.
        side: as for `Aliked`.
        **limits: as for `Aliked`.

    Raises:
        InputError: other tensors than ALIKED's.
    """
    blocks = [_block(tensors, f"block{i}", skip=i > 1, deformable=i > 2) for i in range(1, 5)]
    merges = [tensors.conv(f"conv{i}", bias=False) for i in range(1, 5)]
    head = tensors.conv("score_head.0", bias=False)["kernel"]
    score = [tensors.conv(f"score_head.{i}", bias=False) for i in (2, 4, 6)]
    tensors = tensors.under("desc_head")
    first, second = tensors.conv("offset_conv.0"), tensors.conv("offset_conv.2")
    descriptor: Params = {
        "around": _taps(first["kernel"]),
        "bias": first["bias"],
        "offsets": second | {"kernel": second["kernel"][0, 0]},
        "sampled": tensors.conv("sf_conv", bias=False)["kernel"][0, 0],
        "aggregate": tensors.take("agg_weights", 3),
    }
    tensors.finish()

    network = Aliked(
        channels=tuple(len(block["conv2"].get("conv", block["conv2"])["bias"]) for block in blocks),
        samples=len(descriptor["aggregate"]),
        side=side,
        **limits,
    )
    params: Params = {"descriptor": descriptor}
    for name, parts in {
        "blocks": blocks,
        "merges": merges,
        "shares": [{"kernel": kernel} for kernel in np.array_split(head, 4, axis=2)],
        "score": score,
    }.items():
        params |= {f"{name}_{i}": part for i, part in enumerate(parts)}
    check_image_network(network, params, 32, "ALIKED")
    return network, params


def _block(tensors: Tensors, name: str, *, skip: bool, deformable: bool) -> Params:
    tensors = tensors.under(name)
    params: Params = {}
    for i in (1, 2):
        inner = f"conv{i}.regular_conv" if deformable else f"conv{i}"
        folded = tensors.conv_with_norm(inner, f"bn{i}")
        if deformable:
            folded["kernel"] = _taps(folded["kernel"])[None]
            folded = {"conv": folded, "offsets": tensors.conv(f"conv{i}.offset_conv")}
        params[f"conv{i}"] = folded
    if skip:
        params["downsample"] = tensors.conv("downsample")
    return params


def _taps(kernel: np.ndarray) -> np.ndarray:
    """[h * w, C, D] of a convolution's [h, w, C, D] kernel."""
    return kernel.reshape(-1, *kernel.shape[2:])
