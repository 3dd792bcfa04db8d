from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from igspad_jax.pipeline.detection import detect_category
from igspad_jax.pipeline.inversion import invert_category

from igspad_jax.data import read_category
from igspad_jax.data.toy import ToyConfig, write_toy_category
from igspad_jax.errors import InputError
from igspad_jax.invert import AdamConfig, InvertConfig, LevenbergConfig
from igspad_jax.pipeline import command, inversion, training
from igspad_jax.pipeline.evaluation import evaluate_category
from igspad_jax.pipeline.folder import RunFolder
from igspad_jax.pipeline.settings import (
    DataConfig,
    DetectConfig,
    EvaluateConfig,
    MatchConfig,
    Settings,
    check_name,
    config_from,
    first_difference,
    settings_from,
)
from igspad_jax.pipeline.summary import print_tables, summarise
from igspad_jax.pipeline.training import load_scene, train_category
from igspad_jax.train.checkpoints import Checkpoints
from igspad_jax.train.trainer import TrainConfig

ROOT = Path(__file__).parents[1]
STAGES = (train_category, invert_category, detect_category, evaluate_category)
SETTINGS = Settings(
    train=TrainConfig(
        steps=60,
        count=300,
        sh_degree=0,
        relocate_every=20,
        held_out=2,
        evaluate_every=20,
        checkpoint_every=20,
    ),
    invert=InvertConfig(
        batch=4,
        levenberg=LevenbergConfig(
            widths=(24, 0),
            blurs=(1.0, 0.0),
            merge_cells=(8, 0),
            steps=(4, 3),
            deltas=(0.2, 0.05),
            translation_penalties=(0.002, 0.0),
            hypotheses_kept=(4, 1),
            readmit_level=1,
        ),
    ),
    match=MatchConfig(matcher="opencv", shortlist=4),
    detect=DetectConfig(features="handmade"),
    evaluate=EvaluateConfig(sizes=(64,), breakdown=True),
)


def changed(section: str, **values) -> Settings:
    """The tests' settings with some of one section changed."""
    part = dataclasses.replace(getattr(SETTINGS, section), **values)
    return dataclasses.replace(SETTINGS, **{section: part})


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """A toy of 48 pixels, 12 training views and 8 test images."""
    config = ToyConfig(size=48, train_views=12, test_per_kind=2, supersample=1)
    return write_toy_category(tmp_path_factory.mktemp("data") / "toy", config)


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory) -> Path:
    """The run folder after all stages; never changed by a test."""
    root = tmp_path_factory.mktemp("run") / "all"
    run(toy, root)
    return root


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A run folder with all stages done, to change."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def data(toy, tmp_path) -> Path:
    """A copy of the toy, to damage."""
    return shutil.copytree(toy, tmp_path / "data" / "toy")


def run(data: Path, root: Path, settings: Settings = SETTINGS, *, overwrite: bool = False) -> None:
    category, folder = read_category(data), RunFolder(root / "toy")
    for stage in STAGES:
        stage(category, settings, folder, overwrite=overwrite)
    summarise([(category, folder)], settings, root)


