import base64
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from igspad_jax.errors import InputError
from igspad_jax.evaluate import evaluate_maps, time_metrics, verdict_metrics
from igspad_jax.report import CategoryReport, ImageRecord, worst_first, write_report
from igspad_jax.report.panels import (
    BOX_COLOUR,
    TRUTH_COLOUR,
    alignment_panel,
    heat_panel,
    heat_scale,
    truth_panel,
)
from igspad_jax.report.plots import score_histogram

VOID = {"meta", "link", "img", "br", "hr", "input"}
THRESHOLD = 0.5
STATEMENT = "threshold 0.5 from 9 calibration images"


class Page(HTMLParser):
    """Collects what the tests ask for, and fails on tags that do not pair."""

    def __init__(self, path):
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.open, self.images, self.cards, self.ids, self.urls = [], [], [], [], []
        self.parts, self.said = [], {}
        self.feed(self.text)
        assert self.open == []
        self.words = " ".join(" ".join(words for _, words in self.parts).split())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.urls += [attrs[key] for key in ("src", "href", "srcset", "data") if attrs.get(key)]
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "article":
            self.cards.append(attrs)
            self.said[attrs["data-name"]] = []
        if tag == "img":
            self.images.append(attrs)
        if tag not in VOID:
            self.open.append((tag, attrs.get("class") or ""))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        words = " ".join(data.split())
        if not words or not self.open:
            return
        self.parts.append((self.open[-1][0], words))
        if any(tag == "article" for tag, _ in self.open):
            self.said[self.cards[-1]["data-name"]].append(words)

    @property
    def names(self):
        return [card["data-name"] for card in self.cards]

    @property
    def pictures(self):
        return [image for image in self.images if "src" in image]

    def tiles(self):
        at = next(i for i, (_, words) in enumerate(self.parts) if words == "PASS") - 1
        tiles = self.parts[at:]
        count = next(i for i, (tag, _) in enumerate(tiles) if tag not in ("b", "span"))
        return {tiles[i + 1][1]: tiles[i][1] for i in range(0, count, 2)}


def record(name, kind, score, size=(30, 40), **more):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    image = rng.random((*size, 3)).astype(np.float32)
    mask = None
    if kind not in ("good", "unlabelled"):
        mask = np.zeros(size, bool)
        mask[5:9, 10:14] = True
    heat = rng.random(size).astype(np.float32)
    failed = score > THRESHOLD
    values = {
        "verdict": "FAIL" if failed else "PASS",
        "p_value": 0.1 if failed else 0.7,
        "doubts": [],
        "boxes": [(10, 5, 4, 4)] if failed else [],
        "mask": mask,
    }
    return ImageRecord(name, kind, image, image, heat, score, **(values | more))


def unsure(name, kind, score, *doubts, **more):
    return record(name, kind, score, verdict="UNSURE", doubts=doubts, **more)


def category(records, name="01Duck", **more):
    known = [r for r in records if r.kind != "unlabelled"]
    metrics = {"notes": []}
    if known:
        metrics = evaluate_maps(
            [r.anomaly_map for r in known],
            [r.mask for r in known],
            np.array([r.kind != "good" for r in known]),
            np.array([r.score for r in known]),
            [r.kind for r in known],
        )
    metrics["notes"].insert(0, STATEMENT)
    verdicts = {"0.1": [r.verdict for r in records]}
    metrics["verdicts"] = verdict_metrics(verdicts, [r.kind for r in records])
    values = {
        "threshold": THRESHOLD,
        "calibration_scores": np.linspace(0.1, 0.5, 9),
        "statement": STATEMENT,
    }
    return CategoryReport(name, metrics, records, **(values | more))


def full_records():
    losses = np.geomspace(1, 0.01, 300)
    return [
        record("good/0", "good", 0.1, degrees=0.2, percent=0.1, losses=losses),
        record("good/1", "good", 0.9, degrees=0.2, percent=0.1, losses=losses[:100]),
        record("Burrs/0", "Burrs", 0.8, degrees=0.1, percent=0.1, losses=losses),
        record("Burrs/1", "Burrs", 0.2, degrees=31.5, percent=9.0, losses=losses),
        unsure("Stains/0", "Stains", 0.7, "large residual", degrees=2.5, percent=0.4),
        record("Stains/1", "Stains", 0.05, degrees=float("nan"), percent=float("nan")),
    ]


