"""Group the failures of a kernel by cause: sets of promises that it does not keep, and bugs.

A failure that vanishes when some promises are relaxed has the smallest such set as its cause. What no
relaxation takes away is a bug. Bugs are told apart by trying the case of one on the law of another
(compare.py). A kernel that has a bug may break a promise by that bug alone: then the bug is its only cause.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np

from dmat.strategies.recipes.recipe import Case
from dmat.testing.causes.compare import one_cause, signs, ways
from dmat.testing.causes.failure import Clock, Failure, TimeIsUp, broken
from dmat.testing.causes.mildest import ORDINARY, plain_variants
from dmat.testing.causes.relaxable import Names, Relaxable
from dmat.testing.contract import DTILDE
from dmat.testing.counterexample.attempt import in_dtype
from dmat.testing.law.subject import Subject
from dmat.testing.registry import law_named

STRUCTURAL = 1e3  # a larger error over its bound is no rounding
OUTPUTS = ("D~", "o", "exp(D~)", "call")
FINER = ("float64", "float32")
MUCH_SHORTER = 2  # times


def unguarded(case: Case) -> AbstractContextManager[None]:
    """Guard no call: a process of its own tries the cases."""
    return nullcontext()


@dataclass
class Group:
    """Failures of one cause. given_up: the promises that take them away; none for a bug."""

    failures: list[Failure]
    given_up: Names = frozenset()
    ended: str = "broken"

    @property
    def is_bug(self) -> bool:
        """Whether no relaxed promise takes the failures away."""
        return not self.given_up

    @property
    def mildest(self) -> Failure:
        """The failure with the mildest case."""
        return min(self.failures, key=lambda failure: failure.mildness)


@dataclass
class Grouping:
    """The groups of one kernel's failures.

    unsorted: those for which the time was too short. doubtful: those that vanish with a promise, which may be
    of a bug all the same: the wider contract does not allow their cases.
    """

    relaxable: Relaxable
    clock: Clock
    bugs: list[Group] = field(default_factory=list)
    promises: list[Group] = field(default_factory=list)
    unsorted: list[Failure] = field(default_factory=list)
    doubtful: list[Failure] = field(default_factory=list)

    @property
    def groups(self) -> list[Group]:
        """All groups, bugs first."""
        return [*self.bugs, *self.promises]

    def sort(self, failures: Sequence[Failure]) -> None:
        """Sort the failures into groups."""
        self._sort_deadly([failure for failure in failures if failure.deadly])
        alive = sorted((f for f in failures if not f.deadly), key=lambda f: (f.law.cost, f.mildness))
        sets: list[tuple[Failure, list[Names]]] = []
        bugs: list[Failure] = []
        for number, failure in enumerate(alive):
            try:
                self.clock.check()
                self.clock.trying(failure.number)
                found = self._smallest_sets(failure)
            except TimeIsUp:
                self.unsorted += alive[number:]
                break
            if found:
                sets.append((failure, found))
            else:
                bugs.append(failure)
        self._sort_bugs(bugs)
        rest = [(failure, found) for failure, found in sets if not self._joins_a_bug(failure)]
        told = [(failure, found) for failure, found in rest if not self._is_doubtful(failure)]
        self.doubtful = [failure for failure, _ in rest if self._is_doubtful(failure)]
        self.promises = covered(told, self.relaxable.names)

    def _sort_deadly(self, failures: Iterable[Failure]) -> None:
        """Make one group for each way to end a process."""
        by_end: dict[str, Group] = {}
        for failure in failures:
            ended = failure.record.ended or "broken"
            by_end.setdefault(ended, Group([], ended=ended)).failures.append(failure)
        self.bugs += by_end.values()

    # Promises

    def _smallest_sets(self, failure: Failure) -> list[Names]:
        """Return the smallest sets of promises without which the failure vanishes; none for a bug."""
        relaxable = self.relaxable
        if failure.finding is None:  # it held when it was tried again: nothing can be told by trying
            chance = frozenset({"deterministic"})
            return [chance] if chance <= frozenset(relaxable.names) and relaxable.whole else []
        without = next((names for names in relaxable.widest if not self._falls(failure, names)), None)
        if not without:
            return []
        if not relaxable.whole and self._is_hidden_bug(failure, without):
            return []
        alone = [frozenset({name}) for name in reversed(relaxable.names)]
        single = [names for names in alone if not self._falls(failure, names)]
        if single:
            return single
        for name in relaxable.names:
            if name in without and not self._falls(failure, without - {name}):
                without -= {name}
        return [without]

    def _falls(self, failure: Failure, given_up: Names) -> bool:
        self.clock.check()
        return failure.falls_under(self.relaxable.without(given_up))

    def _is_hidden_bug(self, failure: Failure, given_up: Names) -> bool:
        """Whether the law falls under the relaxed contract too: in a finer dtype, or at ordinary gates."""
        wide = failure.under(self.relaxable.without(given_up))
        if any(_falls_in(finer, failure) for finer in self._finer(wide)):
            return True
        if failure.mildness[0] == ORDINARY and self._is_judged(failure):
            return False
        return any(broken(failure.law, wide, case) for case in plain_variants(wide, failure.case))

    def _finer(self, subject: Subject) -> list[Subject]:
        """Return the subject in the dtypes that round less, if the contract has them."""
        names = [dtype for dtype in FINER if dtype in subject.contract.dtypes]
        return [subject.in_dtype(dtype) for dtype in names if dtype != subject.dtype]

    def _is_judged(self, failure: Failure) -> bool:
        """Whether the widest contract allows the case and implies the law."""
        return failure.law.why_not(self._wide(failure), failure.case) is None

    # Bugs

    def _wide(self, failure: Failure) -> Subject:
        """Return the failure's subject under the contract without all promises that may be relaxed."""
        return failure.under(self.relaxable.without(self.relaxable.widest[0]))

    def _sort_bugs(self, failures: Sequence[Failure]) -> None:
        for number, failure in enumerate(sorted(failures, key=lambda failure: failure.mildness)):
            try:
                self.clock.check()
                self.clock.trying(failure.number)
                home = next((group for group in self.bugs if self._is_same_bug(group, failure)), None)
            except TimeIsUp:
                self.unsorted += sorted(failures, key=lambda failure: failure.mildness)[number:]
                return
            if home is None:
                self.bugs.append(Group([failure]))
            else:
                home.failures.append(failure)

    def _is_same_bug(self, group: Group, failure: Failure) -> bool:
        if group.ended != "broken":
            return False
        first = group.failures[0]
        if failure.finding is None or first.finding is None:
            return failure.finding is first.finding or self._only_bug(failure)
        if _is_output(first) != _is_output(failure):
            gradient = failure if _is_output(first) else first
            if gradient_alone(gradient, self._wide(gradient)):
                return False
        if self._dtype_alone(first, failure):
            return False
        subject = self._wide(failure)
        if broken(failure.law, subject, failure.case) is None:  # of a dtype whose bound hides it
            subject = self._own(failure)
        cause = first.as_cause(0, signs(first.case, self._wide(first), unguarded))
        return one_cause(failure.case, failure.symptom, cause, failure.law, subject, unguarded)

    def _only_bug(self, failure: Failure) -> bool:
        """A failure that cannot be repeated joins a bug, if there is just one."""
        return failure.finding is None and len(self.bugs) == 1

    def _dtype_alone(self, first: Failure, failure: Failure) -> bool:
        """Whether the failure is far off at ordinary gates where no other dtype, nor the first bug, is."""
        if first.subject.dtype == failure.subject.dtype or failure.mildness[0] != ORDINARY:
            return False
        if _length(first.case) <= MUCH_SHORTER * _length(failure.case) or not is_structural(failure):
            return False
        other = self._wide(first)
        return broken(failure.law, other, in_dtype(failure.case, other.domain.dtype)) is None

    def _joins_a_bug(self, failure: Failure) -> bool:
        """Add a failure that relaxed promises take away to the bug that it is of, if it is of one."""
        home = next((group for group in self.bugs if self._may_be(group, failure)), None)
        if home is not None:
            home.failures.append(failure)
        return home is not None

    def _is_doubtful(self, failure: Failure) -> bool:
        """Whether a bug may be the cause of a failure, though a relaxed promise takes the failure away."""
        return bool(self.bugs) and not self.relaxable.whole and not self._is_judged(failure)

    def _may_be(self, group: Group, failure: Failure) -> bool:
        first = group.failures[0]
        if group.ended != "broken" or first.finding is None:
            return False
        structural = any(is_structural(one) for one in group.failures)
        if structural and failure.mildness[0] == ORDINARY and self._is_judged(failure):
            return False  # at ordinary gates this bug would be far off
        cause = first.as_cause(0)
        return one_cause(failure.case, failure.symptom, cause, failure.law, self._own(failure), unguarded)

    def _own(self, failure: Failure) -> Subject:
        return failure.under(self.relaxable.own)