def stamps(root: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


def script(name: str, *arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    line = [sys.executable, str(ROOT / f"scripts/{name}.py"), *map(str, arguments)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        line, capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )


def error_line(done: subprocess.CompletedProcess) -> str:
    """The one line with which a script refuses bad input."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


class TestRun:
    def test_leaves_all_files(self, finished):
        folder = finished / "toy"
        made = {p.name for p in folder.iterdir()}
        assert made == {
            "scene.ply", "training.json", "checkpoints", "train.json", "poses.json",
            "losses.npz", "detect.json", "maps", "metrics.json",
        }  # fmt: skip
        assert {p.name for p in finished.iterdir()} == {"toy", "metrics.json", "report.html"}
        report = (finished / "report.html").read_text()
        assert all(f"{kind}/1" in report for kind in ("good", "Burrs", "Missing", "Stains"))

    def test_metrics(self, finished):
        metrics = json.loads((finished / "toy/metrics.json").read_text())
        assert set(metrics["sizes"]) == {"native", "64"}
        overall = metrics["sizes"]["native"]["overall"]
        assert set(metrics["sizes"]["native"]["kinds"]) == {"Burrs", "Missing", "Stains"}
        assert overall["good"] == 2 and overall["defective"] == 6
        assert all(0.0 <= overall[key] <= 1.0 for key in ("image_auroc", "pixel_auroc", "aupro"))
        assert set(metrics["time"]) == {"train", "match", "invert", "expect", "detect"}
        assert len(metrics["pose"]["image_errors"]) == 8
        whole = json.loads((finished / "metrics.json").read_text())
        assert whole["categories"]["toy"]["sizes"] == metrics["sizes"]
        assert whole["mean"]["sizes"]["native"]["overall"]["image_auroc"] == overall["image_auroc"]

    def test_breakdown_scores_every_variant(self, finished):
        metrics = json.loads((finished / "toy/metrics.json").read_text())
        assert set(metrics["breakdown"]) == {"estimated", "true pose", "clean image"}
        assert metrics["breakdown"]["estimated"]["overall"] == metrics["sizes"]["native"]["overall"]
        # Against the same view without the defect, the defect is all that differs.
        assert metrics["breakdown"]["clean image"]["overall"]["pixel_auroc"] > 0.95
        maps = finished / "toy/maps"
        for variant in metrics["breakdown"]:
            loaded = np.load(maps / variant / "Stains/0.npy")
            assert loaded.shape == (48, 48) and loaded.dtype == np.float32
        assert np.load(maps / "clean image/good/0.npy").max() < 1e-5

    def test_results_agree_with_each_other(self, finished):
        folder = RunFolder(finished / "toy")
        poses, train = folder.load("poses"), folder.load("train")
        names = [entry["name"] for entry in poses["images"]]
        assert names == [entry["name"] for entry in folder.load("detect")["images"]]
        assert names[:2] == ["good/0", "good/1"] and len(names) == 8
        with np.load(folder.losses) as file:
            assert file["losses"].shape == (8, 4 + 3 + 1)
        for entry in poses["images"]:
            # So short a training explains little; what is above the limit must be doubted.
            assert 0.0 < entry["residual"] < 1.0
            limit = poses["typical_residual"]["limit"]
            assert bool(entry["doubts"]) == (entry["residual"] > limit)
            assert entry["exposure"] == [1.0, 0.0]
            assert 0.0 < entry["sigma_degrees"] < 10.0
        doubted = [entry["name"] for entry in poses["images"] if entry["doubts"]]
        assert folder.load("metrics")["doubted_poses"] == doubted
        assert [entry["step"] for entry in train["history"]] == [20, 40, 60]
        gaussians = load_scene(folder).gaussians
        assert len(gaussians) == train["gaussians"] == 300
        assert gaussians.sh.shape[1] == 1  # the file has degree 3 for viewers, with zeros
        # The toy's object fits a ball of radius 1 around the origin; so short a training frays it.
        assert np.linalg.norm(train["centre"]) < 0.5 and 0.5 < train["radius"] < 2.5

    def test_tables(self, finished, capsys):
        print_tables({"toy": RunFolder(finished / "toy").load("metrics")})
        printed = capsys.readouterr().out
        assert all(word in printed for word in ("Stains", "true pose", "clean image", "invert"))

    def test_second_run_does_nothing_again(self, copy, toy):
        before = stamps(copy / "toy")
        run(toy, copy)
        assert stamps(copy / "toy") == before

    def test_limit_says_what_it_leaves_out(self, copy, toy, caplog):
        category, folder = read_category(toy), RunFolder(copy / "toy")
        settings = changed("data", limit=1)
        with caplog.at_level("WARNING", logger="absl"):
            for stage in STAGES[1:]:
                stage(category, settings, folder, overwrite=True)
        said = "data.limit=1 leaves out 4 of 8 test images"
        assert said in caplog.text
        assert said in folder.load("metrics")["notes"]
        assert [e["name"] for e in folder.load("poses")["images"]] == [
            "good/0", "Burrs/0", "Missing/0", "Stains/0",
        ]  # fmt: skip

    def test_breakdown_goes_without_what_the_data_lacks(self, copy, toy, data, caplog):
        shutil.rmtree(data / "test_clean")
        (data / "test_poses.json").unlink()
        adopt(copy, data)
        with caplog.at_level("WARNING", logger="absl"):
            run_from("detect", data, copy)
        assert "without clean image and true pose, which the data lacks" in caplog.text
        metrics = RunFolder(copy / "toy").load("metrics")
        assert "breakdown" not in metrics and "pose" not in metrics

    def test_scene_trained_elsewhere(self, finished, toy, tmp_path):
        category, folder = read_category(toy), RunFolder(tmp_path / "toy")
        given = finished / "toy/scene.ply"
        train_category(category, SETTINGS, folder, scene=given)
        record = folder.load("train")
        assert str(given) in record["origin"] and record["gaussians"] == 300
        assert record["history"][0]["psnr"] > 5.0
        with pytest.raises(InputError, match=r"scene was .*scene.ply' and is None"):
            train_category(category, SETTINGS, folder)

    def test_starts_from_a_point_cloud(self, finished, toy, tmp_path):
        folder = RunFolder(tmp_path / "toy")
        cloud = finished / "toy/scene.ply"  # its vertices have places, and no colours
        train_category(read_category(toy), SETTINGS, folder, points=cloud)
        assert folder.load("train")["origin"] == "300 points drawn from a cloud of 300"


def adopt(root: Path, data: Path) -> None:
    """Makes a run's records say that they are of the category at `data`."""
    for path in (root / "toy").glob("*.json"):
        content = json.loads(path.read_text())

        def walk(node):
            if isinstance(node, dict):
                if "category" in node:
                    node["category"] = str(data.resolve())
                for value in node.values():
                    walk(value)

        walk(content)
        path.write_text(json.dumps(content))


def run_from(stage: str, data: Path, root: Path) -> None:
    """Does the stages from `stage` on anew."""
    category, folder = read_category(data), RunFolder(root / "toy")
    folder.start(stage)
    for work in STAGES[["train", "poses", "detect", "metrics"].index(stage) :]:
        work(category, SETTINGS, folder)


class TestOtherSettings:
    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            (changed("train", steps=61), "train.steps was 60 and is 61"),
            (changed("data", size=40), "data.size was 0 and is 40"),
            (changed("invert", batch=2), "invert.batch was 4 and is 2"),
            (changed("match", hypotheses=1), "match.hypotheses was 4 and is 1"),
            (changed("data", limit=1), "limit was 0 and is 1"),
            (changed("detect", pool=0.1), "detect.pool was 0.025 and is 0.1"),
            (changed("evaluate", sizes=()), r"evaluate.sizes was \[64\] and is \[\]"),
        ],
    )
    def test_a_run_refuses_to_mix(self, finished, toy, settings, named):
        before = stamps(finished)
        with pytest.raises(InputError, match=named) as caught:
            run(toy, finished, settings)
        assert "--overwrite" in str(caught.value) and "\n" not in str(caught.value)
        assert stamps(finished) == before

    @pytest.mark.parametrize(
        ("stage", "settings", "named"),
        [
            (invert_category, changed("data", size=40), "train.json .*data.size was 0 and is 40"),
            (detect_category, changed("data", limit=1), "poses.json .*limit was 0 and is 1"),
            (evaluate_category, changed("detect", pool=0.1), "detect.json .*detect.pool"),
        ],
    )
    def test_a_single_stage_looks_at_those_before(self, finished, toy, stage, settings, named):
        with pytest.raises(InputError, match=named):
            stage(read_category(toy), settings, RunFolder(finished / "toy"), overwrite=True)

    def test_overwrite_redoes_the_stage_and_what_follows(self, copy, toy):
        before = stamps(copy / "toy")
        run(toy, copy, changed("detect", pool=0.1), overwrite=True)
        after = stamps(copy / "toy")
        same = {p.name for p in after if p.parent == copy / "toy" and after[p] == before[p]}
        assert same == {"scene.ply", "training.json", "train.json", "poses.json", "losses.npz"}
        assert RunFolder(copy / "toy").load("detect")["made_with"]["detect"]["pool"] == 0.1

    def test_new_test_images_are_noticed(self, copy, toy, data):
        adopt(copy, data)
        run(data, copy)
        for number in ("0", "1"):
            shutil.copy(data / "test/good/0.png", data / f"test/good/{number}9.png")
        (data / "test_poses.json").unlink()
        with pytest.raises(InputError, match=r"tests.good was 2 and is 4"):
            run(data, copy)

    def test_first_difference(self):
        old = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
        assert first_difference(old, {"a": {"b": 1, "c": [1, 2]}, "d": 1}) is None
        assert first_difference(old, {"a": {"b": 2, "c": []}, "d": 1}) == "a.b was 1 and is 2"
        assert first_difference(old, {"a": {"b": 1, "c": [1, 2]}}) == "d (gone)"
        assert first_difference({}, {"x": 1}) == "x (new)"


