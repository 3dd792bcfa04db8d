"""From a photograph to a verdict: calibration, coverage, regions, and the inspector itself."""

import dataclasses
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from igspad_jax.cameras import look_at, pose_errors
from igspad_jax.data import LoadedViews, to_uint8
from igspad_jax.detect import own_level, pooled
from igspad_jax.errors import InputError
from igspad_jax.files import write_json
from igspad_jax.inspector import (
    Calibration,
    Inspector,
    Measured,
    PoseEstimate,
    Verdict,
    calibrate,
    find_inspector,
    load_expected,
    load_object,
    save_object,
)
from igspad_jax.inspector.coverage import Coverage
from igspad_jax.inspector.regions import find_regions
from igspad_jax.invert.deviations import deviations
from igspad_jax.invert.poses import retract
from igspad_jax.settings import (
    CalibrateConfig,
    DetectConfig,
    InspectorConfig,
    InvertConfig,
    MatchConfig,
)
from inversions import BACKGROUND, CENTRE, FINE, LEVELS, RADIUS, SIZE, by_levels, model_of, off
from scenes import UP, f32

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

    def test_deviations_are_those_of_poses_drawn_by_the_covariance(self, model, found):
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


def calibration(scores, limit=0.2, farthest=30.0) -> Calibration:
    return Calibration(tuple(sorted(float(score) for score in scores)), limit, farthest)


class TestCalibration:
    def test_p_values(self):
        """The share of the calibration images, and of the image itself, that score as high."""
        four = calibration([1, 2, 3, 4])
        expected = {5.0: 0.2, 4.0: 0.4, 3.5: 0.4, 2.5: 0.6, 1.0: 1.0, 0.0: 1.0}
        assert {score: four.p_value(score) for score in expected} == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("count", "rate", "rank", "kept"),
        [
            (19, 0.05, 1, 1 / 20),  # the largest
            (24, 0.1, 2, 2 / 25),  # 0.1 x 25 = 2.5: the second largest
            (99, 0.29, 29, 29 / 100),  # 0.29 x 100, which is a little less than 29 in floats
            (9, 0.05, 1, 1 / 10),  # too few for 5 %
            (38, 0.05, 1, 1 / 39),
            (39, 0.05, 2, 2 / 40),
            (1, 0.5, 1, 1 / 2),
        ],
    )
    def test_which_score_is_the_threshold(self, count, rate, rank, kept):
        scores = calibration(np.arange(count))
        assert scores.rank(rate) == rank
        assert scores.threshold(rate) == count - rank
        assert scores.kept_rate(rate) == pytest.approx(kept)

    def test_a_higher_rate_never_raises_the_threshold(self):
        rng = np.random.default_rng(0)
        rates = np.linspace(0.001, 0.5, 200)
        for count in (1, 2, 7, 19, 60):
            scores = calibration(rng.integers(0, 20, count))
            thresholds = [scores.threshold(rate) for rate in rates]
            assert np.all(np.diff(thresholds) <= 0)
            assert np.all(np.diff([scores.kept_rate(rate) for rate in rates]) >= 0)

    def test_an_image_fails_where_its_p_value_is_at_most_the_rate(self):
        """Ties with the threshold included, of which integers have many."""
        rng = np.random.default_rng(1)
        for count, rate in ((19, 0.05), (30, 0.1), (7, 0.3), (5, 0.05)):
            for _ in range(20):
                scores = calibration(rng.integers(0, 10, count))
                for score in range(-1, 11):
                    fails = score > scores.threshold(rate)
                    assert fails == (scores.p_value(score) <= scores.kept_rate(rate) + 1e-12)

    @pytest.mark.parametrize(("count", "rate"), [(19, 0.05), (24, 0.1), (9, 0.05), (30, 0.3)])
    def test_so_many_new_normal_images_fail(self, count, rate):
        """Of 4000 calibrations by draws of one distribution, 20 new images each."""
        rng = np.random.default_rng(2)
        draws = rng.gamma(2.0, size=(4000, count + 20))
        failed = np.array(
            [np.mean(draw[count:] > calibration(draw[:count]).threshold(rate)) for draw in draws]
        )
        kept = calibration(np.arange(count)).kept_rate(rate)
        assert failed.mean() == pytest.approx(kept, abs=4.0 * failed.std() / np.sqrt(len(draws)))
        # Of coarse scores, with ties, fewer.
        coarse = np.round(draws)
        failed = np.array(
            [np.mean(draw[count:] > calibration(draw[:count]).threshold(rate)) for draw in coarse]
        )
        assert failed.mean() < kept

    @pytest.mark.parametrize(("count", "rate"), [(19, 0.05), (24, 0.1), (9, 0.05), (120, 0.05)])
    def test_one_calibration_in_twenty_fails_more_than_the_bound(self, count, rate):
        """Of uniform scores, as many fail as the threshold is below 1."""
        draws = np.random.default_rng(3).uniform(size=(20_000, count))
        thresholds = [calibration(draw).threshold(rate) for draw in draws]
        bound = calibration(draws[0]).bound(rate)
        beyond = np.mean(1.0 - np.array(thresholds) > bound)
        assert beyond == pytest.approx(0.05, abs=0.006)

    def test_the_largest_of_59_scores_keeps_5_percent_with_confidence(self):
        """0.95^59 is 0.0485: the chance that all of them are below the highest twentieth."""
        assert calibration(np.arange(59)).bound(1 / 60) == pytest.approx(1 - 0.05 ** (1 / 59))
        assert calibration(np.arange(59)).bound(1 / 60) <= 0.05
        assert calibration(np.arange(58)).bound(1 / 59) > 0.05

    def test_statement(self):
        nine = calibration(np.arange(1, 10)).statement(0.05)
        assert "threshold 9 from 9 calibration images" in nine
        assert "on average 10.0% of normal images fail (5.0% asked for)" in nine
        assert "with 95% confidence fewer than 28.3%" in nine
        assert "5.0% takes at least 19 calibration images" in nine
        enough = calibration(np.arange(1, 20)).statement(0.05)
        assert "threshold 19 from 19" in enough and "at least" not in enough
        assert "on average 5.0% of" in enough and "fewer than 14.6%" in enough

    def test_without_images_nothing_fails_or_passes_for_sure(self):
        nothing = calibration([])
        assert len(nothing) == 0
        assert nothing.threshold(0.05) == nothing.typical == math.inf
        assert nothing.p_value(1e9) == 1.0
        assert "give some normal photographs" in nothing.statement(0.05)

    def test_typical_score_is_the_median(self):
        assert calibration([1, 2, 3, 10, 50]).typical == 3.0


