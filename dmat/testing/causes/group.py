"""Group the failures of a kernel by cause: sets of promises that it does not keep, and bugs.

A failure that vanishes when some promises are relaxed has the smallest such set as its cause. What no
relaxation takes away is a bug. Bugs are told apart by trying the case of one on the law of another
(compare.py). A kernel that has a bug may break a promise by that bug alone: then the bug is its only cause.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from dmat.testing.causes.compare import one_cause, signs, ways
from dmat.testing.causes.failure import Clock, Failure, TimeIsUp
from dmat.testing.causes.gradient import gradient_alone, is_of_own_output
from dmat.testing.causes.mildest import INFINITE, ORDINARY, plain_variants
from dmat.testing.causes.relaxable import Names, Relaxable
from dmat.testing.causes.trial import broken, length
from dmat.testing.causes.wrong import (
    compares_what_is_wrong,
    has_wrong_all_of,
    has_wrong_gradients_of,
    has_wrong_state_gradient_of,
    is_output,
    is_structural,
)
from dmat.testing.contract import SPECIAL_VALUES
from dmat.testing.counterexample.attempt import in_dtype
from dmat.testing.law.refusal import unguarded
from dmat.testing.law.subject import Subject

SPECIAL = frozenset(SPECIAL_VALUES)
INPUTS = frozenset({*SPECIAL_VALUES, "zero_length", "l_min", "seq_multiple_of", "max_seq"})
HALF_SUMS = frozenset({"bfloat16", "float16", "accumulates_in", "multiplies_in", "inverse_in"})
CHANCE = frozenset({"deterministic"})
BITS = frozenset({"error_scope", "grad_scope", "deterministic", "causal", "homogeneous"})  # laws of bits ask
FINER = ("float64", "float32")
MUCH_SHORTER = 2  # times


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
        self._merge_bugs()
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
            return [CHANCE] if frozenset(relaxable.names) >= CHANCE and relaxable.whole else []
        # By chance no number becomes NaN or infinite, though laws of bits ask for less without the promise.
        never = CHANCE if failure.finding.what != "value" else frozenset()
        widest = (names - never for names in relaxable.widest)
        without = next((names for names in widest if self._vanishes(failure, names)), None)
        if not without:
            return []
        if not relaxable.whole and self._falls_in_a_finer_dtype(failure, without):
            return []
        if self._is_far_off(failure):
            return []
        alone = [frozenset({name}) for name in reversed(relaxable.names) if name not in never]
        single = [names for names in alone if self._vanishes(failure, names)]
        special = frozenset(relaxable.names) & SPECIAL
        if failure.mildness[0] >= INFINITE and not any(names <= SPECIAL for names in single):
            single += [self._fewest(failure, special)] if self._vanishes(failure, special) else []
        return single or [self._fewest(failure, without)]

    def _fewest(self, failure: Failure, without: Names) -> Names:
        """Return promises of this set, without which the failure vanishes, of which none can be kept."""
        for name in self.relaxable.names:
            if name in without and self._vanishes(failure, without - {name}):
                without -= {name}
        return without

    def _is_far_off(self, failure: Failure) -> bool:
        """Whether two calls that must agree to the bit differ, at ordinary gates, by more than rounding.

        Where bits may differ, such a law asks for less or nothing: the failure vanishes unexplained. It is of
        rounding if a promise of a scope takes it away, and all values of the call are within their bounds.
        """
        finding, names = failure.finding, BITS & frozenset(self.relaxable.names)
        bits = finding is not None and finding.what == "value" and finding.error is None
        if not bits or failure.mildness[0] != ORDINARY or not is_structural(failure):
            return False
        if not self._vanishes(failure, names):
            return False
        by_chance = bool(names & CHANCE) and self._vanishes(failure, CHANCE)
        return by_chance or bool(ways(failure.case, failure.under(self.relaxable.without(names)), unguarded))

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

    def _merge_bugs(self) -> None:
        """Add a bug that only laws of special calls show to one that has its quantities wrong.

        Such laws are of few gates, or compare calls. Their cases may be milder than those of the other bug,
        and were then sorted first. One wrong gradient is told once, too.
        """
        for group in list(self.bugs):
            others = (one for one in self.bugs if one is not group and one.ended == group.ended)
            home = next((o for o in others if self._tells_all_of(o.failures, group.failures)), None)
            if home is not None:
                home.failures += group.failures
                self.bugs.remove(group)

    def _tells_all_of(self, known: Sequence[Failure], others: Sequence[Failure]) -> bool:
        """Whether all that others have wrong is known to be wrong, or comes of a known wrong output."""
        if any(is_output(one) and one.finding for one in known):
            gradients = [one for one in others if not is_output(one)]
            if gradients and all(is_of_own_output(one, self._wide(one)) for one in gradients):
                return True
        if has_wrong_all_of(known, others) or has_wrong_gradients_of(known, others):
            return True
        return has_wrong_state_gradient_of(known, others)

    def _is_same_bug(self, group: Group, failure: Failure) -> bool:
        if group.ended != "broken":
            return False
        first = group.failures[0]
        if failure.finding is None or first.finding is None:
            return failure.finding is first.finding or self._only_bug(failure)
        if self._falls_like_one_of(group, failure):
            return True
        if is_output(first) != is_output(failure):
            gradient = failure if is_output(first) else first
            if is_of_own_output(gradient, self._wide(gradient)):
                return True
            if gradient_alone(gradient, self._wide(gradient)):
                return False
        if self._dtype_alone(first, failure):
            return False
        if compares_what_is_wrong(group.failures, failure):
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
        if length(first.case) <= MUCH_SHORTER * length(failure.case) or not is_structural(failure):
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
        if self.relaxable.whole or not any(self._may_touch(group, failure) for group in self.bugs):
            return False
        if failure.mildness[0] != ORDINARY:
            return True
        # With bounds so wide that they hide a bug, or where the law does not ask any more.
        return all(names & HALF_SUMS or self._is_excluded(failure, [names]) for names in found)

    def _may_touch(self, group: Group, failure: Failure) -> bool:
        """Whether a bug may show in a failure: not in an output, if it is one of a gradient alone."""
        first = group.failures[0]
        if group.ended != "broken" or first.finding is None or not is_output(failure) or is_output(first):
            return True
        return not gradient_alone(first, self._wide(first))

    def _may_be(self, group: Group, failure: Failure, found: Sequence[Names]) -> bool:
        first = group.failures[0]
        if group.ended != "broken" or first.finding is None:
            return False
        if not self._may_touch(group, failure):
            return False
        if self._falls_like_one_of(group, failure):
            return True
        of_output = any(is_output(one) for one in group.failures) and not is_output(failure)
        if of_output and compares_what_is_wrong(group.failures, failure):
            return True
        if of_output and is_of_own_output(failure, self._own(failure)):
            return True
        plain = [one for one in group.failures if one.mildness[0] == ORDINARY]
        structural = any(is_structural(one) for one in plain)
        if structural and has_wrong_gradients_of(group.failures, [failure]):
            return True
        if structural and failure.mildness[0] == ORDINARY and not self._is_excluded(failure, found):
            return False  # at ordinary gates this bug would be far off
        cause = first.as_cause(0)
        return one_cause(failure.case, failure.symptom, cause, failure.law, self._own(failure), unguarded)

    def _falls_like_one_of(self, group: Group, failure: Failure) -> bool:
        """Whether the group has the same law in another dtype, and the case breaks it there too."""
        others = [one.subject for one in group.failures if one.law == failure.law and one.finding is not None]
        half = failure.subject.dtype not in FINER  # its bounds are too wide to tell gradients apart
        if half and not is_output(failure) and any(other.dtype in FINER for other in others):
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

    Of sets that explain as many, the smaller comes first, then the one that is cheaper to give up. A set that
    no failure needs, as special values explain each of its failures, explains none. A set of which another
    group needs all and more is no cause of its own: what needs both shows that they are one.
    """
    left, groups = list(sets), []
    needed = {choice for _, found in sets if not any(names <= SPECIAL for names in found) for choice in found}
    while left:
        counts = Counter(
            choice for _, found in left for choice in found if choice in needed or choice <= SPECIAL
        )

        def worth(choice: Names, counts: Counter[Names] = counts) -> tuple[int, int, int]:
            return counts[choice], -len(choice), min(names.index(name) for name in choice)

        best = max(counts, key=worth)
        groups.append(Group([failure for failure, found in left if best in found], best))
        left = [(failure, found) for failure, found in left if best not in found]
    return _widened(_with_one_of_special_values(groups))


