"""What is said of a cause: a sentence for each promise that a kernel does not keep, and for a bug."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmat.testing.record import What

PROMISES: Mapping[str, str] = {
    "gates": "the error of log sigmoid is absolute, as that of log(1 + exp) is",
    "float64": "float64 is summed in {}",
    "bfloat16": "bfloat16 is summed in {}",
    "float16": "float16 is summed in {}",
    "-inf": "gates of -inf are not handled",
    "+inf": "gates of +inf are not handled",
    "nan": "NaN does not stay where the formula has it",
    "zero_length": "an empty batch, head or sequence is not handled",
    "exact_sums": "sums of integers are not exact",
    "second_order": "second derivatives are wrong, and are not refused",
    "forward_mode": "forward mode is wrong, and is not refused",
    "deterministic": "the same call does not always give the same bits",
    "masked_cotangent": "masked cotangents are summed",
    "differentiable": "it has no gradients",
    "seq_multiple_of": "lengths that are no multiple of {} are not handled",
    "max_seq": "sequences longer than {} are not handled",
    "strided": "strides of q, k, v or of a state are ignored",
    "l_min": "log gates below {} are not handled",
    "accumulates_in": "the half types are summed in the half type",
    "multiplies_in": "operands of products are rounded to a narrower format",
    "doubling": "powers of A are multiplied within blocks of {} rows",
    "inverse_in": "operands inside the inversion of I + A are rounded to a narrower format",
    "causal": "rounding depends on later rows",
    "homogeneous": "2 v does not give 2 o bit for bit",
    "packed_states": "packed sequences with a state each are not taken",
    "state_gradients": "no gradients flow through states",
    "gradient": "the gradient holds the normaliser constant",
}
SCOPES = {
    "prefix": "errors grow with the whole prefix, as those of differences of cumulative sums do",
    "sequence": "errors grow with the whole sequence",
}
SCOPED = ("error_scope", "grad_scope")  # a sentence for each value
GRADIENTS = "errors of gradients grow with the whole sequence, as those of {} cumulative sums do"


def of_promises(values: Mapping[str, Any], gradients: str) -> str:
    """Return the sentence of these promises, each with its weaker value, in the kernel's words.

    gradients: "reverse" or "forward", the end from which gradients may be summed.
    """
    said = "; ".join(_of_promise(name, value, gradients) for name, value in values.items())
    return f"{said[:1].upper()}{said[1:]}."


def _of_promise(name: str, value: Any, gradients: str) -> str:
    if name == "error_scope":
        return SCOPES.get(value, f"errors grow with chunks of {value}")
    if name == "grad_scope":
        return GRADIENTS.format(gradients)
    return PROMISES.get(name, f"{name} is {{}}").format(value)


QUANTITIES = {
    "D~": "D~",
    "o": "the output",
    "di": "the gradient of the input gate",
    "df": "the gradient of the forget gate",
    "dl": "the gradient of the log gate",
    "dq": "the gradient of q",
    "dk": "the gradient of k",
    "dv": "the gradient of v",
    "dbeta": "the gradient of beta",
    "ddt": "the gradient of dt",
    "dA": "the gradient of A",
    "dA_log": "the gradient of A_log",
    "ddt_bias": "the gradient of dt_bias",
    "dD": "the gradient of D",
    "dz": "the gradient of z",
    "S": "the last state",
    "dS0": "the gradient of the first state",
    "J v": "the derivative in forward mode",
}


def of_bug(quantity: str, symptom: str, what: What = "value") -> str:
    """Return the sentence of a bug. symptom: dmat.testing.causes.compare.symptom of its finding."""
    where, _, kinds = symptom.removeprefix(quantity).partition(": ")
    computed, _, exact = kinds.partition(" for ")
    subject = QUANTITIES.get(quantity, quantity)
    subject = f"{subject[:1].upper()}{subject[1:]}"
    if what == "raised":
        return f"The call fails: {computed}."
    if what in ("shape", "memory"):
        return f"{subject}: {computed}; expected {exact}."
    if computed == exact:
        return f"{subject} is wrong{where}."
    return f"{subject} has {computed} for {exact}{where}."


ENDED = {
    "died": "The process dies in the call.",
    "did not end": "The call does not end within the time limit.",
}