def measured(name, score=1.0, residual=0.03, wrong=0.4, degrees=10.0, error=0.1) -> Measured:
    return Measured(name, score, residual, wrong, degrees, error)


class TestCalibrate:
    def test_doubts_begin_between_the_worst_right_and_the_best_wrong_pose(self):
        images = [
            measured("a", residual=0.02, wrong=0.5),
            measured("b", residual=0.05, wrong=0.45),
            measured("c", residual=0.03, wrong=0.8),
        ]
        found = calibrate(images)
        assert found.residual_limit == pytest.approx(math.sqrt(0.05 * 0.45))
        assert 0.05 < found.residual_limit < 0.45
        # Where they overlap, no right pose is doubted.
        images.append(measured("d", residual=0.6))
        overlapping = calibrate(images)
        assert overlapping.residual_limit == 0.6 and len(overlapping) == 4

    def test_scores_of_images_with_a_wrong_pose_do_not_count(self):
        found = calibrate(
            [
                measured("a", score=3.0),
                measured("wrong", score=9.0, residual=0.7, degrees=80.0, error=42.0),
                measured("b", score=1.0),
                measured("c", score=2.0, degrees=20.0),
            ]
        )
        assert found.scores == (1.0, 2.0, 3.0)
        assert found.left_out == ("wrong",)
        assert found.residual_limit == pytest.approx(math.sqrt(0.03 * 0.4))
        # Nor does what it was seen from: 1.25 times the farthest of the others is covered.
        assert found.farthest == pytest.approx(25.0)

    def test_some_degrees_are_covered_about_each_view_in_any_case(self):
        assert calibrate([measured("a", degrees=2.0), measured("b", degrees=3.0)]).farthest == 20.0

    def test_of_photographs_without_poses_those_far_from_the_middle_are_left_out(self):
        residuals = [0.02, 0.03, 0.04, 0.05, 0.5]
        found = calibrate(
            [
                measured(str(i), score=i, residual=residual, wrong=0.4, error=None)
                for i, residual in enumerate(residuals)
            ]
        )
        assert found.residual_limit == pytest.approx(math.sqrt(0.08 * 0.4))
        assert found.scores == (0.0, 1.0, 2.0, 3.0) and found.left_out == ("4",)

    def test_true_poses_tell_where_others_are_not_known(self):
        found = calibrate(
            [
                measured("posed", residual=0.03),
                measured("good", residual=0.08, error=None),
                measured("bad", residual=0.3, error=None),
            ]
        )
        assert found.residual_limit == pytest.approx(math.sqrt(0.03 * 0.4))
        assert found.left_out == ("bad",)

    def test_an_image_whose_pose_was_not_found_is_left_out(self):
        lost = measured("lost", residual=math.nan, score=math.nan, error=None)
        found = calibrate([measured("a", error=None), lost, measured("b", error=None)])
        assert found.scores == (1.0, 1.0) and found.left_out == ("lost",)

    def test_all_poses_wrong(self):
        with pytest.raises(InputError, match=r"all 2 calibration images are wrong.*more or better"):
            calibrate([measured("a", error=6.0), measured("b", error=120.0)])


