"""Metrics of maps, poses and verdicts, and the tables that show them."""

import json
import math

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from igspad_jax.cameras import look_at
from igspad_jax.errors import InputError
from igspad_jax.evaluate import (
    aggregate,
    auroc,
    average_precision,
    breakdown_table,
    category_table,
    evaluate_maps,
    format_table,
    kind_table,
    pixel_metrics,
    pose_metrics,
    pose_table,
    run_tables,
    size_table,
    time_metrics,
    time_table,
    verdict_metrics,
    verdict_table,
    write_metrics,
)


def brute_force_aupro(maps, masks, limit):
    """Every distinct threshold in turn, regions and false positives counted anew for each."""
    labelled = [ndimage.label(mask, structure=np.ones((3, 3)))[0] for mask in masks]
    regions = [(i, k) for i, lab in enumerate(labelled) for k in range(1, lab.max() + 1)]
    normal = np.concatenate([m[~mask] for m, mask in zip(maps, masks, strict=True)])
    fpr, pro = [0.0], [0.0]
    for t in np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]:
        fpr.append(np.mean(normal >= t))
        pro.append(np.mean([np.mean(maps[i][labelled[i] == k] >= t) for i, k in regions]))
    fpr, pro = np.array(fpr), np.array(pro)
    inside = fpr <= limit
    x, y = list(fpr[inside]), list(pro[inside])
    if not inside.all():
        j = int(np.argmin(inside))
        slope = (pro[j] - pro[j - 1]) / (fpr[j] - fpr[j - 1])
        x.append(limit)
        y.append(pro[j - 1] + slope * (limit - fpr[j - 1]))
    return np.trapezoid(y, x) / limit


def make_maps(rng, levels, count=5, size=(23, 31)):
    """Maps with heavy ties for few levels, masks of several regions that touch diagonally."""
    maps, masks = [], []
    for i in range(count):
        mask = np.zeros(size, bool)
        if i:
            mask[3:6, 4:9] = mask[6:8, 9:11] = mask[15, 20] = True
        noisy = rng.normal(size=size) + 1.0 * mask
        maps.append((np.round(noisy * levels) / levels).astype(np.float32))
        masks.append(mask)
    return maps, masks


@pytest.mark.parametrize("levels", [1, 4, 1e6])
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_ranking_metrics_equal_sklearn(levels, share):
    rng = np.random.default_rng(0)
    labels = rng.random(4000) < share
    scores = (np.round((rng.normal(size=4000) + labels) * levels) / levels).astype(np.float32)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    expected = average_precision_score(labels, scores)
    assert average_precision(scores, labels) == pytest.approx(expected, abs=1e-12)


def test_constant_scores_are_chance():
    labels = np.arange(10) < 3
    assert auroc(np.ones(10), labels) == 0.5
    assert average_precision(np.ones(10), labels) == pytest.approx(0.3)


@pytest.mark.parametrize("levels", [1, 3, 1e6])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_pixel_metrics_equal_references(levels, limit):
    maps, masks = make_maps(np.random.default_rng(1), levels)
    result = pixel_metrics(maps, masks, limit)
    flat = np.concatenate([m.ravel() for m in maps])
    truth = np.concatenate([m.ravel() for m in masks])
    assert result["pixel_auroc"] == pytest.approx(roc_auc_score(truth, flat), abs=1e-12)
    assert result["pixel_ap"] == pytest.approx(average_precision_score(truth, flat), abs=1e-12)
    assert result["aupro"] == pytest.approx(brute_force_aupro(maps, masks, limit), abs=1e-12)
    per_image = [
        average_precision_score(mask.ravel(), m.ravel())
        for m, mask in zip(maps[1:], masks[1:], strict=True)
    ]
    assert result["mean_image_ap"] == pytest.approx(np.mean(per_image), abs=1e-12)
    # Diagonal neighbours are one region: two regions in each of four images, not three.
    assert result["regions"] == 8


