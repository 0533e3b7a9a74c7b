"""Both sides of a comparison together: how far apart, which is nearer the truth, and whether NEW is worse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from dmat.testing.compare.judged import OUTPUTS
from dmat.testing.compare.result import Compared, Measured, Quantity
from dmat.testing.compare.side import Entry, Site, Tried
from dmat.testing.errors import CannotRun
from dmat.testing.grade.agreement import ulps
from dmat.testing.oracle.arithmetic import Array

A_BIT = 2.0  # NEW is worse where it has lost a binary digit against OLD
Arrays = Mapping[str, Array]


@dataclass
class Total:
    """One result of one side, over all cases."""

    worst: float | None = None
    over: int = 0
    strictest: float | None = None
    nearer: int = 0
    raised: str = ""
    finding: str = ""
    case: Tried | None = None

    def count(self, entry: Entry, case: Tried) -> None:
        """Count the result of a case. Keep the shortest case in which it is over its bound."""
        if entry.raised or entry.over:
            self.over += 1
            self.raised = self.raised or entry.raised
            if self.case is None or _size(case) < _size(self.case):
                self.case, self.finding = case, entry.over
        if entry.worst is not None:
            self.worst = max(self.worst or 0.0, entry.worst)
        if not entry.raised:
            self.strictest = max(self.strictest or 0.0, entry.strictest)

    def result(self) -> Measured:
        """Return it as a struct."""
        return Measured(self.worst, self.over, self.strictest, self.nearer)


def _size(case: Tried) -> tuple[int, int]:
    return case.length, len(case.shown)


@dataclass
class Pair:
    """One result of both sides, over all cases."""

    old: Total = field(default_factory=Total)
    new: Total = field(default_factory=Total)
    cases: int = 0
    entries: int = 0
    apart: float = 0.0
    length: int | None = None
    case: str | None = None

    def compare(self, old: tuple[Entry, Arrays], new: tuple[Entry, Arrays], tried: Tried) -> None:
        """Compare the results of a case."""
        apart = float("inf")
        if not (old[0].raised or new[0].raised):
            one, other = old[1], new[1]
            if old[0].dtype == new[0].dtype and one["values"].shape == other["values"].shape:
                apart = ulps(one["values"], other["values"], getattr(torch, old[0].dtype))
                self._nearer(one, other)
        self.apart = max(self.apart, apart)
        if apart > 0:
            self.length = min(tried.length, self.length or tried.length)
            self.case = self.case or tried.shown

    def _nearer(self, one: Arrays, other: Arrays) -> None:
        """Count the entries in which one side is nearer the truth, by more than the truth's own error."""
        judged = ~(np.isnan(one["errors"]) | np.isnan(other["errors"]))
        less = np.where(judged, one["errors"] - other["errors"], 0.0)
        known = one["slack"] + other["slack"]
        self.entries += int(judged.sum())
        self.old.nearer += int((less < -known).sum())
        self.new.nearer += int((less > known).sum())

    def result(self, name: str) -> Quantity:
        """Return it as a struct."""
        return Quantity(
            quantity=name,
            cases=self.cases,
            entries=self.entries,
            same_bits=self.apart == 0,
            ulps=self.apart if np.isfinite(self.apart) else None,
            from_length=self.length,
            old=self.old.result(),
            new=self.new.result(),
            worse=self.worse(),
            case=self.new.case.shown if self.new.case else self.case,
        )

    def worse(self) -> str:
        """Return why NEW is over its bound or worse than OLD; else "".

        NEW is worse where its largest error is beyond what the strictest contract allows, and more than twice
        that of OLD: it has lost a bit.
        """
        if self.new.raised:
            return f"NEW gave no result: {self.new.raised}"
        if self.new.over:
            first = self.new.finding.splitlines()
            return "; ".join(
                [f"over its bound in {self.new.over} of {self.cases} cases", *map(str.strip, first)]
            )
        old, new = self.old.strictest, self.new.strictest
        if old is None or new is None or new <= max(1.0, A_BIT * old):
            return ""
        most = f"{new:.3g} times what the strictest contract allows, that of OLD {old:.3g} times"
        return f"the largest error of NEW is {most}"


def compared(old: Site, new: Site, both: tuple[Arrays, Arrays], written: int) -> Compared:
    """Return the comparison of a dtype on a device. both: all arrays. written: how many cases NEW has."""
    pairs: dict[str, Pair] = {}
    olds = {tried.number: tried for tried in old.tried}
    alike = [tried for tried in new.tried if olds[tried.number].inputs == tried.inputs]
    if not alike:
        raise CannotRun("OLD and NEW cannot be compared: their contracts make other inputs of every case")
    for tried in alike:
        before = {entry.quantity: entry for entry in olds[tried.number].entries}
        after = {entry.quantity: entry for entry in tried.entries}
        for name in [*after, *(name for name in before if name not in after)]:
            pair = pairs.setdefault(name, Pair())
            pair.cases += 1
            for side, entry in ((pair.old, before.get(name)), (pair.new, after.get(name))):
                if entry is not None:
                    side.count(entry, tried)
            if name in before and name in after:
                place = f"{tried.number}/{name}/"
                theirs, ours = (_parts(arrays, place) for arrays in both)
                if name in OUTPUTS and theirs and ours:
                    _require_one_operator(theirs, ours, name)
                pair.compare((before[name], theirs), (after[name], ours), tried)
    quantities = [pair.result(name) for name, pair in pairs.items()]
    left_out = written - len(alike)
    return Compared(new.dtype, new.device, cases=len(alike), left_out=left_out, quantities=quantities)


def _parts(arrays: Arrays, place: str) -> dict[str, Array]:
    names = ("values", "errors", "slack", "truth")
    return {name: arrays[place + name] for name in names if place + name in arrays}


def _require_one_operator(one: Arrays, other: Arrays, name: str) -> None:
    """Raise CannotRun if the truths of both contracts differ by more than their own errors."""
    if one["truth"].shape != other["truth"].shape:
        raise CannotRun("OLD and NEW cannot be compared: their results have other shapes")
    apart = np.abs(one["truth"] - other["truth"]) > one["slack"] + other["slack"]
    if apart.any():
        index = tuple(int(n) for n in np.argwhere(apart)[0])
        said = [float(x["truth"][index]) for x in (one, other)]
        raise CannotRun(
            f"OLD and NEW cannot be compared: their contracts mean two operators; {name}{list(index)} of one"
            f" case is {said[0]:.6g} by that of OLD, {said[1]:.6g} by that of NEW"
        )
