"""What users get: the wheel in an environment of its own, README.md's commands, the source archive.

All is built of a checkout made without symbolic links. The demo is a real training, with a floor
under its accuracy.
"""

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", minversion="77")
ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = "train", "calibrate", "evaluate", "run", "report", "inspect", "fetch-weights"
# A smaller toy and a shorter training than the demo's, or the tests would take minutes.
SMALLER = {
    "make_toy.py": ["--size=64", "--train_views=40", "--test_per_kind=3"],
    "igspad-run": [
        "--config.train.steps=400",
        "--config.train.count=2500",
        "--config.evaluate.breakdown=False",
    ],
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """The repository as git leaves it where it cannot make links: files with their targets."""
    copy = tmp_path_factory.mktemp("checkout") / "igspad_jax"
    for name in ("igspad_jax", "scripts", "tests", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*ROOT.glob("*.*"), ROOT / "LICENSE", ROOT / "Makefile"]:
        if path.is_file():
            shutil.copy(path, copy)
    for name in ("kernels", "configs"):
        (copy / name).write_text(f"igspad_jax/{name}")
    return copy


@pytest.fixture(scope="module")
def built(checkout) -> Path:
    """A folder with the wheel and the source archive."""
    code = "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return checkout / "dist"


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory) -> Path:
    """The folder of the programs of a fresh environment with the wheel.

    What the package depends on is lent by this environment, as it is large; the package is not.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin/python"
    pip = [sys.executable, "-m", "pip", f"--python={python}", "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--quiet", str(wheel)], check=True, timeout=120)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout
    # Files *.pth in a folder that such a file names are not read: no editable installation.
    Path(own.strip(), "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


def block(language: str, holding: str) -> str:
    """The first code block of a language in README.md that holds some text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    return next(text for text in blocks if holding in text)


class Demo:
    """A folder in which the commands of `make demo` were run, without any weights at hand."""

    def __init__(self, folder: Path, programs: Path):
        self.folder, self.programs = folder, programs
        own = {"IGSPAD_JAX_CACHE": str(folder / "cache"), "HF_HUB_CACHE": str(folder / "hub")}
        self.environment = os.environ | own | {"JAX_PLATFORMS": "cpu"}
        for name in ("JAX_ENABLE_COMPILATION_CACHE", "XLA_FLAGS"):  # as users have it
            self.environment.pop(name, None)
        plan = subprocess.run(
            ["make", "-n", "-C", str(ROOT), "demo"], capture_output=True, text=True, check=True
        )
        lines = [shlex.split(line) for line in plan.stdout.splitlines() if "data/toy" in line]
        assert len(lines) == 2
        for program, *arguments in lines:
            if program.endswith("python"):  # the toy is no part of the wheel
                script, *arguments = arguments
                line = [sys.executable, str(ROOT / script)]
            else:
                script, line = program, [str(programs / Path(program).name)]
            line += [*arguments, *SMALLER[Path(script).name]]
            self.printed = self.run(line).stdout

    def run(self, line: list[str], status: int = 0) -> subprocess.CompletedProcess:
        done = subprocess.run(
            line, capture_output=True, text=True, cwd=self.folder, env=self.environment, check=False
        )
        assert done.returncode == status, done.stderr[-3000:]
        return done


@pytest.fixture(scope="module")
def demo(tmp_path_factory, programs) -> Demo:
    return Demo(tmp_path_factory.mktemp("demo"), programs)


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
    first, second = block("sh", "igspad-inspect").splitlines()
    assert first == "make demo"
    command, *arguments = shlex.split(second)
    found = demo.run([str(demo.programs / Path(command).name), *arguments], status=1)
    assert found.stdout.startswith("data/toy/test/Missing/0.png: FAIL, p = ")
    assert [path.name for path in (demo.folder / "runs/pictures").iterdir()] == ["0.png"]


def test_python_lines(demo):
    code = block("python", "Inspector.load")
    assert len([line for line in code.splitlines() if line]) <= 5
    printed = demo.run([str(demo.programs / "python"), "-c", code]).stdout
    assert printed.startswith("FAIL ") and "Region(area=" in printed


class TestWheel:
    def test_holds_the_package_alone(self, wheel):
        with zipfile.ZipFile(wheel) as file:
            held = {name for name in file.namelist() if not name.startswith("igspad_jax-")}
        files = (p for p in (ROOT / "igspad_jax").rglob("*") if p.is_file())
        expected = {p.relative_to(ROOT).as_posix() for p in files if "__pycache__" not in p.parts}
        assert held == expected and "igspad_jax/py.typed" in held

    def test_console_commands(self, wheel):
        points = configparser.ConfigParser()
        with zipfile.ZipFile(wheel) as file:
            (entry,) = [name for name in file.namelist() if name.endswith("/entry_points.txt")]
            points.read_string(file.read(entry).decode())
        assert set(points["console_scripts"]) == {f"igspad-{name}" for name in COMMANDS}
        for target in points["console_scripts"].values():
            module, name = target.split(":")
            command = module.rpartition(".")[2]
            script = ROOT / f"scripts/{'inspect_images' if command == 'inspect' else command}.py"
            assert f"from {module} import {name}" in script.read_text()  # does the same

    def test_is_what_runs(self, programs, tmp_path):
        code = "import igspad_jax; print(igspad_jax.__file__)"
        line = [programs / "python", "-c", code]
        found = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert Path(found.stdout.strip()).is_relative_to(programs.parent)


def test_a_checkout_without_links(checkout):
    code = (
        "from igspad_jax.kernels.compositing import composite\n"
        "from igspad_jax.commands.stage import load_config\n"
        "from pathlib import Path; import igspad_jax\n"
        "print(load_config(Path('demo')).train.steps, igspad_jax.__file__)"
    )
    assert (checkout / "kernels").is_file()
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=True
    )
    steps, path = found.stdout.split()
    assert steps == "3000" and Path(path).is_relative_to(checkout)


def test_the_tests_of_the_source_archive(built, tmp_path):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as file:
        file.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    for name in ("tests", "scripts", "docs"):
        files = {p.relative_to(ROOT) for p in (ROOT / name).rglob("*") if p.is_file()}
        held = {p.relative_to(folder) for p in (folder / name).rglob("*") if p.is_file()}
        assert {p for p in files - held if "__pycache__" not in p.parts} == set()
    chosen = ["tests/test_retract.py"]  # a quick one
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *chosen], cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