def test_aupro_weighs_regions_not_pixels():
    mask = np.zeros((20, 20), bool)
    mask[:5, :5] = mask[10, 10] = True
    found_large, found_small = np.zeros((2, 20, 20), np.float32)
    found_large[:5, :5] = 1
    found_small[10, 10] = 1
    large, small = (pixel_metrics([m], [mask]) for m in (found_large, found_small))
    assert large["aupro"] == pytest.approx(small["aupro"])
    assert large["pixel_ap"] > small["pixel_ap"]


def test_arguments_are_left_alone():
    maps, masks = make_maps(np.random.default_rng(2), 1e6)
    before = [m.copy() for m in maps]
    pixel_metrics(maps, masks)
    np.testing.assert_array_equal(maps, before)


def category(rng=None, good=3, kinds=("Burrs", "Stains"), each=4):
    rng = rng or np.random.default_rng(3)
    maps, masks, labels, names = [], [], [], []
    for kind in ("good",) * good + tuple(k for k in kinds for _ in range(each)):
        mask = np.zeros((40, 56), bool)
        if kind != "good":
            mask[10:16, 20:30] = True
        maps.append((rng.normal(size=mask.shape) + 2 * mask).astype(np.float32))
        masks.append(mask)
        labels.append(kind != "good")
        names.append(kind)
    scores = rng.normal(size=len(maps)) + np.array(labels)
    return maps, masks, np.array(labels), scores, names


def test_evaluate_groups_and_sizes():
    maps, masks, labels, scores, kinds = category()
    result = evaluate_maps(maps, masks, labels, scores, kinds)
    assert list(result["sizes"]) == ["native", "224", "400"]
    native = result["sizes"]["native"]
    assert native["overall"]["image_auroc"] == pytest.approx(roc_auc_score(labels, scores))
    of_burrs = [i for i, kind in enumerate(kinds) if kind in ("good", "Burrs")]
    burrs = native["kinds"]["Burrs"]
    assert burrs["image_auroc"] == pytest.approx(roc_auc_score(labels[of_burrs], scores[of_burrs]))
    flat = np.concatenate([maps[i].ravel() for i in of_burrs])
    truth = np.concatenate([masks[i].ravel() for i in of_burrs])
    assert burrs["pixel_ap"] == pytest.approx(average_precision_score(truth, flat))
    assert (burrs["good"], burrs["defective"], burrs["regions"]) == (3, 4, 4)
    at_224 = result["sizes"]["224"]
    assert at_224["overall"]["image_auroc"] == native["overall"]["image_auroc"]
    assert at_224["overall"]["pixel_ap"] != native["overall"]["pixel_ap"]
    assert result["notes"] == []


def test_resizing_keeps_the_aspect_and_states_lost_masks():
    maps, masks, labels, scores, kinds = category(good=1, kinds=("Burrs",), each=1)
    masks[1][:] = False
    masks[1][0, 0] = True
    result = evaluate_maps(maps, masks, labels, scores, kinds, sizes=(8,))
    assert result["sizes"]["native"]["overall"]["regions"] == 1
    assert math.isnan(result["sizes"]["8"]["overall"]["pixel_ap"])
    assert result["notes"] == ["8 px: 1 masks vanish when resized; their pixels count as normal"]


def test_undefined_figures_are_nan_and_stated():
    maps, masks, labels, scores, kinds = category(kinds=())
    result = evaluate_maps(maps, masks, labels, scores, kinds)
    overall = result["sizes"]["native"]["overall"]
    assert all(
        math.isnan(overall[key])
        for key in ("image_auroc", "pixel_auroc", "pixel_ap", "aupro", "mean_image_ap")
    )
    assert result["sizes"]["native"]["kinds"] == {}
    assert "no defective images" in result["notes"][-1]

    maps, masks, labels, scores, kinds = category(good=0)
    result = evaluate_maps(maps, masks, labels, scores, kinds)
    overall = result["sizes"]["native"]["overall"]
    assert math.isnan(overall["image_auroc"]) and overall["pixel_ap"] > 0
    assert any("overall: image_auroc undefined: no good images" in n for n in result["notes"])

    nothing = evaluate_maps([], [], np.array([]), np.array([]), [])
    assert math.isnan(nothing["sizes"]["native"]["overall"]["pixel_auroc"])


