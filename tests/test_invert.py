"""Inversion by both solvers, and the steps, weights and verdicts it is made of.

Compiling dominates the time of these tests. Solvers are compiled for each size of image, number of
poses, length of traces and static setting, so all tests share one model, three images or one, and
the levels of `LEVELS`: six poses at 24 pixels and three at 40.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from igspad_jax.cameras import intrinsics_from_angle, look_at, pose_errors, se3_exp
from igspad_jax.errors import InputError
from igspad_jax.invert import (
    AdamConfig,
    Inversion,
    InvertConfig,
    LevenbergConfig,
    ObjectModel,
    descent,
    invert,
    levenberg,
    residuals_at,
)
from igspad_jax.invert.descent import Descent, optimiser
from igspad_jax.invert.poses import orthonormalised, retract, twist_basis
from igspad_jax.invert.pyramid import _best_apart
from igspad_jax.invert.sampling import matching_weights
from igspad_jax.invert.verdict import deviations, doubts_of, typical_residuals
from igspad_jax.render import Capacity
from igspad_jax.render.projection import BLUR
from igspad_jax.scene import Gaussians

SIZE = 40
BACKGROUND = np.ones(3)
K = intrinsics_from_angle(0.7, SIZE, SIZE)
CENTRE = np.array([0.1, -0.05, 0.1])
RADIUS = 0.9
UP = np.array([0.0, 0.0, 1.0])
POSE = look_at(np.array([1.5, -2.0, 1.2]), np.array([0.2, 0.1, 0.0]), UP)

LEVELS = LevenbergConfig(
    widths=(24, 0),
    blurs=(1.5, 0.0),
    cells=(6, 0),
    steps=(6, 5),
    deltas=(0.2, 0.05),
    anchors=(0.002, 0.0),
    keep=(1, 1),
    spread=0.0,
)
# The same levels for six hypotheses about one image.
MANY = dataclasses.replace(LEVELS, keep=(3, 1))
# Only the last level of `LEVELS`, once or twice: three poses, for three images.
FINE = LevenbergConfig(
    widths=(0,),
    blurs=(0.0,),
    cells=(0,),
    steps=(6,),
    deltas=(0.05,),
    anchors=(0.0,),
    keep=(1,),
    spread=0.0,
)
TWICE = LevenbergConfig(
    widths=(0, 0),
    blurs=(0.0, 0.0),
    cells=(0, 0),
    steps=(0, 6),
    deltas=(0.05, 0.05),
    anchors=(0.0, 0.0),
    keep=(1, 1),
    spread=0.0,
)
# The descents share segments of 20 steps.
ADAM = AdamConfig(steps=60, late_step=45, sampling_refresh=20)

_retract = jax.jit(retract, static_argnames="pivot")


@pytest.fixture(scope="module", autouse=True)
def quickly_compiled():
    """Compiling takes far longer than these small scenes save by it."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def f32(x):
    return jnp.asarray(x, jnp.float32)


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


def model_of(gaussians: Gaussians) -> ObjectModel:
    return ObjectModel(
        gaussians,
        K,
        width=SIZE,
        height=SIZE,
        background=BACKGROUND,
        centre=CENTRE,
        radius=RADIUS,
        capacity=Capacity(),
    )


@pytest.fixture(scope="module")
def scene() -> Gaussians:
    return blobs()


@pytest.fixture(scope="module")
def model(scene) -> ObjectModel:
    return model_of(scene)


@pytest.fixture(scope="module")
def true_poses() -> np.ndarray:
    eyes = np.array([[1.5, -2.0, 1.2], [-2.4, 0.4, 0.9], [0.3, 2.6, -0.5]])
    targets = np.array([[0.1, 0.05, 0.0], [0.0, 0.0, 0.1], [0.0, -0.1, 0.0]])
    return np.stack(
        [look_at(CENTRE + e, CENTRE + t, UP) for e, t in zip(eyes, targets, strict=True)]
    )


@pytest.fixture(scope="module")
def images(model, true_poses) -> np.ndarray:
    return model.renders(true_poses)


@pytest.fixture(scope="module")
def starts(true_poses) -> np.ndarray:
    """[3, 2, 4, 4]: off by 10 degrees and 10 %, and the pose of another image."""
    return np.stack([off(true_poses, 10.0, 10.0), np.roll(true_poses, 1, axis=0)], axis=1)


@pytest.fixture(scope="module")
def found(model, images, starts) -> Inversion:
    """What `LEVELS` finds from `starts`."""
    return by_levels(model, images, starts)


@pytest.fixture(scope="module")
def near(true_poses) -> np.ndarray:
    """[3, 4, 4]: off by 5 degrees and 5 %."""
    return off(true_poses, 5.0, 5.0)


@pytest.fixture(scope="module")
def descended(model, images, near) -> Inversion:
    """What `ADAM` finds from `near`."""
    return by_descent(model, images, near[:, None])


def moved(viewmat, tau, *, centre=CENTRE, radius=1.0, pivot="object"):
    return np.asarray(_retract(*map(f32, (viewmat, tau, centre, radius)), pivot=pivot))


def off(viewmats, degrees, percent, seed=0) -> np.ndarray:
    """Poses turned about the object and shifted by a share of the distance."""
    rng = np.random.default_rng(seed)
    result = []
    for viewmat in viewmats:
        turn, shift = rng.normal(size=(2, 3))
        turn *= np.radians(degrees) / np.linalg.norm(turn)
        distance = np.linalg.norm(viewmat[:3, :3] @ CENTRE + viewmat[:3, 3])
        shift *= 0.01 * percent * distance / np.linalg.norm(shift)
        result.append(moved(viewmat, np.concatenate([shift, turn])))
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


