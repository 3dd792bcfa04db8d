"""The dense features of keypoint networks, trained to tell apart what looks much the same."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax

from igspad_jax.networks.aliked import read_aliked
from igspad_jax.networks.tensors import Params, Tensors
from igspad_jax.networks.xfeat import read_xfeat

# Pixels of the longer side. Twice the resolution finds twice as small a defect, and features of an
# enlarged image tell more than enlarged features.
_XFEAT_SIDE = 800


class AlikedFeatures:
    """ALIKED's features, one vector a pixel; see `Extractor`."""

    name = "aliked"
    tolerance = 1
    edge_discount = 0.0

    def __init__(self, tensors: Tensors):
        """Takes the weights of ALIKED; raises InputError if they are another network's."""
        self._network, params = read_aliked(tensors)
        self._params = jax.device_put(params)

    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, H, W, C] features of [B, H, W, 3] images in [0, 1]."""
        return _dense(self._network, self._params, images)


class XFeatFeatures:
    """XFeat's features, one vector for 8 x 8 pixels of an image enlarged; see `Extractor`."""

    name = "xfeat"
    tolerance = 1
    edge_discount = 0.0

    def __init__(self, tensors: Tensors):
        """Takes the weights of XFeat; raises InputError if they are another network's."""
        self._network, params = read_xfeat(tensors)
        self._params = jax.device_put(params)

    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, h, w, 64] features of [B, H, W, 3] images in [0, 1]; the longer of h, w is 100."""
        height, width = (round(n * _XFEAT_SIDE / max(images.shape[1:3])) for n in images.shape[1:3])
        larger = jax.image.resize(images, (len(images), height, width, 3), "linear")
        return _dense(self._network, self._params, larger)


@partial(jax.jit, static_argnums=0)
def _dense(network: Any, params: Params, images: jax.Array) -> jax.Array:
    """On the CPU images go through the network one by one, elsewhere all together."""

    def features(images):
        return network.apply({"params": params}, images, method="dense")

    if jax.default_backend() != "cpu":
        return features(images)
    return jax.lax.map(lambda image: features(image[None])[0], images)
