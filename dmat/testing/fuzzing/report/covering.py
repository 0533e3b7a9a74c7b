"""The finding that stands for each broken cell."""

from __future__ import annotations

from dmat.testing.fuzzing.report.entries import AlsoEntry, CellEntry, FindingEntry, FuzzReport

Key = tuple[str, str, str, str]


def key(implementation: str, entry: CellEntry | FindingEntry | AlsoEntry) -> Key:
    """Return what names the cell that an entry with a law, a dtype and a device is of."""
    return entry.law, implementation, entry.dtype, entry.device


def covering(report: FuzzReport) -> dict[Key, int]:
    """Return, by cell, the index of its finding: its own, before one that breaks it besides."""
    findings = list(enumerate(report.findings))
    also = {key(f.implementation, entry): n for n, f in reversed(findings) for entry in f.also}
    return also | {key(f.implementation, f): n for n, f in reversed(findings)}