def intact_points(image=None, render=None) -> np.ndarray:
    """A grid of points in the upper part of the image; discs of 2 pixels leave the rest out."""
    y, x = np.mgrid[1 : SIZE // 2 - 2 : 2, 1:SIZE:2].reshape(2, -1) + 0.5
    return np.stack([x, y], axis=1)


def errors(result: Inversion, true_poses) -> tuple[np.ndarray, np.ndarray]:
    return pose_errors(result.viewmats, true_poses, CENTRE)


def is_rigid(viewmat, atol=1e-5) -> bool:
    rotation = viewmat[:3, :3]
    return (
        np.allclose(rotation @ rotation.T, np.eye(3), atol=atol)
        and np.linalg.det(rotation) > 0
        and np.array_equal(viewmat[3], [0, 0, 0, 1])
    )


def plain(*shape) -> np.ndarray:
    """Gains of one and biases of zero."""
    return np.broadcast_to(np.array([1.0, 0.0], np.float32), (*shape, 2))


def assert_all_finite(result: Inversion) -> None:
    for field in ("viewmats", "exposures", "path", "losses", "residuals", "covariances"):
        assert np.isfinite(getattr(result, field)).all(), field


class TestRetract:
    TAU = np.array([0.1, -0.2, 0.05, 0.3, -0.4, 0.2])
    OBJECT = np.array([0.3, -0.2, 0.4])

    def test_rotation_about_the_object_leaves_its_centre_in_place(self):
        turn = np.r_[np.zeros(3), self.TAU[3:]]
        result = moved(POSE, turn, centre=self.OBJECT)
        at = np.r_[self.OBJECT, 1.0]
        np.testing.assert_allclose(result @ at, POSE @ at, atol=1e-5)
        degrees, _ = pose_errors(result, POSE, self.OBJECT)
        assert degrees == pytest.approx(np.degrees(np.linalg.norm(turn)), abs=1e-3)

    def test_about_the_camera_it_is_the_exponential(self):
        result = moved(POSE, self.TAU, centre=self.OBJECT, pivot="camera")
        expected = np.asarray(se3_exp(jnp.asarray(self.TAU, jnp.float32))) @ POSE
        np.testing.assert_allclose(result, expected, atol=1e-5)

    @pytest.mark.parametrize("pivot", ["object", "camera"])
    def test_zero_changes_nothing_and_any_twist_is_rigid(self, pivot):
        np.testing.assert_allclose(moved(POSE, np.zeros(6), pivot=pivot), POSE, atol=1e-6)
        assert is_rigid(moved(POSE, self.TAU, centre=self.OBJECT, pivot=pivot))

    @pytest.mark.parametrize("pivot", ["object", "camera"])
    def test_translations_count_in_radii_and_rotations_do_not(self, pivot):
        shift = np.r_[self.TAU[:3], np.zeros(3)]
        result = moved(POSE, shift, centre=self.OBJECT, radius=2.5, pivot=pivot)
        np.testing.assert_allclose(result[:3, 3] - POSE[:3, 3], 2.5 * self.TAU[:3], atol=1e-5)
        turn = np.r_[np.zeros(3), self.TAU[3:]]
        small, large = (moved(POSE, turn, radius=r, pivot=pivot) for r in (1.0, 2.5))
        np.testing.assert_allclose(small, large, atol=1e-6)

    def test_pivots_differ_by_a_translation_only(self):
        about = {
            p: moved(POSE, self.TAU, centre=self.OBJECT, pivot=p) for p in ("object", "camera")
        }
        np.testing.assert_allclose(about["object"][:3, :3], about["camera"][:3, :3], atol=1e-6)
        assert np.linalg.norm(about["object"][:3, 3] - about["camera"][:3, 3]) > 0.1

    @pytest.mark.parametrize("pivot", ["object", "camera"])
    def test_gradient_at_zero_is_finite_and_right(self, pivot):
        point = np.array([0.2, 0.5, -0.3, 1.0])

        def seen(tau):
            arrays = map(f32, (self.OBJECT, 1.5))
            return (_retract(f32(POSE), tau, *arrays, pivot) @ point)[:3]

        jacobian = np.asarray(jax.jit(jax.jacobian(seen))(jnp.zeros(6)))
        np.testing.assert_allclose(jacobian[:, :3], 1.5 * np.eye(3), atol=1e-5)
        p = (POSE @ point)[:3]
        arm = p - (POSE @ np.r_[self.OBJECT, 1.0])[:3] if pivot == "object" else p
        x, y, z = arm
        np.testing.assert_allclose(
            jacobian[:, 3:], -np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]), atol=1e-5
        )

    def test_orthonormalised_takes_the_rounding_out(self):
        worn = POSE.copy()
        worn[:3, :3] += np.random.default_rng(0).normal(scale=1e-3, size=(3, 3))
        mended = np.asarray(orthonormalised(jnp.asarray(worn, jnp.float32)))
        assert not is_rigid(worn)
        assert is_rigid(mended)
        assert pose_errors(mended, POSE, CENTRE)[0] < 0.2
        np.testing.assert_allclose(mended[:3, 3], POSE[:3, 3], rtol=1e-6)

    def test_basis_is_the_derivative(self):
        """Exp(B tau) T and `retract` move a pose alike, to first order."""
        viewmat, centre, radius = map(f32, (POSE, self.OBJECT, 1.5))

        def both(tau):
            for pivot in ("object", "camera"):
                basis = twist_basis(viewmat, centre, radius, pivot)
                yield retract(viewmat, tau, centre, radius, pivot)
                yield se3_exp(basis @ tau) @ viewmat

        derivatives = jax.jit(jax.jacfwd(lambda tau: tuple(both(tau))))(jnp.zeros(6))
        for expected, got in (derivatives[:2], derivatives[2:]):
            assert np.abs(expected).max() > 1.0
            np.testing.assert_allclose(got, expected, atol=1e-5)


class TestMatchingWeights:
    def test_discs_at_the_points(self):
        points = np.array([[10.5, 5.5], [30.2, 20.9]])
        weights = matching_weights(points, width=40, height=30, radius=4.0, min_points=2)
        assert weights.shape == (30, 40) and weights.dtype == np.float32
        row, column = np.mgrid[:30, :40]
        near = [np.hypot(column - x, row - y) <= 4.0 for x, y in ((10, 5), (30, 20))]
        np.testing.assert_array_equal(weights, (near[0] | near[1]).astype(np.float32))

    def test_too_few_points_count_the_whole_image(self):
        points = np.full((3, 2), 7.5)
        few = matching_weights(points, width=20, height=16, radius=2.0, min_points=4)
        enough = matching_weights(points, width=20, height=16, radius=2.0, min_points=3)
        assert few.shape == (16, 20) and few.min() == 1.0
        assert 0.0 < enough.mean() < 0.1

    def test_no_points_at_all(self):
        weights = matching_weights(np.zeros((0, 2)), width=20, height=16, radius=2.0, min_points=1)
        assert weights.min() == 1.0

    def test_points_on_the_border(self):
        points = np.array([[0.0, 0.0], [20.0, 16.0], [20.0, 0.0]])
        weights = matching_weights(points, width=20, height=16, radius=1.0, min_points=1)
        corners = [(0, 0), (15, 19), (0, 19)]
        assert all(weights[corner] == 1.0 for corner in corners)
        assert weights[15, 0] == 0.0
        assert weights.sum() == 9.0  # a corner and its two neighbours, three times


