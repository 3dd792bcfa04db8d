"""Settings, config files, the command line, and the loop over categories."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_pipeline import ROOT, SETTINGS, changed, script, toy  # noqa: F401

from igspad_jax.errors import InputError
from igspad_jax.inspector import InspectorConfig
from igspad_jax.invert import AdamConfig
from igspad_jax.pipeline import command
from igspad_jax.pipeline.settings import DataConfig, Settings, config_from, settings_from
from igspad_jax.settings import check_name, filled, first_difference


class TestSettings:
    def test_round_trip(self):
        assert settings_from(config_from(SETTINGS)) == SETTINGS
        content = json.loads(json.dumps(dataclasses.asdict(SETTINGS.inspector)))
        assert filled(InspectorConfig, content) == SETTINGS.inspector

    def test_first_difference(self):
        old = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
        assert first_difference(old, {"a": {"b": 1, "c": [1, 2]}, "d": 1}) is None
        assert first_difference(old, {"a": {"b": 2, "c": []}, "d": 1}) == "a.b was 1 and is 2"
        assert first_difference(old, {"a": {"b": 1, "c": [1, 2]}}) == "d (gone)"
        assert first_difference({}, {"x": 1}) == "x (new)"

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("train.stpes", "config.train.stpes: did you mean config.train.steps? config.train"),
            (
                "trian.steps",
                "config.trian: did you mean config.train? config has ",
            ),
            ("train.rates.maens", "did you mean config.train.rates.means?"),
            ("calibrate.false_alarm", "did you mean config.calibrate.false_alarm_rate?"),
            ("train.zzz", "config.train.zzz: config.train has steps, count,"),
            ("train.steps.more", "config.train.steps has no parts"),
        ],
    )
    def test_typos_name_the_setting_and_what_exists(self, name, said):
        with pytest.raises(InputError) as caught:
            check_name(Settings, name)
        assert said in str(caught.value)
        check_name(Settings, "train.rates.means")

    @pytest.mark.parametrize(
        ("section", "values", "said"),
        [
            ("match", {"initial": "guess"}, "choose one of 'pnp', 'retrieval', 'matches'"),
            ("invert", {"adam": AdamConfig(pivot="world")}, "choose one of 'object', 'camera'"),
            ("train", {"steps": 0}, "config.train.steps is 0: give at least 1"),
            ("train", {"steps": 2.5}, "config.train.steps is 2.5: give a whole number"),
            ("train", {"sh_degree": 4}, "give at most 3"),
            ("data", {"limit": -1}, "config.data.limit is -1: give at least 0"),
            ("data", {"held_out": 0.6}, "config.data.held_out is 0.6: give at most 0.5"),
            ("data", {"background": (1.0, 1.0)}, "give 3 values"),
            ("data", {"background": (255.0,) * 3}, "give at most 1"),
            ("invert", {"adam": AdamConfig(rate=0.0)}, "give more than 0"),
            ("invert", {"adam": AdamConfig(rate=float("nan"))}, "give a number"),
            ("calibrate", {"false_alarm_rate": 0.0}, "give more than 0"),
            ("calibrate", {"false_alarm_rate": 0.6}, "give at most 0.5"),
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


def error_line(done: subprocess.CompletedProcess) -> str:
    """The one line with which a script refuses bad input."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


class TestCommandLine:
    def test_help(self):
        done = script("run", "--help")
        assert done.returncode == 0
        flags = ("data", "run", "config", "category", "[no]overwrite", "scene", "normals")
        assert all(f"  --{flag}:" in done.stdout for flag in (*flags, "false_alarm_rate"))
        assert len(done.stdout.splitlines()) < 60

    def test_typo_in_a_flag(self):
        assert "'confg'. Did you mean: config" in error_line(script("run", "--confg=x"))

    def test_typo_in_a_setting(self):
        line = error_line(script("calibrate", "--data=x", "--run=x", "--config.train.stpes=3"))
        assert "config.train.stpes: did you mean config.train.steps?" in line


class TestCategories:
    """The loop over categories, without starting a script."""

    @pytest.fixture
    def data(self, toy, tmp_path) -> Path:  # noqa: F811
        """A folder with a copy of the toy, to damage."""
        return shutil.copytree(toy, tmp_path / "data" / "toy").parent

    @pytest.fixture
    def flags(self, monkeypatch):
        def give(data="", run="runs", category=(), normals=None):
            values = {"data": str(data), "run": str(run), "normals": normals}
            for name, value in values.items():
                holder = SimpleNamespace(name=name, value=value or None)
                monkeypatch.setattr(command, f"_{name.upper()}", holder)
            monkeypatch.setattr(command, "_CATEGORY", SimpleNamespace(value=list(category)))

        return give

    def test_one_bad_category_stops_no_other(self, flags, data, tmp_path, capsys):
        for name in ("bad", "worse"):
            shutil.copytree(data / "toy", data / name)
        (data / "bad/transforms.json").write_text("{")
        flags(data, tmp_path / "run")
        done = []

        def work(category, folder):
            if category.name == "worse":
                raise InputError("not this one")
            done.append((category.name, folder.root))

        ended = command.each_category(work)
        assert [category.name for category, _ in itertools.islice(ended, 1)] == ["toy"]
        assert done == [("toy", tmp_path / "run/toy")]
        with pytest.raises(InputError, match="for the reasons above: bad, worse"):
            next(ended)
        errors = capsys.readouterr().err.splitlines()
        assert errors[0].startswith("error: bad: ") and errors[1] == "error: worse: not this one"

    def test_names(self, flags, data):
        shutil.copytree(data / "toy", data / "other")
        flags(data, category=["other"])
        assert [root.name for root in command.category_roots()] == ["other"]
        flags(data, category=["toy", "Toy"])
        with pytest.raises(InputError, match=r"has no category Toy; it has other, toy"):
            list(command.each_category(print))

    def test_normals_are_for_one_category(self, flags, data):
        flags(data, normals="more")
        assert command.normals() == Path("more")
        shutil.copytree(data / "toy", data / "other")
        with pytest.raises(InputError, match="--normals is for one category"):
            command.normals()

    def test_a_missing_folder(self, flags, tmp_path):
        flags(tmp_path / "nothing")
        with pytest.raises(InputError, match=r"nothing is not a folder"):
            list(command.each_category(print))

    @pytest.mark.parametrize("missing", ["data", "run"])
    def test_a_missing_flag(self, flags, toy, missing):  # noqa: F811
        flags(**{"data": toy, missing: ""})
        with pytest.raises(InputError, match=rf"--{missing} is missing: give"):
            list(command.each_category(print))

    def test_the_only_category_fails_with_its_name(self, flags, data):
        path = data / "toy/transforms.json"
        content = json.loads(path.read_text())
        content["frames"][2]["transform_matrix"][0][0] *= 1.5
        path.write_text(json.dumps(content))
        flags(data)
        with pytest.raises(
            InputError, match=r"^toy: .*frame 2 has a matrix that is not a rotation"
        ):
            list(command.each_category(print))

    def test_the_current_folder_has_a_name(self, flags, toy, tmp_path, monkeypatch):  # noqa: F811
        monkeypatch.chdir(toy)
        flags(".", tmp_path, category=["toy"])
        ended = command.each_category(lambda category, folder: None)
        assert [folder.root for _, folder in ended] == [tmp_path / "toy"]
