"""How the package is laid out, and which part may import which."""

import ast
import configparser
import importlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "igspad_jax"

# Data flows one way: a stage imports only what stands before it.
STAGES = (
    "data",
    "networks",
    "compilation",
    "workers",
    "scene",
    "render",
    "normal_object",
    "train",
    "match",
    "invert",
    "detect",
    "inspector",
    "evaluate",
    "experiment",
    "report",
    "pipeline",
    "commands",
    "benchmark",
)
FOUNDATION = {
    "batches", "cameras", "devices", "errors", "files", "launch", "machine", "progress", "settings"
}  # fmt: skip


def sources(folder):
    return sorted(path for path in folder.rglob("*.py"))


def files_of(part):
    """The files of a part of the package, which is a module or a folder of them."""
    module = PACKAGE / f"{part}.py"
    found = [module] if module.is_file() else sources(PACKAGE / part)
    assert found, f"there is no {part}"
    return found


def imports(path):
    """(line, absolute module name) of every import in a file, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.lineno, node.module
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def own_parts(path):
    """(line, first name below igspad_jax) of every import of the package itself."""
    for line, name in imports(path):
        words = name.split(".")
        if words[0] == "igspad_jax" and len(words) > 1:
            yield line, words[1]


class TestKernels:
    def test_folder_is_no_package_and_is_linked(self):
        """With an `__init__.py` it would hide the `kernels` package of other people."""
        assert not (ROOT / "kernels/__init__.py").exists()
        assert (PACKAGE / "kernels").is_symlink()
        assert (PACKAGE / "kernels").readlink() == Path("../kernels")
        assert (PACKAGE / "kernels").resolve() == ROOT / "kernels"
        for path in sources(ROOT / "kernels"):
            assert (path.parent / "__init__.py").exists(), path

    def test_does_not_shadow_another_kernels_package(self, tmp_path):
        (tmp_path / "kernels").mkdir()
        (tmp_path / "kernels/__init__.py").write_text("OTHER = True\n")
        # From the repository root, whose folders come first on the path.
        code = f"import sys; sys.path.append({str(tmp_path)!r}); import kernels; kernels.OTHER"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)

    def test_import_as_part_of_the_package(self):
        code = "from igspad_jax.kernels.compositing.tiles import TILE; print(TILE)"
        for folder in (ROOT, ROOT.parent):
            done = subprocess.run(
                [sys.executable, "-c", code],
                cwd=folder,
                check=True,
                timeout=60,
                capture_output=True,
                text=True,
            )
            assert int(done.stdout) > 0

    def test_nobody_imports_the_bare_name(self):
        folders = [ROOT / name for name in ("kernels", "igspad_jax", "scripts", "tests", "configs")]
        for path in (path for folder in folders if folder.exists() for path in sources(folder)):
            for line, name in imports(path):
                assert name.split(".")[0] != "kernels", f"{path}:{line}: import igspad_jax.kernels"


class TestDirection:
    def test_every_part_has_its_place(self):
        parts = {
            p.name.removesuffix(".py")
            for p in PACKAGE.iterdir()
            if not p.name.startswith("_") and (p.is_dir() or p.suffix == ".py")
        }
        assert parts == {*STAGES, *FOUNDATION, "kernels"}, "give the new part a place in this test"

    @pytest.mark.parametrize("stage", STAGES)
    def test_stages_import_only_earlier_ones(self, stage):
        allowed = {*FOUNDATION, "kernels", *STAGES[: STAGES.index(stage) + 1]}
        for path in files_of(stage):
            for line, part in own_parts(path):
                assert part in allowed, f"{path}:{line}: {stage} imports {part}"

    def test_kernels_are_leaves(self):
        for path in sources(ROOT / "kernels"):
            for line, part in own_parts(path):
                # A user may choose a kernel, and choose badly.
                assert part in ("kernels", "errors"), f"{path}:{line}: kernels import {part}"

    def test_foundation_stands_alone(self):
        for part in FOUNDATION:
            for path in files_of(part):
                for line, other in own_parts(path):
                    assert other in FOUNDATION, f"{path}:{line}: {part} imports {other}"

    def test_nothing_imports_scripts_or_tests(self):
        for path in sources(PACKAGE):
            for line, name in imports(path):
                assert name.split(".")[0] not in {"scripts", "tests", "conftest"}, f"{path}:{line}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package as it is installed elsewhere, built of a copy: a build leaves files."""
    pytest.importorskip("setuptools", minversion="77")
    copy = tmp_path_factory.mktemp("build") / "copy"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(PACKAGE, copy / "igspad_jax", ignore=shutil.ignore_patterns("__pycache__"))
    code = "from setuptools import build_meta; build_meta.build_wheel('..')"
    subprocess.run(
        [sys.executable, "-c", code], cwd=copy, check=True, timeout=120, capture_output=True
    )
    (path,) = copy.parent.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        yield file


class TestWheel:
    def test_holds_all_modules_and_data(self, wheel):
        held = set(wheel.namelist())
        modules = {path.relative_to(ROOT).as_posix() for path in sources(PACKAGE)}
        modules |= {f"igspad_jax/{p.relative_to(ROOT)}" for p in sources(ROOT / "kernels")}
        assert modules <= held
        assert "igspad_jax/py.typed" in held  # or type checkers ignore the annotations
        assert {name for name in held if name.endswith((".css", ".j2"))} == {
            p.relative_to(ROOT).as_posix()
            for p in PACKAGE.rglob("*")
            if p.suffix in (".css", ".j2")
        }
        assert not [name for name in held if name.startswith(("tests", "scripts", "kernels"))]

    def test_console_command(self, wheel):
        (entry,) = [name for name in wheel.namelist() if name.endswith("/entry_points.txt")]
        points = configparser.ConfigParser()
        points.read_string(wheel.read(entry).decode())
        assert set(points["console_scripts"]) == {"igspad-inspect"}
        module, name = points["console_scripts"]["igspad-inspect"].split(":")
        script = (ROOT / "scripts/inspect_images.py").read_text(encoding="utf-8")
        assert f"from {module} import {name}" in script  # does the same
        assert callable(getattr(importlib.import_module(module), name))
