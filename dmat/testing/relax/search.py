"""Search for the least widened contract under which an implementation keeps all laws.

A broken kernel either has a bug or has promised too much. The search starts from the known cases, which broke
laws. First it tries the widest contract: a case that breaks a law even there shows a bug. Then it makes one
promise after another as strict as all known cases allow, and tries the laws under that contract. A case that
breaks a law joins the known cases, and the search starts again. The contract found has passed every law.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import msgspec
from hypothesis import Phase, settings

from dmat.testing.case_file import encoded
from dmat.testing.contract import DTILDE, DTYPES, FUSED, AnyContract, Contract
from dmat.testing.errors import Died, OutOfTime
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.kernel.load import load
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.processes import Run, Send, apart
from dmat.testing.record import Refuting, Report, Wider, stated
from dmat.testing.registry import law_named, laws, rank
from dmat.testing.relax.answers import Answers, CallSite, Site, answers
from dmat.testing.relax.claimed import claimed
from dmat.testing.relax.dtilde import OPTIONS, DtildePromises, Promises, Terms
from dmat.testing.relax.fused import FusedPromises
from dmat.testing.relax.known import Counterexample
from dmat.testing.run.run import record_of
from dmat.testing.run.session import Session

SECONDS = 120.0
EXAMPLES = 15  # random cases per law and dtype, after its ladder; laws that passed the check are not repeated


PROMISES: Mapping[str, Callable[[Implementation], Promises]] = {
    DTILDE: lambda own: DtildePromises(OPTIONS),
    FUSED: lambda own: FusedPromises.of(own.contract, claimed(own)),  # type: ignore[arg-type]
}


def promises_of(own: Implementation) -> Promises:
    """Return the promises that the contract of this kernel may give up."""
    return PROMISES[own.kind](own)


@dataclass(frozen=True)
class Trial:
    """A law that held in one dtype and device under these terms. part: "ladder", "search" or "telling"."""

    law: str
    site: Site
    part: str
    terms: tuple[tuple[str, Any], ...]
    fixed: AnyContract

    def same(self, other: Trial) -> bool:
        """Whether the other trial has the same law, part, dtype and device."""
        return (self.law, self.site, self.part) == (other.law, other.site, other.part)

    def covers(self, terms: Terms, fixed: AnyContract, promises: Promises) -> bool:
        """Whether the law also holds under these terms: they are no stricter than the trial's terms.

        The dtypes of the contract do not matter. masked_cotangent does not matter for a law without backward.
        """
        same = replace(self.fixed, dtypes=fixed.dtypes)
        backward = "cotangent" in law_named(self.law, fixed.kind).parameters
        if isinstance(same, Contract) and isinstance(fixed, Contract) and not backward:
            same = replace(same, masked_cotangent=fixed.masked_cotangent)
        return same == fixed and promises.no_stricter(terms, dict(self.terms))


@dataclass
class Relaxation:
    """The search for one implementation, in the requested dtypes and devices that can be called.

    known: cases that break a law. held: trials that need not be repeated. felled: terms under which a law was
    broken, even by a case that is not reproducible. let_pass: terms that a known case does not break. send:
    receives each case before it is tried, and each case that broke a law. bugs: for a dtype, the latest case
    that breaks its law under the widest contract.
    """

    implementation: Implementation
    asked: list[Site]
    answered: Answers
    known: list[Counterexample]
    held: list[Trial]
    send: Send
    felled: list[tuple[Terms, AnyContract]] = field(default_factory=list)
    let_pass: dict[Counterexample, list[tuple[Terms, AnyContract]]] = field(default_factory=dict)
    bugs: dict[str, Counterexample] = field(default_factory=dict)

    @cached_property
    def promises(self) -> Promises:
        """The promises that may be given up."""
        return promises_of(self.implementation)

    def nearest(self) -> AnyContract | None:
        """Return the contract found, or None if even the widest contract is broken in every dtype."""
        while True:
            starts = [(start, self._tightened(start)) for start in self._widest()]
            if not starts:
                return None
            start, terms = min(starts, key=lambda one: self.promises.given_up(one[1]))
            found = self._broken(terms, start)
            if found is None:
                return self.promises.contract(terms, start)
            self.known.insert(0, found)
            self.felled.append((terms, start))

    def _widest(self) -> list[AnyContract]:
        """Return the widest contracts that stand in the most dtypes: none, one, or several variants."""
        variants = self.promises.variants(self._answering())
        stand = [(variant, self._standing_dtypes(variant)) for variant in variants]
        most = max(len(dtypes) for _, dtypes in stand)
        asked = {dtype for dtype, _ in self.answered.sites}
        return [
            replace(variant, dtypes=dtypes)
            for variant, dtypes in stand
            if len(dtypes) == most and asked & set(dtypes)
        ]

    def _answering(self) -> AnyContract:
        """Return the contract without the lengths, dtypes and devices for which all calls failed.

        Dtypes and devices that were not requested stay.
        """
        contract, answered = self.implementation.contract, self.answered
        mute = {x for site in self.asked for x in site} - {x for site in answered.sites for x in site}
        devices = {device for _, device in answered.sites}
        return replace(
            contract if answered.differentiable else contract.without_gradients(),
            seq_multiple_of=answered.seq_multiple_of,
            max_seq=answered.max_seq,
            dtypes=tuple(dtype for dtype in contract.dtypes if dtype not in mute),
            devices=tuple(devices) if mute & {device for _, device in self.asked} else contract.devices,
        )

    def _standing_dtypes(self, fixed: AnyContract) -> tuple[str, ...]:
        left = list(fixed.dtypes)
        while left:
            breaking = self._refuting(self.promises.widest, replace(fixed, dtypes=tuple(left)))
            if breaking is None:
                break
            left.remove(breaking.dtype)
            self.bugs[breaking.dtype] = breaking
        return tuple(left)

    def _refuting(self, terms: Terms, fixed: AnyContract) -> Counterexample | None:
        """Return a known case that breaks its law under these terms, or None. The latest is tried first."""
        promised = replace(self.implementation, contract=self.promises.contract(terms, fixed))
        for number, case in enumerate(self.known):
            passed = self.let_pass.setdefault(case, [])
            if any(
                other == fixed and self.promises.no_stricter(terms, stricter) for stricter, other in passed
            ):
                continue
            self.send(("trying", case))
            if case.refutes(promised):
                self.known.insert(0, self.known.pop(number))
                return case
            passed.append((terms, fixed))
        return None

    def _tightened(self, fixed: AnyContract) -> Terms:
        """Return terms in which each promise, in turn, is as strict as the known cases allow."""
        terms = self.promises.widest
        for name, options in self.promises.options.items():
            for option in options[:-1]:
                tighter = terms | {name: option}
                if not self._fell(tighter, fixed) and self._refuting(tighter, fixed) is None:
                    terms = tighter
                    break
        return terms

    def _fell(self, terms: Terms, fixed: AnyContract) -> bool:
        return any(
            other == fixed and self.promises.no_stricter(fallen, terms) for fallen, other in self.felled
        )

    def _broken(self, terms: Terms, fixed: AnyContract) -> Counterexample | None:
        """Try all laws: discriminating cases, then ladders, then searches. Return a case that breaks a law.

        Laws that known cases broke come first.
        """
        promised = replace(self.implementation, contract=self.promises.contract(terms, fixed))
        breaking = {case.law for case in self.known}
        order = sorted(laws(fixed.kind), key=lambda law: (law.name not in breaking, rank(law)))
        for part, tried in (
            ("telling", self.promises.discriminating_cases()),
            ("ladder", order),
            ("search", order),
        ):
            for law in tried:
                for site in self._sites(promised.contract):
                    found = self._part_broken(law, subject_of(promised, *site), part, terms, fixed)
                    if found is not None:
                        return found
        return None

    def _sites(self, contract: AnyContract) -> list[Site]:
        return [site for site in self.answered.sites if site[0] in contract.dtypes]

    def _part_broken(
        self, law: Law, subject: Subject, part: str, terms: Terms, fixed: AnyContract
    ) -> Counterexample | None:
        """Try one part of a law unless it is known to hold. Record the trial if the law holds."""
        trial = Trial(law.name, (subject.dtype, subject.device), part, tuple(terms.items()), fixed)
        if any(done.same(trial) and done.covers(terms, fixed, self.promises) for done in self.held):
            return None
        subject.part = "search" if part == "search" else "ladder"
        found = self._tried(law, subject)
        if found is None:
            self.held.append(trial)
        return found

    def _tried(self, law: Law, subject: Subject) -> Counterexample | None:
        """Try one part of a law. Return the case that breaks the law, or None."""
        if law.not_applicable(subject):
            return None
        quick = settings(max_examples=EXAMPLES, database=None, phases=[Phase.generate])
        record = record_of(self._announced(law), subject, quick, Session(explains=False))
        if record.traceback:
            raise RuntimeError(record.reason)
        if record.status != "failed":
            return None
        found = Counterexample(law.name, subject.dtype, subject.device, record.recipe or "")
        if law.why_not(subject, found.read()):
            return None  # drawn, but outside the contract: it proves nothing
        self.send(("broke", found))
        return found

    def _announced(self, law: Law) -> Law:
        """Return the law, which then sends each case before trying it: the case may kill the process."""

        @functools.wraps(law.check)
        def check(subject: Subject, **case: Any) -> None:
            self.send(("trying", Counterexample(law.name, subject.dtype, subject.device, encoded(case))))
            law.check(subject, **case)

        return replace(law, check=check)


# In a child process


def stands_under(report: Report, sites: list[Site], seconds: float = SECONDS, run: Run = apart) -> Wider:
    """Search in child processes for at most `seconds`. Return the contract found, "none" or "unfinished".

    run: calls the search in a child process, or in this one.

    If a case kills the child process, the search continues in a new one without that case.
    """
    until = time.monotonic() + seconds
    known = [
        Counterexample(r.law, r.dtype, r.device, r.recipe, deadly=r.ended != "broken")
        for r in report.broken()
        if r.recipe
    ]
    held = [(r.law, (r.dtype, r.device)) for r in report.laws if r.status == "passed"]
    deadly: set[CallSite] = set()
    trying: Counterexample | CallSite | None = None

    def heard(message: tuple[str, Any]) -> None:
        nonlocal trying
        kind, trying = message
        if kind == "broke" and isinstance(trying, Counterexample):
            known.insert(0, trying)

    while True:
        arguments = (report.implementation, sites, known, held, deadly)
        try:
            left = until - time.monotonic()
            found: Wider = run(_search_here, *arguments, heard=heard, seconds=left)
        except (OutOfTime, RuntimeError):  # RuntimeError: a law itself raised, which proves nothing
            return Wider("unfinished")
        except Died:
            _note_death(trying, known, deadly)
        else:
            return found


def _note_death(
    trying: Counterexample | CallSite | None, known: list[Counterexample], deadly: set[CallSite]
) -> None:
    """Record the case or the plain call that killed the process, so that it is not tried again."""
    if isinstance(trying, Counterexample):
        known.insert(0, replace(trying, deadly=True))
    elif trying is not None:
        deadly.add(trying)


def _search_here(
    name: str,
    sites: list[Site],
    known: list[Counterexample],
    held: list[tuple[str, Site]],
    deadly: set[CallSite],
    send: Send,
) -> Wider:
    """Search in this process. Return a Wider, because a contract cannot always be pickled."""
    import torch

    torch.set_num_threads(1)
    implementation = load(name)
    search = _relaxation(implementation, sites, known, held, deadly, send)
    contract = None if search is None else search.nearest()
    found = _outcome(contract, sites, promises_of(implementation))
    bugs = search.bugs.values() if search is not None and (contract is None or found.wrong_in) else ()
    cases = [Refuting(bug.law, bug.dtype, bug.device, bug.case) for bug in bugs if not bug.deadly]
    return msgspec.structs.replace(found, refuted_by=cases)


def nearest_contract(
    implementation: Implementation,
    sites: list[Site],
    known: Iterable[Counterexample] = (),
    held: Iterable[tuple[str, Site]] = (),
    deadly: Iterable[CallSite] = (),
    send: Callable[[Any], None] = lambda message: None,
) -> AnyContract | None:
    """Return the least widened contract under which all laws hold, or None.

    known: cases that break laws. held: (law, (dtype, device)) that hold under the strictest contract. deadly:
    (dtype, device, length) that killed a process. send: receives ("trying", case or call site) and ("broke",
    case).
    """
    search = _relaxation(implementation, sites, known, held, deadly, send)
    return None if search is None else search.nearest()


def _relaxation(
    implementation: Implementation,
    sites: list[Site],
    known: Iterable[Counterexample],
    held: Iterable[tuple[str, Site]],
    deadly: Iterable[CallSite],
    send: Callable[[Any], None],
) -> Relaxation | None:
    """Return the search, not yet begun; None if the implementation cannot be called."""
    answered = answers(implementation, sites, set(deadly), lambda call_site: send(("trying", call_site)))
    if answered is None:
        return None
    strictest = tuple(promises_of(implementation).strictest.items())
    trials = [
        Trial(law, site, part, strictest, implementation.contract)
        for law, site in held
        for part in ("ladder", "search")
    ]
    return Relaxation(implementation, sites, answered, list(known), trials, send)


def _outcome(contract: AnyContract | None, sites: list[Site], promises: Promises) -> Wider:
    if contract is None:
        return Wider("none")
    wrong_in = [d for d in DTYPES if d in dict(sites) and d not in contract.dtypes]
    return Wider("found", stated(contract.stated()), promises.written(contract), wrong_in)
