"""The strictest accuracy class that a fused kernel survives: error scope and accumulator, as a black box.

The method is that of dtilde.py for D~ kernels. For each case the kernel is called once, and its result is
compared with the bounds of all classes that still stand. Scope of the gradients: "window" if only rectangles
are summed, "suffix" if whole rows are summed, "prefix" if whole columns are summed. That of a delta rule is
its chunk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from dmat.strategies import QKV, Constant, Edited, Gates, Ramp
from dmat.strategies.cases.fused import PROBED
from dmat.strategies.fused_domain import FusedDomain
from dmat.strategies.recipes.qkv import DeltaQKV, is_qkv
from dmat.strategies.recipes.recipe import Case, shown
from dmat.testing.bounds.formats import FusedRounding
from dmat.testing.contract import FusedContract, relaxations
from dmat.testing.contract.written import SCOPES
from dmat.testing.grade.dtilde import Grade, Judge, Ledger, lost_to, search
from dmat.testing.grade.inverse import grade_inverse
from dmat.testing.grade.pairs_fused import identity_of
from dmat.testing.grade.result import AccuracyClass
from dmat.testing.kernel.fused import FusedGradients, FusedRun
from dmat.testing.law.fused import FusedSubject
from dmat.testing.processes import Send
from dmat.testing.verdict.finding import LawBroken
from dmat.testing.verdict.require import require_within

SPIKES = (-1000.7, -3e5, -1e7)  # after such a gate, a cumulative sum has lost the low digits


LONG_ENOUGH = 150


def classes(subject: FusedSubject, quantity: str) -> list[AccuracyClass]:
    """Return the classes, strictest first. The format of a half dtype itself comes after float32."""
    longest = subject.domain.all_lengths[-1]  # a chunk as long as the longest case is a prefix
    chunks = [s for s in SCOPES if isinstance(s, str) or s < longest]
    of_chunks = quantity == "forward" or subject.contract.erases  # a delta rule's gradients are of its chunks
    scopes = chunks if of_chunks else ["window", "suffix", "prefix"]
    narrow = [subject.dtype] if subject.dtype in ("bfloat16", "float16") else []
    formats = ["float64", "float32", *narrow]
    absolute = subject.contract.from_preact
    gates = relaxations(FusedContract, "gates") if absolute else ("relative",)
    return [AccuracyClass(scope, name, kind) for name in formats for scope in scopes for kind in gates]


def _promised(
    subject: FusedSubject, accuracy: AccuracyClass, quantity: str
) -> tuple[FusedContract, FusedRounding]:
    """Return the contract that promises this class, and its rounding."""
    wide = {subject.dtype: accuracy.accumulates_in}
    contract = replace(subject.contract, accumulates_in=wide, gates=accuracy.gates)
    if contract.erases:
        size = accuracy.error_scope
        factors = {"window": "steps", "prefix": "one"}.get(str(size), size)
        contract = replace(contract, error_scope=size, factors=factors)
    elif quantity == "forward":
        contract = replace(contract, error_scope=accuracy.error_scope)
    else:
        scope = "rectangle" if accuracy.error_scope == "window" else str(accuracy.error_scope)
        contract = replace(contract, grad_scope=scope)
    return contract, FusedRounding.of(contract, subject.dtype)


def chunked(subject: FusedSubject, forward: AccuracyClass | None) -> FusedContract:
    """Return the contract of a delta rule; if it says that nothing is summed in chunks, with those found."""
    own = subject.contract
    told = own.chunk is not None or own.error_scope == "prefix" or own.factors == "one"
    return own if told or forward is None else _promised(subject, forward, "forward")[0]


def judge_output(subject: FusedSubject, run: FusedRun) -> Judge:
    """Return the judge of the output. The exact output is computed once."""
    truth = subject.truth(run.inputs)

    def judge(accuracy: AccuracyClass) -> float:
        return require_within(run.o, subject.output_of(truth, *_promised(subject, accuracy, "forward")))

    return judge


def judge_gradients(subject: FusedSubject, gradients: FusedGradients) -> Judge:
    """Return the judge of the gradients of gates and beta. The exact gradients are computed once."""
    pulled = gradients.pulled
    names = [name for name in ("g", "i", "b") if name in gradients.tensors]

    def judge(accuracy: AccuracyClass) -> float:
        bounds = subject.bounds_under(pulled.truth, *_promised(subject, accuracy, "gradients"))
        expected = (subject.gradient_of(pulled, name, bounds) for name in names)
        return max(require_within(gradients.of(n), e) for n, e in zip(names, expected, strict=True))

    return judge


def judges(subject: FusedSubject, case: Case) -> dict[str, Judge]:
    """Call the kernel once. Return the judge of each quantity."""
    gates, qkv = case["gates"], case["qkv"]
    truncated = subject.reads.truncates and qkv.regime != "small"  # then two gradients exist, and differ
    if "gradients" not in quantities(subject) or truncated:
        return {"forward": judge_output(subject, subject.run(gates, qkv))}
    gradients = subject.pull(gates, qkv)
    return {
        "forward": judge_output(subject, gradients.run),
        "gradients": judge_gradients(subject, gradients),
    }


def quantities(subject: FusedSubject) -> tuple[str, ...]:
    """Return the graded quantities: "forward", and "gradients" if the contract has gate gradients."""
    graded = subject.contract.has_gradients and (subject.contract.gate != "fixed" or subject.contract.igate)
    return ("forward", "gradients") if graded else ("forward",)


# Cases


def telling(domain: FusedDomain) -> Iterator[Case]:
    """Yield cases that discriminate between scopes: a spike early in a chunk, then windows of small gates."""
    lengths = [S for S in domain.all_lengths if S <= max(LONG_ENOUGH, domain.all_lengths[0])]
    qkvs = [qkv for S in lengths[-1:] for qkv in _telling_qkvs(domain, domain.key_sizes(S)[0])]
    high = domain.contract.i_range[1]
    igate = Ramp(0.0, min(0.01, high / 256)) if domain.contract.igate and high > 0 else Constant(0.0)
    for S in lengths[-1:]:
        smooth = Gates(domain.dtype, (1, 2, S), igate, Ramp(-0.11, -0.0007, -0.013))
        for k in (1, 0, S // 3):
            for spike in (max(x, domain.least) for x in SPIKES):
                gates = replace(smooth, fgate=Edited(smooth.fgate, (((0, 0, k), spike), ((0, 1, k), spike))))
                for qkv in qkvs:
                    if domain.has_gates(gates) and is_qkv(qkv, gates, domain):
                        yield {"gates": gates, "qkv": qkv}
        # Small windows, and a last row whose cotangent may be 0: sums from the front leave a residue there.
        faint = replace(smooth, fgate=Constant(max(-20.7, domain.least)))
        for qkv in (replace(qkv, pull=pull) for qkv in qkvs for pull in range(1, 7)):
            if domain.has_gates(faint) and is_qkv(qkv, faint, domain):
                yield {"gates": faint, "qkv": qkv}


def _telling_qkvs(domain: FusedDomain, K: int) -> list[QKV]:
    """Return the recipes of these cases. A delta rule erases little in them, so that all windows are read."""
    if domain.scaling.erases:
        return [DeltaQKV(K=K, seed=seed, pull=seed, keys="equal", beta="tiny") for seed in (1, 2)]
    return [QKV(K=K, regime=regime) for regime in ("small", "unit")]


def ladder(subject: FusedSubject) -> Iterator[Case]:
    """Yield the discriminating cases, then the canonical cases."""
    if subject.contract.gate != "fixed":
        yield from telling(subject.domain)
    yield from PROBED.ladder(replace(subject.domain, special_values=(), zero_length=False))


# The grade


def grade_fused(subject: FusedSubject, examples: int, send: Send) -> Grade:
    """Try the ladder, then search for a case that eliminates the strictest class left.

    The search is derandomised, so that the grade is reproducible. `send` receives each case before it is
    tried.
    """
    started = time.perf_counter()
    result = Grade(subject.dtype, subject.device, reason=subject.uncallable or "")
    if not result.reason:
        for quantity in quantities(subject):
            result.ledgers[quantity] = Ledger(dict.fromkeys(classes(subject, quantity)))
        _try_all(result, subject, examples, send)
        if subject.contract.erases:
            forward = result.ledgers["forward"].strictest
            result.inverse = grade_inverse(subject, chunked(subject, forward), send)
        identity_of(subject, result.identity, send)
    result.seconds = round(time.perf_counter() - started, 3)
    return result


def _try_all(result: Grade, subject: FusedSubject, examples: int, send: Send) -> None:
    def attempt(case: Case) -> None:
        send(shown(case))
        try:
            found = judges(subject, case)
        except LawBroken as broken:
            found = dict.fromkeys(result.ledgers, lost_to(broken))
        result.observe(found, case, subject.part)

    for case in ladder(subject):
        attempt(case)
    subject.part = "search"
    domain = replace(subject.domain, special_values=(), zero_length=False)
    search(PROBED.search(domain), attempt, examples)
