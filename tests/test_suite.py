"""dmat.testing.laws in a repository of a user's, with dmat as it is installed, and with other plugins."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

import dmat
from dmat.testing.python.suite import _settings

ROOT = Path(__file__).resolve().parents[1]

# The names of our folders, a profile of Hypothesis, an option, a strict ini, and a fixture of all tests.
FILES = {
    "strategies/__init__.py": "OURS = False\n",
    "properties/__init__.py": "OURS = False\n",
    "properties/test_law_values.py": "def test_law_values():\n    assert True\n",
    "kernels.py": """
import os
import dmat

def right(i, f):
    return dmat.dtilde(i, f)

def wrong(i, f):
    return dmat.dtilde(i, f) + 1

def dies(i, f):
    os.abort()
""",
    "conftest.py": """
import pytest
from hypothesis import settings

settings.register_profile("theirs", max_examples=3, derandomize=True)
settings.load_profile("theirs")

def pytest_addoption(parser):
    parser.addoption("--device")

@pytest.fixture(autouse=True)
def in_order(request):
    yield
""",
    "pytest.ini": """
[pytest]
addopts = --strict-markers --strict-config -p no:cacheprovider
python_files = test_*.py
testpaths = tests properties
filterwarnings = error
""",
    "tests/test_kernels.py": """\
import dmat.testing
import properties
import strategies
from kernels import right, wrong

test_right = dmat.testing.laws(right, dtypes=["float32"], examples=1)
test_wrong = dmat.testing.laws(wrong, dtypes=["float32"], profile="theirs", error_scope="prefix")


def test_folders():
    assert not strategies.OURS
    assert not properties.OURS
    assert "/site/" in dmat.__file__  # not that of this repository
""",
}


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Return a repository, and beside it `site`, where dmat is as a wheel has it."""
    for name, text in FILES.items():
        file = tmp_path / "foreign" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    shutil.copytree(ROOT / "dmat", tmp_path / "site" / "dmat", ignore=shutil.ignore_patterns("__pycache__"))
    info = tmp_path / "site" / "dmat-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dmat\nVersion: {dmat.__version__}\n")
    (info / "entry_points.txt").write_text("[pytest11]\ndmat = dmat.testing.plugin\n")
    return tmp_path / "foreign"


def run_pytest(foreign: Path, *arguments: str, expected: int) -> str:
    """Run pytest in the repository, and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(foreign.parent / "site")}
    command = [sys.executable, "-m", "pytest", "-v", *arguments]
    done = subprocess.run(command, cwd=foreign, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout


def outcomes(printed: str) -> dict[str, str]:
    """Return the outcome of each test by its id."""
    found = re.findall(r"^(?:\[gw\d\].*? )?(PASSED|FAILED|SKIPPED)? ?(\S+::\S+)(?: (\w+))?", printed, re.M)
    return {name: before or after for before, name, after in found if before or after}


def test_laws_of_a_foreign_suite(foreign: Path) -> None:
    """A law, dtype and device is a test of the user's own file, found by -k; it passes or fails."""
    chosen = "values or output_shape or folders"
    printed = run_pytest(foreign, "-k", chosen, "--dmat-counterexamples", "", expected=1)
    where = "tests/test_kernels.py::"
    assert outcomes(printed) == {
        f"{where}test_right[values-float32-cpu]": "PASSED",
        f"{where}test_right[output_shape-float32-cpu]": "PASSED",
        f"{where}test_wrong[values-float32-cpu]": "FAILED",
        f"{where}test_wrong[output_shape-float32-cpu]": "PASSED",
        f"{where}test_folders": "PASSED",
        "properties/test_law_values.py::test_law_values": "PASSED",
    }
    assert "values: Every entry is within the bound" in printed
    assert " <- " not in printed


def test_profiles(request: pytest.FixtureRequest) -> None:
    """Hypothesis' profile of the user counts only where the test names it; examples= goes before both."""
    before = settings.get_current_profile_name()
    settings.register_profile("theirs", settings.get_profile("default"), max_examples=3, derandomize=True)
    settings.load_profile("theirs")
    try:
        own, named, few = (
            _settings(request.config, examples, profile)
            for examples, profile in ((7, None), (7, "theirs"), (None, settings(max_examples=2)))
        )
    finally:
        settings.load_profile(before)
    assert (own.max_examples, own.derandomize) == (7, False)
    assert (named.max_examples, named.derandomize) == (7, True)
    assert (few.max_examples, few.derandomize) == (request.config.getoption("--dmat-examples") or 2, True)


def installed(foreign: Path, *packages: str) -> bool:
    """Install packages beside dmat. Return whether pip found them."""
    target = str(foreign.parent / "site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, *packages]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_foreign_repository(foreign: Path) -> None:
    """All laws run beside pytest-randomly and pytest-timeout, on all cores; --lf then runs what failed."""
    if not installed(foreign, "pytest-randomly", "pytest-timeout"):
        pytest.skip("no index of packages: pytest-randomly and pytest-timeout could not be installed")
    ini = foreign / "pytest.ini"
    ini.write_text(ini.read_text().replace("-p no:cacheprovider", "-n auto --timeout 300"))
    printed = run_pytest(foreign, "-p", "randomly", expected=1)
    assert "Using --randomly-seed" in printed
    found = outcomes(printed)
    failed = {name for name, outcome in found.items() if outcome == "FAILED"}
    assert failed
    assert "dmat.replay('counterexamples/values-float32-" in printed
    [kept] = (foreign / "counterexamples").glob("values-*")
    assert (kept / "repro.py").is_file()
    assert all("test_wrong" in name for name in failed)
    assert sum("test_right" in name and outcome == "PASSED" for name, outcome in found.items()) > 30
    assert outcomes(run_pytest(foreign, "--lf", expected=1)).keys() == failed


def test_a_kernel_that_dies(foreign: Path) -> None:
    """A kernel that ends a worker of xdist is named with its case, and the other tests run."""
    test = foreign / "tests" / "test_kernels.py"
    text = test.read_text().replace("import right,", "import dies, right,")
    test.write_text(text + '\n\ntest_dies = dmat.testing.laws(dies, dtypes=["float32"])\n')
    printed = run_pytest(foreign, "-n", "1", "-k", "values or output_shape", expected=1)
    assert "the process died while it called kernels.py:dies, float32 on cpu" in printed
    found = outcomes(printed)
    assert found["tests/test_kernels.py::test_right[values-float32-cpu]"] == "PASSED"
    assert "crashed worker gw1" not in printed  # the second law knows
    assert found["tests/test_kernels.py::test_dies[output_shape-float32-cpu]"] == "FAILED"


def test_without_the_plugin(foreign: Path) -> None:
    """Where plugins are not loaded by themselves, the laws run all the same."""
    printed = run_pytest(foreign, "-p", "no:dmat", "-k", "test_right and output_shape", expected=0)
    assert outcomes(printed) == {"tests/test_kernels.py::test_right[output_shape-float32-cpu]": "PASSED"}