class TestObjectModel:
    def test_views_are_smaller_cameras_of_the_same_object(self, scene):
        model = ObjectModel(
            scene,
            np.array([[70.0, 0.0, 29.0], [0.0, 66.0, 23.0], [0.0, 0.0, 1.0]]),
            width=60,
            height=44,
            background=BACKGROUND,
            centre=CENTRE,
            radius=RADIUS,
            capacity=Capacity(),
        )
        view = model.view(24, 0)
        assert (view.width, view.height) == (24, 18)  # 17.6, and K by what it was rounded to
        expected = [[28.0, 0.0, 11.6], [0.0, 66.0 * 18 / 44, 23.0 * 18 / 44], [0.0, 0.0, 1.0]]
        np.testing.assert_allclose(view.K, expected, rtol=1e-6)
        assert view.gaussians is scene
        # The splats' own blur shrinks with the image; the larger pixels add theirs.
        assert BLUR * 0.4**2 < view.splat_blur < BLUR
        assert model.view(24, 0) is view

    def test_own_width(self, model, scene):
        for width in (0, SIZE, 10 * SIZE):
            view = model.view(width, 0)
            assert (view.width, view.height) == (SIZE, SIZE)
            np.testing.assert_array_equal(view.K, model.K)
            assert view.splat_blur == pytest.approx(BLUR)
            assert view.capacity is model.capacity and view.gaussians is scene
        assert model.view(24, 0).capacity is not model.capacity

    def test_merged_by_cells_of_the_radius(self, model, scene):
        coarse = model.view(24, 3).gaussians
        assert model.view(0, 3).gaussians is coarse  # merged once
        shows = np.asarray(coarse.opacities) > 0.005
        assert len(coarse) == 1024 and 20 < shows.sum() < 120
        cells = np.floor(np.asarray(coarse.means)[shows] / (RADIUS / 3))
        assert len(np.unique(cells, axis=0)) == shows.sum()

    def test_exposed_renders(self, model, scene, images, true_poses):
        """Every colour of the object becomes gain times it plus bias, and no other."""
        clear = scene.replace(sh=0.5 * scene.sh)  # nowhere near 0 or 1, where colours end
        dim = model_of(clear)
        poses = np.broadcast_to(true_poses[0], (3, 4, 4))
        light = np.array([[1.0, 0.0], [0.7, 0.2], [1.2, -0.1]], np.float32)
        before, *after = dim.renders(poses, light)
        np.testing.assert_allclose(before, dim.renders(poses)[0], atol=1e-6)
        black = model_of(clear.replace(sh=jnp.full_like(scene.sh, -10.0)))
        cover = 1.0 - black.renders(poses)[0]  # white shows through by what is not covered
        for (gain, bias), picture in zip(light[1:], after, strict=True):
            expected = gain * (before - 1.0 + cover) + (1.0 - cover) + bias * cover
            np.testing.assert_allclose(picture, expected, atol=1e-5)
            assert np.abs(picture - before).max() > 0.02

    def test_residuals(self, model, images, true_poses):
        poses = true_poses[:, None]
        np.testing.assert_allclose(residuals_at(model, images, poses, plain(3, 1)), 0.0, atol=1e-6)
        # A quarter of the truncation, wherever the object shows.
        lighter = residuals_at(model, images + 0.05, poses, plain(3, 1))
        np.testing.assert_allclose(lighter, 0.25, rtol=1e-3)
        nothing = residuals_at(model, np.ones_like(images), poses, plain(3, 1))
        assert np.all((nothing > 0.7) & (nothing <= 1.0))
        # A defect counts by its area, not by how glaring it is.
        spoilt, glaring = images.copy(), images.copy()
        spoilt[:, 15:25, 15:25] = 0.0
        glaring[:, 15:25, 15:25] = -9.0
        found = [residuals_at(model, x, poses, plain(3, 1)) for x in (spoilt, glaring)]
        assert np.all(found[0] < 0.2) and np.all(found[1] < 0.2)

    def test_residuals_of_hypotheses_and_exposures(self, model, images, starts, true_poses):
        """[n, k] in the order given."""
        lit = np.tile(np.array([[0.8, 0.1]], np.float32), (3, 1, 1))
        bright = model.renders(true_poses, lit[:, 0])
        assert residuals_at(model, bright, true_poses[:, None], lit).max() < 1e-4
        assert residuals_at(model, bright, true_poses[:, None], plain(3, 1)).min() > 0.05
        hypotheses = np.concatenate([true_poses[:1], starts[0]])[None]
        found = residuals_at(model, images[:1], hypotheses, plain(1, 3))
        assert found.shape == (1, 3)
        assert found[0, 0] < 1e-5 < 0.3 < found[0, 1]


