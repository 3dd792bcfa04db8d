"""ALIKED's feature map: as many pixels as the image, from the four levels of a pyramid.

Enlarged to the image's size and laid side by side, the levels take much memory, and more time than
the network itself. Keypoints need few of the pixels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.networks.sampling import at, sample, taps, unit

STRIDES = (1, 2, 8, 32)  # of the levels, in pixels


def pad_edges(images: jax.Array) -> jax.Array:
    """Repeats the borders of [B, H, W, C] images up to multiples of 32 pixels, on all sides."""
    rows, columns = (_margins(n) for n in images.shape[1:3])
    return jnp.pad(images, ((0, 0), rows, columns, (0, 0)), mode="edge")


def crop(x: jax.Array, height: int, width: int) -> jax.Array:
    """Takes away from [B, H, W, C] what `pad_edges` adds to `height` and `width`."""
    top, left = _margins(height)[0], _margins(width)[0]
    return x[:, top : top + height, left : left + width]


def enlarge(level: jax.Array, stride: int) -> jax.Array:
    """[B, H * stride, W * stride, C] of [B, H, W, C], linear in x and in y."""
    for axis in (1, 2):
        cells = level.shape[axis]
        places = np.arange(stride * cells) * _cells_per_pixel(cells, stride)
        before = np.floor(places).astype(int)
        after = np.minimum(before + 1, cells - 1)
        weight = jnp.asarray(places - before, level.dtype)
        weight = weight.reshape([-1 if i == axis else 1 for i in range(4)])
        level = (1 - weight) * level.take(before, axis) + weight * level.take(after, axis)
    return level


class FeatureMap:
    """Features of length 1 that are put together from the levels where they are read.

    Attributes:
        height: of the map.
        width: of the map.
        channels: of the features.
    """

    def __init__(self, levels: Sequence[jax.Array], height: int, width: int):
        self.height, self.width = height, width
        self.channels = sum(level.shape[-1] for level in levels)
        self._levels = levels

    def at(self, pixels: jax.Array) -> jax.Array:
        """[B, N, C] features at [B, N, 2] x, y, whole numbers within the map."""
        padded = pixels + np.array([_margins(self.width)[0], _margins(self.height)[0]])
        parts = [at(self._levels[0], padded)]
        for level, stride in zip(self._levels[1:], STRIDES[1:], strict=True):
            rows, columns = (_cells_per_pixel(n, stride) for n in level.shape[1:3])
            parts.append(sample(level, padded * np.array([columns, rows], np.float32)))
        return unit(jnp.concatenate(parts, axis=-1))

    def sample(self, points: jax.Array) -> jax.Array:
        """[B, N, C] features interpolated at [B, N, 2] points; 0 outside of the map."""
        pixels = taps(points, self.height, self.width)
        return sum((weight * self.at(pixel) for pixel, weight in pixels), jnp.zeros(()))

    def whole(self) -> jax.Array:
        """[B, H, W, C], made row by row: nothing else then takes as much memory."""
        pixels = np.stack(np.meshgrid(np.arange(self.width), np.arange(self.height)), axis=-1)

        def image(levels):
            one = FeatureMap([level[None] for level in levels], self.height, self.width)
            return jax.lax.map(lambda row: one.at(row[None])[0], pixels)

        return jax.lax.map(image, list(self._levels))


def _cells_per_pixel(cells: int, stride: int) -> float:
    """A level's outermost cells lie on the image's outermost pixels ("align corners")."""
    return (cells - 1) / (stride * cells - 1)


def _margins(n: int) -> tuple[int, int]:
    """Pixels to add before and after n ones to make their number a multiple of 32."""
    missing = -n % STRIDES[-1]
    return missing // 2, missing - missing // 2
