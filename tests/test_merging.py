import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from brute_force import render_brute_force
from igspad_jax.cameras import Camera, intrinsics_from_angle, look_at
from igspad_jax.errors import InputError
from igspad_jax.kernels.compositing.tiles import ALPHA_CUT
from igspad_jax.render.projection import project
from igspad_jax.scene import Gaussians, merged
from scenes import UP, f32

SIZE = 24
CAMERA = Camera(
    jnp.asarray(look_at(np.array([1.5, -2.0, 1.2]), np.zeros(3), UP)),
    jnp.asarray(intrinsics_from_angle(0.9, SIZE, SIZE), jnp.float32),
    SIZE,
    SIZE,
)

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def gaussians_of(means, scales, opacities, *, quats=None, sh=None) -> Gaussians:
    count = len(means)
    opacities = np.broadcast_to(np.asarray(opacities, np.float64), count)
    return Gaussians(
        means=f32(means),
        log_scales=f32(np.log(np.broadcast_to(scales, (count, 3)))),
        quats=f32(np.tile([1.0, 0, 0, 0], (count, 1)) if quats is None else quats),
        opacity_logits=f32(np.log(opacities / (1.0 - opacities))),
        sh=f32(np.zeros((count, 1, 3)) if sh is None else sh),
    )


def coarse_of(gaussians: Gaussians, cell: float) -> Gaussians:
    """`merged`, with faint ones besides that do not count: few sizes of scenes."""
    faint = {"opacity_logits": -6.0, "quats": 1.0}
    fields = {f.name: np.asarray(getattr(gaussians, f.name)) for f in dataclasses.fields(gaussians)}
    padded = {
        name: np.pad(
            values,
            [(0, -len(values) % 64)] + [(0, 0)] * (values.ndim - 1),
            constant_values=faint.get(name, 0.0),
        )
        for name, values in fields.items()
    }
    return merged(Gaussians(**padded), cell)


def shown(gaussians: Gaussians) -> Gaussians:
    """The scene without what fills it up, in float64."""
    shows = np.asarray(gaussians.opacities) > ALPHA_CUT
    count = int(shows.sum())
    assert shows[:count].all()  # what fills up comes last
    return jax.tree.map(lambda leaf: np.asarray(leaf[:count], np.float64), gaussians)


def covariances_of(gaussians: Gaussians) -> np.ndarray:
    axes = Rotation.from_quat(np.asarray(gaussians.quats)[:, [1, 2, 3, 0]]).as_matrix()
    axes = axes * np.exp(np.asarray(gaussians.log_scales, np.float64))[:, None, :]
    return axes @ np.swapaxes(axes, 1, 2)


def opacities_of(gaussians: Gaussians) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.asarray(gaussians.opacity_logits, np.float64)))


def surface(count: int, seed: int = 0) -> Gaussians:
    """A ball covered by flat, coloured Gaussians."""
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    # The half-way quaternion from z to the normal.
    quats = np.column_stack([1.0 + normals[:, 2], -normals[:, 1], normals[:, 0], np.zeros(count)])
    sh = np.zeros((count, 4, 3))
    sh[:, 0] = 1.5 * np.sin(3.0 * normals + [0.0, 1.0, 2.0])
    return gaussians_of(
        0.8 * normals, [0.06, 0.05, 0.005], rng.uniform(0.5, 0.95, count), quats=quats, sh=sh
    )


