"""The tasks of worker processes, by name. A process loads torch only after it has chosen its GPU."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from dmat.testing.fuzzing.messages import Setup
from dmat.testing.processes import end_with_parent, lock

Task = Literal["begin", "lay_out", "take", "once_more", "mourn", "settle", "compare"]

_locks: list[FileLock] = []  # that this process keeps until its end


def start(setup: Setup) -> None:
    """Become a process of the run: a GPU of its own, then torch and all that worker.py has."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's: it lets turns be counted
    end_with_parent()  # nobody would hear of its turns
    if Path(setup.where).is_dir():  # another machine may have it elsewhere
        os.chdir(setup.where)
    if setup.devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = setup.devices[_place(setup) % len(setup.devices)]
    do("begin", setup)


def do(task: Task, *arguments: Any) -> Any:
    """Call the function of worker.py that has the task's name, in a process of the run."""
    from dmat.testing.fuzzing import worker

    return getattr(worker, task)(*arguments)


def _place(setup: Setup) -> int:
    """Return the lowest number that no living process of this run has: locks end with their process."""
    number = 0
    while (place := lock(Path(setup.journals) / f"place-{number}")) is None:
        number += 1
    _locks.append(place)
    return number