def covered(sets: Sequence[tuple[Failure, list[Names]]], names: Sequence[str]) -> list[Group]:
    """Return the fewest sets of promises that explain all failures, those that explain most first.

    Of sets that explain as many, the smaller comes first, then the one that is cheaper to give up.
    """
    left, groups = list(sets), []
    while left:
        counts = Counter(choice for _, found in left for choice in found)

        def worth(choice: Names, counts: Counter[Names] = counts) -> tuple[int, int, int]:
            return counts[choice], -len(choice), min(names.index(name) for name in choice)

        best = max(counts, key=worth)
        groups.append(Group([failure for failure, found in left if best in found], best))
        left = [(failure, found) for failure, found in left if best not in found]
    return groups


def _falls_in(finer: Subject, failure: Failure) -> bool:
    """Whether the case breaks its law in a finer dtype; of a law of half types, a general law."""
    case = in_dtype(failure.case, finer.domain.dtype)
    if failure.law.not_applicable(finer) is None:
        return broken(failure.law, finer, case) is not None
    return failure.law.not_applicable(failure.under(finer.implementation)) is None and bool(
        ways(case, finer, unguarded)
    )


def is_structural(failure: Failure) -> bool:
    """Whether a failure is further off than rounding can be."""
    finding = failure.finding
    if finding is None or finding.what != "value" or finding.error is None:
        return True
    return finding.error > STRUCTURAL * (finding.allowed or 0.0)


