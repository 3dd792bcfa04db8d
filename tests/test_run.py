"""Settings, config files, the command line, and the loop over categories."""

import dataclasses
import importlib
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from igspad_jax.commands.categories import category_roots, each_category
from igspad_jax.commands.stage import Arguments, load_config
from igspad_jax.errors import InputError
from igspad_jax.settings import (
    AdamConfig,
    DataConfig,
    InspectorConfig,
    Settings,
    check_name,
    filled,
    first_difference,
    settings_help,
)
from test_pipeline import ROOT, SETTINGS, changed, script, toy  # noqa: F401

BIN = Path(sys.executable).parent


class TestSettings:
    def test_round_trip(self):
        assert filled(Settings, dataclasses.asdict(SETTINGS)) == SETTINGS
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
            filled(Settings, dataclasses.asdict(changed(section, **values)))
        assert said in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("x = 1", "KeyError: 'get_config'"),
            ("def get_config():\n    return 3", "returns a int, not Settings"),
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
            load_config(path)
        assert str(caught.value).startswith(str(path)) and said in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_missing_config_file(self):
        with pytest.raises(InputError, match=r"no.py: no such config file"):
            load_config(Path("no.py"))

    def test_the_config_files_of_the_repository(self):
        found = [path.stem for path in (ROOT / "igspad_jax/configs").glob("*.py")]
        assert {"demo", "cpu200", "default", "paper"} <= set(found)
        for name in found:
            assert load_config(Path(name)).train.steps > 0

    def test_sections_left_out_keep_their_defaults(self, tmp_path):
        path = tmp_path / "mine.py"
        path.write_text(
            "from ml_collections import ConfigDict\n"
            "def get_config():\n    return ConfigDict({'data': {'size': 64}})"
        )
        assert load_config(path) == Settings(data=DataConfig(size=64))


def error_line(done: subprocess.CompletedProcess) -> str:
    """The one line with which a script refuses bad input."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


COMMANDS = {
    "train": "scene", "calibrate": "normals", "evaluate": "ray", "report": "run", "run": "points",
    "inspect": "object", "fetch-weights": "list",
}  # fmt: skip


class TestCommandLine:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_help(self, name):
        line = [str(BIN / f"igspad-{name}"), "--help"]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        flags = done.stdout[done.stdout.index("Flags:") :]
        assert re.search(rf"^  --(\[no\])?{COMMANDS[name]}\b", flags, re.MULTILINE)
        assert done.stdout.startswith(importlib.import_module(module_of(name)).__doc__[:30])
        if name not in ("inspect", "fetch-weights"):
            for setting in ("invert.adam.rate=0.01", "train.rates.means=", "detect.pool=0.015"):
                assert f"  --config.{setting}" in flags
        longest = max(map(len, done.stdout.splitlines()))
        assert longest <= 100

    def test_every_setting_is_explained(self):
        text = settings_help(Settings())
        names = re.findall(r"^  --config\.\S+=.*\n +(.*)$", text, flags=re.MULTILINE)
        assert len(names) > 60 and not [line for line in names if line.startswith("(")]
        assert "(a number, more than 0, at most 0.5)" in " ".join(text.split())
        assert "(a whole number, 0 to 3)" in " ".join(text.split())

    def test_help_shows_the_values_of_the_given_config(self):
        done = script("train", "--config=demo", "--help")
        assert "  --config.train.steps=3000\n" in done.stdout

    def test_no_heavy_imports_before_the_flags_are_right(self):
        """They take seconds; a wrong flag is answered at once."""
        modules = ", ".join(map(module_of, COMMANDS))
        code = (
            f"import sys, {modules}; print([m for m in ('jax', 'cv2', 'flax') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == "[]\n", done.stderr

    def test_typo_in_a_flag(self):
        assert "'confg'. Did you mean: config" in error_line(script("run", "--confg=x"))

    def test_typo_in_a_setting(self):
        line = error_line(script("calibrate", "--data=x", "--run=x", "--config.train.stpes=3"))
        assert "config.train.stpes: did you mean config.train.steps?" in line

    @pytest.mark.parametrize("missing", ["data", "run"])
    def test_a_missing_flag(self, missing):
        given = [f"--{name}=x" for name in ("data", "run") if name != missing]
        assert f"--{missing} is missing: give" in error_line(script("report", *given))

    def test_scene_and_points_exclude_each_other(self):
        with pytest.raises(InputError, match="--scene and --points exclude each other"):
            Arguments(Path("d"), Path("r"), scene=Path("a.ply"), points=Path("b.ply"))


def module_of(command: str) -> str:
    return f"igspad_jax.commands.{command.replace('-', '_')}"


class TestCategories:
    """The loop over categories, without starting a script."""

    @pytest.fixture
    def data(self, toy, tmp_path) -> Path:  # noqa: F811
        """A folder with a copy of the toy, to damage."""
        return shutil.copytree(toy, tmp_path / "data" / "toy").parent

    def test_one_bad_category_stops_no_other(self, data, tmp_path, capsys):
        for name in ("bad", "worse"):
            shutil.copytree(data / "toy", data / name)
        (data / "bad/transforms.json").write_text("{")
        done = []

        def work(category, folder):
            if category.name == "worse":
                raise InputError("not this one")
            done.append((category.name, folder.root))

        ended = each_category(Arguments(data, tmp_path / "run"), work)
        assert [category.name for category, _ in itertools.islice(ended, 1)] == ["toy"]
        assert done == [("toy", tmp_path / "run/toy")]
        with pytest.raises(InputError, match="for the reasons above: bad, worse"):
            next(ended)
        errors = capsys.readouterr().err.splitlines()
        assert errors[0].startswith("error: bad: ") and errors[1] == "error: worse: not this one"

    def test_names(self, data):
        shutil.copytree(data / "toy", data / "other")
        one = Arguments(data, Path("runs"), category=("other",))
        assert [root.name for root in category_roots(one)] == ["other"]
        with pytest.raises(InputError, match=r"has no category Toy; it has other, toy"):
            list(each_category(dataclasses.replace(one, category=("toy", "Toy")), print))

    @pytest.mark.parametrize("name", ["normals", "scene", "points"])
    def test_files_are_for_one_category(self, data, name):
        given = {name: Path("more")}
        assert len(category_roots(Arguments(data, Path("runs"), **given))) == 1
        shutil.copytree(data / "toy", data / "other")
        with pytest.raises(InputError, match=f"--{name} is for one category"):
            category_roots(Arguments(data, Path("runs"), **given))

    def test_a_missing_folder(self, tmp_path):
        with pytest.raises(InputError, match=r"nothing is not a folder"):
            list(each_category(Arguments(tmp_path / "nothing", Path("runs")), print))

    def test_the_only_category_fails_with_its_name(self, data):
        path = data / "toy/transforms.json"
        content = json.loads(path.read_text())
        content["frames"][2]["transform_matrix"][0][0] *= 1.5
        path.write_text(json.dumps(content))
        with pytest.raises(
            InputError, match=r"^toy: .*frame 2 has a matrix that is not a rotation"
        ):
            list(each_category(Arguments(data, Path("runs")), print))

    def test_the_current_folder_has_a_name(self, toy, tmp_path, monkeypatch):  # noqa: F811
        monkeypatch.chdir(toy)
        arguments = Arguments(Path(), tmp_path, category=("toy",))
        ended = each_category(arguments, lambda category, folder: None)
        assert [folder.root for _, folder in ended] == [tmp_path / "toy"]
