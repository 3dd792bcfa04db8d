"""Dense features of keypoint networks, which are trained to distinguish similar surroundings."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from igspad_jax.devices import map_images
from igspad_jax.networks.aliked import read_aliked
from igspad_jax.networks.tensors import Params, Tensors
from igspad_jax.networks.xfeat import read_xfeat

# Pixels of the longer side. A defect half as large needs twice the resolution, and features of an
# enlarged image distinguish more than enlarged features.
_XFEAT_SIDE = 800


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


@partial(jax.jit, static_argnums=0)
def _dense(network: Any, params: Params, images: jax.Array) -> jax.Array:
    return map_images(partial(network.apply, {"params": params}, method="dense"), images)