class TestMoments:
    def test_two_gaussians_in_one_cell(self):
        """Weights are -log(1 - opacity) times the area of the two longest axes: 0.8 and 0.2."""
        pair = gaussians_of(
            [[0.2, 0.3, 0.4], [0.6, 0.3, 0.8]],
            [[0.2, 0.4, 0.1], [0.2, 0.1, 0.2]],
            1.0 - np.exp([-1.0, -0.5]),
            sh=[[[1.0, 0.0, -1.0]] * 4, [[0.0, 2.0, 4.0]] * 4],
        )
        result = shown(coarse_of(pair, 1.0))
        assert len(result) == 1
        first, second = 0.8, 0.2  # 1.0 * 0.08 and 0.5 * 0.04
        np.testing.assert_allclose(result.means, [[0.28, 0.3, 0.48]], atol=1e-6)
        np.testing.assert_allclose(result.sh, [[[0.8, 0.4, 0.0]] * 4], atol=1e-6)
        # Their own covariances, and their distances from the mean.
        spread = first * np.diag([0.04, 0.16, 0.01]) + second * np.diag([0.04, 0.01, 0.04])
        for share, away in ((first, [-0.08, 0.0, -0.08]), (second, [0.32, 0.0, 0.32])):
            spread += share * np.outer(away, away)
        np.testing.assert_allclose(covariances_of(result), [spread], atol=1e-6)
        # The pair's total area over the one's, at random.
        largest = np.sqrt(np.sort(np.linalg.eigvalsh(spread))[1:])
        total = 1.0 * 0.2 * 0.4 + 0.5 * 0.2 * 0.2
        expected = 1.0 - np.exp(-total / np.prod(largest))
        np.testing.assert_allclose(opacities_of(result), [expected], rtol=1e-5)

    def test_rotated_gaussians(self):
        """Moments of many, against their definition."""
        rng = np.random.default_rng(0)
        count = 40
        many = gaussians_of(
            rng.uniform(0.1, 0.9, (count, 3)),
            np.exp(rng.uniform(-4.0, -1.0, (count, 3))),
            rng.uniform(0.1, 0.9, count),
            quats=rng.normal(size=(count, 4)),
            sh=rng.normal(size=(count, 4, 3)),
        )
        result = shown(coarse_of(many, 1.0))
        assert len(result) == 1
        scales = np.sort(np.exp(np.asarray(many.log_scales, np.float64)), axis=1)
        weights = -np.log1p(-opacities_of(many)) * scales[:, 1] * scales[:, 2]
        weights /= weights.sum()
        means = np.asarray(many.means, np.float64)
        centre = weights @ means
        np.testing.assert_allclose(result.means[0], centre, atol=1e-6)
        second = covariances_of(many) + np.einsum("ni,nj->nij", means - centre, means - centre)
        expected = np.einsum("n,nij->ij", weights, second)
        np.testing.assert_allclose(covariances_of(result)[0], expected, atol=1e-6)
        expected = np.einsum("n,nkc->kc", weights, np.asarray(many.sh, np.float64))
        np.testing.assert_allclose(result.sh[0], expected, atol=1e-6)

    def test_single_gaussian_in_a_cell_is_unchanged(self):
        rng = np.random.default_rng(1)
        cells = rng.choice(6**3, 20, replace=False)
        means = np.stack(np.unravel_index(cells, (6, 6, 6)), axis=1) - 3.0
        means += rng.uniform(0.1, 0.9, means.shape)
        alone = gaussians_of(
            means,
            np.exp(rng.uniform(-3.0, -1.0, means.shape)),
            rng.uniform(0.05, 0.95, len(means)),
            quats=rng.normal(size=(len(means), 4)),
            sh=rng.normal(size=(len(means), 9, 3)),
        )
        result = shown(coarse_of(alone, 1.0))
        assert len(result) == len(alone)
        order = np.argsort(means @ [1.0, 10.0, 100.0])
        back = np.argsort(result.means @ [1.0, 10.0, 100.0])
        np.testing.assert_allclose(result.means[back], means[order], atol=1e-6)
        np.testing.assert_allclose(
            covariances_of(result)[back], covariances_of(alone)[order], atol=1e-6
        )
        np.testing.assert_allclose(result.sh[back], np.asarray(alone.sh)[order], atol=1e-6)
        np.testing.assert_allclose(
            opacities_of(result)[back], opacities_of(alone)[order], rtol=1e-5
        )

    def test_cells_on_both_sides_of_the_origin(self):
        means = [[-0.1, 0.1, 0.1], [0.1, 0.1, 0.1], [0.4, 0.1, 0.1], [0.6, 0.1, 0.1]]
        result = shown(coarse_of(gaussians_of(means, 0.05, 0.5), 0.5))
        np.testing.assert_allclose(np.sort(result.means[:, 0]), [-0.1, 0.25, 0.6], atol=1e-6)

    def test_opacity_increases_with_the_number_below_one(self):
        def opacity(count):
            same = gaussians_of(np.full((count, 3), 0.5), 0.05, 0.3)
            return opacities_of(shown(coarse_of(same, 1.0)))[0]

        found = [opacity(count) for count in (1, 2, 4, 64)]
        assert found == sorted(found)
        assert found[:2] == pytest.approx([0.3, 1.0 - 0.7**2], rel=1e-5)
        assert found[-1] == pytest.approx(0.99)

    def test_faint_gaussians_are_ignored(self):
        means = [[0.2, 0.2, 0.2], [0.8, 0.8, 0.8], [3.5, 3.5, 3.5]]
        result = shown(coarse_of(gaussians_of(means, 0.05, [0.5, 0.005, 0.005]), 1.0))
        np.testing.assert_allclose(result.means, means[:1], atol=1e-6)

    def test_gaussian_wider_than_two_cells_is_not_merged(self):
        means = [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0.4, 0.5, 0.5]]
        scales = [[5.0, 0.1, 0.1], [0.1, 0.1, 0.1], [0.1, 0.1, 0.1]]
        result = shown(coarse_of(gaussians_of(means, scales, [0.7, 0.5, 0.5]), 1.0))
        widths = np.exp(result.log_scales).max(axis=1)
        wide = widths.argmax()
        assert len(result) == 2 and widths[wide] == pytest.approx(5.0, rel=1e-4)
        assert opacities_of(result)[wide] == pytest.approx(0.7, rel=1e-5)
        assert widths[1 - wide] < 0.2

    def test_invisible_scene_raises(self):
        with pytest.raises(InputError, match="none of its 64 Gaussians"):
            coarse_of(gaussians_of([[0.5, 0.5, 0.5]], 0.1, 0.005), 1.0)

    def test_merged_gaussians_have_a_minimum_thickness(self):
        """Or needles without width would come of Gaussians in a row."""
        row = np.column_stack([np.linspace(0.1, 0.9, 9), np.full((9, 2), 0.5)])
        result = shown(coarse_of(gaussians_of(row, 1e-9, 0.5), 1.0))
        scales = np.sort(np.exp(result.log_scales[0]))
        assert scales[:2] == pytest.approx(0.02, rel=1e-4)
        assert scales[2] == pytest.approx(np.std(row[:, 0]), rel=1e-4)