class TestCoverage:
    """Seen from distance 3, at heights given in degrees."""

    @staticmethod
    def pose(azimuth, elevation=0.0, roll=0.0, distance=3.0, target=CENTRE) -> np.ndarray:
        a, e = np.radians([azimuth, elevation])
        eye = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
        return look_at(CENTRE + distance * eye, target, UP, np.radians(roll))

    def covered(self, *poses) -> Coverage:
        return Coverage(np.stack([self.pose(*pose) for pose in poses]), CENTRE)

    def test_degrees_to_the_nearest_view(self):
        ring = self.covered(*((a, 0.0) for a in range(0, 360, 60)))
        for azimuth, elevation, degrees in ((0, 0, 0), (25, 0, 25), (100, 0, 20), (60, 50, 50)):
            assert ring.distance(self.pose(azimuth, elevation))[0] == pytest.approx(
                degrees, abs=1e-4
            )

    def test_neither_distance_nor_aim_matters(self):
        """The direction is that of the camera from the object, not where its axis points."""
        one = self.covered((30.0, 20.0))
        for distance, target in ((1.5, CENTRE), (3.0, CENTRE + 0.2)):
            pose = self.pose(30.0, 20.0, distance=distance, target=target)
            assert one.distance(pose)[0] == pytest.approx(0.0, abs=1e-4)

    @pytest.mark.parametrize("roll", [0.0, 40.0, -40.0, 90.0, 179.0, 180.0])
    @pytest.mark.parametrize("azimuth", [0.0, 14.0])
    def test_roll(self, azimuth, roll):
        ring = self.covered(*((a, 0.0) for a in range(0, 360, 30)))
        found = ring.distance(self.pose(azimuth, 0.0, roll))
        assert found[0] == pytest.approx(azimuth, abs=1e-4)
        assert found[1] == pytest.approx(abs(roll), abs=1e-4)

    def test_roll_from_few_views_all_around(self):
        ring = self.covered(*((a, 0.0) for a in range(0, 360, 60)))
        assert ring.distance(self.pose(0.0, 0.0, 180.0))[1] == pytest.approx(180.0, abs=1e-4)

    def test_roll_from_a_higher_view(self):
        """The tilt between the views is no roll, and no roll hides behind a tilt."""
        one = self.covered((0.0, 0.0))
        assert one.distance(self.pose(0.0, 50.0))[1] == pytest.approx(0.0, abs=1e-4)
        assert one.distance(self.pose(0.0, 50.0, 180.0))[1] == pytest.approx(180.0, abs=1e-4)

    def test_the_nearest_view_alone_tells_the_roll(self):
        """A view that is upside down itself, but farther away, makes no difference."""
        covered = self.covered((0.0, 0.0, 0.0), (10.0, 0.0, 180.0))
        assert covered.distance(self.pose(4.0, 0.0, 180.0))[1] == pytest.approx(180.0, abs=1e-4)
        assert covered.distance(self.pose(6.0, 0.0, 180.0))[1] == pytest.approx(0.0, abs=1e-4)