def test_unknown_masks_count_for_images_only():
    maps, masks, labels, scores, kinds = category()
    without = [None if i == 5 else mask for i, mask in enumerate(masks)]
    result = evaluate_maps(maps, without, labels, scores, kinds)
    full = evaluate_maps(maps, masks, labels, scores, kinds)
    overall, all_known = (r["sizes"]["native"]["overall"] for r in (result, full))
    assert overall["image_auroc"] == all_known["image_auroc"]
    assert overall["regions"] == all_known["regions"] - 1
    assert "1 defective images without a mask" in result["notes"][0]
    good_as_none = [mask if label else None for mask, label in zip(masks, labels, strict=True)]
    assert evaluate_maps(maps, good_as_none, labels, scores, kinds) == full


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda a: a[0].pop(), "10 maps, 11 masks"),
        (lambda a: a[0][4].__setitem__((0, 0), np.nan), "map of image 4"),
        (lambda a: a[1].__setitem__(6, np.zeros((2, 2), bool)), "image 6 has a map of"),
        (lambda a: a[1][0].fill(True), "image 0 is labelled good"),
        (lambda a: a[3].__setitem__(2, np.inf), "score of image 2"),
    ],
)
def test_bad_input_is_one_clear_line(spoil, says):
    arguments = category()
    spoil(arguments)
    with pytest.raises(InputError, match=says) as caught:
        evaluate_maps(*arguments)
    assert "\n" not in str(caught.value)


def poses(angles, distances):
    up, zero = np.array([0.0, 0.0, 1.0]), np.zeros(3)
    return np.stack(
        [
            look_at(d * np.array([np.sin(a), -np.cos(a), 0.0]), zero, up)
            for a, d in zip(np.radians(angles), distances, strict=True)
        ]
    )


def test_pose_metrics():
    true = poses([0, 0, 0, 0, 0], [4, 4, 4, 4, 4])
    estimated = poses([0, 0.4, 1.5, 30, 0], [4, 4.1, 4, 4, 4])
    estimated[4] = np.nan
    names = ["a", "b", "c", "d", "e"]
    flagged = np.array([True, False, False, True, False])
    result = pose_metrics(estimated, true, np.zeros(3), names, flagged)
    assert result["median_degrees"] == pytest.approx((0.4 + 1.5) / 2)
    assert result["share_below_0.5deg"] == pytest.approx(2 / 5)
    assert result["share_below_0.5deg_1pct"] == pytest.approx(1 / 5)
    assert result["share_below_2deg"] == pytest.approx(3 / 5)
    assert result["gross_failures"] == ["d", "e"]
    assert (result["gross_count"], result["without_pose"]) == (2, 1)
    assert (result["flagged_count"], result["gross_flagged_count"]) == (2, 1)
    # Off by more than 2 degrees are d and e; d is flagged, and a in vain.
    assert (result["off_unflagged"], result["flagged_within_count"]) == (["e"], 1)
    assert result["image_errors"]["d"]["degrees"] == pytest.approx(30)
    assert result["image_errors"]["b"]["percent"] == pytest.approx(2.6, abs=0.1)
    with pytest.raises(InputError, match="4 names"):
        pose_metrics(estimated, true, np.zeros(3), names[:4])


def two_categories():
    first = evaluate_maps(*category())
    true = poses([0, 0], [4, 4])
    first["pose"] = pose_metrics(poses([1, 9], [4, 4]), true, np.zeros(3), ["x", "y"])
    first["time"] = time_metrics({"train": 60.0, "pose": 22.0}, 11)
    second = evaluate_maps(*category(np.random.default_rng(9), good=0))
    return {"01Duck": first, "02Penguin": second}


