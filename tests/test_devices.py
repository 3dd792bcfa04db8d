"""One device and eight: the same poses and the same scene.

Compiling dominates the time of these tests, so every process compiles each program once: `work` is
all that is done with many devices, and this file run as a script does it with eight.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igspad_jax.cameras import intrinsics_from_angle, look_at, se3_exp
from igspad_jax.invert import invert
from igspad_jax.normal_object import NormalObject
from igspad_jax.render import Capacity
from igspad_jax.scene import Gaussians
from igspad_jax.settings import AdamConfig, InvertConfig, TrainConfig
from igspad_jax.train.checkpoints import Checkpoints
from igspad_jax.train.trainer import Views, initial_state, train
from inversions import FINE

SIZE = 24
RADIUS = 0.9
TRAINING = TrainConfig(
    steps=8,
    batch=2,
    count=60,
    sh_degree=0,
    relocate_every=4,
    relocate_until=0.5,
    evaluate_every=4,
    checkpoint_every=4,
)
SOLVERS = {
    "levenberg": dataclasses.replace(FINE, steps=(4,)),
    "adam": AdamConfig(steps=8, sampling_refresh=4, gradient="analytic"),
}


class Killed(Exception):
    """Stands for a kill in the middle of training."""


def normal_object() -> NormalObject:
    """Coloured blobs before a camera."""
    rng = np.random.default_rng(3)
    arrays = (
        RADIUS * rng.uniform(-0.5, 0.5, (TRAINING.count, 3)),
        rng.uniform(-2.8, -1.8, (TRAINING.count, 3)),
        rng.normal(size=(TRAINING.count, 4)),
        rng.uniform(0.0, 3.0, TRAINING.count),
        rng.uniform(-1.5, 1.5, (TRAINING.count, 1, 3)),
    )
    return NormalObject(
        Gaussians(*(jnp.asarray(array, jnp.float32) for array in arrays)),
        intrinsics_from_angle(0.7, SIZE, SIZE),
        width=SIZE,
        height=SIZE,
        background=np.ones(3),
        centre=np.zeros(3),
        radius=RADIUS,
        capacity=Capacity(),
    )


def inverted(
    model: NormalObject, images: np.ndarray, starts: np.ndarray, solver: str
) -> dict[str, np.ndarray]:
    """What a solver finds from [n, 4, 4] poses."""
    config = InvertConfig(solver=solver, **{solver: SOLVERS[solver]})
    result = invert(model, images, starts[:, None], config)
    return {f"{solver} {name}": value for name, value in vars(result).items()}


def trained(
    model: NormalObject, images: np.ndarray, viewmats: np.ndarray, folder: Path, killed_at: int
) -> dict[str, np.ndarray]:
    """The scene after a training that goes on at the newest checkpoint in the folder."""
    scene = model.gaussians
    # Off the truth, and a few so faint that they are relocated.
    faint = scene.opacity_logits.at[:5].set(-8.0)
    start = scene.replace(means=scene.means + 0.02, opacity_logits=faint)
    state = initial_state(start, TRAINING, RADIUS)
    views = Views(jnp.asarray(images), jnp.asarray(viewmats), model.K, model.background)
    checkpoints = Checkpoints(folder)

    def save(state, history):
        checkpoints.save(state, history)
        if int(state.step) == killed_at:
            raise Killed

    state, history = checkpoints.restore(state) or (state, [])
    try:
        state, history = train(
            state, views, None, TRAINING, RADIUS,
            on_checkpoint=save, history=history,
        )  # fmt: skip
    except Killed:
        return {}
    finally:
        checkpoints.close()
    found = {f"scene {name}": np.asarray(value) for name, value in vars(state.gaussians).items()}
    return found | {"losses": np.array([entry["loss"] for entry in history])}


def given_images(folder: Path) -> tuple[NormalObject, np.ndarray, np.ndarray, np.ndarray]:
    """The object, and the images in a folder with their true poses and where solvers start."""
    with np.load(folder / "given.npz") as given:
        return normal_object(), given["images"], given["viewmats"], given["starts"]


def work(folder: Path, killed_at: int = 0) -> dict[str, np.ndarray]:
    """All that is sharded over devices, on the images in a folder."""
    model, images, viewmats, starts = given_images(folder)
    found = {}
    for solver in SOLVERS:
        found |= inverted(model, images, starts, solver)
    return found | trained(model, images, viewmats, folder / "checkpoints", killed_at)


@pytest.fixture(scope="module")
def found(tmp_path_factory, quickly_compiled) -> dict[str, dict[str, np.ndarray]]:
    """What one device finds, and eight, whose training is killed and goes on with one."""
    folder, alone = tmp_path_factory.mktemp("many"), tmp_path_factory.mktemp("one")
    model = normal_object()
    eyes = np.array([[2.0, -2.0, 1.2], [-2.6, 0.4, 0.9], [0.3, 2.6, -1.0]])
    up = np.array([0.0, 0.0, 1.0])
    viewmats = np.stack([look_at(eye, np.zeros(3), up) for eye in eyes]).astype(np.float32)
    twists = np.random.default_rng(1).normal(scale=0.05, size=(len(eyes), 6))
    starts = np.asarray(jax.vmap(se3_exp)(jnp.asarray(twists, jnp.float32))) @ viewmats
    given = {"images": model.renders(viewmats[:, None])[:, 0], "viewmats": viewmats}
    for root in (folder, alone):
        np.savez(root / "given.npz", starts=starts, **given)
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
    }
    subprocess.run([sys.executable, __file__, folder], env=environment, check=True)
    results = {"one": work(alone)}
    with np.load(folder / "found.npz") as file:
        results["eight"] = dict(file)
    model, images, viewmats, _ = given_images(folder)
    results["resumed"] = trained(model, images, viewmats, folder / "checkpoints", 0)
    return results


@pytest.mark.parametrize("solver", SOLVERS)
def test_poses_do_not_depend_on_the_devices(found, solver):
    one, other = (
        {key: value for key, value in found[name].items() if key.startswith(solver)}
        for name in ("one", "eight")
    )
    assert set(one) == set(other)
    for key, value in one.items():
        np.testing.assert_allclose(other[key], value, rtol=1e-3, atol=1e-4, err_msg=key)
    moved = one[f"{solver} path"][:, -1] - one[f"{solver} path"][:, 0]
    assert (np.abs(moved).max(axis=(1, 2)) > 0.01).all()


def test_training_resumes_on_other_devices(found):
    assert not any(key.startswith("scene") for key in found["eight"])
    one, resumed = found["one"], found["resumed"]
    keys = [key for key in one if key.startswith("scene")]
    assert len(keys) == 5
    for key in keys:
        np.testing.assert_allclose(resumed[key], one[key], rtol=1e-3, atol=1e-4, err_msg=key)
    np.testing.assert_allclose(resumed["losses"], one["losses"], rtol=1e-4)
    assert len(one["losses"]) == 2 and one["losses"][1] < one["losses"][0]


if __name__ == "__main__":
    jax.config.update("jax_disable_most_optimizations", True)
    assert jax.device_count() == 8
    root = Path(sys.argv[1])
    np.savez(root / "found.npz", **work(root, killed_at=4))
