"""Forward mode by the pose: of the projection, of the render, and the gradients made of them.

Compiling dominates the time of these tests, so all scenes share one image size and one number of
Gaussians, and with them the compiled functions of `Compiled`.
"""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brute_force import render_brute_force
from checks import assert_finite, assert_products_are_exact, faintest
from igspad_jax.cameras import Camera, look_at, se3_exp
from igspad_jax.invert.gradients import value_and_pose_gradient
from igspad_jax.kernels.compositing.tiles import ALPHA_CUT, TILE
from igspad_jax.render import render_with_jacobian
from igspad_jax.render.projection import BLUR, NEAR, project
from igspad_jax.render.tangents import splat_tangents
from scenes import BACKGROUND, COUNT, UP, VIEWMAT, f32, needles, placed, random_scene

WIDTH, HEIGHT = 44, 28  # neither is a multiple of the tile
SLOTS = 3072
SH_DEGREE = 3

VIEWMATS = np.stack(
    [
        VIEWMAT,
        look_at(np.array([-1.5, 1.2, 0.6]), np.array([0.3, 0.5, 0.1]), UP),  # off centre
        look_at(np.array([0.3, 0.2, -1.1]), np.array([0.1, 0.0, 0.2]), np.array([0.0, 1.0, 0.0])),
    ]
)
K = np.array([[50.0, 0.0, 21.0], [0.0, 46.0, 15.0], [0.0, 0.0, 1.0]])
WEIGHTS = np.random.default_rng(9).normal(size=(HEIGHT, WIDTH, 4)).astype(np.float32)

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def far_outside():
    """Most of the Gaussians lie beyond where x / z and y / z are held."""
    rng = np.random.default_rng(2)
    p = rng.uniform([-3.0, -3.0, 0.3], [3.0, 3.0, 3.0], (COUNT, 3))
    return random_scene(log_scales=(-2.0, 0.0)).replace(means=placed(p))


def smooth():
    """Splats that cover the image, faint and far apart in depth: no jump is near.

    Every splat's alpha is above the cut in all of the image, and no colour is near zero.
    """
    rng = np.random.default_rng(5)
    scene = random_scene(2, log_scales=(0.2, 0.9))
    z = 1.5 + 0.015 * rng.permutation(COUNT)
    p = np.column_stack([rng.uniform(-0.15, 0.15, (COUNT, 2)) * z[:, None], z])
    sh = 0.5 * np.array(scene.sh)
    sh[:, 0] += 0.5
    # Half of them are left out: there are slots for no more that cover the image.
    logits = np.where(np.arange(COUNT) % 2, rng.uniform(-2.9, -2.4, COUNT), -50.0)
    return scene.replace(means=placed(p), sh=f32(sh), opacity_logits=f32(logits))


def moved(viewmat, tau):
    return np.asarray(se3_exp(jnp.asarray(tau, jnp.float32)), np.float64) @ viewmat


def tangents(gaussians, viewmat, K, blur):
    """The splats, and their tangents with the colours' degree and without."""
    camera = Camera(viewmat, K, WIDTH, HEIGHT)
    splats = project(gaussians, camera, sh_degree=SH_DEGREE, blur=blur)
    return splats, *(
        splat_tangents(gaussians, camera, splats, sh_degree=degree, blur=blur)
        for degree in (SH_DEGREE, 0)
    )


def compared_tangents(gaussians, viewmat, K, blur):
    """Those by formula, and by forward differentiation."""

    def of_twist(tau):
        camera = Camera(se3_exp(tau) @ viewmat, K, WIDTH, HEIGHT)
        return (project(gaussians, camera, sh_degree=SH_DEGREE, blur=blur),) * 2

    exact, splats = jax.jacfwd(of_twist, has_aux=True)(jnp.zeros(6))
    camera = Camera(viewmat, K, WIDTH, HEIGHT)
    return splat_tangents(gaussians, camera, splats, sh_degree=SH_DEGREE, blur=blur), exact


def linear(gaussians, viewmat, K, background, near, blur):
    return render_with_jacobian(
        gaussians,
        Camera(viewmat, K, WIDTH, HEIGHT),
        background,
        sh_degree=SH_DEGREE,
        capacity=SLOTS,
        near=near,
        blur=blur,
    )


