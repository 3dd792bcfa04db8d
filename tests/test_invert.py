from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igspad_jax.cameras import intrinsics_from_angle, look_at, pose_errors, se3_exp
from igspad_jax.invert import InvertConfig, invert
from igspad_jax.invert.poses import orthonormalised, retract
from igspad_jax.invert.sampling import matching_weights
from igspad_jax.render import Capacity, render_views
from igspad_jax.scene import Gaussians

SIZE = 40
BACKGROUND = np.ones(3)
K = intrinsics_from_angle(0.7, SIZE, SIZE)
CENTRE = np.zeros(3)
RADIUS = 1.0
POSE = look_at(np.array([1.5, -2.0, 1.2]), np.array([0.2, 0.1, 0.0]), np.array([0.0, 0.0, 1.0]))
# Tests share segments of 20 steps, so that few of them have to be compiled.
CONFIG = InvertConfig(
    steps=60,
    late_step=45,
    sampling=True,
    sampling_radius=0.05,
    sampling_refresh=20,
    sampling_min_points=4,
)


_retract = jax.jit(retract, static_argnames="pivot")


def blobs(count: int = 150) -> Gaussians:
    """Coloured balls at random places within the unit ball."""
    rng = np.random.default_rng(3)
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    def f32(x):
        return jnp.asarray(x, jnp.float32)

    return Gaussians(
        means=f32(directions * rng.uniform(0.2, 0.9, (count, 1))),
        log_scales=f32(rng.uniform(-2.8, -1.8, (count, 3))),
        quats=f32(rng.normal(size=(count, 4))),
        opacity_logits=f32(rng.uniform(0.0, 3.0, count)),
        sh=f32(rng.uniform(-1.5, 1.5, (count, 1, 3))),
    )


@pytest.fixture(scope="module")
def scene() -> Gaussians:
    return blobs()


@pytest.fixture(scope="module")
def true_poses() -> np.ndarray:
    eyes = np.array([[1.5, -2.0, 1.2], [-2.4, 0.4, 0.9], [0.3, 2.6, -0.5]])
    targets = np.array([[0.1, 0.05, 0.0], [0.0, 0.0, 0.1], [0.0, -0.1, 0.0]])
    up = np.array([0.0, 0.0, 1.0])
    return np.stack([look_at(e, t, up) for e, t in zip(eyes, targets, strict=True)])


@pytest.fixture(scope="module")
def images(scene, true_poses) -> np.ndarray:
    return rendered(scene, true_poses)


@pytest.fixture(scope="module")
def starts(true_poses) -> np.ndarray:
    """The true poses off by 5 degrees about the object and 5 % of the distance."""
    rng = np.random.default_rng(0)
    off = []
    for viewmat in true_poses:
        turn = rng.normal(size=3)
        shift = rng.normal(size=3)
        turn *= np.radians(5.0) / np.linalg.norm(turn)
        shift *= 0.05 * np.linalg.norm(viewmat[:3, 3]) / np.linalg.norm(shift)
        off.append(moved(viewmat, np.concatenate([shift, turn])))
    return np.stack(off)


def rendered(scene, viewmats):
    return render_views(
        scene, viewmats, K, BACKGROUND, width=SIZE, height=SIZE, capacity=Capacity()
    )


def moved(viewmat, tau, *, centre=CENTRE, radius=1.0, pivot="object"):
    arrays = (jnp.asarray(a, jnp.float32) for a in (viewmat, tau, centre, radius))
    return np.asarray(_retract(*arrays, pivot=pivot))


def no_points(image, render) -> np.ndarray:
    """A matcher that finds nothing, so that the whole image counts."""
    return np.zeros((0, 2))


def inverted(
    scene, images, starts, config=CONFIG, *, match_points=no_points, capacity=None, on_step=None
):
    return invert(
        scene,
        images,
        starts,
        K,
        BACKGROUND,
        CENTRE,
        RADIUS,
        config,
        match_points=match_points,
        capacity=capacity or Capacity(),
        on_step=on_step,
    )


def is_rigid(viewmat, atol=1e-5) -> bool:
    rotation = viewmat[:3, :3]
    return (
        np.allclose(rotation @ rotation.T, np.eye(3), atol=atol)
        and np.linalg.det(rotation) > 0
        and np.array_equal(viewmat[3], [0, 0, 0, 1])
    )


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
            arrays = (jnp.asarray(a, jnp.float32) for a in (self.OBJECT, 1.5))
            return (_retract(jnp.asarray(POSE, jnp.float32), tau, *arrays, pivot) @ point)[:3]

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


