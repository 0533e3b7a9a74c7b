"""Failing cases in Hypothesis' example database: the next run tries them first.

Each case is one line of JSON (dmat.testing.case_file) under a key of our own. So it survives a new version
of Hypothesis and a renamed test, and means the same on another machine.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec
from hypothesis.database import ExampleDatabase

from dmat.strategies.recipes.recipe import Case
from dmat.testing.case_file import LARGEST_FILE, Parts, case_of, encoded
from dmat.testing.contract.names import WIDESPREAD_DEVICES
from dmat.testing.devices import here
from dmat.testing.errors import CaseError
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject

NOWHERE = Path(os.devnull)  # a database holds no tensor files


def key(law: str, implementation: str, dtype: str, device: str) -> bytes:
    """Return the key of the cases of this law, implementation, dtype and device."""
    return f"dmat case: {law} {implementation} {dtype} {device}".encode()


def remember(
    database: ExampleDatabase | None, law: str, implementation: str, dtype: str, device: str, case: Case
) -> None:
    """Save a failing case, unless it needs a file of tensors: the database cannot hold that file."""
    line = encoded(case).encode()
    if database is not None and _read(line) is not None:
        database.save(key(law, implementation, dtype, device), line)


def forget(
    database: ExampleDatabase | None, law: str, implementation: str, dtype: str, device: str, case: Case
) -> None:
    """Delete a case that now holds, in any spelling. The same case under another device stays."""
    if database is None:
        return
    where, line = key(law, implementation, dtype, device), encoded(case)
    for value in list(database.fetch(where)):
        stored = _read(value)
        if stored is not None and encoded(stored) == line:
            database.delete(where, value)


def recall(database: ExampleDatabase | None, law: Law, subject: Subject) -> list[Case]:
    """Return the cases that broke the law on any device: the subject's own device first, then the shortest.

    Skips lines that cannot be read, and cases that the contract does not allow.
    """
    if database is None:
        return []
    found: dict[str, Case] = {}
    for device in dict.fromkeys((subject.device, *here(), *WIDESPREAD_DEVICES)):
        where = key(law.name, subject.implementation.name, subject.dtype, device)
        for value in sorted(set(database.fetch(where)), key=lambda value: (len(value), value)):
            case = _read(value)
            if case is not None and law.why_not(subject, case) is None:
                found.setdefault(encoded(case), case)
    return list(found.values())


def _read(line: bytes) -> Case | None:
    """Return the case of a line, or None if it holds no case: other programs may write to the database."""
    if len(line) <= LARGEST_FILE:
        with suppress(CaseError, msgspec.MsgspecError, RecursionError, ValueError):
            return case_of(msgspec.json.decode(line, type=Parts), NOWHERE)
    return None