def reference(gaussians, viewmat, K, background, moving):
    """[H, W, 4] colour and coverage by brute force, and their Jacobian by JAX.

    `moving` is the share of the derivatives of all but the splats' centres: 1 is the truth.
    """

    def held(*args, **kwargs):
        splats = project(*args, **kwargs)
        still = jax.lax.stop_gradient(splats)
        return splats.replace(
            conics=still.conics + moving * (splats.conics - still.conics),
            colours=still.colours + moving * (splats.colours - still.colours),
        )

    def of_twist(tau):
        camera = Camera(se3_exp(tau) @ viewmat, K, WIDTH, HEIGHT)
        seen = render_brute_force(gaussians, camera, background, sh_degree=SH_DEGREE)
        return (joined(seen),) * 2

    with mock.patch("brute_force.project", held):
        jacobian, seen = jax.jacfwd(of_twist, has_aux=True)(jnp.zeros(6))
    return seen, jacobian


def joined(seen):
    return jnp.concatenate([seen.colour, seen.alpha[..., None]], axis=-1)


def pose_gradients(gaussians, viewmat, K, background):
    """By mode: a loss of colour and coverage with the render, and its gradient."""

    def loss(seen):
        return jnp.sum(WEIGHTS * joined(seen)), seen

    return {
        mode: value_and_pose_gradient(
            loss,
            gaussians,
            Camera(viewmat, K, WIDTH, HEIGHT),
            background,
            mode=mode,
            sh_degree=SH_DEGREE,
            capacity=SLOTS,
        )
        for mode in ("autodiff", "analytic", "paper")
    }


class Compiled:
    """Compiled when first called, for all tests; always with the same types of arguments."""

    tangents = staticmethod(jax.jit(tangents))
    compared_tangents = staticmethod(jax.jit(compared_tangents))
    single = staticmethod(jax.jit(linear))
    batch = staticmethod(
        jax.jit(jax.vmap(jax.vmap(linear, (None, 0, *[None] * 4)), (0, *[None] * 5)))
    )
    reference = staticmethod(jax.jit(reference))
    gradients = staticmethod(jax.jit(jax.vmap(pose_gradients, (None, 0, None, None))))


def jacobian_of(gaussians, viewmat=VIEWMAT, *, near=NEAR, blur=BLUR):
    return Compiled.single(*arguments(gaussians, viewmat), f32(near), f32(blur))


def exact_of(gaussians, viewmat=VIEWMAT, *, moving=1.0):
    result = Compiled.reference(*arguments(gaussians, viewmat), f32(moving))
    return tuple(np.asarray(x, np.float64) for x in result)


def arguments(gaussians, viewmat=VIEWMAT):
    return gaussians, f32(viewmat), f32(K), f32(BACKGROUND)


def relative_error(got, exact):
    """[N] largest error of each Gaussian's tangents, as a share of the largest of them."""
    got, exact = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (got, exact))
    return np.abs(got - exact).max(axis=1) / np.abs(exact).max(axis=1)


def given(scene, viewmat, dtype, blur=BLUR):
    """The arguments of `tangents`."""
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x), dtype), (scene, viewmat, K, blur))


