"""The rasterizer against its definition, against textbook formulas and against itself in batches.

Compiling dominates the time of these tests, so all scenes share one image size and one number of
Gaussians, and with them the compiled functions of `Compiled`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import sph_harm_y

from brute_force import render_brute_force
from checks import assert_finite, assert_products_are_exact, faintest
from igspad_jax.cameras import Camera, camera_centre, hat, look_at, se3_exp
from igspad_jax.kernels.compositing.tiles import ALPHA_CUT, TILE, grid_shape, tile_lists
from igspad_jax.render import Capacity, CapacityError, Render, render
from igspad_jax.render.projection import BLUR, project
from igspad_jax.scene import harmonics
from igspad_jax.train.losses import photometric_loss
from igspad_jax.train.relocation import split_opacity
from scenes import BACKGROUND, COUNT, UP, VIEWMAT, f32, needles, placed, random_scene

WIDTH, HEIGHT = 60, 44  # neither is a multiple of the tile
pytestmark = pytest.mark.usefixtures("quickly_compiled")

SLOTS = (
    12288  # the rung that `Capacity` climbs to in test_capacity_grows_until_the_render_is_complete
)
SH_DEGREE = 3

K = np.array([[70.0, 0.0, 29.0], [0.0, 66.0, 23.0], [0.0, 0.0, 1.0]])
WEIGHTS = np.random.default_rng(9).normal(size=(HEIGHT, WIDTH, 5)).astype(np.float32)


def loss_and_render(renderer, gaussians, viewmat, K, background):
    """A loss that every output has a part in, so that its gradient tests all of them."""
    camera = Camera(viewmat, K, WIDTH, HEIGHT)
    result = renderer(gaussians, camera, background, sh_degree=SH_DEGREE)
    everything = jnp.concatenate(
        [result.colour, result.alpha[..., None], result.depth[..., None]], axis=-1
    )
    return jnp.sum(WEIGHTS * everything), result


class Compiled:
    """Functions of (gaussians, viewmat, K, background), compiled when first called."""

    tiled = functools.partial(loss_and_render, functools.partial(render, capacity=SLOTS))
    with_gradient = functools.partial(jax.value_and_grad, argnums=(0, 1, 2, 3), has_aux=True)
    fast = staticmethod(jax.jit(with_gradient(tiled)))
    slow = staticmethod(
        jax.jit(with_gradient(functools.partial(loss_and_render, render_brute_force)))
    )
    project = staticmethod(
        jax.jit(
            lambda gaussians, viewmat, K: project(
                gaussians, Camera(viewmat, K, WIDTH, HEIGHT), sh_degree=SH_DEGREE
            )
        )
    )


def arguments(gaussians, viewmat=VIEWMAT, K=K):
    return gaussians, f32(viewmat), f32(K), f32(BACKGROUND)


def named(gradient):
    """{name: float64 array} of a gradient with respect to `arguments`."""
    gaussians, viewmat, K, background = gradient
    names = ("means", "log_scales", "quats", "opacity_logits", "sh")
    parts = {name: getattr(gaussians, name) for name in names}
    parts |= {"viewmat": viewmat, "K": K, "background": background}
    return {name: np.asarray(part, np.float64) for name, part in parts.items()}


def assert_gradients_agree(gradient, expected, *, relative):
    gradient, expected = named(gradient), named(expected)
    # Gradients that cancel to nothing beside the others hold nothing but rounding.
    floor = 1e-6 * max(np.abs(part).max() for part in expected.values())
    for name, part in expected.items():
        error = np.abs(gradient[name] - part).max()
        assert error <= relative * np.abs(part).max() + floor, name


def assert_agree(gaussians, viewmat=VIEWMAT, K=K, *, colour=1e-5, gradient=1e-3) -> Render:
    """Renders both ways, compares values and gradients, and returns the tiled render."""
    (_, fast), fast_gradient = Compiled.fast(*arguments(gaussians, viewmat, K))
    (_, slow), slow_gradient = Compiled.slow(*arguments(gaussians, viewmat, K))
    assert_finite((fast, fast_gradient))
    assert int(fast.pairs) <= SLOTS
    np.testing.assert_allclose(fast.colour, slow.colour, atol=colour, rtol=0)
    np.testing.assert_allclose(fast.alpha, slow.alpha, atol=colour, rtol=0)
    # Depth is divided by alpha, which is as little as 1/255.
    np.testing.assert_allclose(fast.depth, slow.depth, atol=20 * colour, rtol=0)
    assert_gradients_agree(fast_gradient, slow_gradient, relative=gradient)
    return fast


def behind():
    p = np.random.default_rng(1).uniform([-1, -1, -3], [1, 1, -0.1], (COUNT, 3))
    return random_scene().replace(means=placed(p))


def at_the_near_plane():
    p = np.random.default_rng(1).normal(size=(COUNT, 3)) * [0.01, 0.01, 0.02] + [0, 0, 0.01]
    return random_scene(log_scales=(-9.0, -4.0)).replace(means=placed(p))


def half_opaque():
    return random_scene().replace(opacity_logits=f32(np.where(np.arange(COUNT) % 2, 50.0, -200.0)))


class TestAgainstBruteForce:
    def test_random_scenes(self):
        for seed in range(3):
            result = assert_agree(random_scene(seed))
            assert 0.1 < float(np.mean(np.asarray(result.alpha) > 0.5)) < 0.9

    def test_splats_of_all_sizes(self):
        scene = random_scene(4, log_scales=(-6.0, 0.5))
        assert_agree(scene.replace(opacity_logits=scene.opacity_logits - 2.0))

    @pytest.mark.parametrize("length", [0.1, 1.0, 8.0])
    def test_needles(self, length):
        # Float32 leaves a needle's exponent four digits; both ways are that far from the truth.
        for seed in range(4):
            assert_agree(needles(seed, length=length), colour=2e-4)

    @pytest.mark.parametrize(
        ("scene", "visible"),
        [
            pytest.param(behind, False, id="behind the camera"),
            pytest.param(
                lambda: random_scene().replace(means=random_scene().means + 100.0),
                False,
                id="outside the view",
            ),
            pytest.param(
                lambda: random_scene().replace(means=placed(np.zeros((COUNT, 3)))),
                False,
                id="at the camera's centre",
            ),
            pytest.param(
                lambda: random_scene().replace(opacity_logits=f32(np.full(COUNT, -50.0))),
                False,
                id="opacity zero",
            ),
            pytest.param(at_the_near_plane, True, id="at the near plane"),
            pytest.param(
                lambda: random_scene().replace(quats=jnp.zeros((COUNT, 4))),
                True,
                id="zero quaternions",
            ),
            pytest.param(
                lambda: random_scene().replace(quats=1e-10 * random_scene().quats),
                True,
                id="short quaternions",
            ),
            pytest.param(
                lambda: random_scene().replace(opacity_logits=f32(np.full(COUNT, 50.0))),
                True,
                id="opacity one",
            ),
            pytest.param(half_opaque, True, id="opacity zero or one"),
            pytest.param(
                lambda: random_scene(log_scales=(-100.0, -90.0)), True, id="points without extent"
            ),
            pytest.param(
                lambda: random_scene(log_scales=(1.0, 4.0)), True, id="larger than the image"
            ),
            pytest.param(
                lambda: random_scene(log_scales=(15.0, 90.0)),
                True,
                id="larger than float32 squared",
            ),
            pytest.param(
                lambda: random_scene().replace(means=jnp.zeros((COUNT, 3))), True, id="one centre"
            ),
        ],
    )
    def test_degenerate(self, scene, visible):
        result = assert_agree(scene())
        assert bool(np.any(np.asarray(result.alpha) > 0.0)) == visible
        if not visible:
            assert int(result.pairs) == 0
            np.testing.assert_array_equal(result.depth, 0.0)
            np.testing.assert_array_equal(
                result.colour, np.broadcast_to(np.float32(BACKGROUND), (HEIGHT, WIDTH, 3))
            )

    def test_coincident_depths_keep_their_order(self):
        # Without rotation, equal z stay equal bits in every program that computes them.
        p = np.array(random_scene().means)
        p[:, 2] = np.repeat([1.0, 1.5], COUNT // 2)
        assert_agree(random_scene().replace(means=f32(p)), viewmat=np.eye(4))

    def test_splats_at_tile_edges(self):
        x, y = np.meshgrid(TILE * np.arange(9.0), TILE * np.arange(7.0))
        corners = np.stack([x.ravel(), y.ravel()], axis=1)
        centres = np.concatenate([corners, corners + 0.5, corners - 0.5])
        rng = np.random.default_rng(0)
        outside = rng.uniform(-3.0, [WIDTH + 3.0, HEIGHT + 3.0], (COUNT - len(centres), 2))
        # Focal lengths of a power of two at depth 1: the centres fall where they are meant to.
        means = np.concatenate([np.concatenate([centres, outside]) / 64, np.ones((COUNT, 1))], 1)
        focal = np.diag([64.0, 64.0, 1.0])
        for spread in (-12.0, -3.5):
            scene = random_scene(log_scales=(spread - 0.5, spread)).replace(means=f32(means))
            result = assert_agree(scene, viewmat=np.eye(4), K=focal)
            assert int(result.pairs) > len(corners)

    def test_extreme_parameters_stay_finite(self):
        for seed in range(40):
            rng = np.random.default_rng(seed)
            near = 0.01 * np.exp(rng.uniform(-1.0, 4.0, COUNT))
            z = np.where(rng.random(COUNT) < 0.5, near, rng.uniform(0.5, 4.0, COUNT))
            xy = rng.normal(size=(COUNT, 2)) * 10.0 ** rng.uniform(-3.0, 3.0, 2)
            scene = random_scene(seed, log_scales=(-20.0, rng.choice([3.0, 10.0, 90.0])))
            scene = scene.replace(
                means=placed(np.column_stack([xy, z])),
                opacity_logits=f32(rng.normal(size=COUNT) * 10.0 ** rng.uniform(0.0, 2.0)),
            )
            assert_finite(Compiled.fast(*arguments(scene)))


class TestTransformations:
    """`vmap`, `grad` and their compositions equal loops."""

    scenes = (random_scene(0), random_scene(1))
    viewmats = tuple(
        look_at(np.array(eye), np.zeros(3), UP)
        for eye in ([1.0, -2.5, 1.0], [-2.0, 1.5, 0.5], [0.3, 4.0, -2.0])
    )

    def one_by_one(self):
        return [
            [Compiled.fast(*arguments(scene, viewmat)) for viewmat in self.viewmats]
            for scene in self.scenes
        ]

    def test_nested_vmap_of_grad(self):
        over_cameras = jax.vmap(Compiled.with_gradient(Compiled.tiled), (None, 0, None, None))
        over_scenes = jax.jit(jax.vmap(over_cameras, (0, None, None, None)))
        batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *self.scenes)
        values, gradients = over_scenes(*arguments(batch, np.stack(self.viewmats)))
        for i, row in enumerate(self.one_by_one()):
            for j, ((loss, expected), expected_gradient) in enumerate(row):
                got = jax.tree.map(lambda leaf, i=i, j=j: leaf[i, j], (values, gradients))
                (got_loss, result), gradient = got
                assert float(got_loss) == pytest.approx(float(loss), rel=1e-4, abs=1e-3)
                np.testing.assert_allclose(result.colour, expected.colour, atol=5e-6)
                np.testing.assert_allclose(result.alpha, expected.alpha, atol=5e-6)
                np.testing.assert_allclose(result.depth, expected.depth, atol=1e-4)
                assert int(result.pairs) == int(expected.pairs)
                assert_gradients_agree(gradient, expected_gradient, relative=1e-4)

    def test_grad_of_vmap(self):
        def total(gaussians, viewmats, K, background):
            over_cameras = jax.vmap(Compiled.tiled, (None, 0, None, None))
            return jnp.sum(over_cameras(gaussians, viewmats, K, background)[0])

        gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3)))(
            *arguments(self.scenes[0], np.stack(self.viewmats))
        )
        each = [gradient for _, gradient in self.one_by_one()[0]]
        gaussians, _, K, background = jax.tree.map(lambda *leaves: sum(leaves), *each)
        viewmats = jnp.stack([gradient[1] for gradient in each])
        assert_gradients_agree(gradient, (gaussians, viewmats, K, background), relative=1e-4)


class TestGradient:
    def test_finite_differences(self):
        """Splats that cover the image, faint and far apart in depth: no jump is near."""
        scene = random_scene(2, log_scales=(0.9, 2.5))
        rng = np.random.default_rng(5)
        p = rng.uniform(-0.8, 0.8, (COUNT, 3))
        p[:, 2] = 1.9 + 0.01 * rng.permutation(COUNT)
        sh = np.array(scene.sh) * 0.3
        sh[:, 0] += 0.5  # away from the clamp of the colours at 0
        scene = scene.replace(
            means=placed(p), sh=f32(sh), opacity_logits=f32(rng.uniform(-3.5, -3.0, COUNT))
        )
        point = arguments(scene)
        gradient = Compiled.fast(*point)[1]
        splats = Compiled.project(*point[:3])
        assert faintest(splats, WIDTH, HEIGHT).min() > 1.2 * ALPHA_CUT

        def loss(moved):
            # Summed in float64: the render's own rounding is the only noise.
            r = Compiled.fast(*moved)[0][1]
            parts = [np.asarray(x, np.float64) for x in (r.colour, r.alpha, r.depth)]
            everything = np.concatenate([parts[0], parts[1][..., None], parts[2][..., None]], -1)
            return np.sum(WEIGHTS * everything)

        leaves, tree = jax.tree.flatten(point)
        # Small where a step reorders depths, large enough elsewhere to rise over the noise.
        steps = dict(zip(named(gradient), (0.04, 0.3, 0.1, 0.3, 0.3, 1e-3, 0.3, 0.3), strict=True))
        for i, (name, part) in enumerate(named(gradient).items()):
            # Along the gradient, and not quite: the slope must be clear of the noise.
            direction = part / np.linalg.norm(part) + 0.3 * rng.normal(size=part.shape) / np.sqrt(
                part.size
            )
            if name in ("viewmat", "K"):
                direction[-1] = 0.0
            if name == "K":
                direction[0, 1] = direction[1, 0] = 0.0
            ends = []
            for sign in (1.0, -1.0):
                moved = list(leaves)
                moved[i] = f32(np.asarray(leaves[i], np.float64) + sign * steps[name] * direction)
                ends.append(loss(jax.tree.unflatten(tree, moved)))
            slope = (ends[0] - ends[1]) / (2.0 * steps[name])
            assert slope == pytest.approx(np.sum(part * direction), rel=1e-2), name


class TestCapacity:
    def test_capacity_grows_until_the_render_is_complete(self):
        scene = random_scene(log_scales=(1.0, 4.0))
        scene = scene.replace(opacity_logits=f32(np.full(COUNT, -4.0)))  # the last ones still show
        small = jax.jit(
            functools.partial(loss_and_render, functools.partial(render, capacity=Capacity().slots))
        )
        rows, columns = grid_shape(WIDTH, HEIGHT)
        asked = []

        def rendered(slots):
            asked.append(slots)
            # The grown capacity is that of the function compiled already.
            assert slots in (Capacity().slots, SLOTS)
            point = arguments(scene)
            return Compiled.fast(*point)[0][1] if slots == SLOTS else small(*point)[1]

        capacity = Capacity()
        result = capacity.run(rendered, lambda r: r.pairs)
        assert asked == [4096, SLOTS]
        assert capacity.grown == 1
        assert int(result.pairs) == COUNT * rows * columns
        (_, expected), _ = Compiled.slow(*arguments(scene))
        np.testing.assert_allclose(result.colour, expected.colour, atol=1e-5)

        # What did not fit says so, and lacks the farthest splats, not any.
        short = small(*arguments(scene))[1]
        assert int(short.pairs) == COUNT * rows * columns
        nearest = np.argsort(Compiled.project(*arguments(scene)[:3]).depths)
        kept = nearest[: 4096 // (rows * columns)]
        logits = np.full(COUNT, -50.0)
        logits[kept] = np.asarray(scene.opacity_logits)[kept]
        (_, front), _ = Compiled.slow(*arguments(scene.replace(opacity_logits=f32(logits))))
        # The first tiles hold one splat more; the last corner shows exactly those that fitted.
        np.testing.assert_allclose(short.alpha[-4:, -4:], front.alpha[-4:, -4:], atol=1e-5)
        assert np.abs(np.asarray(short.colour - result.colour)).max() > 1e-3

    def test_ladder(self):
        capacity = Capacity(5000)
        assert capacity.slots == 8192
        assert capacity.covers(8192)
        assert not capacity.covers(np.array([1, 8193, 5]))
        capacity.grow(np.array([1, 100_000, 5]))
        assert 120_000 <= capacity.slots <= 1.3 * 120_000
        assert capacity.grown == 1
        for slots in (1, 4096, 10**6, 10**8):
            assert slots <= Capacity(slots).slots <= max(4096, 1.25 * slots)

    def test_request_beyond_the_limit_raises(self):
        with pytest.raises(CapacityError, match="grown out of bounds"):
            Capacity().run(lambda slots: slots, lambda slots: Capacity.LIMIT + 1)

    def test_wrapped_pair_count_is_an_overflow(self):
        count, side = 60_000, 8192
        pairs = jax.jit(functools.partial(tile_lists, width=side, height=side, capacity=8))(
            jnp.full((count, 2), 0.5 * side),
            jnp.full((count, 3), 1e-12),
            jnp.ones(count),
            jnp.ones(count),
            jnp.full((count, 2), 1e7),
        ).pairs
        with pytest.raises(CapacityError):
            Capacity().run(lambda slots: pairs, lambda pairs: pairs)


class TestTileLists:
    def test_lists_hold_every_visible_pair(self):
        """Needles at any angle: every pixel above the cut finds its splat in its tile's list."""
        width, height, count, capacity = 60, 44, 300, 2**14
        rows, columns = grid_shape(width, height)
        lists_of = jax.jit(
            functools.partial(tile_lists, width=width, height=height, capacity=capacity)
        )
        x, y = np.arange(columns * TILE) + 0.5, np.arange(rows * TILE) + 0.5
        for seed in range(20):
            rng = np.random.default_rng(seed)
            means2d = rng.uniform(-10.0, [width + 10.0, height + 10.0], (count, 2))
            angle = rng.uniform(0.0, np.pi, count)
            along = np.stack([np.cos(angle), np.sin(angle)], axis=1)
            length = np.exp(rng.uniform(0.0, 4.0, count))
            cov = along[:, :, None] * along[:, None, :] * np.square(length)[:, None, None]
            cov += BLUR * np.eye(2)
            inverse = np.linalg.inv(cov)
            conics = np.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], axis=1)
            opacities = rng.uniform(0.01, 1.0, count)
            reach = 2.0 * np.log(opacities / ALPHA_CUT)
            radii = np.sqrt(np.diagonal(cov, axis1=1, axis2=2) * reach[:, None])
            depths = rng.uniform(1.0, 2.0, count)
            given = (means2d, conics, opacities, depths, radii)
            lists = lists_of(*map(f32, given))
            assert int(lists.pairs) <= capacity

            splats, starts, counts = map(np.asarray, lists[:3])
            listed = np.zeros((rows * columns, count), bool)
            for tile, (start, number) in enumerate(zip(starts, counts, strict=True)):
                members = splats[start : start + number]
                assert len(set(members)) == number
                assert (np.diff(np.float32(depths)[members]) >= 0).all()
                listed[tile, members] = True

            dx = x[None, None, :] - means2d[:, 0, None, None]
            dy = y[None, :, None] - means2d[:, 1, None, None]
            a, b, c = (conics[:, i, None, None] for i in range(3))
            exponent = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
            alpha = opacities[:, None, None] * np.exp(-exponent)
            largest = alpha.reshape(count, rows, TILE, columns, TILE).max(axis=(2, 4))
            needed = largest.reshape(count, -1).T >= ALPHA_CUT * 1.002  # float32 lists
            assert not (needed & ~listed).any()
            # And the lists are the ellipses', not the boxes'.
            assert listed.sum() < 1.3 * needed.sum()
            assert listed.sum() < 0.6 * int(lists.pairs)


