"""Say which inputs an entry reads: the future, another head, a gate outside its window. Each is a fresh try.

dmat calls the kernel twice, with inputs that differ only in one place. The entry reads that place if it
changes by more than its bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import inf, isfinite, nan
from typing import cast

import numpy as np

from dmat.strategies import Constant, Gates
from dmat.strategies.recipes.recipe import Case
from dmat.testing.contract import FUSED
from dmat.testing.explain.decays import read_out
from dmat.testing.explain.pattern import head_name
from dmat.testing.explain.tries import NoAnswer, Tries
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.fused import FusedSubject
from dmat.testing.oracle.arithmetic import Mask
from dmat.testing.verdict.finding import Finding, LawBroken

LONGEST = 24  # a window is tried gate by gate up to this length
LARGE = 1e4  # a change of one gate shows in an entry below this
ROUNDINGS = 8  # units of rounding by which an entry may change from call to call
FAINT = 0.02  # a changed gate changes D~ by more
MOST_HEADS = 8
PLAIN = {"gates", "qkv", "cotangent", "head", "t", "s", "rival", "noise"}  # parts of a case of one plain call
GATES_OF = {"D~": "fgate_preact", "o": "g"}


def read_hints(tries: Tries, case: Case, finding: Finding) -> Iterator[str]:
    """Yield the sentences that hold of the finding's entry. Raises NoAnswer when the time is up."""
    entry = _Entry.of(tries, case, finding)
    if entry is None:
        return
    if not entry.reads(np.ones(entry.shape, dtype=bool)):
        if entry.own and finding.quantity == "D~" and abs(entry.own) < LARGE:
            yield "the entry changes with no input."
        return
    yield from entry.future()
    yield from entry.heads()
    yield from entry.window()