class TestSplatTangents:
    """The formulas in float64, where they agree to many digits; and in float32, as they run."""

    def compared(self, scene, viewmat, blur=BLUR):
        """Got and exact, in float64."""
        with jax.enable_x64(True):
            got, exact = Compiled.compared_tangents(*given(scene, viewmat, np.float64, blur))
        assert got.conics.dtype == np.float64
        return jax.tree.map(np.asarray, (got, exact))

    @pytest.mark.parametrize(
        ("scene", "float32"),
        [
            pytest.param(random_scene, 2e-5, id="random"),
            pytest.param(far_outside, 2e-5, id="outside the view"),
            pytest.param(lambda: random_scene(log_scales=(-12.0, 0.0)), 1e-4, id="all sizes"),
            pytest.param(lambda: needles(length=0.3), 1e-3, id="needles"),
        ],
    )
    @pytest.mark.parametrize("viewmat", VIEWMATS)
    def test_against_forward_differentiation(self, scene, float32, viewmat):
        scene = scene()
        p = np.asarray(scene.means) @ viewmat[:3, :3].T + viewmat[:3, 3]
        seen = p[:, 2] > 0.05  # what is behind the camera takes part in nothing
        assert seen.sum() > COUNT // 2
        got, exact = self.compared(scene, viewmat)
        assert relative_error(got.means2d[seen], exact.means2d[seen]).max() < 1e-12
        assert relative_error(got.conics[seen], exact.conics[seen]).max() < 1e-8
        by_rho, by_theta = np.split(exact.colours[seen], 2, axis=-1)
        np.testing.assert_allclose(got.colours[seen], by_rho, rtol=1e-9, atol=1e-12)
        assert np.abs(by_theta).max() < 1e-12 < 1e-3 < np.abs(by_rho).max()

        _, single, _ = Compiled.tangents(*given(scene, viewmat, np.float32))
        single = jax.tree.map(np.asarray, single)
        assert single.conics.dtype == np.float32
        assert_finite(single)
        assert relative_error(single.means2d[seen], exact.means2d[seen]).max() < 2e-5
        assert relative_error(single.conics[seen], exact.conics[seen]).max() < float32
        assert np.abs(single.colours[seen] - by_rho).max() < 1e-5 * np.abs(by_rho).max()

    def test_offsets_far_outside_are_clamped(self):
        p = np.asarray(far_outside().means) @ VIEWMAT[:3, :3].T + VIEWMAT[:3, 3]
        low, high = -K[:2, 2] / np.diag(K)[:2], ([WIDTH, HEIGHT] - K[:2, 2]) / np.diag(K)[:2]
        held = np.abs(p[:, :2] / p[:, 2:] - 0.5 * (low + high)) > 1.3 * 0.5 * (high - low)
        for x in (False, True):
            for y in (False, True):
                assert np.sum((held == [x, y]).all(axis=1)) > 5

    def test_degree_zero_colours_do_not_change(self):
        _, full, plain = Compiled.tangents(*given(random_scene(), VIEWMAT, np.float32))
        assert plain.colours.shape == full.colours.shape
        assert not np.any(plain.colours)
        np.testing.assert_allclose(plain.means2d, full.means2d, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(plain.conics, full.conics, rtol=1e-3, atol=1e-5)

    def test_blur_of_coarse_images(self):
        scene = random_scene()
        (wide, exact), (thin, _) = (self.compared(scene, VIEWMAT, blur) for blur in (3.0, BLUR))
        assert relative_error(wide.conics, exact.conics).max() < 1e-8
        assert relative_error(wide.conics, thin.conics).max() > 0.1
        np.testing.assert_array_equal(wide.means2d, thin.means2d)

    def test_invisible_splats_have_finite_tangents(self):
        p = np.random.default_rng(1).normal(size=(COUNT, 3)) * [1.0, 1.0, 0.02]
        p[:3] = 0.0  # at the camera's centre
        scene = random_scene(log_scales=(-100.0, 90.0)).replace(means=placed(p))
        splats, got, _ = Compiled.tangents(*given(scene, VIEWMAT, np.float32))
        assert np.sum(splats.opacities == 0.0) > COUNT // 4
        assert_finite(got)


def opaque():
    return random_scene(log_scales=(-3.0, -1.5)).replace(opacity_logits=f32(np.full(COUNT, 50.0)))


def in_the_corner():
    """All in the last, cut-off tile of the image; the others hold nothing."""
    rng = np.random.default_rng(4)
    x, y = rng.uniform([41.5, 25.5], [43.5, 27.5], (COUNT, 2)).T
    z = rng.uniform(1.5, 2.5, COUNT)
    p = np.stack([(x - K[0, 2]) / K[0, 0] * z, (y - K[1, 2]) / K[1, 1] * z, z], axis=1)
    return random_scene(log_scales=(-7.0, -6.0)).replace(means=placed(p))


def assert_agrees(got, scene, viewmat=VIEWMAT, *, colour=1e-5, jacobian=1e-4):
    """Tolerances: of the colours as they are, of the Jacobian as a share of its largest value."""
    assert_finite(got)
    assert int(got.pairs) <= SLOTS
    seen, exact = exact_of(scene, viewmat)
    np.testing.assert_allclose(joined(got), seen, atol=colour, rtol=0)
    exact = exact[..., :3, :]
    largest = np.abs(exact).max()
    assert largest > 0.1
    np.testing.assert_allclose(got.jacobian, exact, atol=jacobian * largest, rtol=0)
    return exact


class TestJacobian:
    @pytest.mark.parametrize("viewmat", VIEWMATS)
    @pytest.mark.parametrize("seed", [0, 1])
    def test_random_scenes(self, viewmat, seed):
        scene = random_scene(seed)
        got = jacobian_of(scene, viewmat)
        assert got.jacobian.shape == (HEIGHT, WIDTH, 3, 6)
        exact = assert_agrees(got, scene, viewmat)
        # Each parameter counts for itself, not only the largest.
        for j in range(6):
            largest = np.abs(exact[..., j]).max()
            assert np.abs(got.jacobian[..., j] - exact[..., j]).max() < 3e-4 * largest

    @pytest.mark.parametrize(
        ("scene", "jacobian"),
        [
            pytest.param(opaque, 1e-4, id="opacity one"),  # 0.99 is passed, and many times
            pytest.param(lambda: needles(length=0.3), 3e-4, id="needles"),
            pytest.param(lambda: random_scene(log_scales=(-90.0, -80.0)), 1e-4, id="points"),
            pytest.param(
                lambda: random_scene().replace(means=0.02 * random_scene().means),
                1e-4,
                id="all in few tiles",
            ),
            pytest.param(in_the_corner, 1e-4, id="all in one cut-off tile"),
        ],
    )
    def test_special_scenes(self, scene, jacobian):
        scene = scene()
        got = jacobian_of(scene)
        assert_agrees(got, scene, colour=3e-4, jacobian=jacobian)

    def test_jacobian_is_zero_in_empty_tiles(self):
        got = jacobian_of(in_the_corner())
        row, column = (HEIGHT - 1) // TILE * TILE, (WIDTH - 1) // TILE * TILE
        outside = np.ones((HEIGHT, WIDTH), bool)
        outside[row:, column:] = False
        assert np.abs(got.jacobian)[~outside].max() > 0.1
        np.testing.assert_array_equal(np.asarray(got.jacobian)[outside], 0.0)
        np.testing.assert_array_equal(np.asarray(got.alpha)[outside], 0.0)

    def test_jacobian_of_an_empty_render_is_zero(self):
        scene = random_scene()
        behind = scene.replace(means=placed(np.asarray(scene.means) - [0.0, 0.0, 3.0]))
        nothing = [
            jacobian_of(behind),
            jacobian_of(scene, near=np.inf),  # how finished poses are left out
        ]
        for got in nothing:
            assert int(got.pairs) == 0
            np.testing.assert_array_equal(got.jacobian, 0.0)
            np.testing.assert_array_equal(
                got.colour, np.broadcast_to(f32(BACKGROUND), got.colour.shape)
            )

    def test_nested_vmap_equals_single_renders(self):
        scenes = (random_scene(0), random_scene(1))
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *scenes)
        batch = Compiled.batch(*arguments(stacked, VIEWMATS[:2]), f32(NEAR), f32(BLUR))
        for i, scene in enumerate(scenes):
            for j, viewmat in enumerate(VIEWMATS[:2]):
                got = jax.tree.map(lambda leaf, i=i, j=j: np.asarray(leaf[i, j]), batch)
                expected = jacobian_of(scene, viewmat)
                assert int(got.pairs) == int(expected.pairs)
                np.testing.assert_allclose(got.colour, expected.colour, atol=1e-6)
                np.testing.assert_allclose(got.alpha, expected.alpha, atol=1e-6)
                largest = np.abs(expected.jacobian).max()
                np.testing.assert_allclose(
                    got.jacobian, expected.jacobian, atol=1e-5 * largest, rtol=0
                )

    def test_missing_slots_are_reported(self):
        scene = random_scene(log_scales=(1.0, 2.0))
        scene = scene.replace(opacity_logits=f32(np.full(COUNT, -3.0)))
        asked = int(jacobian_of(scene).pairs)
        tiles = -(-WIDTH // TILE) * -(-HEIGHT // TILE)
        assert asked == COUNT * tiles > SLOTS

    @pytest.mark.parametrize("blur", [BLUR, 1.5])
    def test_finite_differences(self, blur):
        """The render itself, moved: neither projection nor compositing is taken for granted."""
        scene = smooth()
        got = jacobian_of(scene, blur=blur)
        assert int(got.pairs) <= SLOTS
        jacobian = np.asarray(got.jacobian, np.float64)
        step = 0.01
        for j, direction in enumerate(np.eye(6)):
            ends = [
                np.asarray(
                    jacobian_of(scene, moved(VIEWMAT, way * step * direction), blur=blur).colour
                )
                for way in (1.0, -1.0)
            ]
            slope = (ends[0].astype(np.float64) - ends[1]) / (2.0 * step)
            largest = np.abs(jacobian[..., j]).max()
            assert largest > 2e-3
            # The render's rounding, 1e-7, is all that a smaller step would measure.
            np.testing.assert_allclose(slope, jacobian[..., j], atol=5e-3 * largest + 5e-5, rtol=0)

    def test_smooth_is_far_from_any_jump(self):
        splats, *_ = Compiled.tangents(*given(smooth(), VIEWMAT, np.float32))
        alphas = faintest(splats, WIDTH, HEIGHT)[np.asarray(splats.opacities) > 0.0]
        assert len(alphas) == COUNT // 2 and alphas.min() > 1.2 * ALPHA_CUT

    def test_products_have_highest_precision(self):
        assert_products_are_exact(linear, *arguments(random_scene()), NEAR, BLUR)


class TestGradientModes:
    """All under `vmap`, as the descent uses them."""

    @staticmethod
    def gradients(scene):
        """By mode: [3] losses, the renders, and the [3, 6] gradients."""
        found = Compiled.gradients(*arguments(scene, VIEWMATS))
        assert_finite(found)
        assert int(found["autodiff"][0][1].pairs.max()) <= SLOTS
        return {m: (loss, seen, np.asarray(g)) for m, ((loss, seen), g) in found.items()}

    @staticmethod
    def expected(scene, **kwargs):
        """[3, 6] from the reference's Jacobian."""
        exact = [exact_of(scene, viewmat, **kwargs)[1] for viewmat in VIEWMATS]
        return np.einsum("hwc,nhwcj->nj", WEIGHTS, exact)

    @pytest.mark.parametrize("scene", [random_scene, opaque])
    def test_analytic_gradient_equals_autodiff(self, scene):
        scene = scene()
        found = self.gradients(scene)
        expected = self.expected(scene)
        scale = np.abs(expected).max(axis=1, keepdims=True)
        for mode in ("autodiff", "analytic"):
            np.testing.assert_allclose(found[mode][2] / scale, expected / scale, atol=2e-4)
        both = [found[mode][2] / scale for mode in ("autodiff", "analytic")]
        np.testing.assert_allclose(*both, atol=2e-5)

    def test_render_equals_that_of_the_jacobian(self):
        scene = random_scene()
        found = self.gradients(scene)
        for i, viewmat in enumerate(VIEWMATS):
            expected = jacobian_of(scene, viewmat)
            for losses, seen, _ in found.values():
                np.testing.assert_allclose(seen.colour[i], expected.colour, atol=1e-6)
                np.testing.assert_allclose(seen.alpha[i], expected.alpha, atol=1e-6)
                assert int(seen.pairs[i]) == int(expected.pairs)
                loss = np.sum(WEIGHTS * np.asarray(joined(expected), np.float64))
                assert float(losses[i]) == pytest.approx(loss, abs=1e-3)

    def test_finite_differences(self):
        scene = smooth()
        gradients = {mode: found[2] for mode, found in self.gradients(scene).items()}

        def loss(tau):
            # Summed in float64: the render's own rounding is the only noise.
            seen = jacobian_of(scene, moved(VIEWMAT, tau))
            return np.sum(WEIGHTS * np.asarray(joined(seen), np.float64))

        step = 0.01
        slopes = [
            (loss(step * direction) - loss(-step * direction)) / (2.0 * step)
            for direction in np.eye(6)
        ]
        for mode in ("autodiff", "analytic"):
            largest = np.abs(gradients[mode][0]).max()
            np.testing.assert_allclose(gradients[mode][0], slopes, atol=5e-3 * largest)

    def test_paper_gradient_omits_covariance_and_colour_of_translations(self):
        scene = random_scene(log_scales=(-2.5, -1.5))
        found = self.gradients(scene)
        full, paper = found["analytic"][2], found["paper"][2]
        scale = np.abs(full).max(axis=1, keepdims=True)
        np.testing.assert_allclose(paper[:, 3:] / scale, full[:, 3:] / scale, atol=1e-6)
        centres = self.expected(scene, moving=0.0)
        np.testing.assert_allclose(paper[:, :3] / scale, centres[:, :3] / scale, atol=2e-4)
        # And that is a part of them that counts.
        assert np.all(np.abs(paper - full).max(axis=1) > 0.01 * scale[:, 0])

    def test_paper_gradient_is_exact_for_points(self):
        """Points have the image's blur for a covariance, and here one colour from everywhere."""
        points = random_scene(log_scales=(-90.0, -80.0))
        found = self.gradients(points.replace(sh=points.sh.at[:, 1:].set(0.0)))
        full, paper = found["autodiff"][2], found["paper"][2]
        scale = np.abs(full).max(axis=1, keepdims=True)
        np.testing.assert_allclose(paper / scale, full / scale, atol=2e-5)
        # With colours that depend on the direction, they alone are left out.
        found = self.gradients(points)
        left_out = np.abs(found["autodiff"][2] - found["paper"][2]).max(axis=0)
        assert left_out[:3].max() > 1e-3 * scale.max() > left_out[3:].max()