class TestInterruptedInversion:
    @pytest.fixture
    def killed(self, copy, toy, monkeypatch) -> RunFolder:
        """A run whose inversion was interrupted after the first of two batches."""
        folder = RunFolder(copy / "toy")
        folder.start("poses")
        invert, calls = inversion.invert, []

        def interrupted(*args, **kwargs):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return invert(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(inversion, "invert", interrupted)
            with pytest.raises(KeyboardInterrupt):
                invert_category(read_category(toy), SETTINGS, folder)
        assert not folder.stage_path("poses").exists()
        return folder

    def test_finished_batches_are_not_repeated(self, killed, finished, toy, monkeypatch):
        invert, calls = inversion.invert, []

        def counted(*args, **kwargs):
            calls.append(1)
            return invert(*args, **kwargs)

        monkeypatch.setattr(inversion, "invert", counted)
        invert_category(read_category(toy), SETTINGS, killed)
        assert len(calls) == 1
        poses = [
            np.array([e["viewmat"] for e in folder.load("poses")["images"]])
            for folder in (killed, RunFolder(finished / "toy"))
        ]
        np.testing.assert_allclose(*poses, atol=1e-6)
        assert not (killed.root / "inverting").exists()

    def test_batches_of_other_settings_are_not_used(self, killed, toy, monkeypatch):
        monkeypatch.setattr(inversion, "invert", lambda *args, **kwargs: pytest.fail("as hoped"))
        with pytest.raises(pytest.fail.Exception, match="as hoped"):
            invert_category(read_category(toy), changed("invert", sampling_radius=0.2), killed)
        assert killed.load_batch(0) is None


class TestInterrupted:
    @pytest.fixture
    def killed(self, toy, tmp_path, monkeypatch) -> RunFolder:
        """A run that was interrupted right after its second checkpoint, at step 40 of 60."""
        folder = RunFolder(tmp_path / "toy")
        save = Checkpoints.save

        def interrupted(self, state, history):
            save(self, state, history)
            if int(state.step) == 40:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(training.Checkpoints, "save", interrupted)
            with pytest.raises(KeyboardInterrupt):
                train_category(read_category(toy), SETTINGS, folder)
        assert not folder.scene.exists() and not folder.stage_path("train").exists()
        return folder

    def test_goes_on_to_the_same_scene(self, killed, finished, toy, caplog):
        with caplog.at_level("INFO", logger="absl"):
            train_category(read_category(toy), SETTINGS, killed)
        assert "resuming at step 40" in caplog.text
        whole = RunFolder(finished / "toy")
        assert killed.scene.read_bytes() == whole.scene.read_bytes()
        losses = [[e["loss"] for e in f.load("train")["history"]] for f in (killed, whole)]
        assert losses[0] == losses[1]

    def test_no_stage_takes_an_unfinished_scene(self, killed, toy):
        for stage in STAGES[1:]:
            with pytest.raises(InputError, match=r"train.json is not there: run scripts/train"):
                stage(read_category(toy), SETTINGS, killed)

    def test_other_settings_do_not_resume(self, killed, toy):
        with pytest.raises(InputError, match=r"begun with other settings: train.seed was 0 and"):
            train_category(read_category(toy), changed("train", seed=1), killed)

    def test_falls_back_where_the_newest_checkpoint_is_cut_short(
        self, killed, finished, toy, caplog
    ):
        cut_short(killed.checkpoints / "40")
        with caplog.at_level("INFO", logger="absl"):
            train_category(read_category(toy), SETTINGS, killed)
        assert "checkpoints/40 cannot be read and is skipped" in caplog.text
        assert "resuming at step 20" in caplog.text
        assert killed.scene.read_bytes() == (finished / "toy/scene.ply").read_bytes()

    def test_says_where_no_checkpoint_is_whole(self, killed, toy):
        for step in ("20", "40"):
            cut_short(killed.checkpoints / step)
        with pytest.raises(InputError, match=r"checkpoints: none of .* 40, 20 can be read; delete"):
            train_category(read_category(toy), SETTINGS, killed)

    @pytest.mark.parametrize(
        ("stage", "broken", "absent"),
        [
            (invert_category, "inversion.invert", ("poses", "detect", "metrics")),
            (detect_category, "detection.image_score", ("detect", "metrics")),
            (evaluate_category, "evaluation.evaluate_maps", ("metrics",)),
        ],
    )
    def test_a_stage_that_is_killed_is_not_done(
        self, copy, toy, monkeypatch, stage, broken, absent
    ):
        def stop(*args, **kwargs):
            raise KeyboardInterrupt

        folder = RunFolder(copy / "toy")
        before = {name: folder.load(name)["made_with"] for name in absent}
        folder.start(absent[0])
        with monkeypatch.context() as patch:
            patch.setattr(f"igspad_jax.pipeline.{broken}", stop)
            with pytest.raises(KeyboardInterrupt):
                stage(read_category(toy), SETTINGS, folder)
        assert not any(folder.stage_path(name).exists() for name in absent)
        assert not [p for p in folder.root.rglob(".*") if p.is_file()]
        run(toy, copy)
        assert {name: folder.load(name)["made_with"] for name in absent} == before


def cut_short(checkpoint: Path) -> None:
    """Halves every file of a checkpoint, as a full disk or a dying machine does."""
    for path in checkpoint.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class TestDamagedResults:
    """Each message names a remedy that works."""

    @pytest.mark.parametrize(
        ("name", "stage", "remedy"),
        [
            ("poses.json", detect_category, "poses.json and run scripts/invert.py again"),
            ("detect.json", evaluate_category, "detect.json and run scripts/detect.py again"),
            ("scene.ply", invert_category, "train.json and run scripts/train.py again"),
            ("maps/estimated/good/0.npy", evaluate_category, "detect.json and run scripts/detect"),
        ],
    )
    def test_cut_short(self, copy, toy, name, stage, remedy):
        path = copy / "toy" / name
        path.write_bytes(path.read_bytes()[:100])
        if name == "scene.ply":
            RunFolder(copy / "toy").start("poses")
        elif name.startswith("maps"):
            (copy / "toy/metrics.json").unlink()
        with pytest.raises(InputError, match=rf"cannot be read .*delete .*{remedy}") as caught:
            stage(read_category(toy), SETTINGS, RunFolder(copy / "toy"))
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    def test_losses(self, copy, toy):
        losses = copy / "toy/losses.npz"
        losses.write_bytes(losses.read_bytes()[:50])
        category = read_category(toy)
        with pytest.raises(InputError, match=r"losses.npz: cannot be read .*scripts/invert.py"):
            summarise([(category, RunFolder(copy / "toy"))], SETTINGS, copy)

    def test_a_deleted_scene_comes_back_from_its_checkpoint(self, copy, toy, finished):
        folder = RunFolder(copy / "toy")
        folder.scene.unlink()
        folder.stage_path("train").unlink()
        train_category(read_category(toy), SETTINGS, folder)
        assert folder.scene.read_bytes() == (finished / "toy/scene.ply").read_bytes()


class TestBadData:
    def test_a_broken_test_image(self, data, copy):
        path = data / "test/Burrs/1.png"
        path.write_bytes(path.read_bytes()[:200])
        adopt(copy, data)
        RunFolder(copy / "toy").start("poses")
        with pytest.raises(InputError, match=r"test/Burrs/1.png"):
            invert_category(read_category(data), SETTINGS, RunFolder(copy / "toy"))

    def test_a_broken_training_image(self, data, tmp_path):
        path = data / "train/good/3.png"
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(InputError, match=r"train/good/3.png"):
            train_category(read_category(data), SETTINGS, RunFolder(tmp_path / "r"))
        assert not (tmp_path / "r/train.json").exists()

    def test_no_test_images(self, data, copy):
        shutil.rmtree(data / "test")
        adopt(copy, data)
        with pytest.raises(InputError, match=r"has no test images"):
            invert_category(read_category(data), SETTINGS, RunFolder(copy / "toy"))

    def test_too_many_held_out(self, toy, tmp_path):
        with pytest.raises(InputError, match=r"held_out=7 of 12 views"):
            settings = changed("train", held_out=7)
            train_category(read_category(toy), settings, RunFolder(tmp_path / "r"))

    def test_a_training_that_diverges(self, toy, tmp_path, monkeypatch):
        def diverge(*args, **kwargs):
            raise FloatingPointError("the training loss is nan at step 20")

        monkeypatch.setattr(training, "train", diverge)
        with pytest.raises(InputError, match=r"toy: .*nan at step 20; lower the learning rates"):
            train_category(read_category(toy), SETTINGS, RunFolder(tmp_path / "r"))


class TestSettings:
    def test_round_trip(self):
        assert settings_from(config_from(SETTINGS)) == SETTINGS

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("train.stpes", "config.train.stpes: did you mean config.train.steps? config.train"),
            (
                "trian.steps",
                "config.trian: did you mean config.train? config has data, weights, train,",
            ),
            ("train.rates.maens", "did you mean config.train.rates.means?"),
            ("train.zzz", "config.train.zzz: config.train has steps, count,"),
            ("train.steps.more", "config.train.steps has no parts"),
        ],
    )
    def test_typos_name_the_setting_and_what_exists(self, name, said):
        with pytest.raises(InputError) as caught:
            check_name(name)
        assert said in str(caught.value)
        check_name("train.rates.means")

    @pytest.mark.parametrize(
        ("section", "values", "said"),
        [
            ("match", {"initial": "guess"}, "choose one of 'pnp', 'retrieval', 'matches'"),
            ("invert", {"adam": AdamConfig(pivot="world")}, "choose one of 'object', 'camera'"),
            ("train", {"steps": 0}, "config.train.steps is 0: give at least 1"),
            ("train", {"steps": 2.5}, "config.train.steps is 2.5: give a whole number"),
            ("train", {"sh_degree": 4}, "give at most 3"),
            ("data", {"limit": -1}, "config.data.limit is -1: give at least 0"),
            ("data", {"background": (1.0, 1.0)}, "give 3 values"),
            ("data", {"background": (255.0,) * 3}, "give at most 1"),
            ("invert", {"adam": AdamConfig(rate=0.0)}, "give more than 0"),
            ("invert", {"adam": AdamConfig(rate=float("nan"))}, "give a number"),
            ("evaluate", {"sizes": (224, 0)}, "config.evaluate.sizes is 0: give at least 1"),
            ("evaluate", {"breakdown": "yes"}, "give True or False"),
        ],
    )
    def test_values_out_of_their_range(self, section, values, said):
        with pytest.raises(InputError) as caught:
            settings_from(config_from(changed(section, **values)))
        assert said in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("x = 1", "KeyError: 'get_config'"),
            ("def get_config():\n    return 3", "returns a int, not a ConfigDict"),
            ("def get_config():\n    return missing", "line 2: NameError: name 'missing'"),
            ("def get_config(:", "SyntaxError"),
            (
                "from ml_collections import ConfigDict\n"
                "def get_config():\n    return ConfigDict({'train': {'stpes': 3}})",
                "did you mean config.train.steps?",
            ),
        ],
    )
    def test_a_broken_config_file(self, tmp_path, text, said):
        path = tmp_path / "mine.py"
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            command.load_config(path)
        assert str(caught.value).startswith(str(path)) and said in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_missing_config_file(self):
        with pytest.raises(InputError, match=r"no.py: no such config file"):
            command.load_config(Path("no.py"))

    def test_the_config_files_of_the_repository(self):
        for path in (ROOT / "configs").glob("*.py"):
            assert isinstance(command.load_config(path), Settings)

    def test_sections_left_out_keep_their_defaults(self, tmp_path):
        path = tmp_path / "mine.py"
        path.write_text(
            "from ml_collections import ConfigDict\n"
            "def get_config():\n    return ConfigDict({'data': {'size': 64}})"
        )
        assert command.load_config(path) == Settings(data=DataConfig(size=64))


