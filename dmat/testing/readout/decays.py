"""exp(D~) read out of an output: what is shown to people, entry (t, s) by entry, where each is one term."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dmat.testing.exact import Array
from dmat.testing.readout.truth import Truth
from dmat.testing.verdict import Evidence, Finding

QUANTITY = "exp(D~)"


@dataclass(frozen=True)
class Decays:
    """How exp(D~) stands in an output: in `column`, (S,), of each source, times `factor`, (B, NH, t, s)."""

    column: Array
    factor: Array

    @classmethod
    def of(cls, truth: Truth) -> Decays | None:
        """Return it where every source has a column of its own, the same in all heads; else None."""
        there = truth.seen.v != 0  # (B, NH, s, c)
        if 0 in there.shape or not (there == there[:1, :1]).all():
            return None
        one = there[0, 0]
        if not ((one.sum(0) <= 1).all() and (one.sum(1) == 1).all()):
            return None
        column = one.argmax(1)
        values = np.take_along_axis(truth.seen.v, column[None, None, :, None], -1)[..., 0]
        factor = truth.reads.coefficient(truth.weight * np.ones_like(truth.E), truth.products)
        factor = factor * values[..., None, :] / truth.normaliser
        return cls(column, factor) if (factor != 0).all() and np.isfinite(factor).all() else None

    def read(self, output: Array) -> Array:
        """Return exp(D~), (B, NH, t, s), of an output, (B, NH, t, c)."""
        return output[..., self.column] / self.factor


def read_out(finding: Finding) -> Finding:
    """Return a finding on an output as one on exp(D~), where that stands in it; any other as it is."""
    evidence = finding.evidence
    if finding.quantity != "o" or evidence is None or evidence.decays is None:
        return finding
    decays: Decays = evidence.decays
    sources = np.flatnonzero(decays.column == finding.index[-1])
    if len(sources) != 1 or evidence.wrong.shape[-2] != len(decays.column):
        return finding
    with np.errstate(invalid="ignore", over="ignore"):
        shown = Evidence(
            decays.read(evidence.computed),
            decays.read(evidence.exact),
            np.abs(decays.read(evidence.allowed)),
            evidence.wrong[..., decays.column],
            evidence.judged[..., decays.column],
        )
    index = (*finding.index[:-1], int(sources[0]))
    return replace(finding, quantity=QUANTITY, index=index, evidence=shown)