class TestRegions:
    """In a map of 20 x 30 values before a wall 2.5 ahead of the camera."""

    K = np.array([[50.0, 0.0, 17.0], [0.0, 60.0, 12.0], [0.0, 0.0, 1.0]])
    VIEWMAT = look_at(np.array([1.0, -2.0, 0.5]), np.zeros(3), UP, roll=0.4)
    OFFSET = 2

    def regions(self, values, *, seed=1.0, edge=0.5, depth_of=None, alpha=1.0):
        def wall():
            self.asked += 1
            return np.full((24, 34), 2.5), np.full((24, 34), alpha)

        self.asked = 0
        return find_regions(
            np.asarray(values, np.float32), offset=self.OFFSET, seed=seed, edge=edge,
            depth_of=depth_of or wall, viewmat=self.VIEWMAT, K=self.K,
        )  # fmt: skip

    @pytest.fixture
    def values(self):
        values = np.full((20, 30), 0.4)
        values[3:6, 4:9] = 0.6
        values[4, 6] = 2.0
        values[12:14, 20:22] = [[0.9, 1.5], [3.0, 1.2]]
        values[16:19, 2:12] = 0.9  # above the edge, but nothing of it above the seed
        return values

    def test_areas_peaks_and_boxes(self, values):
        strong, weak = self.regions(values)
        assert (strong.area, strong.peak, strong.box) == (4, 3.0, (22, 14, 2, 2))
        assert strong.pixel == (22.5, 15.5)
        assert (weak.area, weak.peak, weak.box) == (15, 2.0, (6, 5, 5, 3))
        assert weak.pixel == (8.5, 6.5)
        assert self.asked == 1

    def test_a_region_grows_down_to_the_edge(self, values):
        assert [region.area for region in self.regions(values, edge=0.7)] == [4, 1]
        assert [region.area for region in self.regions(values, seed=1.4, edge=1.3)] == [2, 1]
        # To the seed at most, and not through what lies below the edge.
        assert [region.area for region in self.regions(values, seed=1.0, edge=9.0)] == [3, 1]
        assert [region.area for region in self.regions(values, edge=0.3)] == [600]

    def test_diagonal_neighbours_are_one_region(self):
        values = np.zeros((20, 30))
        values[[5, 6, 7], [10, 11, 10]] = [1.5, 1.2, 1.1]
        (region,) = self.regions(values)
        assert (region.area, region.box) == (3, (12, 7, 2, 3))
        values[6, 11] = 0.0
        assert len(self.regions(values)) == 2

    def test_points_lie_on_the_surface_behind_the_peak(self, values):
        for region in self.regions(values):
            assert region.point is not None
            seen = self.VIEWMAT[:3, :3] @ region.point + self.VIEWMAT[:3, 3]
            assert seen[2] == pytest.approx(2.5)
            pixel = (self.K @ seen)[:2] / seen[2]
            np.testing.assert_allclose(pixel, region.pixel, atol=1e-9)

    def test_no_point_beside_the_object(self, values):
        assert [region.point for region in self.regions(values, alpha=0.5)] == [None, None]

    def test_none_below_the_seed_and_no_depth_is_asked_for(self, values):
        def never():
            raise AssertionError("there is no region whose depth is needed")

        assert self.regions(values, seed=3.0, depth_of=never) == ()
        assert self.regions(values, seed=math.inf, edge=math.inf, depth_of=never) == ()
        assert len(self.regions(values, seed=2.9)) == 1


CONFIG = InspectorConfig(
    match=MatchConfig(matcher="opencv", initial="retrieval", hypotheses=2),
    invert=InvertConfig(levenberg=LEVELS),
    detect=DetectConfig(features="handmade", pool=0.05),
    calibrate=CalibrateConfig(false_alarm_rate=0.1),
)


@pytest.fixture(scope="module")
def views(training) -> LoadedViews:
    """The training views as a folder keeps them."""
    images = to_uint8(training.images).astype(np.float32) / 255.0
    return dataclasses.replace(training, images=images)


@pytest.fixture(scope="module")
def photographs(model, views, quickly_compiled) -> np.ndarray:
    """[9, H, W, 3] normal ones with some noise, between the training views."""
    renders = model.renders(off(views.viewmats[1:19:2], 12.0, 3.0, seed=5))
    noise = 0.01 * np.random.default_rng(4).normal(size=renders.shape)
    return np.clip(renders + noise, 0.0, 1.0).astype(np.float32)


@pytest.fixture(scope="module")
def inspector(model, views, photographs) -> Inspector:
    inspector = Inspector(model, views, CONFIG)
    inspector.learn()
    inspector.calibrate(photographs)
    return inspector


@pytest.fixture(scope="module")
def normal(images) -> np.ndarray:
    """[3, H, W, 3] other normal photographs."""
    noise = 0.01 * np.random.default_rng(6).normal(size=images.shape)
    return np.clip(images + noise, 0.0, 1.0).astype(np.float32)


@pytest.fixture(scope="module")
def defective(normal) -> np.ndarray:
    """[3, H, W, 3] the same with a block in the wrong colour at the object's middle."""
    defective = normal.copy()
    defective[:, 17:23, 16:22] = 1.0 - np.round(defective[:, 17:23, 16:22])
    return defective


def assert_same(one, other) -> None:
    """Whatever is said of an image is bitwise the same."""
    for name in ("verdict", "doubts", "p_value", "score", "threshold", "regions"):
        assert getattr(one, name) == getattr(other, name), name
    np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)
    np.testing.assert_array_equal(one.viewmat, other.viewmat)
    assert one.pose.residual == other.pose.residual


def changed(pose: PoseEstimate, **values) -> PoseEstimate:
    return dataclasses.replace(pose, **values)


