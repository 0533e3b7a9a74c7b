"""How fast the framework itself is: `dmat check` by law, and `dmat check --first` of wrong kernels."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

WRONG = (
    "examples/wrong_gradient.py:dtilde",
    "examples/cumsum_difference.py:dtilde",
    *(
        f"tests.zoo.named:{name}"
        for name in (
            "mask_of_1e9", "carry_forgotten", "batch_for_head", "half_sums", "tail_gradient_dropped",
            "window_one_late", "first_gate_read", "log_of_one_plus", "cached_by_shape", "nan_to_zero",
        )
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Law:
    """What one law cost: over all dtypes."""

    name: str
    examples: int
    seconds: float


def check() -> tuple[float, list[Law]]:
    """Seconds of `dmat check` of dmat's own operator, and what each law cost its workers."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        seconds = _seconds(["dmat:dtilde", "--json", str(report)], folder)
        records = json.loads(report.read_text())["laws"]
    costs: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for record in records:
        costs[record["law"]][0] += record["examples"]
        costs[record["law"]][1] += record["seconds"]
    laws = [Law(name, int(examples), seconds) for name, (examples, seconds) in costs.items()]
    return seconds, sorted(laws, key=lambda law: -law.seconds)


def first() -> dict[str, float]:
    """Seconds of `dmat check --first` of each wrong kernel that is there."""
    found = {}
    for target in track(WRONG, description="dmat check --first"):
        with tempfile.TemporaryDirectory() as folder:
            found[target] = _seconds(["--first", target, "--counterexamples", folder], folder)
    return found


def _seconds(arguments: list[str], folder: str) -> float:
    start = time.perf_counter()
    run = subprocess.run([sys.executable, "-m", "dmat.testing.cli", "check", *arguments], capture_output=True)
    if run.returncode not in (0, 1):
        raise RuntimeError(
            f"dmat check {' '.join(arguments)} ended with {run.returncode}: {run.stderr.decode()}"
        )
    return time.perf_counter() - start
