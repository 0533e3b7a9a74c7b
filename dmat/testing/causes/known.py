"""A cause of failures, as the processes of a run tell it to each other. Loads no torch."""

from __future__ import annotations

from msgspec import Struct

from dmat.testing.record import Ended


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