def written(tmp_path, *categories, settings=(), **more):
    return Page(write_report(tmp_path / "r.html", "run", categories, dict(settings), **more))


def test_report_is_whole_and_self_contained(tmp_path):
    records = full_records()
    history = {"step": [100, 200, 300], "seconds": [1.0, 2.0, 3.0], "psnr": [20.0, 25.0, 27.5]}
    one = category(records, train_history=history)
    path = write_report(tmp_path / "new" / "report.html", "A <run>", [one], {"match": {"k": 3}})
    page = Page(path)
    assert not re.search(r"https?://|@import|url\((?!#)", page.text)
    assert all(url.startswith(("data:", "#")) for url in page.urls)
    assert len(set(page.ids)) == len(page.ids)
    assert all(url[1:] in page.ids for url in page.urls if url.startswith("#"))
    assert page.names == [records[i].name for i in worst_first(records)]
    # Good images have no ground truth to show.
    assert len(page.pictures) == 4 * 5 + 2 * 4
    assert all(picture["alt"] for picture in page.pictures)
    assert "A &lt;run&gt;" in page.text and "A <run>" not in page.text
    assert ("th", "match.k") in page.parts and ("td", "3") in page.parts
    labels = re.findall(r'<svg role="img" aria-label="([^"]*)"', page.text)
    assert [label.split()[0] for label in labels] == ["Histograms", "Loss", "PSNR"]
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_cards_begin_with_the_verdict(tmp_path):
    page = written(tmp_path, category(full_records()))
    said = {name: " | ".join(words) for name, words in page.said.items()}
    assert said["good/1"].startswith(
        "FAIL | false alarm | score 0.9 / threshold 0.5, p = 0.1 | good/1"
    )
    assert said["good/0"].startswith("PASS | score 0.1 / threshold 0.5, p = 0.7 | good/0")
    assert said["Burrs/1"].startswith("PASS | missed |")
    assert said["Burrs/0"].startswith("FAIL | score")
    assert said["Stains/0"].startswith("UNSURE | score")
    assert "large residual" in page.said["Stains/0"]
    assert [name for name in said if "pose failed" in said[name]] == ["Stains/1", "Burrs/1"]
    assert [name for name in said if "pose off" in said[name]] == ["Stains/0"]


def test_tiles_and_tables_begin_with_the_verdicts(tmp_path):
    one = category(full_records())
    one.metrics["pose"] = dict.fromkeys(
        ("mean_degrees", "p90_degrees", "median_percent", "mean_percent", "p90_percent"), 0.0
    ) | {f"share_below_{s}": 1.0 for s in ("0.5deg", "0.5deg_1pct", "1deg", "2deg")}
    one.metrics["pose"] |= {"median_degrees": 0.25, "gross_count": 0, "without_pose": 0}
    page = written(tmp_path, one)
    tiles = page.tiles()
    assert list(tiles)[:3] == ["PASS", "FAIL", "UNSURE"]
    assert [tiles[v] for v in ("PASS", "FAIL", "UNSURE")] == ["3", "2", "1"]
    assert tiles["false alarms: 1 of 2 good images"] == "50.0%"
    assert tiles["defects found: 1 of 4 defective images"] == "25.0%"
    assert {"image AUROC", "pixel AP"} < set(tiles)
    assert tiles["median pose error"] == "0.250°"
    titles = [words for tag, words in page.parts if tag == "h3"]
    assert titles[0] == "Verdicts, at a false-alarm rate of 10.0% asked for"
    assert page.words.count(STATEMENT) == 1
    assert page.words.index("01Duck Calibration") < page.words.index(STATEMENT)


def test_gross_failures_are_listed(tmp_path):
    page = written(tmp_path, category(full_records()))
    linked = {url[1:] for url in page.urls if url.startswith("#")}
    assert {c["data-name"] for c in page.cards if c["id"] in linked} == {"Burrs/1", "Stains/1"}
    assert "2 poses are off by more than 5°" in page.words
    assert "Stains/1 : none, PASS" in page.words and "Burrs/1 : 31.5°, PASS" in page.words


