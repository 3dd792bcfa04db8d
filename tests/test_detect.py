"""Features, their distances, image scores, and the anomaly that normal images show."""

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from igspad_jax.cameras import intrinsics_from_angle, look_at, view_directions
from igspad_jax.detect import (
    ExpectedAnomaly,
    HandMade,
    feature_distance,
    own_level,
    pooled,
    resize_map,
)
from igspad_jax.detect.features import lab_from_rgb
from igspad_jax.errors import InputError
from igspad_jax.normal_object import NormalObject
from igspad_jax.render import Capacity
from igspad_jax.scene import Gaussians

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def random_features(seed: int, shape=(2, 9, 11, 5)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pictures(seed: int = 0, count: int = 1, size: int = 40) -> np.ndarray:
    noise = np.random.default_rng(seed).random((count, size, size, 3)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(i, (0, 0), 2.0) for i in noise])
    return (smooth - smooth.min()) / (smooth.max() - smooth.min())


def test_distance_is_equation_5():
    a, b = random_features(0), random_features(1)
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    np.testing.assert_allclose(feature_distance(a, b), 1.0 - cosine, atol=2e-6)
    np.testing.assert_allclose(feature_distance(a, 3.0 * a), 0.0, atol=1e-6)


def test_small_distances_keep_their_digits():
    a = np.ones((1, 1, 1, 8), np.float32)
    b = a.copy()
    b[..., 0] += 1e-3
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    expected = 1.0 - x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    np.testing.assert_allclose(feature_distance(a, b)[0, 0, 0], expected, rtol=1e-2)


def test_zero_features_are_finite():
    a = random_features(0)
    scores = feature_distance(a, np.zeros_like(a))
    np.testing.assert_allclose(scores, 0.5, atol=1e-5)


def test_tolerance_forgives_a_shift():
    reference = random_features(0)
    shifted = np.roll(reference, (1, -1), axis=(1, 2))
    assert feature_distance(shifted, reference).mean() > 0.5
    forgiven = feature_distance(shifted, reference, tolerance=1)
    np.testing.assert_allclose(forgiven[:, 1:-1, 1:-1], 0.0, atol=1e-6)
    strict = feature_distance(np.roll(shifted, 1, axis=1), reference, tolerance=1)
    assert strict[:, 2:-2, 2:-2].mean() > 0.1


def test_edge_discount_against_a_loop():
    test, reference = random_features(0, (1, 5, 6, 3)), random_features(1, (1, 5, 6, 3))
    plain = np.asarray(feature_distance(test, reference))
    found = np.asarray(feature_distance(test, reference, edge_discount=7.0))
    unit = reference / np.linalg.norm(reference, axis=-1, keepdims=True)
    for y in range(5):
        for x in range(6):
            own = []
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if dy or dx:
                        v, u = np.clip(y + dy, 0, 4), np.clip(x + dx, 0, 5)
                        own.append(1.0 - unit[0, y, x] @ unit[0, v, u])
            expected = plain[0, y, x] / (1.0 + 7.0 * np.mean(own))
            np.testing.assert_allclose(found[0, y, x], expected, rtol=1e-4)


def test_edge_discount_leaves_flat_references_alone():
    flat = np.broadcast_to(random_features(0, (1, 1, 1, 4)), (1, 6, 6, 4))
    test = random_features(1, (1, 6, 6, 4))
    np.testing.assert_allclose(
        feature_distance(test, flat), feature_distance(test, flat, edge_discount=1e3), rtol=1e-5
    )


def test_shapes_must_fit():
    with pytest.raises(InputError, match="shapes"):
        feature_distance(np.ones((1, 4, 4, 3)), np.ones((1, 4, 5, 3)))


@pytest.mark.parametrize("pool", [1, 3, 4])
def test_pooled_map_against_a_loop(pool):
    scores = np.random.default_rng(0).random((9, 7)).astype(np.float32)
    expected = [
        [scores[y : y + pool, x : x + pool].mean() for x in range(7 - pool + 1)]
        for y in range(9 - pool + 1)
    ]
    np.testing.assert_allclose(pooled(scores, pool), expected, rtol=1e-6)


@pytest.mark.parametrize("pool", [0, 5])
def test_a_pooling_window_that_does_not_fit(pool):
    with pytest.raises(InputError, match=f"window of {pool} pixels .* 6x4; choose 1 to 4"):
        pooled(np.ones((4, 6), np.float32), pool)


def test_own_level_is_the_mean_of_the_largest_fortieth():
    values = np.random.default_rng(0).permutation(1600).astype(np.float32).reshape(40, 40)
    assert own_level(values) == pytest.approx(np.arange(1560, 1600).mean())
    # Of fewer pixels than that it is the largest.
    assert own_level(np.arange(12, dtype=np.float32).reshape(3, 4)) == 11.0


