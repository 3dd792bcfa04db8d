"""How the package is laid out, and which part may import which."""

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
    "networks",
    "settings",
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
    "report",
    "pipeline",
    "commands",
)
FOUNDATION = {
    "batches", "cameras", "devices", "errors", "files", "light", "machine", "progress"
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
    @pytest.mark.parametrize("name", ["kernels", "configs"])
    def test_top_level_links_to_the_package(self, name):
        """A checkout without symbolic links has a small text file there, and works."""
        if (ROOT / name).is_symlink():
            assert (ROOT / name).resolve() == PACKAGE / name
        # With an `__init__.py` it would hide other people's package of that name.
        assert not (PACKAGE / name / "__init__.py").exists()

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
        folders = [ROOT / name for name in ("igspad_jax", "scripts", "tests")]
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
        assert parts == {*STAGES, *FOUNDATION, "kernels", "configs"}, (
            "give the new part a place in this test"
        )

    @pytest.mark.parametrize("stage", STAGES)
    def test_stages_import_only_earlier_ones(self, stage):
        allowed = {*FOUNDATION, "kernels", *STAGES[: STAGES.index(stage) + 1]}
        for path in files_of(stage):
            for line, part in own_parts(path):
                assert part in allowed, f"{path}:{line}: {stage} imports {part}"

    def test_kernels_are_leaves(self):
        for path in sources(PACKAGE / "kernels"):
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
