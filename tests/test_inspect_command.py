"""The command that inspects photographs: exit statuses, lines, pictures.

The object is a real one, loaded as ever; verdicts follow the photographs' colours.
"""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from igspad_jax.commands import inspect
from igspad_jax.data import LoadedViews, read_image, write_image
from igspad_jax.errors import InputError
from igspad_jax.inspector import Calibration, Inspection, Inspector, PoseEstimate, Region, Verdict
from igspad_jax.settings import DetectConfig, InspectorConfig, MatchConfig
from inversions import POSE as VIEW
from inversions import K, blobs, model_of

ROOT = Path(__file__).parents[1]
GREEN, RED, BLUE = (0, 200, 0), (200, 0, 0), (0, 0, 200)
VERDICTS = (Verdict.FAIL, Verdict.PASS, Verdict.UNSURE)
BOX = (8, 12, 10, 6)


def inspection(verdict: Verdict) -> Inspection:
    """What is said of a photograph of 40 pixels."""
    pose = PoseEstimate(
        np.eye(4, dtype=np.float32), np.array([1.0, 0.0]), 0.1, True, 0.2, 0.3, np.eye(4),
        np.eye(4), "retrieval", 0, np.zeros(3), np.ones(1),
    )  # fmt: skip
    anomaly_map, regions = np.zeros((40, 40), np.float32), ()
    if verdict is Verdict.FAIL:
        left, top, width, height = BOX
        anomaly_map[top : top + height, left : left + width] = 4.0
        regions = (Region(60, 4.0, BOX, (12.5, 15.5), (0.1, float("nan"), 0.3)),)
    doubts = ("it is blue",) if verdict is Verdict.UNSURE else ()
    score = 4.0 if regions else 0.5
    return Inspection(verdict, doubts, 0.25, score, 2.0, anomaly_map, 1.0, 1.0, regions, pose)