def test_resizing_keeps_pixel_centres():
    # A ramp in image coordinates, sampled at the centres of 4-pixel cells.
    cells = (np.arange(6) + 0.5) * 4.0
    ramp = np.broadcast_to(cells[None, None, :] + 2.0 * cells[None, :, None], (1, 6, 6))
    found = np.asarray(resize_map(jnp.asarray(ramp, jnp.float32), 24, 24))[0]
    pixels = np.arange(24) + 0.5
    expected = pixels[None, :] + 2.0 * pixels[:, None]
    np.testing.assert_allclose(found[2:-2, 2:-2], expected[2:-2, 2:-2], atol=1e-4)
    same = np.random.default_rng(0).random((1, 5, 8)).astype(np.float32)
    np.testing.assert_allclose(resize_map(jnp.asarray(same), 5, 8), same, atol=1e-6)


def test_lab_is_opencvs():
    image = np.random.default_rng(0).random((8, 8, 3)).astype(np.float32)
    expected = cv2.cvtColor(image, cv2.COLOR_RGB2LAB) / 100.0
    np.testing.assert_allclose(lab_from_rgb(jnp.asarray(image)), expected, atol=5e-3)


def test_hand_made_features_of_a_ramp():
    # In a linear ramp of lightness the gradient channels hold sigma times its slope.
    ramp = np.linspace(0.3, 0.6, 40, dtype=np.float32)
    image = np.broadcast_to(ramp[None, None, :, None], (1, 40, 40, 3))
    features = np.asarray(HandMade()(jnp.asarray(image)))
    assert features.shape == (1, 40, 40, 19)
    lightness = np.asarray(lab_from_rgb(jnp.asarray(image)))[0, 20, :, 0]
    slope = np.gradient(lightness)[20]
    vector = features[0, 20, 20]
    assert vector[0] == pytest.approx(lightness[20], abs=2e-3)
    assert vector[3] == pytest.approx(slope, rel=0.05)  # sigma 1, along x
    assert vector[12] == pytest.approx(2.0 * slope, rel=0.05)  # sigma 2, along x
    np.testing.assert_allclose(vector[[6, 15]], 0.0, atol=1e-5)  # along y


def test_cosine_orders_like_the_colour_distance():
    grey = np.full((1, 12, 12, 3), 0.5, np.float32)
    extract = HandMade()
    reference = extract(jnp.asarray(grey))
    steps = (0.01, 0.05, 0.2, 0.4)
    scores = [
        float(feature_distance(extract(jnp.asarray(grey + s)), reference)[0, 6, 6]) for s in steps
    ]
    assert scores == sorted(scores) and scores[0] > 0
    squares = [
        float(
            ((lab_from_rgb(jnp.asarray(grey + s)) - lab_from_rgb(jnp.asarray(grey))) ** 2)[
                0, 6, 6
            ].sum()
        )
        for s in steps
    ]
    ratios = np.array(scores) / np.array(squares)
    np.testing.assert_allclose(ratios, ratios[0], rtol=0.05)


def test_a_spot_outscores_blur_and_shift():
    clean = pictures(size=64)
    render = np.stack([cv2.GaussianBlur(i, (0, 0), 0.6) for i in np.roll(clean, 1, axis=2)])
    spotted = clean.copy()
    spotted[:, 30:35, 30:35] = [0.9, 0.1, 0.1]
    extract = HandMade()
    scores = [
        feature_distance(
            extract(jnp.asarray(test)),
            extract(jnp.asarray(render)),
            tolerance=extract.tolerance,
            edge_discount=extract.edge_discount,
        )
        for test in (clean, spotted)
    ]
    good, bad = (float(pooled(np.asarray(s[0]), 5).max()) for s in scores)
    assert bad > 3.0 * good
    y, x = np.unravel_index(np.argmax(scores[1][0]), (64, 64))
    assert 28 <= y < 37 and 28 <= x < 37


