"""The normal object: its levels, its renders and the residuals of images."""

import jax.numpy as jnp
import numpy as np
import pytest

from igspad_jax.normal_object import NormalObject
from igspad_jax.render import Capacity
from igspad_jax.render.projection import BLUR
from inversions import BACKGROUND, CENTRE, RADIUS, SIZE, model_of

pytestmark = pytest.mark.usefixtures("quickly_compiled")


class TestNormalObject:
    def test_views_are_smaller_cameras_of_the_same_object(self, scene):
        model = NormalObject(
            scene,
            np.array([[70.0, 0.0, 29.0], [0.0, 66.0, 23.0], [0.0, 0.0, 1.0]]),
            width=60,
            height=44,
            background=BACKGROUND,
            centre=CENTRE,
            radius=RADIUS,
            capacity=Capacity(),
        )
        view = model.level(24, 0)
        assert (view.width, view.height) == (24, 18)  # 17.6, and K by what it was rounded to
        expected = [[28.0, 0.0, 11.6], [0.0, 66.0 * 18 / 44, 23.0 * 18 / 44], [0.0, 0.0, 1.0]]
        np.testing.assert_allclose(view.K, expected, rtol=1e-6)
        assert view.gaussians is scene
        # The splats' own blur shrinks with the image; the larger pixels add theirs.
        assert BLUR * 0.4**2 < view.splat_blur < BLUR
        assert model.level(24, 0) is view

    def test_full_width_for_zero_or_wider(self, model, scene):
        for width in (0, SIZE, 10 * SIZE):
            view = model.level(width, 0)
            assert (view.width, view.height) == (SIZE, SIZE)
            np.testing.assert_array_equal(view.K, model.K)
            assert view.splat_blur == pytest.approx(BLUR)
            assert view.capacity is model.capacity and view.gaussians is scene
        assert model.level(24, 0).capacity is not model.capacity

    def test_merged_by_cells_of_the_radius(self, model, scene):
        coarse = model.level(24, 3).gaussians
        assert model.level(0, 3).gaussians is coarse  # merged once
        shows = np.asarray(coarse.opacities) > 0.005
        assert len(coarse) == 1024 and 20 < shows.sum() < 120
        cells = np.floor(np.asarray(coarse.means)[shows] / (RADIUS / 3))
        assert len(np.unique(cells, axis=0)) == shows.sum()

    def test_renders_with_gain_and_bias(self, model, scene, images, true_poses):
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

    def test_residuals(self, model, images):
        np.testing.assert_allclose(model.residuals(images, images), 0.0, atol=1e-6)
        # A quarter of the truncation, wherever the object shows.
        np.testing.assert_allclose(model.residuals(images + 0.05, images), 0.25, rtol=1e-3)
        blank = model.residuals(np.ones_like(images), images)
        assert np.all((blank > 0.7) & (blank <= 1.0))

    def test_residual_of_a_defect_depends_on_its_area_only(self, model, images):
        dark, darker = images.copy(), images.copy()
        dark[:, 15:25, 15:25] = 0.0
        darker[:, 15:25, 15:25] = -9.0
        found = [model.residuals(defective, images) for defective in (dark, darker)]
        assert np.all(found[0] < 0.2) and np.all(found[1] < 0.2)

    def test_residuals_of_exposed_renders(self, model, true_poses):
        light = np.tile(np.array([[0.8, 0.1]], np.float32), (3, 1))
        bright = model.renders(true_poses, light)
        assert model.residuals(bright, model.renders(true_poses, light)).max() < 1e-4
        assert model.residuals(bright, model.renders(true_poses)).min() > 0.05

    def test_residuals_broadcast_over_hypotheses(self, model, images, starts, true_poses):
        """[n, k] in the order given."""
        hypotheses = np.concatenate([true_poses[:1], starts[0]])[None]
        found = model.residuals(images[:1, None], model.renders(hypotheses))
        assert found.shape == (1, 3)
        assert found[0, 0] < 1e-5 < 0.3 < found[0, 1]
