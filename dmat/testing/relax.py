"""The contract nearest to the strictest under which an implementation stands, if there is one.

A kernel that falls is either wrong or has promised too much. What is known of it are the cases that broke
laws. The widest contract comes first: a case that breaks it, too, is a bug. Then one promise after another
is made as strict as all known cases allow, and the laws are tried on that contract; a case that they break
joins the known ones, and it all begins again. What is found has been through every law.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import Phase, settings

from dmat.strategies.cases import COTANGENTS, Case, Cases
from dmat.strategies.domain import Domain
from dmat.testing.casefile import encoded
from dmat.testing.child import Died, OutOfTime, Tell, apart
from dmat.testing.contract import DEVICES, DTYPES, SPECIAL_VALUES, Contract
from dmat.testing.counterexample import Counterexample, forbidden, law_named
from dmat.testing.grade import GATES, SCOPES, telling
from dmat.testing.law import Law, Record
from dmat.testing.probe import Answers, Place, Probe, answers
from dmat.testing.report import Report, laws
from dmat.testing.running import search
from dmat.testing.subject import Implementation, Refused, Subject
from dmat.testing.target import load
from dmat.testing.verdict import LawBroken

SECONDS = 120.0
EXAMPLES = 15  # random cases a law and dtype, after its ladder; what the check has tried is not tried again

# Promises by what it costs to give them up, dearest first; of each, what may be promised, strictest first.
# Of accumulates_in and special_values, a promise a member.
PROMISES: dict[str, tuple[Any, ...]] = {
    "error_scope": SCOPES,
    "gates": GATES,
    "float64": ("float64", "float32"),
    "bfloat16": ("float32", "bfloat16"),
    "float16": ("float32", "float16"),
    "-inf": (True, False),
    "zero_length": (True, False),
    "+inf": (True, False),
    "nan": (True, False),
    "exact_sums": (True, False),
    "second_order": (True, False),
    "forward_mode": (True, False),
    "deterministic": (True, False),
}
STRICTEST = {name: options[0] for name, options in PROMISES.items()}
WIDEST = {name: options[-1] for name, options in PROMISES.items()}

Terms = dict[str, Any]  # a promise: one of its options


def _telling(domain: Domain) -> Iterator[Case]:
    for gates, cotangent in telling(domain):
        yield {"gates": gates, "cotangent": cotangent}


def scope_tellers() -> list[Law]:
    """Return laws with a ladder that tells error scopes apart: a stricter one must not stand by chance."""
    cases = Cases(draw=COTANGENTS.draw, ladder=_telling)
    return [replace(law_named(name), cases=cases) for name in ("values", "input_gradient", "forget_gradient")]


def as_contract(terms: Terms, fixed: Contract) -> Contract:
    """Return the contract of these terms; fields that are no promise of PROMISES stay as they are fixed."""
    narrowed = {d: terms[d] for d in DTYPES if d in terms and terms[d] != STRICTEST[d]}
    plain = {name: terms[name] for name in PROMISES if name not in (*DTYPES, *SPECIAL_VALUES)}
    special = tuple(name for name in SPECIAL_VALUES if terms[name])
    return replace(fixed, accumulates_in=narrowed or None, special_values=special, **plain)


def no_stricter(terms: Terms, other: Terms) -> bool:
    """Whether no term is stricter than the other's."""
    return all(options.index(terms[n]) >= options.index(other[n]) for n, options in PROMISES.items())


@dataclass(frozen=True)
class Trial:
    """One law in one place, tried and held: "ladder", "search" or "telling", under these terms."""

    law: str
    place: Place
    part: str
    terms: tuple[tuple[str, Any], ...]
    fixed: Contract

    def same(self, other: Trial) -> bool:
        """Whether the other is of the same part of the same law in the same place."""
        return (self.law, self.place, self.part) == (other.law, other.place, other.part)

    def covers(self, terms: Terms, fixed: Contract) -> bool:
        """Whether it holds as well under terms no stricter, whatever the other dtypes.

        What calls no backward does not know of masked cotangents.
        """
        same = replace(self.fixed, dtypes=fixed.dtypes)
        if "cotangent" not in inspect.signature(law_named(self.law).check).parameters:
            same = replace(same, masked_cotangent=fixed.masked_cotangent)
        return same == fixed and no_stricter(terms, dict(self.terms))