class _Entry:
    """One entry of the output of a plain call, and tries that change some of its inputs."""

    def __init__(self, tries: Tries, case: Case, finding: Finding) -> None:
        """Take the entry of this finding."""
        self.tries, self.finding, self.subject = tries, finding, tries.subject.in_dtype(tries.subject.dtype)
        self.index, self.gates = finding.index, case["gates"]
        self.shape = self.gates.shape
        self.call: Case = {
            **case,
            "rival": _rival(self.subject.other_gates(self.gates), self.gates),
            "noise": 1,
        }
        self.own, self.bound = nan, inf

    @classmethod
    def of(cls, tries: Tries, case: Case, finding: Finding) -> _Entry | None:
        """Return the entry; None if it is none of a plain call, or if the calls differ."""
        if finding.quantity not in GATES_OF or len(finding.index) != 4 or not set(case) <= PLAIN:
            return None
        gates, evidence = case.get("gates"), finding.evidence
        if gates is None or evidence is None or evidence.computed.shape[:3] != gates.shape:
            return None
        if gates.fgate_layout.startswith("expanded") or gates.igate_layout.startswith("expanded"):
            return None
        entry = cls(tries, case, finding)
        same = np.ones(gates.shape, dtype=bool)
        if entry.call["rival"] is None:
            return None
        four = {*entry.values(same), *entry.values(same)}
        if len(four) != 1 or not all(map(isfinite, four)):
            return None
        entry.own = four.pop()
        exact = entry.subject.exact_to_the_bit
        entry.bound = max(2 * (finding.allowed or 0.0), 0.0 if exact else 1e-3 * abs(entry.own))
        return entry

    def values(self, keep: Mask, name: str | None = None) -> tuple[float, float]:
        """Return the entry before and after all inputs outside `keep` changed. name: only this input changes.

        Raises NoAnswer.
        """
        self.tries.require_time()
        every = np.ones(self.shape, dtype=bool)
        names = [*self.subject.build(self.call).named]
        masks = {n: keep if name in (None, n) else every for n in names}
        quantity = self.finding.quantity
        try:
            with self.tries.trying(self.call):
                before, after = self.subject.changed(self.call, masks)
                return float(before.of(quantity)[self.index]), float(after.of(quantity)[self.index])
        except (LawBroken, IndexError) as error:
            raise NoAnswer(str(error)) from error

    def reads(self, changed: Mask, name: str | None = None) -> bool:
        """Return whether the entry changes by more than its bound if the inputs in `changed` change."""
        after = self.values(~changed, name)[1]
        return not isfinite(after) or abs(after - self.own) > self.bound

    @property
    def gate(self) -> str:
        """The name of the forget gate among the inputs."""
        return GATES_OF[self.finding.quantity]

    @property
    def _takes_gate(self) -> bool:
        """Whether the kernel takes the forget gate."""
        return self.gate in self.subject.build(self.call).named

    def future(self) -> Iterator[str]:
        """Say that the entry changes when only inputs of later times change."""
        t = self.index[2]
        later = np.zeros(self.shape, dtype=bool)
        b, h = self.index[:2]
        later[b, h, t + 1 :] = True
        if later.any() and self.reads(later):
            gates = self._takes_gate and self.reads(later, self.gate)
            which = "only the forget gates" if gates else "only inputs"
            yield f"it reads the future: the entry changes when {which} after t = {t} change."

    def heads(self) -> Iterator[str]:
        """Say that the entry changes when only another head changes, and which."""
        own, others = self.index[:2], np.ones(self.shape, dtype=bool)
        others[own] = False
        if not others.any() or not self.reads(others):
            return
        for head in list(np.ndindex(*self.shape[:2]))[:MOST_HEADS]:
            one = np.zeros(self.shape, dtype=bool)
            one[head] = True
            if head != own and self.reads(one):
                gates = self._takes_gate and self.reads(one, self.gate)
                which = "the forget gates" if gates else "inputs"
                yield (
                    f"it reads {which} of another head: the entry of {head_name(own)} changes when only those"
                    f" of {head_name(head)} change."
                )
                return

    def window(self) -> Iterator[str]:
        """Say which forget gates the entry reads, if these are not those of its window."""
        shown = read_out(self.finding)
        S = self.shape[-1]
        if shown.quantity not in ("D~", "exp(D~)") or S > LONGEST or not self._one_window():
            return
        if shown.quantity != "D~" and abs(self.own) < 1e-6:
            return  # nothing changes it by more than its bound
        coarse = (
            ROUNDINGS * cast(DtildeSubject | FusedSubject, self.subject).rounding.output.u * abs(self.own)
        )
        if shown.quantity == "D~" and coarse > FAINT:
            return  # a change of one gate would not show
        self.bound = max(self.bound, coarse)  # a kernel may sum in another order each time
        *head, t, s = shown.index
        read, due = self._places(head, self.gate), list(range(s + 1, t + 1))
        visible = read or (shown.quantity == "D~" and abs(self.own) < LARGE)
        if t >= s and visible and read != due:
            name = "f" if self.finding.quantity == "D~" else self.subject.name_of("g")
            yield f"the entry reads {name} at k = {listed(read)}; its window is k = {listed(due)}."
        if shown.quantity == "D~" and t >= s and self._distinct_input and abs(self.own) < LARGE:
            read = self._places(head, "igate_preact")
            if read != [s]:
                yield f"the entry of column s = {s} reads i at k = {listed(read)}."

    def _places(self, head: list[int], name: str) -> list[int]:
        """Return the times of this head at which the entry reads an input."""
        read = []
        for k in range(self.shape[-1]):
            one = np.zeros(self.shape, dtype=bool)
            one[(*head, k)] = True
            read += [k] if self.reads(one, name) else []
        return read

    @property
    def _distinct_input(self) -> bool:
        """Whether the other input gate differs from every input gate of the call."""
        own, other = self.gates.values()[0], self.call["rival"].values()[0]
        return bool((np.abs(own - other) > 0.25).all())

    def _one_window(self) -> bool:
        """Whether an entry of the output reads one window alone."""
        if self.subject.kind != FUSED:
            return True
        subject = cast(FusedSubject, self.subject)
        alone = not subject.reads.normalised and not subject.contract.weight
        return subject.contract.gate != "fixed" and alone


def _rival(other: Gates, own: Gates) -> Gates | None:
    """Return the other gates, with a forget gate that no gate of the call has; None if there is none."""
    if not isinstance(other.fgate, Constant) or not other.fgate.value:
        return other  # the kernel takes no forget gate
    values = own.values()[1]
    levels = (other.fgate.value / n for n in (1, 2, 4))
    level = next((x for x in levels if not (np.abs(values - x) < abs(x) / 8).any()), None)
    return None if level is None else replace(other, fgate=Constant(level))


def listed(places: list[int]) -> str:
    """Return places as text: "3", "3 .. 6", "none", or a list with gaps."""
    if not places:
        return "none"
    if len(places) > 1 and places == list(range(places[0], places[-1] + 1)):
        return f"{places[0]} .. {places[-1]}"
    return ", ".join(map(str, places))
