"""The stages of a run, and what its folder keeps: all runs are of one toy of 48 pixels."""

import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from igspad_jax.cameras import pose_errors
from igspad_jax.data import read_category, read_image, write_image
from igspad_jax.detect import pooled
from igspad_jax.errors import InputError
from igspad_jax.inspector import Inspector, load_object
from igspad_jax.pipeline.calibration import calibrate_category
from igspad_jax.pipeline.evaluation import evaluate_category
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.summary import summarise
from igspad_jax.pipeline.training import train_category
from igspad_jax.settings import (
    CalibrateConfig,
    DataConfig,
    DetectConfig,
    EvaluateConfig,
    InvertConfig,
    LevenbergConfig,
    MatchConfig,
    Settings,
    TrainConfig,
)
from igspad_jax.train import Fitted
from igspad_jax.train.checkpoints import Checkpoints
from toy.category import ToyConfig, write_toy_category

LEVELS = LevenbergConfig(
    widths=(0,), blurs=(1.0,), merge_cells=(0,), steps=(6,), deltas=(0.1,), hypotheses_kept=(1,),
    translation_penalties=(0.002,), extra_turn=0.0, readmit_level=0,
)  # fmt: skip
SETTINGS = Settings(
    data=DataConfig(held_out=0.25),
    train=TrainConfig(
        steps=180, count=400, sh_degree=0, relocate_every=60, evaluate_every=60, checkpoint_every=60
    ),
    match=MatchConfig(matcher="opencv", initial="retrieval"),
    invert=InvertConfig(batch=1, levenberg=LEVELS),
    detect=DetectConfig(features="handmade"),
    calibrate=CalibrateConfig(false_alarm_rate=0.1),
    evaluate=EvaluateConfig(sizes=(64,), false_alarm_rates=(0.5,), breakdown=True),
)
ROOT = Path(__file__).parents[1]
KINDS = ("Burrs", "Missing", "Stains")
TESTS = [f"{kind}/{i}" for kind in ("good", *KINDS) for i in range(2)]
NORMALS = 5


def changed(section: str, **values) -> Settings:
    """The tests' settings with some of one section changed."""
    part = dataclasses.replace(getattr(SETTINGS, section), **values)
    return dataclasses.replace(SETTINGS, **{section: part})


def run(data: Path, root: Path, settings: Settings = SETTINGS) -> RunFolder:
    """Do all stages."""
    category, folder = read_category(data), RunFolder(root / "toy")
    for stage in (train_category, calibrate_category, evaluate_category):
        stage(category, folder, settings)
    summarise([(category, folder)], settings, root)
    return folder


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Path:
    """12 training views, 8 test images, and 5 normal photographs without poses."""
    root = tmp_path_factory.getbasetemp() / "pipeline" / "data" / "toy"
    if not root.is_dir():
        config = ToyConfig(size=48, train_views=12, test_per_kind=2, supersample=1)
        write_toy_category(root, config)
        (root / "normals").mkdir()
        for kind, i in [(kind, i) for kind in KINDS for i in range(2)][:NORMALS]:
            shutil.copy(root / f"test_clean/{kind}/{i}.png", root / f"normals/{kind}{i}.png")
    return root


@pytest.fixture(scope="session")
def finished(toy, tmp_path_factory) -> Path:
    """The run folder after all stages; never changed by a test."""
    root = tmp_path_factory.getbasetemp() / "pipeline" / "run"
    if not (root / "report.html").is_file():
        run(toy, root)
    return root


