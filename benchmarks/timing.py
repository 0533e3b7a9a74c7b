"""Times of several calls, interleaved: one round calls each once, so that a busy machine is busy for all."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from dmat.testing.devices import has, module_of, synchronize

Call = Callable[[], Any]


@dataclass(frozen=True)
class Times:
    """Seconds of the rounds of one call."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """Half of the rounds took less."""
        return median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter took less than the first, a quarter more than the second."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        low, _, high = quantiles(self.seconds, n=4)
        return low, high


def interleaved(calls: dict[str, Call], budget: float, device: str) -> dict[str, Times]:
    """Time all calls in turns until `budget` seconds are spent, five rounds at least.

    What a call returns is dropped before the next one starts: a new output is new memory for all alike.
    """
    clock = _by_events(device) if has(device, "Event") else _by_the_clock(device)
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names, end, rounds = list(calls), time.monotonic() + budget, 0
    while rounds < 5 or time.monotonic() < end:
        for name in names[rounds % len(names) :] + names[: rounds % len(names)]:
            seconds[name].append(clock(calls[name]))
        rounds += 1
    return {name: Times(found) for name, found in seconds.items()}


def _by_the_clock(device: str) -> Callable[[Call], float]:
    def seconds(call: Call) -> float:
        synchronize(device)
        start = time.perf_counter()
        result = call()
        synchronize(device)
        taken = time.perf_counter() - start
        del result
        return taken

    return seconds


def _by_events(device: str) -> Callable[[Call], float]:
    def seconds(call: Call) -> float:
        start, end = (module_of(device).Event(enable_timing=True) for _ in "se")
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    return seconds
