"""Processes that die, hang or exit early, and locks between processes."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmat.testing import processes
from dmat.testing.errors import Died, NotEnded, OutOfTime
from dmat.testing.processes import Send, apart, claim, died_of, lock

CALLS: dict[str, Callable[[], Any]] = {
    "reads nowhere": lambda: ctypes.string_at(0),
    "aborts": os.abort,
    "terminates": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "interrupts": lambda: os.kill(os.getpid(), signal.SIGINT),
    "leaves": lambda: os._exit(7),
    "exits": lambda: sys.exit(3),
    "exits in order": sys.exit,
    "exits with a text": lambda: sys.exit("no more"),
    "holds Python": lambda: ctypes.PyDLL(None).sleep(1000),
    "waits in a thread": lambda: threading.Thread(target=time.sleep, args=(1000,)).start(),
    "prints": lambda: print("printed"),
    "works in steps": lambda: None,
}


class Unpicklable(Exception):
    """An error that pickle writes, and cannot read."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def served(name: str, tell: Send) -> str:
    """Send that the call begins, and make it."""
    tell("begun")
    if name == "raises":
        raise Unpicklable("of", "two")
    for _ in range(4 if name == "works in steps" else 0):
        time.sleep(0.5)
        tell("a step")
    CALLS[name]()
    return "ended"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("reads nowhere", -signal.SIGSEGV),
        ("aborts", -signal.SIGABRT),
        ("terminates", -signal.SIGTERM),
        ("interrupts", 1),
        ("leaves", 7),
        ("exits", 3),
        ("exits in order", 0),
        ("exits with a text", 1),
    ],
)
def test_a_death_is_told(name: str, code: int) -> None:
    """A process that ends without a result is told by its exit code, after all that it told."""
    heard: list[str] = []
    with pytest.raises(Died, match=f"^exit code {code}$"):
        apart(served, name, heard=heard.append)
    assert heard == ["begun"]


def test_an_error_is_told_by_its_text() -> None:
    """What the function raises need not be pickled."""
    with pytest.raises(RuntimeError, match=r"^Unpicklable: of two$"):
        apart(served, "raises", heard=lambda told: None)


def test_no_process_is_waited_for_in_vain() -> None:
    """One that holds Python ends at its limit; one that leaves a thread behind ends with its result."""
    began = time.monotonic()
    with pytest.raises(OutOfTime):
        apart(served, "holds Python", heard=lambda told: None, seconds=2)
    assert apart(served, "waits in a thread", heard=lambda told: None, seconds=60) == "ended"
    assert time.monotonic() - began < 60


def test_the_limit_starts_again() -> None:
    """A process has as many seconds as `heard` returns, from then on."""
    assert apart(served, "works in steps", heard=lambda told: 1.5, seconds=60) == "ended"
    with pytest.raises(OutOfTime):
        apart(served, "works in steps", heard=lambda told: None if told == "begun" else 0.2, seconds=60)


def test_what_it_prints_is_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing of a kernel's output mixes with the report."""
    apart(served, "prints", heard=lambda told: None)
    assert capfd.readouterr() == ("", "")


def test_nothing_outlives_the_parent() -> None:
    """A process that hangs ends when the process that waits for it is killed."""
    code = (
        "from dmat.testing.processes import apart\n"
        "from tests.test_processes import hangs\n"
        "apart(hangs, heard=lambda told: print(told, flush=True))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


def hangs(tell: Send) -> None:
    tell(os.getpid())
    time.sleep(1000)


def test_a_call_in_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signals of memory are named, others are not; a call that holds Python did not end."""
    assert died_of(CALLS["reads nowhere"]) == "SIGSEGV"
    assert died_of(CALLS["terminates"]) is None
    assert died_of(lambda: None) is None
    monkeypatch.setattr(processes, "PATIENCE", 1)
    with pytest.raises(NotEnded, match="did not end in 1 s"):
        died_of(CALLS["holds Python"])


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    """One process has a lock; the next has it when that one releases it, or is killed."""
    file = tmp_path / "lock"
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from dmat.testing.processes import lock\n"
        "taken = lock(Path(sys.argv[1]))\n"
        "print(taken is not None, flush=True)\n"
        "time.sleep(1000)\n"
    )
    ours = lock(file)
    assert ours is not None
    assert lock(file) is None
    ours.release()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert lock(file) is None
        other.kill()
    assert lock(file) is not None


def test_a_file_is_claimed_once(tmp_path: Path) -> None:
    """Of several that claim a file, one makes it; another file is free."""
    assert [claim(tmp_path / "a"), claim(tmp_path / "a"), claim(tmp_path / "b")] == [True, False, True]