def _with_one_of_special_values(groups: Sequence[Group]) -> list[Group]:
    """Return the groups with those of special values alone as one: they are one promise of a contract."""
    of_values = [group for group in groups if group.given_up <= SPECIAL]
    rest = [group for group in groups if group not in of_values]
    if not of_values:
        return rest
    failures = [failure for group in of_values for failure in group.failures]
    return [*rest, Group(failures, frozenset().union(*(group.given_up for group in of_values)))]


def _widened(groups: Sequence[Group]) -> list[Group]:
    """Return the groups without those of which another one gives up all and more. It takes their failures."""
    kept: list[Group] = []
    for group in sorted(groups, key=lambda group: -len(group.given_up)):
        wider = next((one for one in kept if group.given_up < one.given_up), None)
        if wider is None:
            kept.append(group)
        else:
            wider.failures += group.failures
    return sorted(kept, key=lambda group: -len(group.failures))


def _falls_in(finer: Subject, failure: Failure) -> bool:
    """Whether the case breaks its law in a finer dtype; of a law of half types, a general law."""
    case = in_dtype(failure.case, finer.domain.dtype)
    if failure.law.not_applicable(finer) is None:
        return broken(failure.law, finer, case) is not None
    return failure.law.not_applicable(failure.under(finer.implementation)) is None and bool(
        ways(case, finer, unguarded)
    )