def test_aggregate_is_an_unweighted_mean_of_what_is_defined():
    both = two_categories()
    mean = aggregate(both)
    native = [metrics["sizes"]["native"]["overall"] for metrics in both.values()]
    overall, counted = (t["sizes"]["native"]["overall"] for t in (mean, mean["counted"]))
    assert overall["pixel_ap"] == pytest.approx((native[0]["pixel_ap"] + native[1]["pixel_ap"]) / 2)
    assert overall["image_auroc"] == native[0]["image_auroc"]
    assert (counted["pixel_ap"], counted["image_auroc"]) == (2, 1)
    assert overall["defective"] == 16
    assert mean["pose"]["gross_count"] == 1 and "image_errors" not in mean["pose"]
    assert mean["time"]["pose"]["per_image"] == 2.0
    assert mean["counted"]["pose"]["median_degrees"] == 1


def test_aggregate_reads_back_what_was_written(tmp_path):
    both = two_categories()
    path = write_metrics(tmp_path / "run" / "metrics.json", both)
    read = json.loads(path.read_text(encoding="utf-8"))
    assert read["02Penguin"]["sizes"]["native"]["overall"]["image_auroc"] is None
    assert format_table(category_table(read)) == format_table(category_table(both))
    again = write_metrics(tmp_path / "again.json", aggregate(read)).read_text(encoding="utf-8")
    assert again == write_metrics(tmp_path / "b.json", aggregate(both)).read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


