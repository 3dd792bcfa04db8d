"""Rendering: projection, compositing, background."""

import jax
import jax.numpy as jnp
from flax import struct

from igspad_jax.cameras import Camera
from igspad_jax.kernels.compositing import ProjectedSplats, composite
from igspad_jax.render.projection import NEAR, Splats, project
from igspad_jax.scene.gaussians import Gaussians


class Render(struct.PyTreeNode):
    """The render of one camera, or of a batch of cameras with a leading axis.

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
    near: float = NEAR,
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
    splats = project(gaussians, camera, sh_degree=sh_degree, near=near)
    return render_splats(splats, camera, background, capacity=capacity)


def render_splats(
    splats: Splats, camera: Camera, background: jax.Array, *, capacity: int
) -> Render:
    """The second half of `render`: from splats, differentiable in them.

    Args:
        splats: `project` of a scene.
        camera: the camera they were projected into; its image size counts here.
        background: [3] RGB behind the scene.
        capacity: as for `render`.
    """
    features = jnp.concatenate([splats.colours, splats.depths[:, None]], axis=-1)
    rgbd, transmittance, pairs = _composited(splats, features, camera, capacity)
    return blend(rgbd, transmittance, pairs, background)


def render_features(
    gaussians: Gaussians,
    camera: Camera,
    features: jax.Array,
    *,
    capacity: int,
    near: float = NEAR,
) -> tuple[jax.Array, jax.Array]:
    """Composites any per-Gaussian values in place of colours, over zero.

    Linear in `features`, so its transpose (`jax.vjp`) adds up an image's values for each Gaussian,
    weighted by its share in the pixel.

    Args:
        gaussians: the scene, N Gaussians.
        camera: one camera, viewmat [4, 4].
        features: [N, C] values.
        capacity: as for `render`.
        near: as for `render`.

    Returns:
        [H, W, C] composited values, and [] the slots asked for.
    """
    splats = project(gaussians, camera, sh_degree=0, near=near)
    values, _, pairs = _composited(splats, features, camera, capacity)
    return values, pairs


def one_image(splats: Splats, features: jax.Array) -> ProjectedSplats:
    """One camera's splats with [N, C] features, as a batch of one image."""
    means2d, conics, opacities = splats.means2d, splats.conics, splats.opacities
    parts = (means2d, conics, opacities, features, splats.depths, splats.radii)
    return ProjectedSplats(*(part[None] for part in parts))


def _composited(
    splats: Splats, features: jax.Array, camera: Camera, capacity: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Features [H, W, C], transmittance [H, W] and slots [] of one camera's splats."""
    values, transmittance, pairs = composite(
        one_image(splats, features),
        width=camera.width,
        height=camera.height,
        capacity=capacity,
    )
    return values[0], transmittance[0], pairs[0]