def test_order_is_pose_then_mistake_then_verdict():
    names = [full_records()[i].name for i in worst_first(full_records())]
    assert names == ["Stains/1", "Burrs/1", "Stains/0", "good/1", "Burrs/0", "good/0"]
    exact = record("Burrs/3", "Burrs", 0.9)
    rest = [
        record("good/0", "good", 0.1),
        record("good/1", "good", 0.3),
        record("unlabelled/0", "unlabelled", 0.2),
        record("unlabelled/1", "unlabelled", 0.4),
        record("unlabelled/2", "unlabelled", 2.0),
        replace(exact, anomaly_map=exact.mask.astype(np.float32)),
        record("Burrs/0", "Burrs", 0.9),
        record("good/2", "good", 0.95),
        record("Burrs/1", "Burrs", 0.25, mask=None),
        record("Burrs/2", "Burrs", 0.05, mask=None),
        unsure("unlabelled/3", "unlabelled", 0.1, "upside down"),
        unsure("good/3", "good", 3.0, "upside down"),
    ]
    assert [rest[i].name for i in worst_first(rest)] == [
        "Burrs/2", "Burrs/1",  # missed
        "good/2",  # false alarm
        "good/3", "unlabelled/3",  # UNSURE
        "Burrs/0", "Burrs/3", "unlabelled/2",  # FAIL
        "good/1", "good/0", "unlabelled/1", "unlabelled/0",  # PASS
    ]  # fmt: skip


def test_filters_are_by_verdict_and_by_kind(tmp_path):
    records = [*full_records(), record("unlabelled/0", "unlabelled", 0.3)]
    page = written(tmp_path, category(records))
    buttons = [words for tag, words in page.parts if tag == "button"]
    assert buttons[:9] == [
        "all verdicts 7", "PASS 4", "FAIL 2", "UNSURE 1",
        "all kinds 7", "good 2", "Burrs 2", "Stains 2", "unlabelled 1",
    ]  # fmt: skip
    assert {c["data-name"] for c in page.cards if c["data-verdict"] == "FAIL"} == {
        "good/1", "Burrs/0",
    }  # fmt: skip


@pytest.mark.parametrize("kinds", [("good", "good"), ("Burrs", "Stains"), ("good", "Burrs")])
def test_little_to_show(tmp_path, kinds):
    records = [record(f"{kind}/{i}", kind, 0.5, mask=None) for i, kind in enumerate(kinds)]
    page = written(tmp_path, category(records, calibration_scores=[]))
    assert sorted(page.names) == sorted(r.name for r in records)
    assert len(page.pictures) == 8
    assert not any("pose" in words for words in page.said[records[0].name][:-1])


@pytest.mark.parametrize("threshold", [THRESHOLD, float("inf")])
def test_unlabelled_images_alone_make_a_report(tmp_path, threshold):
    records = [record(f"unlabelled/{i}", "unlabelled", s) for i, s in enumerate((0.3, 0.8, 0.2))]
    if threshold == float("inf"):
        records = [
            replace(r, verdict="UNSURE", boxes=[], doubts=["not calibrated"]) for r in records
        ]
    page = written(tmp_path, category(records, threshold=threshold))
    verdicts = {name: words[0] for name, words in page.said.items()}
    assert page.names == ["unlabelled/1", "unlabelled/0", "unlabelled/2"]
    if threshold == THRESHOLD:
        assert list(verdicts.values()) == ["FAIL", "PASS", "PASS"]
        assert page.tiles() == {"PASS": "2", "FAIL": "1", "UNSURE": "0"}
    else:
        assert set(verdicts.values()) == {"UNSURE"}
        assert page.said["unlabelled/0"][1] == "score 0.3 / no threshold, p = 0.7"
        assert "there is no threshold" in page.words
    assert "Verdicts, at a false-alarm rate of 10.0% asked for" in page.words
    # The colours of the anomaly maps rest on the images that pass.
    assert ("90 % of the normal images' pixels" in page.words) == (threshold == THRESHOLD)
    assert "AUROC" not in page.words and "false alarms:" not in page.words