def test_failed_write_keeps_the_old_file(tmp_path):
    path = write_metrics(tmp_path / "metrics.json", {"a": np.float32(1.5), "b": np.arange(2)})
    with pytest.raises(TypeError):
        write_metrics(path, {"a": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1.5, "b": [0, 1]}


class TestVerdicts:
    """Of nine images: four good ones, three with defects, two that nobody labelled."""

    KINDS = ("good",) * 4 + ("Burrs", "Burrs", "Stains") + ("unlabelled",) * 2
    AT_5 = ("PASS", "PASS", "FAIL", "UNSURE", "FAIL", "PASS", "FAIL", "UNSURE", "FAIL")
    AT_10 = ("FAIL", "PASS", "FAIL", "UNSURE", "FAIL", "FAIL", "FAIL", "UNSURE", "FAIL")

    @staticmethod
    def counts(passed, failed, unsure):
        return {"PASS": passed, "FAIL": failed, "UNSURE": unsure}

    def test_counted_by_kind_and_rate(self):
        found = verdict_metrics({"0.05": self.AT_5, "0.1": self.AT_10}, self.KINDS)
        assert found["0.05"] == {
            "kinds": {
                "good": self.counts(2, 1, 1),
                "Burrs": self.counts(1, 1, 0),
                "Stains": self.counts(0, 1, 0),
                "unlabelled": self.counts(0, 1, 1),
            },
            "false_alarm_rate": 1 / 4,
            "found": 2 / 3,
            "unsure": 2 / 9,
        }
        assert list(found["0.05"]["kinds"]) == ["good", "Burrs", "Stains", "unlabelled"]
        assert found["0.1"]["false_alarm_rate"] == 2 / 4
        assert found["0.1"]["found"] == 1.0

    def test_shares_of_no_images_are_undefined(self):
        found = verdict_metrics({"0.05": ("PASS", "UNSURE")}, ("unlabelled", "unlabelled"))["0.05"]
        assert math.isnan(found["false_alarm_rate"]) and math.isnan(found["found"])
        assert found["unsure"] == 0.5
        assert found["kinds"] == {"unlabelled": self.counts(1, 0, 1)}
        nothing = verdict_metrics({"0.05": ()}, ())["0.05"]
        assert nothing["kinds"] == {} and math.isnan(nothing["unsure"])

    def test_every_image_has_a_verdict(self):
        with pytest.raises(ValueError, match="argument 2"):
            verdict_metrics({"0.05": self.AT_5[:-1]}, self.KINDS)

    def test_table_of_categories_and_of_all(self):
        """The shares of all are of their counts, not means of shares."""
        first = verdict_metrics({"0.05": self.AT_5}, self.KINDS)
        second = verdict_metrics({"0.05": ("PASS", "FAIL")}, ("good", "Scratches"))
        table = verdict_table({"A": {"verdicts": first}, "B": {"verdicts": second}}, "0.05")
        assert table.title == "Verdicts, at a false-alarm rate of 5.0% asked for"
        assert table.columns == (
            "category",
            "good: PASS", "good: FAIL", "good: UNSURE",
            "defective: PASS", "defective: FAIL", "defective: UNSURE",
            "unlabelled: PASS", "unlabelled: FAIL", "unlabelled: UNSURE",
            "false alarms", "found", "not judged",
        )  # fmt: skip
        assert table.rows == (
            ("A", "2", "1", "1", "1", "2", "0", "0", "1", "1", "25.0%", "66.7%", "22.2%"),
            ("B", "1", "0", "0", "0", "1", "0", "0", "0", "0", "0.0%", "100.0%", "0.0%"),
            ("all", "3", "1", "1", "1", "3", "0", "0", "1", "1", "20.0%", "75.0%", "18.2%"),
        )

    def test_table_of_unlabelled_images_alone(self):
        verdicts = verdict_metrics({"0.1": ("PASS", "FAIL", "FAIL")}, ("unlabelled",) * 3)
        (table,) = run_tables({"A": {"verdicts": verdicts}})
        assert table.columns[1:4] == ("unlabelled: PASS", "unlabelled: FAIL", "unlabelled: UNSURE")
        assert table.rows == (("A", "1", "2", "0", "-", "-", "0.0%"),)


def test_a_run_has_the_tables_of_what_it_measured():
    both = two_categories()
    for metrics in both.values():
        metrics["verdicts"] = verdict_metrics({"0.05": ("PASS",), "0.1": ("FAIL",)}, ("good",))
    both["03Bare"] = {"verdicts": verdict_metrics({"0.05": ("PASS",), "0.1": ("PASS",)}, ("x",))}
    tables = run_tables(both, kinds=True)
    assert [table.title.split(",")[0] for table in tables] == [
        "Verdicts", "Verdicts", "Categories", "Kinds of defect", "Evaluation sizes",
        "Pose errors", "Time",
    ]  # fmt: skip
    assert [[row[0] for row in table.rows] for table in tables[:3]] == [
        ["01Duck", "02Penguin", "03Bare", "all"],
        ["01Duck", "02Penguin", "03Bare", "all"],
        ["01Duck", "02Penguin", "mean"],  # the third has no labelled images
    ]
    alone = run_tables({"01Duck": both["01Duck"]})
    assert [table.title.split(",")[0] for table in alone] == [
        "Verdicts", "Verdicts", "Evaluation sizes", "Pose errors", "Time",
    ]  # fmt: skip
    assert run_tables({}) == []


def test_tables_are_aligned_and_complete():
    both = two_categories()
    both["01Duck"]["breakdown"] = {"true pose": both["01Duck"]["sizes"]["native"]}
    text = format_table(category_table(both))
    lines = text.splitlines()
    assert lines[-1] == "(mean image AUROC: over the 1 of 2 categories that have one)"
    assert len({len(line) for line in lines[1:-1]}) == 1
    assert lines[-2].startswith("mean")
    expected = both["01Duck"]["sizes"]["native"]["overall"]["pixel_ap"]
    assert f"{expected:.4f}" in lines[3]
    assert " - " in lines[4]
    assert [row[0] for row in kind_table(both["01Duck"]).rows] == ["Burrs", "Stains", "overall"]
    assert [row[0] for row in size_table(both["01Duck"]).rows] == ["own size", "224 px", "400 px"]
    assert [row[0] for row in breakdown_table(both["01Duck"]).rows] == ["true pose"]
    assert "overall: image_auroc undefined: no good images" in kind_table(both["02Penguin"]).notes
    assert [row[0] for row in pose_table(both).rows] == ["01Duck"]
    twice = pose_table({"01Duck": both["01Duck"], "again": both["01Duck"]})
    assert [row[0] for row in twice.rows] == ["01Duck", "again", "mean"]
    assert [row[-1] for row in twice.rows] == ["1", "1", "2"]
    assert twice.rows[2][1:-1] == twice.rows[0][1:-1]
    assert time_table(both).rows == (("01Duck", "60.0", "22.0 (2.000)"),)
