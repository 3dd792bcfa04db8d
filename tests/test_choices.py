"""Which matcher and which features an inspector takes, and what several extractors make."""

import dataclasses
import logging

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import features_table, matchers_table
from igspad_jax.detect import make_comparison
from igspad_jax.detect.comparison import Comparison
from igspad_jax.detect.features import HandMade
from igspad_jax.detect.registry import best_features
from igspad_jax.errors import InputError
from igspad_jax.inspector import resolve, weights_of
from igspad_jax.match import (
    OpenCVMatcher,
    best_matcher,
    look_up,
    make_matcher,
    match_views,
    prepare_views,
    shortlisted,
    training_features,
)
from igspad_jax.match.matching import Matches
from igspad_jax.match.turning import turned_back
from igspad_jax.networks.weight_sets import check_features
from igspad_jax.settings import DetectConfig, InspectorConfig, MatchConfig


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    """A machine without any weights."""
    monkeypatch.setenv("IGSPAD_JAX_CACHE", str(tmp_path))


class Brightness:
    """One feature a pixel, turned by the brightness."""

    tolerance, edge_discount = 0, 0.0

    def __init__(self, name, scale):
        self.name, self._scale = name, scale

    def __call__(self, images):
        angle = self._scale * images.mean(axis=-1)
        return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class Counting:
    """A matcher whose images are numbers: as many matches as the reference says."""

    def __init__(self, *, invariant):
        self.rotation_invariant = invariant
        self.asked = []

    def prepare(self, images):
        return [int(image[0, 0, 0]) for image in images]

    def match(self, query, references):
        self.asked.append((query[0], list(references)))
        return [
            Matches(np.tile([[5.0, 2.0]], (n, 1)), np.zeros((n, 2)), np.ones(n)) for n in references
        ]


class TestWithoutWeights:
    def test_auto_is_what_needs_none(self, no_weights, caplog):
        with caplog.at_level(logging.WARNING):
            config = resolve(InspectorConfig())
        assert (config.match.matcher, config.detect.features) == ("opencv", "handmade")
        assert config == dataclasses.replace(
            InspectorConfig(),
            match=MatchConfig(matcher="opencv"),
            detect=DetectConfig(features="handmade"),
        )
        assert "igspad-fetch-weights --weights=aliked-n16,aliked-lightglue" in caplog.text
        assert "igspad-fetch-weights --weights=xfeat" in caplog.text

    def test_what_is_asked_for_is_never_replaced(self, no_weights):
        given = InspectorConfig(
            match=MatchConfig(matcher="xfeat"), detect=DetectConfig(features="aliked")
        )
        assert resolve(given) == given
        with pytest.raises(InputError, match=r"igspad-fetch-weights --weights=xfeat"):
            make_matcher("xfeat")
        with pytest.raises(InputError, match=r"igspad-fetch-weights --weights=aliked-n16"):
            make_comparison("handmade*aliked")

    def test_best_names_what_is_missing(self, no_weights):
        assert best_matcher() == ("opencv", ("aliked-n16", "aliked-lightglue"))
        assert best_matcher({"aliked-n16": "a.pt"}) == ("opencv", ("aliked-lightglue",))
        both = {"aliked-n16": "a.pt", "aliked-lightglue": "b.pt"}
        assert best_matcher(both) == ("aliked", ())
        assert best_features() == ("handmade", ("xfeat",))


class TestNames:
    def test_unknown_ones(self):
        with pytest.raises(InputError, match="no features are called 'sift'; there are handmade"):
            check_features("handmade*sift")
        with pytest.raises(InputError, match="no features are called ''"):
            DetectConfig(features="handmade*")
        with pytest.raises(InputError, match="no matcher is called 'orb'"):
            make_matcher("orb")


