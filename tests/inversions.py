"""An object, images of it, and settings of the solvers small enough to be compiled in seconds.

Solvers are compiled for each size of image, number of poses, length of traces and static setting,
so all tests share one model, three images or one, and the levels of `LEVELS`: six poses at 24
pixels and three at 40. The fixtures of `conftest` are made of this.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from igspad_jax.cameras import intrinsics_from_angle, look_at, pose_errors
from igspad_jax.invert import Inversion, invert
from igspad_jax.normal_object import NormalObject
from igspad_jax.render import Capacity
from igspad_jax.scene import Gaussians
from igspad_jax.settings import AdamConfig, InvertConfig, LevenbergConfig
from scenes import UP, f32

SIZE = 40
BACKGROUND = np.ones(3)
K = intrinsics_from_angle(0.7, SIZE, SIZE)
CENTRE = np.array([0.1, -0.05, 0.1])
RADIUS = 0.9
POSE = look_at(np.array([1.5, -2.0, 1.2]), np.array([0.2, 0.1, 0.0]), UP)

LEVELS = LevenbergConfig(
    widths=(24, 0),
    blurs=(1.5, 0.0),
    merge_cells=(6, 0),
    steps=(6, 5),
    deltas=(0.2, 0.05),
    translation_penalties=(0.002, 0.0),
    hypotheses_kept=(1, 1),
    extra_turn=0.0,
    readmit_level=0,
)
# The same levels for six hypotheses about one image.
MANY = dataclasses.replace(LEVELS, hypotheses_kept=(3, 1))
# Only the last level of `LEVELS`: three poses, for three images.
FINE = LevenbergConfig(
    widths=(0,),
    blurs=(0.0,),
    merge_cells=(0,),
    steps=(6,),
    deltas=(0.05,),
    translation_penalties=(0.0,),
    hypotheses_kept=(1,),
    extra_turn=0.0,
    readmit_level=0,
)
# The descents share segments of 20 steps.
ADAM = AdamConfig(steps=60, late_step=45, sampling_refresh=20)


def blobs(count: int = 150) -> Gaussians:
    """Coloured balls at random places within the object's ball."""
    rng = np.random.default_rng(3)
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return Gaussians(
        means=f32(CENTRE + directions * rng.uniform(0.2, 0.9, (count, 1))),
        log_scales=f32(rng.uniform(-2.8, -1.8, (count, 3))),
        quats=f32(rng.normal(size=(count, 4))),
        opacity_logits=f32(rng.uniform(0.0, 3.0, count)),
        sh=f32(rng.uniform(-1.5, 1.5, (count, 1, 3))),
    )


def model_of(gaussians: Gaussians) -> NormalObject:
    return NormalObject(
        gaussians,
        K,
        width=SIZE,
        height=SIZE,
        background=BACKGROUND,
        centre=CENTRE,
        radius=RADIUS,
        capacity=Capacity(),
    )


def moved(viewmat, shift=(0, 0, 0), degrees=(0, 0, 0)) -> np.ndarray:
    """A pose that shows the object turned about its centre, then shifted, in the camera's axes."""
    result = viewmat.copy()
    result[:3, :3] = Rotation.from_rotvec(degrees, degrees=True).as_matrix() @ viewmat[:3, :3]
    result[:3, 3] += viewmat[:3, :3] @ CENTRE - result[:3, :3] @ CENTRE + shift
    return result


def off(viewmats, degrees, percent, seed=0) -> np.ndarray:
    """Poses turned about the object and shifted by a share of the distance."""
    rng = np.random.default_rng(seed)
    result = []
    for viewmat in viewmats:
        turn, shift = rng.normal(size=(2, 3))
        turn *= degrees / np.linalg.norm(turn)
        distance = np.linalg.norm(viewmat[:3, :3] @ CENTRE + viewmat[:3, 3])
        shift *= 0.01 * percent * distance / np.linalg.norm(shift)
        result.append(moved(viewmat, shift, turn))
    return np.stack(result)


def by_levels(model, images, starts, config=LEVELS, *, sampling=False, **kwargs) -> Inversion:
    settings = InvertConfig(
        levenberg=config, sampling=sampling, sampling_radius=0.05, sampling_min_points=4
    )
    return invert(model, images, starts, settings, **kwargs)


def by_descent(model, images, starts, config=ADAM, *, sampling=True, **kwargs) -> Inversion:
    settings = InvertConfig(
        solver="adam",
        adam=config,
        sampling=sampling,
        sampling_radius=0.05,
        sampling_min_points=4,
    )
    if sampling:
        kwargs.setdefault("match_points", no_points)
    return invert(model, images, starts, settings, **kwargs)


def no_points(image, render) -> np.ndarray:
    """A matcher that finds nothing, so that the whole image counts."""
    return np.zeros((0, 2))


def plain(*shape) -> np.ndarray:
    """Gains of one and biases of zero."""
    return np.broadcast_to(np.array([1.0, 0.0], np.float32), (*shape, 2))


def errors(result: Inversion, true_poses) -> tuple[np.ndarray, np.ndarray]:
    return pose_errors(result.viewmats, true_poses, CENTRE)


def is_rigid(viewmat, atol=1e-5) -> bool:
    rotation = viewmat[:3, :3]
    return (
        np.allclose(rotation @ rotation.T, np.eye(3), atol=atol)
        and np.linalg.det(rotation) > 0
        and np.array_equal(viewmat[3], [0, 0, 0, 1])
    )


def starve(monkeypatch, module, name, pairs_of) -> list[int]:
    """Makes a solver return nothing of use where it is given fewer slots than it asks for.

    It runs with 4096 slots all the same, so that nothing is compiled anew. Returns the list that
    the numbers of slots asked for will be written to.
    """
    solver, asked = getattr(module, name), []

    def starved(*args, capacity, **kwargs):
        asked.append(capacity)
        result = solver(*args, capacity=4096, **kwargs)
        if capacity >= np.max(pairs_of(result)):
            return result
        return jax.tree.map(
            lambda x: x * np.nan if jnp.issubdtype(x.dtype, jnp.floating) else x, result
        )

    monkeypatch.setattr(module, name, starved)
    return asked