class TestInspector:
    def test_calibrated_on_photographs_without_poses(self, inspector, photographs):
        found = inspector.calibration
        assert len(found) == len(photographs) == 9 and found.left_out == ()
        # Explained but for the noise, and not from other sides.
        assert 0.04 < found.residual_limit < 0.5
        assert 15.0 <= found.farthest < 25.0

    def test_normal_objects_pass(self, inspector, normal, true_poses):
        for image, true in zip(normal, true_poses, strict=True):
            found = inspector(image)
            assert found.verdict is Verdict.PASS and found.doubts == () and found.regions == ()
            assert found.score <= found.threshold == inspector.calibration.scores[-1]
            assert found.p_value >= 0.2
            degrees, percent = pose_errors(found.viewmat, true, CENTRE)
            assert degrees < 0.2 and percent < 0.3 and found.pose.settled

    def test_defects_fail_and_are_located(self, inspector, defective, true_poses):
        for image, true in zip(defective, true_poses, strict=True):
            found = inspector(image)
            assert found.verdict is Verdict.FAIL and found.doubts == ()
            assert found.p_value == pytest.approx(0.1)  # above all nine
            assert found.score > 5.0 * found.threshold
            (region,) = found.regions
            assert region.peak == pytest.approx(found.score, rel=1e-5)
            # The block is 6 pixels wide; features see it from 6 pixels away.
            x, y = region.pixel
            assert 16 <= x <= 22 and 17 <= y <= 23
            left, top, width, height = region.box
            assert 10 <= left <= 16 and 22 <= left + width <= 28
            assert 11 <= top <= 17 and 23 <= top + height <= 29
            assert 36 <= region.area <= width * height
            assert region.point is not None
            assert np.linalg.norm(np.array(region.point) - CENTRE) < 1.1 * RADIUS
            seen = true[:3, :3] @ region.point + true[:3, 3]
            pixel = np.asarray(inspector.normal_object.K, np.float64) @ seen
            np.testing.assert_allclose(pixel[:2] / pixel[2], region.pixel, atol=0.1)
            assert pose_errors(found.viewmat, true, CENTRE)[0] < 0.2

    def test_score_is_that_of_the_pooled_map_over_its_own_level(self, inspector, defective):
        found = inspector(defective[0])
        anomaly_map = found.anomaly_map
        assert anomaly_map.shape == (SIZE, SIZE) and anomaly_map.dtype == np.float32
        level = math.sqrt(own_level(anomaly_map))
        assert found.score == pytest.approx(pooled(anomaly_map, 2).max() / level, rel=1e-6)

    def test_peaks_are_in_the_middle_of_the_pooling_window(self, model, views, inspector, normal):
        detect = dataclasses.replace(CONFIG.detect, pool=0.125)  # 5 pixels
        config = dataclasses.replace(CONFIG, detect=detect)
        coarse = Inspector(model, views, config, calibration=calibration([0.1, 0.2]))
        anomaly_map = np.full((SIZE, SIZE), 0.01, np.float32)
        anomaly_map[18:23, 9:14] = 1.0
        found = coarse.judge(inspector(normal[0]).pose, anomaly_map)
        assert found.score == pytest.approx(1.0 / math.sqrt((25 + 15 * 0.01) / 40))
        (region,) = found.regions
        assert region.pixel == (11.5, 20.5)
        left, top, width, height = region.box
        assert (left + width / 2, top + height / 2) == (11.5, 20.5)

    def test_alone_as_among_others(self, inspector, normal, defective):
        images = [normal[0], defective[1], normal[2]]
        together = list(inspector.inspect(images))
        assert [found.verdict for found in together] == ["PASS", "FAIL", "PASS"]
        for image, found in zip(images, together, strict=True):
            assert_same(inspector(image), found)
        turned_round = list(inspector.inspect(images[::-1]))
        for one, other in zip(turned_round, together[::-1], strict=True):
            assert_same(one, other)

    @pytest.mark.slow
    def test_several_at_once_as_on_accelerators(self, monkeypatch, inspector, normal, defective):
        images = [normal[0], defective[1], normal[2]]
        alone = [inspector(image) for image in images]
        monkeypatch.setattr(Inspector, "batch", 2)
        for found, one in zip(inspector.inspect(images), alone, strict=True):
            assert found.verdict == one.verdict and found.p_value == one.p_value
            assert found.score == pytest.approx(one.score, rel=0.02)
            np.testing.assert_allclose(found.viewmat, one.viewmat, atol=1e-3)

    @pytest.mark.parametrize("kind", ["blank", "noise"])
    def test_another_object_is_not_judged(self, inspector, kind):
        image = np.ones((SIZE, SIZE, 3), np.float32)
        if kind == "noise":
            image = np.random.default_rng(0).random((SIZE, SIZE, 3)).astype(np.float32)
        found = inspector(image)
        assert found.verdict is Verdict.UNSURE
        assert f"leaves {found.pose.residual:.0%} of it unexplained" in found.doubts[0]

    def test_other_rates_ask_for_no_other_inspection(self, inspector, normal):
        found = inspector(normal[1])
        for rate in (0.05, 0.2, 0.5):
            fails = found.score > inspector.calibration.threshold(rate)
            assert inspector.verdict(found, rate) == ("FAIL" if fails else "PASS")
        middling = dataclasses.replace(found, score=inspector.calibration.scores[-2])
        rates = (0.05, 0.1, 0.2, 0.3)
        verdicts = [inspector.verdict(middling, rate) for rate in rates]
        assert verdicts == ["PASS", "PASS", "PASS", "FAIL"]
        doubted = dataclasses.replace(middling, doubts=("no pose found",))
        assert {inspector.verdict(doubted, rate) for rate in rates} == {Verdict.UNSURE}

    def test_uncalibrated(self, model, views, inspector, defective):
        fresh = Inspector(model, views, CONFIG, expected=inspector.expected)
        found = fresh(defective[0])
        assert found.verdict is Verdict.UNSURE
        assert found.doubts == ("the inspector is not calibrated",)
        assert (found.p_value, found.regions) == (1.0, ())
        assert found.score == inspector(defective[0]).score

    def test_calibration_leaves_out_what_it_cannot_explain(self, model, views, photographs):
        other = np.random.default_rng(0).random((SIZE, SIZE, 3)).astype(np.float32)
        fresh = Inspector(model, views, CONFIG)
        found = fresh.calibrate([*photographs[:3], other, *photographs[3:6]])
        assert found is fresh.calibration
        assert len(found) == 6 and found.left_out == ("image 3",)

    def test_what_the_scene_gets_wrong_is_discounted(self, model, views, inspector, true_poses):
        """Of training images with a block painted over each, on the same side of the object."""
        images = views.images.copy()
        left = np.linspace(0, 1, SIZE) < 0.5
        images[:, :, left] = 0.5 * images[:, :, left] + 0.25
        spoilt = Inspector(model, dataclasses.replace(views, images=images), CONFIG)
        spoilt.learn()
        assert spoilt.expected is not None and inspector.expected is not None
        assert spoilt.expected.typical > 5.0 * inspector.expected.typical
        flat = np.ones((SIZE, SIZE), np.float32)
        viewmat = views.viewmats[0]
        expected = spoilt.expected.at(model, viewmat, CONFIG.detect.expected_views)
        left_over = spoilt.discount(flat, viewmat)
        np.testing.assert_allclose(
            left_over,
            1.0 / (1.0 + CONFIG.detect.expected_strength * expected / spoilt.expected.typical),
            rtol=1e-5,
        )
        assert left_over.min() < 0.8

    def test_nothing_is_learnt_where_it_is_not_asked_for(self, model, views):
        detect = dataclasses.replace(CONFIG.detect, expected_strength=0.0)
        plain = Inspector(model, views, dataclasses.replace(CONFIG, detect=detect))
        plain.learn()
        assert plain.expected is None
        anomaly_map = np.random.default_rng(0).random((SIZE, SIZE)).astype(np.float32)
        np.testing.assert_array_equal(plain.discount(anomaly_map, views.viewmats[0]), anomaly_map)


