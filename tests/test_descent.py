"""The paper's descent: Adam on many images at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from igspad_jax.cameras import pose_errors
from igspad_jax.invert import Inversion, descent
from igspad_jax.invert.descent import Descent, optimiser
from igspad_jax.settings import InvertConfig
from inversions import (
    ADAM,
    CENTRE,
    RADIUS,
    by_descent,
    errors,
    is_rigid,
    model_of,
    no_points,
    plain,
    starve,
)
from scenes import f32

pytestmark = pytest.mark.usefixtures("quickly_compiled")


@pytest.fixture(scope="module")
def one_each(near) -> np.ndarray:
    """[3, 1, 4, 4]: one hypothesis an image."""
    return near[:, None]


@pytest.fixture(scope="module")
def descended(quickly_compiled, model, images, one_each) -> Inversion:
    """What `ADAM` finds from `one_each`."""
    return by_descent(model, images, one_each)


def test_a_batch_converges(descended, true_poses):
    degrees, percent = errors(descended, true_poses)
    assert degrees.max() < 0.3
    assert percent.max() < 0.5
    assert all(is_rigid(viewmat) for viewmat in descended.viewmats)
    assert descended.residuals.max() < 0.1
    np.testing.assert_array_equal(descended.chosen, 0)
    np.testing.assert_array_equal(descended.exposures, plain(3))


def test_path_and_losses(descended, one_each):
    assert descended.path.shape == (3, ADAM.steps + 1, 4, 4)
    np.testing.assert_allclose(descended.path[:, 0], one_each[:, 0], atol=1e-6)
    np.testing.assert_array_equal(descended.path[:, -1], descended.viewmats)
    assert descended.losses.shape == (3, ADAM.steps + 1)
    assert np.all(descended.losses[:, -2] < 0.2 * descended.losses[:, 0])
    assert np.isnan(descended.losses[:, -1]).all()
    assert np.isnan(descended.covariances).all() and descended.covariances.shape == (3, 6, 6)


def test_the_rate_drops_once(descended):
    turns = pose_errors(descended.path[:, 1:], descended.path[:, :-1], CENTRE)[0]
    before, after = turns[:, : ADAM.late_step], turns[:, ADAM.late_step :]
    assert np.all(after.max(axis=1) < 0.3 * before.max(axis=1))
    assert np.all(after.max(axis=1) < np.degrees(2.0 * np.sqrt(3.0) * ADAM.late_rate))


def test_schedule():
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


def test_images_of_a_batch_are_independent(model, images, one_each, descended):
    others = np.concatenate([images[:1], images[:0:-1]])
    again = by_descent(model, others, one_each)
    np.testing.assert_allclose(again.path[0], descended.path[0], atol=2e-4)
    assert np.abs(again.path[1] - descended.path[1]).max() > 1e-2


def test_first_step_is_the_rate_in_object_radii(descended):
    """Adam's first step is the rate in every parameter."""
    first, second = descended.path[:, :2].astype(np.float64).swapaxes(0, 1)
    turn = Rotation.from_matrix(second[:, :3, :3] @ first[:, :3, :3].swapaxes(1, 2))
    np.testing.assert_allclose(np.abs(turn.as_rotvec()), ADAM.rate, rtol=0.02)
    shift = (second - first)[:, :3] @ np.r_[CENTRE, 1.0]
    np.testing.assert_allclose(np.abs(shift), ADAM.rate * RADIUS, rtol=0.02)


def test_camera_pivot_with_the_paper_gradient(model, images, one_each, monkeypatch):
    """With a gradient given, so that nothing need be rendered or compiled for it."""
    by_twist, modes = np.array([2.0, -3.0, 5.0, -0.1, 0.2, 0.3]), []

    def given(loss, gaussians, camera, background, *, mode, **kwargs):
        modes.append(mode)
        return (jnp.sum(camera.viewmat), jnp.int32(0)), f32(by_twist)

    monkeypatch.setattr(descent, "value_and_pose_gradient", given)
    monkeypatch.setattr(descent, "descend", descent.descend.__wrapped__)
    config = dataclasses.replace(ADAM, steps=20, pivot="camera", gradient="paper")
    result = by_descent(model, images, one_each, config, sampling=False)
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


def test_without_sampling_the_whole_image_counts(model, images, one_each, descended):
    result = by_descent(
        model, images, one_each, dataclasses.replace(ADAM, steps=20), sampling=False
    )
    expected = np.abs(model.renders(one_each[:, 0]) - images).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(result.losses[:, 0], expected, rtol=1e-3)
    np.testing.assert_array_equal(result.sampled, np.ones((3, 1)))
    # As with sampling that finds too few points.
    np.testing.assert_array_equal(result.path[:, :20], descended.path[:, :20])


def test_descends_from_the_best_hypothesis(model, images, one_each, monkeypatch):
    """And the last segment is cut to the steps."""

    def standing_still(carry, *args, steps, **kwargs):
        path = jnp.broadcast_to(carry[0], (steps, *carry[0].shape))
        return carry, path, jnp.full((steps, len(carry[0])), float(steps)), jnp.int32(0)

    monkeypatch.setattr(descent, "descend", standing_still)
    done = []
    hypotheses = np.concatenate([one_each[1:2], one_each[2:], one_each[:1]], axis=1)
    config = dataclasses.replace(ADAM, steps=50)
    result = by_descent(model, images[:1], hypotheses, config, on_step=done.append)
    assert result.chosen == [2]
    np.testing.assert_allclose(result.viewmats[0], one_each[0, 0], atol=1e-6)
    np.testing.assert_allclose(result.path, result.path[:, :1].repeat(51, 1), atol=1e-6)
    assert done == [20, 20, 10]
    assert sum(done) == InvertConfig(solver="adam", adam=config).steps
    np.testing.assert_array_equal(result.losses[0, :-1], [20.0] * 40 + [10.0] * 10)
    assert result.settled.all()


def test_capacity_overflow_does_not_change_the_result(
    scene, images, one_each, descended, monkeypatch
):
    model, calls = model_of(scene), []

    def shrinking(image, render):
        # Before the second segment the slots are made too few for it.
        calls.append(1)
        if len(calls) == 2 * len(images):
            model.capacity.slots = 16
        return no_points(image, render)

    asked = starve(monkeypatch, descent, "descend", lambda result: result[3])
    tight = by_descent(model, images, one_each, match_points=shrinking)
    assert asked == [4096, 16, 4096, 4096]
    assert model.capacity.grown == 1
    np.testing.assert_array_equal(tight.losses, descended.losses)
    np.testing.assert_array_equal(tight.viewmats, descended.viewmats)
