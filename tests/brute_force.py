"""The definition of compositing without lists or tiles: every splat against every pixel.

It is slow and needs much memory; the fast path is tested against it.
"""

import jax
import jax.numpy as jnp

from igspad_jax.cameras import Camera
from igspad_jax.kernels.compositing.groups import ALPHA_MAX
from igspad_jax.kernels.compositing.tiles import ALPHA_CUT
from igspad_jax.render.projection import project
from igspad_jax.render.rasterizer import Render, blend
from igspad_jax.scene.gaussians import Gaussians


def render_brute_force(
    gaussians: Gaussians,
    camera: Camera,
    background: jax.Array,
    *,
    sh_degree: int,
    near: float = 0.01,
) -> Render:
    """`render` by all pairs of splats and pixels, differentiated by JAX alone; same contract."""
    splats = project(gaussians, camera, sh_degree=sh_degree, near=near)
    visible = splats.radii[:, 0] > 0.0
    order = jnp.argsort(jnp.where(visible, splats.depths, jnp.inf), stable=True)
    x = jnp.arange(camera.width) + 0.5
    y = jnp.arange(camera.height) + 0.5
    dx = x[None, None, :] - splats.means2d[order, 0, None, None]
    dy = y[None, :, None] - splats.means2d[order, 1, None, None]
    a, b, c = jnp.unstack(splats.conics[order][:, :, None, None], axis=1)
    exponent = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    unclamped = splats.opacities[order, None, None] * jnp.exp(-exponent)
    alpha = jnp.where(unclamped < ALPHA_CUT, 0.0, jnp.minimum(unclamped, ALPHA_MAX))
    after = jnp.cumprod(1.0 - alpha, axis=0)
    before = jnp.concatenate([jnp.ones_like(after[:1]), after[:-1]])
    features = jnp.concatenate([splats.colours, splats.depths[:, None]], axis=-1)[order]
    rgbd = jnp.einsum("nhw,nc->hwc", alpha * before, features, precision="highest")
    return blend(rgbd, after[-1], jnp.int32(0), background)
