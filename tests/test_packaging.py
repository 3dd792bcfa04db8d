"""How the package is laid out, and which part may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "igspad_jax"

# Data flows one way: a stage imports only what stands before it.
STAGES = (
    "data",
    "scene",
    "render",
    "train",
    "networks",
    "match",
    "invert",
    "detect",
    "evaluate",
    "experiment",
    "report",
    "pipeline",
    "benchmark",
)
FOUNDATION = {"batches", "errors", "files", "cameras", "devices", "launch", "machine"}


def sources(folder):
    return sorted(path for path in folder.rglob("*.py"))


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
            p.name.removesuffix(".py") for p in PACKAGE.iterdir() if not p.name.startswith("_")
        }
        assert parts <= {*STAGES, *FOUNDATION, "kernels"}, "give the new part a place in this test"

    @pytest.mark.parametrize("stage", STAGES)
    def test_stages_import_only_earlier_ones(self, stage):
        allowed = {*FOUNDATION, "kernels", *STAGES[: STAGES.index(stage) + 1]}
        for path in sources(PACKAGE / stage):
            for line, part in own_parts(path):
                assert part in allowed, f"{path}:{line}: {stage} imports {part}"

    def test_kernels_are_leaves(self):
        for path in sources(ROOT / "kernels"):
            for line, part in own_parts(path):
                # A user may choose a kernel, and choose badly.
                assert part in ("kernels", "errors"), f"{path}:{line}: kernels import {part}"

    def test_foundation_stands_alone(self):
        for part in FOUNDATION:
            path = PACKAGE / f"{part}.py"
            if path.exists():
                for line, other in own_parts(path):
                    assert other in FOUNDATION, f"{path}:{line}: {part} imports {other}"

    def test_nothing_imports_scripts_or_tests(self):
        for path in sources(PACKAGE):
            for line, name in imports(path):
                assert name.split(".")[0] not in {"scripts", "tests", "conftest"}, f"{path}:{line}"