def textbook(scene, viewmat, K):
    """means2d, covariances and camera points in float64, as the papers write them."""
    means, log_scales, quats = (
        np.asarray(x, np.float64) for x in (scene.means, scene.log_scales, scene.quats)
    )
    w, x, y, z = (quats / np.linalg.norm(quats, axis=1, keepdims=True)).T
    R = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    ).transpose(2, 0, 1)
    S = R * np.exp(2.0 * log_scales)[:, None, :] @ R.transpose(0, 2, 1)
    W = viewmat[:3, :3]
    p = means @ W.T + viewmat[:3, 3]
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    means2d = np.stack([fx * p[:, 0] / p[:, 2] + cx, fy * p[:, 1] / p[:, 2] + cy], axis=1)
    # For the covariance, 3D Gaussian Splatting holds x / z within 1.3 times the field of view.
    tx = p[:, 2] * np.clip(p[:, 0] / p[:, 2], -1.3 * cx / fx, 1.3 * cx / fx)
    ty = p[:, 2] * np.clip(p[:, 1] / p[:, 2], -1.3 * cy / fy, 1.3 * cy / fy)
    J = np.zeros((len(p), 2, 3))
    J[:, 0, 0], J[:, 0, 2] = fx / p[:, 2], -fx * tx / p[:, 2] ** 2
    J[:, 1, 1], J[:, 1, 2] = fy / p[:, 2], -fy * ty / p[:, 2] ** 2
    cov = J @ W @ S @ W.T @ J.transpose(0, 2, 1) + BLUR * np.eye(2)
    return means2d, cov, p


