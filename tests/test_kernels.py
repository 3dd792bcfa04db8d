"""The compositor's implementations against one dense definition; the GPU kernels lower for CUDA.

Interpreting a GPU kernel takes a tenth of a second for every chunk of 16 splats, compiling more
than that: one image size, one number of splats and one compiled function to an implementation.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checks import gpu_kernels
from igspad_jax.errors import InputError
from igspad_jax.kernels.compositing import (
    ProjectedSplats,
    backend,
    composite,
    composite_normal,
    composite_with_jacobian,
)
from igspad_jax.kernels.compositing.groups import ALPHA_MAX
from igspad_jax.kernels.compositing.mosaic import SIDE
from igspad_jax.kernels.compositing.mosaic.backward import sum_by_splat
from igspad_jax.kernels.compositing.mosaic.common import CHUNK
from igspad_jax.kernels.compositing.tiles import ALPHA_CUT, TILE, grid_shape

pytestmark = pytest.mark.usefixtures("quickly_compiled")

CHANNELS = 4
NAMES = ("means2d", "conics", "opacities", "features")


@dataclasses.dataclass(frozen=True)
class Setup:
    """An implementation and the sizes it is tested at."""

    implementation: str
    side: int
    width: int
    height: int
    count: int

    @property
    def tiles(self) -> int:
        rows, columns = grid_shape(self.width, self.height, self.side)
        return rows * columns

    @property
    def capacity(self) -> int:
        """Exactly what all splats but one need when they cover everything."""
        return (self.count - 1) * self.tiles

    @property
    def sizes(self) -> dict[str, int]:
        return {"width": self.width, "height": self.height}


XLA = Setup("xla", TILE, 60, 44, 150)
# Two tiles, and two chunks of splats where many meet.
INTERPRETED = Setup("interpreted", SIDE, 20, 13, CHUNK + 4)
MOSAIC = Setup("mosaic", SIDE, 60, 44, 150)


@pytest.fixture(
    scope="module",
    params=[XLA, INTERPRETED, pytest.param(MOSAIC, marks=pytest.mark.gpu)],
    ids=lambda setup: setup.implementation,
)
def setup(request):
    if request.param is not MOSAIC:
        yield request.param
        return
    if backend.resolve(None) != "mosaic":
        pytest.skip("needs an NVIDIA GPU of compute capability 9.0 or newer")
    # A GPU would round the factors of the definition's products to 10 bits.
    with jax.default_matmul_precision("highest"):
        yield request.param


# ---------------------------------------------------------------- scenes


def splats(setup: Setup, means, covariances, opacities, seed=0):
    """The arguments of `composite` for one image: random features and depths, exact radii."""
    rng = np.random.default_rng(seed + 100)
    inverse = np.linalg.inv(covariances)
    reach = 2.0 * np.log(np.maximum(opacities, ALPHA_CUT) / ALPHA_CUT)
    radii = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2) * reach[:, None])
    size = np.array([setup.width, setup.height])
    visible = np.all((means + radii > 0) & (means - radii < size), 1) & (opacities > ALPHA_CUT)
    parts = (
        means,
        np.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], axis=1),
        np.where(visible, opacities, 0.0),
        rng.uniform(size=(setup.count, CHANNELS)),
        rng.permutation(setup.count) + 1.0,
        np.where(visible[:, None], radii, 0.0),
    )
    return tuple(np.asarray(part, np.float32) for part in parts)


def ellipses(rng, count, low, high):
    """[count, 2, 2] covariances with axes of `low` to `high` pixels."""
    angle = rng.uniform(0, np.pi, count)
    turn = np.moveaxis(
        np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]), -1, 0
    )
    axes = np.exp(rng.uniform(np.log(low), np.log(high), (count, 2)))
    return np.einsum("nij,nj,nkj->nik", turn, axes**2, turn)


def random(setup, seed=0):
    rng = np.random.default_rng(seed)
    means = rng.uniform(-2, [setup.width + 2, setup.height + 2], (setup.count, 2))
    shapes = ellipses(rng, setup.count, 0.5, 3.0)
    return splats(setup, means, shapes, rng.uniform(0.02, 1.0, setup.count), seed)


def over_all_tiles(setup, opacity):
    """All splats cover all tiles."""
    rng = np.random.default_rng(1)
    means = rng.uniform(0, [setup.width, setup.height], (setup.count, 2))
    return splats(setup, means, ellipses(rng, setup.count, 90.0, 120.0), opacity)


def empty(setup):
    scene = random(setup)
    return (*scene[:2], np.zeros_like(scene[2]), *scene[3:5], np.zeros_like(scene[5]))


def off_screen(setup):
    scene = random(setup)
    return splats(setup, scene[0] + 500.0, ellipses(np.random.default_rng(2), setup.count, 1, 3),
                  np.full(setup.count, 0.5))  # fmt: skip


def needles(setup):
    rng = np.random.default_rng(3)
    means = rng.uniform(0, [setup.width, setup.height], (setup.count, 2))
    shapes = ellipses(rng, setup.count, 0.02, 0.03)
    along = rng.normal(size=(setup.count, 2)) * 3.0
    shapes = shapes + along[:, :, None] * along[:, None, :] + 0.3 * np.eye(2)
    return splats(setup, means, shapes, np.full(setup.count, 0.8))


def one_over_everything(setup):
    scene = [part.copy() for part in random(setup)]
    big = over_all_tiles(setup, np.full(setup.count, 0.9))
    for part, of_big in zip(scene, big, strict=True):
        part[setup.count // 2] = of_big[setup.count // 2]
    return tuple(scene)


def some_opacities_zero(setup):
    scene = list(random(setup))
    off = np.arange(setup.count) % 2 == 0
    # Listed, but without any effect: the gradient must not divide by their opacity.
    scene[2] = np.where(off, np.float32(0.0), scene[2])
    return tuple(scene)


def at_one_point(setup):
    scene = random(setup)
    means = np.full((setup.count, 2), 7.3)
    return splats(setup, means, ellipses(np.random.default_rng(4), setup.count, 0.5, 2.0),
                  scene[2] * 0.5 + 0.1)  # fmt: skip


def full(setup, opacity=0.3):
    """As many pairs as there are slots, to the last."""
    scene = [part.copy() for part in over_all_tiles(setup, np.full(setup.count, opacity))]
    scene[2][0], scene[5][0] = 0.0, 0.0
    return tuple(scene)


SCENES = {
    "empty": empty,
    "off screen": off_screen,
    "needles": needles,
    "one over everything": one_over_everything,
    "zero opacity": some_opacities_zero,
    "one point": at_one_point,
    "capacity used up": full,
    # Light is gone long before the last chunk.
    "opaque": lambda setup: full(setup, 0.99),
}


# Unlike ones together: each must leave the other alone.
PAIRS = list(zip(list(SCENES)[:4], list(SCENES)[4:], strict=True))


# ---------------------------------------------------------------- definition


def dense(means2d, conics, opacities, features, depths, radii, *, width, height):
    """[H, W, C + 1] features and transmittance by the formulas, every pixel with every splat."""
    order = jnp.argsort(depths)
    x, y = jnp.arange(width) + 0.5, jnp.arange(height) + 0.5
    dx = x[None, None, :] - means2d[order, 0, None, None]
    dy = y[None, :, None] - means2d[order, 1, None, None]
    a, b, c = jnp.unstack(conics[order][:, :, None, None], axis=1)
    exponent = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    listed = (radii[:, 0] > 0.0)[order, None, None]
    unclamped = jnp.where(listed, opacities[order, None, None] * jnp.exp(-exponent), 0.0)
    alpha = jnp.where(unclamped < ALPHA_CUT, 0.0, jnp.minimum(unclamped, ALPHA_MAX))
    after = jnp.cumprod(1.0 - alpha, axis=0)
    before = jnp.concatenate([jnp.ones_like(after[:1]), after[:-1]])
    values = jnp.einsum("nhw,nc->hwc", alpha * before, features[order], precision="highest")
    return jnp.concatenate([values, after[-1:].transpose(1, 2, 0)], axis=-1)


def cotangent(setup):
    """A loss's gradient with respect to the image."""
    shape = (setup.height, setup.width, CHANNELS + 1)
    return np.random.default_rng(9).normal(size=shape).astype(np.float32)


