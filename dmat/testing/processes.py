"""Processes that may die or hang in a kernel, and locks between processes. Loads no torch.

`apart` calls a function in a new process and hears what it tells. `died_of` makes a call in a fork and names
the signal that killed it. `end_with_parent` leaves no process behind. `lock` locks a file.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pebble import ProcessExpired, ProcessFuture, concurrent

from dmat.testing.errors import Died, NotEnded, OutOfTime

SPAWN = multiprocessing.get_context("spawn")  # a fork of a process that has used CUDA has no CUDA


SIGNALS_OF_MEMORY = (signal.SIGSEGV, signal.SIGBUS) if sys.platform != "win32" else ()


PATIENCE = 10  # seconds that a call in a fork may take: one that hangs proves nothing


LAST_WORDS = 5.0  # seconds to wait for the end of a process that Pebble ends


PR_SET_PDEATHSIG = 1  # linux/prctl.h


Tell = Callable[[Any], None]


Heard = Callable[[Any], float | None]


# A function in a new process


def apart(function: Callable[..., Any], *arguments: Any, heard: Heard, seconds: float | None = None) -> Any:
    """Return function(*arguments, tell), called in a new process; `heard` gets all that it tells.

    seconds: how long the process may take. Where `heard` returns a number, the process has that many seconds
    from then on. The function, its arguments, what it tells and what it returns are pickled. What it prints
    is dropped. Raises Died, OutOfTime, or RuntimeError where the function raises.
    """
    ours, theirs = SPAWN.Pipe(duplex=False)
    future: ProcessFuture[Any] = concurrent.process(context=SPAWN)(_serve)(theirs, function, arguments)  # type: ignore[call-overload]
    theirs.close()
    try:
        _hear(ours, heard, seconds)
        return future.result()
    except ProcessExpired as death:
        raise Died(f"exit code {death.exitcode}") from None
    finally:
        future.cancel()  # type: ignore[no-untyped-call]  # Pebble ends the process, if it has not ended
        with suppress(EOFError, OSError):
            while ours.poll(LAST_WORDS):
                ours.recv()
        ours.close()


def _hear(ours: Connection, heard: Heard, seconds: float | None) -> None:
    """Pass on what the process tells until it ends. Raises OutOfTime.

    Not by Pebble: its processes tell nothing before they end, and its time limit does not start again.
    """
    until = None if seconds is None else time.monotonic() + seconds
    while ours.poll(None if until is None else max(0.0, until - time.monotonic())):
        try:
            told = ours.recv()
        except (EOFError, OSError):  # the latter in the middle of a message
            return
        more = heard(told)
        until = until if more is None else time.monotonic() + more
    raise OutOfTime


def _serve(theirs: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call the function in this process, which ends as it would without Pebble."""
    end_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Pebble's handler exits with 15, and needs Python to run
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _drop_output()
    try:
        return function(*arguments, theirs.send)
    except Exception as error:  # not every user's error can be pickled
        raise RuntimeError(f"{type(error).__name__}: {error}") from None
    except SystemExit as leaving:  # Pebble would return it as an error
        code = 0 if leaving.code is None else leaving.code
        os._exit(code if isinstance(code, int) else 1)
    except BaseException:
        os._exit(1)


def _drop_output() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def end_with_parent() -> None:
    """Have Linux end this process when the thread that started it is gone."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


# A call in a fork


def dies(call: Callable[[], object]) -> int:
    """Return the signal that kills a child process in which the call is made, or 0."""
    child = os.fork()
    if child == 0:
        try:
            call()
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def died_of(call: Callable[[], object]) -> str | None:
    """Make the call in a fork; return the name of the signal of memory that killed it, or None.

    Raises NotEnded where it did not end in PATIENCE seconds, as code with threads of its own may not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of a fork with threads: this child only makes the call
        killed = dies(lambda: _make(call))  # not by Pebble: repro scripts fork in the same way, without it
    if killed == signal.SIGALRM:
        raise NotEnded(f"the call did not end in {PATIENCE} s in a process of its own")
    return signal.Signals(killed).name if killed in SIGNALS_OF_MEMORY else None


def _make(call: Callable[[], object]) -> None:
    """Make the call with no output and no handler; an alarm ends this process after PATIENCE seconds."""
    for deadly in (*SIGNALS_OF_MEMORY, signal.SIGALRM):
        signal.signal(deadly, signal.SIG_DFL)
    signal.alarm(PATIENCE)
    _drop_output()
    call()


# Locks


def lock(file: Path) -> FileLock | None:
    """Return the lock of this file, or None where another process has it.

    The lock ends when it is released, when nothing refers to it, and with the process.
    """
    taken = FileLock(file)
    try:
        taken.acquire(timeout=0)
    except Timeout:
        return None
    return taken
