"""Dense features of small networks, as maps of their own resolution.

Keypoint networks are trained to distinguish similar surroundings; EfficientNet-Lite0 tells objects
apart, and its early stages shrug off what a render lacks of a photograph.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from igspad_jax.devices import map_images
from igspad_jax.networks.aliked import read_aliked
from igspad_jax.networks.efficientnet import MULTIPLE, STRIDES, EfficientNet, read_efficientnet
from igspad_jax.networks.tensors import Params, Tensors
from igspad_jax.networks.xfeat import read_xfeat

# Pixels of the longer side. A defect half as large needs twice the resolution, and features of an
# enlarged image distinguish more than enlarged features.
_XFEAT_SIDE = 800
_EFFICIENTNET_SIDE = 400  # at least


class _DenseFeatures:
    """The `dense` features of a keypoint network; see `Extractor`."""

    tolerance = 1
    edge_discount = 0.0
    _read: Callable[[Tensors], tuple[Any, Params]]

    def __init__(self, tensors: Tensors):
        """Takes the network's weights; raises InputError if they are another network's."""
        self._network, params = self._read(tensors)
        self._params = jax.device_put(params)

    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, h, w, C] features of [B, H, W, 3] images in [0, 1]."""
        return _dense(self._network, self._params, images)


class AlikedFeatures(_DenseFeatures):
    """ALIKED's features, one vector a pixel."""

    name = "aliked"
    _read = staticmethod(read_aliked)


class XFeatFeatures(_DenseFeatures):
    """XFeat's features, one vector of 64 for 8 x 8 pixels of an image enlarged."""

    name = "xfeat"
    _read = staticmethod(read_xfeat)

    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, h, w, 64] features of [B, H, W, 3] images in [0, 1]; the longer of h, w is 100."""
        height, width = (round(n * _XFEAT_SIDE / max(images.shape[1:3])) for n in images.shape[1:3])
        return super().__call__(jax.image.resize(images, (len(images), height, width, 3), "linear"))


class EfficientNetFeatures:
    """The features of one stage of EfficientNet-Lite0; see `Extractor`."""

    edge_discount = 0.0

    def __init__(self, tensors: Tensors, stride: int):
        """Take the weights, and the stride in pixels of the stage, of `STRIDES`.

        Raises:
            InputError: if they are another network's.
        """
        self.name, self._stride = f"efficientnet-lite0-{stride}", stride
        self.tolerance = 1 if stride < 8 else 0
        self._network, params = read_efficientnet(tensors, STRIDES.index(stride) + 1)
        self._params = jax.device_put(params)

    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, h, w, C] features of [B, H, W, 3] images in [0, 1]."""
        return _stage(self._network, self._params, images, self._stride)


@partial(jax.jit, static_argnums=(0, 3))
def _stage(network: EfficientNet, params: Params, images: jax.Array, stride: int) -> jax.Array:
    factor = max(1.0, _EFFICIENTNET_SIDE / max(images.shape[1:3]))
    height, width = (MULTIPLE * max(1, round(n * factor / MULTIPLE)) for n in images.shape[1:3])
    images = jax.image.resize(images, (len(images), height, width, 3), "linear")
    # So that, to half a pixel, cells are centred where a grid that divides the image has them.
    margin = stride // 2, MULTIPLE - stride // 2
    images = jnp.pad(images, ((0, 0), margin, margin, (0, 0)), mode="edge")

    def last(images: jax.Array) -> jax.Array:
        stages: Any = network.apply(params, 2.0 * images - 1.0)
        return stages[-1]

    features = map_images(last, images)
    return features[:, : height // stride, : width // stride]


@partial(jax.jit, static_argnums=0)
def _dense(network: Any, params: Params, images: jax.Array) -> jax.Array:
    return map_images(partial(network.apply, {"params": params}, method="dense"), images)