@functools.cache
def definition(setup):
    """Image and gradients, of one image."""

    def loss(*scene):
        image = dense(*scene, **setup.sizes)
        return jnp.sum(cotangent(setup) * image), image

    function = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))

    def run(scene):
        (_, image), gradient = function(*scene)
        return image, gradient

    return run


@functools.cache
def implementation(setup):
    """Images, slots asked for and gradients of two images, by `vmap` of the gradient of one."""

    def loss(*scene):
        features, transmittance, pairs = composite(
            ProjectedSplats(*(part[None] for part in scene)),
            **setup.sizes,
            capacity=setup.capacity,
            implementation=setup.implementation,
        )
        image = jnp.concatenate([features, transmittance[..., None]], axis=-1)[0]
        return jnp.sum(cotangent(setup) * image), (image, pairs[0])

    function = jax.jit(jax.vmap(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True)))

    def run(first, second):
        (_, (images, pairs)), gradients = function(*map(np.stack, zip(first, second, strict=True)))
        return images, pairs, gradients

    return run


PARAMETERS, COLOURED = 3, 2  # that move splats, and those of them that move colours


class Moving(NamedTuple):
    """How splats move with the parameters, as `composite_normal` takes it for one image."""

    tangents: np.ndarray
    tints: np.ndarray
    background: np.ndarray
    affine: np.ndarray


