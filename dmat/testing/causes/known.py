"""A cause of failures, as the processes of a run tell it to each other. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from dmat.testing.record import Broken, CauseEntry, Ended, LawRecord

UNSORTED = "Not sorted by cause: the time was too short."
UNKNOWN = "not searched"  # with which gates a failure is seen
DOUBTFUL = "Not sorted by cause: these may be of the bug. Check again when it is fixed."
FIRST = "The first law that broke; the others were not tried."


class Cell(Struct, frozen=True):
    """A law and an implementation, both by name, with a dtype and a device: the unit that is tested."""

    law: str
    implementation: str
    dtype: str
    device: str


class Cause(Struct, frozen=True):
    """A distinct cause of failures: its smallest case as a line of JSON, its cell, symptom and signs."""

    number: int
    cell: Cell
    recipe: str
    symptom: str
    ended: Ended = "broken"
    signs: tuple[str, ...] = ()


# Entries of a report


def entry_of(record: LawRecord, **more: Any) -> CauseEntry:
    """Return the entry of a cause that shows the case of this record. more: the other fields."""
    return CauseEntry(
        law=record.law,
        dtype=record.dtype,
        device=record.device,
        ended=record.ended or "broken",
        message=record.reason,
        case=record.case,
        recipe=record.recipe,
        folder=record.folder,
        **more,
    )


def unsorted(records: list[LawRecord], sentence: str = UNSORTED) -> CauseEntry:
    """Return the entry of failures whose causes are not known. It shows the first."""
    gates = records[0].gates or UNKNOWN
    return entry_of(records[0], kind="unsorted", sentence=sentence, gates=gates, breaks=breaks_of(records))


def breaks_of(records: Iterable[LawRecord]) -> list[Broken]:
    """Return the laws of these records, in their order."""
    return [Broken(record.law, record.dtype, record.device) for record in records]


# In words


def words_of(number: int, cause: CauseEntry) -> list[str]:
    """Return the lines that say what the cause is, what it breaks, and what contract does not promise it.

    Failures that were not sorted are no cause: they have no number.
    """
    place = "" if cause.kind == "unsorted" else f"{number}. "
    bug = "a bug. " if cause.kind == "bug" else ""
    seen = "" if cause.gates == UNKNOWN else f" Seen {cause.gates}."
    lines = [f"{place}{bug}{cause.sentence}{seen}", f"   breaks {breaks_line(cause.breaks)}"]
    if cause.decorator is not None:
        lines += [f"   not promised with  {cause.decorator}", f"   tried on {cause.tried}"]
    return lines


def breaks_line(breaks: Sequence[Broken]) -> str:
    """Return the laws with their dtypes in one line. Laws that break in the same dtypes share them."""
    dtypes: dict[str, list[str]] = {}
    many = len({broken.device for broken in breaks}) > 1
    for broken in breaks:
        where = f"{broken.dtype} {broken.device}" if many else broken.dtype
        dtypes.setdefault(broken.law, []).append(where)
    laws: dict[str, list[str]] = {}
    for law, where_it_breaks in dtypes.items():
        laws.setdefault(", ".join(where_it_breaks), []).append(law)
    return "; ".join(f"{', '.join(names)} ({where})" for where, names in laws.items())