@pytest.fixture(scope="module", autouse=True)
def defined_flags():
    """The command's, as long as this file's tests run."""
    before = set(flags.FLAGS)
    inspect.define_flags()
    yield
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A calibrated object that was never trained."""
    folder = tmp_path_factory.mktemp("object")
    views = LoadedViews(np.ones((1, 40, 40, 3), np.float32), VIEW[None].astype(np.float32), K)
    config = InspectorConfig(
        match=MatchConfig(matcher="opencv"),
        detect=DetectConfig(features="handmade", expected_strength=0.0),
    )
    calibration = Calibration((0.5, 1.0, 2.0), 0.3, 40.0)
    Inspector(model_of(blobs(20)), views, config, calibration=calibration).save(folder)
    return folder


@pytest.fixture
def photographs(tmp_path) -> dict[str, Path]:
    """A photograph of each colour, one of another shape, and a file that is no image."""
    paths = {}
    for name, colour in (("green", GREEN), ("red", RED), ("blue", BLUE)):
        paths[name] = tmp_path / f"{name}.png"
        write_image(paths[name], np.full((40, 40, 3), colour, np.uint8))
    paths["wide"], paths["broken"] = tmp_path / "wide.png", tmp_path / "broken.jpg"
    write_image(paths["wide"], np.zeros((40, 60, 3), np.uint8))
    paths["broken"].write_bytes(b"no image")
    return paths


@pytest.fixture
def inspected(monkeypatch) -> list[Inspector]:
    """The inspectors that were asked, once for each photograph."""
    asked = []

    def inspect_by_colour(self, photographs):
        for photograph in photographs:
            asked.append(self)
            image = photograph.image
            assert image.shape == (40, 40, 3) and image.dtype == np.float32
            yield inspection(VERDICTS[int(image.mean(axis=(0, 1)).argmax())])

    monkeypatch.setattr(Inspector, "inspect_read", inspect_by_colour)
    return asked


@pytest.fixture
def command(folder, inspected, capsys):
    """Runs the command, and returns its exit status and the lines that it printed."""

    def run(*arguments) -> tuple[int, list[str]]:
        with flagsaver.flagsaver():
            line = ["igspad-inspect", f"--object={folder}", *map(str, arguments)]
            left = flags.FLAGS(line)
            with pytest.raises(SystemExit) as caught:
                inspect.main(*left[1:])
        return caught.value.code, capsys.readouterr().out.splitlines()

    return run


class TestStatus:
    @pytest.mark.parametrize(
        ("names", "status"),
        [
            (("green",), 0),
            (("green", "red"), 1),
            (("green", "blue"), 3),
            (("blue", "red"), 1),
            (("green", "broken"), 2),
            (("red", "broken", "blue"), 2),
            (("wide", "green"), 2),
        ],
    )
    def test_tells_the_verdicts(self, command, photographs, names, status):
        found, lines = command(*(photographs[name] for name in names))
        assert found == status and len(lines) == len(names)

    def test_a_broken_file_stops_no_other(self, command, photographs, inspected):
        names = ("broken", "red", "wide", "blue", "green")
        _, lines = command(*(photographs[name] for name in names))
        assert len(inspected) == 3
        said = [line.removeprefix(f"{photographs[n]}: ") for n, line in zip(names, lines, strict=1)]
        assert said[0].startswith("ERROR: ") and "cannot be read as an image" in said[0]
        assert said[1].startswith("FAIL, p = 0.25, score 4, limit 2; 60 px at 8,12 (10 x 6)")
        assert said[2].startswith("ERROR: ") and "not the shape of the training" in said[2]
        assert said[3] == "UNSURE: it is blue" and said[4].startswith("PASS, p = 0.25, score 0.5")


class TestPhotographs:
    def test_a_folder(self, command, photographs, inspected):
        photographs["broken"].unlink()
        photographs["wide"].unlink()
        (photographs["red"].parent / "notes.txt").write_text("no photograph")
        status, lines = command(photographs["red"].parent, photographs["red"])
        assert status == 1 and len(inspected) == 3  # each file once
        assert [line.split(":")[0] for line in lines] == [
            str(photographs[name]) for name in ("blue", "green", "red")
        ]

    def test_a_list_on_stdin(self, command, photographs, monkeypatch):
        text = f"{photographs['red']}\n\n{photographs['green']}\n"
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        status, lines = command("-")
        assert status == 1
        assert [line.split(":")[0] for line in lines] == text.split()

    def test_none(self, command, tmp_path):
        for arguments in ((), (tmp_path,)):
            with pytest.raises(InputError, match="no photograph is given: name files or folders"):
                command(*arguments)


class TestOutput:
    def test_json(self, command, photographs):
        names = ("red", "blue", "broken")
        _, lines = command("--json", *(photographs[name] for name in names))
        first, second, third = map(json.loads, lines)
        assert [entry["file"] for entry in (first, second, third)] == [
            str(photographs[name]) for name in names
        ]
        assert (first["verdict"], first["p_value"], first["threshold"]) == ("FAIL", 0.25, 2.0)
        (region,) = first["regions"]
        assert region == {
            "area": 60, "peak": 4.0, "box": list(BOX), "pixel": [12.5, 15.5],
            "point": [0.1, None, 0.3],
        }  # fmt: skip
        assert "anomaly_map" not in first and first["viewmat"] == np.eye(4).tolist()
        assert second["verdict"] == "UNSURE" and second["doubts"] == ["it is blue"]
        assert "verdict" not in third and "cannot be read" in third["error"]

    def test_pictures_are_coloured_in_the_regions_alone(self, command, photographs, tmp_path):
        out = tmp_path / "new" / "out"
        command(f"--out={out}", *(photographs[name] for name in ("green", "red", "broken")))
        assert {path.name for path in out.iterdir()} == {"green.png", "red.png"}
        left, top, width, height = BOX
        for name in ("green", "red"):
            picture = read_image(out / f"{name}.png").astype(int)
            assert picture.shape == (40, 40, 3)
            coloured = np.ptp(picture, axis=2) > 8
            inside = coloured[top + 1 : top + height - 1, left + 1 : left + width - 1]
            assert inside.all() if name == "red" else not coloured.any()
            coloured[top - 2 : top + height + 3, left - 2 : left + width + 3] = False
            assert not coloured.any()

    def test_pictures_of_one_name_are_numbered(self, command, photographs, tmp_path):
        other = tmp_path / "other"
        other.mkdir()
        write_image(other / "red.png", np.full((40, 40, 3), GREEN, np.uint8))
        out = tmp_path / "out"
        command(f"--out={out}", photographs["red"], other / "red.png")
        assert {path.name for path in out.iterdir()} == {"red.png", "red-2.png"}
        coloured = [np.ptp(read_image(out / f"{n}.png"), axis=2).max() for n in ("red", "red-2")]
        assert coloured[0] > 8 >= coloured[1]

    def test_another_rate(self, command, photographs, inspected, caplog):
        with caplog.at_level("INFO", logger="absl"):
            command("--false_alarm_rate=0.5", photographs["green"])
        assert inspected[0].config.calibrate.false_alarm_rate == 0.5
        assert "threshold 1 from 3 calibration images" in caplog.text
        with pytest.raises(flags.IllegalFlagValueError):
            command("--false_alarm_rate=0.9", photographs["green"])


class TestProcess:
    @staticmethod
    def run(*line) -> subprocess.CompletedProcess:
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        return subprocess.run(
            [sys.executable, *map(str, line)], capture_output=True, text=True, cwd=ROOT,
            env=environment, timeout=120,
        )  # fmt: skip

    def test_help(self):
        done = self.run("scripts/inspect_images.py", "--help")
        assert done.returncode == 0
        for flag in ("object", "out", "[no]json", "false_alarm_rate", "weights"):
            assert re.search(rf"^  --{re.escape(flag)}\b", done.stdout, re.MULTILINE)
        assert "Exit status: 0 all pass, 1 one fails" in done.stdout

    def test_no_object(self, photographs, tmp_path):
        done = self.run("scripts/inspect_images.py", photographs["red"])
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert done.stderr.startswith("error: --object is missing: give the folder")

    def test_not_an_object(self, command, photographs, tmp_path):
        with pytest.raises(InputError, match=r"holds no trained object .*give the folder of a run"):
            command(f"--object={tmp_path}", photographs["red"])