def script(name: str, *arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Starts a script, which costs seconds: only where it depends on the command line."""
    line = [sys.executable, str(ROOT / f"scripts/{name}.py"), *map(str, arguments)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        line, capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )


class Again:
    """A copy of the finished run and of its data, to be changed and run again.

    Attributes:
        data: the category's folder.
        root: the run's.
        folder: the category's run folder.
        old: what was said of each test image, by name.
        metrics: as they were.
        before: time stamps of the category's files.
    """

    def __init__(self, toy: Path, finished: Path, place: Path):
        self.data = shutil.copytree(toy, place / "data" / "toy")
        self.root = shutil.copytree(finished, place / "run")
        self.folder = RunFolder(self.root / "toy")
        self.old, self.metrics = entries(self.folder), self.folder.load("metrics")
        self.before = stamps(self.folder.root)

    def run(self, **sections) -> dict[str, dict]:
        """Do all stages, with other sections of the settings; returns what they say now."""
        return entries(run(self.data, self.root, dataclasses.replace(SETTINGS, **sections)))

    def calibrate(self, **given) -> list[dict]:
        """Calibrate again; returns what is said of the images."""
        calibrate_category(read_category(self.data), self.folder, SETTINGS, **given)
        return self.folder.load("calibration")["images"]

    def written(self) -> set[str]:
        """The files that were written since."""
        after = stamps(self.folder.root)
        return {str(path) for path in after if after[path] != self.before.get(path)}

    @property
    def overall(self) -> dict:
        """The figures of all labelled images."""
        return self.folder.load("metrics")["sizes"]["native"]["overall"]


@pytest.fixture
def again(toy, finished, tmp_path) -> Again:
    return Again(toy, finished, tmp_path)


@pytest.fixture
def calls(monkeypatch) -> Counter:
    """How often images are located, compared, and the object's own anomaly is learnt."""
    counted = Counter()

    def counting(name):
        method = getattr(Inspector, name)

        def called(self, *args, **kwargs):
            counted[name] += 1
            return method(self, *args, **kwargs)

        monkeypatch.setattr(Inspector, name, called)

    for name in ("locate", "compare", "learn"):
        counting(name)
    return counted


def stamps(root: Path) -> dict[Path, int]:
    return {p.relative_to(root): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


def entries(folder: RunFolder) -> dict[str, dict]:
    return {entry["name"]: entry for entry in folder.load("inspections")["images"]}


def held(folder: RunFolder) -> list[str]:
    """The names of the held-out views among the calibration images."""
    return [f"held_out/{name}" for name in folder.load("training")["held_out"]]


def without_key(folder: RunFolder, stage: str) -> dict:
    """What a stage found, but for what may differ from run to run: the times."""
    content = folder.load(stage)
    return {name: value for name, value in content.items() if name not in ("key", "time")}


class TestRun:
    def test_leaves_all_files(self, finished, toy):
        folder = RunFolder(finished / "toy")
        assert {p.name for p in folder.root.iterdir()} == {
            "object", "checkpoints", "training.json", "calibration", "calibration.json",
            "inspected", "inspections.json", "breakdown", "metrics.json",
        }  # fmt: skip
        views = {f"views/{name}.png" for name in folder.load("training")["fitted"]}
        assert len(views) + len(held(folder)) == 12
        assert {str(p) for p in stamps(folder.object)} == views | {
            "object.json", "scene.ply", "inspector.json", "expected.npz",
        }  # fmt: skip
        normals = [f"normals/{path.name}" for path in (toy / "normals").iterdir()]
        for results, names in (
            (folder.inspected, TESTS),
            (folder.calibration, held(folder) + normals),
        ):
            expected = {f"{name}.{suffix}" for name in names for suffix in ("json", "npy", "png")}
            assert {str(p) for p in stamps(results.root)} == expected
        report = (finished / "report.html").read_text()
        assert all(name in report for name in TESTS)

    def test_training(self, finished):
        training = RunFolder(finished / "toy").load("training")
        assert [entry["step"] for entry in training["history"]] == [60, 120, 180]
        psnr = [entry["psnr"] for entry in training["history"]]
        assert psnr == sorted(psnr) and training["gaussians"] == 400
        inspector = Inspector.load(finished)
        assert inspector.normal_object.gaussians.sh.shape == (400, 1, 3)  # viewers get 3 degrees
        # The toy's object fits a ball of radius 1 around the origin.
        assert np.linalg.norm(inspector.normal_object.centre) < 0.3
        assert 0.7 < inspector.normal_object.radius < 1.8

    def test_inspections(self, finished, toy):
        folder, inspector = RunFolder(finished / "toy"), Inspector.load(finished)
        judged = folder.load("inspections")
        scores = np.array(judged["calibration_scores"])
        assert list(entries(folder)) == TESTS
        assert judged["threshold"] == scores.max()  # at a rate that so few cannot keep
        pool = max(1, round(SETTINGS.detect.pool * 48))
        for test in read_category(toy).test:
            entry, anomaly_map = entries(folder)[test.name], folder.inspected.load_map(test.name)
            level = inspector.level(anomaly_map)
            assert entry["kind"] == test.kind and entry["threshold"] == judged["threshold"]
            assert entry["score"] == pytest.approx(pooled(anomaly_map, pool).max() / level)
            expected = (1 + np.sum(scores >= entry["score"])) / (1 + len(scores))
            assert entry["p_value"] == pytest.approx(expected)
            fails = entry["score"] > entry["threshold"]
            verdict = "UNSURE" if entry["doubts"] else "FAIL" if fails else "PASS"
            assert entry["verdict"] == verdict and bool(entry["regions"]) == fails
            self.check_regions(entry, inspector)
            errors = pose_errors(
                np.array(entry["viewmat"]), test.viewmat, inspector.normal_object.centre
            )
            assert (entry["degrees"], entry["percent"]) == pytest.approx(errors, rel=1e-3)
            assert entry["initial_training_view"] in folder.load("training")["fitted"]
        assert entries(folder)["Stains/0"]["verdict"] == entries(folder)["Stains/1"]["verdict"]
        assert {entry["verdict"] for entry in entries(folder).values()} >= {"PASS", "FAIL"}

    @staticmethod
    def check_regions(entry, inspector):
        peaks = [region["peak"] for region in entry["regions"]]
        assert peaks == sorted(peaks, reverse=True)
        if peaks:
            assert peaks[0] == pytest.approx(entry["score"])
        for region in entry["regions"]:
            left, top, width, height = region["box"]
            x, y = region["pixel"]
            assert left <= x <= left + width and top <= y <= top + height
            assert 0 < region["area"] <= width * height
            if region["point"]:
                seen = np.array(entry["viewmat"]) @ [*region["point"], 1.0]
                projected = np.asarray(inspector.normal_object.K) @ seen[:3] / seen[2]
                np.testing.assert_allclose(projected[:2], region["pixel"], atol=1e-3)

    def test_finds_the_stains_where_they_are(self, finished, toy):
        """So short a training misses the others."""
        for test in read_category(toy).test[-2:]:
            region = entries(RunFolder(finished / "toy"))[test.name]["regions"][0]
            rows, columns = np.nonzero(read_image(test.mask_path)[..., 0])
            x, y = region["pixel"]
            assert np.hypot(columns + 0.5 - x, rows + 0.5 - y).min() < 2.0
            assert region["point"] is not None

    def test_metrics(self, finished):
        folder = RunFolder(finished / "toy")
        metrics, found = folder.load("metrics"), entries(folder)
        overall = metrics["sizes"]["native"]["overall"]
        assert set(metrics["sizes"]) == {"native", "64"}
        assert set(metrics["sizes"]["native"]["kinds"]) == set(KINDS)
        good, bad = (
            np.array([e["score"] for e in found.values() if (e["kind"] == "good") == is_good])
            for is_good in (True, False)
        )
        assert overall["good"] == 2 and overall["defective"] == 6
        assert overall["image_auroc"] == pytest.approx((bad[:, None] > good).mean())
        calibration = Inspector.load(finished).calibration
        for rate in ("0.1", "0.5"):
            threshold = calibration.threshold(float(rate))
            kinds = metrics["verdicts"][rate]["kinds"]
            for kind, counts in kinds.items():
                own = [e for e in found.values() if e["kind"] == kind]
                fails = sum(not e["doubts"] and e["score"] > threshold for e in own)
                assert (counts["FAIL"], sum(counts.values())) == (fails, 2)
        assert metrics["unsure"] == [name for name, e in found.items() if e["doubts"]]
        errors = metrics["pose"]["image_errors"]
        assert {name: e["degrees"] for name, e in errors.items()} == pytest.approx(
            {name: entry["degrees"] for name, entry in found.items()}, rel=1e-3
        )
        files = [json.loads((folder.inspected.root / f"{name}.json").read_text()) for name in TESTS]
        for what in ("locate", "compare"):
            total = sum(file["seconds"][what] for file in files)
            assert metrics["time"][what] == pytest.approx(
                {"seconds": total, "per_image": total / 8}
            )
        whole = json.loads((finished / "metrics.json").read_text())
        assert whole["categories"]["toy"]["sizes"] == metrics["sizes"]
        assert whole["mean"]["sizes"]["native"]["overall"]["image_auroc"] == overall["image_auroc"]

    def test_breakdown(self, finished):
        breakdown = RunFolder(finished / "toy").load("metrics")["breakdown"]
        assert set(breakdown) == {"estimated", "true pose", "clean image"}
        metrics = RunFolder(finished / "toy").load("metrics")
        assert breakdown["estimated"] == metrics["sizes"]["native"]
        assert breakdown["true pose"]["overall"]["good"] == 2
        # Against the same view without the defect, the defect is all that differs.
        clean = breakdown["clean image"]["overall"]
        assert clean["pixel_auroc"] > 0.95
        assert clean["image_auroc"] is None and clean["good"] == 0 and clean["defective"] == 6
        variants = finished / "toy/breakdown"
        assert len(list(variants.glob("true pose/*/*.npy"))) == 8
        assert len(list(variants.glob("clean image/*/*.npy"))) == 6

    def test_breakdown_goes_without_what_the_data_lacks(self, again, calls, caplog):
        shutil.rmtree(again.data / "test_clean")
        (again.data / "test_poses.json").unlink()
        with caplog.at_level("WARNING", logger="absl"):
            found = again.run()
        assert "without true pose and clean image, which the data lacks" in caplog.text
        metrics = again.folder.load("metrics")
        assert set(metrics["breakdown"]) == {"estimated"} and "pose" not in metrics
        assert "degrees" not in found["good/0"] and not calls

    def test_limit_says_what_it_leaves_out(self, again, calls):
        assert list(again.run(data=changed("data", limit=1).data)) == TESTS[::2]
        assert "data.limit=1 leaves out 4 of 8 test images" in again.folder.load("metrics")["notes"]
        assert again.overall["defective"] == 3 and not calls

    def test_scene_trained_elsewhere(self, finished, toy, tmp_path):
        category, folder = read_category(toy), RunFolder(tmp_path / "toy")
        given = finished / "toy/object/scene.ply"
        train_category(category, folder, SETTINGS, scene=given)
        record = folder.load("training")
        assert str(given) in record["origin"] and record["gaussians"] == 400
        before = RunFolder(finished / "toy").load("training")["history"][-1]["psnr"]
        assert record["history"][0]["psnr"] == pytest.approx(before, abs=0.2)
        with pytest.raises(InputError, match=r"made with other settings: scene was '.*' and is No"):
            train_category(category, folder, SETTINGS)

    def test_starts_from_a_point_cloud(self, finished, toy, tmp_path):
        folder = RunFolder(tmp_path / "toy")
        cloud = finished / "toy/object/scene.ply"  # its vertices have places, and no colours
        train_category(read_category(toy), folder, SETTINGS, points=cloud)
        assert folder.load("training")["origin"] == "400 points drawn from a cloud of 400"


class TestRunAgain:
    def test_nothing_changed_nothing_is_done(self, again, toy, monkeypatch):
        def never(*args, **kwargs):
            raise AssertionError("this is done already")

        for name in ("locate", "compare", "learn", "judge"):
            monkeypatch.setattr(Inspector, name, never)
        monkeypatch.setattr("igspad_jax.inspector.inspector.FirstPoses", never)
        monkeypatch.setattr("igspad_jax.pipeline.training.fit", never)
        run(toy, again.root)
        assert not again.written()

    def test_one_more_test_image(self, again, calls):
        shutil.copy(again.data / "test_clean/Stains/1.png", again.data / "test/good/2.png")
        path = again.data / "test_poses.json"
        poses = json.loads(path.read_text())
        path.write_text(json.dumps(poses | {"./test/good/2.png": poses["./test/Stains/1.png"]}))
        found = again.run()
        assert calls["locate"] == 1
        assert {path for path in again.written() if path.startswith("inspected")} == {
            f"inspected/good/2.{suffix}" for suffix in ("json", "npy", "png")
        }
        assert {name: found[name] for name in TESTS} == again.old
        assert again.overall["good"] == 3

    def test_the_same_name_with_another_picture(self, again, calls):
        shutil.copy(again.data / "test_clean/Stains/1.png", again.data / "test/good/1.png")
        found = again.run()
        assert calls["locate"] == 1
        assert {name for name in TESTS if found[name] != again.old[name]} == {"good/1"}
        assert found["good/1"]["degrees"] > 10.0  # the pose of the old picture is still given

    def test_a_deleted_test_image(self, again, calls):
        (again.data / "test/Stains/0.png").unlink()
        assert "Stains/0" not in again.run()
        assert not calls
        assert not list((again.root / "toy/inspected").glob("Stains/0.*"))
        assert again.overall["defective"] == 5
        assert "Stains/0" not in again.folder.load("metrics")["pose"]["image_errors"]

    def test_another_mask(self, again, calls):
        again.run()  # where the data lies now
        mask = np.zeros((48, 48), np.uint8)
        mask[2:5, 2:5] = 255
        write_image(again.data / "ground_truth/Stains/0_mask.png", mask)
        again.run()
        before = again.metrics["sizes"]["native"]["overall"]
        assert again.overall["pixel_auroc"] < before["pixel_auroc"]
        assert again.overall["image_auroc"] == before["image_auroc"]
        assert not calls

    def test_changed_training_images(self, again, caplog, monkeypatch):
        shutil.copy(again.data / "train/good/4.png", again.data / "train/good/3.png")
        category, folder = read_category(again.data), again.folder
        trained, normal_object = [], load_object(folder.object)[0]

        def fit(views, config, *, checkpoints, **others):
            trained.append([p.name for p in checkpoints.iterdir()])
            return Fitted(normal_object, "no work", [{"step": 0, "seconds": 0, "cpu_seconds": 0}])

        monkeypatch.setattr("igspad_jax.pipeline.training.fit", fit)
        with caplog.at_level("WARNING", logger="absl"):
            train_category(category, folder, SETTINGS)
        assert "training images changed, and it is trained anew: train_good_3" in caplog.text
        assert trained == [["made_with.json"]]  # without the checkpoints of the old images
        with pytest.raises(InputError, match=r"inspector.json: no such file; run igspad-calib"):
            evaluate_category(category, folder, SETTINGS)


class TestOtherSettings:
    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            (changed("train", steps=181), "train.steps was 180 and is 181"),
            (changed("data", size=40), "size was 0 and is 40"),
            (changed("data", held_out=0.4), "held_out was 0.25 and is 0.4"),
        ],
    )
    def test_another_training_takes_overwrite(self, finished, toy, settings, named):
        before = stamps(finished)
        with pytest.raises(InputError, match=named) as caught:
            run(toy, finished, settings)
        assert "--overwrite" in str(caught.value) and "\n" not in str(caught.value)
        assert stamps(finished) == before

    def test_overwrite(self, again, finished):
        category, folder = read_category(again.data), again.folder
        settings = changed("data", background=(0.5, 0.5, 0.5))
        scene = finished / "toy/object/scene.ply"
        train_category(category, folder, settings, overwrite=True, scene=scene)
        assert load_object(folder.object)[0].background == pytest.approx(0.5)
        # Nothing is left of the other object, above all no threshold.
        assert not (folder.object / "inspector.json").exists()
        assert [p.name for p in folder.checkpoints.iterdir()] == ["made_with.json"]

    @pytest.mark.parametrize(
        "detect",
        [{"features": "handmade*handmade"}, {"expected_strength": 2.0}, {"expected_strength": 0.0}],
    )
    def test_another_comparison_keeps_the_poses(self, again, calls, detect):
        maps = {name: again.folder.inspected.load_map(name) for name in TESTS}
        settings, strength = changed("detect", **detect).detect, detect.get("expected_strength")
        found = again.run(detect=settings)
        assert calls["locate"] == 0
        # How strongly counts what was learnt, changes nothing of it.
        assert calls["learn"] == 1 if strength is None else calls["learn"] == 0 or not strength
        assert calls["compare"] == len(held(again.folder)) + NORMALS + 8 + 8  # at true poses
        for name, before in maps.items():
            assert found[name]["viewmat"] == again.old[name]["viewmat"]
            after = again.folder.inspected.load_map(name)
            if strength is None:  # the geometric mean of equal factors
                np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-6)
            else:
                more, less = (after > before + 1e-6).any(), (after < before - 1e-6).any()
                assert (more, less) == ((False, True) if strength else (True, False))
        if strength is not None:
            assert again.folder.load("metrics")["sizes"] != again.metrics["sizes"]
            assert found["good/0"]["threshold"] != again.old["good/0"]["threshold"]
        assert Inspector.load(again.root).config.detect == settings

    def test_what_other_features_learnt_is_not_taken(self, again, calls):
        category = read_category(again.data)
        for strength in (0.0, 2.0):
            calls.clear()
            other = changed("detect", features="handmade*handmade", expected_strength=strength)
            calibrate_category(category, again.folder, other)
        assert calls["learn"] == 1

    def test_another_score_keeps_poses_and_maps(self, again, calls):
        found = again.run(detect=changed("detect", pool=0.1, normalise=0.0).detect)
        assert not calls
        expected = pooled(again.folder.inspected.load_map("Stains/0"), 5).max()
        assert found["Stains/0"]["score"] == pytest.approx(expected)
        calibrated = [image["score"] for image in again.folder.load("calibration")["images"]]
        assert found["good/0"]["threshold"] in calibrated

    def test_another_rate_asks_for_no_work(self, again, calls):
        found = again.run(calibrate=CalibrateConfig(false_alarm_rate=0.5))
        assert not calls
        stages = {"calibration.json", "inspections.json", "metrics.json"}
        assert all(path in stages or path.startswith("object/") for path in again.written())
        scores = sorted(again.folder.load("inspections")["calibration_scores"])
        threshold = found["good/0"]["threshold"]
        assert threshold == scores[-((len(scores) + 1) // 2)] < scores[-1]
        turned = {name for name in found if found[name]["verdict"] != again.old[name]["verdict"]}
        assert turned and turned == {
            name
            for name, entry in again.old.items()
            if not entry["doubts"] and threshold < entry["score"] <= scores[-1]
        }
        assert all(found[name]["verdict"] == "FAIL" and found[name]["regions"] for name in turned)

    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            (changed("match", hypotheses=2), "match.hypotheses was 4 and is 2"),
            (changed("invert", sampling=True), "invert.sampling was False and is True"),
            (changed("detect", pool=0.1), "detect.pool was 0.015 and is 0.1"),
            (changed("calibrate", false_alarm_rate=0.5), "false_alarm_rate was 0.1 and is 0.5"),
        ],
    )
    def test_evaluation_refuses_what_was_not_calibrated(self, finished, toy, settings, named):
        before = stamps(finished)
        with pytest.raises(
            InputError, match=f"calibrated with other settings: .*{named}"
        ) as caught:
            evaluate_category(read_category(toy), RunFolder(finished / "toy"), settings)
        assert "igspad-calibrate" in str(caught.value)
        assert stamps(finished) == before


