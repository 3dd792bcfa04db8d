"""The normal equations of a level: what the kernels sum up, and what the Jacobian's image gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igspad_jax.cameras import Camera
from igspad_jax.invert.equations import Problem, normal_equations
from igspad_jax.invert.poses import retract
from igspad_jax.render import render
from igspad_jax.render.projection import BLUR, NEAR
from igspad_jax.scene import exposed
from inversions import BACKGROUND, CENTRE, POSE, RADIUS, SIZE, K, blobs, moved
from scenes import f32

SLOTS = 4096
EXPOSURE = f32([1.2, 0.15])  # no colour comes near zero, where it would be held
RNG = np.random.default_rng(0)
IMAGE = f32(RNG.uniform(size=(SIZE, SIZE, 3)))
WEIGHT = f32(RNG.uniform(size=(SIZE, SIZE)))

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def scene_of(sh_degree):
    scene = blobs()
    higher = 0.05 * RNG.normal(size=(len(scene), (sh_degree + 1) ** 2 - 1, 3))
    return scene.replace(sh=jnp.concatenate([scene.sh, f32(higher)], axis=1))


def problem_of(scene):
    scalars = dict.fromkeys(Problem._fields, jnp.float32(0.0))
    arrays = dict(gaussians=scene, K=f32(K), background=f32(BACKGROUND), centre=f32(CENTRE))
    # So narrow a blur leaves every pixel as it is, to the last bit.
    numbers = dict(radius=RADIUS, splat_blur=BLUR, blur=0.05, delta=0.05)
    return Problem(**(scalars | arrays | {name: f32(value) for name, value in numbers.items()}))


@functools.partial(jax.jit, static_argnames=("blurred",))
def equations(problem, near, exposure, *, blurred):
    fit = normal_equations(
        f32(moved(POSE, degrees=(2, -3, 1))),
        exposure,
        IMAGE,
        WEIGHT,
        problem,
        sh_degree=problem.gaussians.sh_degree,
        capacity=SLOTS,
        blurred=blurred,
        near=near,
    )
    return fit.cost, fit.gram, fit.pairs


@pytest.mark.parametrize(("sh_degree", "exposure"), [(0, None), (2, EXPOSURE)])
def test_kernels_agree_with_the_image_of_the_jacobian(sh_degree, exposure):
    problem = problem_of(scene_of(sh_degree))
    cost, gram, pairs = equations(problem, NEAR, exposure, blurred=False)
    expected_cost, expected, asked = equations(problem, NEAR, exposure, blurred=True)
    assert gram.shape == ((7, 7) if exposure is None else (9, 9))
    assert np.diagonal(gram).min() > 1e-6
    np.testing.assert_allclose(cost, expected_cost, rtol=1e-5)
    np.testing.assert_allclose(gram, expected, atol=1e-5 * float(np.abs(expected).max()), rtol=0)
    assert 0 < int(pairs) == int(asked) < SLOTS


def test_slope_is_the_gradient_of_the_cost():
    """J^T W r is the gradient of the cost, times delta."""
    scene = scene_of(2)
    problem = problem_of(scene)._replace(delta=f32(10.0))  # wide: hardly robust, and smooth
    viewmat = f32(moved(POSE, degrees=(2, -3, 1)))

    @jax.jit
    def cost(step):
        turned = retract(viewmat, step[:6], problem.centre, problem.radius, "object")
        lit = exposed(scene, *(EXPOSURE + step[6:]))
        camera = Camera(turned, problem.K, SIZE, SIZE)
        seen = render(lit, camera, problem.background, sh_degree=2, capacity=SLOTS).colour
        square = jnp.square((seen - IMAGE) / problem.delta)
        loss = 0.5 * problem.delta * jnp.log1p(square) * WEIGHT[..., None]
        return jnp.sum(loss) / (3.0 * jnp.sum(WEIGHT))

    _, gram, _ = equations(problem, NEAR, EXPOSURE, blurred=False)
    slope = jax.grad(cost)(jnp.zeros(8)) * problem.delta
    np.testing.assert_allclose(gram[:-1, -1], slope, atol=1e-3 * float(np.abs(slope).max()))


def test_invisible_scene_has_zero_equations():
    problem = problem_of(scene_of(0))
    cost, gram, pairs = equations(problem, jnp.inf, None, blurred=False)
    assert int(pairs) == 0
    assert np.isfinite(cost) and np.isfinite(gram).all()
    assert not np.any(gram[:-1])