@dataclass
class Relaxation:
    """The search for one implementation, in the places that were asked for and in which it answers.

    known: cases that break a law. held: what need not be tried again. felled: terms that a law broke, be
    it by a case that does not break it every time. let_pass: of a known case, terms that it does not break.
    tell: gets each case before it is tried, and each that broke a law.
    """

    implementation: Implementation
    asked: list[Place]
    answered: Answers
    known: list[Counterexample]
    held: list[Trial]
    tell: Tell
    felled: list[tuple[Terms, Contract]] = field(default_factory=list)
    let_pass: dict[Counterexample, list[tuple[Terms, Contract]]] = field(default_factory=dict)

    def nearest(self) -> Contract | None:
        """Return the contract found, or None where even the widest is broken in every dtype."""
        while True:
            start = self._widest()
            if start is None:
                return None
            terms = self._tightened(start)
            found = self._broken(terms, start)
            if found is None:
                return as_contract(terms, start)
            self.known.insert(0, found)
            self.felled.append((terms, start))

    def _widest(self) -> Contract | None:
        """Return the widest contract that stands: of both masked_cotangent, that of more dtypes."""
        plain = self._answering()
        stand = {}
        for masked in ("ignored", "summed"):
            stand[masked] = self._standing_dtypes(replace(plain, masked_cotangent=masked))
        masked = max(stand, key=lambda name: len(stand[name]))
        if not any(dtype in stand[masked] for dtype, _ in self.answered.places):
            return None
        return replace(plain, masked_cotangent=masked, dtypes=stand[masked])

    def _answering(self) -> Contract:
        """Return the contract for the lengths, dtypes and devices in which it answers, or was not asked."""
        contract, answered = self.implementation.contract, self.answered
        mute = {x for place in self.asked for x in place} - {x for place in answered.places for x in place}
        devices = {device for _, device in answered.places}
        return replace(
            contract,
            seq_multiple_of=answered.seq_multiple_of,
            max_seq=answered.max_seq,
            differentiable=answered.differentiable,
            dtypes=tuple(dtype for dtype in contract.dtypes if dtype not in mute),
            devices=tuple(devices) if mute & set(DEVICES) else contract.devices,
        )

    def _standing_dtypes(self, fixed: Contract) -> tuple[str, ...]:
        left = list(fixed.dtypes)
        while left:
            breaking = self._refuting(WIDEST, replace(fixed, dtypes=tuple(left)))
            if breaking is None:
                break
            left.remove(breaking.dtype)
        return tuple(left)

    def _refuting(self, terms: Terms, fixed: Contract) -> Counterexample | None:
        """Return a known case that breaks these terms, or None; what broke last is tried first."""
        promised = replace(self.implementation, contract=as_contract(terms, fixed))
        for number, case in enumerate(self.known):
            passed = self.let_pass.setdefault(case, [])
            if any(other == fixed and no_stricter(terms, stricter) for stricter, other in passed):
                continue
            self.tell(("trying", case))
            if case.refutes(promised):
                self.known.insert(0, self.known.pop(number))
                return case
            passed.append((terms, fixed))
        return None

    def _tightened(self, fixed: Contract) -> Terms:
        """Return the terms, each in its turn as strict as the known cases allow."""
        terms = dict(WIDEST)
        for name, options in PROMISES.items():
            for option in options[:-1]:
                tighter = terms | {name: option}
                if not self._fell(tighter, fixed) and self._refuting(tighter, fixed) is None:
                    terms = tighter
                    break
        return terms

    def _fell(self, terms: Terms, fixed: Contract) -> bool:
        return any(other == fixed and no_stricter(fallen, terms) for fallen, other in self.felled)

    def _broken(self, terms: Terms, fixed: Contract) -> Counterexample | None:
        """Try all laws, ladders first, and those that broke before first; return what breaks one."""
        promised = replace(self.implementation, contract=as_contract(terms, fixed))
        breaking = {case.law for case in self.known}
        order = sorted(laws(), key=lambda law: (law.name not in breaking, law.order))
        for part, tried in (("telling", scope_tellers()), ("ladder", order), ("search", order)):
            for law in tried:
                for place in self._places(promised.contract):
                    found = self._part_broken(law, Subject(promised, *place), part, terms, fixed)
                    if found is not None:
                        return found
        return None

    def _places(self, contract: Contract) -> list[Place]:
        return [place for place in self.answered.places if place[0] in contract.dtypes]

    def _part_broken(
        self, law: Law, subject: Subject, part: str, terms: Terms, fixed: Contract
    ) -> Counterexample | None:
        """Try one part of a law, unless it is known to hold; note that it does."""
        trial = Trial(law.name, (subject.dtype, subject.device), part, tuple(terms.items()), fixed)
        if any(done.same(trial) and done.covers(terms, fixed) for done in self.held):
            return None
        subject.part = "search" if part == "search" else "ladder"
        found = self._tried(law, subject)
        if found is None:
            self.held.append(trial)
        return found

    def _tried(self, law: Law, subject: Subject) -> Counterexample | None:
        """Try one part of a law; return the case that breaks it, or None."""
        if law.not_applicable(subject):
            return None
        record = Record(law.name, subject.implementation.name, subject.dtype, subject.device)
        quick = settings(max_examples=EXAMPLES, database=None, phases=[Phase.generate])
        try:
            search(self._told(law), subject, record, subject.part, quick)
        except Refused:
            return None
        except LawBroken:
            found = Counterexample(law.name, subject.dtype, subject.device, record.recipe or "")
            if forbidden(law_named(law.name), subject, found.read()):
                return None  # drawn, and yet beyond the contract: nothing follows from it
            self.tell(("broke", found))
            return found
        return None

    def _told(self, law: Law) -> Law:
        """Return the law, telling each case before it is tried: the process may die of it."""

        @functools.wraps(law.check)
        def check(subject: Subject, **case: Any) -> None:
            self.tell(("trying", Counterexample(law.name, subject.dtype, subject.device, encoded(case))))
            law.check(subject, **case)

        return replace(law, check=check)


