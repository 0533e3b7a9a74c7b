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
from dmat.testing.causes.compare import GENERAL, one_cause, signs, ways
from dmat.testing.causes.failure import Clock, Failure, TimeIsUp, broken
from dmat.testing.causes.mildest import ORDINARY, generic_variants, plain_variants
from dmat.testing.causes.relaxable import Names, Relaxable
from dmat.testing.contract import DTILDE, SPECIAL_VALUES
from dmat.testing.counterexample.attempt import in_dtype
from dmat.testing.law.subject import Subject
from dmat.testing.registry import law_named

STRUCTURAL = 1e3  # a larger error over its bound is no rounding
OUTPUTS = ("D~", "o", "S", "exp(D~)", "call")
INPUTS = frozenset({*SPECIAL_VALUES, "zero_length", "l_min", "seq_multiple_of", "max_seq"})
HALF_SUMS = frozenset({"bfloat16", "float16", "accumulates_in", "multiplies_in", "inverse_in"})
FINER = ("float64", "float32")
MUCH_SHORTER = 2  # times


def unguarded(case: Case) -> AbstractContextManager[None]:
    """Guard no call: a process of its own tries the cases."""
    return nullcontext()


@dataclass
class Group:
    """Failures of one cause.

    given_up: the promises that take them away; none for a bug. relaxable: how far each is relaxed.
    """

    failures: list[Failure]
    given_up: Names = frozenset()
    ended: str = "broken"
    relaxable: Relaxable | None = None

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
    of a bug all the same: their gates are not ordinary, or the wider contract does not allow their cases.
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
        rest = [one for one in sets if not self._joins_a_bug(*one)]
        self.doubtful = [failure for failure, found in rest if self._is_doubtful(failure, found)]
        told = [one for one in rest if not self._is_doubtful(*one)]
        groups = covered(told, self.relaxable.names)
        self.promises = [replace(group, relaxable=self._tightened(group)) for group in groups]

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
        without = next((names for names in relaxable.widest if self._vanishes(failure, names)), None)
        if not without:
            return []
        if not relaxable.whole and self._falls_in_a_finer_dtype(failure, without):
            return []
        alone = [frozenset({name}) for name in reversed(relaxable.names)]
        single = [names for names in alone if self._vanishes(failure, names)]
        if single:
            return single
        for name in relaxable.names:
            if name in without and self._vanishes(failure, without - {name}):
                without -= {name}
        return [without]

    def _vanishes(self, failure: Failure, given_up: Names) -> bool:
        """Whether the case holds without these promises; or, not allowed any more, no milder one falls."""
        self.clock.check()
        subject = failure.under(self.relaxable.without(given_up))
        if failure.law.why_not(subject, failure.case) is None:
            return broken(failure.law, subject, failure.case) is None
        return not any(broken(failure.law, subject, case) for case in plain_variants(subject, failure.case))

    def _falls_in_a_finer_dtype(self, failure: Failure, given_up: Names) -> bool:
        """Whether the law falls under the relaxed contract too, where rounding hides less."""
        wide = failure.under(self.relaxable.without(given_up))
        finer = [dtype for dtype in FINER if dtype in wide.contract.dtypes and dtype != wide.dtype]
        return any(_falls_in(wide.in_dtype(dtype), failure) for dtype in finer)

    def _is_excluded(self, failure: Failure, found: Sequence[Names]) -> bool:
        """Whether the failure vanishes only because the relaxed contract does not allow its case."""
        subjects = (failure.under(self.relaxable.without(names)) for names in found)
        return all(failure.law.why_not(subject, failure.case) is not None for subject in subjects)

    def _tightened(self, group: Group) -> Relaxable:
        """Relax each promise of a group only as far as its failures need."""
        relaxable = self.relaxable
        for name in group.given_up if not relaxable.whole else ():
            for option in relaxable.between(name):
                if name == "error_scope" and isinstance(option, int):
                    continue  # the known cases are too few to tell chunks from the whole prefix
                trial = relaxable.with_target(name, option)
                try:
                    self.clock.check()
                except TimeIsUp:
                    return relaxable
                without = trial.without(group.given_up)
                if not any(failure.falls_under(without) for failure in group.failures):
                    relaxable = trial
                    break
        return relaxable

    # Bugs

    def _wide(self, failure: Failure) -> Subject:
        """Return the failure's subject without the promises that may be relaxed, but for those of inputs."""
        return failure.under(self.relaxable.without(self.relaxable.widest[0] - INPUTS))

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
        if self._falls_like_one_of(group, failure):
            return True
        if _is_output(first) != _is_output(failure):
            gradient = failure if _is_output(first) else first
            if gradient_alone(gradient, self._wide(gradient)):
                return False
        if self._dtype_alone(first, failure):
            return False
        if _compares_what_is_wrong(group, failure):
            return True
        subject = self._wide(failure)
        if broken(failure.law, subject, failure.case) is None:  # of a dtype whose bound hides it
            subject = self._own(failure)
        cause = first.as_cause(0, signs(first.case, self._wide(first), unguarded))
        return one_cause(failure.case, failure.symptom, cause, failure.law, subject, unguarded)

    def _only_bug(self, failure: Failure) -> bool:
        """Whether a failure did not occur again, and there is a single bug, to which it then counts."""
        return failure.finding is None and len(self.bugs) == 1

    def _dtype_alone(self, first: Failure, failure: Failure) -> bool:
        """Whether the failure is far off at ordinary gates where no other dtype, nor the first bug, is."""
        if first.subject.dtype == failure.subject.dtype or failure.mildness[0] != ORDINARY:
            return False
        if _length(first.case) <= MUCH_SHORTER * _length(failure.case) or not is_structural(failure):
            return False
        other = self._wide(first)
        return broken(failure.law, other, in_dtype(failure.case, other.domain.dtype)) is None

    def _joins_a_bug(self, failure: Failure, found: Sequence[Names]) -> bool:
        """Add a failure that relaxed promises take away to the bug that it is of, if it is of one."""
        home = next((group for group in self.bugs if self._may_be(group, failure, found)), None)
        if home is not None:
            home.failures.append(failure)
        return home is not None

    def _is_doubtful(self, failure: Failure, found: Sequence[Names]) -> bool:
        """Whether a bug may be the cause of a failure, though a relaxed promise takes the failure away."""
        if not self.bugs or self.relaxable.whole:
            return False
        hidden = all(names & HALF_SUMS for names in found)  # bounds so wide that they hide a bug
        return hidden or failure.mildness[0] != ORDINARY or self._is_excluded(failure, found)

    def _may_be(self, group: Group, failure: Failure, found: Sequence[Names]) -> bool:
        first = group.failures[0]
        if group.ended != "broken" or first.finding is None:
            return False
        if self._falls_like_one_of(group, failure):
            return True
        plain = [one for one in group.failures if one.mildness[0] == ORDINARY]
        structural = any(is_structural(one) for one in plain)
        if structural and failure.mildness[0] == ORDINARY and not self._is_excluded(failure, found):
            return False  # at ordinary gates this bug would be far off
        cause = first.as_cause(0)
        return one_cause(failure.case, failure.symptom, cause, failure.law, self._own(failure), unguarded)

    def _falls_like_one_of(self, group: Group, failure: Failure) -> bool:
        """Whether the group has the same law in another dtype, and the case breaks it there too."""
        others = [one.subject for one in group.failures if one.law == failure.law and one.finding is not None]
        half = failure.subject.dtype not in FINER  # its bounds are too wide to tell gradients apart
        if half and not _is_output(failure) and any(other.dtype in FINER for other in others):
            return True
        return any(
            broken(failure.law, other, in_dtype(failure.case, other.domain.dtype))
            for other in others
            if other.dtype != failure.subject.dtype
        )

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


def _compares_what_is_wrong(group: Group, failure: Failure) -> bool:
    """Whether a law that compares calls fails in the quantity in which the group has wrong values."""
    plain = {_without_place(one.symptom) for one in group.failures if one.law.name in GENERAL}
    return failure.law.name not in GENERAL and _without_place(failure.symptom) in plain


def _without_place(sign: str) -> str:
    """Return a symptom without the place of the entry: the quantity, and the kinds of both values."""
    quantity, _, kinds = sign.partition(": ")
    return f"{quantity.split(' ')[0]}: {kinds}"


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
    """Whether a gradient is wrong in calls with ordinary gates whose outputs are right.

    An entry of D~ above the diagonal does not count: no gradient depends on it.
    """
    if "gates" not in failure.case:
        return False
    cases = [{**case, **_without_masked(case)} for case in generic_variants(subject, failure.case)]
    wrong = [case for case in cases if broken(failure.law, subject, case)]
    return bool(wrong) and all(_output_is_right(case, subject) for case in wrong)


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