def _is_output(failure: Failure) -> bool:
    return failure.finding is None or failure.finding.quantity in OUTPUTS


def _length(case: Case) -> int:
    return int(case["gates"].shape[-1]) if "gates" in case else 1


def gradient_alone(failure: Failure, subject: Subject) -> bool:
    """Whether a gradient is wrong in some call with ordinary gates whose output is right.

    An entry of D~ above the diagonal does not count: no gradient depends on it.
    """
    if "gates" not in failure.case:
        return False
    cases = [{**case, **_without_masked(case)} for case in plain_variants(subject, failure.case)]
    return any(broken(failure.law, subject, case) and _output_is_right(case, subject) for case in cases)


def _without_masked(case: Case) -> Case:
    return {"cotangent": replace(case["cotangent"], masked=0.0)} if "cotangent" in case else {}


def _output_is_right(case: Case, subject: Subject) -> bool:
    """Whether the output of a call is right; of D~ on and below the diagonal."""
    names = ("values",) if subject.kind == DTILDE else ("values", "dense")
    laws = [law for name in names if set((law := law_named(name, subject.kind)).parameters) <= set(case)]
    tried = [law for law in laws if law.why_not(subject, law.arguments(case)) is None]
    if not tried:
        return False
    found = broken(tried[0], subject, tried[0].arguments(case))
    if found is None:
        return True
    evidence = found.finding.evidence
    if subject.kind != DTILDE or evidence is None or evidence.wrong.ndim != 4:
        return False
    return not bool(np.tril(evidence.wrong).any())