# In a process of its own


def stands_under(report: Report, places: list[Place], seconds: float = SECONDS) -> dict[str, Any]:
    """Return the field of the report's schema: the contract found, that there is none, or "unfinished"."""
    until = time.monotonic() + seconds
    known = [
        Counterexample(r["law"], r["dtype"], r["device"], r["recipe"], deadly=r["ended"] != "broken")
        for r in report.broken()
        if r["recipe"]
    ]
    held = [(r["law"], (r["dtype"], r["device"])) for r in report.records if r["status"] == "passed"]
    deadly: set[Probe] = set()
    trying: Counterexample | Probe | None = None

    def heard(told: tuple[str, Any]) -> None:
        nonlocal trying
        kind, trying = told
        if kind == "broke" and isinstance(trying, Counterexample):
            known.insert(0, trying)

    while True:
        arguments = (report.implementation, places, known, held, deadly)
        try:
            left = until - time.monotonic()
            contract = apart(_search_here, *arguments, heard=heard, seconds=left)
        except (OutOfTime, RuntimeError):  # the latter: a law itself raised, and says nothing
            return {"outcome": "unfinished", "contract": None, "decorator": None, "wrong_in": []}
        except Died:
            _note_death(trying, known, deadly)
        else:
            return _outcome(contract, places)


def _note_death(
    trying: Counterexample | Probe | None, known: list[Counterexample], deadly: set[Probe]
) -> None:
    """Note what the process died of, so that it is not tried again."""
    if isinstance(trying, Counterexample):
        known.insert(0, replace(trying, deadly=True))
    elif trying is not None:
        deadly.add(trying)


def _search_here(
    name: str,
    places: list[Place],
    known: list[Counterexample],
    held: list[tuple[str, Place]],
    deadly: set[Probe],
    tell: Tell,
) -> Contract | None:
    """Search in this process."""
    import torch

    torch.set_num_threads(1)
    return nearest_contract(load(name), places, known, held, deadly, tell)


def nearest_contract(
    implementation: Implementation,
    places: list[Place],
    known: Iterable[Counterexample] = (),
    held: Iterable[tuple[str, Place]] = (),
    deadly: Iterable[Probe] = (),
    tell: Callable[[Any], None] = lambda told: None,
) -> Contract | None:
    """Return the contract nearest to the strictest under which all laws hold, or None.

    known: cases that break laws. held: the laws, each in a place, that hold under the strictest contract.
    deadly: lengths that it dies of, by place. tell: gets ("trying", ...) and ("broke", ...).
    """
    answered = answers(implementation, places, set(deadly), lambda probe: tell(("trying", probe)))
    if answered is None:
        return None
    strictest = tuple(STRICTEST.items())
    trials = [
        Trial(law, place, part, strictest, implementation.contract)
        for law, place in held
        for part in ("ladder", "search")
    ]
    return Relaxation(implementation, places, answered, list(known), trials, tell).nearest()


def _outcome(contract: Contract | None, places: list[Place]) -> dict[str, Any]:
    if contract is None:
        return {"outcome": "none", "contract": None, "decorator": None, "wrong_in": []}
    return {
        "outcome": "found",
        "contract": contract.stated(),
        "decorator": decorator(contract),
        "wrong_in": [d for d in DTYPES if d in dict(places) and d not in contract.dtypes],
    }


def decorator(contract: Contract) -> str:
    """Return the contract as Python to paste above a kernel."""
    stated = (f"{name}={_written(value)}" for name, value in contract.stated().items())
    return f"@dmat.testing.implementation({', '.join(stated)})"


def _written(value: object) -> str:
    """Return a field's value as Python: a set where there is no order."""
    if isinstance(value, tuple):
        members = ", ".join(_written(member) for member in value)
        return f"{{{members}}}" if members else "()"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_written(k)}: {_written(v)}" for k, v in value.items()) + "}"
    return f'"{value}"' if isinstance(value, str) else repr(value)
