"""Choose the number of processes of a run and their GPUs, before any process initialises CUDA."""

from __future__ import annotations

import os
import subprocess

from dmat.testing.errors import NoFuzzing

EACH = 8 * 2**10  # MiB per process: CUDA context, long cases, and a share for cases that fill memory


def processors() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible() -> tuple[str, ...]:
    """Return the entries of the caller's CUDA_VISIBLE_DEVICES or, if it is unset, all GPUs of the driver."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return tuple(entry.strip() for entry in listed.split(",") if entry.strip() not in ("", "-1"))
    return tuple(index for index, _ in _free())


def _free() -> list[tuple[str, int]]:
    """Return (index, free MiB) of each GPU. Calls nvidia-smi, which creates no CUDA context."""
    query = ["nvidia-smi", "--query-gpu=index,memory.free", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (line.split(",") for line in listed.splitlines() if line.count(",") == 1)
    return [(index.strip(), int(free)) for index, free in rows if free.strip().isdigit()]


def processes(asked: int | None, gpus: tuple[str, ...]) -> tuple[int, int]:
    """Return the number of processes, and the number per GPU. GPU memory limits both.

    asked: value of -n. gpus: empty for a run on the CPU. Raises NoFuzzing if a GPU has no memory for one
    process.
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
