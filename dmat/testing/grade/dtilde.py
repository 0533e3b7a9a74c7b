"""The strictest accuracy class that a D~ kernel survives: docs/spec.md section 3, last paragraph.

For each case the kernel is called once. Its result is compared with the bounds of all classes that still
stand. Gates and cotangents are finite: the grade measures rounding errors, not special values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings, target
from hypothesis import strategies as st

from dmat.strategies import Constant, Cotangent, Cycle, Diagonal, Edited, Gates, MinusWindow, Ramp, Sum
from dmat.strategies.cases.canonical import cotangent_ladder, gate_ladder, ragged, shortest
from dmat.strategies.choose import between
from dmat.strategies.domain import Domain
from dmat.strategies.recipes.cotangents import draw_cotangent
from dmat.strategies.recipes.gates import special
from dmat.strategies.recipes.recipe import Case, shown
from dmat.testing.bounds.dtilde import fgate_gradient_bound, forward_bound, igate_gradient_bound
from dmat.testing.bounds.formats import Format
from dmat.testing.contract import Contract, relaxations
from dmat.testing.grade.agreement import Identity
from dmat.testing.grade.pairs_dtilde import compare
from dmat.testing.grade.result import (
    GATES,
    AccuracyClass,
    ClassResult,
    GradeResult,
    InverseResult,
    LedgerResult,
)
from dmat.testing.kernel.dtilde import Gradients, Run
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.subject import DETACHED
from dmat.testing.oracle.arithmetic import FINITE
from dmat.testing.oracle.dtilde import Backward, Forward
from dmat.testing.processes import Send
from dmat.testing.verdict.finding import Expected, Finding, LawBroken
from dmat.testing.verdict.require import require_within

EXAMPLES = 150  # random cases per dtype, after about 120 cases of the ladder


SCOPES = relaxations(Contract, "error_scope")


QUANTITIES = ("forward", "gradients")


def classes(dtype: str, quantity: str) -> list[AccuracyClass]:
    """Return the classes, strictest first. The format of a half dtype itself comes after all wider formats.

    Gradients have only the scopes "window" and "prefix": one bound holds for all scopes beyond the window.
    """
    scopes = SCOPES if quantity == "forward" else ("window", "prefix")
    pairs = [(scope, wide) for scope in scopes for wide in ("float64", "float32")]
    if dtype in ("bfloat16", "float16"):
        pairs += [(scope, dtype) for scope in scopes]
    return [AccuracyClass(*pair, gates) for pair in pairs for gates in GATES]


@dataclass(frozen=True)
class Loss:
    """The failure that eliminated a class: the wrong entry, and the case as Python."""

    finding: Finding
    case: str

    @property
    def times(self) -> float | None:
        """The error divided by its bound. None if the result is not finite or has no bound."""
        error, allowed = self.finding.error, self.finding.allowed
        return error / allowed if error is not None and allowed else None


Judge = Callable[[AccuracyClass], float]  # returns the worst error over bound; raises LawBroken beyond it


@dataclass
class Ledger:
    """The classes that a quantity still survives, strictest first, and the failures of the other classes.

    standing: worst error over bound by class. A case counts only if no class that implies this class held
    for it.
    """

    standing: dict[AccuracyClass, float | None]
    lost: dict[AccuracyClass, Loss] = field(default_factory=dict)
    cases: int = 0

    def judge(self, judge: Judge, case: Case) -> float:
        """Judge a result by all standing classes. Return the worst error over bound of the strictest left.

        If a class holds, the classes that it implies hold too and are not judged.
        """
        self.cases += 1
        held: dict[AccuracyClass, float] = {}
        for accuracy, worst in list(self.standing.items()):
            if any(stricter.implies(accuracy) for stricter in held):
                continue
            try:
                held[accuracy] = judge(accuracy)
            except LawBroken as broken:
                self.lost[accuracy] = Loss(broken.finding, shown(case))
                del self.standing[accuracy]
            else:
                self.standing[accuracy] = max(worst or 0.0, held[accuracy])
        return next(iter(held.values()), 0.0)

    @property
    def strictest(self) -> AccuracyClass | None:
        """The strictest class that still stands, or None."""
        return next(iter(self.standing), None)

    def result(self) -> LedgerResult:
        """Return the result of each class."""
        left = [_class_result(one, True, worst) for one, worst in self.standing.items()]
        lost = [
            _class_result(one, False, loss.times, "\n".join(loss.finding.lines()), loss.case)
            for one, loss in self.lost.items()
        ]
        return LedgerResult(self.strictest, self.cases, left + lost)


def _class_result(
    one: AccuracyClass, stands: bool, worst: float | None, finding: str | None = None, case: str | None = None
) -> ClassResult:
    return ClassResult(one.error_scope, one.accumulates_in, one.gates, stands, worst, finding, case)


# The result of one case, judged by any class


def judge_forward(subject: DtildeSubject, run: Run) -> Judge:
    """Return the judge of D~. The exact D~ is computed once."""
    truth = Forward.of(run.igate, run.fgate, wide=True)

    def judge(accuracy: AccuracyClass) -> float:
        bound = forward_bound(truth, accuracy.rounding(subject.dtype))
        expected = Expected("D~", truth.kind, truth.value, truth.slack, bound, truth.ball)
        return require_within(run.dtilde, expected)

    return judge


def judge_gradients(subject: DtildeSubject, gradients: Gradients) -> Judge:
    """Return the judge of both gradients. The exact gradients are computed once."""
    summed = subject.contract.masked_cotangent
    truth = Backward.of(gradients.run.fgate, gradients.G, masked_cotangent=summed, wide=True)
    kind = np.full(truth.fgate.shape, FINITE, dtype=np.int8)
    note = DETACHED if gradients.detached else ""

    def judge(accuracy: AccuracyClass) -> float:
        rounding = accuracy.rounding(subject.dtype)
        di, df = igate_gradient_bound(truth, rounding), fgate_gradient_bound(truth, rounding)
        input_gate = Expected("di", kind, truth.di, truth.di_slack, di, truth.di_ball, note)
        forget_gate = Expected("df", kind, truth.df, truth.df_slack, df, truth.df_ball, note)
        return max(require_within(gradients.di, input_gate), require_within(gradients.df, forget_gate))

    return judge


def judges(subject: DtildeSubject, case: Case) -> dict[str, Judge]:
    """Call the implementation once. Return the judge of each quantity."""
    gates, cotangent = case["gates"], case["cotangent"]
    if not subject.contract.has_gradients:
        return {"forward": _forward_alone(subject, case)}
    try:
        gradients = subject.gradients(gates, cotangent)
    except LawBroken as broken:  # its backward may have raised: what of its forward?
        return {"forward": _forward_alone(subject, case), "gradients": lost_to(broken)}
    return {
        "forward": judge_forward(subject, gradients.run),
        "gradients": judge_gradients(subject, gradients),
    }


def _forward_alone(subject: DtildeSubject, case: Case) -> Judge:
    try:
        return judge_forward(subject, subject.forward(case["gates"]))
    except LawBroken as broken:
        return lost_to(broken)


def lost_to(broken: LawBroken) -> Judge:
    """Return the judge of a call that gave no result: it fails every class."""

    def judge(accuracy: AccuracyClass) -> float:
        raise broken

    return judge


# Cases: finite gates, and cotangents that are zero above the diagonal


def finite(domain: Domain) -> Domain:
    """Return the domain without special values and without empty tensors."""
    return replace(domain, special_values=(), zero_length=False)


CANCELLING = Cotangent(Cycle((2.0**15, 2.0**-10, -(2.0**15))))  # float32 sums lose the 2^-10


HEAVY = Cotangent(Sum(Constant(2.0**-10), Diagonal(2.0**15)))  # no rectangle sum contains the diagonal


PAST_ALL_CHUNKS = 150


def telling(domain: Domain) -> Iterator[tuple[Gates, Cotangent]]:
    """Yield cases that discriminate between classes: spikes at the ends of a scope, and cancelling sums."""
    longest = [PAST_ALL_CHUNKS] if domain.seq_multiple_of == 1 and domain.max_seq is None else []
    for S in ragged(domain) + longest:
        smooth = Gates(domain.dtype, (1, 2, S), Constant(0.0), Ramp(2.0, 0.125 / S, 0.5))
        yield replace(smooth, igate=MinusWindow()), CANCELLING
        yield smooth, HEAVY
        for k in sorted({0, min(16, S // 2), S // 2, S - 1}):
            for spike in (-1e4, -Format.of(domain.dtype).largest / 4, *special(domain.special_values)):
                yield replace(smooth, fgate=Edited(smooth.fgate, (((0, 0, k), spike),))), Cotangent()


def ladder(domain: Domain) -> Iterator[Case]:
    """Yield the canonical cases. The last head and the first half of the sequence are called alone too."""
    canonical = ((gates, G) for gates in gate_ladder(finite(domain)) for G in cotangent_ladder(gates))
    for gates, cotangent in chain(canonical, telling(finite(domain))):
        B, NH, S = gates.shape
        half = S // domain.seq_multiple_of // 2 * domain.seq_multiple_of
        plain = replace(cotangent, layout="contiguous")
        yield {"gates": gates, "cotangent": plain, "head": (B - 1, NH - 1), "cut": half}


@st.composite
def random_case(draw: st.DrawFn, domain: Domain) -> Case:
    """Draw a case, with a head and a cut of the sequence that are called alone too."""
    gates = finite(domain).draw_gates(draw)
    B, NH, S = gates.shape
    return {
        "gates": gates,
        "cotangent": draw_cotangent(draw, gates, expanded=False),
        "head": (between(draw, 0, B - 1), between(draw, 0, NH - 1)),
        "cut": domain.seq_multiple_of * between(draw, 0, S // domain.seq_multiple_of),
    }


# The grade


@dataclass
class Grade:
    """The grade of one implementation in one dtype on one device.

    inverse: how a delta rule inverts I + A; None for other kernels. reason: why the implementation cannot be
    called, else "".
    """

    dtype: str
    device: str
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    identity: Identity = field(default_factory=Identity)
    inverse: InverseResult | None = None
    reason: str = ""
    seconds: float = 0.0

    def result(self) -> GradeResult:
        """Return the grade as a plain struct, which can be sent to another process."""
        ledgers = {quantity: ledger.result() for quantity, ledger in self.ledgers.items()}
        return GradeResult(
            dtype=self.dtype,
            device=self.device,
            reason=self.reason,
            uncallable=bool(self.reason),
            seconds=self.seconds,
            identity=self.identity.results(),
            forward=ledgers.get("forward"),
            gradients=ledgers.get("gradients"),
            inverse=self.inverse,
        )

    def observe(self, found: Mapping[str, Judge], case: Case, part: str) -> None:
        """Weigh one case. In the search, tell Hypothesis how near it came to taking the strictest class."""
        for quantity, judge in found.items():
            ledger = self.ledgers[quantity]
            worst = ledger.judge(judge, case)
            if ledger.strictest is not None and part == "search" and np.isfinite(worst):
                target(worst, label=f"{quantity}: {ledger.strictest}")


def grade(subject: DtildeSubject, examples: int, send: Send) -> Grade:
    """Try the ladder, then search for a case that eliminates the strictest class left.

    The search is derandomised, so that the grade is reproducible. `send` receives each case before it is
    tried.
    """
    started = time.perf_counter()
    result = Grade(subject.dtype, subject.device, reason=subject.uncallable or "")
    if not result.reason:
        for quantity in QUANTITIES if subject.contract.has_gradients else QUANTITIES[:1]:
            standing = dict.fromkeys(classes(subject.dtype, quantity))
            result.ledgers[quantity] = Ledger(standing)
        _try_all(result, subject, examples, send)
    result.seconds = round(time.perf_counter() - started, 3)
    return result


def _try_all(result: Grade, subject: DtildeSubject, examples: int, send: Send) -> None:
    def attempt(case: Case) -> None:
        if any(ledger.standing for ledger in result.ledgers.values()):
            send(shown(case))
            result.observe(judges(subject, case), case, subject.part)
            compare(subject, case, result.identity)

    for case in ladder(subject.domain):
        attempt(case)
    subject.part = "search"
    if shortest(subject.domain):
        search(random_case(subject.domain), attempt, examples)


def search(cases: st.SearchStrategy[Case], attempt: Callable[[Case], None], examples: int) -> None:
    """Try so many random cases, the same each time, led towards those that come near a bound."""

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.target],
    )
    @given(case=cases)
    def each(case: Case) -> None:
        attempt(case)

    each()