class TestLevels:
    def test_all_images_converge(self, found, starts, true_poses):
        degrees, percent = pose_errors(starts[:, 0], true_poses, CENTRE)
        assert degrees.min() > 9.9 and percent.min() > 5.0
        degrees, percent = errors(found, true_poses)
        assert degrees.max() < 0.01
        assert percent.max() < 0.01
        assert all(is_rigid(viewmat) for viewmat in found.viewmats)
        assert found.settled.all()
        assert found.residuals.max() < 1e-3
        np.testing.assert_array_equal(found.chosen, 0)
        np.testing.assert_array_equal(found.exposures, plain(3))
        np.testing.assert_array_equal(found.sampled, np.ones((3, 2)))

    def test_path_and_losses(self, found, starts):
        steps = sum(LEVELS.steps)
        assert found.path.shape == (3, steps + 1, 4, 4)
        assert found.losses.shape == (3, steps + 1)
        np.testing.assert_array_equal(found.path[:, 0], starts[:, 0].astype(np.float32))
        np.testing.assert_allclose(found.path[:, -1], found.viewmats, atol=1e-6)
        coarse = LEVELS.steps[0] + 1
        for level in (found.losses[:, :coarse], found.losses[:, coarse:]):
            assert np.all(np.diff(level, axis=1) <= 0.0)
        assert np.all(found.losses[:, coarse - 1] < 0.2 * found.losses[:, 0])
        assert np.all(found.losses[:, -1] < 1e-6)

    def test_no_step_goes_farther_than_derivatives_tell(self, found):
        turns = pose_errors(found.path[:, 1:], found.path[:, :-1], CENTRE)[0]
        assert turns.max() < np.degrees(0.351)
        at = np.einsum("nsij,j->nsi", found.path[..., :3, :3], CENTRE) + found.path[..., :3, 3]
        assert np.linalg.norm(np.diff(at, axis=1), axis=-1).max() < 0.351 * RADIUS

    def test_the_hypothesis_that_explains_the_image_is_chosen(self, model, images, true_poses):
        near = off(true_poses, 15.0, 8.0, seed=4)
        far = np.roll(true_poses, 1, axis=0)
        order = np.array([1, 0, 1])  # where the near one stands
        both = np.stack([near, far], axis=1)
        starts = np.where(order[:, None, None, None] == 0, both, both[:, ::-1])
        found = by_levels(model, images, starts)
        np.testing.assert_array_equal(found.chosen, order)
        assert errors(found, true_poses)[0].max() < 0.01
        np.testing.assert_array_equal(found.path[:, 0], near.astype(np.float32))

    def test_the_best_of_many_from_farther_away(self, model, images, true_poses):
        """One hypothesis within reach, and five from all around."""
        rng = np.random.default_rng(5)
        eyes = rng.normal(size=(5, 3))
        eyes *= 2.5 / np.linalg.norm(eyes, axis=1, keepdims=True)
        wrong = [look_at(CENTRE + eye, CENTRE, UP) for eye in eyes]
        assert pose_errors(np.stack(wrong), true_poses[0], CENTRE)[0].min() > 40.0
        starts = np.stack([*wrong[:3], off(true_poses[:1], 20.0, 8.0)[0], *wrong[3:]])[None]
        found = by_levels(model, images[:1], starts, MANY)
        assert found.chosen == [3]
        assert errors(found, true_poses[:1])[0].max() < 0.01
        np.testing.assert_array_equal(found.path[0, 0], starts[0, 3].astype(np.float32))

    def test_a_start_turned_to_four_sides(self, model, images, true_poses):
        """Two hypotheses and four more: the first is too far off as it is."""
        true, image = true_poses[2:], images[2:]
        starts = np.stack([moved(true[0], [0, 0, 0, 0, np.radians(55.0), 0]), true_poses[0]])[None]
        alone = by_levels(model, image, np.tile(starts, (1, 3, 1, 1)), MANY)
        assert errors(alone, true)[0][0] > 20.0
        found = by_levels(model, image, starts, dataclasses.replace(MANY, spread=25.0))
        assert errors(found, true)[0][0] < 0.01
        assert found.chosen == [0]  # one of the given ones
        first = found.path[0, 0]
        degrees, _ = pose_errors(first, starts[0, 0], CENTRE)
        assert degrees == pytest.approx(25.0, abs=1e-3)
        at = np.r_[CENTRE, 1.0]
        np.testing.assert_allclose(first @ at, starts[0, 0] @ at, atol=1e-5)  # and still there
        turn = Rotation.from_matrix(first[:3, :3] @ starts[0, 0, :3, :3].T).as_rotvec()
        assert np.sort(np.abs(np.degrees(turn))) == pytest.approx([0.0, 0.0, 25.0], abs=1e-3)

    def test_the_first_start_enters_again_as_it_was_given(self, model, images, true_poses):
        """Merged, the object fits best somewhat beside the truth, which was given."""
        starts = np.stack([true_poses[0], *[true_poses[1]] * 5])[None]
        config = dataclasses.replace(MANY, keep=(3, 1), steps=(6, 0))
        led_away = by_levels(model, images[:1], starts, config)
        assert led_away.chosen == [0] and errors(led_away, true_poses[:1])[0][0] > 0.1
        again = dataclasses.replace(config, keep=(2, 1), rejoin=1)
        found = by_levels(model, images[:1], starts, again)
        assert found.chosen == [0]
        np.testing.assert_allclose(found.viewmats, true_poses[:1], atol=1e-6)
        np.testing.assert_allclose(found.path[0], np.tile(true_poses[0], (7, 1, 1)), atol=1e-6)
        assert found.losses.shape == (1, 7)
        # It took no part in the level before.
        assert np.isnan(found.losses[0]).all() and not np.isnan(led_away.losses).any()

    @pytest.mark.parametrize("i", range(3))
    def test_a_batch_is_one_by_one_and_copies_change_nothing(self, model, images, starts, found, i):
        single = by_levels(model, images[i : i + 1], np.tile(starts[i : i + 1], (1, 3, 1, 1)), MANY)
        assert single.chosen[0] % 2 == found.chosen[i] == 0
        coarse = LEVELS.steps[0]
        np.testing.assert_allclose(single.path[0, :coarse], found.path[i, :coarse], atol=1e-4)
        np.testing.assert_allclose(single.losses[0, :coarse], found.losses[i, :coarse], rtol=1e-3)
        degrees, percent = pose_errors(single.viewmats[0], found.viewmats[i], CENTRE)
        assert degrees < 1e-3 and percent < 1e-3

    def test_images_do_not_touch_each_other(self, model, images, starts, found):
        others = np.concatenate([images[:1], images[:0:-1]])
        again = by_levels(model, others, starts)
        np.testing.assert_allclose(again.path[0], found.path[0], atol=1e-6)
        np.testing.assert_allclose(again.covariances[0], found.covariances[0], rtol=1e-2)
        assert np.abs(again.path[1] - found.path[1]).max() > 1e-2

    def test_a_step_within_the_tolerance_is_the_last(self, model, images, starts):
        found = by_levels(model, images, starts, dataclasses.replace(LEVELS, tolerance=1e3))
        coarse = LEVELS.steps[0]
        for first, last in ((1, coarse), (coarse + 1, sum(LEVELS.steps))):
            for k in range(first, last):
                np.testing.assert_array_equal(found.path[:, k + 1], found.path[:, k])
                np.testing.assert_array_equal(found.losses[:, k + 1], found.losses[:, k])
            assert (
                np.abs(found.path[:, first] - found.path[:, first - 1]).max(axis=(1, 2)).min() > 0
            )
        assert found.settled.all()

    def test_steps_that_run_out_leave_it_unsettled(self, model, images, starts):
        config = dataclasses.replace(LEVELS, steps=(6, 1), tolerance=1e-6)
        assert not by_levels(model, images, starts, config).settled.any()

    def test_an_image_of_something_else_is_told_by_its_residual(self, scene, model, starts, found):
        other = scene.replace(means=f32(CENTRE + (np.asarray(scene.means) - CENTRE)[:, ::-1]))
        strange = model_of(other.replace(sh=-scene.sh)).renders(starts[:, 0])
        wrong = by_levels(model, strange, starts)
        assert found.residuals.max() < 0.05
        assert wrong.residuals.min() > 0.3
        assert np.all(wrong.residuals > 10.0 * found.residuals)

    def test_residuals_are_those_of_the_poses_found(self, model, images, starts):
        found = by_levels(model, images, starts, dataclasses.replace(LEVELS, steps=(6, 0)))
        expected = residuals_at(model, images, found.viewmats[:, None], plain(3, 1))[:, 0]
        np.testing.assert_allclose(found.residuals, expected, rtol=1e-4)
        assert expected.min() > 0.02

    def test_a_defect_hardly_pulls(self, model, images, starts, true_poses):
        painted = images.copy()
        painted[:, 12:27, 14:30] = [0.1, 0.1, 0.1]  # 15 % of the image
        robust = errors(by_levels(model, painted, starts), true_poses)
        assert robust[0].max() < 0.3
        assert robust[1].max() < 0.5
        # By least squares it does.
        squares = dataclasses.replace(LEVELS, deltas=(1.0, 1.0))
        pulled = errors(by_levels(model, painted, starts, squares), true_poses)
        assert pulled[0].mean() > 5.0 * robust[0].mean()

    def test_nothing_to_be_seen(self, model, images, starts, true_poses):
        """An object behind the camera, or an image of nothing: no numbers that are none."""
        away = np.diag([1.0, -1.0, -1.0, 1.0]) @ true_poses[0]
        hypotheses = np.stack([away, away, starts[0, 0], away, starts[0, 1], away])[None]
        found = by_levels(model, images[:1], hypotheses, MANY)
        assert_all_finite(found)
        assert found.chosen == [2]
        assert errors(found, true_poses[:1])[0].max() < 0.01
        lost = by_levels(model, images[:1], np.broadcast_to(away, (1, 6, 4, 4)), MANY)
        assert_all_finite(lost)
        np.testing.assert_allclose(lost.viewmats[0], away, atol=1e-5)
        assert lost.residuals[0] > 0.7
        assert_all_finite(by_levels(model, np.ones_like(images), starts))

    def test_an_anchored_object_turns_but_stays_in_place(self, model, images, starts):
        def travelled(anchor):
            config = dataclasses.replace(LEVELS, steps=(6, 0), anchors=(anchor, 0.0))
            path = by_levels(model, images, starts, config).path[:, [0, 6]]
            at = np.einsum("nsij,j->nsi", path[..., :3, :3], CENTRE) + path[..., :3, 3]
            turn = pose_errors(path[:, 1], path[:, 0], CENTRE)[0]
            return np.linalg.norm(at[:, 1] - at[:, 0], axis=1) / RADIUS, turn

        (free, _), (held, turned) = travelled(0.0), travelled(10.0)
        assert np.all(free > 0.1)
        assert np.all(held < 0.01) and np.all(turned > 1.0)

    def test_slots_that_run_out_change_nothing(self, scene, images, starts, found, monkeypatch):
        model = model_of(scene)
        model.capacity.slots = 16
        asked = starve(monkeypatch, levenberg, "refine", lambda result: result.pairs)
        again = by_levels(model, images, starts)
        assert asked == [4096, 16, 4096]  # the coarse level has its own slots
        assert model.capacity.grown == 1
        for field in ("viewmats", "path", "losses", "covariances", "residuals"):
            np.testing.assert_array_equal(getattr(again, field), getattr(found, field))

    def test_progress_counts_all_steps(self, model, images, starts):
        done = []
        by_levels(model, images, starts, on_step=done.append)
        assert sum(done) == InvertConfig(levenberg=LEVELS).steps == 11

    def test_levels_that_differ_in_number(self):
        with pytest.raises(InputError, match="levels differ in number"):
            dataclasses.replace(LEVELS, blurs=(1.0,))