class TestDoubts:
    @pytest.fixture
    def pose(self, inspector, normal) -> PoseEstimate:
        return inspector(normal[0]).pose

    def test_none(self, inspector, pose):
        assert inspector.doubts(pose) == ()

    def test_residual(self, inspector, pose):
        limit = inspector.calibration.residual_limit
        assert inspector.doubts(changed(pose, residual=limit)) == ()
        (doubt,) = inspector.doubts(changed(pose, residual=limit + 0.3))
        assert f"leaves {limit + 0.3:.0%} of it unexplained, up to {limit:.0%}" in doubt

    @pytest.mark.parametrize("lost", ["viewmat", "residual"])
    def test_no_pose(self, inspector, pose, lost):
        value = np.full((4, 4), np.nan) if lost == "viewmat" else math.nan
        assert inspector.doubts(changed(pose, **{lost: value})) == ("no pose found",)

    def test_seen_from_where_no_training_view_is(self, model, views, inspector, pose):
        """Training views from below alone."""
        below = LoadedViews(views.images[:6], views.viewmats[:6], views.K)
        part = Inspector(model, below, CONFIG, calibration=calibration([1], farthest=40.0))
        highest = look_at(CENTRE + np.array([2.0, 0.0, -1.0]), CENTRE, UP)
        degrees = part.coverage.distance(highest)[0]
        assert degrees < 40.0 and part.doubts(changed(pose, viewmat=highest)) == ()
        above = look_at(CENTRE + np.array([0.3, 0.0, 2.0]), CENTRE, UP)
        degrees = part.coverage.distance(above)[0]
        (doubt,) = part.doubts(changed(pose, viewmat=above))
        assert degrees > 90.0
        assert f"{degrees:.0f} degrees from the nearest, up to 40 is covered" in doubt

    @pytest.mark.parametrize(("roll", "doubted"), [(0, False), (125, False), (145, True)])
    def test_upside_down(self, inspector, views, pose, roll, doubted):
        angle = np.radians(roll)
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        doubts = inspector.doubts(changed(pose, viewmat=turn @ views.viewmats[12]))
        assert len(doubts) == doubted
        if doubted:
            assert doubts[0].startswith("upside down: rolled by 1")

    def test_all_at_once(self, model, views, pose):
        strict = calibration([1.0], limit=0.2, farthest=4.0)
        inspector = Inspector(model, views, CONFIG, calibration=strict)
        turn = np.diag([-1.0, -1.0, 1.0, 1.0])
        viewmat = turn @ off(views.viewmats[12:13], 10.0, 0.0, seed=1)[0]
        residual, side, roll = inspector.doubts(changed(pose, residual=0.9, viewmat=viewmat))
        assert residual.startswith("the pose is doubted")
        assert side.startswith("seen from a side") and roll.startswith("upside down")


