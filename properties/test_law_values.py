"""Laws of values: every entry is within its bound, and agrees with its parts."""

from __future__ import annotations

import numpy as np

from dmat.properties import needs
from dmat.strategies import Gates
from dmat.strategies.cases.dtilde import CUTS, GATES
from dmat.strategies.recipes.recipe import Case
from dmat.testing.bounds import delta as delta_bounds
from dmat.testing.bounds import dtilde as dtilde_bounds
from dmat.testing.bounds.fused import FusedBounds
from dmat.testing.contract import DTILDE, FUSED
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.kinds import BOTH, FORWARD
from dmat.testing.law.law import law
from dmat.testing.law.subject import Subject
from dmat.testing.oracle.gates import decay_from
from dmat.testing.verdict.require import require_agreement, require_within


@law(
    FORWARD,
    bound={DTILDE: dtilde_bounds.forward_bound, FUSED: (FusedBounds.output, *delta_bounds.RESULTS)},
    kinds=BOTH,
)
def test_law_values(subject: Subject, call: Case) -> None:
    """Every entry is within the bound{ of rounding of D~, and -inf, +inf and NaN stand where they must //:
    o[t] in column s is E[t, s] times a power of two, for every regime. Of a delta rule, every
    output and the last state are within their bounds}.

    Why: {The law that all others lean on: no entry may be further off than its own sum explains //
        One term an entry: an error of a gate, a window, a carry, a stabiliser has nowhere to hide}.
    Bound: {section 3, forward: |computed - D~| <= (1 + u) e + u |D~| + floor (Higham 2002, section 4.2) //
        docs/fused.md section 2, the output}.
    """
    run = subject.forward_on(subject.build(call))
    for name, must in subject.expected_outputs(run).items():
        subject.observe(require_within(run.of(name), must))


@law(CUTS, bound=dtilde_bounds.forward_bound)
def test_law_slices(subject: DtildeSubject, gates: Gates, cut: int) -> None:
    """D~ of a prefix or a suffix of the sequence is that part of D~, within both bounds.

    Why: A kernel may take another path at another length; the mathematics does not.
    Bound: both bounds of section 3, forward.
    """
    igate, fgate = gates.build(subject.device)
    whole = subject.forward_of(igate, fgate)
    expected = subject.expected_dtilde(whole)
    for part in (slice(0, cut), slice(cut, gates.shape[-1])):
        if part.start == part.stop and not subject.contract.zero_length:
            continue
        sliced = subject.forward_of(igate[:, :, part], fgate[:, :, part])
        where = np.s_[:, :, part, part]
        require_agreement(
            whole.dtilde[where],
            expected.part(where),
            sliced.dtilde,
            subject.expected_dtilde(sliced),
            f"D~ of the times {part.start} to {part.stop} alone differs; t and s count from there",
        )


@law(CUTS, bound=dtilde_bounds.forward_bound)
def test_law_composition(subject: DtildeSubject, gates: Gates, cut: int) -> None:
    """Windows compose: D~[t, s] = D~[m, s] + sum of log sigmoid(f) over m < k <= t, within both bounds.

    Why: States are passed on from chunk to chunk: windows must add up.
    Bound: both bounds of section 3, forward.
    """
    run = subject.forward(gates)
    expected = subject.expected_dtilde(run)
    m = min(cut, run.igate.shape[-1] - 1)
    later, earlier = np.s_[:, :, m:, : m + 1], np.s_[:, :, m : m + 1, : m + 1]
    require_agreement(
        run.dtilde[later],
        expected.part(later),
        run.dtilde[earlier],
        expected.part(earlier),
        f"against D~[m={m}, s] and the window from m to t; t counts from m",
        apart_by=decay_from(run.fgate, m)[..., None],
    )


@law(GATES, bound=dtilde_bounds.forward_bound, needs=(needs.half_precision,))
def test_law_half_precision(subject: DtildeSubject, gates: Gates) -> None:
    """A half type agrees with the float32 result of the same gates, within both bounds.

    Why: A half type is for storage; sums kept in it lose the digits that it never had.
    Bound: both bounds of section 3, forward; not bit for bit, for double rounding.
    """
    igate, fgate = gates.build(subject.device)
    half = subject.forward_of(igate, fgate)
    single = subject.in_dtype("float32")
    wide = single.forward_of(igate.float(), fgate.float())
    require_agreement(
        half.dtilde,
        subject.expected_dtilde(half),
        wide.dtilde,
        single.expected_dtilde(wide),
        "against the float32 result of the same gates",
    )
