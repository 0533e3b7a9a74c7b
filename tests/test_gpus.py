"""Worker processes and GPUs: assigned before CUDA starts, as many as memory allows; the search profile."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import hypothesis.core
import pytest
from hypothesis import settings
from hypothesis.database import InMemoryExampleDatabase

from dmat.testing.errors import NoFuzzing
from dmat.testing.fuzzing import gpus
from dmat.testing.fuzzing.profile import fuzzing, require_fuzzing

DRIVER = """#!/bin/sh
printf '%s\\n' {lines}
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a driver's tool that tells of two GPUs, one of them nearly full."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(DRIVER.format(lines="'0, 80000' '1, 20000'"))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tool


def test_the_callers_gpus_are_used(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's CUDA_VISIBLE_DEVICES is indexed, whatever is in it; without it, all GPUs there are."""
    assert gpus.visible() == ("0", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-8f2")
    assert gpus.visible() == ("3", "GPU-8f2")
    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert gpus.visible() == ()


def test_no_more_processes_than_memory_allows(driver: Path) -> None:
    """The fullest GPU says how many processes each has; a full one ends the run before it begins."""
    assert gpus.processes(16, ("0", "1")) == (4, 2)
    assert gpus.processes(1, ("0", "1")) == (1, 1)
    driver.write_text(DRIVER.format(lines="'0, 900'"))
    with pytest.raises(NoFuzzing, match="900 MiB free"):
        gpus.processes(None, ("0",))


def test_every_process_has_a_place(tmp_path: Path) -> None:
    """Processes that start at once are spread over the GPUs; the place of one that is gone is free."""
    code = (
        "import os, sys, time\n"
        "from dmat.testing.fuzzing.messages import Setup\n"
        "from dmat.testing.fuzzing.tasks import start\n"
        "start(Setup(*[sys.argv[1]] * 4, 60.0, devices=('5', '7')))\n"
        "print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n"
        "sys.stdin.read()\n"
    )

    def begun() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def told(run: subprocess.Popen[str]) -> str:
        assert run.stdout is not None
        return run.stdout.readline().strip()

    first, second = begun(), begun()
    places = {told(first): first, told(second): second}
    assert set(places) == {"5", "7"}
    places["7"].kill()
    places["7"].communicate()
    third = begun()
    assert told(third) == "7"
    for run in (places["5"], third):
        run.kill()
        run.communicate()


# The profile


def test_every_field_of_the_profile_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No field is inherited, not even one that Hypothesis may yet have: all of them are named."""
    named: dict[str, object] = {}

    def spy(parent: settings, **fields: object) -> settings:
        named.update(fields)
        return settings(parent, **fields)  # type: ignore[arg-type]

    spy.get_profile = settings.get_profile  # type: ignore[attr-defined]
    monkeypatch.setattr("dmat.testing.fuzzing.profile.settings", spy)
    fuzzing(tmp_path)
    known = {
        name for name in inspect.signature(settings.__init__).parameters if name not in ("self", "parent")
    }
    assert set(named) == known


def test_a_users_profile_changes_nothing(tmp_path: Path) -> None:
    """Under a profile that is derandomised, of one example, without a database, searches are the same."""
    settings.register_profile("dull", derandomize=True, database=None, max_examples=1, phases=())
    before = settings.get_current_profile_name()
    usual = fuzzing(tmp_path)
    try:
        settings.load_profile("dull")
        dull = fuzzing(tmp_path)
    finally:
        settings.load_profile(before)
    assert repr(dull) == repr(usual)
    require_fuzzing(dull)
    assert dull.database is not None
    assert str(tmp_path.resolve()) in repr(dull.database)


def test_no_fuzzing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that repeats itself, or keeps nothing, and a seed given to Hypothesis, are errors."""
    for changed, why in (
        ({"derandomize": True, "database": None}, "derandomised"),
        ({"database": None}, "no example database"),
    ):
        with pytest.raises(NoFuzzing, match=why):
            require_fuzzing(settings(fuzzing(tmp_path), **changed))
    full = tmp_path / "full"
    full.write_text("a file, where a folder was to be")
    with pytest.raises(NoFuzzing, match="keeps nothing"):
        require_fuzzing(fuzzing(full))
    require_fuzzing(settings(fuzzing(tmp_path), database=InMemoryExampleDatabase()))
    monkeypatch.setattr(hypothesis.core, "global_force_seed", 3)
    with pytest.raises(NoFuzzing, match="a seed"):
        require_fuzzing(fuzzing(tmp_path))
