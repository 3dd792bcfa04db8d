"""Maxima of score maps, and values of maps at points; what the keypoint networks share.

Maps are [B, H, W, C] or [B, H, W]. Points here are x, y in pixels or cells of a map with the
centre of the first one at 0, so that whole numbers are indices; `Keypoints` have it at +0.5.
"""

import itertools
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.errors import InputError
from igspad_jax.networks.keypoints import Keypoints

_CUBIC = -0.75  # the free parameter of Keys' kernel (1981), as PyTorch has it


def check_images(images: jax.Array, network: str, least: int = 1) -> None:
    """Raises InputError unless images are [B, H, W, 3] with sides of at least `least` pixels."""
    if images.ndim != 4 or images.shape[3] != 3 or min(images.shape[1:3]) < least:
        raise InputError(
            f"{network}: images of shape {images.shape} are not [B, H, W, 3] with sides of at "
            f"least {least} pixels; give RGB images, larger ones if need be"
        )


def unit(vectors: jax.Array) -> jax.Array:
    """[..., C] vectors brought to length 1; zeros stay."""
    squares = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


def largest_around(maps: jax.Array, radius: int) -> jax.Array:
    """[B, H, W] largest values within `radius` pixels in x and in y of [B, H, W]."""
    for axis in (1, 2):
        margin = [(radius, radius) if i == axis else (0, 0) for i in range(3)]
        padded = jnp.pad(maps, margin, constant_values=-np.inf)
        n = maps.shape[axis]
        shifted = (jax.lax.slice_in_dim(padded, k, k + n, axis=axis) for k in range(2 * radius + 1))
        maps = reduce(jnp.maximum, shifted)
    return maps


def maxima(scores: jax.Array, radius: int) -> jax.Array:
    """Find the pixels of [B, H, W] scores that are the largest within `radius`; [B, H, W] bool.

    Twice, the surroundings of all maxima are removed and maxima of the rest are added.
    """
    found = scores == largest_around(scores, radius)
    for _ in range(2):
        near = largest_around(found.astype(scores.dtype), radius) > 0
        rest = jnp.where(near, 0.0, scores)
        found |= ~near & (rest == largest_around(rest, radius))
    return found


def strongest(scores: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The largest of [B, H, W] scores, in falling order.

    Returns:
        [B, count] scores and [B, count, 2] their x, y; zeros beyond the number of pixels.
    """
    batch, height, width = scores.shape
    found = min(count, height * width)
    values, places = jax.lax.top_k(scores.reshape(batch, -1), found)
    beyond = ((0, 0), (0, count - found))
    values, places = jnp.pad(values, beyond), jnp.pad(places, beyond)
    return values, jnp.stack([places % width, places // width], axis=-1)


def taps(
    points: jax.Array, height: int, width: int, *, cubic: bool = False
) -> list[tuple[jax.Array, jax.Array]]:
    """The pixels that interpolation at points reads: 4, or 16 if cubic.

    Args:
        points: [B, N, 2].
        height: of the map.
        width: of the map.
        cubic: bicubic, not bilinear.

    Returns:
        For each pixel [B, N, 2] its x, y, always within the map, and [B, N, 1] its weight, 0 for
        one that lay outside.
    """
    size = np.array([width, height])
    corner = jnp.floor(points)
    along = []
    for step in range(-1, 3) if cubic else range(2):
        index = corner + step
        distance = jnp.abs(points - index)
        weight = _cubic(distance) if cubic else 1.0 - distance
        weight = jnp.where((index >= 0) & (index < size), weight, 0.0)
        along.append((jnp.clip(index, 0, size - 1).astype(jnp.int32), weight))
    return [
        (jnp.stack([x[..., 0], y[..., 1]], axis=-1), (wx[..., 0] * wy[..., 1])[..., None])
        for (y, wy), (x, wx) in itertools.product(along, along)
    ]


def at(maps: jax.Array, pixels: jax.Array) -> jax.Array:
    """[B, N, C] of [B, H, W, C] maps at [B, N, 2] x, y, whole numbers within the map."""
    batch, height, width, channels = maps.shape
    first = height * width * np.arange(batch)[:, None]
    index = first + pixels[..., 1] * width + pixels[..., 0]
    return maps.reshape(-1, channels).at[index].get(mode="promise_in_bounds")


def sample(maps: jax.Array, points: jax.Array, *, cubic: bool = False) -> jax.Array:
    """[B, N, C] of [B, H, W, C] maps, interpolated at [B, N, 2] points; 0 outside of the map."""
    pixels = taps(points, *maps.shape[1:3], cubic=cubic)
    return sum((weight * at(maps, pixel) for pixel, weight in pixels), jnp.zeros(()))


def padded_keypoints(
    points: jax.Array, scores: jax.Array, descriptors: jax.Array, valid: jax.Array
) -> Keypoints:
    """Keypoints with zeros where they are not valid."""
    return Keypoints(
        jnp.where(valid[..., None], points, 0.0),
        jnp.where(valid, scores, 0.0),
        jnp.where(valid[..., None], descriptors, 0.0),
        valid,
    )


def _cubic(distance: jax.Array) -> jax.Array:
    a, d = _CUBIC, distance
    near = ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    far = a * (((d - 5.0) * d + 8.0) * d - 4.0)
    return jnp.where(d <= 1.0, near, far)