class TestInvert:
    def test_a_batch_converges(self, scene, images, starts, true_poses):
        before = pose_errors(starts, true_poses, CENTRE)
        steps = []
        result = inverted(scene, images, starts, on_step=steps.append)
        degrees, percent = pose_errors(result.viewmats, true_poses, CENTRE)
        assert before[0].min() > 4.9 and before[1].min() > 3.0
        assert degrees.max() < 0.3
        assert percent.max() < 0.5
        assert all(is_rigid(viewmat) for viewmat in result.viewmats)
        assert result.losses.shape == (3, CONFIG.steps)
        assert np.all(result.losses[:, -1] < 0.2 * result.losses[:, 0])
        assert sum(steps) == CONFIG.steps

    def test_without_sampling_the_whole_image_counts(self, scene, images, starts):
        config = dataclasses.replace(CONFIG, steps=20, sampling=False)
        result = inverted(scene, images, starts, config, match_points=None)
        expected = np.abs(rendered(scene, starts) - images).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(result.losses[:, 0], expected, rtol=1e-3)
        np.testing.assert_array_equal(result.sampled, np.ones((3, 1)))
        few = inverted(scene, images, starts, dataclasses.replace(CONFIG, steps=20))
        np.testing.assert_array_equal(result.viewmats, few.viewmats)

    def test_images_of_a_batch_do_not_touch_each_other(self, scene, images, starts):
        config = dataclasses.replace(CONFIG, steps=20)
        batch = inverted(scene, images, starts, config)
        for i in range(len(images)):
            single = inverted(scene, images[i : i + 1], starts[i : i + 1], config)
            # The order of sums may differ, and Adam's first steps follow the gradients' signs.
            np.testing.assert_allclose(single.viewmats[0], batch.viewmats[i], atol=2e-4)
            np.testing.assert_allclose(single.losses[0], batch.losses[i], rtol=2e-3)

    def test_turning_about_the_object_beats_turning_about_the_camera(
        self, scene, images, starts, true_poses
    ):
        errors = {}
        for pivot in ("object", "camera"):
            config = dataclasses.replace(CONFIG, pivot=pivot)
            viewmats = inverted(scene, images, starts, config).viewmats
            errors[pivot] = pose_errors(viewmats, true_poses, CENTRE)[0]
        assert errors["object"].mean() <= errors["camera"].mean()

    def test_capacity_that_runs_out_midway_changes_nothing(self, scene, images, starts):
        capacity = Capacity()
        calls = []

        def shrinking(image, render):
            # Before the second segment the capacity is made too small for it.
            calls.append(1)
            if len(calls) == 2 * len(images):
                capacity.slots = 16
            return no_points(image, render)

        tight = inverted(scene, images, starts, capacity=capacity, match_points=shrinking)
        plain = inverted(scene, images, starts)
        assert capacity.grown == 1
        assert tight.losses.shape == plain.losses.shape
        np.testing.assert_allclose(tight.losses, plain.losses, atol=1e-5)
        np.testing.assert_allclose(tight.viewmats, plain.viewmats, atol=1e-5)

    def test_sampling_needs_a_matcher(self, scene, images, starts):
        with pytest.raises(ValueError, match="match_points"):
            inverted(scene, images, starts, match_points=None)


def intact_points(image=None, render=None) -> np.ndarray:
    """A grid of points in the upper part of the image; discs of 2 pixels leave the rest out."""
    y, x = np.mgrid[1 : SIZE // 2 - 2 : 2, 1:SIZE:2].reshape(2, -1) + 0.5
    return np.stack([x, y], axis=1)


class TestSampling:
    """The lower half of each image is wrong; the matcher finds points in the upper one only."""

    @pytest.fixture
    def painted(self, scene, images, starts) -> np.ndarray:
        """Shows the scene from the starting pose below, so that this half wants to stay there."""
        result = images.copy()
        result[:, SIZE // 2 :] = rendered(scene, starts)[:, SIZE // 2 :]
        return result

    def test_what_does_not_match_does_not_pull(self, scene, painted, images, starts, true_poses):
        sampled = inverted(scene, painted, starts, match_points=intact_points)
        unsampled = inverted(scene, painted, starts)
        degrees = pose_errors(sampled.viewmats, true_poses, CENTRE)[0]
        assert degrees.max() < 0.5
        assert pose_errors(unsampled.viewmats, true_poses, CENTRE)[0].min() > 2 * degrees.max()
        # Nothing of the wrong half is left in the result, to the last bit.
        clean = inverted(scene, images, starts, match_points=intact_points)
        np.testing.assert_array_equal(sampled.viewmats, clean.viewmats)
        assert np.all((sampled.sampled > 0.4) & (sampled.sampled < 0.5))

    def test_renders_are_matched_anew_on_schedule(self, scene, images, starts):
        seen, done = [], []

        def match_points(image, render):
            which = int(np.argmin([np.abs(image - other).max() for other in images]))
            seen.append((sum(done), which, float(np.abs(image - render).mean())))
            return intact_points()

        result = inverted(scene, images, starts, match_points=match_points, on_step=done.append)
        assert done == [20, 20, 20]
        assert [s[:2] for s in seen] == [(at, i) for at in (0, 20, 40) for i in range(3)]
        assert result.sampled.shape == (3, 3)
        # The renders are those of the present poses: they come nearer to the images.
        distances = np.array([s[2] for s in seen]).reshape(3, 3)
        expected = np.abs(rendered(scene, starts) - images).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(distances[0], expected, rtol=1e-4)
        assert np.all(distances[2] < 0.5 * distances[0])

    def test_the_last_segment_is_cut_to_the_steps(self, scene, images, starts, monkeypatch):
        def standing_still(carry, *args, steps, **kwargs):
            return carry, jnp.full((steps, 3), float(steps)), jnp.int32(0)

        monkeypatch.setattr("igspad_jax.invert.solver._segment", standing_still)
        done = []
        config = dataclasses.replace(CONFIG, steps=50)
        result = inverted(scene, images, starts, config, on_step=done.append)
        assert done == [20, 20, 10]
        np.testing.assert_array_equal(result.losses[0], [20.0] * 40 + [10.0] * 10)

    def test_loss_is_divided_by_all_pixels(self, scene, images, starts):
        config = dataclasses.replace(CONFIG, steps=20)
        result = inverted(scene, images, starts, config, match_points=intact_points)
        weights = matching_weights(
            intact_points(), width=SIZE, height=SIZE, radius=2.0, min_points=1
        )
        difference = np.abs(rendered(scene, starts) - images).mean(axis=-1)
        expected = (difference * weights).sum(axis=(1, 2)) / SIZE**2
        np.testing.assert_allclose(result.losses[:, 0], expected, rtol=1e-3)