class TestCommandLine:
    """Each starts a script, which costs seconds: only what depends on the command line."""

    def test_help(self):
        done = script("train", "--help")
        assert done.returncode == 0
        flags = ("--data", "--run", "--config", "--category", "--[no]overwrite", "--scene")
        assert all(f"  {flag}:" in done.stdout for flag in flags)
        assert len(done.stdout.splitlines()) < 50

    def test_typo_in_a_flag(self):
        assert "'confg'. Did you mean: config" in error_line(script("run", "--confg=x"))

    def test_typo_in_a_setting(self, toy, tmp_path):
        line = error_line(script("run", "--data", toy, "--run", tmp_path, "--config.train.stpes=3"))
        assert "config.train.stpes: did you mean config.train.steps?" in line

    @pytest.fixture
    def config(self, tmp_path) -> Path:
        """A config file with the tests' settings."""
        path = tmp_path / "mine.py"
        path.write_text(
            "from ml_collections import ConfigDict\n\n\n"
            f"def get_config():\n    return ConfigDict({dataclasses.asdict(SETTINGS)!r})\n"
        )
        return path

    def test_skips_a_finished_run_and_says_so(self, toy, copy, config):
        """From another folder, with overrides and a category's name."""
        before = stamps(copy / "toy")
        same = ["--config.train.steps=60", "--config.evaluate.sizes=64", "--category=toy"]
        done = script("run", "--data=.", f"--run={copy}", f"--config={config}", *same, cwd=toy)
        assert done.returncode == 0, done.stderr
        assert stamps(copy / "toy") == before
        assert done.stderr.count("there already") == 4
        assert "report:" in done.stdout and "Stains" in done.stdout

    def test_one_bad_category_does_not_stop_the_others(self, toy, copy, config, tmp_path):
        data = tmp_path / "data"
        shutil.copytree(toy, data / "bad")
        content = json.loads((data / "bad/transforms.json").read_text())
        content["frames"][3]["file_path"] = "./train/good/99.png"
        (data / "bad/transforms.json").write_text(json.dumps(content))
        shutil.copytree(toy, data / "toy")
        adopt(copy, data / "toy")
        done = script("evaluate", "--data", data, "--run", copy, "--config", config)
        assert done.returncode == 2
        assert "Stains" in done.stdout
        errors = [e for e in done.stderr.splitlines() if e.startswith("error: ")]
        assert len(errors) == 2 and "Traceback" not in done.stderr
        assert "bad" in errors[0] and "frame 3 names ./train/good/99.png" in errors[0]
        assert "failed" in errors[1] and "bad" in errors[1]


