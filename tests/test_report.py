from __future__ import annotations

import re
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest

from igspad_jax.errors import InputError
from igspad_jax.evaluate import evaluate_maps, time_metrics
from igspad_jax.report import CategoryReport, ImageRecord, worst_first, write_report
from igspad_jax.report.panels import alignment_panel, heat_panel, heat_scale, truth_panel

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Collects what the tests ask for, and fails on tags that do not pair."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.cards, self.ids, self.urls = [], [], [], [], []
        self.badges, self.words = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.urls += [attrs[key] for key in ("src", "href", "srcset", "data") if attrs.get(key)]
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "img":
            self.images.append(attrs)
        if tag == "article":
            self.cards.append(attrs)
        if tag not in VOID:
            self.open.append((tag, attrs.get("class") or ""))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and "badge" in self.open[-1][1]:
            self.badges.append((self.cards[-1]["data-name"], data))
        self.words.append(data)


def record(name, kind, score, size=(30, 40), **more):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    image = rng.random((*size, 3)).astype(np.float32)
    mask = None
    if kind != "good":
        mask = np.zeros(size, bool)
        mask[5:9, 10:14] = True
    heat = rng.random(size).astype(np.float32)
    return ImageRecord(name, kind, image, image, image, heat, score, mask, **more)


def category(records, name="01Duck", **more):
    empty = [np.zeros(r.heat_map.shape, bool) if r.kind == "good" else r.mask for r in records]
    metrics = evaluate_maps(
        [r.heat_map for r in records],
        empty,
        np.array([r.kind != "good" for r in records]),
        np.array([r.score for r in records]),
        [r.kind for r in records],
    )
    return CategoryReport(name, metrics, records, **more)


def full_records():
    losses = np.geomspace(1, 0.01, 300)
    return [
        record("good/0", "good", 0.1, degrees=0.2, percent=0.1, losses=losses),
        record("good/1", "good", 0.9, degrees=0.2, percent=0.1, losses=losses[:100]),
        record("Burrs/0", "Burrs", 0.8, degrees=0.1, percent=0.1, losses=losses),
        record("Burrs/1", "Burrs", 0.2, degrees=31.5, percent=9.0, losses=losses),
        record("Stains/0", "Stains", 0.7, degrees=2.5, percent=0.4, flags=("large residual",)),
        record("Stains/1", "Stains", 0.05, degrees=float("nan"), percent=float("nan")),
    ]


def test_report_is_whole_and_self_contained(tmp_path):
    records = full_records()
    history = {"step": [100, 200, 300], "seconds": [1.0, 2.0, 3.0], "psnr": [20.0, 25.0, 27.5]}
    one = category(records, train_history=history, threshold=0.5)
    path = write_report(tmp_path / "new" / "report.html", "A <run>", [one], {"match": {"k": 3}})
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert all(url.startswith(("data:", "#")) for url in page.urls)
    assert len(set(page.ids)) == len(page.ids)
    assert all(url[1:] in page.ids for url in page.urls if url.startswith("#"))
    assert [card["data-name"] for card in page.cards] == [
        records[i].name for i in worst_first(records)
    ]
    pictures = [image for image in page.images if "src" in image]
    # Good images have no ground truth to show.
    assert len(pictures) == 4 * 6 + 2 * 5
    assert all(image["alt"] and image["src"].startswith("data:image/jpeg") for image in pictures)
    assert "A &lt;run&gt;" in text and "A <run>" not in text
    assert "match.k" in page.words
    assert text.count("<svg") == 3
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_gross_failures_are_marked_and_listed(tmp_path):
    path = write_report(tmp_path / "r.html", "run", [category(full_records(), threshold=0.5)], {})
    page = Page(path.read_text(encoding="utf-8"))
    failed = [name for name, words in page.badges if words == "pose failed"]
    assert sorted(failed) == ["Burrs/1", "Stains/1"]
    assert ("Stains/0", "pose off") in page.badges
    assert ("Stains/0", "large residual") in page.badges
    assert ("good/1", "false alarm") in page.badges
    assert ("Burrs/1", "missed") in page.badges
    linked = {url[1:] for url in page.urls if url.startswith("#")}
    assert {c["data-name"] for c in page.cards if c["id"] in linked} == {
        "Burrs/1", "Stains/1", "Stains/0",
    }  # fmt: skip
    assert any("2 poses are off by more than 5°" in words for words in page.words)


