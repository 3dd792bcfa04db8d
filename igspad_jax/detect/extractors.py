"""The pretrained feature extractors that the paper compares.

Jiang et al. (ACM MM 2024) name the networks; sizes of images and which layers' features are ours:

* SAM: as its own image processor, the long side to 1024 pixels and zeros right and below; the
  features are the encoder's.
* ResNets: the long side to 224 pixels; the features of the first three stages side by side, as in
  PaDiM (Defard et al., 2021) and PatchCore (Roth et al., 2022).
* CaiT: stretched to 448 x 448 pixels, the only size it takes; the features are the patches' after
  the last layer in which they attend to each other.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.devices import map_images
from igspad_jax.errors import InputError
from igspad_jax.networks.cait import Cait, read_cait
from igspad_jax.networks.resnet import STRIDES, ResNet, read_resnet
from igspad_jax.networks.sam import SamEncoder, read_sam
from igspad_jax.networks.tensors import Params, Tensors

# Of ImageNet's colours in [0, 1], for every network here.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_RESNET_SIDE = 224


class Pretrained:
    """The features of a pretrained network, compared as in the paper; see `Extractor`.

    Attributes:
        name: of the weights.
        tolerance: 0, as in the paper.
        edge_discount: 0, as in the paper.
    """

    tolerance = 0
    edge_discount = 0.0

    def __init__(self, name: str, tensors: Tensors, dtype: Any = jnp.float32):
        """An extractor.

        Args:
            name: of the weights: sam-vit-base, -large or -huge, resnet18, wide-resnet50-2 or
                cait-m48-448.
            tensors: the weights.
            dtype: of the factors in matrix products, float32 or bfloat16.

        Raises:
            InputError: no such extractor, or the weights are of another network.
        """
        if name not in _FAMILIES:
            raise InputError(f"no features are called {name!r}; there are {', '.join(_FAMILIES)}")
        build, self._features = _FAMILIES[name]
        self.name = name
        self._network, params = build(tensors, dtype)
        self._params = jax.device_put(params)

    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, h, w, C] features of [B, H, W, 3] images in [0, 1]; h and w depend on H / W alone."""
        return _run(self._features, self._network, self._params, images)


@partial(jax.jit, static_argnums=(0, 1))
def _run(features: Callable, network: Any, params: Params, images: jax.Array) -> jax.Array:
    return map_images(partial(features, network, params), images)


def _sam(network: SamEncoder, params: Params, images: jax.Array) -> jax.Array:
    """[B, h, w, C]; the longer of h and w is the network's grid."""
    height, width = _fit(images, network.side)
    images = sam_input(images, network.side)
    grid = -(-height // network.patch), -(-width // network.patch)
    middle = 0.5 * (network.patch - 1)
    features: Any = network.apply(params, images)
    return resample(features, network.patch, middle, (height, width), grid)


def sam_input(images: jax.Array, side: int) -> jax.Array:
    """[B, side, side, 3] input of SAM for [B, H, W, 3] images in [0, 1].

    As the image processor of transformers, but for its rounding of colours to 8 bits.
    """
    height, width = _fit(images, side)
    images = _normalise(_resize(images, height, width, "linear"))
    return jnp.pad(images, ((0, 0), (0, side - height), (0, side - width), (0, 0)))


def _resnet(network: ResNet, params: Params, images: jax.Array) -> jax.Array:
    """[B, h, w, C]; the longer of h and w is 56, that of the first stage."""
    size = _fit(images, _RESNET_SIDE)
    stages: Any = network.apply(params, _normalise(_resize(images, *size, "linear")))
    placed = [
        resample(features, stride, 0.0, size, stages[0].shape[1:3])
        for features, stride in zip(stages, STRIDES, strict=True)
    ]
    return jnp.concatenate(placed, axis=-1)


def _cait(network: Cait, params: Params, images: jax.Array) -> jax.Array:
    """[B, 28, 28, C] for CaiT-M48-448."""
    images = _resize(images, network.side, network.side, "cubic")
    features: Any = network.apply(params, _normalise(images))
    return features


def _fit(images: jax.Array, side: int) -> tuple[int, int]:
    """Height and width of [B, H, W, 3] images once their long side is `side` pixels."""
    height, width = images.shape[1:3]
    scale = side / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def _resize(images: jax.Array, height: int, width: int, method: str) -> jax.Array:
    shape = (len(images), height, width, 3)
    return jnp.clip(jax.image.resize(images, shape, method), 0.0, 1.0)


def _normalise(images: jax.Array) -> jax.Array:
    return (images - _MEAN) / _STD


def resample(
    features: jax.Array, stride: int, first: float, size: tuple[int, int], grid: tuple[int, int]
) -> jax.Array:
    """Interpolate features at the cell centres of a grid that divides the image evenly.

    A network's own cells rarely do: padding shifts them, or the image ends within one.

    Args:
        features: [B, h, w, C].
        stride: from one cell to the next, in pixels.
        first: place of the first cell's centre, from the first pixel's.
        size: height and width of the image.
        grid: height and width of the result.
    """
    rows, columns = (
        _interpolation((np.arange(n) + 0.5) * pixels / n - 0.5, stride, first, cells)
        for n, pixels, cells in zip(grid, size, features.shape[1:3], strict=True)
    )
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, features, precision="highest")


def _interpolation(places: np.ndarray, stride: int, first: float, cells: int) -> np.ndarray:
    """[n, cells] weights of the cells at n places; beyond the outermost centres they repeat."""
    at = np.clip((places - first) / stride, 0, cells - 1)
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(cells))).astype(np.float32)


_FAMILIES: dict[str, tuple[Callable, Callable]] = {
    "sam-vit-base": (read_sam, _sam),
    "sam-vit-large": (read_sam, _sam),
    "sam-vit-huge": (read_sam, _sam),
    "resnet18": (read_resnet, _resnet),
    "wide-resnet50-2": (read_resnet, _resnet),
    "cait-m48-448": (read_cait, _cait),
}
