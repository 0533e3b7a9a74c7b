"""Whether kernels run in Triton's interpreter. Child processes inherit the choice by the environment."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Annotated, TypeVar

from msgspec import Meta, Struct

from dmat.testing.errors import CannotRun

TRITON = "3.7.1"  # the version whose private functions are patched


ASKED = "DMAT_INTERPRET"  # the environment variable of an interpreting process: number of the autotune config


EXAMPLES = 5  # random cases for each law and dtype: an interpreted case takes 100 to 1000 times as long


LADDER = 16  # canonical cases for each law and dtype, evenly spread from the first to the last


# CPU seconds for each law and dtype: after them no further case of its ladder, or of its search, is begun.
LADDER_SECONDS, SEARCH_SECONDS = 8.0, 4.0


TIME_LIMIT = 600.0  # default limit in seconds for each example


UNSEEN = (
    "races, warps and stages, the architecture, fast exponentials and real tensor cores were not seen;"
    " a pass here is no pass on the device."
)


CONFIGS = {1}  # how many configs each autotuned kernel has that was interpreted in this process


T = TypeVar("T")


def config_index() -> int | None:
    """Return the number of the autotune config if this process interprets Triton, else None."""
    number = os.environ.get(ASKED, "")
    return int(number) if number.isdigit() else None


def is_interpreted() -> bool:
    """Return whether this process interprets Triton."""
    return config_index() is not None


def spread(cases: Iterable[T]) -> list[T]:
    """Return the cases; in a process that interprets Triton, at most LADDER of them, evenly spread.

    There the first and the last come first, then the second and the last but one: time may end the ladder.
    """
    all_ = list(cases)
    if not is_interpreted():
        return all_
    if len(all_) > LADDER:
        all_ = [all_[n * (len(all_) - 1) // (LADDER - 1)] for n in range(LADDER)]
    return [all_[n // 2 if n % 2 == 0 else -1 - n // 2] for n in range(len(all_))]


def in_time(seconds: float) -> Callable[[], bool]:
    """Return a function that tells whether this process has used fewer CPU seconds since now.

    Always True in a process that does not interpret Triton.
    """
    until = time.process_time() + seconds if is_interpreted() else math.inf
    return lambda: time.process_time() < until


def _environment(config: int) -> dict[str, str]:
    """Return the environment variables of a process that interprets Triton.

    torch.compile is disabled, because inductor does not work in the interpreter. Compiled functions run
    eagerly.
    """
    return {ASKED: str(config), "TRITON_INTERPRET": "1", "TORCHDYNAMO_DISABLE": "1"}


def ask(config: int) -> None:
    """Make this process, and those that it starts, interpret Triton. Call it before triton is imported."""
    os.environ |= _environment(config)


@contextmanager
def asking(config: int | None) -> Iterator[None]:
    """Make all processes that are started in this context interpret Triton. None: change nothing."""
    before = {name: os.environ.get(name) for name in _environment(config or 0)}
    try:
        if config is not None:
            require_triton()
            ask(config)
        yield
    finally:
        for name, value in before.items() if config is not None else ():
            os.environ.pop(name, None)
            os.environ |= {} if value is None else {name: value}


@contextmanager
def configured(config: int) -> Iterator[None]:
    """Let this process, which interprets Triton, run the autotune config of this number in this context."""
    before = os.environ[ASKED]
    try:
        os.environ[ASKED] = str(config)
        yield
    finally:
        os.environ[ASKED] = before


class Interpreter(Struct, frozen=True, forbid_unknown_fields=True):
    """Triton's interpreter, that the kernels ran in: its version, and the number of the autotune config."""

    triton: str
    config: Annotated[int, Meta(ge=0)]


def interpreter_record() -> Interpreter | None:
    """Return the interpreter's record for a report, or None if this process does not interpret Triton."""
    config = config_index()
    return None if config is None else Interpreter(TRITON, config)


def caveat(interpreter: Interpreter) -> str:
    """Return the line of a report that says what an interpreter cannot test."""
    version = f"triton {interpreter.triton}, autotune config {interpreter.config}"
    return f"In Triton's interpreter ({version}): {UNSEEN}"


def require_triton() -> None:
    """Raise CannotRun with a one-line message unless Triton has the version TRITON."""
    try:
        found = metadata.version("triton")
    except metadata.PackageNotFoundError:
        raise CannotRun("interpreting needs triton: pip install 'dmat[interpret]'") from None
    if found != TRITON:
        raise CannotRun(
            f"interpreting needs triton {TRITON}, and {found} is here: pip install 'dmat[interpret]'"
        )
