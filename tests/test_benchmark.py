"""The benchmark: its record, its comparisons, its model, and the calls of other projects' programs.

One run of the script in processes of its own; all else is run here, and hardly anything compiled.
"""

import functools
import importlib
import inspect
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from benchmarking import (
    agreement,
    grid,
    ours,
    peer_gsplat,
    peer_splax,
    peer_torch,
    plot,
    processes,
    roofline,
    stages,
    targets,
)
from benchmarking.compiling import Compiled
from benchmarking.plan import Key, Record, make_plan
from benchmarking.programs import COMPARED, PARTS, PROGRAMS, absence
from benchmarking.scenes import make_scene
from benchmarking.tables import cell_line, dssim_table, tables
from benchmarking.timing import Prepared, measure
from igspad_jax.errors import InputError
from igspad_jax.inspector import automatic

pytestmark = pytest.mark.usefixtures("quickly_compiled")

ROOT = Path(__file__).resolve().parents[1]
COUNT, SIZE = 300, 32
RUN_PARTS = ("forward", "backward", "dssim")
CPU = {"device": "cpu", "platform": "cpu", "hopper": False}
H100 = {"device": "NVIDIA H100 80GB HBM3", "platform": "gpu", "hopper": True}


@pytest.fixture(scope="module")
def scene():
    return make_scene(COUNT, SIZE, 2, 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The output of the script on a small grid, and its JSON file."""
    out = tmp_path_factory.mktemp("benchmark") / "small.json"
    flags = [
        f"--out={out}",
        f"--counts={COUNT}",
        f"--sizes={SIZE}",
        f"--parts={','.join(RUN_PARTS)}",
        "--programs=xla,gsplat",
        "--repeats=2",
    ]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/benchmark.py"), *flags],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, out


def plan_of(out, **given):
    words = {"counts": ["300"], "sizes": ["32"], "batches": ["1"], "parts": None, "programs": None}
    return make_plan(words | given, on_gpu=False, repeats=2, seed=0, timeout=5.0, out=out)


class TestScript:
    def test_record(self, finished):
        content = json.loads(finished[1].read_text())
        assert content["settings"] == {"repeats": 2, "seed": 0}
        assert content["machine"]["platform"] == "cpu"
        assert [cell["part"] for cell in content["cells"]] == list(RUN_PARTS)
        for cell in content["cells"]:
            assert (cell["program"], cell["count"], cell["size"]) == ("xla", COUNT, SIZE)
            wall = cell["wall_ms"]
            assert 0 < wall["least"] <= wall["median"]
            assert wall["spread"] >= 0
            assert cell["repeats"] == 2
            assert cell["compile_s"] > 0
            assert cell["memory_bytes"] > 12 * SIZE * SIZE
            assert "roofline" not in cell  # there are no peaks of a CPU
            assert cell["pairs"] >= COUNT
            assert "jax" in cell["versions"]

    def test_says_what_is_missing(self, finished):
        text, out = finished
        assert "JAX sees no GPU" in text
        assert "gsplat is left out: it needs an NVIDIA GPU" in text
        assert "pip install torch gsplat" in json.loads(out.read_text())["absent"]["gsplat"]

    def test_tables_and_plot(self, finished):
        text, out = finished
        assert "share of D-SSIM" not in text  # no training was measured
        assert text.count("not measured") == len(targets.targets([]))
        drawn = pixels_of(out.with_suffix(".png"))
        assert drawn["xla"].any()
        assert not any(drawn[name].any() for name in ("gsplat", "splax", "torch"))

    def test_goes_on(self, finished, monkeypatch, tmp_path):
        """Finished cells are not asked for again; failed and missing ones are."""
        out = tmp_path / "small.json"
        out.write_text(finished[1].read_text())
        machine = json.loads(out.read_text())["machine"]
        plan = plan_of(out, parts=list(RUN_PARTS), programs=["xla"])
        asked = []

        def ask(job, environment, timeout):
            asked.append(job["parts"])
            for part in job["parts"]:
                yield {"part": part, "error": "broken"}

        monkeypatch.setattr(grid, "ask", ask)
        go = functools.partial(grid.run, plan, say=print, on_cell=print)
        go(Record(plan, machine, overwrite=False), overwrite=False)
        assert not asked
        record = Record(plan, machine, overwrite=False)
        record.put(Key("xla", "backward", COUNT, SIZE, 1), {"error": "killed"})
        go(Record(plan, machine, overwrite=False), overwrite=False)
        assert asked == [["backward"]]
        go(Record(plan, machine, overwrite=True), overwrite=True)
        assert asked[1:] == [list(RUN_PARTS)]

    def test_other_settings(self, finished):
        plan = plan_of(finished[1])
        with pytest.raises(InputError, match="another machine"):
            Record(plan, H100, overwrite=False)
        assert Record(plan, H100, overwrite=True).content["cells"] == []

    def test_plain_torch_agrees(self, finished):
        """With what the XLA path left for others to be compared with."""
        pytest.importorskip("torch")
        references = plan_of(finished[1]).references(COUNT, SIZE, 1)
        for part in ("forward", "backward"):
            prepared = peer_torch.prepare(part, make_scene(COUNT, SIZE, 1, 0))
            reference = agreement.load_reference(references / f"{part}.npz")
            checked = prepared.checked(prepared.run())
            assert checked.keys() == reference.keys()
            found = agreement.compare(checked, reference, agreement.OURS)
            assert found["agrees"] is True, found

    def test_nothing_touches_the_device_on_import(self):
        """A parent that holds a GPU's memory would leave none for the programs."""
        code = (
            "import benchmarking; from jax._src import xla_bridge; "
            "assert not xla_bridge.backends_are_initialized()"
        )
        subprocess.run([sys.executable, "-c", code], cwd=ROOT / "scripts", check=True, timeout=60)


class TestPlan:
    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ({"counts": ["many"]}, "--counts=many: give positive integers"),
            ({"sizes": ["0"]}, "--sizes=0: give positive integers"),
            ({"batches": []}, "--batches=: give positive integers"),
            ({"parts": ["back"]}, "--parts: 'back' is none of forward, backward"),
            ({"programs": ["splat"]}, "--programs: 'splat' is none of xla, mosaic"),
        ],
    )
    def test_bad_flags(self, given, error, tmp_path):
        with pytest.raises(InputError, match=error):
            plan_of(tmp_path / "a.json", **given)

    def test_grid_by_machine(self, tmp_path):
        words = dict.fromkeys(("counts", "sizes", "batches", "parts", "programs"))
        grids = {}
        for on_gpu in (False, True):
            plan = make_plan(
                words, on_gpu=on_gpu, repeats=2, seed=0, timeout=5.0, out=tmp_path / "a.json"
            )
            grids[on_gpu] = plan
        assert max(grids[False].counts) < max(grids[True].counts)
        assert grids[True].batches == (1, 16)
        assert "torch" not in grids[True].programs
        assert grids[False].programs == tuple(PROGRAMS)

    def test_absence(self):
        assert absence(PROGRAMS["xla"], CPU) is None
        assert absence(PROGRAMS["mosaic"], H100) is None
        assert "compute capability 9.0" in absence(
            PROGRAMS["mosaic"], {"device": "NVIDIA A100", "platform": "gpu", "hopper": False}
        )
        for name in ("mosaic", "gsplat", "splax"):
            assert "NVIDIA GPU" in absence(PROGRAMS[name], CPU)

    def test_not_installed(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert absence(PROGRAMS["gsplat"], H100).startswith("it is not installed; pip install")


class TestFailures:
    def test_others_go_on(self, monkeypatch, tmp_path):
        """A failed cell keeps its error; a new process measures what is left."""
        jobs = []

        def ask(job, environment, timeout):
            jobs.append((job["program"], list(job["parts"]), job["repeats"]))
            for part in job["parts"]:
                if job["repeats"] and part == "backward":
                    yield {"part": part, "error": "out of memory"}
                    return
                if job["repeats"] and part == "pose":
                    yield {"error": "no answer within 5 s"}
                    return
                yield {"part": part, "wall_ms": {"median": 1.0}}

        monkeypatch.setattr(grid, "ask", ask)
        monkeypatch.setattr(grid, "absence", lambda program, device: None)
        plan = plan_of(tmp_path / "a.json", programs=["torch"])
        record = Record(plan, CPU, overwrite=False)
        cells = []
        grid.run(plan, record, overwrite=False, say=print, on_cell=cells.append)
        assert [cell.get("error") for cell in cells] == [
            None,
            "out of memory",
            "no answer within 5 s",
        ]
        own = ["forward", "backward", "pose"]
        # Other programs are compared with the XLA path, which is run for that alone.
        assert jobs[0] == ("xla", own, None)
        assert jobs[1:] == [("torch", own[i:], 2) for i in (0, 2)]
        assert "FAILED: out of memory" in cell_line(cells[1])
        assert Record(plan, CPU, overwrite=False).cell(Key("torch", "pose", 300, 32, 1)) is None

    def test_crash_and_silence(self, monkeypatch):
        def answers(code):
            monkeypatch.setattr(processes, "_CHILD", (sys.executable, "-c", code))
            return list(processes.ask(None, {"GREETING": "good day"}, 2.0))

        mark = "import os, sys, time; print('noise'); print('@benchmark {\"a\": 1}', flush=True); "
        assert answers(mark) == [{"a": 1}]
        assert answers(mark + "sys.exit(os.environ['GREETING'])") == [
            {"a": 1},
            {"error": "ended with status 1: good day"},
        ]
        assert answers(mark + "time.sleep(60)") == [{"a": 1}, {"error": "no answer within 2 s"}]


class TestMeasure:
    def test_record(self):
        calls = []
        prepared = Prepared(
            lambda: calls.append(0) or len(calls),
            checked=lambda result: {"x": np.array([result])},
            figures=lambda result: {"first": result},
            per=10,
            compiled_bytes=7,
        )
        peaks = iter([5, 9])
        record, checked = measure(lambda: prepared, lambda: next(peaks), 4)
        assert len(calls) == 5
        assert record["repeats"] == 4
        assert record["first"] == checked["x"] == 1
        assert record["memory_bytes"] == 9
        # A peak that this part did not raise says nothing of it.
        record, _ = measure(lambda: prepared, lambda: 9, 2)
        assert (record["memory_bytes"], record["memory_from"]) == (7, "compiled")


class TestAgreement:
    def test_few_pixels_may_jump(self):
        images = np.full((1, 40, 50, 3), 0.5)
        jumped = images + 5e-5
        jumped[0, 3, 4] += 0.01
        reference = {"images": images, "other": np.ones(2)}
        found = agreement.compare({"images": jumped}, reference, agreement.OURS)
        assert found["agrees"] is True
        assert found["differences"]["images"]["beyond"] == pytest.approx(1 / 2000)
        jumped[0, :2] += 2e-4
        assert agreement.compare({"images": jumped}, reference, agreement.OURS)["agrees"] is False
        assert agreement.compare({"images": jumped}, reference, agreement.PEERS)["agrees"] is True

    def test_arrays(self):
        reference = {"x": np.array([3.0, 4.0])}
        for apart, agrees in ((1e-3, True), (1e-2, False), (np.nan, False)):
            found = agreement.compare({"x": reference["x"] + apart}, reference, agreement.OURS)
            assert found["agrees"] is agrees
        assert agreement.compare({}, reference, agreement.OURS)["agrees"] is None
        with pytest.raises(ValueError, match="x: shape"):
            agreement.compare({"x": np.ones(3)}, reference, agreement.OURS)

    def test_disagreement_is_loud(self):
        cell = {**Key("gsplat", "forward", 1, 2, 1)._asdict(), **figures(3.0)}
        cell |= {"agrees": False, "differences": {"images": {"largest": 0.5, "beyond": 0.1}}}
        assert "gsplat DISAGREES" in cell_line(cell)
        assert "3 (disagrees)" in tables([cell], "wall_ms")[0].rows[0]


def figures(ms):
    spread = {"median": ms, "least": ms, "spread": 0.0}
    return {
        "wall_ms": spread,
        "cpu_ms": spread,
        "compile_s": 1.0,
        "memory_bytes": None,
        "agrees": None,
    }


def cells_of(*entries):
    return [{**Key(*key)._asdict(), **figures(ms)} for *key, ms in entries]


def pixels_of(path):
    """Rows and columns at which a plot shows the colour of each program; text is mosaic's."""
    image = cv2.imread(str(path))[..., ::-1].astype(int)
    colours = {name: np.round(255 * np.array(to_rgb(c))) for name, c in plot._COLOURS.items()}
    return {n: np.argwhere(np.abs(image - c).max(axis=2) < 12) for n, c in colours.items()}


class TestPlot:
    def test_slower_is_higher_and_what_disagrees_or_failed_is_not_drawn(self, tmp_path):
        ms = {"gsplat": 8.0, "torch": 2.0, "xla": 4.0, "splax": 4.0}
        cells = cells_of(*((name, "forward", 1000, 32, 1, value) for name, value in ms.items()))
        cells[2]["agrees"] = False
        cells[3]["error"] = "out of memory"
        plot.write_plot(tmp_path / "plot.png", cells, "wall_ms", "a device")
        drawn = pixels_of(tmp_path / "plot.png")
        lowest = {name: pixels[:, 0].max() for name, pixels in drawn.items() if len(pixels)}
        assert lowest["gsplat"] + 50 < lowest["torch"]
        assert "xla" not in lowest and "splax" not in lowest

    def test_nothing_to_draw(self, tmp_path):
        plot.write_plot(tmp_path / "plot.png", [], "wall_ms", "a device")
        assert not (tmp_path / "plot.png").exists()


class TestRoofline:
    # 50 000 splats at 400 pixels, as in docs/kernels.md.
    WORK = roofline.Work(50_000, 1, 9, 1, 400 * 400, 158_000)

    def test_against_docs(self):
        """The estimates there: 0.05 ms forward, 0.3 the gradient, 0.15 normal equations."""
        ms = {part: roofline.bound(part, self.WORK, "NVIDIA H200").ms for part in COMPARED}
        assert ms["forward"] == pytest.approx(158_000 * 70 / (132 * 1.7e6), rel=1e-6)
        assert ms["forward"] == pytest.approx(0.05, abs=0.005)
        assert ms["backward"] - ms["forward"] == pytest.approx(0.3, abs=0.03)
        assert ms["pose"] - ms["forward"] == pytest.approx(0.15, abs=0.005)

    def test_memory(self):
        found = roofline.bound("dssim", self.WORK, "NVIDIA H100 80GB HBM3")
        assert found.limit == "memory"
        assert found.ms == pytest.approx(1e3 * 4 * 3 * 23 * 400 * 400 / 3.35e12)

    def test_unknown(self):
        assert roofline.bound("forward", self.WORK, "NVIDIA H100 PCIe") is None
        assert roofline.bound("match", self.WORK, "NVIDIA H200") is None


class TestTargets:
    def test_reached_or_not(self):
        places = [(count, 800, batch) for count in (100_000, 500_000) for batch in (1, 16)]
        cells = cells_of(
            *(("mosaic", "backward", *place, 10.0) for place in places),
            *(("gsplat", "backward", *place, 9.5) for place in places),
            ("mosaic", "pose", 100_000, 800, 16, 10.0),
            ("gsplat", "pose", 100_000, 800, 16, 15.0),
            ("mosaic", "train", 100_000, 800, 1, 1.5),
        )
        cells[0]["agrees"] = True
        states = [target.state for target in targets.targets(cells)]
        assert states == ["reached", "reached", "not reached", "reached", "not measured"]
        # What draws something else is no measure.
        cells[0]["agrees"] = False
        states = [target.state for target in targets.targets(cells)]
        assert states[:2] == ["not reached", "not measured"]

    def test_share_of_dssim(self):
        cells = cells_of(("xla", "train", 1, 2, 1, 8.0), ("xla", "dssim", 1, 2, 1, 2.0))
        assert dssim_table(cells, "cpu_ms").rows == (("xla", "1", "2", "1", "25 %"),)
        assert dssim_table(cells[:1], "cpu_ms") is None


class TestOurs:
    @pytest.mark.parametrize("part", ["pose", "jacobian", "train"])
    def test_parts_are_what_the_program_runs(self, part, scene, monkeypatch):
        """Traced, not compiled: they call the solver and the trainer as these are."""

        def traced(function, *arguments, **static):
            shapes = jax.eval_shape(functools.partial(function, **static), *arguments)
            result = jax.tree.map(lambda shape: np.zeros(shape.shape, shape.dtype), shapes)
            return Compiled(lambda: result, 0.0, None)

        monkeypatch.setattr(ours, "compiled", traced)
        monkeypatch.setattr(ours, "_listed", lambda *_: (np.array([1000]), np.array([900])))
        prepared = ours.prepare(part, scene)
        shapes = {name: array.shape for name, array in prepared.checked(prepared.run()).items()}
        expected = {
            "pose": {"cost": (2,), "gram": (2, 7, 7)},
            "jacobian": {"jacobian": (4, 4, 3, 6)},
            "train": {"loss": (1,)},
        }
        assert shapes == expected[part]

    def test_stages(self, monkeypatch):
        """Matching and detection as they are, the solver replaced by its first hypothesis."""
        given = {}

        def invert(model, images, initial, config):
            given["shapes"] = images.shape, initial.shape
            return types.SimpleNamespace(viewmats=initial[:, 0])

        monkeypatch.setattr(stages, "invert", invert)
        monkeypatch.setattr(automatic, "best_matcher", lambda sources: ("opencv", ()))
        monkeypatch.setattr(automatic, "best_features", lambda sources: ("handmade", ()))
        monkeypatch.setattr(stages, "_TRAINING_VIEWS", 3)
        assert set(stages.STAGES) == set(PARTS) - set(COMPARED)
        scene = make_scene(COUNT, SIZE, 1, 0)
        found = {}
        for part in stages.STAGES:
            prepared = ours.prepare(part, scene)
            found[part] = prepared.figures(prepared.run())
        assert found["match"]["matcher"] == "opencv"
        assert given["shapes"] == ((1, SIZE, SIZE, 3), (1, 4, 4, 4))
        assert found["invert"]["degrees"] == pytest.approx(8.0, abs=1e-3)
        assert found["detect"]["features"] == "handmade"
        monkeypatch.setattr(stages, "_NOISE", 0.0)
        exact = ours.prepare("detect", scene)
        score = exact.figures(exact.run())["score"]
        assert score < 1e-3 * found["detect"]["score"]  # renders against themselves


class TestPeers:
    """Their adapters, run on stand-ins that record how they are called."""

    def check(self, adapter, scene):
        """The shapes of what each part hands over for comparison."""
        shapes = {}
        for part in ("forward", "backward", "pose"):
            prepared = adapter.prepare(part, scene)
            shapes |= {k: v.shape for k, v in prepared.checked(prepared.run()).items()}
        gaussians = {name: leaf.shape for name, leaf in vars(scene.gaussians).items()}
        expected = {"images": (2, SIZE, SIZE, 3), "viewmats": (2, 4, 4), **gaussians}
        assert shapes == expected

    @pytest.fixture
    def gsplat_calls(self, scene, monkeypatch):
        torch = pytest.importorskip("torch")
        calls = []

        def rasterization(**given):
            calls.append(given)
            seen = sum(part.sum() for part in given.values() if torch.is_tensor(part))
            return seen * torch.ones(2, SIZE, SIZE, 3), None, {}

        for name in ("reset_peak_memory_stats", "synchronize"):
            monkeypatch.setattr(torch.cuda, name, lambda: None)
        monkeypatch.setattr(peer_gsplat, "_DEVICE", "cpu")
        stand_in = types.SimpleNamespace(rasterization=rasterization)
        monkeypatch.setitem(sys.modules, "gsplat", stand_in)
        self.check(peer_gsplat, scene)
        return calls

    def test_gsplat(self, gsplat_calls, scene):
        given = gsplat_calls[0]
        for name in ("scales", "opacities"):  # activated
            np.testing.assert_allclose(given[name], getattr(scene.gaussians, name), rtol=1e-5)
        assert given["Ks"].shape == (2, 3, 3)
        assert given["backgrounds"].shape == (2, 3)

    def test_gsplat_signature(self, gsplat_calls, monkeypatch):
        monkeypatch.delitem(sys.modules, "gsplat")
        gsplat = pytest.importorskip("gsplat")
        for given in gsplat_calls:
            inspect.signature(gsplat.rasterization).bind(**given)

    @pytest.fixture
    def splax_calls(self, scene, monkeypatch):
        calls = []

        def render(*given, **named):
            calls.append((given, named))
            seen = sum(map(jnp.sum, given)) + jnp.sum(named["viewmat"])
            return seen * jnp.ones((SIZE, SIZE, 3)), None

        monkeypatch.setitem(sys.modules, "splax", types.SimpleNamespace(render=render))
        self.check(peer_splax, scene)
        return calls

    def test_splax(self, splax_calls, scene):
        given, named = splax_calls[0]
        gaussians = scene.gaussians
        own = (gaussians.means, gaussians.log_scales, gaussians.quats, gaussians.sh)
        assert [part.shape for part in given[:4]] == [part.shape for part in own]
        assert named["img_shape"] == (SIZE, SIZE)
        assert named["c"] == (SIZE / 2, SIZE / 2)

    def test_splax_signature(self, splax_calls, monkeypatch):
        monkeypatch.delitem(sys.modules, "splax")
        # It wants to be the first to import SciPy, unless this is set.
        monkeypatch.setenv("SCIPY_ARRAY_API", "1")
        splax = pytest.importorskip("splax")
        for given, named in splax_calls:
            inspect.signature(splax.render).bind(*given, **named)