class TestUnlabelled:
    def test_are_inspected_and_in_no_metric(self, again, calls):
        shutil.copy(again.data / "test/Stains/0.png", again.data / "test/loose.png")
        (again.data / "test/unlabelled").mkdir()
        shutil.copy(again.data / "test_clean/Stains/1.png", again.data / "test/unlabelled/0.png")
        found = again.run()
        assert calls["locate"] == 2 and list(found)[8:] == ["unlabelled/0", "loose"]
        assert found["loose"]["kind"] == "unlabelled"
        for name in ("verdict", "p_value", "score", "regions"):
            assert found["loose"][name] == found["Stains/0"][name]
        metrics = again.folder.load("metrics")
        for name in ("sizes", "pose", "breakdown"):
            assert metrics[name] == again.metrics[name]
        assert sum(metrics["verdicts"]["0.1"]["kinds"]["unlabelled"].values()) == 2
        assert metrics["verdicts"]["0.1"]["found"] == again.metrics["verdicts"]["0.1"]["found"]
        assert "loose" in (again.root / "report.html").read_text()

    def test_alone(self, again, calls):
        test, kinds = again.data / "test", ("good", *KINDS)
        for kind in kinds:
            shutil.move(test / f"{kind}/0.png", test / f"{kind}-0.png")
            shutil.rmtree(test / kind)
        (again.data / "test_poses.json").unlink()
        found = again.run()
        assert calls["locate"] == 4 and set(found) == {f"{kind}-0" for kind in kinds}
        metrics = again.folder.load("metrics")
        assert not {"sizes", "pose", "breakdown"} & set(metrics)
        counts = Counter(again.old[f"{kind}/0"]["verdict"] for kind in kinds)
        assert metrics["verdicts"]["0.1"]["kinds"] == {
            "unlabelled": {verdict: counts[verdict] for verdict in ("PASS", "FAIL", "UNSURE")}
        }
        assert metrics["verdicts"]["0.1"]["false_alarm_rate"] is None
        assert all(name in (again.root / "report.html").read_text() for name in found)


