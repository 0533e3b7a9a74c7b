"""What failures have wrong: which quantities, and by how much."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from dmat.testing.causes.compare import GENERAL
from dmat.testing.causes.failure import Failure

STRUCTURAL = 1e3  # a larger error over its bound is no rounding
OUTPUTS = ("D~", "o", "S", "exp(D~)", "call")
STATE_GRADIENT = "dS0"
HANDING = ("handover", "packed_states")
# Laws of one call and of any gates
OF_VALUES = (*GENERAL, "dense", "product_gradients", "beta_gradient", "state_gradient", "parameter_gradients")


def is_structural(failure: Failure) -> bool:
    """Whether a failure is further off than rounding can be."""
    finding = failure.finding
    if finding is None or finding.what != "value":
        return True
    if finding.error is not None:
        return finding.error > STRUCTURAL * (finding.allowed or 0.0)
    computed, exact = (float(text) for text in (finding.computed, finding.exact))
    unit = torch.finfo(getattr(torch, failure.subject.dtype)).eps * max(abs(computed), abs(exact))
    return not abs(computed - exact) <= STRUCTURAL * unit


def is_output(failure: Failure) -> bool:
    """Whether an output is wrong, or nothing is known of what is."""
    return failure.finding is None or failure.finding.quantity in OUTPUTS


def compares_what_is_wrong(known: Iterable[Failure], failure: Failure) -> bool:
    """Whether a law that compares calls fails in a quantity in which the known failures have wrong values."""
    plain = {_without_place(one.symptom) for one in known if one.law.name in OF_VALUES}
    return failure.law.name not in OF_VALUES and _without_place(failure.symptom) in plain


def has_wrong_all_of(known: Sequence[Failure], others: Iterable[Failure]) -> bool:
    """Whether the known failures have wrong values in all quantities in which the laws of others fail."""
    return all(failure.finding and compares_what_is_wrong(known, failure) for failure in others)


def has_wrong_gradients_of(known: Iterable[Failure], others: Iterable[Failure]) -> bool:
    """Whether all failures are of gradients, and those of others are wrong in a known one, in that dtype.

    Known failures of an output too may be of a bug in the output, which makes gradients wrong.
    """
    told, more = _wrong_gradients(known), _wrong_gradients(others)
    return None not in told and None not in more and more <= told


def has_wrong_state_gradient_of(known: Iterable[Failure], others: Iterable[Failure]) -> bool:
    """Whether others fail in gradients where a state is handed over, and the state's own is known wrong."""
    told = {one.subject.dtype for one in known if one.finding and one.finding.quantity == STATE_GRADIENT}
    return all(
        one.law.name in HANDING and one.finding and not is_output(one) and one.subject.dtype in told
        for one in others
    )


def _wrong_gradients(failures: Iterable[Failure]) -> set[tuple[str, str] | None]:
    """Return the quantity and dtype of each wrong gradient; None for what is no finite wrong gradient."""
    return {
        (failure.finding.quantity, failure.subject.dtype)
        if failure.finding and not is_output(failure) and failure.finding.what == "value"
        else None
        for failure in failures
    }


def _without_place(sign: str) -> str:
    """Return a symptom without the place of the entry: the quantity, and the kinds of both values."""
    quantity, _, kinds = sign.partition(": ")
    return f"{quantity.split(' ')[0]}: {kinds}"
