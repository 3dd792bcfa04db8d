"""Steps on SE(3): retractions, and their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igspad_jax.cameras import pose_errors, se3_exp
from igspad_jax.invert.poses import orthonormalised, retract, twist_basis
from inversions import CENTRE, POSE, is_rigid
from scenes import f32

pytestmark = pytest.mark.usefixtures("quickly_compiled")

_retract = jax.jit(retract, static_argnames="pivot")


def moved(viewmat, tau, *, centre=CENTRE, radius=1.0, pivot="object"):
    return np.asarray(_retract(*map(f32, (viewmat, tau, centre, radius)), pivot=pivot))


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

    def test_camera_pivot_is_the_exponential(self):
        result = moved(POSE, self.TAU, centre=self.OBJECT, pivot="camera")
        expected = np.asarray(se3_exp(jnp.asarray(self.TAU, jnp.float32))) @ POSE
        np.testing.assert_allclose(result, expected, atol=1e-5)

    @pytest.mark.parametrize("pivot", ["object", "camera"])
    def test_zero_is_the_identity_and_any_twist_is_rigid(self, pivot):
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

    def test_orthonormalised_removes_rounding(self):
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