class TestExpectedAnomaly:
    """Of a wall, seen from sides in front of it."""

    SIZE = 32
    FRONT = np.array([0.0, 0.0, -1.0])

    @pytest.fixture
    def wall(self) -> NormalObject:
        return self.make(Capacity())

    def make(self, capacity: Capacity) -> NormalObject:
        grid = np.stack(np.meshgrid(np.linspace(-0.9, 0.9, 12), np.linspace(-0.9, 0.9, 12)), -1)
        means = np.concatenate([grid.reshape(-1, 2), np.zeros((144, 1))], axis=1)
        gaussians = Gaussians(
            means=jnp.asarray(means, jnp.float32),
            log_scales=jnp.full((144, 3), np.log(0.12)),
            quats=jnp.tile(jnp.array([1.0, 0.0, 0.0, 0.0]), (144, 1)),
            opacity_logits=jnp.full(144, 6.0),
            sh=jnp.zeros((144, 1, 3)),
        )
        return NormalObject(
            gaussians,
            intrinsics_from_angle(1.0, self.SIZE, self.SIZE),
            width=self.SIZE,
            height=self.SIZE,
            background=np.ones(3),
            centre=np.zeros(3),
            radius=1.3,
            capacity=capacity,
        )

    @staticmethod
    def pose(azimuth: float) -> np.ndarray:
        eye = 3.0 * np.array([np.sin(azimuth), 0.0, -np.cos(azimuth)])
        return look_at(eye, np.zeros(3), np.array([0.0, -1.0, 0.0]))

    def left(self, value: float = 1.0) -> np.ndarray:
        """A map with the value on its left half."""
        scores = np.zeros((self.SIZE, self.SIZE), np.float32)
        scores[:, : self.SIZE // 2] = value
        return scores

    @pytest.mark.parametrize("nearest", [0, 1, 2])
    def test_a_constant_anomaly_is_expected_where_the_object_is(self, wall, nearest):
        constant = np.full((self.SIZE, self.SIZE), 0.25, np.float32)
        learnt = ExpectedAnomaly.learn(wall, [(self.pose(a), constant) for a in (-0.2, 0.2)])
        assert learnt.typical == pytest.approx(0.25)
        expected = learnt.at(wall, self.pose(0.0), nearest)
        np.testing.assert_allclose(expected[12:20, 12:20], 0.25, rtol=1e-2)
        assert abs(expected[0, 0]) < 1e-6  # beside the wall

    def test_what_a_view_shows_is_expected_at_its_place_on_the_object(self, wall):
        """The camera moves and rolls, and the place moves in the image with the wall."""
        learnt = ExpectedAnomaly.learn(wall, [(self.pose(0.0), self.left())])
        upside_down = np.diag([-1.0, -1.0, 1.0, 1.0]) @ self.pose(0.3)
        for viewmat, bad, good in (
            (self.pose(0.0), 9, 24), (self.pose(0.3), 9, 24), (upside_down, 22, 7)
        ):  # fmt: skip
            expected = learnt.at(wall, viewmat, 1)
            assert expected[16, bad] > 0.9 and expected[16, good] < 0.05

    def test_an_error_seen_from_one_side_is_expected_there_alone(self, wall):
        """As a highlight is."""
        highlight, none = np.zeros((2, self.SIZE, self.SIZE), np.float32)
        highlight[:, 11:21] = 1.0
        learnt = ExpectedAnomaly.learn(wall, [(self.pose(-0.7), highlight), (self.pose(0.7), none)])
        there, elsewhere = (learnt.at(wall, self.pose(a), 6) for a in (-0.7, 0.7))
        # Elsewhere, the mean of both counts for half a pixel of the few that each Gaussian makes.
        assert there[16, 16] > 0.9 and elsewhere[16, 16] < 0.25
        assert there[16, 26] < 0.05 and elsewhere[16, 26] < 0.05
        # Half-way, both views count alike; so they do from everywhere if direction is no matter.
        assert learnt.at(wall, self.pose(0.0), 6)[16, 16] == pytest.approx(0.5, abs=0.05)
        for azimuth in (-0.7, 0.7):
            assert 0.35 < learnt.at(wall, self.pose(azimuth), 0)[16, 16] < 0.65

    def test_values_are_weighted_means_of_the_nearest_views(self):
        sums = np.random.default_rng(0).uniform(0.0, 3.0, (4, 5, 2)).astype(np.float32)
        sums[:, 4] = 0.0  # a Gaussian that no view shows
        azimuths = np.array([0.1, -0.3, 0.9, 2.0])
        viewmats = np.stack([self.pose(a) for a in azimuths])
        directions = view_directions(viewmats, np.zeros(3)).astype(np.float32)
        learnt = ExpectedAnomaly(sums, directions, 1.0)
        total = sums.sum(axis=0)
        mean = total[:4, 0] / total[:4, 1]
        np.testing.assert_allclose(learnt.values(self.FRONT, 0), [*mean, 0.0], rtol=1e-5)
        # Of the two nearest, 0.1 and 0.3 radians away; the mean counts for half a pixel.
        weights = np.exp((np.cos([0.1, 0.3]) - np.cos(0.1)) / 0.05)
        near = np.tensordot(weights, sums[:2], 1)[:4]
        expected = (near[:, 0] + 0.5 * mean) / (near[:, 1] + 0.5)
        np.testing.assert_allclose(learnt.values(self.FRONT, 2), [*expected, 0.0], rtol=1e-4)

    def test_small_capacities_lose_nothing(self):
        scores = np.random.default_rng(0).random((self.SIZE, self.SIZE)).astype(np.float32)
        few, many = Capacity(1), Capacity()
        few.slots = 64
        maps = []
        for capacity in (few, many):
            wall = self.make(capacity)
            learnt = ExpectedAnomaly.learn(wall, [(self.pose(0.1), scores)])
            maps.append(learnt.at(wall, self.pose(0.0), 1))
        assert few.grown > 0 and maps[1].max() > 0.3
        np.testing.assert_allclose(*maps, rtol=1e-5, atol=1e-7)
