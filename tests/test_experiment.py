import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import (
    METHODS,
    SUCCESS,
    Level,
    Subject,
    Trial,
    check_methods,
    compare_gradients,
    experiment_tables,
    film_test,
    gradient_table,
    grid,
    make_film,
    markdown,
    parse_levels,
    plots,
    rendered,
    results,
    run_grid,
    select_tests,
    write_convergence,
    write_success,
)
from experiments import runs as runs_module
from experiments.measures import convergence, steps_until, summary
from experiments.methods import PAPER, config_of, relevant_settings
from experiments.starts import start
from igspad_jax.cameras import intrinsics_from_angle, look_at, pose_errors
from igspad_jax.data import Lens, TestImage
from igspad_jax.errors import InputError
from igspad_jax.evaluate.tables import Table
from igspad_jax.normal_object import NormalObject
from igspad_jax.render import Capacity
from igspad_jax.scene import Gaussians
from igspad_jax.settings import AdamConfig, InvertConfig, LevenbergConfig

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIZE = 40
LEVELS = [Level(3.0, 2.0), Level(8.0, 4.0)]
# Few steps in equal segments, and only the last level: little to compile.
LAST = {
    name: value[-1:] for name, value in vars(LevenbergConfig()).items() if isinstance(value, tuple)
}
BASE = InvertConfig(
    sampling_min_points=1,
    adam=AdamConfig(steps=6, late_step=4, sampling_refresh=3),
    # Without hypotheses of its own, so that paths begin at the given starts.
    levenberg=LevenbergConfig(
        **LAST | {"steps": (8,), "deltas": (0.1,), "extra_turn": 0.0, "readmit_level": 0}
    ),
)
EYES = np.array([[1.5, -2.0, 1.2], [-2.4, 0.4, 0.9]])

LENS = Lens(40, 40, (40.0, 40.0), (20.0, 20.0))


def blobs(count: int = 120) -> Gaussians:
    """Coloured balls at random places within the unit ball."""
    rng = np.random.default_rng(3)
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    arrays = (
        directions * rng.uniform(0.2, 0.9, (count, 1)),
        rng.uniform(-2.5, -1.5, (count, 3)),
        rng.normal(size=(count, 4)),
        rng.uniform(0.0, 3.0, count),
        rng.uniform(-1.5, 1.5, (count, 1, 3)),
    )
    return Gaussians(*(jnp.asarray(array, jnp.float32) for array in arrays))


@pytest.fixture(scope="module")
def subject() -> Subject:
    model = NormalObject(
        blobs(),
        intrinsics_from_angle(0.7, SIZE, SIZE),
        width=SIZE,
        height=SIZE,
        background=np.ones(3),
        centre=np.array([0.1, 0.0, -0.05]),
        radius=1.0,
        capacity=Capacity(),
    )
    poses = [look_at(eye, np.zeros(3), np.array([0.0, 0.0, 1.0])) for eye in EYES]
    blank = np.ones((SIZE, SIZE, 3), np.float32)
    trials = tuple(
        rendered(model, Trial(name, blank, pose), seed=0)
        for name, pose in zip(["good/0", "Burrs/1"], poses, strict=True)
    )
    return Subject("Blobs", model, {"model": trials}, origin={"scene": "blobs"})


