"""Contracts: the values and the default of each field, and how functions are lifted to D~."""

from __future__ import annotations

import pydoc
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dmat.testing import Contract, FusedContract, from_segment_sum, implementation
from dmat.testing.contract import DTYPES, contract_of, rows
from dmat.testing.contract.checks import PROMOTED, flag
from dmat.testing.relax.dtilde import OPTIONS
from dmat.testing.relax.fused import OPTIONS as FUSED_OPTIONS

README = Path(__file__).resolve().parents[1] / "README.md"
KINDS = (Contract, FusedContract)

BAD: dict[str, list[Any]] = {
    "error_scope": ["windows", 0, -4, 2.5, True],
    "accumulates_in": ["float128", {"float32": "int8"}, {"int8": "float32"}],
    "dtypes": ["float32", ("float8",), ()],
    "devices": ["cpu", ("cuda:0",)],
    "masked_cotangent": ["added"],
    "special_values": ["nan", ("inf",)],
    "seq_multiple_of": [0, 1.5],
    "max_seq": [0, "long"],
    "gates": ["exact"],
    "gate_layout": ["NH B S"],
    "transforms": ["compile", ("jit",)],
    "peak_memory": [-1.0, float("inf"), "2 GiB"],
}
BAD |= {name: [None, 0, 1, "yes"] for name, row in rows(Contract).items() if row.check is flag}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in BAD.items() for v in values])
def test_a_bad_value_is_named(field: str, value: object) -> None:
    """ValueError names the field, shows the value, or the part of it that is bad, and what was expected."""
    with pytest.raises(ValueError, match=rf"^{field} .*; expected ") as caught:
        implementation(**{field: value})
    shown = ["is empty"] if value == () else [repr(value), "'float8'", "'cuda:0'", "'inf'", "'int8'", "'jit'"]
    assert any(part in str(caught.value) for part in shown)


def test_every_field_has_a_bad_value() -> None:
    """No field is left unvalidated."""
    assert set(BAD) == set(rows(Contract))


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


def test_promotion_is_torch_s() -> None:
    """The table of promoted dtypes is what torch.promote_types says."""
    for one in DTYPES:
        for other in DTYPES:
            promoted = torch.promote_types(getattr(torch, one), getattr(torch, other))
            assert getattr(torch, PROMOTED[one][other]) == promoted, (one, other)


def test_contracts_load_no_torch() -> None:
    """What is promised is stated and checked without loading torch."""
    code = "import sys; from dmat.testing import FusedContract; FusedContract(accumulates_in='float64'); "
    done = subprocess.run([sys.executable, "-c", f"{code}sys.exit('torch' in sys.modules)"], check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("kind", KINDS)
def test_help_has_every_field(kind: type[Contract | FusedContract]) -> None:
    """help() of a contract gives each field one line, with what its row says of it."""
    lines = pydoc.plain(pydoc.render_doc(kind)).splitlines()
    for name, row in rows(kind).items():
        assert [line.strip(" |") for line in lines].count(f"{name}: {row.help}") == 1, name


def test_readme_has_every_field() -> None:
    """README.md lists the fields of a contract of D~, in the order of the rows."""
    after = README.read_text().split("def dtilde(igate_preact, fgate_preact): ...\n```\n", 1)[1]
    listed = re.findall(r"`(\w+)`", after.split("`help(dmat.testing.Contract)`")[0])
    assert listed == list(rows(Contract))


def test_the_kinds_are_siblings() -> None:
    """No contract has a field that means nothing for its kind; gradients are asked for in one way."""
    assert not isinstance(FusedContract(), Contract)
    alone = {"masked_cotangent", "differentiable", "forward_mode", "second_order", "gate_layout"}
    alone |= {"transforms", "peak_memory"}
    assert set(rows(Contract)) - set(rows(FusedContract)) == alone
    assert not any(hasattr(FusedContract(), name) for name in alone)
    for contract in (Contract(), FusedContract()):
        assert contract.has_gradients
        assert not contract.without_gradients().has_gradients


@pytest.mark.parametrize(("kind", "options"), [(Contract, OPTIONS), (FusedContract, FUSED_OPTIONS)])
def test_what_may_be_given_up_stands_in_the_rows(
    kind: type[Contract | FusedContract], options: dict[str, tuple[Any, ...]]
) -> None:
    """Each row's relaxations are options of a wider contract; the strictest is the row's default."""
    for name, row in rows(kind).items():
        if isinstance(row.relaxations, tuple) and row.relaxations:
            assert options[name] == row.relaxations
            assert row.default in (options[name][0], None)  # None: implied by another field


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


def test_the_formats_of_matrix_units_are_of_float32_alone() -> None:
    """tf32x3 and bf16x3 round operands of float32; an unknown name is refused with what is known."""
    for name in ("tf32", "tf32x3", "bf16x3"):
        contract = FusedContract(reads="linear", multiplies_in=name)
        assert [contract.multiplies(dtype) for dtype in ("float32", "bfloat16")] == [name, "float32"]
    with pytest.raises(
        ValueError, match=r"^multiplies_in is 'tf32x4'; expected one of bf16x3, .*, input, tf32, tf32x3"
    ):
        FusedContract(reads="linear", multiplies_in="tf32x4")
