"""How sure the poses found are: covariances, usual residuals and doubts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inversions import CENTRE, FINE, RADIUS, by_levels, model_of, plain
from scenes import f32
from scipy.spatial.transform import Rotation

from igspad_jax.cameras import pose_errors
from igspad_jax.invert import residuals_at
from igspad_jax.invert.poses import retract
from igspad_jax.invert.verdict import deviations, doubts_of, typical_residuals

pytestmark = pytest.mark.usefixtures("quickly_compiled")


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
