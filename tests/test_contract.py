"""Contracts: what each field may be, what its absence promises, and how functions are lifted to D~."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dmat.testing import Contract, from_segment_sum, implementation
from dmat.testing.contract import DTYPES, contract_of

BAD: dict[str, list[Any]] = {
    "error_scope": ["windows", 0, -4, 2.5, True],
    "accumulates_in": ["float128", {"float32": "int8"}, {"int8": "float32"}],
    "dtypes": ["float32", ("float8",), ()],
    "devices": ["cpu", ("tpu",)],
    "masked_cotangent": ["added"],
    "special_values": ["nan", ("inf",)],
    "zero_length": [1, "yes"],
    "seq_multiple_of": [0, 1.5],
    "max_seq": [0, "long"],
    "differentiable": [None],
    "forward_mode": ["yes"],
    "second_order": [2],
    "exact_sums": ["no"],
    "deterministic": [0],
    "gates": ["exact"],
    "gate_layout": ["NH B S"],
    "transforms": ["compile", ("jit",)],
    "peak_memory": [-1.0, float("inf"), "2 GiB"],
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in BAD.items() for v in values])
def test_a_bad_value_is_named(field: str, value: object) -> None:
    """ValueError names the field, shows the value, or the part of it that is bad, and what was expected."""
    with pytest.raises(ValueError, match=rf"^{field} .*; expected ") as caught:
        implementation(**{field: value})
    shown = ["is empty"] if value == () else [repr(value), "'float8'", "'tpu'", "'inf'", "'int8'", "'jit'"]
    assert any(part in str(caught.value) for part in shown)


def test_every_field_has_a_bad_value() -> None:
    """No field is left unvalidated."""
    assert set(BAD) == {name for name in Contract.__dataclass_fields__ if not name.startswith("_")}


def test_an_unknown_field_is_named() -> None:
    """TypeError names the field that does not exist."""
    with pytest.raises(TypeError, match="'error_scop' is no field of a contract"):
        implementation(error_scop="prefix")


def test_fields_that_exclude_each_other() -> None:
    """A longest length below the shortest is no contract."""
    with pytest.raises(ValueError, match=r"max_seq is 8; expected at least seq_multiple_of = 16"):
        implementation(max_seq=8, seq_multiple_of=16)


def test_a_decorated_function_stays_itself() -> None:
    """The decorator adds a contract and nothing else; a bare function has the strictest."""

    def dtilde(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
        return igate_preact

    assert contract_of(dtilde) == Contract()
    assert implementation(error_scope=64)(dtilde) is dtilde
    assert contract_of(dtilde) == Contract(error_scope=64)
    assert contract_of(dtilde).stated() == {"error_scope": 64}


@pytest.mark.parametrize(
    ("accumulates_in", "formats"),
    [
        (None, ["float32", "float32", "float64", "float32"]),
        ("float32", ["float32", "float32", "float64", "float32"]),  # a floor
        (torch.float64, ["float64", "float64", "float64", "float64"]),
        ("bfloat16", ["float32", "bfloat16", "float64", "float32"]),
        ({"float64": "float32"}, ["float32", "float32", "float32", "float32"]),  # held to just that
        ({torch.float16: torch.float16}, ["float32", "float32", "float64", "float16"]),
    ],
)
def test_accumulators(accumulates_in: Any, formats: list[str]) -> None:
    """accumulates_in is promote(dtype, format) or better; only a mapping names a narrower one."""
    contract = Contract(accumulates_in=accumulates_in)
    assert DTYPES == ("float32", "bfloat16", "float64", "float16")
    assert [contract.accumulator(dtype) for dtype in DTYPES] == formats


def segsum(log_decay: Tensor, future: float = -torch.inf) -> Tensor:
    """Segment sums as Mamba-2's users have them: (..., S) -> (..., S, S)."""
    S = log_decay.shape[-1]
    causal = torch.ones(S, S, dtype=torch.bool).tril()
    sums = log_decay.unsqueeze(-1).expand(*log_decay.shape, S).masked_fill(~causal.tril(-1), 0).cumsum(-2)
    return sums.masked_fill(~causal, future)


def test_from_segment_sum() -> None:
    """A function of log decays is lifted to D~: gate, input gate, dtype, contract."""
    lifted = from_segment_sum(segsum, error_scope="prefix")
    dtilde = lifted(torch.full((1, 1, 2, 1), 64.0).half(), torch.full((1, 1, 2, 1), -128.0).half())
    assert dtilde.dtype == torch.float16
    assert dtilde.tolist() == [[[[64.0, -torch.inf], [-64.0, 64.0]]]]
    assert contract_of(lifted) == Contract(error_scope="prefix")


def test_from_segment_sum_hides_no_mask() -> None:
    """What the function leaves above the diagonal is what the laws see, whatever the input gate."""
    lifted = from_segment_sum(lambda log_decay: segsum(log_decay, future=-1e30))
    infinite = torch.full((1, 1, 2, 1), torch.inf)
    assert lifted(infinite, torch.zeros(1, 1, 2, 1))[0, 0, 0, 1].item() == torch.tensor(-1e30).item()


def test_from_segment_sum_wants_a_function() -> None:
    """TypeError names what it was given."""
    with pytest.raises(TypeError, match="segment_sum is 3; expected a callable"):
        from_segment_sum(3)  # type: ignore[arg-type]