@pytest.fixture(autouse=True)
def some_matches(monkeypatch):
    """The left half of every image matches: SIFT finds nothing on so small blobs."""
    y, x = np.mgrid[1:SIZE:3, 1 : SIZE // 2 : 3].reshape(2, -1)
    points = np.stack([x, y], axis=1) + 0.5
    for module in ("runs", "film"):
        monkeypatch.setattr(
            f"experiments.{module}.matched_points", lambda matcher, image, render: points
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("experiment")


METHODS_TRIED = [PAPER, "levenberg"]
CELLS = grid(["model"], LEVELS, [False, True], METHODS_TRIED)


@pytest.fixture
def records(subject, folder):
    return run_grid(subject, CELLS, BASE, folder / "grid", seed=0)


def image(degrees, percent, *, cpu=1.0):
    """An image's record, from its errors along the path."""
    return {
        "degrees": degrees[-1], "percent": percent[-1], "cpu_seconds": cpu, "seconds": 2.0 * cpu,
        "path_degrees": degrees, "path_percent": percent,
    }  # fmt: skip


class TestStarts:
    CENTRE = np.array([0.1, -0.2, 0.3])
    POSE = look_at(EYES[0], np.array([0.3, 0.1, 0.0]), np.array([0.0, 0.0, 1.0]), roll=0.4)

    @pytest.mark.parametrize("level", [Level(5, 5), Level(60, 30), Level(0, 10), Level(180, 0)])
    def test_starts_have_the_errors_asked_for(self, level):
        moved = start(self.POSE, level, self.CENTRE, seed=0, name="a")
        assert pose_errors(moved, self.POSE, self.CENTRE)[0] == pytest.approx(level.degrees)
        at = np.r_[self.CENTRE, 1.0]
        distance = np.linalg.norm((self.POSE @ at)[:3])
        shift = np.linalg.norm((moved @ at - self.POSE @ at)[:3])
        assert 100.0 * shift / distance == pytest.approx(level.percent)
        np.testing.assert_allclose(moved[:3, :3] @ moved[:3, :3].T, np.eye(3), atol=1e-12)

    def test_directions_depend_on_image_and_seed(self):
        def axis(level, seed, name):
            moved = start(self.POSE, level, self.CENTRE, seed=seed, name=name)
            return cv2.Rodrigues(moved[:3, :3] @ self.POSE[:3, :3].T)[0].ravel() / level.degrees

        first = axis(Level(5, 5), 0, "a")
        np.testing.assert_allclose(first, axis(Level(30, 15), 0, "a"), atol=1e-9)
        for seed, name in ((1, "a"), (0, "b")):
            assert np.abs(first - axis(Level(5, 5), seed, name)).max() > 1e-3

    def test_levels_are_read(self):
        assert parse_levels(["5/5", "30/12.5", "5/5"]) == [Level(5, 5), Level(30, 12.5)]
        assert str(Level(30.0, 12.5)) == "30/12.5"

    @pytest.mark.parametrize("value", ["5", "5/x", "5/5/5", "-1/5", "200/5", "5/100", "nan/5", ""])
    def test_malformed_levels_raise(self, value):
        with pytest.raises(InputError, match="DEGREES/PERCENT"):
            parse_levels([value])


class TestChoice:
    @staticmethod
    def images(**counts) -> list[TestImage]:
        return [
            TestImage(f"{kind}/{i}", kind, Path(), None, np.eye(4), None, LENS)
            for kind, count in counts.items()
            for i in range(count)
        ]

    def test_selected_evenly_over_kinds(self):
        names = [t.name for t in select_tests(self.images(good=9, Burrs=9, Stains=1), 7)]
        assert names == ["good/1", "good/4", "good/7", "Burrs/1", "Burrs/4", "Burrs/7", "Stains/0"]

    def test_images_without_pose_are_not_selected(self):
        tests = self.images(good=2, Burrs=2)
        tests[0] = dataclasses.replace(tests[0], viewmat=None)
        assert [t.name for t in select_tests(tests, 3)] == ["good/1", "Burrs/0", "Burrs/1"]
        with pytest.raises(InputError, match="from 1 to 3"):
            select_tests(tests, 4)
        with pytest.raises(InputError, match="no test image has a known pose"):
            select_tests([dataclasses.replace(t, viewmat=None) for t in tests], 1)

    def test_the_film_shows_the_largest_defect_or_the_named_image(self, tmp_path):
        tests = self.images(good=1, Burrs=2)
        for i, side in ((1, 3), (2, 5)):
            mask = np.zeros((8, 8), np.uint8)
            mask[:side, :side] = 255
            cv2.imwrite(str(tmp_path / f"{i}.png"), mask)
            tests[i] = dataclasses.replace(tests[i], mask_path=tmp_path / f"{i}.png")
        assert film_test(tests, None).name == "Burrs/1"
        assert film_test(tests, "good/0").name == "good/0"
        with pytest.raises(InputError, match="'Burrs/7'"):
            film_test(tests, "Burrs/7")
        with pytest.raises(InputError, match="name an image"):
            film_test(tests[:1], None)

    def test_methods(self):
        assert check_methods(["levenberg", PAPER, PAPER]) == [PAPER, "levenberg"]
        assert len(METHODS) == 7
        for names in (["adam"], []):
            with pytest.raises(InputError, match="choose among"):
                check_methods(names)
        config = config_of("adam-object-analytic", BASE, sampling=True)
        assert (config.solver, config.sampling) == ("adam", True)
        assert config.adam == dataclasses.replace(BASE.adam, pivot="object", gradient="analytic")

    def test_results_do_not_depend_on_the_other_solver(self):
        other = dataclasses.replace(BASE, levenberg=LevenbergConfig(), batch=3)
        for method, same in ((PAPER, True), ("levenberg", False)):
            configs = [config_of(method, base, sampling=True) for base in (BASE, other)]
            assert (relevant_settings(configs[0]) == relevant_settings(configs[1])) == same


class TestMeasures:
    def test_steps_until_the_path_stays_inside(self):
        degrees = [5.0, 0.4, 0.6, 0.4, 0.3, 0.2]
        percent = [5.0, 0.4, 0.4, 0.4, 0.6, 0.1]
        assert steps_until(image(degrees, percent), SUCCESS) == 5
        assert steps_until(image(degrees, percent), Level(0.5, 1.0)) == 3
        assert steps_until(image([0.0] * 6, [0.0] * 6), SUCCESS) == 0
        assert steps_until(image(degrees[:3], percent[:3]), SUCCESS) is None
        # None as a file holds a pose that is not finite.
        assert steps_until(image([0.1, None], [0.0, 0.0]), SUCCESS) is None

    def test_summary(self):
        images = [
            image([9.0, 0.1, 0.1], [9.0, 0.2, 0.2], cpu=1.0),
            image([9.0, 9.0, 0.4], [9.0, 9.0, 0.8], cpu=2.0),
            image([9.0, 9.0, 0.3], [9.0, 9.0, 0.4], cpu=3.0),
            image([9.0, 9.0, None], [9.0, 9.0, None], cpu=9.0),
        ]
        found = summary(images, SUCCESS)
        assert found["success"] == 0.5
        assert found["share_below_0.5deg_1pct"] == 0.75
        assert found["median_degrees"] == pytest.approx(0.35)
        assert found["median_steps"] == 1.5
        assert (found["cpu_seconds"], found["seconds"]) == (2.5, 5.0)
        assert summary(images, Level(0.2, 0.5))["success"] == 0.25
        assert summary(images[3:], SUCCESS)["median_steps"] is None

    def test_convergence_interpolates_the_clock(self):
        images = [
            {"path_degrees": [4.0, 2.0, 1.0, d], "clock": [[0, 0, 0], [2, 1.0, 3.0], [3, 5.0, 6.0]]}
            for d in (0.5, None, 0.7)
        ]
        steps, seconds, degrees = convergence(images, "cpu_seconds")
        np.testing.assert_array_equal(steps, [0, 1, 2, 3])
        np.testing.assert_allclose(seconds, [0.0, 0.5, 1.0, 5.0])
        np.testing.assert_allclose(degrees, [4.0, 2.0, 1.0, 0.7])
        np.testing.assert_allclose(convergence(images, "seconds")[1], [0.0, 1.5, 3.0, 6.0])


class TestGrid:
    def test_records(self, records, subject):
        assert [(Level(*r["level"]), r["sampling"], r["method"]) for r in records] == [
            cell[1:] for cell in CELLS
        ]
        for record in records:
            descent = record["method"] == PAPER
            times, refreshes = ([0, 3, 6], 2) if descent else ([0, 8], 1)
            # Weights begin with the second level of the second-order solver, which has one here.
            share = 0.65 if descent and record["sampling"] else 1.0
            for found, trial in zip(record["images"], subject.trials["model"], strict=True):
                assert found["name"] == trial.name
                assert len(found["path_degrees"]) == len(found["path_percent"]) == times[-1] + 1
                assert found["path_degrees"][0] == pytest.approx(record["level"][0], abs=1e-2)
                assert found["path_degrees"][-1] == pytest.approx(found["degrees"], abs=1e-2)
                assert [at for at, *_ in found["clock"]] == times
                assert min(found["cpu_seconds"], found["seconds"]) > 0.0
                assert found["sampled"] == pytest.approx([share] * refreshes, abs=0.1)

    def test_all_methods_start_from_the_same_poses(self, records):
        starts = {(tuple(r["level"]), i["name"], i["path_percent"][0])
                  for r in records for i in r["images"]}  # fmt: skip
        assert len(starts) == len(LEVELS) * 2

    def test_levenberg_succeeds_and_six_steps_of_adam_do_not(self, records):
        rows = results(records)["summary"]
        assert all(row["success"] == (row["method"] == "levenberg") for row in rows)
        assert all(row["of_paper"] == 1.0 for row in rows if row["method"] == PAPER)

    def test_finished_cells_are_not_run_again(self, records, subject, folder, monkeypatch):
        def forbidden(*args, **kwargs):
            raise AssertionError("run again")

        monkeypatch.setattr(runs_module, "invert", forbidden)
        again = run_grid(subject, CELLS, BASE, folder / "grid", seed=0)
        assert again == records

    def test_only_missing_cells_are_run(self, records, subject, folder, monkeypatch):
        run = []

        def counted(*args, **kwargs):
            run.append(1)
            return original(*args, **kwargs)

        original = runs_module.invert
        monkeypatch.setattr(runs_module, "invert", counted)
        (folder / "grid" / f"{CELLS[-1].key}.json").unlink()
        again = run_grid(subject, CELLS, BASE, folder / "grid", seed=0)
        assert len(run) == 3  # a warm-up, and two images
        assert again[:-1] == records[:-1]
        fresh, old = again[-1]["images"], records[-1]["images"]
        assert [i["path_degrees"] for i in fresh] == [i["path_degrees"] for i in old]

    def test_results_of_other_settings_raise(self, records, subject, folder):
        with pytest.raises(InputError, match=r"other settings \(seed\).*--overwrite"):
            run_grid(subject, CELLS[:1], BASE, folder / "grid", seed=1)
        other = dataclasses.replace(BASE, adam=dataclasses.replace(BASE.adam, rate=0.02))
        with pytest.raises(InputError, match=r"other settings \(invert\)"):
            run_grid(subject, CELLS[:1], other, folder / "grid", seed=0)

    def test_an_image_that_asks_for_more_capacity_is_timed_again(self, subject, monkeypatch):
        usual, calls = subject.model.capacity.slots, []

        def asking(model, image, *args, **kwargs):
            calls.append(model.capacity.slots)
            if image.max() == 0.0:
                model.capacity.grow(2 * usual)

        monkeypatch.setattr(runs_module, "invert", asking)
        bench = runs_module.Bench(subject)
        usual_trial = subject.trials["model"][0]
        greedy = dataclasses.replace(usual_trial, image=0.0 * usual_trial.image)
        config = config_of(PAPER, BASE, sampling=False)
        for trial in (usual_trial, greedy, usual_trial):
            bench.run(trial, trial.viewmat, config)
        # A warm-up, the image, the greedy one twice, and as before.
        assert calls[:3] == [usual] * 3
        assert len(calls) == 5 and calls[3] > 2 * usual and calls[4] == usual

    def test_tables(self, records):
        first, *others = experiment_tables(records)
        assert first.columns == ("method", "sampling", "3/2", "8/4")
        rows = [
            (method, sampling, *2 * ["1.00" if method == "levenberg" else "0.00"])
            for sampling in ("off", "on")
            for method in METHODS_TRIED
        ]
        assert first.rows == tuple(rows)
        assert [table.title[-3:] for table in others] == ["3/2", "8/4"]
        for table, level in zip(others, LEVELS, strict=True):
            cells = [r for r in records if r["level"] == list(level) and not r["sampling"]]
            for row, record in zip(table.rows, cells, strict=False):
                figures = summary(record["images"], SUCCESS)
                assert row[:4] == (record["method"], "off", "2", f"{figures['success']:.2f}")
                assert row[5] == f"{figures['median_degrees']:.3f}"
                assert row[8] == f"{figures['cpu_seconds']:.2f}"

    def test_markdown(self):
        table = Table("Errors", ("method", "degrees"), (("a", "0.10"), ("b", "2.00")), ("a note",))
        expected = "### Errors\n\n| method | degrees |\n| --- | --- |\n| a | 0.10 |\n| b | 2.00 |"
        assert markdown(table) == f"{expected}\n\na note\n"

    @pytest.fixture
    def figures(self, monkeypatch):
        """The figures that are drawn."""
        made, new = [], plots._figure

        def recorded(*size):
            figure, axes = new(*size)
            made.append(figure)
            return figure, axes

        monkeypatch.setattr(plots, "_figure", recorded)
        return made

    @staticmethod
    def lines(axis):
        return {line.get_label(): line.get_xydata().T for line in axis.lines[: len(METHODS_TRIED)]}

    def test_success_plot(self, records, tmp_path, figures):
        write_success(tmp_path / "success.png", records)
        (figure,) = figures
        assert [axis.get_title() for axis in figure.axes] == [
            "rendered images, whole image",
            "rendered images, matching points",
        ]
        for axis in figure.axes:
            lines = self.lines(axis)
            np.testing.assert_array_equal(lines["levenberg"][1], [1.0, 1.0])
            np.testing.assert_array_equal(lines[PAPER][1], [0.0, 0.0])
            assert [label.get_text() for label in axis.get_xticklabels()] == ["3/2", "8/4"]
        shape = cv2.imread(str(tmp_path / "success.png")).shape
        assert shape[1::-1] == tuple(np.round(plots._DPI * figure.get_size_inches()).astype(int))

    def test_convergence_plot(self, records, tmp_path, figures):
        write_convergence(tmp_path / "convergence.png", records)
        (figure,) = figures
        assert len(figure.axes) == len(LEVELS) * 2 * 2
        over_steps, over_seconds = figure.axes[:2]
        assert over_steps.get_title() == "rendered images, from 3/2, whole image"
        for record in records[: len(METHODS_TRIED)]:
            steps, seconds, degrees = convergence(record["images"], "cpu_seconds")
            drawn = self.lines(over_steps)[record["method"]]
            np.testing.assert_allclose(drawn, [steps, degrees])
            drawn = self.lines(over_seconds)[record["method"]]
            np.testing.assert_allclose(drawn, [np.maximum(seconds, 0.01), degrees])
        assert over_steps.lines[-1].get_ydata() == pytest.approx([SUCCESS.degrees] * 2)
        shape = cv2.imread(str(tmp_path / "convergence.png")).shape
        assert shape[1::-1] == tuple(np.round(plots._DPI * figure.get_size_inches()).astype(int))


class TestGradients:
    def test_cosines(self, subject, folder, monkeypatch):
        found = compare_gradients(subject, LEVELS[1:], folder, seed=0)
        assert len(found["rows"]) == 2 * 2 * 2
        for row in found["rows"]:
            worst = {part: min(row[part]["cosine"]) for part in ("translation", "rotation", "all")}
            if row["mode"] == "analytic":
                assert min(worst.values()) > 0.9999
                np.testing.assert_allclose(row["all"]["norm"], 1.0, rtol=1e-3)
            else:
                assert 0.5 < worst["translation"] < 0.9999
            if row["mode"] == "paper" and row["pivot"] == "camera":
                assert worst["rotation"] > 0.9999  # equation 3 is about the translation
        table = gradient_table([found])
        assert len(table.rows) == 8 and len(table.columns) == 10
        written = json.loads((folder / "gradients.json").read_text())
        assert written == found
        monkeypatch.setattr("experiments.gradients.pose_gradients", None)
        assert compare_gradients(subject, LEVELS[1:], folder, seed=0) == found


class TestFilm:
    def test_film(self, subject, folder, monkeypatch):
        trial = subject.trials["model"][1]

        def made():
            return make_film(subject, trial, LEVELS[0], PAPER, BASE, folder, seed=0)

        path = made()
        assert path.stat().st_size < 2_000_000
        with Image.open(path) as film:
            assert film.n_frames == 7  # pyright: ignore[reportAttributeAccessIssue]
            frames = []
            for i in range(7):
                film.seek(i)
                frames.append(np.asarray(film.convert("RGB"), int))
        assert frames[0].shape == (24 + 2 * 222, 6 + 4 * 206, 3)
        # The renders move, the test image does not.
        panels = [[f[24:224, x : x + 200] for f in frames] for x in (6, 212)]
        assert np.abs(panels[0][-1] - panels[0][0]).mean() < 2.0
        assert np.abs(panels[1][-1] - panels[1][0]).mean() > 3.0
        # With matching points the right half does not count: it is grey.
        counting = frames[-1][24 + 222 : 24 + 422, 624:824]
        assert np.ptp(counting[:, 150:], axis=2).max() < 30 < np.ptp(counting[:, :80], axis=2).max()
        final = json.loads((folder / "film.json").read_text())["final"]
        assert set(final) == {"whole image", "matching points"}
        monkeypatch.setattr("experiments.film.invert", None)
        assert made() == path


class TestScript:
    def test_bad_input_is_one_line_on_stderr(self):
        script = Path(__file__).resolve().parents[1] / "scripts/experiment_poses.py"
        flags = ["--data=x", "--run=x", "--out=x", "--methods=newton"]
        done = subprocess.run(
            [sys.executable, str(script), *flags], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error: there is no method 'newton': choose among")
        assert done.stderr.count("\n") == 1