def f32(values):
    return np.asarray(values, np.float32)


def colours_only(scene):
    """The scene with three features."""
    return (*scene[:3], scene[3][:, :3], *scene[4:])


def moving_splats(setup) -> Moving:
    rng = np.random.default_rng(6)
    spread = np.array([1.0, 1.0, 0.01, 0.01, 0.01])[:, None]
    return Moving(
        f32(spread * rng.normal(size=(setup.count, 5, PARAMETERS))),
        f32(0.1 * rng.normal(size=(setup.count, 3, COLOURED))),
        f32([0.2, 0.5, 0.9]),
        f32([[0.8, -0.1], [0.0, 1.0]]),
    )


@functools.cache
def moving_image(setup):
    """The image and its Jacobian by the parameters and two affine changes of colour, by formula."""
    tangents, tints, background, affine = moving_splats(setup)

    def seen(tau, scene):
        moved, shading = tau[:PARAMETERS], tau[PARAMETERS:]
        by_affine = scene[3][..., None] * affine[:, 0] + affine[:, 1]
        image = dense(
            scene[0] + tangents[:, :2] @ moved,
            scene[1] + tangents[:, 2:] @ moved,
            scene[2],
            scene[3] + tints @ moved[:COLOURED] + by_affine @ shading,
            *scene[4:],
            **setup.sizes,
        )
        return (image[..., :-1] + image[..., -1:] * background,) * 2

    at = jnp.zeros(PARAMETERS + len(affine))
    function = jax.jit(jax.jacfwd(seen, has_aux=True))

    def run(scene):
        jacobian, image = function(at, tuple(map(jnp.asarray, scene)))
        return image, jacobian

    return run


def assert_agree(got, expected, *, gradient=1e-3):
    (image, gradients), (expected_image, expected_gradients) = got, expected
    np.testing.assert_allclose(image, expected_image, atol=1e-5, rtol=0)
    floor = 1e-6 * max(float(np.abs(part).max()) for part in expected_gradients)
    for name, part, true in zip(NAMES, gradients, expected_gradients, strict=True):
        part, true = np.asarray(part), np.asarray(true)
        assert np.isfinite(part).all(), name
        assert np.abs(part - true).max() <= gradient * np.abs(true).max() + floor, name


def item(tree, i):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[i], tree)


# ---------------------------------------------------------------- tests


