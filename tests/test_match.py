"""Matching images with training views, retrieval, and the first poses that come of both."""

import logging
from collections import Counter

import cv2
import numpy as np
import pytest

from igspad_jax.cameras import intrinsics_from_angle, look_at, pose_errors
from igspad_jax.data import Photograph
from igspad_jax.errors import InputError
from igspad_jax.match import (
    FirstPoses,
    Matches,
    OpenCVMatcher,
    all_views,
    initial_poses,
    look_up,
    match_views,
    most_matched,
    prepare_views,
)
from igspad_jax.match import first_poses as first_poses_module
from igspad_jax.match.lifting import lift
from igspad_jax.match.matching import no_matches
from igspad_jax.match.photometric import find_frames
from igspad_jax.match.retrieval import refine, retrieve
from igspad_jax.match.similarity import (
    compose,
    invert,
    make_similarity,
    scale_and_angle,
    viewmat_from_similarity,
)
from igspad_jax.settings import MatchConfig
from inversions import CENTRE as BLOBS_CENTRE

SIZE = 96
CENTRE = np.array([0.1, -0.2, 0.05])
K = intrinsics_from_angle(0.69, SIZE, SIZE)


def texture(size: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).random((size, size, 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 2.5)
    low, high = blurred.min(), blurred.max()
    return (blurred - low) / (high - low)


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def project(viewmat: np.ndarray, points: np.ndarray) -> np.ndarray:
    seen = (points @ viewmat[:3, :3].T + viewmat[:3, 3]) @ K.T
    return seen[:, :2] / seen[:, 2:]


def balls() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    points = rng.normal(size=(40, 3)) * np.array([0.5, 0.3, 0.2])
    return points + CENTRE, rng.random((40, 3)).astype(np.float32) * 0.8


def draw(viewmat: np.ndarray) -> np.ndarray:
    """A cloud of coloured balls on white, far ones first; drawn large, then area-averaged."""
    factor = 4
    points, colours = balls()
    depth = points @ viewmat[2, :3] + viewmat[2, 3]
    pixels = project(viewmat, points)
    image = np.ones((SIZE * factor, SIZE * factor, 3), np.float32)
    for i in np.argsort(-depth):
        # Pixel centres at +0.5, OpenCV's at whole numbers.
        x, y = (pixels[i] * factor - 0.5).round().astype(int)
        radius = round(0.1 * factor * K[0, 0] / depth[i])
        cv2.circle(image, (int(x), int(y)), radius, colours[i].tolist(), -1)
    return cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def camera(azimuth: float, elevation: float, roll: float = 0.0, distance: float = 4.0):
    a, e = np.radians([azimuth, elevation])
    eye = distance * np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    return look_at(eye + CENTRE, CENTRE, np.array([0.0, 0.0, 1.0]), np.radians(roll))


@pytest.fixture(scope="module")
def drawn():
    viewmats = np.stack([camera(a, e) for e in (-10, 15, 40) for a in range(0, 360, 20)])
    images = np.stack([draw(v) for v in viewmats])
    return images, viewmats, prepare_views(images, viewmats, K, CENTRE)


def test_matcher_recovers_a_homography():
    image = texture(200)
    homography = np.array([[0.95, -0.25, 30.0], [0.22, 0.9, 5.0], [1e-4, -1e-4, 1.0]])
    # The map is between coordinates with pixel centres at +0.5.
    shift = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    warped = cv2.warpPerspective(image, np.linalg.inv(shift) @ homography @ shift, (200, 200))
    matcher = OpenCVMatcher()
    (matches,) = matcher.match(matcher.prepare(warped[None]), matcher.prepare(image[None]))
    assert len(matches) > 40
    assert matches.query_points.shape == matches.reference_points.shape == (len(matches), 2)
    assert np.all((matches.scores > 0) & (matches.scores <= 1))
    ones = np.ones((len(matches), 1))
    true = np.hstack([matches.reference_points, ones]) @ homography.T
    offset = matches.query_points - true[:, :2] / true[:, 2:]
    assert np.mean(np.linalg.norm(offset, axis=1) < 1.0) > 0.9
    # A wrong pixel convention would show as half a pixel here.
    assert np.abs(np.median(offset, axis=0)).max() < 0.1


def test_blank_and_unrelated_images_match_little():
    images = np.stack([np.ones((64, 64, 3), np.float32), texture(64)])
    matcher = OpenCVMatcher()
    features = matcher.prepare(images)
    assert [len(m) for m in matcher.match(features[:1], features)] == [0, 0]
    assert [len(m) > 20 for m in matcher.match(features[1:], features)] == [False, True]
    other = matcher.prepare(texture(64, seed=9)[None])
    assert len(matcher.match(other, features[1:])[0]) < 10


class UprightMatcher:
    """Finds the brightest pixel, where the query is a near copy of the reference."""

    rotation_invariant = False

    def prepare(self, images):
        return np.asarray(images)

    def match(self, query, references):
        found = []
        for reference in references:
            same = np.abs(query[0] - reference).mean() < 1e-3
            points = [
                np.array(np.unravel_index(i.sum(-1).argmax(), i.shape[:2]))[None, ::-1] + 0.5
                for i in (query[0], reference)
            ]
            count = int(same)
            found.append(Matches(points[0][:count], points[1][:count], np.ones(count)))
        return found


@pytest.mark.parametrize("turn", range(4))
def test_upright_matcher_gets_turned_queries(drawn, turn):
    images, viewmats, views = drawn
    query = np.ascontiguousarray(np.rot90(images[5], -turn))
    turns = all_views(query, views)
    assert turns[5] == 90.0 * turn and list(turns) == list(range(len(images)))
    (matches, degrees) = match_views(query, UprightMatcher(), images, turns)[5]
    assert len(matches) == 1 and degrees == 90.0 * turn
    x, y = np.floor(matches.query_points[0]).astype(int)
    u, v = np.floor(matches.reference_points[0]).astype(int)
    np.testing.assert_array_equal(query[y, x], images[5][v, u])
    (hypothesis,) = most_matched(query, views, UprightMatcher(), images, turns)
    assert hypothesis.training_view == 5 and hypothesis.score == 1.0
    # The turned picture is that of the camera found.
    angle = np.radians(degrees)
    middle = np.array([SIZE / 2, SIZE / 2])
    turned = make_similarity(1.0, angle, middle, middle)
    points = balls()[0]
    np.testing.assert_allclose(
        project(hypothesis.viewmat, points), apply(turned, project(viewmats[5], points)), atol=1e-8
    )


def test_paper_rule_picks_the_nearest_view():
    rng = np.random.default_rng(0)
    base = texture(200)
    middle = np.array([100.0, 100.0])
    images = [base]
    for stretch in (0.55, 0.75, 0.95):  # the nearer to 1, the nearer the view
        matrix = np.array([[stretch, 0.3, 0.0], [0.0, 1.0, 0.0]])
        matrix[:, 2] = middle - matrix[:, :2] @ middle
        images.append(cv2.warpAffine(base, matrix, (200, 200)))
    references = np.stack([*images[1:], rng.random((200, 200, 3)).astype(np.float32)])
    viewmats = np.stack([camera(a, 10) for a in (50, 30, 10, 170)])
    views = prepare_views(references, viewmats, intrinsics_from_angle(0.69, 200, 200), CENTRE)
    matcher = OpenCVMatcher()
    found = most_matched(
        images[0], views, matcher, matcher.prepare(references), all_views(images[0], views), count=2
    )
    assert [h.training_view for h in found] == [2, 1]
    assert found[0].score > found[1].score and found[0].source == "matches"
    np.testing.assert_allclose(found[0].viewmat, viewmats[2], atol=1e-9)
    blank = np.ones((200, 200, 3), np.float32)
    turns = all_views(blank, views)
    assert most_matched(blank, views, matcher, matcher.prepare(references), turns) == []


def test_similarity_algebra():
    a = make_similarity(1.3, 0.4, np.array([3.0, 2.0]), np.array([10.0, 20.0]))
    np.testing.assert_allclose(apply(a, np.array([3.0, 2.0])), [10.0, 20.0])
    np.testing.assert_allclose(scale_and_angle(a), (1.3, 0.4))
    np.testing.assert_allclose(compose(a, invert(a)), np.eye(2, 3), atol=1e-12)


def test_viewmat_from_similarity_moves_the_picture():
    viewmat = camera(30, 20)
    similarity = make_similarity(1.2, 0.5, np.array([40.0, 50.0]), np.array([55.0, 45.0]))
    moved = viewmat_from_similarity(viewmat, K, similarity, CENTRE)
    np.testing.assert_allclose(moved[:3, :3] @ moved[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(moved[:3, :3]) > 0
    seen = project(viewmat, CENTRE[None])
    np.testing.assert_allclose(project(moved, CENTRE[None]), apply(similarity, seen), atol=1e-9)
    # Near the centre the pictures agree to first order in the object's size.
    for size in (0.02, 0.01):
        points = CENTRE + size * np.random.default_rng(0).normal(size=(20, 3))
        offset = project(moved, points) - apply(similarity, project(viewmat, points))
        assert np.abs(offset).max() < 6.0 * size, size


def test_pure_rotation_and_scale_are_exact():
    viewmat, middle = camera(100, -5), K[:2, 2]
    points = CENTRE + 0.4 * np.random.default_rng(0).normal(size=(20, 3))
    turn = make_similarity(1.0, -0.7, middle, middle)
    moved = viewmat_from_similarity(viewmat, K, turn, CENTRE)
    expected = apply(turn, project(viewmat, points))
    np.testing.assert_allclose(project(moved, points), expected, atol=1e-9)
    nearer = viewmat_from_similarity(viewmat, K, make_similarity(2.0, 0.0, middle, middle), CENTRE)
    np.testing.assert_allclose(
        pose_errors(nearer, camera(100, -5, distance=2.0), CENTRE), 0.0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("azimuth", "elevation", "roll"), [(20, 15, 0), (64, 12, 100), (311, 31, -40)]
)
def test_retrieval_finds_the_view(drawn, azimuth, elevation, roll):
    _, viewmats, views = drawn
    true = camera(azimuth, elevation, roll, distance=3.6)
    true[:3, 3] += [0.15, -0.1, 0.0]
    query = draw(true)
    query[40:52, 44:56] = [1.0, 0.0, 1.0]  # a defect
    found = initial_poses(look_up(query, views), views, count=4)
    degrees = [pose_errors(h.viewmat, true, CENTRE)[0] for h in found]
    assert degrees[0] < 12.5  # half the larger step of the training grid
    assert found[0].source == "blend" and found[1].source == "view"
    assert all(0.0 <= h.score <= 1.0 for h in found)
    unrolled = pose_errors(viewmats, camera(azimuth, elevation), CENTRE)[0]
    assert unrolled[found[0].training_view] < 20.0
    assert abs(found[0].rotation_deg - roll) < 15.0


def test_missing_half_is_still_found(drawn):
    _, _, views = drawn
    true = camera(100, 15)
    query = draw(true)
    query[:, SIZE // 2 :] = 1.0
    found = initial_poses(look_up(query, views), views)
    assert pose_errors(found[0].viewmat, true, CENTRE)[0] < 15.0


def test_refine_recovers_the_similarity(drawn):
    images, _, views = drawn
    middle = np.array([SIZE / 2, SIZE / 2])
    true = make_similarity(0.9, 0.3, middle, middle + np.array([4.0, -3.0]))
    matrix = true.copy()
    matrix[:, 2] += 0.5 * true[:, :2].sum(axis=1) - 0.5
    query = cv2.warpAffine(images[7], matrix, (SIZE, SIZE), borderValue=(1.0, 1.0, 1.0))
    best = refine(query, views, retrieve(query, views))[0]
    assert best.view == 7 and best.agreement > 0.9
    corners = np.array([[20.0, 20.0], [70.0, 30.0], [40.0, 80.0]])
    np.testing.assert_allclose(apply(best.similarity, corners), apply(true, corners), atol=0.7)


def test_background_that_is_not_plain_means_the_whole_image():
    whole = find_frames(texture(64)).box
    assert whole.radius == 32.0
    np.testing.assert_array_equal(whole.centre, [32.0, 32.0])
    image = np.full((64, 64, 3), 0.3, np.float32)
    image[10:20, 30:50] = 0.9
    np.testing.assert_allclose(find_frames(image).box.centre, [40.0, 15.0])
    np.testing.assert_allclose(find_frames(image).centroid.centre, [40.0, 15.0])


def test_inputs_are_checked(drawn):
    images, viewmats, views = drawn
    with pytest.raises(InputError, match="32x32"):
        look_up(np.ones((32, 32, 3), np.float32), views)
    with pytest.raises(InputError, match="viewmats"):
        prepare_views(images, viewmats[:3], K, CENTRE)
    with pytest.raises(InputError, match="behind"):
        prepare_views(images, viewmats, K, CENTRE + np.array([100.0, 0.0, 0.0]))
    with pytest.raises(InputError, match="shape"):
        OpenCVMatcher().prepare(images[0])
    with pytest.raises(InputError, match="finite"):
        OpenCVMatcher().prepare(np.full((1, 32, 32, 3), np.nan))


class KnownMatches:
    """Knows where points of the training views are in the query, or finds nothing."""

    rotation_invariant = True

    def __init__(self, found):
        self.found = found

    def prepare(self, images):
        return range(len(images))

    def match(self, query, references):
        return [self.found[view] for view in references]


@pytest.mark.usefixtures("quickly_compiled")
class TestFirstPoses:
    """Of the object that other files invert, at the poses of its `images`."""

    @pytest.fixture
    def make(self, model, training):
        camera = model.working_camera

        def make(initial="retrieval", **settings):
            config = MatchConfig(matcher="opencv", initial=initial, **settings)
            first_poses = FirstPoses(model, training, config)
            return lambda image: first_poses(Photograph.read(image, camera.lens, camera))

        return make

    @pytest.fixture
    def matches_of(self, model, training):
        """Per training view, where a query at a pose shows what is at every other of its pixels."""
        x, y = np.meshgrid(np.arange(1, 40, 2) + 0.25, np.arange(1, 40, 2) + 0.25)
        pixels = np.stack([x.ravel(), y.ravel()], axis=1)
        lifted = [
            lift(pixels, *model.depth(viewmat), viewmat, training.K)
            for viewmat in training.viewmats.astype(np.float64)
        ]

        def matches_of(pose):
            found = []
            for world, sure in lifted:
                seen = (world @ pose[:3, :3].T + pose[:3, 3]) @ training.K.T
                query = seen[:, :2] / seen[:, 2:]
                found.append(Matches(query[sure], pixels[sure], np.ones(sure.sum())))
            return found

        return matches_of

    @pytest.fixture
    def exact(self, matches_of, true_poses):
        return matches_of(true_poses[0])

    @staticmethod
    def errors(found, true):
        return pose_errors(np.stack([pose.viewmat for pose in found]), true, BLOBS_CENTRE)[0]

    def test_the_one_that_explains_the_image_best_comes_first(
        self, model, images, true_poses, make
    ):
        first_poses = make()
        for image, true in zip(images, true_poses, strict=True):
            found = first_poses(image)
            assert len(found) == 4
            assert self.errors(found, true)[0] < 19.0  # half the distance between the views
            renders = model.renders(np.stack([pose.viewmat for pose in found]))
            residuals = model.residuals(image, renders)
            assert np.all(np.diff(residuals) > -1e-6) and residuals[0] < 0.35 < residuals[-1]

    def test_poses_repeat_where_there_are_fewer(self, images, make):
        found = [pose.viewmat.tobytes() for pose in make(hypotheses=40)(images[0])]
        times = Counter(found)
        assert len(found) == 40 and len(times) < 30  # views alike in one way or another, and blends
        assert max(times.values()) - min(times.values()) <= 1
        alone = make(hypotheses=len(times))(images[0])
        assert {pose.viewmat.tobytes() for pose in alone} == set(times)

    def test_lifted_matches_beside_retrieval(self, monkeypatch, images, true_poses, make, exact):
        matcher = KnownMatches(exact)
        monkeypatch.setattr(first_poses_module, "make_matcher", lambda name, sources: matcher)
        found = make("pnp", hypotheses=6, shortlist=0)(images[0])
        assert found[0].source == "pnp" and self.errors(found, true_poses[0])[0] < 1.0
        sources = [pose.source for pose in found]
        assert sources.count("pnp") == 1 and {"blend", "view"} & set(sources)
        assert self.errors(found, true_poses[0])[sources.index("blend")] > 5.0

    @pytest.mark.parametrize(("hypotheses", "lifted"), [(1, 1), (2, 1), (4, 2), (9, 3)])
    def test_half_the_poses_at_most_are_of_lifted_matches(
        self, monkeypatch, images, true_poses, make, matches_of, hypotheses, lifted
    ):
        """However many there are: here views match three different poses."""
        matched = [matches_of(pose) for pose in true_poses]
        matcher = KnownMatches([matched[view % 3][view] for view in range(24)])
        monkeypatch.setattr(first_poses_module, "make_matcher", lambda name, sources: matcher)
        found = make("pnp", hypotheses=hypotheses, shortlist=0)(images[0])
        assert sum(pose.source == "pnp" for pose in found) == lifted

    @pytest.mark.parametrize("initial", ["pnp", "matches"])
    def test_an_image_without_matches_starts_from_retrieval(
        self, monkeypatch, caplog, images, true_poses, make, initial
    ):
        nothing = KnownMatches([no_matches()] * 24)
        monkeypatch.setattr(first_poses_module, "make_matcher", lambda name, sources: nothing)
        with caplog.at_level(logging.WARNING):
            found = make(initial)(images[0])
        assert ("starts from retrieval" in caplog.text) == (initial == "matches")
        assert {pose.source for pose in found} == {"blend", "view"}
        assert self.errors(found, true_poses[0])[0] < 19.0

    def test_the_paper_starts_at_the_view_with_most_matches(
        self, monkeypatch, images, training, make, exact
    ):
        few = [Matches(m.query_points[:9], m.reference_points[:9], m.scores[:9]) for m in exact]
        few[5] = exact[5]
        matcher = KnownMatches(few)
        monkeypatch.setattr(first_poses_module, "make_matcher", lambda name, sources: matcher)
        (found,) = make("matches", hypotheses=1, shortlist=0)(images[0])
        assert (found.source, found.training_view) == ("matches", 5)
        assert found.score == len(exact[5])
        turned = found.viewmat[:3, :3] @ training.viewmats[5][:3, :3].T
        np.testing.assert_allclose(turned[2], [0.0, 0.0, 1.0], atol=1e-5)  # in the plane alone

    def test_only_the_shortlist_is_matched(self, monkeypatch, images, make, exact):
        asked = []

        class Noted(KnownMatches):
            def match(self, query, references):
                asked.extend(references)
                return super().match(query, references)

        matcher = Noted(exact)
        monkeypatch.setattr(first_poses_module, "make_matcher", lambda name, sources: matcher)
        make("pnp", shortlist=3)(images[0])
        assert len(asked) == 3
        make("pnp", shortlist=0)(images[0])
        assert sorted(asked[3:]) == list(range(24))

    def test_an_image_of_another_size(self, make):
        with pytest.raises(InputError, match="32 px wide and cannot be loaded at 40 px"):
            make()(np.ones((24, 32, 3), np.float32))
