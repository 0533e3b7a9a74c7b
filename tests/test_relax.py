"""A kernel that falls: a promise it never made, found and written down, or a bug, called so."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import torch
from msgspec import to_builtins
from torch import Tensor

import dmat.testing
from dmat.strategies import Constant, Gates, nan
from dmat.testing.case_file import encoded
from dmat.testing.check.judge import with_wider_contract
from dmat.testing.check.plan import planned
from dmat.testing.contract import Contract, contract_of
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.kernel.load import load
from dmat.testing.law.law import Law
from dmat.testing.record import LawRecord, Report
from dmat.testing.registry import law_named, laws
from dmat.testing.relax import dtilde, search
from dmat.testing.relax.dtilde import DtildePromises
from dmat.testing.relax.known import Counterexample
from dmat.testing.relax.search import nearest_contract

from .zoo.mutants import MUTANTS
from .zoo.sound import SOUND, Dtilde

SCHEMA = json.loads((Path(dmat.testing.__file__).parent / "check" / "report.schema.json").read_text())
STYLES = {style.__name__: style for style in SOUND}
BUGS = {mutant.name: mutant.implementation for mutant in MUTANTS}

# Laws that between them need every promise; all laws, in every dtype, take half a minute a style.
TELLING = (
    "values",
    "exact",
    "input_gradient",
    "forget_gradient",
    "masked_cotangent",
    "output_shape",
    "repeatable",
)


@pytest.fixture(autouse=True)
def few_laws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try the laws that tell contracts apart, on their ladders and a few cases."""
    torch.set_num_threads(1)
    few: list[Law] = [law_named(name) for name in TELLING]
    monkeypatch.setattr(search, "laws", lambda of: few)
    monkeypatch.setattr(search, "EXAMPLES", 2)


def found(kernel: Dtilde, *dtypes: str, **kept: object) -> Contract | None:
    """Return the contract found for a kernel that promises no more than `kept`."""
    implementation = Implementation(kernel.__name__, kernel, Contract(**kept))  # type: ignore[arg-type]
    contract = nearest_contract(implementation, [(dtype, "cpu") for dtype in dtypes or ("float32",)])
    assert contract is None or isinstance(contract, Contract)
    return contract


NO_ACCURACY = {"transforms", "peak_memory"}  # claims beyond the strictest default
DECLARED = [name for name, style in STYLES.items() if contract_of(style).stated().keys() - NO_ACCURACY]
SLOW = {"correctly_rounded_sums", "window_einsum"}  # minutes
PRIMARY = {"all_in_bfloat16": "bfloat16", "all_in_float16": "float16", "float64_by_float32": "float64"}
EXACTLY: dict[str, dict[str, object]] = {
    "cumulative_sum_difference": {"error_scope": "prefix"},
    "chunkwise_difference": {"error_scope": 16},
    "mask_added": {"error_scope": "prefix", "masked_cotangent": "summed", "special_values": ("-inf",)},
    "float64_by_float32": {"accumulates_in": {"float64": "float32"}},
    "base_two": {"exact_sums": False},
    "log_of_one_plus_exp": {"gates": "absolute"},
    "whole_chunks_only": {"seq_multiple_of": 16},
    "never_empty": {"zero_length": False},
    "forward_only": {"differentiable": False},
    "any_order": {"deterministic": False},
}


@pytest.mark.parametrize("name", [name for name in DECLARED if name not in SLOW])
def test_a_stripped_style_gets_its_contract(name: str) -> None:
    """A right kernel without its contract gets one of no wider scope, and where it is known, just its own."""
    own = contract_of(STYLES[name])
    assert isinstance(own, Contract)
    contract = found(STYLES[name], PRIMARY.get(name, "float32"), gate_layout=own.gate_layout)
    assert contract is not None
    scopes = dtilde.OPTIONS["error_scope"]
    assert scopes.index(contract.error_scope) <= scopes.index(own.error_scope)
    assert contract.stated() == EXACTLY.get(name, contract.stated())


@pytest.mark.parametrize("name", ["window_one_early", "diagonal_dropped", "slope_forgotten", "next_head"])
def test_no_contract_admits_a_bug(name: str) -> None:
    """A wrong window, gradient or head is wrong under the widest contract, in float32 as in float16."""
    assert found(BUGS[name], "float32", "float16") is None