def conics_of(cov):
    inverse = np.linalg.inv(cov)
    return np.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], axis=1)


def real_harmonics(directions, degree):
    """The basis of 3D Gaussian Splatting, made from the complex harmonics."""
    polar = np.arccos(np.clip(directions[:, 2], -1.0, 1.0))
    azimuth = np.arctan2(directions[:, 1], directions[:, 0])
    columns = []
    for n in range(degree + 1):
        for m in range(-n, n + 1):
            value = sph_harm_y(n, abs(m), polar, azimuth)
            part = value.imag if m < 0 else value.real
            columns.append(part * (np.sqrt(2.0) if m else 1.0))
    return np.stack(columns, axis=1)


class TestPrecision:
    @pytest.mark.parametrize(
        ("function", "arguments"),
        [
            pytest.param(
                Compiled.with_gradient(Compiled.tiled), arguments(random_scene()), id="render"
            ),
            pytest.param(
                jax.value_and_grad(lambda image: photometric_loss(image, image + 0.1, 0.2)),
                (jnp.zeros((16, 16, 3)),),
                id="loss",
            ),
            pytest.param(split_opacity, (jnp.full(4, 0.5), jnp.full(4, 2.0)), id="relocation"),
            pytest.param(jax.jacfwd(se3_exp), (jnp.zeros(6),), id="se3_exp"),
            pytest.param(camera_centre, (jnp.eye(4),), id="camera_centre"),
        ],
    )
    def test_products_have_highest_precision(self, function, arguments):
        assert_products_are_exact(function, *arguments)


