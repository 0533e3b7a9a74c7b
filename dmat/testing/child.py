"""A call in a process of its own: a kernel that crashes or hangs there takes nothing else along."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

Tell = Callable[[Any], None]


class Died(Exception):
    """The process ended before it had a result."""


class OutOfTime(Exception):
    """The process had no result in time, and was ended."""


def apart(function: Callable[..., Any], *arguments: Any, heard: Tell, seconds: float | None = None) -> Any:
    """Return function(*arguments, tell), called in a new process; `heard` gets all that it tells.

    The function, its arguments, what it tells and what it returns are pickled. What it prints is
    dropped. Raises Died, OutOfTime after so many seconds, RuntimeError where the function raises.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a process that has used CUDA has none
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, function, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        return _listen(ours, heard, None if seconds is None else time.monotonic() + seconds)
    except EOFError:
        process.join()
        raise Died(f"exit code {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
        ours.close()


def _listen(ours: Connection, heard: Tell, until: float | None) -> Any:
    while True:
        if not ours.poll(None if until is None else max(0.0, until - time.monotonic())):
            raise OutOfTime
        kind, value = ours.recv()
        if kind == "result":
            return value
        if kind == "raised":
            raise RuntimeError(value)
        heard(value)


def _serve(theirs: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Call the function, and send what it tells and what became of it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    try:
        result = function(*arguments, lambda told: theirs.send(("told", told)))
    except Exception as error:
        theirs.send(("raised", f"{type(error).__name__}: {error}"))
    else:
        theirs.send(("result", result))
