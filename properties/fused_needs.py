"""What a fused kernel's contract must promise for a law to apply: each returns why it does not, or None."""

from __future__ import annotations

import math
from collections.abc import Iterable

from dmat.strategies import Probe
from dmat.testing.readout.subject import FusedSubject


def gate(subject: FusedSubject) -> str | None:
    """The kernel takes a forget gate."""
    return 'contract: gate="fixed"' if subject.fused.gate == "fixed" else None


def igate(subject: FusedSubject) -> str | None:
    """The kernel takes an input gate."""
    return None if subject.fused.igate else "contract: igate=False"


def gradients(subject: FusedSubject) -> str | None:
    """The kernel has gradients."""
    return None if subject.fused.gradient != "none" else 'contract: gradient="none"'


def integers(subject: FusedSubject) -> str | None:
    """Integers in, integers out: gates of 0 or far below, signs, a scale that is a power of two."""
    contract = subject.fused
    if contract.reads == "softmax":
        return "a softmax divides: it is exact on no integers"
    if contract.weight is not None:
        return f"contract: weight={contract.weight!r}: an open gate has weight 0"
    if contract.gate == "fixed":
        return 'contract: gate="fixed"'
    for name in ("positive", "exact_sums", "homogeneous"):
        if getattr(contract, name) == (name == "positive"):
            return f"contract: {name}={getattr(contract, name)}"
    if contract.eps:
        return f"contract: eps={contract.eps:g} shifts the normaliser"
    if all(math.frexp(scale)[0] != 0.5 for _, scale in subject.domain.scales):
        return "no K makes the scale a power of two"
    return None


def homogeneous(subject: FusedSubject) -> str | None:
    """2 v gives 2 o, bit for bit."""
    return None if subject.fused.homogeneous else "contract: homogeneous=False"


def bits(subject: FusedSubject) -> str | None:
    """Rows do not depend on later ones, to the bit."""
    if not subject.contract.deterministic:
        return "contract: deterministic=False"
    return None if subject.fused.causal == "bits" else f'contract: causal="{subject.fused.causal}"'


def determinism(subject: FusedSubject) -> str | None:
    """The same call gives the same bits."""
    return None if subject.contract.deterministic else "contract: deterministic=False"


def states(subject: FusedSubject) -> str | None:
    """A state can be handed over."""
    return None if subject.fused.states else "contract: states not stated"


def packed(subject: FusedSubject) -> str | None:
    """Sequences can be packed."""
    return None if subject.fused.packed else "contract: packed not stated"


def nan(subject: FusedSubject) -> str | None:
    """Gates may be NaN."""
    return None if "nan" in subject.contract.special_values else "contract: special_values without 'nan'"


def resets(subject: FusedSubject) -> str | None:
    """Gates may be closed for good; only where entries depend on their windows alone does that reset."""
    if "-inf" not in subject.contract.special_values:
        return "contract: special_values without '-inf'"
    scope = subject.contract.error_scope
    return None if scope == "window" else f"contract: error_scope={scope!r}: -inf less -inf is no reset"


def told(subject: FusedSubject, names: Iterable[str]) -> list[str]:
    """Return the inputs whose gradients one-hot probes tell of.

    In a delta rule that of k is also of what is erased; in log space that of a v of zero is of no number.
    """
    untold = {"k"} if subject.fused.keys != "any" else set()
    untold |= {"v"} if subject.fused.positive else set()
    return [name for name in names if name not in untold]


def one_law_serves(subject: FusedSubject, probe: Probe) -> bool:
    """Whether the gradient is defined by the contract here: truncated ones only where the normaliser is 1."""
    return subject.fused.gradient == "full" or subject.fused.reads != "mlstm" or probe.regime == "small"