class TestCalibrationImages:
    def test_one_more_normal_photograph(self, again, calls):
        old = again.folder.load("calibration")["images"]
        assert [i["name"] for i in old if i["pose_degrees"] is not None] == held(again.folder)
        shutil.copy(again.data / "test_clean/Stains/1.png", again.data / "normals/more.png")
        images = {image["name"]: image for image in again.calibrate()}
        assert calls == {"locate": 1, "compare": 1}
        assert len(images) == len(old) + 1 and images["normals/more.png"]["pose_degrees"] is None
        assert all(images[image["name"]]["score"] == image["score"] for image in old)
        calibration = Inspector.load(again.root).calibration
        kept = [i["score"] for name, i in images.items() if name not in calibration.left_out]
        assert calibration.scores == tuple(sorted(kept))

    def test_a_folder_of_normals_is_taken_instead(self, again, tmp_path, calls):
        (tmp_path / "given").mkdir()
        shutil.copy(again.data / "test_clean/Stains/1.png", tmp_path / "given/own.png")
        images = again.calibrate(normals=tmp_path / "given")
        assert [image["name"] for image in images] == [*held(again.folder), "normals/own.png"]
        assert calls["locate"] == 1
        kept = {p.stem for p in (again.root / "toy/calibration").rglob("*.npy")}
        assert kept == {*again.folder.load("training")["held_out"], "own.png"}
        with pytest.raises(InputError, match=r"--normals=nothing is no folder"):
            again.calibrate(normals=Path("nothing"))

    def test_a_test_image_does_not_calibrate(self, again, calls, caplog):
        shutil.copy(again.data / "test/good/0.png", again.data / "normals/again.png")
        with caplog.at_level("WARNING", logger="absl"):
            assert len(again.calibrate()) == len(held(again.folder)) + NORMALS
        assert "normals/again.png is a test image as well" in caplog.text
        assert not calls

    def test_none_at_all(self, again, tmp_path):
        shutil.rmtree(again.data / "normals")
        category, folder = read_category(again.data), RunFolder(tmp_path / "toy")
        settings, scene = changed("data", held_out=0.0), again.folder.object / "scene.ply"
        train_category(category, folder, settings, scene=scene)
        with pytest.raises(InputError, match=r"no normal images .*held_out.*--normals"):
            calibrate_category(category, folder, settings)


