"""Suggest contract fields under which the kernel would be right: likely misunderstandings.

A suggestion is a contract that was tried. The kernel held to it keeps the law on every known failing case, on
these cases at S = 64, on the ladder, and on random cases. It also keeps the law of values on its ladder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dmat.strategies import Constant, Edited
from dmat.strategies.recipes.recipe import Case
from dmat.testing.contract import DTILDE, FUSED, AnyContract, Contract, FusedContract, relaxations
from dmat.testing.contract.fields import HALVES
from dmat.testing.contract.written import fields_written
from dmat.testing.explain.tries import NoAnswer, Tries
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.registry import law_named
from dmat.testing.verdict.finding import Example

Fields = dict[str, Any]
Cases = Callable[[Tries, Sequence[Case], Subject], Iterator[tuple[Law, Case]]]

LENGTH = 64  # a small case lies just over any bound: hints are tried at this length too
RANDOM = 15  # random cases of the law on which a hint is tried
SEED = b"dmathint"

# OTHER_READINGS: the kernel computes another formula. LESS_CARE: the right formula, with larger errors.
OTHER_READINGS: Mapping[str, tuple[Fields, ...]] = {
    DTILDE: (),
    FUSED: (
        {"scale": "K**-0.5"},
        {"scale": 1.0},
        {"scale": "K**-1"},
        {"gate": "preact"},
        {"gate": "log"},
        {"gate": "decay"},
        {"beta_in": "logit"},
        {"beta_in": "value"},
        {"weight": "dt"},
        {"weight": None},
        {"dt_softplus": False},
        {"dt_softplus": True},
        {"dt_limit": None},
        {"reads": "mlstm"},
        {"reads": "linear"},
        {"reads": "normalised"},
        {"reads": "normalised", "eps": 1e-6},
        {"reads": "softmax"},
        {"layout": "BSHD"},
        {"layout": "BHSD"},
        {"group_order": "modulo"},
        {"group_order": "consecutive"},
        {"gradient": "truncated"},
        {"l2norm": 1e-6},
        {"l2norm": False},
    ),
}


LESS_CARE: Mapping[str, tuple[Fields, ...]] = {
    DTILDE: (),
    FUSED: (
        {"gates": "absolute"},
        {"grad_scope": "suffix"},
        {"grad_scope": "prefix"},
        {"doubling": 16},
        {"doubling": 64},
        {"inverse_in": HALVES},
        {"multiplies_in": HALVES},
        {"accumulates_in": HALVES},
        {"error_scope": "prefix", "multiplies_in": HALVES},
        {"error_scope": "prefix", "accumulates_in": HALVES},
    ),
}
SCOPES = {
    kind: relaxations(of, "error_scope")[1:] for kind, of in ((DTILDE, Contract), (FUSED, FusedContract))
}


def contract_hint(tries: Tries, examples: Sequence[Example]) -> Iterator[str]:
    """Yield the lines of the first suggestion that held wherever it was tried; no line if none did.

    examples: the failing cases, the smallest first. More error is suggested only where finite gates gave a
    number that is too far from the exact one: under a wider scope, laws of bits and of NaN ask for less.
    """
    own, known = tries.subject.contract, [example.case for example in examples]
    for fields in OTHER_READINGS[tries.subject.kind]:
        tried = admitted(tries, known, fields)
        if tried:
            stated = fields_written({name: getattr(own, name) for name in fields})
            yield f"it is what {fields_written(fields)} gives, and the contract says {stated}: is that meant?"
            yield tried
            return
    if not all(map(_is_rounding, examples)):
        return
    for fields in _scopes(tries, examples):
        tried = admitted(tries, known, fields)
        if tried:
            wider = " or a wider one" if isinstance(fields.get("error_scope"), int) else ""
            yield f"it is within what {fields_written(fields)}{wider} allows:"
            yield "if it is meant to compute so, the contract must say it (see dmat grade)."
            yield tried
            return


def _scopes(tries: Tries, examples: Sequence[Example]) -> Iterator[Fields]:
    """Yield the fields of LESS_CARE, and the scopes that an output's error may have, strictest first.

    No scope is tried if the error is not within the widest one, and no chunk if not within the largest.
    """
    known = [example.case for example in examples]
    care = LESS_CARE[tries.subject.kind]
    yield from (fields for fields in care if len(fields) == 1 and "_in" not in next(iter(fields)))
    chunks = [scope for scope in SCOPES[tries.subject.kind] if isinstance(scope, int)]
    others = [scope for scope in SCOPES[tries.subject.kind] if not isinstance(scope, int)]
    of_output = examples[0].finding.quantity in ("D~", "o")
    if of_output and _held(tries, known, {"error_scope": others[-1]}, _telling_cases):
        if _held(tries, known, {"error_scope": chunks[-1]}, _telling_cases):
            yield from ({"error_scope": scope} for scope in chunks)
        yield from ({"error_scope": scope} for scope in others)
    yield from (fields for fields in care if len(fields) > 1 or "_in" in next(iter(fields)))


def admitted(tries: Tries, known: Sequence[Case], fields: Fields) -> str:
    """Return a line that says on what the kernel held to these fields; "" if it did not, or had no answer."""
    subject = _held(tries, known, fields, _telling_cases) and _held(tries, known, fields, _all_cases)
    return _where(tries, known, subject) if subject else ""


def _held(tries: Tries, known: Sequence[Case], fields: Fields, cases: Cases) -> Subject | None:
    """Return the subject with these fields if it keeps the laws on all the cases, else None.

    A format that the contract states is never suggested again: the kernel breaks what its author knows of.
    """
    own = tries.subject.contract
    formats = {"multiplies_in", "accumulates_in", "inverse_in", "doubling", "gates"}
    stated = formats & own.stated().keys() & fields.keys()
    contract = None if stated else _contract(own, fields)
    subject = None if contract is None else tries.under(contract)
    if subject is None or tries.law.not_applicable(subject):
        return None
    try:
        held = all(tries.finding(case, law, subject) is None for law, case in cases(tries, known, subject))
    except NoAnswer:
        return None
    return subject if held else None


def _is_rounding(example: Example) -> bool:
    """Whether finite gates gave a number out of its bound."""
    gates, finding = example.case.get("gates"), example.finding
    finite = gates is not None and all(np.isfinite(gate).all() for gate in gates.values())
    return finite and finding.what == "value" and bool(finding.allowed)


def _contract(own: AnyContract, fields: Fields) -> AnyContract | None:
    """Return the contract with these fields; None if they contradict others, or change nothing.

    A delta rule stays one: it takes other inputs than sums do.
    """
    try:
        contract = replace(own, **fields)
    except ValueError:
        return None
    pointless = "gates" in fields and getattr(own, "gate", "preact") != "preact"
    pointless |= fields == {"gradient": "truncated"} and getattr(own, "reads", "") != "mlstm"
    return None if contract == own or pointless or contract.erases != own.erases else contract


def _telling_cases(tries: Tries, known: Sequence[Case], subject: Subject) -> Iterator[tuple[Law, Case]]:
    """Yield the laws and cases that tell suggestions apart: the failing cases first."""
    yield from ((tries.law, case) for case in known)
    yield from ((tries.law, case) for case in _at_length(tries, known, subject))
    values = law_named("values", subject.kind)
    yield from ((values, case) for case in _telling(values, subject))


def _all_cases(tries: Tries, known: Sequence[Case], subject: Subject) -> Iterator[tuple[Law, Case]]:
    """Yield all other laws and cases on which a suggestion is tried."""
    law = tries.law
    for one in dict.fromkeys((law, law_named("values", subject.kind))):
        if not one.not_applicable(subject):
            yield from ((one, case) for case in one.cases.ladder(subject.domain))
    if law.cases.inside is not None:
        yield from ((law, law.cases.of_block(SEED, n, subject.domain)) for n in range(RANDOM))


def _telling(values: Law, subject: Subject) -> Iterator[Case]:
    """Yield cases with one large gate in the first chunk: only errors of a wider scope grow with it later."""
    scope, inside = subject.contract.error_scope, values.cases.inside
    if not isinstance(scope, int) or inside is None:
        return
    block = subject.contract.seq_multiple_of
    S = (3 * scope + block) // block * block
    for case in values.cases.ladder(subject.domain):
        if case["gates"].shape[:2] == (1, 1):
            break
    else:
        return
    for gate in (-1e4, -1000.0, -60.0, -20.0):
        fgate = Edited(Constant(-0.0625), (((0, 0, min(1, S - 1)), gate),))
        gates = replace(case["gates"], shape=(1, 1, S), igate=Constant(0.0), fgate=fgate)
        wider = {**case, "gates": gates}
        if inside(wider, subject.domain):
            yield wider


def _at_length(tries: Tries, known: Sequence[Case], subject: Subject) -> list[Case]:
    """Return the failing cases at S = 64, where the contract allows that length."""
    block = subject.contract.seq_multiple_of
    longer = (tries.with_length(case, LENGTH // block * block or block, subject) for case in known)
    return [case for case in longer if case is not None]


def _where(tries: Tries, known: Sequence[Case], subject: Subject) -> str:
    longer = _at_length(tries, known, subject)
    at = f", at S = {longer[0]['gates'].shape[-1]}" if longer else ""
    cases = "the failing case" if len(known) == 1 else f"the {len(known)} failing cases"
    return f"tried: under it the law holds on {cases}{at}, on the ladder and on random cases."
