"""Kernels that crash or hang: the run still ends, names the case, and every other law reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dmat.strategies import Constant, Gates
from dmat.testing.errors import DidNotEnd
from dmat.testing.run.journal import Journal, JournalLine, left_behind, note_outcome

CONTRACT = "@implementation(dtypes=('float32',), max_seq=2, special_values=(), differentiable=False)"
KERNELS = f"""
import ctypes, os, signal
import torch
from dmat.reference import masked_cumulative_sum as dtilde
from dmat.testing import implementation

def only_on(i, f):  # a case of one law's ladder, which hardly any search draws
    return i.shape == (1, 1, 2, 1) and bool((i == 128).all())

{CONTRACT}
def aborts(i, f):
    if only_on(i, f):
        os.abort()
    return dtilde(i, f)

{CONTRACT}
def loops(i, f):
    while only_on(i, f):
        pass
    return dtilde(i, f)

{CONTRACT}
def hangs_outside_python(i, f):
    if only_on(i, f):
        mutex, libc = ctypes.create_string_buffer(64), ctypes.PyDLL(None)  # which keeps Python's own lock
        for _ in range(2):
            libc.pthread_mutex_lock(mutex)
    return dtilde(i, f)

{CONTRACT}
def always_loops(i, f):
    while True:
        pass

{CONTRACT}
def allocates(i, f):
    if only_on(i, f):
        return torch.empty(2**40, dtype=torch.uint8)
    return dtilde(i, f)
"""
CULPRIT = "gates = Gates('float32', (1, 1, 2), igate=Constant(128.0), fgate=Constant(-64.0))"
FOUND = {
    "aborts": "the process died while it called kernels.py:aborts, float32 on cpu:",
    "loops": "no result within the time limit",
    "hangs_outside_python": "no result in 2 s while it called kernels.py:hangs_outside_python",
    "always_loops": "no result within the time limit",
    "allocates": "raised RuntimeError",
}


RUNS = (("aborts", "hangs_outside_python"), ("loops", "always_loops", "allocates"))


@pytest.mark.parametrize("names", RUNS, ids=" ".join)
def test_kernels_that_end_no_call(names: tuple[str, ...], tmp_path: Path) -> None:
    """Exit 1; each law that met the case failed, names it and keeps it; every other reports."""
    (tmp_path / "kernels.py").write_text(KERNELS)
    command = [sys.executable, "-m", "dmat.testing.cli", "check", *(f"kernels.py:{name}" for name in names)]
    command += ["--time-limit", "2", "-n", "2", "--json", "r.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    for name, report in zip(names, json.loads((tmp_path / "r.json").read_text()), strict=True):
        require_named(name, report["laws"], tmp_path)


def require_named(name: str, laws: list[dict[str, Any]], folder: Path) -> None:
    failed = [law for law in laws if law["status"] == "failed"]
    assert failed
    assert {law["status"] for law in laws if law["promised"]} <= {"failed", "passed"}
    for law in failed:
        assert FOUND[name] in law["reason"]
        assert law["case"] in law["reason"].replace("\n  ", "\n")
        assert (folder / law["folder"] / "case.json").is_file()
    if name != "always_loops":
        assert any(CULPRIT in law["case"] for law in failed)
        assert "passed" in {law["status"] for law in laws}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, limit=0.2)


ENTRY = JournalLine("node", "values", "k.py:f", "float32", "cpu", "all", 0.2)
CASE = {"gates": Gates("float32", (1, 1, 2), fgate=Constant(-1.0))}


def test_what_is_being_tried_is_on_disk(journal: Journal, tmp_path: Path) -> None:
    """While a case is tried it can be read from without; after the law nothing is left behind."""
    with journal.of(ENTRY), journal.trying(CASE):
        entry = left_behind(tmp_path, "node")
        assert entry is not None
        assert entry.case is not None
        assert left_behind(tmp_path, "another") is None
    assert left_behind(tmp_path, "node") is None


def test_an_example_that_takes_too_long_is_ended(journal: Journal, tmp_path: Path) -> None:
    """Beyond the limit a loop of Python's is ended, and all processes wait less for that implementation."""
    long = Journal(tmp_path, limit=60.0)
    assert long.limit_for("k.py:f") == 60.0

    def loop() -> None:
        with journal.of(ENTRY), journal.trying(CASE):
            while True:
                pass

    with pytest.raises(DidNotEnd):
        loop()
    assert long.limit_for("k.py:f") == 10.0
    assert long.limit_for("k.py:f", expensive=True) == 300.0
    assert long.limit_for("another") == 60.0


def test_a_fate_of_the_plainest_call_is_told_to_all(journal: Journal, tmp_path: Path) -> None:
    """The plainest call that killed one process is made by no other of the same dtype and device."""
    with journal.of(ENTRY):
        assert journal.smoke_call_outcome is None
        with journal.trying(CASE, plainest=True):
            entry = left_behind(tmp_path, "node")
        assert entry is not None
        note_outcome(tmp_path, entry, "died")
        assert journal.smoke_call_outcome == "died"
