"""Poses from matches that are lifted to a ball's surface, whose depth is known exactly.

The matcher is a fake that knows where the camera is: it gives exact matches, wrong ones, or none.
"""

import dataclasses
import functools

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from igspad_jax.cameras import look_at, pose_errors
from igspad_jax.errors import InputError
from igspad_jax.match import Matches, all_views, pnp_poses, prepare_views
from igspad_jax.match.lifting import lift
from igspad_jax.render import Capacity, render_views
from igspad_jax.scene import Gaussians

SIZE = 32


def project(points, viewmat, K):
    seen = (points @ viewmat[:3, :3].T + viewmat[:3, 3]) @ K.T
    return seen[:, :2] / seen[:, 2:]


def surface(ball, count=400):
    """[count, 3] points spread over the ball, and its outward normals there."""
    normals = np.random.default_rng(0).normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return ball.centre + ball.radius * normals, normals


def faces(normals, points, viewmat):
    """[m] whether points of the ball are well inside its picture."""
    to_eye = -viewmat[:3, :3].T @ viewmat[:3, 3] - points
    return np.sum(normals * to_eye, axis=1) > 0.4 * np.linalg.norm(to_eye, axis=1)


def true_matches(ball, viewmat):
    """Per training view, exact matches of what it shows together with the camera `viewmat`."""
    points, normals = surface(ball)
    found = []
    for reference in ball.viewmats:
        both = points[faces(normals, points, viewmat) & faces(normals, points, reference)]
        in_query, in_reference = project(both, viewmat, ball.K), project(both, reference, ball.K)
        found.append(Matches(in_query, in_reference, np.ones(len(both))))
    return found


def spoilt(matches, share, seed=1):
    """The matches with a share of the query's points put anywhere."""
    rng = np.random.default_rng(seed)
    result = []
    for m in matches:
        wrong = rng.random(len(m)) < share
        anywhere = rng.uniform(0, SIZE, m.query_points.shape)
        query_points = np.where(wrong[:, None], anywhere, m.query_points)
        result.append(dataclasses.replace(m, query_points=query_points))
    return result


class Oracle:
    """Hands out the matches it was made with."""

    rotation_invariant = True

    def __init__(self, matches):
        self.matches = matches

    def prepare(self, images):
        return range(len(self.matches))

    def match(self, query, references):
        return [self.matches[i] for i in references]


@pytest.fixture(scope="module")
def views(ball_views):
    return prepare_views(ball_views.images, ball_views.viewmats, ball_views.K, ball_views.centre)


@pytest.fixture(scope="module")
def depth_of(ball_views):
    x, y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(ball_views.K).T

    @functools.cache
    def depth_of(view):
        viewmat = ball_views.viewmats[view]
        centre = viewmat[:3, :3] @ ball_views.centre + viewmat[:3, 3]
        # |z ray - centre| = radius, the nearer of the two solutions.
        a, b = np.sum(rays**2, axis=-1), rays @ centre
        inside = b**2 - a * (centre @ centre - ball_views.radius**2)
        hit = inside > 0
        z = (b - np.sqrt(np.where(hit, inside, 0.0))) / a
        return np.where(hit, z, 0.0), hit.astype(np.float32)

    return depth_of


def somewhere(roll=0.0):
    """A camera between the training views, rolled by `roll` radians."""
    eye, target = np.array([1.9, 1.6, 1.2]), np.array([0.05, 0.0, -0.04])
    return look_at(eye, target, np.array([0.0, 0.0, 1.0]), roll)


def poses(views, depth_of, matches, **kwargs):
    query = np.ones((SIZE, SIZE, 3), np.float32)
    matcher = Oracle(matches)
    turns = all_views(query, views)
    return pnp_poses(query, views, matcher, matcher.prepare(None), depth_of, turns, **kwargs)