def assert_same_object(folder: RunFolder, finished: Path) -> None:
    for name in ("scene.ply", "object.json"):
        whole = finished / "toy/object" / name
        assert (folder.object / name).read_bytes() == whole.read_bytes()


class TestKilled:
    def test_training_goes_on_to_the_same_object(
        self, toy, finished, tmp_path, monkeypatch, caplog
    ):
        """Killed right after the second checkpoint, whether that is whole or damaged."""
        folder, category = RunFolder(tmp_path / "toy"), read_category(toy)
        save = Checkpoints.save

        def interrupted(self, state, history):
            save(self, state, history)
            if int(state.step) == 120:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "save", interrupted)
            with pytest.raises(KeyboardInterrupt):
                train_category(category, folder, SETTINGS)
        for stage in (calibrate_category, evaluate_category):
            with pytest.raises(InputError, match=r"igspad-train"):
                stage(category, folder, SETTINGS)
        with pytest.raises(InputError, match=r"other settings: train.seed was 0 and is 1"):
            train_category(category, folder, changed("train", seed=1))
        damaged = RunFolder(shutil.copytree(folder.root, tmp_path / "damaged"))
        self.cut_short(damaged.checkpoints / "120")
        worse = RunFolder(shutil.copytree(damaged.root, tmp_path / "worse"))
        self.cut_short(worse.checkpoints / "60")
        with caplog.at_level("INFO", logger="absl"):
            for killed, step in ((folder, 120), (damaged, 60)):
                train_category(category, killed, SETTINGS)
                assert f"resuming at step {step}" in caplog.text
                assert_same_object(killed, finished)
        assert "checkpoints/120 cannot be read and is skipped" in caplog.text
        with pytest.raises(InputError, match=r"none of .* 120, 60 can be read; delete"):
            train_category(category, worse, SETTINGS)

    @staticmethod
    def cut_short(checkpoint: Path) -> None:
        """Halves every file, as a full disk or a dying machine does."""
        for path in checkpoint.rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def test_images_that_are_done_are_not_located_again(self, finished, toy, tmp_path, monkeypatch):
        root, locate, located = tmp_path / "run", Inspector.locate, []
        count = len(held(RunFolder(finished / "toy"))) + NORMALS
        shutil.copytree(finished / "toy/object", root / "toy/object")
        for name in ("object/inspector.json", "object/expected.npz"):
            (root / "toy" / name).unlink()
        shutil.copy(finished / "toy/training.json", root / "toy")

        def killed_at_the_third(self, images):
            located.append(images)
            if len(located) in (
                3,
                count + 5,
            ):  # of the calibration images, and then of the test images
                raise KeyboardInterrupt
            return locate(self, images)

        monkeypatch.setattr(Inspector, "locate", killed_at_the_third)
        for call, results, done in ((3, "calibration", 2), (count + 5, "inspected", 3)):
            with pytest.raises(KeyboardInterrupt):
                run(toy, root)
            assert len(located) == call
            assert len(list((root / "toy" / results).glob("*/*.json"))) == done
        folder, whole = run(toy, root), RunFolder(finished / "toy")
        assert len(located) == count + 8 + 2  # each once, and the two that were cut off again
        for stage in ("calibration", "inspections", "metrics"):
            assert without_key(folder, stage) == without_key(whole, stage)
        assert not [p for p in folder.root.rglob(".*") if p.is_file()]