class TestProjection:
    centred = np.array([[70.0, 0.0, WIDTH / 2], [0.0, 66.0, HEIGHT / 2], [0.0, 0.0, 1.0]])

    def scene(self):
        scene = random_scene(6)
        return scene.replace(means=2.0 * scene.means)  # some behind, some out of the view

    def test_equals_the_textbook_projection(self):
        scene, viewmat = self.scene(), VIEWMAT.astype(np.float32).astype(np.float64)
        splats = Compiled.project(scene, f32(viewmat), f32(self.centred))
        means2d, cov, p = textbook(scene, viewmat, self.centred)
        opacities = 1.0 / (1.0 + np.exp(-np.asarray(scene.opacity_logits, np.float64)))
        reach = np.sqrt(
            np.maximum(2.0 * np.log(opacities / ALPHA_CUT), 0.0)[:, None]
            * np.diagonal(cov, axis1=1, axis2=2)
        )
        visible = (p[:, 2] > 0.01) & (opacities > ALPHA_CUT)
        visible &= (means2d + reach > 0).all(1) & (means2d - reach < [WIDTH, HEIGHT]).all(1)
        assert 50 < visible.sum() < 150
        np.testing.assert_array_equal(np.asarray(splats.radii > 0).all(1), visible)
        np.testing.assert_array_equal(np.asarray(splats.opacities) > 0, visible)
        eye = -viewmat[:3, :3].T @ viewmat[:3, 3]
        directions = np.asarray(scene.means, np.float64) - eye
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        weights = real_harmonics(directions, SH_DEGREE)
        colours = np.maximum(np.einsum("nk,nkc->nc", weights, np.asarray(scene.sh)) + 0.5, 0.0)
        for got, expected in (
            (splats.means2d, means2d),
            (splats.conics, conics_of(cov)),
            (splats.depths, p[:, 2]),
            (splats.radii, reach),
            (splats.opacities, opacities),
            (splats.colours, colours),
        ):
            np.testing.assert_allclose(
                np.asarray(got)[visible], expected[visible], rtol=2e-4, atol=2e-5
            )

    def test_pose_derivatives(self):
        """d(means2d) / d(tau) = J [I | -[p]x]; the covariance's by float64 differences."""
        scene, viewmat = self.scene(), VIEWMAT.astype(np.float32).astype(np.float64)

        def moved(tau):
            camera = Camera(se3_exp(tau) @ f32(viewmat), f32(self.centred), WIDTH, HEIGHT)
            splats = project(scene, camera, sh_degree=0)
            return splats.means2d, splats.conics

        d_means, d_conics = jax.jit(jax.jacfwd(moved))(jnp.zeros(6))
        _, _, p = textbook(scene, viewmat, self.centred)
        seen = p[:, 2] > 0.2
        x, y, z = p.T
        J = np.zeros((COUNT, 2, 3))
        J[:, 0, 0], J[:, 0, 2] = 70.0 / z, -70.0 * x / z**2
        J[:, 1, 1], J[:, 1, 2] = 66.0 / z, -66.0 * y / z**2
        cross = np.asarray(hat(jnp.asarray(p)), np.float64)
        expected = J @ np.concatenate([np.broadcast_to(np.eye(3), cross.shape), -cross], axis=2)
        scale = np.abs(expected[seen]).max(axis=(1, 2), keepdims=True)
        assert (np.abs(np.asarray(d_means) - expected)[seen] / scale).max() < 1e-5

        def numeric(i, h=1e-6):
            generator = np.zeros((4, 4))
            generator[:3, :3] = np.asarray(hat(jnp.eye(6)[i, 3:]))
            generator[:3, 3] = np.eye(6)[i, :3]
            ends = [
                conics_of(textbook(scene, viewmat + s * h * generator @ viewmat, self.centred)[1])
                for s in (1.0, -1.0)
            ]
            return (ends[0] - ends[1]) / (2.0 * h)

        expected = np.stack([numeric(i) for i in range(6)], axis=-1)
        # A clamped x / z has a kink, which differences step across.
        seen &= (np.abs(np.abs(x / z) - 1.3 * 30 / 70) > 1e-3) & (z > 0.5)
        seen &= np.abs(np.abs(y / z) - 1.3 * 22 / 66) > 1e-3
        scale = np.abs(expected[seen]).max(axis=(1, 2), keepdims=True)
        assert (np.abs(np.asarray(d_conics) - expected)[seen] / scale).max() < 1e-3

    def test_rotation_of_zero_quaternion_is_the_identity(self):
        scene = random_scene()
        flat = scene.replace(quats=jnp.zeros((COUNT, 4)))
        unit = scene.replace(quats=jnp.tile(f32([1.0, 0.0, 0.0, 0.0]), (COUNT, 1)))
        got, expected = (Compiled.project(*arguments(s)[:3]) for s in (flat, unit))
        np.testing.assert_array_equal(got.conics, expected.conics)