def test_several_categories_and_sizes(tmp_path):
    first = category(full_records())
    second = category([record("good/0", "good", 0.4, size=(900, 700))], name="02Penguin")
    third = category([record("unlabelled/0", "unlabelled", 0.9)], name="03Mine")
    first.metrics["time"] = time_metrics({"train": 3.0}, 6)
    page = written(tmp_path, first, second, third, image_size=64)
    assert len(page.cards) == 8 and len(set(page.ids)) == len(page.ids)
    tiles = page.tiles()
    assert [tiles[v] for v in ("PASS", "FAIL", "UNSURE")] == ["4", "3", "1"]
    assert tiles["false alarms: 1 of 3 good images"] == "33.3%"
    shapes = {decoded(picture).shape for picture in page.pictures}
    assert shapes == {(30, 40, 3), (64, 50, 3)}
    assert written(tmp_path).cards == []


def test_no_room_for_pictures_is_said(tmp_path):
    records = full_records()
    page = written(tmp_path, category(records), megabytes=0.025)
    left = len(records) - len(page.cards)
    assert 0 < left < len(records)
    assert page.names == [records[i].name for i in worst_first(records)][:-left]
    assert f"{left} more images without pictures" in page.words
    assert all(f"category1-{place}" in page.ids for place in range(len(records)))
    assert all(r.name in page.words for r in records)
    cells = [words for tag, words in page.parts if tag == "td"]
    assert cells[cells.index("good/0") :][:5] == ["good/0", "good", "PASS", "0.1", "0.7"]


def test_bad_records_are_one_clear_line(tmp_path):
    one = record("good/0", "good", 0.5)
    with pytest.raises(InputError, match="good/0 twice"):
        written(tmp_path, category([one, one]))
    broken = record("good/7", "good", float("nan"))
    with pytest.raises(InputError, match="01Duck/good/7 has a score"):
        written(tmp_path, replace(category([one]), records=[broken]))
    with pytest.raises(InputError, match="has no images"):
        written(tmp_path, replace(category([one], name="x"), records=[]))


def decoded(picture):
    data = base64.b64decode(picture["src"].partition("base64,")[2])
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), 1), cv2.COLOR_BGR2RGB)


def extent(panel, colour, tolerance=0):
    """First row, last row, first and last column where a panel has a colour."""
    rows, columns = np.nonzero(np.abs(panel.astype(int) - colour).max(axis=-1) <= tolerance)
    return rows.min(), rows.max(), columns.min(), columns.max()


def test_boxes_are_drawn_around_their_regions():
    image = np.full((60, 80, 3), 200, np.uint8)
    heat = np.zeros((120, 160), np.float32)
    heat[40:60, 100:140] = 1.0
    mask = np.zeros((120, 160), bool)
    mask[80:100, 20:40] = True
    panel = heat_panel(image, heat, [(100, 40, 40, 20)], mask, heat_scale([heat], []))
    assert extent(panel, BOX_COLOUR) == (19, 30, 49, 70)
    inside = panel[20:30, 50:70]
    assert not (inside == BOX_COLOUR).all(-1).any()
    assert extent(panel, TRUTH_COLOUR, 60) == (38, 51, 8, 21)
    # A region at the border keeps all four sides.
    corner = heat_panel(image, heat, [(0, 0, 160, 120)], None, heat_scale([heat], []))
    assert extent(corner, BOX_COLOUR) == (0, 59, 0, 79)


def test_the_page_shows_the_box_on_the_anomaly_map_alone(tmp_path):
    failed = record("good/0", "good", 0.9, (200, 200), boxes=[(120, 60, 40, 30)])
    calm = replace(failed, image=np.full((200, 200, 3), 0.6), anomaly_map=np.zeros((200, 200)))
    page = written(tmp_path, category([replace(calm, render=calm.image)]))
    shown = {}
    for picture in page.pictures:
        pixels = decoded(picture).astype(int)
        shown[picture["alt"].split()[0]] = pixels
    heat = shown.pop("Anomaly")
    rows, columns = np.nonzero(heat[..., 1] - heat[..., 0] > 60)
    assert (rows.min(), rows.max()) == pytest.approx((59, 90), abs=1)
    assert (columns.min(), columns.max()) == pytest.approx((119, 160), abs=1)
    assert all(np.ptp(pixels, axis=-1).max() < 20 for pixels in shown.values())