class TestDamaged:
    """Each message names a remedy that works."""

    @pytest.mark.parametrize(
        "suffix",
        ["json", "npy"],
    )
    def test_results_of_an_image_are_made_again(self, again, calls, suffix):
        path = again.root / f"toy/inspected/Burrs/1.{suffix}"
        path.write_bytes(path.read_bytes()[:100])
        (again.root / "toy/metrics.json").unlink()
        found = again.run()
        assert calls["locate"] == (suffix == "json") and calls["compare"] == 1
        assert found == again.old and again.overall == again.metrics["sizes"]["native"]["overall"]

    def test_losses_of_an_image(self, again):
        (again.root / "toy/inspected/Burrs/1.json").write_text("{}")
        with pytest.raises(InputError, match=r"Burrs/1.json: damaged .*igspad-evaluate"):
            summarise([(read_category(again.data), again.folder)], SETTINGS, again.root, anew=True)

    def test_a_damaged_category_is_left_out_of_the_report(self, again, toy, finished, caplog):
        file = again.folder.inspected.root / "Burrs/1.json"
        intact = file.read_text()
        file.write_text("{}")
        other = shutil.copytree(again.data, again.data.parent / "other")
        both = [
            (read_category(again.data), again.folder),
            (read_category(other), RunFolder(finished / "toy")),
        ]
        with caplog.at_level("WARNING", logger="absl"):
            report = summarise(both, SETTINGS, again.root, anew=True)
        assert "toy is left out of the report: " in caplog.text and "Burrs/1.json" in caplog.text
        assert set(json.loads((again.root / "metrics.json").read_text())["categories"]) == {"other"}
        assert "other" in report.read_text()
        file.write_text(intact)
        summarise(both, SETTINGS, again.root)
        repaired = json.loads((again.root / "metrics.json").read_text())
        assert set(repaired["categories"]) == {"toy", "other"}

    @pytest.mark.parametrize(
        ("name", "stage", "remedy"),
        [
            ("training.json", train_category, r"delete it and run igspad-train"),
            ("calibration.json", calibrate_category, r"delete it and run igspad-calibrate"),
            ("metrics.json", evaluate_category, r"delete it and run igspad-evaluate"),
            pytest.param(
                "object/inspector.json",
                evaluate_category,
                r"run igspad-calibrate",
            ),
        ],
    )
    def test_records_cut_short(self, again, name, stage, remedy):
        path = again.folder.root / name
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(InputError, match=remedy) as caught:
            stage(read_category(again.data), again.folder, SETTINGS)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        if "delete" in remedy:
            path.unlink()
        assert again.run() == again.old

    def test_a_deleted_object_comes_back_from_its_checkpoint(self, again, finished, calls):
        shutil.rmtree(again.folder.object)
        (again.folder.root / "training.json").unlink()
        assert again.run() == again.old
        assert_same_object(again.folder, finished)
        assert not calls["locate"]