class TestHarmonics:
    def test_against_scipy(self):
        directions = np.random.default_rng(0).normal(size=(100, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        for degree in range(4):
            np.testing.assert_allclose(
                harmonics.basis(f32(directions), degree),
                real_harmonics(directions, degree),
                atol=1e-6,
            )

    def test_orthonormal(self):
        heights, weights = np.polynomial.legendre.leggauss(8)
        azimuth = np.arange(16) * np.pi / 8
        z, phi = (grid.ravel() for grid in np.meshgrid(heights, azimuth, indexing="ij"))
        ring = np.sqrt(1.0 - z * z)
        directions = np.stack([ring * np.cos(phi), ring * np.sin(phi), z], axis=1)
        values = np.asarray(harmonics.basis(f32(directions), 3), np.float64)
        gram = (values * (np.repeat(weights, 16) * np.pi / 8)[:, None]).T @ values
        np.testing.assert_allclose(gram, np.eye(16), atol=1e-6)

    def test_degree_out_of_range(self):
        for degree in (-1, 4):
            with pytest.raises(ValueError, match="only 0 to 3"):
                harmonics.basis(jnp.ones((1, 3)), degree)

    def test_base_colour(self):
        rgb = np.random.default_rng(0).uniform(size=(5, 3))
        sh = harmonics.coefficients_of(f32(rgb))[:, None]
        np.testing.assert_allclose(harmonics.colours(sh, jnp.zeros((5, 3)), 0), rgb, atol=1e-6)