class TestImages:
    def test_eight_bits(self, inspector, defective):
        image = to_uint8(defective[0])
        exact = image.astype(np.float32) / 255.0
        assert_same(inspector(image), inspector(exact))

    def test_transparent_pixels_are_background(self, inspector, normal):
        image = np.zeros((SIZE, SIZE, 4), np.uint8)
        image[..., :3] = to_uint8(normal[0])
        image[:20, :, 3] = 255
        read = inspector.read(image).image
        np.testing.assert_array_equal(read[:20], to_uint8(normal[0])[:20] / np.float32(255.0))
        np.testing.assert_allclose(read[20:], np.broadcast_to(BACKGROUND, (20, SIZE, 3)))

    def test_larger_images_are_shrunk(self, inspector, normal):
        large = normal[0].repeat(3, axis=0).repeat(3, axis=1)
        np.testing.assert_allclose(inspector.read(large).image, normal[0], atol=1e-6)

    @pytest.mark.parametrize(
        ("shape", "says"),
        [
            ((60, 40, 3), "40 x 60 px.* not the shape of the training images, 40 x 40: take it"),
            ((80, 120, 3), "120 x 80 px.* not the shape of the training images, 40 x 40: take it"),
            ((30, 30, 3), "image is 30 px wide and cannot be loaded at 40 px"),
            ((40, 40), r"is no image: pass uint8 \[H, W, 3 or 4\]"),
            ((40, 40, 2), "is no image: pass uint8"),
        ],
    )
    def test_wrong_shapes(self, inspector, shape, says):
        for dtype in (np.uint8, np.float32):
            with pytest.raises(InputError, match=says) as caught:
                inspector(np.zeros(shape, dtype))
            assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("value", [np.nan, 2.0, -0.5])
    def test_wrong_values(self, inspector, normal, value):
        image = normal[0].copy()
        image[3, 4, 1] = value
        with pytest.raises(InputError, match=r"not in \[0, 1\]; pass uint8, or scale them"):
            inspector(image)


@pytest.fixture(scope="module")
def folder(inspector, tmp_path_factory):
    """An inspector's folder."""
    folder = tmp_path_factory.mktemp("saved") / "object"
    save_object(folder, inspector.normal_object, inspector.views, [f"a{i}" for i in range(24)])
    inspector.save(folder, with_object=False, expected_key="key")
    return folder