def starve(monkeypatch, module, name, pairs_of) -> list[int]:
    """Makes a solver return nothing of use where it is given fewer slots than it asks for.

    It runs with 4096 slots all the same, so that nothing is compiled anew. Returns the list that
    the numbers of slots asked for will be written to.
    """
    solver, asked = getattr(module, name), []

    def starved(*args, capacity, **kwargs):
        asked.append(capacity)
        result = solver(*args, capacity=4096, **kwargs)
        if capacity >= int(pairs_of(result)):
            return result
        floats = (np.floating, jnp.floating)
        return jax.tree.map(
            lambda x: x * np.nan if jnp.issubdtype(x.dtype, floats[0]) else x, result
        )

    monkeypatch.setattr(module, name, starved)
    return asked


class TestBestApart:
    """Which hypotheses the next level takes."""

    @staticmethod
    def poses(*degrees):
        return np.stack([moved(POSE, [0, 0, 0, 0, 0, np.radians(d)]) for d in degrees])[None]

    def test_the_best_by_cost_each_image_for_itself(self):
        poses = np.tile(self.poses(0, 10, 20, 30), (2, 1, 1, 1))
        costs = np.array([[4.0, 1.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
        kept = _best_apart(costs, poses, 2, CENTRE)
        np.testing.assert_array_equal(kept, [[1, 3], [0, 1]])

    def test_the_same_pose_again_only_for_want_of_others(self):
        poses = self.poses(0, 0.5, 10, 10.5, 40)
        costs = np.array([[2.0, 1.0, 4.0, 3.0, 5.0]])
        assert _best_apart(costs, poses, 3, CENTRE).tolist() == [[1, 3, 4]]
        assert _best_apart(costs, poses, 4, CENTRE).tolist() == [[1, 3, 4, 0]]
        assert _best_apart(costs, poses, 9, CENTRE).tolist() == [[1, 3, 4, 0, 2]]  # all there are
        shifted = np.concatenate([poses[:, :1], [[moved(POSE, [0, 0, 0.2, 0, 0, 0])]]], axis=1)
        assert sorted(_best_apart(costs[:, :2], shifted, 2, CENTRE)[0]) == [0, 1]


# Gains and biases of three images.
LIGHT = np.array([[0.75, 0.1], [0.9, -0.05], [1.1, 0.02]], np.float32)


class TestExposure:
    def test_gain_and_bias_are_found_with_the_pose(self, model, near, true_poses):
        lit, near = model.renders(true_poses, LIGHT), near[:, None]
        with_it = by_levels(model, lit, near, dataclasses.replace(FINE, exposure=True))
        np.testing.assert_allclose(with_it.exposures, LIGHT, atol=2e-2)
        assert errors(with_it, true_poses)[0].max() < 0.1
        without = by_levels(model, lit, near, FINE)
        np.testing.assert_array_equal(without.exposures, plain(3))
        assert errors(without, true_poses)[0][0] > 3.0 * errors(with_it, true_poses)[0][0]
        assert np.all(with_it.residuals < 0.5 * without.residuals)

    def test_what_is_solved_for_besides_makes_the_pose_less_certain(self, model, images, near):
        noisy = images + 0.02 * np.random.default_rng(0).normal(size=images.shape)
        config = dataclasses.replace(FINE, exposure=True)
        without, with_it = (by_levels(model, noisy, near[:, None], c) for c in (FINE, config))
        assert with_it.covariances.shape == (3, 6, 6)
        for less, more in zip(without.covariances, with_it.covariances, strict=True):
            assert np.trace(less) < np.trace(more) < 3.0 * np.trace(less)
        np.testing.assert_allclose(with_it.exposures, plain(3), atol=0.02)


class TestCovariances:
    @staticmethod
    def noisy(images, deviation, seed=0):
        return images + deviation * np.random.default_rng(seed).normal(size=images.shape)

    @staticmethod
    def assert_positive(covariances):
        np.testing.assert_allclose(covariances, np.swapaxes(covariances, 1, 2), rtol=1e-3)
        assert np.linalg.eigvalsh(covariances.astype(np.float64)).min() > 0.0

    def test_symmetric_positive_and_growing_with_the_noise(self, model, images, starts):
        quiet, loud = (
            by_levels(model, self.noisy(images, deviation), starts).covariances
            for deviation in (0.01, 0.03)
        )
        for covariances in (quiet, loud):
            assert covariances.shape == (3, 6, 6)
            self.assert_positive(covariances)
        ratio = np.trace(loud, axis1=1, axis2=2) / np.trace(quiet, axis1=1, axis2=2)
        assert np.all((ratio > 4.0) & (ratio < 13.0))  # about 9, but for the robust weights

    def test_larger_where_the_object_tells_less(self, scene, model, images, true_poses):
        """A ball of one colour looks the same however it is turned."""
        ball = model_of(
            scene.replace(
                means=f32(CENTRE + 0.02 * (np.asarray(scene.means) - CENTRE)),
                log_scales=jnp.full_like(scene.log_scales, -1.2),
                sh=jnp.full_like(scene.sh, -1.0),
            )
        )
        near = true_poses[:, None]
        told, untold = (
            by_levels(m, self.noisy(m.renders(true_poses), 0.02), near, FINE).covariances
            for m in (model, ball)
        )
        self.assert_positive(untold)
        turns, shifts = (
            np.trace(untold[:, part, part], axis1=1, axis2=2)
            / np.trace(told[:, part, part], axis1=1, axis2=2)
            for part in (slice(3, 6), slice(0, 2))
        )
        assert np.all(turns > 1000.0) and np.all(shifts < 50.0)

    def test_of_the_hypothesis_chosen(self, model, images, starts, near, true_poses):
        noisy = self.noisy(images, 0.02)
        expected = by_levels(model, noisy, true_poses[:, None], FINE)
        wrong = starts[0, 1]
        found = by_levels(model, noisy[:1], np.stack([wrong, near[0], wrong])[None], FINE)
        assert found.chosen == [1] and found.settled[0]
        np.testing.assert_allclose(
            np.diagonal(found.covariances[0]), np.diagonal(expected.covariances[0]), rtol=0.1
        )

    def test_they_are_how_far_poses_scatter(self, model, images, true_poses):
        """Squared distances in standard deviations are 6 on average, as many as there are ways."""
        distances = []
        for seed in range(16):
            found = by_levels(model, self.noisy(images, 0.02, seed), true_poses[:, None], FINE)
            for viewmat, true, covariance in zip(
                found.viewmats.astype(np.float64), true_poses, found.covariances, strict=True
            ):
                turn = Rotation.from_matrix(viewmat[:3, :3] @ true[:3, :3].T).as_rotvec()
                shift = (viewmat - true)[:3] @ np.r_[CENTRE, 1.0] / RADIUS
                twist = np.concatenate([shift, turn])
                distances.append(twist @ np.linalg.solve(covariance.astype(np.float64), twist))
        assert 4.0 < np.mean(distances) < 9.0


class TestSampling:
    """The lower half of each image is wrong; the matcher finds points in the upper one only."""

    @pytest.fixture
    def painted(self, model, images, near) -> np.ndarray:
        """Shows the scene from the starting pose below, so that this half wants to stay there."""
        result = images.copy()
        result[:, SIZE // 2 :] = model.renders(near)[:, SIZE // 2 :]
        return result

    def test_levels_see_what_matches(self, model, painted, images, near, true_poses):
        starts = near[:, None]
        given = {"sampling": True, "match_points": intact_points}
        sampled = by_levels(model, painted, starts, TWICE, **given)
        clean = by_levels(model, images, starts, TWICE, **given)
        np.testing.assert_array_equal(sampled.viewmats, clean.viewmats)
        np.testing.assert_array_equal(sampled.covariances, clean.covariances)
        assert errors(sampled, true_poses)[0].max() < 0.1
        unsampled = by_levels(model, painted, starts, TWICE)
        assert errors(unsampled, true_poses)[0].min() > 1.0
        assert sampled.sampled.shape == (3, 2)
        assert np.all((sampled.sampled[:, -1] > 0.4) & (sampled.sampled[:, -1] < 0.5))
        np.testing.assert_array_equal(unsampled.sampled, np.ones((3, 2)))

    def test_levels_match_renders_of_the_poses_reached(self, model, images, starts):
        seen = []

        def match_points(image, render):
            which = int(np.argmin([np.abs(image - other).max() for other in images]))
            seen.append((which, render))
            return no_points(image, render)

        config = dataclasses.replace(LEVELS, steps=(6, 0))
        found = by_levels(model, images, starts, config, sampling=True, match_points=match_points)
        assert [which for which, _ in seen] == [0, 1, 2]  # the second level, one pose an image
        renders = np.stack([render for _, render in seen])
        # A pixel or two may fall on the other side of the cut at 1/255.
        assert np.abs(renders - model.renders(found.viewmats)).mean() < 1e-5
        assert np.abs(renders - model.renders(starts[:, 0])).mean() > 1e-2

    def test_a_descent_sees_what_matches(self, model, painted, images, near, true_poses):
        starts = near[:, None]
        sampled = by_descent(model, painted, starts, match_points=intact_points)
        unsampled = by_descent(model, painted, starts)
        degrees = errors(sampled, true_poses)[0]
        assert degrees.max() < 0.5
        assert errors(unsampled, true_poses)[0].min() > 2 * degrees.max()
        # Nothing of the wrong half is left in the result, to the last bit.
        clean = by_descent(model, images, starts, match_points=intact_points)
        np.testing.assert_array_equal(sampled.viewmats, clean.viewmats)
        assert np.all((sampled.sampled > 0.4) & (sampled.sampled < 0.5))

    def test_a_descent_matches_anew_on_schedule(self, model, images, near):
        seen, done = [], []

        def match_points(image, render):
            which = int(np.argmin([np.abs(image - other).max() for other in images]))
            seen.append((sum(done), which, float(np.abs(image - render).mean())))
            return intact_points()

        result = by_descent(
            model, images, near[:, None], match_points=match_points, on_step=done.append
        )
        assert done == [20, 20, 20]
        assert [s[:2] for s in seen] == [(at, i) for at in (0, 20, 40) for i in range(3)]
        assert result.sampled.shape == (3, 3)
        # The renders are those of the present poses: they come nearer to the images.
        distances = np.array([s[2] for s in seen]).reshape(3, 3)
        expected = np.abs(model.renders(near) - images).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(distances[0], expected, rtol=1e-4)
        assert np.all(distances[2] < 0.5 * distances[0])
        # The loss is divided by all pixels.
        weights = matching_weights(
            intact_points(), width=SIZE, height=SIZE, radius=2.0, min_points=1
        )
        difference = np.abs(model.renders(near) - images).mean(axis=-1)
        expected = (difference * weights).sum(axis=(1, 2)) / SIZE**2
        np.testing.assert_allclose(result.losses[:, 0], expected, rtol=1e-3)


class TestDescent:
    @pytest.fixture
    def starts(self, near) -> np.ndarray:
        return near[:, None]

    def test_a_batch_converges(self, descended, starts, true_poses):
        degrees, percent = errors(descended, true_poses)
        assert degrees.max() < 0.3
        assert percent.max() < 0.5
        assert all(is_rigid(viewmat) for viewmat in descended.viewmats)
        assert descended.residuals.max() < 0.1
        np.testing.assert_array_equal(descended.chosen, 0)
        np.testing.assert_array_equal(descended.exposures, plain(3))

    def test_path_and_losses(self, descended, starts):
        assert descended.path.shape == (3, ADAM.steps + 1, 4, 4)
        np.testing.assert_allclose(descended.path[:, 0], starts[:, 0], atol=1e-6)
        np.testing.assert_array_equal(descended.path[:, -1], descended.viewmats)
        assert descended.losses.shape == (3, ADAM.steps + 1)
        assert np.all(descended.losses[:, -2] < 0.2 * descended.losses[:, 0])
        assert np.isnan(descended.losses[:, -1]).all()
        assert np.isnan(descended.covariances).all() and descended.covariances.shape == (3, 6, 6)

    def test_the_rate_drops_once(self, descended):
        turns = pose_errors(descended.path[:, 1:], descended.path[:, :-1], CENTRE)[0]
        before, after = turns[:, : ADAM.late_step], turns[:, ADAM.late_step :]
        assert np.all(after.max(axis=1) < 0.3 * before.max(axis=1))
        assert np.all(after.max(axis=1) < np.degrees(2.0 * np.sqrt(3.0) * ADAM.late_rate))

    def test_schedule(self):
        """Under a steady gradient Adam's steps are the rate's."""
        adam = optimiser(Descent(0.01, 0.001, 3, "object", "autodiff"))

        @jax.jit
        def run():
            def step(state, _):
                update, state = adam.update(jnp.ones(6), state)
                return state, -update[0]

            return jax.lax.scan(step, adam.init(jnp.zeros(6)), length=6)[1]

        sizes = run()
        np.testing.assert_allclose(sizes, [0.01] * 3 + [0.001] * 3, rtol=1e-3)

    def test_images_of_a_batch_do_not_touch_each_other(self, model, images, starts, descended):
        others = np.concatenate([images[:1], images[:0:-1]])
        again = by_descent(model, others, starts)
        np.testing.assert_allclose(again.path[0], descended.path[0], atol=2e-4)
        assert np.abs(again.path[1] - descended.path[1]).max() > 1e-2

    def test_steps_turn_about_the_object_in_its_radii(self, descended):
        """Adam's first step is the rate in every parameter."""
        first, second = descended.path[:, :2].astype(np.float64).swapaxes(0, 1)
        turn = Rotation.from_matrix(second[:, :3, :3] @ first[:, :3, :3].swapaxes(1, 2))
        np.testing.assert_allclose(np.abs(turn.as_rotvec()), ADAM.rate, rtol=0.02)
        shift = (second - first)[:, :3] @ np.r_[CENTRE, 1.0]
        np.testing.assert_allclose(np.abs(shift), ADAM.rate * RADIUS, rtol=0.02)

    def test_the_papers_turn_about_the_camera(self, model, images, starts, monkeypatch):
        """With a gradient given, so that nothing need be rendered or compiled for it."""
        by_twist, modes = np.array([2.0, -3.0, 5.0, -0.1, 0.2, 0.3]), []

        def given(loss, gaussians, camera, background, *, mode, **kwargs):
            modes.append(mode)
            return (jnp.sum(camera.viewmat), jnp.int32(0)), f32(by_twist)

        monkeypatch.setattr(descent, "value_and_pose_gradient", given)
        monkeypatch.setattr(descent, "descend", descent.descend.__wrapped__)
        config = dataclasses.replace(ADAM, steps=20, pivot="camera", gradient="paper")
        result = by_descent(model, images, starts, config, sampling=False)
        assert set(modes) == {"paper"}
        first, second = result.path[:, :2].astype(np.float64).swapaxes(0, 1)
        step = second @ np.linalg.inv(first)
        downhill = -ADAM.rate * np.sign(by_twist)
        turns = Rotation.from_matrix(step[:, :3, :3]).as_rotvec()
        np.testing.assert_allclose(turns, np.tile(downhill[3:], (3, 1)), rtol=0.02)
        shifts = step[:, :3, 3] / RADIUS
        np.testing.assert_allclose(shifts, np.tile(downhill[:3], (3, 1)), rtol=0.02)
        # Twenty steps at the full rate end nowhere.
        assert not result.settled.any()

    def test_without_sampling_the_whole_image_counts(self, model, images, starts, descended):
        result = by_descent(
            model, images, starts, dataclasses.replace(ADAM, steps=20), sampling=False
        )
        expected = np.abs(model.renders(starts[:, 0]) - images).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(result.losses[:, 0], expected, rtol=1e-3)
        np.testing.assert_array_equal(result.sampled, np.ones((3, 1)))
        # As with sampling that finds too few points.
        np.testing.assert_array_equal(result.path[:, :20], descended.path[:, :20])

    def test_the_best_hypothesis_goes_down(self, model, images, starts, monkeypatch):
        """And the last segment is cut to the steps."""

        def standing_still(carry, *args, steps, **kwargs):
            path = jnp.broadcast_to(carry[0], (steps, *carry[0].shape))
            return carry, path, jnp.full((steps, len(carry[0])), float(steps)), jnp.int32(0)

        monkeypatch.setattr(descent, "descend", standing_still)
        done = []
        hypotheses = np.concatenate([starts[1:2], starts[2:], starts[:1]], axis=1)
        config = dataclasses.replace(ADAM, steps=50)
        result = by_descent(model, images[:1], hypotheses, config, on_step=done.append)
        assert result.chosen == [2]
        np.testing.assert_allclose(result.viewmats[0], starts[0, 0], atol=1e-6)
        np.testing.assert_allclose(result.path, result.path[:, :1].repeat(51, 1), atol=1e-6)
        assert done == [20, 20, 10]
        assert sum(done) == InvertConfig(solver="adam", adam=config).steps
        np.testing.assert_array_equal(result.losses[0, :-1], [20.0] * 40 + [10.0] * 10)
        assert result.settled.all()

    def test_slots_that_run_out_midway_change_nothing(
        self, scene, images, starts, descended, monkeypatch
    ):
        model, calls = model_of(scene), []

        def shrinking(image, render):
            # Before the second segment the slots are made too few for it.
            calls.append(1)
            if len(calls) == 2 * len(images):
                model.capacity.slots = 16
            return no_points(image, render)

        asked = starve(monkeypatch, descent, "descend", lambda result: result[3])
        tight = by_descent(model, images, starts, match_points=shrinking)
        assert asked == [4096, 16, 4096, 4096]
        assert model.capacity.grown == 1
        np.testing.assert_array_equal(tight.losses, descended.losses)
        np.testing.assert_array_equal(tight.viewmats, descended.viewmats)


class TestBadInput:
    @pytest.mark.parametrize("solver", ["levenberg", "adam"])
    def test_sampling_needs_a_matcher(self, model, images, starts, solver):
        with pytest.raises(ValueError, match="match_points"):
            invert(model, images, starts, InvertConfig(solver=solver, sampling=True))

    @pytest.mark.parametrize(
        ("images_shape", "initial_shape"),
        [
            pytest.param((3, SIZE, SIZE + 1, 3), (3, 2, 4, 4), id="size of the images"),
            pytest.param((3, SIZE, SIZE), (3, 2, 4, 4), id="grey images"),
            pytest.param((SIZE, SIZE, 3), (1, 2, 4, 4), id="one image"),
            pytest.param((3, SIZE, SIZE, 3), (3, 4, 4), id="one pose an image"),
        ],
    )
    def test_shapes(self, model, images_shape, initial_shape):
        with pytest.raises(ValueError, match="are expected"):
            invert(model, np.zeros(images_shape), np.zeros(initial_shape), InvertConfig())


class TestVerdict:
    def test_usual_residuals(self, model, images, true_poses):
        noisy = images + 0.02 * np.random.default_rng(0).normal(size=images.shape)
        typical = typical_residuals(model, noisy, true_poses)
        each = residuals_at(model, noisy, true_poses[:, None], plain(3, 1))[:, 0]
        assert typical.median == pytest.approx(np.median(each), rel=1e-3)
        assert typical.largest == pytest.approx(each.max(), rel=1e-3)
        assert typical.limit > typical.largest

    def test_doubts(self, model, images, true_poses, found):
        typical = typical_residuals(model, images, true_poses)
        assert doubts_of(found, 0, typical) == []
        residuals = np.array([typical.limit + 0.01, np.nan, 0.0])
        bad = found.replace(residuals=residuals)
        assert "disagree" in doubts_of(bad, 0, typical)[0]
        assert doubts_of(bad, 1, typical) == ["no pose found"]
        assert doubts_of(bad, 2, typical) == []

    def test_deviations_are_those_of_the_poses(self, model, found):
        """Poses drawn by the covariance differ by as much."""
        rng = np.random.default_rng(0)
        root = 0.01 * np.tril(rng.normal(size=(6, 6)))
        sure = found.replace(covariances=np.broadcast_to(root @ root.T, (3, 6, 6)))
        degrees, percent = deviations(model, sure, 1)
        twists = rng.normal(size=(4000, 6)) @ root.T
        arrays = (f32(found.viewmats[1]), f32(twists), f32(CENTRE), f32(RADIUS))
        drawn = jax.jit(
            jax.vmap(lambda v, t, c, r: retract(v, t, c, r, "object"), (None, 0, None, None))
        )(*arrays)
        apart = pose_errors(np.asarray(drawn), found.viewmats[1], CENTRE)
        assert np.sqrt(np.mean(np.square(apart[0]))) == pytest.approx(degrees, rel=0.05)
        assert np.sqrt(np.mean(np.square(apart[1]))) == pytest.approx(percent, rel=0.05)
