"""Read the decays exp(D~) out of a fused kernel's output: the picture and the message show them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dmat.testing.oracle.decays import Decays
from dmat.testing.verdict.finding import Evidence, Finding

QUANTITY = "exp(D~)"


def read_out(finding: Finding) -> Finding:
    """Turn a finding on an output o into one on exp(D~), if o contains exp(D~). Return others unchanged."""
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