@pytest.fixture
def copied(folder, tmp_path):
    """A copy at another place."""
    shutil.copytree(folder, tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


def alter(path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


class TestFolder:
    def test_a_copy_gives_the_same_results(self, inspector, copied, normal, defective):
        again = Inspector.load(copied)
        assert again.config == inspector.config
        assert again.calibration == inspector.calibration
        for image in (normal[0], defective[1]):
            assert_same(again(image), inspector(image))

    def test_the_object_is_what_was_saved(self, inspector, copied):
        normal_object, views = load_object(copied)
        for name in ("means", "log_scales", "quats", "opacity_logits", "sh"):
            np.testing.assert_array_equal(
                getattr(normal_object.gaussians, name),
                getattr(inspector.normal_object.gaussians, name),
            )
        for name in ("K", "background", "centre", "radius"):
            np.testing.assert_array_equal(
                getattr(normal_object, name), getattr(inspector.normal_object, name)
            )
        assert (normal_object.width, normal_object.height) == (SIZE, SIZE)
        np.testing.assert_array_equal(views.images, inspector.views.images)
        np.testing.assert_array_equal(views.viewmats, inspector.views.viewmats)

    def test_saved_whole_into_an_empty_folder(self, inspector, tmp_path, normal):
        inspector.save(tmp_path / "new")
        assert len(list((tmp_path / "new/views").iterdir())) == 24
        assert_same(Inspector.load(tmp_path / "new")(normal[0]), inspector(normal[0]))

    def test_found_in_the_folder_of_a_run(self, copied, tmp_path):
        inside = tmp_path / "run/01Thing/object"
        inside.parent.mkdir(parents=True)
        shutil.move(copied, inside)
        assert find_inspector(tmp_path / "run") == inside
        assert find_inspector(tmp_path / "run/01Thing") == inside
        assert find_inspector(inside) == inside
        shutil.copytree(inside, tmp_path / "run/02Other/object")
        with pytest.raises(InputError, match=r"several trained objects, choose one: .*02Other"):
            Inspector.load(tmp_path / "run")
        with pytest.raises(InputError, match=r"holds no trained object.*igspad-train"):
            Inspector.load(tmp_path)

    @pytest.mark.parametrize("file", ["object.json", "inspector.json"])
    def test_another_format(self, copied, file):
        alter(copied / file, format=1)
        with pytest.raises(InputError, match=rf"{file}: format 1, this program reads format 2"):
            Inspector.load(copied)

    def test_other_weights(self, copied, tmp_path):
        """By the hash of what would be read, not by the name."""
        (tmp_path / "xfeat.pt").write_bytes(b"these")
        alter(copied / "inspector.json", weights={"xfeat": "0" * 64})
        with pytest.raises(InputError, match=r"weights xfeat on this machine are not those.*copy"):
            Inspector.load(copied, {"xfeat": str(tmp_path / "xfeat.pt")})

    def test_weights_are_saved_by_their_hash(self, inspector, copied, tmp_path, normal):
        """Settings that take weights; loading asks for the same file, wherever it lies."""
        config = dataclasses.replace(CONFIG, detect=DetectConfig(features="resnet18"))
        path = tmp_path / "resnet.pt"
        path.write_bytes(b"these")
        other = Inspector(
            inspector.normal_object, inspector.views, config, expected=inspector.expected,
            sources={"resnet18": str(path)},
        )  # fmt: skip
        other.save(copied, with_object=False)
        path.rename(tmp_path / "renamed.pt")
        loaded = Inspector.load(copied, {"resnet18": str(tmp_path / "renamed.pt")})
        assert loaded.config == config
        (tmp_path / "renamed.pt").write_bytes(b"those")
        with pytest.raises(InputError, match="weights resnet18 on this machine are not those"):
            Inspector.load(copied, {"resnet18": str(tmp_path / "renamed.pt")})

    @pytest.mark.parametrize(
        "lost", ["inspector.json", "scene.ply", "expected.npz", "views/a7.png"]
    )
    @pytest.mark.parametrize("how", ["missing", "cut"])
    def test_missing_and_damaged_files_are_named(self, copied, lost, how):
        path = copied / lost
        content = path.read_bytes()
        path.unlink()
        if how == "cut":
            path.write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=lost) as caught:
            Inspector.load(copied)
        assert "\n" not in str(caught.value)

    def test_settings_of_another_program(self, copied):
        settings = json.loads((copied / "inspector.json").read_text())["settings"]
        settings["detect"]["sharpness"] = 3
        alter(copied / "inspector.json", settings=settings)
        with pytest.raises(InputError, match="sharpness"):
            Inspector.load(copied)

    def test_expected_anomaly_is_kept_for_what_it_was_learnt_from(self, inspector, copied):
        found = load_expected(copied, "key")
        assert found is not None
        for name in ("sums", "directions", "typical"):
            np.testing.assert_array_equal(getattr(found, name), getattr(inspector.expected, name))
        assert load_expected(copied, "other key") is None
        (copied / "expected.npz").write_bytes(b"damaged")
        assert load_expected(copied, "key") is None


def test_pose_estimates_pass_through_files(inspector, normal, tmp_path):
    pose = changed(inspector(normal[0]).pose, sigma_degrees=math.nan)
    losses = pose.losses.copy()
    losses[-1] = np.nan
    pose = changed(pose, losses=losses)
    write_json(tmp_path / "pose.json", pose.as_json())
    again = PoseEstimate.from_json(json.loads((tmp_path / "pose.json").read_text()))
    for field in dataclasses.fields(PoseEstimate):
        one, other = getattr(pose, field.name), getattr(again, field.name)
        if isinstance(one, np.ndarray):
            assert other.dtype == one.dtype, field.name
        np.testing.assert_array_equal(other, one, err_msg=field.name)