class TestCategories:
    """The loop over categories, without starting a script."""

    @pytest.fixture
    def flags(self, monkeypatch):
        def give(data="", run="runs", category=()):
            for name, value in (("_DATA", data), ("_RUN", run), ("_CATEGORY", list(category))):
                holder = SimpleNamespace(name=name[1:].lower(), value=str(value) or None)
                holder.value = value if name == "_CATEGORY" else holder.value
                monkeypatch.setattr(command, name, holder)

        return give

    def test_an_unknown_name(self, flags, toy):
        flags(toy.parent, category=["toy", "Toy"])
        with pytest.raises(InputError, match=r"has no category Toy; it has toy"):
            command.each_category(print)

    def test_a_missing_folder(self, flags, tmp_path):
        flags(tmp_path / "nothing")
        with pytest.raises(InputError, match=r"nothing is not a folder"):
            command.each_category(print)

    @pytest.mark.parametrize("missing", ["data", "run"])
    def test_a_missing_flag(self, flags, toy, missing):
        flags(**{"data": toy, missing: ""})
        with pytest.raises(InputError, match=rf"--{missing} is missing: give"):
            command.each_category(print)

    def test_the_only_category_fails_with_its_name(self, flags, data):
        content = json.loads((data / "transforms.json").read_text())
        content["frames"][2]["transform_matrix"][0][0] *= 1.5
        (data / "transforms.json").write_text(json.dumps(content))
        flags(data)
        with pytest.raises(
            InputError, match=r"^toy: .*frame 2 has a matrix that is not a rotation"
        ):
            command.each_category(print)

    def test_the_current_folder_has_a_name(self, flags, toy, tmp_path, monkeypatch):
        monkeypatch.chdir(toy)
        flags(".", tmp_path, category=["toy"])
        finished, failed = command.each_category(lambda category, folder: None)
        assert [folder.root for _, folder in finished] == [tmp_path / "toy"] and not failed
