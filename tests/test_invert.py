"""Inversion from coarse to fine: which poses are found, from which starts, along which paths."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from checks import assert_finite
from igspad_jax.cameras import look_at, pose_errors
from igspad_jax.errors import InputError
from igspad_jax.invert import invert, levenberg
from igspad_jax.invert.pyramid import _best_apart
from igspad_jax.settings import InvertConfig
from inversions import (
    CENTRE,
    FINE,
    LEVELS,
    MANY,
    POSE,
    RADIUS,
    SIZE,
    by_levels,
    errors,
    is_rigid,
    model_of,
    moved,
    off,
    plain,
    starve,
)
from scenes import UP, f32

pytestmark = pytest.mark.usefixtures("quickly_compiled")


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

    def test_steps_are_bounded(self, found):
        turns = pose_errors(found.path[:, 1:], found.path[:, :-1], CENTRE)[0]
        assert turns.max() < np.degrees(0.351)
        at = np.einsum("nsij,j->nsi", found.path[..., :3, :3], CENTRE) + found.path[..., :3, 3]
        assert np.linalg.norm(np.diff(at, axis=1), axis=-1).max() < 0.351 * RADIUS

    def test_selects_the_hypothesis_that_explains_the_image(self, model, images, true_poses):
        near = off(true_poses, 15.0, 8.0, seed=4)
        far = np.roll(true_poses, 1, axis=0)
        order = np.array([1, 0, 1])  # where the near one stands
        both = np.stack([near, far], axis=1)
        starts = np.where(order[:, None, None, None] == 0, both, both[:, ::-1])
        found = by_levels(model, images, starts)
        np.testing.assert_array_equal(found.chosen, order)
        assert errors(found, true_poses)[0].max() < 0.01
        np.testing.assert_array_equal(found.path[:, 0], near.astype(np.float32))

    def test_one_of_six_hypotheses_in_reach(self, model, images, true_poses):
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

    def test_extra_turn_reaches_a_pose_55_degrees_away(self, model, images, true_poses):
        """Two hypotheses and four more: the first is too far off as it is."""
        true, image = true_poses[2:], images[2:]
        starts = np.stack([moved(true[0], degrees=[0, 55, 0]), true_poses[0]])[None]
        alone = by_levels(model, image, np.tile(starts, (1, 3, 1, 1)), MANY)
        assert errors(alone, true)[0][0] > 20.0
        found = by_levels(model, image, starts, dataclasses.replace(MANY, extra_turn=25.0))
        assert errors(found, true)[0][0] < 0.01
        assert found.chosen == [0]  # one of the given ones
        first = found.path[0, 0]
        degrees, _ = pose_errors(first, starts[0, 0], CENTRE)
        assert degrees == pytest.approx(25.0, abs=1e-3)
        at = np.r_[CENTRE, 1.0]
        np.testing.assert_allclose(first @ at, starts[0, 0] @ at, atol=1e-5)  # and still there
        turn = Rotation.from_matrix(first[:3, :3] @ starts[0, 0, :3, :3].T).as_rotvec()
        assert np.sort(np.abs(np.degrees(turn))) == pytest.approx([0.0, 0.0, 25.0], abs=1e-3)

    def test_readmitted_hypothesis_keeps_its_given_pose(self, model, images, true_poses):
        """The merged object fits best somewhat beside the true pose, which was given."""
        starts = np.stack([true_poses[0], *[true_poses[1]] * 5])[None]
        config = dataclasses.replace(MANY, hypotheses_kept=(3, 1), steps=(6, 0))
        drifted = by_levels(model, images[:1], starts, config)
        assert drifted.chosen == [0] and errors(drifted, true_poses[:1])[0][0] > 0.1
        again = dataclasses.replace(config, hypotheses_kept=(2, 1), readmit_level=1)
        found = by_levels(model, images[:1], starts, again)
        assert found.chosen == [0]
        np.testing.assert_allclose(found.viewmats, true_poses[:1], atol=1e-6)
        np.testing.assert_allclose(found.path[0], np.tile(true_poses[0], (7, 1, 1)), atol=1e-6)
        assert found.losses.shape == (1, 7)
        # It took no part in the level before.
        assert np.isnan(found.losses[0]).all() and not np.isnan(drifted.losses).any()

    @pytest.mark.parametrize("i", range(3))
    def test_batch_equals_single_images_with_repeated_hypotheses(
        self, model, images, starts, found, i
    ):
        single = by_levels(model, images[i : i + 1], np.tile(starts[i : i + 1], (1, 3, 1, 1)), MANY)
        assert single.chosen[0] % 2 == found.chosen[i] == 0
        np.testing.assert_allclose(single.path[0], found.path[i], atol=1e-5)
        np.testing.assert_allclose(single.viewmats[0], found.viewmats[i], atol=1e-5)
        np.testing.assert_allclose(single.losses[0], found.losses[i], rtol=1e-3, atol=1e-9)

    def test_images_of_a_batch_are_independent(self, model, images, starts, found):
        others = np.concatenate([images[:1], images[:0:-1]])
        again = by_levels(model, others, starts)
        np.testing.assert_allclose(again.path[0], found.path[0], atol=1e-6)
        np.testing.assert_allclose(again.covariances[0], found.covariances[0], rtol=1e-2)
        assert np.abs(again.path[1] - found.path[1]).max() > 1e-2

    def test_stops_after_a_step_below_the_tolerance(self, model, images, starts):
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

    def test_not_settled_when_steps_run_out(self, model, images, starts):
        config = dataclasses.replace(LEVELS, steps=(6, 1), tolerance=1e-6)
        assert not by_levels(model, images, starts, config).settled.any()

    def test_residual_is_large_for_another_object(self, scene, model, starts, found):
        other = scene.replace(means=f32(CENTRE + (np.asarray(scene.means) - CENTRE)[:, ::-1]))
        strange = model_of(other.replace(sh=-scene.sh)).renders(starts[:, 0])
        wrong = by_levels(model, strange, starts)
        assert found.residuals.max() < 0.05
        assert wrong.residuals.min() > 0.3
        assert np.all(wrong.residuals > 10.0 * found.residuals)

    def test_renders_and_residuals_are_of_the_final_poses(self, model, images, starts):
        found = by_levels(model, images, starts, dataclasses.replace(LEVELS, steps=(6, 0)))
        np.testing.assert_allclose(found.renders, model.renders(found.viewmats), atol=1e-6)
        expected = model.residuals(images, found.renders)
        np.testing.assert_allclose(found.residuals, expected, rtol=1e-4)
        assert expected.min() > 0.02

    def test_defect_has_little_influence(self, model, images, starts, true_poses):
        painted = images.copy()
        painted[:, 12:27, 14:30] = [0.1, 0.1, 0.1]  # 15 % of the image
        robust = errors(by_levels(model, painted, starts), true_poses)
        assert robust[0].max() < 0.3
        assert robust[1].max() < 0.5
        # Least squares are influenced much more.
        squares = dataclasses.replace(LEVELS, deltas=(1.0, 1.0))
        biased = errors(by_levels(model, painted, starts, squares), true_poses)
        assert biased[0].mean() > 5.0 * robust[0].mean()

    def test_invisible_object_gives_finite_results(self, model, images, starts, true_poses):
        """An object behind the camera, or an empty image: all results are finite."""
        away = np.diag([1.0, -1.0, -1.0, 1.0]) @ true_poses[0]
        hypotheses = np.stack([away, away, starts[0, 0], away, starts[0, 1], away])[None]
        found = by_levels(model, images[:1], hypotheses, MANY)
        assert_finite(found)
        assert found.chosen == [2]
        assert errors(found, true_poses[:1])[0].max() < 0.01
        lost = by_levels(model, images[:1], np.broadcast_to(away, (1, 6, 4, 4)), MANY)
        assert_finite(lost)
        np.testing.assert_allclose(lost.viewmats[0], away, atol=1e-5)
        assert lost.residuals[0] > 0.7
        assert_finite(by_levels(model, np.ones_like(images), starts))

    def test_translation_penalty_holds_the_object_in_place(self, model, images, starts):
        def travelled(penalty):
            config = dataclasses.replace(LEVELS, steps=(6, 0), translation_penalties=(penalty, 0.0))
            path = by_levels(model, images, starts, config).path[:, [0, 6]]
            at = np.einsum("nsij,j->nsi", path[..., :3, :3], CENTRE) + path[..., :3, 3]
            turn = pose_errors(path[:, 1], path[:, 0], CENTRE)[0]
            return np.linalg.norm(at[:, 1] - at[:, 0], axis=1) / RADIUS, turn

        (free, _), (held, turned) = travelled(0.0), travelled(10.0)
        assert np.all(free > 0.1)
        assert np.all(held < 0.01) and np.all(turned > 1.0)

    def test_capacity_overflow_does_not_change_the_result(
        self, scene, images, starts, found, monkeypatch
    ):
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


class TestBestApart:
    """Which hypotheses the next level takes."""

    @staticmethod
    def poses(*degrees):
        return np.stack([moved(POSE, degrees=[0, 0, d]) for d in degrees])[None]

    def test_best_by_cost_for_each_image(self):
        poses = np.tile(self.poses(0, 10, 20, 30), (2, 1, 1, 1))
        costs = np.array([[4.0, 1.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
        kept = _best_apart(costs, poses, 2, CENTRE)
        np.testing.assert_array_equal(kept, [[1, 3], [0, 1]])

    def test_repeated_poses_come_last(self):
        poses = self.poses(0, 0.5, 10, 10.5, 40)
        costs = np.array([[2.0, 1.0, 4.0, 3.0, 5.0]])
        assert _best_apart(costs, poses, 3, CENTRE).tolist() == [[1, 3, 4]]
        assert _best_apart(costs, poses, 4, CENTRE).tolist() == [[1, 3, 4, 0]]
        assert _best_apart(costs, poses, 9, CENTRE).tolist() == [[1, 3, 4, 0, 2]]  # all there are
        shifted = np.concatenate([poses[:, :1], [[moved(POSE, shift=[0, 0, 0.2])]]], axis=1)
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

    def test_solving_for_exposure_increases_the_pose_covariance(self, model, images, near):
        noisy = images + 0.02 * np.random.default_rng(0).normal(size=images.shape)
        config = dataclasses.replace(FINE, exposure=True)
        without, with_it = (by_levels(model, noisy, near[:, None], c) for c in (FINE, config))
        assert with_it.covariances.shape == (3, 6, 6)
        for less, more in zip(without.covariances, with_it.covariances, strict=True):
            assert np.trace(less) < np.trace(more) < 3.0 * np.trace(less)
        np.testing.assert_allclose(with_it.exposures, plain(3), atol=0.02)


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

    def test_tuples_of_different_length(self):
        with pytest.raises(InputError, match="levels differ in number"):
            dataclasses.replace(LEVELS, blurs=(1.0,))

    @pytest.mark.parametrize("level", [2, 9])
    def test_readmit_level_out_of_range(self, level):
        with pytest.raises(InputError, match=rf"no level {level}; 0 \(never\) to 1 are there"):
            dataclasses.replace(LEVELS, readmit_level=level)
