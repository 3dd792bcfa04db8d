"""What README.md promises: its commands, its Python, and a floor under the demo's accuracy."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
# A smaller toy and a shorter training than the demo's, or the tests would take minutes.
SMALLER = {
    "make_toy.py": ["--size=64", "--train_views=48", "--test_per_kind=3"],
    "igspad-run": [
        "--config.train.steps=400",
        "--config.train.count=2500",
        "--config.evaluate.breakdown=False",
    ],
}


def block(language: str, holding: str) -> str:
    """The first code block of a language in README.md that holds some text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    return next(text for text in blocks if holding in text)


class Demo:
    """A folder in which the commands of `make demo` were run, without any weights at hand."""

    def __init__(self, folder: Path):
        self.folder = folder
        own = {"IGSPAD_JAX_CACHE": str(folder / "cache"), "HF_HUB_CACHE": str(folder / "hub")}
        self.environment = os.environ | own | {"JAX_PLATFORMS": "cpu"}
        del self.environment["JAX_ENABLE_COMPILATION_CACHE"]  # a process's second image is quick
        plan = subprocess.run(
            ["make", "-n", "-C", str(ROOT), "demo"], capture_output=True, text=True, check=True
        )
        lines = [shlex.split(line) for line in plan.stdout.splitlines() if "data/toy" in line]
        assert len(lines) == 2
        for program, *arguments in lines:
            if program.endswith("python"):
                script, *arguments = arguments
                line = [sys.executable, str(ROOT / script)]
            else:
                script, line = program, [str(BIN / Path(program).name)]
            line += [*arguments, *SMALLER[Path(script).name]]
            self.printed = self.run(line).stdout

    def run(self, line: list[str], status: int = 0) -> subprocess.CompletedProcess:
        done = subprocess.run(
            line, capture_output=True, text=True, cwd=self.folder, env=self.environment, check=False
        )
        assert done.returncode == status, done.stderr[-3000:]
        return done


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Demo:
    return Demo(tmp_path_factory.mktemp("demo"))


def test_accuracy_of_the_demo(demo):
    """A real, if short, training: far above chance, and within reach of what was measured."""
    metrics = json.loads((demo.folder / "runs/demo/toy/metrics.json").read_text())
    overall = metrics["sizes"]["native"]["overall"]
    assert overall["image_auroc"] > 0.9
    assert overall["pixel_ap"] > 0.6
    assert metrics["pose"]["gross_count"] == 0
    assert metrics["pose"]["median_degrees"] < 0.6
    verdicts = metrics["verdicts"]["0.05"]
    assert verdicts["found"] >= 0.6
    assert verdicts["kinds"]["good"]["FAIL"] <= 1
    assert verdicts["unsure"] <= 0.1


def test_demo_prints_the_verdicts(demo):
    table = demo.printed[demo.printed.index("Verdicts") :].splitlines()
    columns = re.split(r"  +", table[1].strip())
    cells = dict(zip(columns, re.split(r"  +", table[3].strip()), strict=True))
    counts = [int(cells[f"good: {verdict}"]) for verdict in ("PASS", "FAIL", "UNSURE")]
    assert sum(counts) == 3 and cells["category"] == "toy"


def test_shell_lines(demo):
    first, *lines = block("sh", "igspad-inspect").splitlines()
    assert first == "make demo" and len(lines) == 2
    outputs = []
    for line, statuses in zip(lines, ((1,), (0, 1)), strict=True):
        command, *arguments = shlex.split(line)
        command = str(BIN / Path(command).name)
        done = subprocess.run(
            [command, *arguments], capture_output=True, text=True, cwd=demo.folder,
            env=demo.environment, check=False,
        )  # fmt: skip
        assert done.returncode in statuses, done.stderr[-3000:]
        outputs.append(done.stdout)
    assert outputs[0].startswith("data/toy/test/Missing/0.png: FAIL, p = ")
    assert len(outputs[1].splitlines()) == 3 and outputs[1].count("PASS") >= 2
    assert len(list((demo.folder / "runs/pictures").glob("*.png"))) == 3


def test_python_lines(demo):
    code = block("python", "Inspector.load")
    assert len([line for line in code.splitlines() if line]) <= 5
    printed = demo.run([sys.executable, "-c", code]).stdout
    assert printed.startswith("FAIL ") and "Region(area=" in printed
