"""Map each broken cell to the finding that covers it, for the page and JUnit."""

from __future__ import annotations

from dmat.testing.fuzzing.report.entries import AlsoEntry, CellEntry, FindingEntry, FuzzReport

Key = tuple[str, str, str, str]


def key(implementation: str, entry: CellEntry | FindingEntry | AlsoEntry) -> Key:
    """Return the key of the cell that an entry of the report belongs to."""
    return entry.law, implementation, entry.dtype, entry.device


def covering(report: FuzzReport) -> dict[Key, int]:
    """Return the index of the finding of each cell. A cell's own finding precedes one that also breaks it."""
    findings = list(enumerate(report.findings))
    also = {key(f.implementation, entry): n for n, f in reversed(findings) for entry in f.also}
    return also | {key(f.implementation, f): n for n, f in reversed(findings)}