def test_a_bug_in_one_dtype() -> None:
    """Where only some dtypes are wrong, the contract is for the others."""

    def kernel(i: Tensor, f: Tensor) -> Tensor:
        wrong = i.dtype == torch.float64
        return (BUGS["window_one_early"] if wrong else STYLES["masked_cumulative_sum"])(i, f)

    contract = found(kernel, "float32", "float64")
    assert contract is not None
    assert contract.stated() == {"dtypes": ("float32", "bfloat16", "float16")}


def test_a_counterexample_beyond_a_contract_says_nothing() -> None:
    """A case refutes only contracts that allow it: by its dtype, its length, its special values."""
    case = encoded({"gates": Gates("float32", (1, 1, 17), Constant(nan), Constant(-1.0))})
    shifted = BUGS["window_one_early"]
    for contract, refuted in (
        (Contract(), True),
        (Contract(dtypes=("float64",)), False),
        (Contract(special_values=("-inf", "+inf")), False),
        (Contract(seq_multiple_of=16), False),
        (Contract(max_seq=16), False),
    ):
        implementation = Implementation("nan", lambda i, f: shifted(i.nan_to_num(), f), contract)
        assert Counterexample("values", "float32", "cpu", case).refutes(implementation) is refuted


@pytest.mark.parametrize("name", DECLARED)
def test_the_decorator_is_the_contract(name: str) -> None:
    """What is printed to paste evaluates to the contract that was found."""

    def kernel() -> None:
        pass

    own = contract_of(STYLES[name])
    eval(DtildePromises(dtilde.OPTIONS).written(own).removeprefix("@"), {"dmat": dmat})(kernel)
    assert contract_of(kernel) == own


KERNELS = """
import os
from dmat.reference import masked_cumulative_sum

def dies_of_nothing(i, f):
    if not i.numel():
        os._exit(7)
    return masked_cumulative_sum(i, f)

def hangs(i, f):
    while True:
        pass
"""


def fallen(name: str, law: str) -> Report:
    """Return the report of a kernel of which all is known but this one law, of which it died."""
    passed = [
        LawRecord(other.name, name, "float32", "cpu", "passed") for other in laws() if other.name != law
    ]
    died = LawRecord(law, name, "float32", "cpu", "failed", ended="died")
    return Report.of(name, {}, [*passed, died])


def test_a_kernel_that_dies_takes_nothing_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The case that a kernel dies of is one that a contract must not allow."""
    monkeypatch.chdir(tmp_path)
    Path("kernels.py").write_text(KERNELS)
    name = "kernels.py:dies_of_nothing"
    report = with_wider_contract(fallen(name, "output_shape"), planned([(load(name), "float32", "cpu")]))
    assert report.stands_under is not None
    assert report.stands_under.decorator == "@dmat.testing.implementation(zero_length=False)"
    jsonschema.validate(to_builtins(report), SCHEMA)


def test_the_case_that_refutes_every_contract_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no contract is found, the result has a case that breaks its law under the widest."""
    monkeypatch.chdir(tmp_path)
    Path("kernels.py").write_text("def wrong(i, f):\n    return i + f.mT\n")
    case = encoded({"gates": Gates("float32", (1, 1, 2))})
    broken = LawRecord("values", "kernels.py:wrong", "float32", "cpu", "failed", recipe=case, ended="broken")
    found = search.stands_under(Report.of("kernels.py:wrong", {}, [broken]), [("float32", "cpu")])
    assert found.outcome == "none"
    assert [(one.law, one.dtype) for one in found.refuted_by] == [("values", "float32")]


def test_a_kernel_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit ends the search, which says that it was not searched to the end."""
    monkeypatch.chdir(tmp_path)
    Path("kernels.py").write_text(KERNELS)
    report = fallen("kernels.py:hangs", "values")
    assert search.stands_under(report, [("float32", "cpu")], seconds=5).outcome == "unfinished"


def test_a_decorated_kernel_is_left_alone() -> None:
    """Who has said what is promised is held to it."""
    own = Implementation("k.py:f", print, Contract(error_scope="prefix"))
    report = fallen("k.py:f", "values")
    assert with_wider_contract(report, planned([(own, "float32", "cpu")])) is report