class TestLift:
    K = np.array([[40.0, 0.0, 15.0], [0.0, 50.0, 12.0], [0.0, 0.0, 1.0]])
    viewmat = somewhere(0.4)

    def test_between_the_pixels(self):
        """A depth that is linear over the image is found exactly where it is asked for."""
        x, y = np.meshgrid(np.arange(30) + 0.5, np.arange(24) + 0.5)
        points = np.random.default_rng(0).uniform(2.0, 22.0, (50, 2))
        depth = 3.0 + 0.02 * x - 0.01 * y
        world, sure = lift(points, depth, np.ones_like(depth), self.viewmat, self.K)
        assert sure.all()
        np.testing.assert_allclose(project(world, self.viewmat, self.K), points, atol=1e-9)
        z = world @ self.viewmat[2, :3] + self.viewmat[2, 3]
        np.testing.assert_allclose(z, 3.0 + points @ [0.02, -0.01], atol=1e-9)

    def test_where_there_is_no_surface(self):
        depth, alpha = np.full((24, 30), 3.0), np.ones((24, 30))
        depth[:, 10:20], depth[:, 20:] = 4.0, 0.0  # a step, then nothing
        alpha[12:, :] = 0.5
        points = np.array([[5.0, 5.0], [10.0, 5.0], [15.0, 5.0], [20.0, 5.0], [25.0, 5.0]])
        low = points + np.array([0.0, 7.0])  # between a covered row and one that is not
        sure = lift(np.concatenate([points, low]), depth, alpha, self.viewmat, self.K)[1]
        np.testing.assert_array_equal(sure, [True, False, True, False, False] + 5 * [False])

    def test_the_rim_of_the_image(self):
        corners = np.array([[0.1, 0.1], [29.9, 23.9]])
        flat = np.full((24, 30), 3.0)
        world, sure = lift(corners, flat, np.ones_like(flat), self.viewmat, self.K)
        assert sure.all()
        np.testing.assert_allclose(project(world, self.viewmat, self.K), corners, atol=1e-9)

    def test_on_the_ball(self, ball_views, depth_of):
        viewmat, K = ball_views.viewmats[4], ball_views.K
        points, normals = surface(ball_views)
        points = points[faces(normals, points, viewmat)]
        depth, alpha = depth_of(4)
        world, sure = lift(project(points, viewmat, K), depth, alpha, viewmat, K)
        assert sure.mean() > 0.9
        assert np.abs(world - points)[sure].max() < 0.02 * ball_views.radius