class TestImplementations:
    def test_batch_and_determinism(self, setup):
        """Every image of a batch as if alone; twice the same bits."""
        scenes = random(setup, 0), random(setup, 1)
        images, pairs, gradients = implementation(setup)(*scenes)
        for i, scene in enumerate(scenes):
            expected = definition(setup)(scene)
            assert float(np.abs(expected[1][0]).max()) > 0.1
            assert_agree((images[i], item(gradients, i)), expected)
            assert 0 < int(pairs[i]) <= setup.capacity
        again = implementation(setup)(*scenes)
        jax.tree.map(np.testing.assert_array_equal, again, (images, pairs, gradients))

    @pytest.mark.parametrize("names", PAIRS, ids=" and ".join)
    def test_degenerate(self, setup, names):
        """Two at once, neither of which changes the other."""
        scenes = [SCENES[name](setup) for name in names]
        images, pairs, gradients = implementation(setup)(*scenes)
        for i, name in enumerate(names):
            assert_agree((images[i], item(gradients, i)), definition(setup)(scenes[i]))
            if name in ("empty", "off screen"):
                assert int(pairs[i]) == 0
                assert not any(np.any(part) for part in item(gradients, i))
            if name in ("capacity used up", "opaque"):
                assert int(pairs[i]) == setup.capacity
            if name == "opaque":
                assert float(np.max(images[i, ..., -1])) < 1e-7

    def test_overflow_drops_the_farthest(self, setup):
        scene = over_all_tiles(setup, np.full(setup.count, 0.3))
        images, pairs, gradients = implementation(setup)(scene, random(setup))
        assert int(pairs[0]) == setup.capacity + setup.tiles
        without = [part.copy() for part in scene]
        farthest = np.argmax(scene[4])
        without[2][farthest], without[5][farthest] = 0.0, 0.0
        assert_agree((images[0], item(gradients, 0)), definition(setup)(without))

    def test_jacobian(self, setup):
        """Of two images, against forward differentiation of the dense definition."""
        scenes, moving = (random(setup), needles(setup)), moving_splats(setup)

        def one(*scene):
            results = composite_with_jacobian(
                ProjectedSplats(*(part[None] for part in scene)),
                *(part[None] for part in moving[:3]),
                **setup.sizes,
                capacity=setup.capacity,
                implementation=setup.implementation,
            )
            return jax.tree.map(lambda leaf: leaf[0], results)

        both = map(np.stack, zip(*map(colours_only, scenes), strict=True))
        values, transmittance, pairs, jacobians = jax.jit(jax.vmap(one))(*both)
        for i, scene in enumerate(scenes):
            image, exact = moving_image(setup)(colours_only(scene))
            got = values[i] + transmittance[i][..., None] * moving.background
            np.testing.assert_allclose(got, image, atol=1e-5, rtol=0)
            # A pixel may jump where rounding decides whether an alpha reaches the cut.
            off = np.abs(jacobians[i] - exact[..., :PARAMETERS]).max(axis=(2, 3))
            assert np.mean(off > 1e-4 * np.abs(exact).max()) < 2e-3
            assert int(pairs[i]) <= setup.capacity

    def test_normal_equations(self, setup):
        """Against the dense definition's Jacobian by forward differentiation."""
        scene, moving = colours_only(random(setup)), moving_splats(setup)
        rng = np.random.default_rng(5)
        images = f32(rng.uniform(size=(2, setup.height, setup.width, 3)))
        weights = f32(rng.uniform(size=(2, setup.height, setup.width)))
        deltas = f32([0.05, 0.2])

        def one(image, weight, delta, basis):
            parts = (*moving[:3], basis, moving.affine, image, weight, delta)
            results = composite_normal(
                ProjectedSplats(*(part[None] for part in scene)),
                *(part[None] for part in parts),
                **setup.sizes,
                capacity=setup.capacity,
                implementation=setup.implementation,
            )
            return jax.tree.map(lambda leaf: leaf[0], results)

        bases = f32(rng.normal(size=(2, PARAMETERS, 2)))
        costs, grams, pairs = jax.jit(jax.vmap(one))(images, weights, deltas, bases)
        image, jacobian = (np.asarray(part, np.float64) for part in moving_image(setup)(scene))
        for i in range(2):
            difference = image - images[i]
            square = np.square(difference / deltas[i])
            turned = jacobian[..., :PARAMETERS] @ bases[i]
            shaded = jacobian[..., PARAMETERS:]
            columns = np.concatenate([turned, shaded, difference[..., None]], axis=-1)
            robust = weights[i][..., None] / (1.0 + square)
            counted = 3.0 * weights[i].sum()
            gram = np.einsum("hwc,hwci,hwcj->ij", robust, columns, columns) / counted
            cost = np.sum(0.5 * deltas[i] * np.log1p(square) * weights[i][..., None]) / counted
            np.testing.assert_allclose(costs[i], cost, rtol=1e-4)
            np.testing.assert_allclose(grams[i], gram, atol=1e-4 * np.abs(gram).max(), rtol=0)
            assert int(pairs[i]) <= setup.capacity

    @pytest.mark.slow
    def test_long_lists_on_many_tiles(self):
        setup = Setup("interpreted", SIDE, 50, 40, 90)
        scenes = random(setup), full(setup)
        images, _, gradients = implementation(setup)(*scenes)
        for i, scene in enumerate(scenes):
            assert_agree((images[i], item(gradients, i)), definition(setup)(scene))