class TestTrainingFeatures:
    @staticmethod
    def assert_equal(found, expected):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.points, other.points)
            np.testing.assert_array_equal(one.descriptors, other.descriptors)
            assert one.size == other.size

    def test_kept_in_a_folder(self, tmp_path, ball_views, monkeypatch):
        matcher, images = OpenCVMatcher(), ball_views.images[:3]
        expected = matcher.prepare(images)
        assert len({len(features.points) for features in expected}) > 1
        self.assert_equal(training_features(matcher, images, tmp_path), expected)
        (path,) = tmp_path.iterdir()
        with monkeypatch.context() as patch:
            patch.delattr(OpenCVMatcher, "prepare")
            self.assert_equal(training_features(matcher, images, tmp_path), expected)
        path.write_bytes(path.read_bytes()[:100])
        self.assert_equal(training_features(matcher, images, tmp_path), expected)

    def test_of_other_images_are_others(self, tmp_path, ball_views):
        matcher, images = OpenCVMatcher(), ball_views.images[:2]
        training_features(matcher, images, tmp_path)
        other = np.flip(images, axis=2)
        found = training_features(matcher, other, tmp_path)
        self.assert_equal(found, matcher.prepare(other))
        assert len(list(tmp_path.iterdir())) == 2

    def test_nothing_is_kept_without_a_folder(self, tmp_path, ball_views, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert len(training_features(OpenCVMatcher(), ball_views.images[:2], None)) == 2
        assert not list(tmp_path.iterdir())


class TestSources:
    def test_a_source_makes_the_choice_and_is_what_is_read(self, no_weights, caplog):
        sources = {"xfeat": "/no/such.pt"}
        with caplog.at_level(logging.WARNING):
            config = resolve(InspectorConfig(), sources)
        assert config.detect.features == "xfeat*handmade"
        assert config.match.matcher == "opencv"
        with pytest.raises(InputError, match=r"/no/such\.pt: no such file"):
            make_comparison("xfeat", sources)
        with pytest.raises(InputError, match=r"/no/such\.pt: no such file"):
            make_matcher("xfeat", sources)

    @pytest.mark.parametrize(
        ("matcher", "initial", "features", "weights"),
        [
            ("opencv", "pnp", "handmade", []),
            ("xfeat", "pnp", "xfeat*handmade", ["xfeat", "lighterglue"]),
            ("xfeat", "retrieval", "xfeat*handmade", ["xfeat"]),
            ("superpoint", "matches", "resnet18", ["superpoint-lightglue", "resnet18"]),
            ("aliked", "retrieval", "handmade*handmade", []),
        ],
    )
    def test_the_weights_an_inspector_takes(self, matcher, initial, features, weights):
        """Each once, whoever else takes it; retrieval matches no points."""
        config = InspectorConfig(
            match=MatchConfig(matcher=matcher, initial=initial),
            detect=DetectConfig(features=features),
        )
        assert weights_of(config) == weights


class TestComparison:
    IMAGE = np.full((6, 8, 3), 0.5, np.float32)
    OTHER = np.linspace(0.4, 0.9, 6 * 8 * 3, dtype=np.float32).reshape(6, 8, 3)

    def maps(self, *extractors, powers):
        comparison = Comparison(extractors, powers)
        return comparison.anomaly_maps(self.IMAGE[None], self.OTHER[None])[0]

    def test_one_extractor_is_its_own_map(self):
        brightness = self.IMAGE.mean(axis=-1) - self.OTHER.mean(axis=-1)
        expected = 1.0 - np.cos(brightness)
        np.testing.assert_allclose(self.maps(Brightness("a", 1.0), powers=[1]), expected, atol=1e-6)

    def test_several_are_a_geometric_mean(self):
        a, b = Brightness("a", 1.0), Brightness("b", 3.0)
        one, other = (self.maps(e, powers=[1]).astype(np.float64) for e in (a, b))
        np.testing.assert_allclose(
            self.maps(a, b, powers=[2, 1]), np.cbrt(one**2 * other), rtol=1e-4, atol=1e-8
        )
        assert Comparison([a, b], [2, 1]).name == "a*a*b"

    def test_an_anomaly_must_show_in_all_of_them(self):
        """One that sees no difference leaves none in the product."""
        a, blind = Brightness("a", 1.0), Brightness("blind", 0.0)
        assert self.maps(a, powers=[1]).max() > 0.05
        np.testing.assert_array_equal(self.maps(a, blind, powers=[1, 1]), 0.0)

    def test_images_of_a_batch_do_not_meet(self):
        comparison = Comparison([Brightness("a", 1.0)], [1])
        images, others = np.stack([self.IMAGE, self.OTHER]), np.stack([self.OTHER, self.IMAGE])
        together = comparison.anomaly_maps(images, others)
        for i in range(2):
            (alone,) = comparison.anomaly_maps(images[i : i + 1], others[i : i + 1])
            np.testing.assert_allclose(together[i], alone, atol=1e-7)

    def test_a_dtype_that_no_extractor_knows(self):
        with pytest.raises(InputError, match=r"handmade are not computed in bfloat16"):
            make_comparison("handmade", dtype="bfloat16")

    def test_equal_images_have_no_anomaly(self):
        comparison = make_comparison("handmade")
        assert comparison.name == HandMade.name
        found = comparison.anomaly_maps(self.OTHER[None], self.OTHER[None])
        assert found.shape == (1, 6, 8) and np.abs(found).max() < 1e-6


class TestShortlist:
    QUERY = np.zeros((8, 10, 3), np.float32)

    def test_only_its_views_are_matched_each_at_its_turn(self):
        matcher = Counting(invariant=False)
        matched = match_views(self.QUERY, matcher, [4, 5, 6, 7], {0: 90.0, 2: 90.0, 3: 0.0})
        assert [references for _, references in matcher.asked] == [[7], [4, 6]]
        assert [len(matches) for matches, _ in matched] == [4, 0, 6, 7]
        assert [degrees for _, degrees in matched] == [90.0, 0.0, 90.0, 0.0]
        # np.rot90 of a picture 10 wide takes (8, 5) to (5, 2).
        np.testing.assert_allclose(matched[0][0].query_points[0], [8.0, 5.0])

    def test_a_matcher_that_no_turn_disturbs_is_asked_once(self):
        matcher = Counting(invariant=True)
        matched = match_views(self.QUERY, matcher, [4, 5, 6], {1: 270.0, 2: 0.0})
        assert len(matcher.asked) == 1
        assert [(len(matches), turn) for matches, turn in matched] == [
            (0, 0.0), (5, 270.0), (6, 0.0),
        ]  # fmt: skip

    def test_finds_the_view_and_its_turn(self, ball_views):
        views = prepare_views(
            ball_views.images, ball_views.viewmats, ball_views.K, ball_views.centre
        )
        for turn in range(4):
            query = np.rot90(ball_views.images[3], -turn)
            found = shortlisted(look_up(np.ascontiguousarray(query), views), 2)
            assert len(found) == 2 and next(iter(found.items())) == (3, 90.0 * turn)

    @pytest.mark.parametrize("degrees", [0.0, 15.0, 75.0, 180.0, 255.0, 345.0])
    def test_an_image_turned_back_and_its_way_back(self, degrees):
        """A dot turned with the picture is found, and its place comes back, on an oblong image."""
        image = np.full((40, 60, 3), 0.8, np.float32)
        image[16:19, 38:41] = 0.1
        upright, back = turned_back(image, degrees)
        odd = round(degrees / 90.0) % 2
        assert upright.shape == ((60, 40, 3) if odd else (40, 60, 3))
        weight = 0.8 - upright[..., 0].astype(np.float64)
        weight[weight < 0.1] = 0.0
        y, x = np.mgrid[: upright.shape[0], : upright.shape[1]] + 0.5
        dot = np.array([np.sum(weight * x), np.sum(weight * y)]) / weight.sum()
        np.testing.assert_allclose(back[:, :2] @ dot + back[:, 2], [39.5, 17.5], atol=0.1)
        # Where it was turned from: the angle is from x towards y.
        angle = np.radians(degrees)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        np.testing.assert_allclose(back[:, :2], turn, atol=1e-12)
        # What comes in at the corners has the border's colour.
        assert np.abs(upright[0] - 0.8).max() < 1e-5


def result(degrees, *, doubts=(), seconds=3.0, **figures):
    images = [
        {"first_degrees": 10 * d, "degrees": d, "percent": d, "doubts": doubts} for d in degrees
    ]
    group = {"overall": figures, "kinds": {"Burrs": figures}}
    return {
        "poses": {"images": images},
        "metrics": {
            "sizes": {"native": group},
            "breakdown": {"estimated": group},
            "time": {"locate": {"per_image": seconds}, "compare": {"per_image": 0.25}},
        },
    }


class TestTables:
    def test_matchers(self):
        results = {
            "aliked-pnp": {
                "A": result([0.1, 0.4, 2.0], image_auroc=0.8, pixel_ap=0.5),
                "B": result([0.2], doubts=("far",), seconds=1.0, image_auroc=0.6, pixel_ap=0.7),
            }
        }
        (table,) = matchers_table(results)
        assert table.rows == (
            ("aliked-pnp", "4", "3 of 4", "3.00", "3 of 4", "1", "0.700", "0.600", "2.00"),
        )

    def test_features_leave_out_what_was_not_scored(self):
        figures = {"image_auroc": 0.8, "pixel_auroc": 0.9, "pixel_ap": 0.5, "mean_image_ap": 0.25}
        tables = features_table({"handmade": {"A": result([0.1], **figures)}})
        assert [table.title for table in tables] == [
            "Against renders at the estimated poses",
            "By category, at the estimated poses",
        ]
        row = ("handmade", "0.800", "0.900", "0.500", "0.250", "0.250", "0.25")
        assert tables[0].rows == (row,)
        assert tables[1].rows == (("handmade", "0.800", "0.500", "0.250"),)
