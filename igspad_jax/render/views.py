"""Finished pictures of a scene, with nothing missing from them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from igspad_jax.cameras import Camera
from igspad_jax.render.capacity import Capacity
from igspad_jax.render.rasterizer import Render, render
from igspad_jax.scene import Gaussians


@functools.partial(jax.jit, static_argnames=("width", "height", "sh_degree", "capacity"))
def _renders(gaussians, viewmats, K, background, *, width, height, sh_degree, capacity):
    def one(viewmat):
        camera = Camera(viewmat, K, width, height)
        return render(gaussians, camera, background, sh_degree=sh_degree, capacity=capacity)

    result = jax.vmap(one)(viewmats)
    return result.replace(colour=jnp.clip(result.colour, 0.0, 1.0))


def render_views(
    gaussians: Gaussians,
    viewmats: np.ndarray,
    K: np.ndarray,
    background: np.ndarray,
    *,
    width: int,
    height: int,
    capacity: Capacity,
) -> Render:
    """Renders [n, ...] at [n, 4, 4] poses, nothing missing from them; colours in [0, 1]."""

    def rendered(slots):
        return _renders(
            gaussians,
            jnp.asarray(viewmats, jnp.float32),
            jnp.asarray(K, jnp.float32),
            jnp.asarray(background, jnp.float32),
            width=width,
            height=height,
            sh_degree=gaussians.sh_degree,
            capacity=slots,
        )

    return capacity.run(rendered, lambda result: result.pairs)