class TestSums:
    def test_against_numpy(self):
        rng = np.random.default_rng(0)
        # One splat with many rows, some with none, rows of no splat that hold rubbish.
        splats = rng.integers(0, 50, 400)
        splats[:150] = 7
        splats[splats == 3] = 50
        splats = rng.permutation(splats).astype(np.int32)
        rows = rng.normal(size=(400, 5)).astype(np.float32)
        rows[splats == 50] = np.nan
        expected = np.zeros((50, 5))
        np.add.at(expected, splats[splats < 50], rows[splats < 50].astype(np.float64))
        got = jax.jit(sum_by_splat, static_argnums=2)(rows, splats, 50)
        np.testing.assert_allclose(got, expected, atol=1e-5)


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def scene_shapes(batch, count, channels):
    sizes = ((2,), (3,), (), (channels,), (), (2,))
    return tuple(shaped(batch, count, *size) for size in sizes)


def kernels(function, *arguments):
    return gpu_kernels(jax.jit(function).trace(*arguments))


@pytest.mark.parametrize(
    ("count", "size", "batch"),
    [(20_000, 400, 1), (20_000, 400, 16), (100_000, 800, 1), (100_000, 800, 16)],
)
class TestLowering:
    """For CUDA, on a machine without: real shapes, as training and inversion call it."""

    def composited(self, count, size):
        def image(*scene):
            features, transmittance, _ = composite(
                ProjectedSplats(*scene),
                width=size,
                height=size,
                capacity=8 * count,
                implementation="mosaic",
            )
            return features, transmittance

        return image

    def loss(self, count, size):
        image = self.composited(count, size)
        return lambda *scene: sum(jnp.sum(jnp.square(part)) for part in image(*scene))

    def test_forward(self, count, size, batch):
        assert kernels(self.composited(count, size), *scene_shapes(batch, count, 4)) == 1

    def test_gradient(self, count, size, batch):
        gradient = jax.grad(self.loss(count, size), argnums=(0, 1, 2, 3))
        assert kernels(gradient, *scene_shapes(batch, count, 4)) == 3

    def test_vmap_of_gradient(self, count, size, batch):
        one = self.loss(count, size)
        gradient = jax.grad(lambda *scene: one(*(part[None] for part in scene)), argnums=(0, 1, 2))
        assert kernels(jax.vmap(gradient), *scene_shapes(batch, count, 4)) == 3

    def moving(self, count, batch):
        return (
            ProjectedSplats(*scene_shapes(batch, count, 3)),
            shaped(batch, count, 5, 6),
            shaped(batch, count, 3, 3),
            shaped(batch, 3),
        )

    def test_jacobian(self, count, size, batch):
        def linear(*arguments):
            return composite_with_jacobian(
                *arguments, width=size, height=size, capacity=8 * count, implementation="mosaic"
            )

        assert kernels(linear, *self.moving(count, batch)) == 2

    def test_normal_equations(self, count, size, batch):
        def normal(*arguments):
            return composite_normal(
                *arguments, width=size, height=size, capacity=8 * count, implementation="mosaic"
            )

        arguments = (
            *self.moving(count, batch),
            shaped(batch, 6, 6),
            shaped(batch, 2, 2),
            shaped(batch, size, size, 3),
            shaped(batch, size, size),
            shaped(batch),
        )
        assert kernels(normal, *arguments) == 2


class TestChoice:
    @pytest.fixture(autouse=True)
    def no_variable(self, monkeypatch):
        monkeypatch.delenv("IGSPAD_JAX_COMPOSITOR", raising=False)

    @pytest.mark.parametrize("wanted", ["xla", "mosaic"])
    def test_variable(self, monkeypatch, wanted):
        monkeypatch.setenv("IGSPAD_JAX_COMPOSITOR", wanted)
        assert backend.resolve(None) == wanted
        assert backend.resolve("interpreted") == "interpreted"

    def test_unknown_variable(self, monkeypatch):
        monkeypatch.setenv("IGSPAD_JAX_COMPOSITOR", "triton")
        with pytest.raises(InputError, match=r"IGSPAD_JAX_COMPOSITOR=triton.*use xla or mosaic"):
            backend.resolve(None)

    def test_device_decides(self, monkeypatch):
        for capability, expected in (
            (None, "xla"),  # a CPU
            ("8.6", "xla"),
            ("9.0", "mosaic"),
            ("10.0", "mosaic"),
            ("gfx942", "xla"),
        ):
            device = type("Device", (), {"compute_capability": capability})()
            monkeypatch.setattr(jax, "devices", lambda device=device: [device])
            assert backend.resolve(None) == expected

    def test_unknown_implementation(self):
        with pytest.raises(ValueError, match="no implementation 'triton'"):
            backend.resolve("triton")
