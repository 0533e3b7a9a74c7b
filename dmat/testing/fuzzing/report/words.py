"""The verdict and the figures of a fuzzing run, in words."""

from __future__ import annotations

from collections import Counter

from dmat.testing.fuzzing.report.entries import FuzzReport
from dmat.testing.interpret.choice import caveat

STATUSES = ("broken", "held", "known", "not reached", "not run")


def duration(seconds: float) -> str:
    """Return a time in seconds as text: "12.3 s", "3 min 5 s", "8 h 2 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun in singular or plural: "1 law", "2 laws"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def verdict(report: FuzzReport) -> str:
    """Return the verdict as one line."""
    if report.verdict == "did not fuzz":
        return "Did not fuzz"
    found = len(report.findings)
    return f"Found {counted(found, 'distinct cause')}" if report.verdict == "found" else "Nothing found"


def figures(report: FuzzReport) -> dict[str, str]:
    """Return the figures by name, most important first."""
    sittings = f", in {report.sittings} sittings" if report.sittings > 1 else ""
    interpreter = report.interpreter
    interpreted = {} if interpreter is None else {"not on a device": caveat(interpreter)}
    return {
        "fuzzed": f"{duration(report.seconds)} of {duration(report.asked_seconds)} asked{sittings}",
        "examples": f"{report.examples:,}, {report.per_second:,.1f} a second",
        "tried": f"{_tried(report)}",
        "cells": _statuses(report) or "none",
        "processes": str(report.processes),
        "seed": str(report.seed),
        "started": report.started,
        "machine": report.machine,
        "versions": ", ".join(f"{name} {version}" for name, version in report.versions.items()),
        **interpreted,
    }


def _tried(report: FuzzReport) -> str:
    laws = counted(len(report.laws), "law")
    return f"{laws}, {counted(len(report.implementations), 'implementation')}"


def _statuses(report: FuzzReport) -> str:
    counts: Counter[str] = Counter(cell.status for cell in report.cells)
    return ", ".join(f"{counts[status]:,} {status}" for status in STATUSES if counts[status])
