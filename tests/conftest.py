"""What several files test with: a ball that needs no ray caster, and an object to be inverted."""

import os
from contextlib import contextmanager
from dataclasses import dataclass

import jax
import jaxlib
import numpy as np
import pytest

from igspad_jax.cameras import intrinsics_from_angle, look_at
from igspad_jax.data import LoadedViews
from igspad_jax.invert import Inversion
from igspad_jax.normal_object import NormalObject
from igspad_jax.scene import Gaussians
from inversions import CENTRE, blobs, by_levels, model_of, off
from scenes import UP

# No test may read or write the user's cache of compiled programs.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

# Compiling is most of the tests' time. Without the emitters of fusions it takes a third less, and
# computes the same. Read when JAX first looks for devices, also by processes that tests start.
# XLA ends the process for a flag that it does not know, as of this one from JAX 0.11 on.
_FLAG = "--xla_cpu_use_fusion_emitters"
if jaxlib.__version__.startswith("0.10.") and _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=false".strip()

# Files that take longest: begun first, or several processes would wait for one of them in the end.
LONGEST = ("test_installed.py", "test_pipeline.py", "test_kernels.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the longest files first."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@dataclass(frozen=True)
class BallViews:
    """Exact views of a ball.

    Attributes:
        centre: [3] of the ball, in world units.
        radius: of the ball.
        images: float32 [n, H, W, 3] in [0, 1].
        viewmats: float64 [n, 4, 4].
        K: float64 [3, 3].
        background: [3] RGB.
    """

    centre: np.ndarray
    radius: float
    images: np.ndarray
    viewmats: np.ndarray
    K: np.ndarray
    background: np.ndarray


def ball_colours(normals: np.ndarray) -> np.ndarray:
    """[..., 3] RGB in [0.1, 0.9] of the ball where its outward normal is [..., 3]."""
    return 0.5 + 0.4 * np.sin(3.0 * normals + np.array([0.0, 1.0, 2.0]))


def draw_ball(centre, radius, viewmat, K, size, background) -> np.ndarray:
    """float32 [size, size, 3] image, the mean of 4 x 4 rays a pixel."""
    along = (np.arange(4 * size) + 0.5) / 4
    x, y = np.meshgrid(along, along)
    rays = np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones_like(x)], axis=-1)
    rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True) @ viewmat[:3, :3]
    eye = -viewmat[:3, :3].T @ viewmat[:3, 3]
    nearest = rays @ (centre - eye)
    inside = radius**2 - np.sum(np.square(eye - centre)) + nearest**2
    hit = inside > 0
    distance = nearest - np.sqrt(np.where(hit, inside, 0.0))
    normals = (eye + distance[..., None] * rays - centre) / radius
    image = np.where(hit[..., None], ball_colours(normals), background)
    return image.reshape(size, 4, size, 4, 3).mean(axis=(1, 3)).astype(np.float32)


def make_ball_views(size: int, views: int) -> BallViews:
    """Views from all around, on a spiral from pole to pole."""
    centre, radius, background = np.array([0.1, -0.05, 0.08]), 0.6, np.ones(3)
    K = intrinsics_from_angle(0.6, size, size)
    height = np.linspace(-0.9, 0.9, views)
    azimuth = 2.4 * np.arange(views)  # about the golden angle
    ring = np.sqrt(1.0 - height**2)
    eyes = 3.0 * np.stack([ring * np.cos(azimuth), ring * np.sin(azimuth), height], axis=1)
    viewmats = np.stack([look_at(eye, np.zeros(3), np.array([0.0, 0.0, 1.0])) for eye in eyes])
    images = [draw_ball(centre, radius, viewmat, K, size, background) for viewmat in viewmats]
    return BallViews(centre, radius, np.stack(images), viewmats, K, background)


@pytest.fixture(scope="session")
def ball_views() -> BallViews:
    """16 views of 32 x 32 pixels."""
    return make_ball_views(32, 16)


@contextmanager
def quick_compilation():
    """Compiling takes far longer than small scenes save by its optimisations."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def quickly_compiled():
    """For files that ask for it by `pytestmark`."""
    with quick_compilation():
        yield


# An object to be inverted. Made once, and so before any file's `quickly_compiled`.


@pytest.fixture(scope="session")
def scene() -> Gaussians:
    return blobs()


@pytest.fixture(scope="session")
def model(scene) -> NormalObject:
    return model_of(scene)


@pytest.fixture(scope="session")
def training(model) -> LoadedViews:
    """24 views of the object on a spiral from pole to pole, about 38 degrees apart."""
    height, azimuth = np.linspace(-0.9, 0.9, 24), 2.4 * np.arange(24)
    ring = np.sqrt(1.0 - height**2)
    eyes = 2.7 * np.stack([ring * np.cos(azimuth), ring * np.sin(azimuth), height], axis=1)
    viewmats = np.stack([look_at(CENTRE + eye, CENTRE, UP) for eye in eyes]).astype(np.float32)
    with quick_compilation():
        images = model.renders(viewmats)
    return LoadedViews(images, viewmats, np.asarray(model.K))


@pytest.fixture(scope="session")
def true_poses() -> np.ndarray:
    """[3, 4, 4], from all around."""
    eyes = np.array([[1.5, -2.0, 1.2], [-2.4, 0.4, 0.9], [0.3, 2.6, -0.5]])
    targets = np.array([[0.1, 0.05, 0.0], [0.0, 0.0, 0.1], [0.0, -0.1, 0.0]])
    return np.stack(
        [look_at(CENTRE + e, CENTRE + t, UP) for e, t in zip(eyes, targets, strict=True)]
    )


@pytest.fixture(scope="session")
def images(model, true_poses) -> np.ndarray:
    with quick_compilation():
        return model.renders(true_poses)


@pytest.fixture(scope="session")
def near(true_poses) -> np.ndarray:
    """[3, 4, 4]: off by 5 degrees and 5 %."""
    return off(true_poses, 5.0, 5.0)


@pytest.fixture(scope="session")
def starts(true_poses) -> np.ndarray:
    """[3, 2, 4, 4]: off by 10 degrees and 10 %, and the pose of another image."""
    return np.stack([off(true_poses, 10.0, 10.0), np.roll(true_poses, 1, axis=0)], axis=1)


@pytest.fixture(scope="session")
def found(model, images, starts) -> Inversion:
    """What `LEVELS` finds from `starts`."""
    with quick_compilation():
        return by_levels(model, images, starts)