def test_worst_first_by_pose_then_by_score():
    names = [full_records()[i].name for i in worst_first(full_records())]
    assert names[:3] == ["Stains/1", "Burrs/1", "Stains/0"]
    assert names[-1] == "good/0"
    unposed = [
        record("good/0", "good", 0.1),
        record("Burrs/0", "Burrs", 0.9),
        record("good/1", "good", 0.95),
        record("Burrs/1", "Burrs", 0.05),
    ]
    names = [unposed[i].name for i in worst_first(unposed)]
    assert names[:2] == ["good/1", "Burrs/1"] and names[-1] == "good/0"


def bare(records):
    for r in records:
        yield ImageRecord(r.name, r.kind, r.image, r.render, None, r.heat_map, r.score)


@pytest.mark.parametrize("kinds", [("good", "good"), ("Burrs", "Stains"), ("good", "Burrs")])
def test_little_to_show(tmp_path, kinds):
    records = list(bare(record(f"{kind}/{i}", kind, 0.5) for i, kind in enumerate(kinds)))
    path = write_report(tmp_path / "r.html", "run", [category(records)], {})
    page = Page(path.read_text(encoding="utf-8"))
    assert len(page.cards) == 2
    assert not any("pose" in words for _, words in page.badges)
    assert page.images[0]["src"].startswith("data:image/jpeg")


def test_several_categories_and_sizes(tmp_path):
    first = category(full_records())
    second = category([record("good/0", "good", 0.5, size=(900, 700))], name="02Penguin")
    first.metrics["time"] = time_metrics({"train": 3.0}, 6)
    path = write_report(tmp_path / "r.html", "run", [first, second], {}, image_size=64)
    page = Page(path.read_text(encoding="utf-8"))
    assert len(page.cards) == 7 and len(set(page.ids)) == len(page.ids)
    assert "Categories, at the images' own size" in page.words
    assert Page(write_report(tmp_path / "e.html", "none", [], {}).read_text()).cards == []


def test_no_room_for_pictures_is_said(tmp_path):
    records = full_records()
    path = write_report(tmp_path / "r.html", "run", [category(records)], {}, megabytes=0.03)
    page = Page(path.read_text(encoding="utf-8"))
    left = len(records) - len(page.cards)
    assert 0 < left < len(records)
    assert any(f"{left} more images without pictures" in words for words in page.words)
    assert all(f"category1-{place}" in page.ids for place in range(len(records)))
    assert all(r.name in page.words for r in records)


def test_bad_records_are_one_clear_line(tmp_path):
    one = record("good/0", "good", 0.5)
    with pytest.raises(InputError, match="good/0 twice"):
        write_report(tmp_path / "r.html", "run", [category([one, one])], {})
    broken = record("good/7", "good", float("nan"))
    with pytest.raises(InputError, match="01Duck/good/7 has a score"):
        write_report(tmp_path / "r.html", "run", [CategoryReport("01Duck", {}, [broken])], {})
    with pytest.raises(InputError, match="has no images"):
        write_report(tmp_path / "r.html", "run", [CategoryReport("x", {}, [])], {})


def test_panels_show_what_they_claim():
    image = np.full((60, 60, 3), 200, np.uint8)
    assert (alignment_panel(image, image) == 200).all()
    darker = image.copy()
    darker[20:30] = 50
    red = alignment_panel(image, darker)[25, 25]
    assert red[0] > red[1] == red[2]

    heat = np.zeros((60, 60), np.float32)
    heat[10:20, 10:20] = 1.0
    panel = heat_panel(image, heat, None, heat_scale([heat], []))
    hot, cold = panel[15, 15].astype(int), panel[50, 50].astype(int)
    assert cold[0] == cold[1] == cold[2] and hot[0] > hot[1] + 50

    mask = np.zeros((240, 240), bool)
    mask[100:103, 100:103] = True
    blue = truth_panel(image, mask).astype(int)
    assert (blue[..., 2] - blue[..., 0]).max() > 100
    assert blue[50, 50].std() == 0


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


def test_doubted_poses_are_counted_and_come_before_trusted_ones(tmp_path):
    records = [
        record("good/0", "good", 0.9),
        record("good/1", "good", 0.1, flags=("render and image disagree",)),
        record("Burrs/0", "Burrs", 0.2),
    ]
    assert worst_first(records)[0] == 1
    path = write_report(tmp_path / "report.html", "run", [category(records)], {})
    page = Page(path.read_text(encoding="utf-8"))
    words = " ".join(" ".join(page.words).split())
    assert "1 of 3 poses cannot be trusted" in words
    assert "good/1 : render and image disagree" in words
    (link,) = [url for url in page.urls if url.startswith("#") and url.endswith("-0")]
    assert link[1:] in page.ids
