"""A second oracle of gradients: autograd of the reference formula, in float64."""

from __future__ import annotations

import torch

from dmat.reference import vlstm_fw_Dtildemat
from dmat.testing.bounds.formats import Format, Rounding
from dmat.testing.kernel.dtilde import Gradients
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.verdict.finding import Expected

# The formula is a difference of cumulative sums; its gradient is a sum over whole rows.
ROUNDING = Rounding(Format.of("float64"), Format.of("float64"), error_scope="prefix")


def reference_gradients(
    subject: DtildeSubject, gradients: Gradients
) -> tuple[Gradients, tuple[Expected, Expected]]:
    """Pull the same cotangent back through the formula; return its gradients, and their allowed errors."""
    igate, fgate = (
        torch.from_numpy(gate).unsqueeze(-1).requires_grad_()
        for gate in (gradients.run.igate, gradients.run.fgate)
    )
    G = torch.from_numpy(gradients.G)
    if subject.contract.masked_cotangent == "ignored":
        G = G.tril()  # the formula's own backward also sums the cotangents above the diagonal
    pulled = torch.autograd.grad(vlstm_fw_Dtildemat(igate, fgate), (igate, fgate), G)
    reference = Gradients(gradients.run, gradients.G, (pulled[0], pulled[1]))
    return reference, subject.expected_gradients(gradients, ROUNDING)