def lines(svg):
    return [float(x) for x in re.findall(r'threshold-\d+">\s*<path d="M ([\d.]+)', svg)]


def rows(svg):
    """Names and counts of the rows, from above."""
    words = re.findall(r'<text[^>]*transform="translate[^>]*>([^<]*)</text>', svg)
    return dict(zip(words[::2], words[1::2], strict=True))


def test_histogram_has_a_line_at_the_threshold_in_every_row():
    svg = score_histogram(
        [0.1, 0.9, 0.8, 0.7], ["good", "Burrs", "unlabelled", "Burrs"], [0.1, 0.2, 0.3], 0.45
    )
    assert rows(svg) == {"calibration": "(3)", "good": "(1)", "Burrs": "(2)", "unlabelled": "(1)"}
    ticks = re.findall(r'<text[^>]* x="([\d.]+)"[^>]*>([\d.]+)</text>', svg)
    at, values = np.array(ticks, float).T
    slope, start = np.polyfit(at, values, 1)
    assert slope * np.array(lines(svg)) + start == pytest.approx([0.45] * 4, abs=1e-3)


def test_histogram_over_decades_is_logarithmic():
    low, middle, high = (
        lines(score_histogram([0.1, 10.0], ["good", "Burrs"], [0.2], threshold))
        for threshold in (0.1, 1.0, 10.0)
    )
    assert middle == pytest.approx([(low[0] + high[0]) / 2] * 3, abs=0.01)


@pytest.mark.parametrize("kinds", [["Burrs", "Burrs"], ["unlabelled"] * 2, ["good", "unlabelled"]])
def test_histogram_without_a_threshold_has_no_line(kinds):
    svg = score_histogram([0.1, 0.9], kinds, [], float("inf"))
    assert list(rows(svg)) == list(dict.fromkeys(kinds)) and lines(svg) == []


def test_panels_show_what_they_claim():
    image = np.full((60, 60, 3), 200, np.uint8)
    assert (alignment_panel(image, image) == 200).all()
    darker = image.copy()
    darker[20:30] = 50
    fringes = alignment_panel(image, darker).astype(int)
    red = fringes[..., 0] - fringes[..., 1] > 100
    assert red[20:30].all() and red.sum() == 10 * 60
    assert (fringes[..., 1] == fringes[..., 2]).all()

    heat = np.zeros((60, 60), np.float32)
    heat[10:20, 10:20] = 1.0
    panel = heat_panel(image, heat, [], None, heat_scale([heat], [])).astype(int)
    hot = panel[..., 0] - panel[..., 2] > 50
    assert hot[10:20, 10:20].all() and hot.sum() == 100
    assert np.ptp(panel[~hot], axis=-1).max() == 0

    # A defect of a few pixels is tinted where it is, and ringed.
    mask = np.zeros((240, 240), bool)
    mask[100:103, 100:103] = True
    panel = truth_panel(np.full((240, 240, 3), 200, np.uint8), mask).astype(int)
    blue = panel[..., 2] - panel[..., 0] > 50
    assert blue[mask].all()
    ring = np.argwhere(blue) - 101
    assert np.hypot(*ring.T).max() == pytest.approx(0.04 * 240 + 1.5, abs=2)
    assert not blue[101, 104:109].any()


def test_heat_scale_ignores_a_few_wild_images():
    rng = np.random.default_rng(0)
    good = [rng.random((50, 50)).astype(np.float32) for _ in range(4)]
    defects = [g + 0.5 for g in good]
    tame = heat_scale(good, defects)
    assert heat_scale(good, [*defects, 100 * good[0]]).high == pytest.approx(tame.high, rel=0.05)
    assert tame.low < tame.normal < tame.high
    assert np.isnan(heat_scale([], defects).normal)
    flat = heat_scale([np.zeros((5, 5))], [])
    assert flat.high > flat.low
