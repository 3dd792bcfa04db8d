"""Rendering: projection, compositing, background."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from igspad_jax.cameras import Camera
from igspad_jax.kernels.compositing import composite
from igspad_jax.render.projection import Splats, project
from igspad_jax.scene.gaussians import Gaussians


class Render(struct.PyTreeNode):
    """What one camera sees, or a batch of cameras with a leading axis.

    Attributes:
        colour: [..., H, W, 3] RGB over the background.
        alpha: [..., H, W] coverage, 1 minus the transmittance.
        depth: [..., H, W] expected camera-space z of what covers the pixel; 0 where nothing does.
        pairs: [...] slots for (tile, splat) pairs the image asks for; more than the capacity
            means that the farthest splats are missing from this render.
    """

    colour: jax.Array
    alpha: jax.Array
    depth: jax.Array
    pairs: jax.Array


def blend(
    rgbd: jax.Array, transmittance: jax.Array, pairs: jax.Array, background: jax.Array
) -> Render:
    """Puts composited colour and depth [..., H, W, 4] over a background colour [..., 3]."""
    alpha = 1.0 - transmittance
    covered = alpha > 1e-6
    depth = jnp.where(covered, rgbd[..., 3] / jnp.where(covered, alpha, 1.0), 0.0)
    behind = jnp.asarray(background)[..., None, None, :]
    colour = rgbd[..., :3] + transmittance[..., None] * behind
    return Render(colour=colour, alpha=alpha, depth=depth, pairs=pairs)


def render(
    gaussians: Gaussians,
    camera: Camera,
    background: jax.Array,
    *,
    sh_degree: int,
    capacity: int,
    near: float = 0.01,
) -> Render:
    """Renders a scene; differentiable in the Gaussians, the camera and the background.

    Works under `jit`, `grad` and `vmap`; a batch made by `vmap` is one flat list of tiles.

    Args:
        gaussians: the scene.
        camera: one camera, viewmat [4, 4].
        background: [3] RGB behind the scene.
        sh_degree: degree of the spherical harmonics in use, 0 to 3.
        capacity: slots for (tile, splat) pairs; see `Render.pairs` and `Capacity`.
        near: smallest visible camera-space z, in world units.
    """
    splats: Splats = project(gaussians, camera, sh_degree=sh_degree, near=near)
    features = jnp.concatenate([splats.colours, splats.depths[:, None]], axis=-1)
    rgbd, transmittance, pairs = composite(
        splats.means2d[None],
        splats.conics[None],
        splats.opacities[None],
        features[None],
        splats.depths[None],
        splats.radii[None],
        width=camera.width,
        height=camera.height,
        capacity=capacity,
    )
    return blend(rgbd[0], transmittance[0], pairs[0], background)
