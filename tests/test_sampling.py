"""Matching point sampling: its weights, and what both solvers see by them."""

import dataclasses

import numpy as np
import pytest

from igspad_jax.invert.sampling import matching_weights
from inversions import FINE, LEVELS, SIZE, by_descent, by_levels, errors, no_points

pytestmark = pytest.mark.usefixtures("quickly_compiled")

# The last level of `LEVELS`, twice: there is no sampling at the first one.
TWICE = dataclasses.replace(
    FINE,
    **{name: 2 * value for name, value in vars(FINE).items() if isinstance(value, tuple)}
    | {"steps": (0, 6)},
)


def intact_points(image=None, render=None) -> np.ndarray:
    """A grid of points in the upper part of the image; discs of 2 pixels leave the rest out."""
    y, x = np.mgrid[1 : SIZE // 2 - 2 : 2, 1:SIZE:2].reshape(2, -1) + 0.5
    return np.stack([x, y], axis=1)


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


class TestSolvers:
    """The lower half of each image is wrong; the matcher finds points in the upper one only."""

    @pytest.fixture
    def painted(self, model, images, near) -> np.ndarray:
        """Shows the scene from the starting pose below, so that this half wants to stay there."""
        result = images.copy()
        result[:, SIZE // 2 :] = model.renders(near)[:, SIZE // 2 :]
        return result

    def test_levels_ignore_unmatched_pixels(self, model, painted, images, near, true_poses):
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

    def test_levels_match_renders_at_the_current_poses(self, model, images, starts):
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

    def test_descent_ignores_unmatched_pixels(self, model, painted, images, near, true_poses):
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

    def test_descent_matches_again_on_schedule(self, model, images, near):
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
