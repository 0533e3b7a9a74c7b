"""The tasks of a run's processes, called by name, so that torch is loaded only after the GPU is chosen."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from dmat.testing.fuzzing.messages import Setup
from dmat.testing.processes import end_with_parent, lock

Task = Literal["begin", "lay_out", "take", "once_more", "settle_crash", "settle", "compare"]

_locks: list[FileLock] = []  # locks that this process holds until it ends


def start(setup: Setup) -> None:
    """Initialise a process of the run: choose its GPU, then load torch and worker.py."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which then collects the turns
    end_with_parent()  # without the run nobody reads its results
    if Path(setup.where).is_dir():  # the folder may be missing on another machine
        os.chdir(setup.where)
    if setup.devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = setup.devices[_process_number(setup) % len(setup.devices)]
    do("begin", setup)


def do(task: Task, *arguments: Any) -> Any:
    """Call the function of worker.py with the task's name. Runs in a process of the run."""
    from dmat.testing.fuzzing import worker

    return getattr(worker, task)(*arguments)


def _process_number(setup: Setup) -> int:
    """Return the lowest number that no living process of this run holds. A lock ends with its process."""
    number = 0
    while (place := lock(Path(setup.journals) / f"place-{number}")) is None:
        number += 1
    _locks.append(place)
    return number
