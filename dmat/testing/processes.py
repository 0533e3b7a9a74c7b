"""Processes that may die or hang in a kernel, and locks between processes. Loads no torch.

`apart` calls a function in a new process and passes on the messages that the process sends. `died_of` makes a
call in a fork and returns the name of the signal that killed the fork. `end_with_parent` ends a process when
its parent ends. `lock` locks a file.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout
from pebble import ProcessExpired, ProcessFuture, concurrent

from dmat.testing.errors import Died, NotEnded, OutOfTime

SPAWN = multiprocessing.get_context("spawn")  # a fork of a process that has used CUDA has no CUDA


SIGNALS_OF_MEMORY = (signal.SIGSEGV, signal.SIGBUS) if sys.platform != "win32" else ()


PATIENCE = 10  # seconds that a call in a fork may take; a call that hangs proves nothing


LAST_WORDS = 5.0  # seconds to wait until a process ended by Pebble is gone


PR_SET_PDEATHSIG = 1  # linux/prctl.h


Send = Callable[[Any], None]


Heard = Callable[[Any], float | None]


class Run(Protocol):
    """How a function is called that tries a kernel: `apart` or `here`."""

    def __call__(
        self, function: Callable[..., Any], *arguments: Any, heard: Heard, seconds: float | None = None
    ) -> Any:
        """Return function(*arguments, tell)."""


# A function in a new process

_FIRST: list[tuple[Callable[..., object], tuple[Any, ...]]] = []  # what each new process calls first


@contextmanager
def preparing(function: Callable[..., object], *arguments: Any) -> Iterator[None]:
    """Let each process that `apart` starts in this context call function(*arguments) first. It is pickled."""
    _FIRST.append((function, arguments))
    try:
        yield
    finally:
        _FIRST.pop()


def apart(function: Callable[..., Any], *arguments: Any, heard: Heard, seconds: float | None = None) -> Any:
    """Return function(*arguments, tell), called in a new process. `heard` receives each message.

    The function sends a message by calling `send`. seconds: time limit of the process. If `heard` returns a
    number, the process has that many seconds from then on. The function, its arguments, its messages and its
    result are pickled. Output that the process prints is dropped. Raises Died if the process ends without a
    result, OutOfTime at the time limit, and RuntimeError if the function raises.
    """
    ours, theirs = SPAWN.Pipe(duplex=False)
    start: Any = concurrent.process(context=SPAWN)  # type: ignore[call-overload]
    future: ProcessFuture[Any] = start(_serve)(theirs, list(_FIRST), function, arguments)
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
    """Pass each message of the process to `heard` until the process ends. Raises OutOfTime.

    Pebble cannot do this: its processes send no messages before they end, and its time limit cannot be
    restarted.
    """
    until = None if seconds is None else time.monotonic() + seconds
    while ours.poll(None if until is None else max(0.0, until - time.monotonic())):
        try:
            message = ours.recv()
        except (EOFError, OSError):  # OSError: the process ended in the middle of a message
            return
        more = heard(message)
        until = until if more is None else time.monotonic() + more
    raise OutOfTime


def _serve(
    theirs: Connection,
    first: list[tuple[Callable[..., object], tuple[Any, ...]]],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> Any:
    """Call the function in this process. The process ends with the exit code it would have without Pebble."""
    end_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Pebble's handler exits with 15, and needs Python to run
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _drop_output()
    try:
        for prepare, its in first:
            prepare(*its)
        return function(*arguments, theirs.send)
    except Exception as error:  # some exceptions of users' code cannot be pickled
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
    """Let Linux kill this process when the thread that started it ends. Does nothing on other systems."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def here(function: Callable[..., Any], *arguments: Any, heard: Heard, seconds: float | None = None) -> Any:
    """Return function(*arguments, tell), called in this process, and raise what `apart` raises.

    After the time limit the function's next message raises OutOfTime.
    """
    until = None if seconds is None else time.monotonic() + seconds

    def send(message: Any) -> None:
        nonlocal until
        if until is not None and time.monotonic() > until:
            raise OutOfTime
        more = heard(message)
        until = until if more is None else time.monotonic() + more

    try:
        return function(*arguments, send)
    except OutOfTime:
        raise
    except Exception as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


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
    """Make the call in a fork. Return the name of the memory signal that killed the fork, or None.

    Memory signals are SIGSEGV and SIGBUS. Raises NotEnded if the call takes more than PATIENCE seconds: a
    call that uses threads may hang in a fork.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of a fork with threads: this child only makes the call
        killed = dies(lambda: _make(call))  # not by Pebble: repro scripts use `dies` without Pebble
    if killed == signal.SIGALRM:
        raise NotEnded(f"the call did not end in {PATIENCE} s in a process of its own")
    return signal.Signals(killed).name if killed in SIGNALS_OF_MEMORY else None


def _make(call: Callable[[], object]) -> None:
    """Make the call without output and without signal handlers. SIGALRM ends it after PATIENCE seconds."""
    for deadly in (*SIGNALS_OF_MEMORY, signal.SIGALRM):
        signal.signal(deadly, signal.SIG_DFL)
    signal.alarm(PATIENCE)
    _drop_output()
    call()


# Locks


def claim(file: Path) -> bool:
    """Make the file. Return whether this process made it: of several processes, exactly one does."""
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def lock(file: Path) -> FileLock | None:
    """Lock the file and return the lock, or None if another process holds it.

    The lock ends when it is released, when it is garbage-collected, or when the process ends.
    """
    taken = FileLock(file)
    try:
        taken.acquire(timeout=0)
    except Timeout:
        return None
    return taken
