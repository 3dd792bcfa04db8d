"""The pose gradient of a loss on the render, three ways.

- "autodiff": through compositing and projection, everything that moves with the camera.
- "analytic": through compositing to the splats, then the analytic pose Jacobian of the projection
  (Matsuki et al. 2024), the view-dependent colour included: the same gradient without autodiff of
  the projection.
- "paper": the same, but the translation's derivatives of the covariance and of the colour left out
  (IGSPAD, equation 3).
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from igspad_jax.cameras import Camera, se3_exp
from igspad_jax.render import Render, render, render_splats
from igspad_jax.render.projection import project
from igspad_jax.render.tangents import splat_tangents
from igspad_jax.scene import Gaussians
from igspad_jax.settings import GradientMode

Aux = TypeVar("Aux")


def value_and_pose_gradient(
    loss: Callable[[Render], tuple[jax.Array, Aux]],
    gaussians: Gaussians,
    camera: Camera,
    background: jax.Array,
    *,
    mode: GradientMode,
    sh_degree: int,
    capacity: int,
) -> tuple[tuple[jax.Array, Aux], jax.Array]:
    """A loss on the render, and its gradient by the pose.

    Works under `jit` and `vmap`.

    Args:
        loss: from the render to the loss [] and anything else that is wanted of it; of colour and
            alpha only: the analytic modes have no derivative of the depth.
        gaussians: the scene.
        camera: one camera, viewmat [4, 4].
        background: [3] RGB behind the scene.
        mode: how the gradient is formed, see above.
        sh_degree: as for `render`.
        capacity: as for `render`.

    Returns:
        What `loss` returns, and the [6] gradient by tau = [rho, theta] of T <- Exp(tau) T.
    """
    if mode == "autodiff":

        def of_twist(tau):
            moved = jnp.matmul(se3_exp(tau), camera.viewmat, precision="highest")
            return loss(
                render(
                    gaussians,
                    camera.replace(viewmat=moved),
                    background,
                    sh_degree=sh_degree,
                    capacity=capacity,
                )
            )

        return jax.value_and_grad(of_twist, has_aux=True)(jnp.zeros(6))

    splats = project(gaussians, camera, sh_degree=sh_degree)
    moving = splat_tangents(gaussians, camera, splats, sh_degree=sh_degree)

    def of_splats(splats):
        return loss(render_splats(splats, camera, background, capacity=capacity))

    value, by_splat = jax.value_and_grad(of_splats, has_aux=True)(splats)

    def contracted(gradient, tangents):
        return jnp.einsum("nk,nkj->j", gradient, tangents, precision="highest")

    by_mean = contracted(by_splat.means2d, moving.means2d)
    by_shape = contracted(by_splat.conics, moving.conics)
    by_colour = contracted(by_splat.colours, moving.colours)
    if mode == "paper":
        return value, by_mean.at[3:].add(by_shape[3:])
    return value, (by_mean + by_shape).at[:3].add(by_colour)
