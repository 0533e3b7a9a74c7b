"""How many processes a run has, and which GPUs they are spread over, before any of them starts CUDA."""

from __future__ import annotations

import os
import subprocess

from dmat.testing.errors import NoFuzzing

EACH = 8 * 2**10  # MiB that a process is given: its context, long cases, a share for those that fill memory


def processors() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible() -> tuple[str, ...]:
    """Return the caller's GPUs as entries of CUDA_VISIBLE_DEVICES, or all that the driver names."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return tuple(entry.strip() for entry in told.split(",") if entry.strip() not in ("", "-1"))
    return tuple(index for index, _ in _free())


def _free() -> list[tuple[str, int]]:
    """Return (index, MiB that are free) of each GPU, by the driver's own tool: no context is made."""
    query = ["nvidia-smi", "--query-gpu=index,memory.free", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (line.split(",") for line in told.splitlines() if line.count(",") == 1)
    return [(index.strip(), int(free)) for index, free in rows if free.strip().isdigit()]


def processes(asked: int | None, gpus: tuple[str, ...]) -> tuple[int, int]:
    """Return how many processes there are, and how many each GPU has, at most as many as its memory allows.

    asked: -n. gpus: none, for the CPU alone. NoFuzzing where memory does not allow one.
    """
    wanted = asked or max(processors(), len(gpus))
    if not gpus:
        return wanted, 1
    free = [mib for _, mib in _free()]
    each = min(free, default=EACH) // EACH
    if each < 1:
        raise NoFuzzing(f"a GPU has {min(free)} MiB free; a process takes {EACH}")
    count = min(wanted, each * len(gpus))
    return count, -(-count // len(gpus))
