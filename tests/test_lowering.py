"""Steps of the pose engine and of training lower for CUDA as a whole, on a machine without.

A GPU runs all hypotheses of a batch at once and composites by the kernels: both are insisted on
here. That a program lowers does not say that it runs, or how fast.
"""

import jax
import jax.numpy as jnp
import pytest

from checks import gpu_kernels
from igspad_jax import devices
from igspad_jax.invert import levenberg
from igspad_jax.invert.equations import Problem
from igspad_jax.scene import Gaussians
from igspad_jax.train import trainer

SIZES = [(20_000, 400), (100_000, 800)]
HYPOTHESES = 16 * 3


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    monkeypatch.setenv("IGSPAD_JAX_COMPOSITOR", "mosaic")
    monkeypatch.setattr(devices, "batching_pays", lambda: True)


def shaped(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def gaussians_of(count, sh_degree=2):
    parts = ((3,), (3,), (4,), (), ((sh_degree + 1) ** 2, 3))
    return Gaussians(*(shaped(count, *part) for part in parts))


@pytest.mark.parametrize(("count", "size"), SIZES)
@pytest.mark.parametrize("exposure", [False, True], ids=["", "exposure"])
@pytest.mark.parametrize("blurred", [False, True], ids=["", "blurred"])
def test_pose_steps(count, size, blurred, exposure):
    """A look is a forward walk, and one with derivatives."""
    number = shaped()
    problem = Problem(
        gaussians=gaussians_of(count),
        K=shaped(3, 3),
        background=shaped(3),
        centre=shaped(3),
        radius=number,
        splat_blur=number,
        blur=number,
        delta=number,
        damping=number,
        translation_penalty=number,
        steps=shaped(dtype=jnp.int32),
        tolerance=number,
    )
    traced = levenberg.refine.trace(
        shaped(HYPOTHESES, 4, 4),
        shaped(HYPOTHESES, 2),
        shaped(HYPOTHESES, size, size, 3),
        shaped(HYPOTHESES, size, size),
        problem,
        sh_degree=2,
        capacity=8 * count,
        blurred=blurred,
        with_exposure=exposure,
        longest=10,
    )
    assert gpu_kernels(traced) == 2


@pytest.mark.parametrize(("count", "size"), SIZES)
@pytest.mark.parametrize("batch", [1, 4])
def test_training_steps(count, size, batch):
    """A step is a forward walk, and two kernels of the gradient."""
    config = trainer.TrainConfig(count=count, batch=batch)
    gaussians = gaussians_of(count)
    state = jax.eval_shape(lambda g: trainer.initial_state(g, config, 1.0), gaussians)
    views = trainer.Views(
        shaped(60, size, size, 3), shaped(60, 4, 4), shaped(3, 3), background=shaped(3)
    )
    traced = trainer.segment.trace(
        state,
        views,
        shaped(100, batch, dtype=jnp.int32),
        config=config,
        radius=1.0,
        capacity=8 * count,
    )
    assert gpu_kernels(traced) == 3