class TestPoses:
    @pytest.mark.parametrize("roll", [0.0, 2.5])
    @pytest.mark.parametrize("share", [0.0, 0.6])
    def test_exact_matches_among_wrong_ones(self, ball_views, views, depth_of, roll, share):
        true = somewhere(roll)
        matches = spoilt(true_matches(ball_views, true), share)
        first, *others = poses(views, depth_of, matches)
        degrees, percent = pose_errors(first.viewmat, true, ball_views.centre)
        assert degrees < 0.5 and percent < 1.0
        rotation = first.viewmat[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
        assert first.source == "pnp" and first.score > 20
        assert [h.score for h in others] == sorted((h.score for h in others), reverse=True)
        assert all(h.score <= first.score for h in others)
        shared = [len(m) for m in matches]
        assert shared[first.training_view] > 0.5 * max(shared)

    def test_equal_poses_are_one(self, ball_views, views, depth_of):
        matches = true_matches(ball_views, somewhere())
        assert sum(len(m) > 20 for m in matches) > 2  # each alone would give the pose
        assert len(poses(views, depth_of, matches, count=9)) == 1

    def test_a_view_that_disagrees_is_another_hypothesis(self, ball_views, views, depth_of):
        true, other = somewhere(), somewhere(1.0)
        matches = true_matches(ball_views, true)
        view = max(range(len(matches)), key=lambda i: len(matches[i]))
        matches[view] = true_matches(ball_views, other)[view]
        first, second = poses(views, depth_of, matches, count=2)
        assert pose_errors(first.viewmat, true, ball_views.centre)[0] < 0.5
        assert pose_errors(second.viewmat, other, ball_views.centre)[0] < 0.5
        assert second.training_view == view
        (only,) = poses(views, depth_of, matches, count=1)
        assert only.score == first.score

    def test_rotation_in_the_plane(self, ball_views, views, depth_of):
        cos, sin = np.cos(0.7), np.sin(0.7)
        roll = np.eye(4)
        roll[:2, :2] = [[cos, -sin], [sin, cos]]
        matches = true_matches(ball_views, roll @ ball_views.viewmats[3])
        found = poses(views, depth_of, matches)[0]
        assert found.training_view == 3
        np.testing.assert_allclose(np.radians(found.rotation_deg), 0.7, atol=0.01)

    def test_the_same_every_time(self, ball_views, views, depth_of):
        matches = spoilt(true_matches(ball_views, somewhere()), 0.7)
        runs = []
        for seed in (1, 2):
            cv2.setRNGSeed(seed)
            runs.append([h.viewmat for h in poses(views, depth_of, matches)])
        np.testing.assert_array_equal(*runs)


class TestNoPose:
    def test_no_matches(self, ball_views, views):
        def never(view):
            raise AssertionError(f"the depth of view {view} is not needed")

        nothing = Matches(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
        assert poses(views, never, [nothing] * len(ball_views.viewmats)) == []

    @pytest.mark.parametrize("seed", range(4))
    def test_wrong_matches(self, ball_views, views, depth_of, seed):
        found = poses(views, depth_of, spoilt(true_matches(ball_views, somewhere()), 1.0, seed))
        assert all(h.score < 15 for h in found)

    def test_matches_off_the_object(self, ball_views, views, depth_of):
        matches = true_matches(ball_views, somewhere())
        matches = [dataclasses.replace(m, reference_points=m.reference_points / 8) for m in matches]
        assert poses(views, depth_of, matches) == []

    def test_a_point_matched_in_many_views_counts_once(self, ball_views, views, depth_of):
        """Five points fix a pose, but with one to spare a wrong match would go unnoticed."""
        points, normals = surface(ball_views)
        true = somewhere()
        seen = np.array([faces(normals, points, v) for v in ball_views.viewmats])
        common = np.flatnonzero(faces(normals, points, true))
        common = common[np.argsort(-seen[:, common].sum(axis=0), kind="stable")]

        def matches(count):
            found = []
            for reference, shown in zip(ball_views.viewmats, seen, strict=True):
                both = points[common[:count][shown[common[:count]]]]
                in_query = project(both, true, ball_views.K)
                in_reference = project(both, reference, ball_views.K)
                found.append(Matches(in_query, in_reference, np.ones(len(both))))
            return found

        assert sum(len(m) for m in matches(5)) > 12
        assert poses(views, depth_of, matches(5)) == []
        (found,) = poses(views, depth_of, matches(12))
        assert found.score > 5
        assert pose_errors(found.viewmat, true, ball_views.centre)[0] < 2.0

    def test_object_behind_the_camera(self, ball_views, views, depth_of):
        true = somewhere()
        behind = true[:3, :3].T @ (np.array([0.0, 0.0, -1.0]) - true[:3, 3])
        turned = dataclasses.replace(views, centre=behind)
        assert poses(turned, depth_of, true_matches(ball_views, true)) == []


@pytest.fixture(scope="module")
def ball_scene(ball_views):
    """The ball as a closed shell of opaque Gaussians of one colour."""
    points, _ = surface(ball_views, 6000)
    count = len(points)
    return Gaussians(
        means=jnp.asarray(points, jnp.float32),
        log_scales=jnp.full((count, 3), np.log(0.025)),
        quats=jnp.tile(jnp.array([1.0, 0.0, 0.0, 0.0]), (count, 1)),
        opacity_logits=jnp.full(count, 4.0),
        sh=jnp.zeros((count, 1, 3)),
    )


def test_rendered_depths(ball_views, views, depth_of, ball_scene):
    args = (ball_scene, ball_views.viewmats, ball_views.K)
    kwargs = {"width": SIZE, "height": SIZE, "capacity": Capacity(16384)}
    render = render_views(*args, np.zeros(3), **kwargs)
    depths, alphas = np.asarray(render.depth), np.asarray(render.alpha)
    assert depths.shape == alphas.shape == (16, SIZE, SIZE)
    # Mid grey before black.
    np.testing.assert_allclose(render.colour, 0.5 * alphas[..., None].repeat(3, axis=-1), atol=1e-5)
    for view, (depth, alpha) in enumerate(zip(depths, alphas, strict=True)):
        true, hit = depth_of(view)
        inner = cv2.erode(hit, np.ones((7, 7))) > 0
        assert np.abs(depth - true)[inner].max() < 0.15 * ball_views.radius
        outer = cv2.dilate(hit, np.ones((11, 11))) == 0
        assert not depth[outer].any() and not alpha[outer].any()
    # At pixels this coarse the shell is a few hundredths of its radius thick, so not exact.
    found = poses(views, lambda i: (depths[i], alphas[i]), true_matches(ball_views, somewhere()))
    assert pose_errors(found[0].viewmat, somewhere(), ball_views.centre)[0] < 4.0


class TestInputs:
    def test_query_of_another_size(self, ball_views, views, depth_of):
        with pytest.raises(InputError, match="48x48"):
            pnp_poses(np.ones((48, 48, 3)), views, Oracle([]), [], depth_of, {})

    def test_depth_of_another_size(self, ball_views, views):
        flat = np.ones((16, 16))
        with pytest.raises(InputError, match=r"training view \d+: .*\(16, 16\)"):
            poses(views, lambda view: (flat, flat), true_matches(ball_views, somewhere()))
