"""Small scenes before one pose.

All have one number of Gaussians, and so share compiled functions.
"""

import jax.numpy as jnp
import numpy as np

from igspad_jax.cameras import look_at
from igspad_jax.scene import Gaussians

COUNT = 200
UP = np.array([0.0, 0.0, 1.0])
VIEWMAT = look_at(np.array([1.0, -2.5, 1.0]), np.zeros(3), UP, roll=0.3)
BACKGROUND = np.array([0.2, 0.5, 0.9])


def f32(x):
    return jnp.asarray(x, jnp.float32)


def placed(p):
    """World points of camera points."""
    return f32((np.asarray(p) - VIEWMAT[:3, 3]) @ VIEWMAT[:3, :3])


def random_scene(seed=0, *, log_scales=(-4.0, -1.5)) -> Gaussians:
    rng = np.random.default_rng(seed)
    return Gaussians(
        means=f32(rng.uniform(-0.8, 0.8, (COUNT, 3))),
        log_scales=f32(rng.uniform(*log_scales, (COUNT, 3))),
        quats=f32(rng.normal(size=(COUNT, 4))),
        opacity_logits=f32(2.0 * rng.normal(size=COUNT)),
        sh=f32(0.3 * rng.normal(size=(COUNT, 16, 3))),
    )


def needles(seed=0, *, length=1.0) -> Gaussians:
    axes = np.full((COUNT, 3), np.log(1e-4))
    axes[np.arange(COUNT), np.arange(COUNT) % 3] = np.log(length)
    return random_scene(seed).replace(log_scales=f32(axes))