class TestObjectFolder:
    def test_is_all_that_is_needed_elsewhere(self, finished, toy, tmp_path):
        other = shutil.copytree(finished / "toy/object", tmp_path / "other")
        recorded = entries(RunFolder(finished / "toy"))["Stains/0"]
        for folder in (other, finished):
            found = Inspector.load(folder)(read_image(toy / "test/Stains/0.png"))
            assert found.verdict == recorded["verdict"]
            assert (found.score, found.p_value) == pytest.approx(
                (recorded["score"], recorded["p_value"]), rel=1e-6
            )
            assert json.loads(json.dumps(found.as_json()["regions"])) == recorded["regions"]

    def test_names_no_place_on_this_machine(self, finished, toy):
        for path in (finished / "toy/object").rglob("*.json"):
            text = path.read_text()
            assert not any(str(place) in text for place in (toy, finished, toy.parent, "/tmp"))

    def test_no_object_or_several(self, finished, tmp_path):
        with pytest.raises(InputError, match=r"holds no trained object .*give the folder of a run"):
            Inspector.load(tmp_path)
        for name in ("a", "b"):
            shutil.copytree(finished / "toy/object", tmp_path / name / "object")
        with pytest.raises(InputError, match=r"several .*choose one: .*a/object, .*b/object"):
            Inspector.load(tmp_path)