class TestSize:
    @pytest.mark.parametrize(("cells", "size"), [(1, 1024), (1024, 1024), (1030, 2048)])
    def test_a_multiple_of_1024(self, cells, size):
        place = np.stack(np.unravel_index(np.arange(cells), (11, 11, 11)), axis=1) + 0.5
        means = np.concatenate([place - 0.1, place + 0.1])
        result = coarse_of(gaussians_of(means, 0.05, 0.5), 1.0)
        assert len(result) == size
        assert {leaf.shape[0] for leaf in jax.tree.leaves(result)} == {size}
        assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {np.dtype(np.float32)}
        assert len(shown(result)) == cells

    def test_padding_is_invisible(self):
        result = merged(surface(3000), 0.2)
        count = len(shown(result))
        assert 0 < count < 1000
        splats = jax.jit(lambda gaussians: project(gaussians, CAMERA, sh_degree=1))(result)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(splats))
        assert np.all(splats.opacities[count:] == 0.0) and np.all(splats.radii[count:] == 0.0)
        assert np.all(splats.opacities[:count] > 0.0)


class TestResemblance:
    def test_small_render_resembles_that_of_the_full_scene(self):
        everything = surface(3000)
        background = jnp.ones(3)
        draw = jax.jit(
            lambda gaussians: render_brute_force(gaussians, CAMERA, background, sh_degree=1)
        )
        picture = draw(everything)
        nothing = np.abs(picture.colour - background).mean()
        errors, covers, counts = [], [], []
        # A pixel is 0.11 at the ball: cells of less than one pixel, and of about two.
        for cell in (0.07, 0.2):
            coarse = merged(everything, cell)
            counts.append(len(shown(coarse)))
            seen = draw(coarse)
            errors.append(float(np.abs(seen.colour - picture.colour).mean() / nothing))
            covers.append(float(seen.alpha.mean() / picture.alpha.mean()))
        assert counts[0] < 0.6 * len(everything) and counts[1] < 0.15 * len(everything)
        assert errors[0] < 0.1 and errors[1] < 0.3
        assert covers == pytest.approx([1.0, 1.0], abs=0.15)
