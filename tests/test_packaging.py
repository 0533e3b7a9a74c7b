"""The folders at the top are the packages dmat.strategies and dmat.properties, here and in a wheel."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from dmat import properties, strategies
from dmat.properties import FAMILIES, FUSED_FAMILIES

ROOT = Path(__file__).resolve().parents[1]
TOPS = {"dmat": "dmat", "strategies": "dmat.strategies", "properties": "dmat.properties"}


def test_names() -> None:
    """The packages are the folders at the top, and the links inside dmat/ lead there."""
    for name, module in {"strategies": strategies, "properties": properties}.items():
        assert module.__file__ is not None
        assert Path(module.__file__).resolve().parent == ROOT / name
        assert os.readlink(ROOT / "dmat" / name) == f"../{name}"


def test_no_package_is_left_out() -> None:
    """pyproject.toml names every package there is."""
    shipped = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = set()
    for top, name in TOPS.items():
        for folder, _, files in os.walk(ROOT / top):  # follows no link
            if "__init__.py" in files:
                found.add(".".join([name, *Path(folder).relative_to(ROOT / top).parts]))
    assert shipped == found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the names in a wheel, built from a copy in which git made no links."""
    copy = tmp_path_factory.mktemp("source") / "dmat"
    names = ("dmat", "strategies", "properties")
    for name in names:
        ignore = shutil.ignore_patterns("__pycache__", "strategies", "properties")
        shutil.copytree(ROOT / name, copy / name, ignore=ignore if name == "dmat" else None)
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, copy)
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", build], cwd=copy, capture_output=True, text=True, check=True
    )
    return zipfile.ZipFile(copy / done.stdout.split()[-1]).namelist()


def test_the_wheel_is_whole(wheel: list[str]) -> None:
    """Every Python file and data file is in the wheel, under dmat."""
    for top, name in TOPS.items():
        for folder, _, files in os.walk(ROOT / top):
            inside = Path(*name.split("."), Path(folder).relative_to(ROOT / top))
            for file in files:
                if file.endswith((".py", ".json", ".ini", ".jinja", ".css", ".js", "py.typed")):
                    assert (inside / file).as_posix() in wheel


def test_the_wheel_claims_no_other_name(wheel: list[str]) -> None:
    """Nothing but dmat is installed at the top, where users have folders of the same names."""
    assert {name.split("/")[0] for name in wheel if ".dist-info" not in name} == {"dmat"}


def test_the_plugin_is_light() -> None:
    """The plugin is imported in every pytest run of a user's: without torch, numpy, Hypothesis, flint."""
    code = (
        "import sys, dmat.testing.plugin; "
        "print(*({'torch', 'numpy', 'hypothesis', 'flint', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_family_is_named() -> None:
    """A file of laws that FAMILIES does not name would not be reported."""
    files = {path.stem for path in (ROOT / "properties").glob("test_*.py")}
    assert files == {f"test_law_{family}" for family in (*FAMILIES, *FUSED_FAMILIES)}


def imports(file: Path) -> set[str]:
    """Return the modules of dmat that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import in {file}"
            assert node.module is not None
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] == "dmat"}


HEADS = "dmat.strategies.recipes.heads"  # which value heads read which key head, in a recipe as in its truth


@pytest.mark.parametrize(
    ("files", "allowed"),
    [
        ("strategies/**/*.py", "dmat.strategies"),
        ("dmat/testing/contract/*.py", ("dmat.testing.contract", "dmat.testing.errors")),
        (
            "dmat/testing/oracle/*.py",
            ("dmat.testing.oracle", "dmat.testing.contract", "dmat.strategies.promised", HEADS),
        ),
        (
            "dmat/testing/bounds/*.py",
            ("dmat.testing.bounds", "dmat.testing.oracle", "dmat.testing.contract", HEADS),
        ),
        ("dmat/pages.py", "nothing"),
        ("dmat/torch_kernels.py", "dmat.pages"),
        ("dmat/segments.py", ("dmat.torch_kernels", "dmat.triton_kernels")),
        ("dmat/triton_kernels.py", "nothing"),
        ("dmat/operator.py", "dmat.segments"),
        ("dmat/reference.py", "dmat.operator"),
    ],
)
def test_arrows_point_one_way(files: str, allowed: str | tuple[str, ...]) -> None:
    """The operator, the strategies and the oracle do not know each other."""
    found = list(ROOT.glob(files))
    assert found
    for file in found:
        assert {name for name in imports(file) if not name.startswith(allowed)} == set()