class TestBadData:
    def test_a_broken_test_image(self, again):
        path = again.data / "test/Burrs/1.png"
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(InputError, match=r"test/Burrs/1.png cannot be read"):
            again.run()

    def test_a_broken_training_image(self, again, tmp_path):
        path = again.data / "train/good/3.png"
        path.write_bytes(path.read_bytes()[:200])
        folder = RunFolder(tmp_path / "r")
        with pytest.raises(InputError, match=r"train/good/3.png"):
            train_category(read_category(again.data), folder, SETTINGS)
        assert not folder.path("training").exists() and not folder.object.exists()

    def test_a_normal_photograph_of_another_shape(self, again):
        write_image(again.data / "normals/wide.png", np.zeros((48, 60, 3), np.uint8))
        with pytest.raises(InputError, match=r"normals/wide.png is 60 x 48 px.*48 x 48"):
            again.run()

    def test_no_test_images(self, again):
        shutil.rmtree(again.data / "test")
        with pytest.raises(InputError, match=r"has no test images; put them into .*test"):
            again.run()

    def test_too_many_held_out(self, again, tmp_path):
        path = again.data / "transforms.json"
        content = json.loads(path.read_text())
        first, second, *_ = content["frames"]
        content["frames"] = [first, second | {"transform_matrix": first["transform_matrix"]}]
        path.write_text(json.dumps(content))
        settings = changed("data", held_out=0.5)
        with pytest.raises(InputError, match=r"held_out=0.5 of 2 views leaves fewer than two"):
            train_category(read_category(again.data), RunFolder(tmp_path / "r"), settings)

    def test_a_training_that_diverges(self, toy, tmp_path, monkeypatch):
        def diverge(*args, **kwargs):
            raise FloatingPointError("the training loss is nan at step 20")

        # The package's `fit` is the function, not the module.
        monkeypatch.setattr(importlib.import_module("igspad_jax.train.fit"), "train", diverge)
        with pytest.raises(InputError, match=r"toy: .*nan at step 20; lower the learning rates"):
            train_category(read_category(toy), RunFolder(tmp_path / "r"), SETTINGS)


class TestCommand:
    def test_a_finished_category_beside_a_bad_one(self, toy, finished, tmp_path):
        """Another rate, by its short flag over a config file: new verdicts, no new pose; on Ray."""
        data, copy = tmp_path / "data", shutil.copytree(finished, tmp_path / "run")
        shutil.copytree(toy, data / "bad")
        content = json.loads((data / "bad/transforms.json").read_text())
        content["frames"][3]["file_path"] = "./train/good/99.png"
        (data / "bad/transforms.json").write_text(json.dumps(content))
        shutil.copytree(toy, data / "toy")
        config = tmp_path / "mine.py"
        config.write_text(
            "from ml_collections import ConfigDict\n\n\n"
            f"def get_config():\n    return ConfigDict({dataclasses.asdict(SETTINGS)!r})\n"
        )
        before = stamps(copy / "toy/inspected")
        done = script(
            "run", "--data=data", f"--run={copy}", "--config=mine.py", "--false_alarm_rate=0.5",
            "--ray=local", "--config.evaluate.sizes=96", cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 2
        errors = [e for e in done.stderr.splitlines() if e.startswith("error: ")]
        assert len(errors) == 2 and "Traceback" not in done.stderr
        assert "bad" in errors[0] and "frame 3 names ./train/good/99.png" in errors[0]
        assert "failed" in errors[1] and "bad" in errors[1]
        folder = RunFolder(copy / "toy")
        assert stamps(copy / "toy/inspected") == before
        assert "the object is there already" in done.stderr
        assert "the inspector is calibrated already" in done.stderr
        assert Inspector.load(copy).config.calibrate == CalibrateConfig(false_alarm_rate=0.5)
        assert set(folder.load("metrics")["sizes"]) == {"native", "96"}
        auroc = folder.load("metrics")["sizes"]["native"]["overall"]["image_auroc"]
        assert f"{auroc:.4f}" in done.stdout and f"report: {copy}/report.html" in done.stdout
        verdicts = [
            [entry["verdict"] for entry in entries(RunFolder(root / "toy")).values()]
            for root in (finished, copy)
        ]
        assert verdicts[1].count("FAIL") > verdicts[0].count("FAIL")
