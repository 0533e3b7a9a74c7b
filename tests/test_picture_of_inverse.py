"""The panel of T beside the picture of a delta rule's finding: it is the right T, and it is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmat.strategies import QKV, Constant, DeltaQKV, Gates, Ramp
from dmat.testing import fused
from dmat.testing.explain.picture.figure import draw, figure
from dmat.testing.explain.picture.inverse import inverse_of
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.delta.subject import DeltaSubject
from dmat.testing.law.kinds import subject_of
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.registry import law_named
from dmat.testing.verdict.finding import Evidence, Example, Finding, LawBroken

from .test_picture import artists, texts
from .zoo.wrong import FUSED_MUTANTS

GATES = Gates("float32", (1, 2, 11), fgate=Ramp(-0.1, -0.02, -0.05))
DENSE = DeltaQKV(kind="dense", K=4, V=3, seed=3, pull=5, keys="correlated", beta="uniform", state=1)
CASE = {"gates": GATES, "qkv": DENSE}
CHUNKS: dict[str, Any] = {"reads": "delta", "error_scope": 4, "factors": 4, "states": "state"}
WHOLE = {**CHUNKS, "error_scope": "prefix", "factors": "one"}
KDA = {**CHUNKS, "gates_by": "channel", "group": 2, "group_order": "modulo", "l2norm": 1e-6, "K": (4,)}


def never_called(*inputs: Any, **more: Any) -> None:
    """Fail: T is of the case, not of the kernel."""
    raise AssertionError("called")


def subject(**contract: Any) -> DeltaSubject:
    """Return a delta rule of this contract."""
    found = subject_of(Implementation.of("kernel", fused(never_called, **contract)), "float32")
    assert isinstance(found, DeltaSubject)
    return found


def example(quantity: str, shape: tuple[int, ...], index: tuple[int, ...], case: Any = CASE) -> Example:
    """Return a finding on this entry of a tensor of this shape."""
    wrong = np.zeros(shape, dtype=bool)
    wrong[index] = True
    evidence = Evidence(1.0 * wrong, np.zeros(shape), np.full(shape, 0.25), wrong, np.ones(shape, dtype=bool))
    return Example(case, Finding(quantity, index, "1", "0", 1.0, 0.25, evidence=evidence, what="value"))


def inverse(k: Array, beta: Array, G: Array) -> Array:
    """Return (I + A)^-1 as numpy inverts it. k: (n, K). beta: (n,). G: (n, 1) or (n, K)."""
    E = np.exp(G[:, None] - G[None])
    A = np.tril(beta[:, None] * (k[:, None] * k[None] * E).sum(-1), -1)
    return np.asarray(np.linalg.inv(np.eye(len(k)) + A))


def of_case(here: DeltaSubject, h: int, key: int, rows: slice) -> Array:
    """Return T of value head h in these rows, from the tensors that a kernel gets."""
    inputs = here.inputs(GATES, replace(DENSE, state=0))
    assert inputs.g is not None
    assert inputs.b is not None
    k, beta, g = (x.double().numpy()[0] for x in (inputs.k, inputs.b, inputs.g))
    k = k[key, rows]
    if here.contract.l2norm is not False:
        k = k / np.sqrt((k * k).sum(-1, keepdims=True) + here.contract.l2norm)
    return inverse(k, beta[h, rows, 0], np.cumsum(g[h, rows], 0))


@pytest.mark.parametrize(
    ("contract", "quantity", "shape", "index", "head", "rows", "row"),
    [
        (CHUNKS, "o", (1, 2, 11, 3), (0, 1, 5, 2), (1, 1), (4, 8), 1),
        (CHUNKS, "dl", (1, 2, 11), (0, 0, 9), (0, 0), (8, 11), 1),
        (CHUNKS, "dbeta", (1, 2, 11), (0, 1, 3), (1, 1), (0, 4), 3),
        (CHUNKS, "S", (1, 2, 4, 3), (0, 1, 2, 0), (1, 1), (8, 11), None),
        (CHUNKS, "dS0", (1, 2, 4, 3), (0, 0, 2, 0), (0, 0), (0, 4), None),
        (WHOLE, "dv", (1, 2, 11, 3), (0, 1, 7, 0), (1, 1), (0, 11), 7),
        (KDA, "dl", (1, 4, 11, 4), (0, 2, 6, 3), (2, 0), (4, 8), 2),
        (KDA, "dv", (1, 4, 11, 3), (0, 3, 1, 2), (3, 1), (0, 4), 1),
    ],
)  # fmt: skip
def test_it_is_the_inverse_where_the_entry_lies(
    contract: Any, quantity: str, shape: Any, index: Any, head: tuple[int, int], rows: Any, row: int | None
) -> None:
    """T is that of the entry's chunk and head, as numpy inverts I + A; its row is the entry's."""
    here, (h, key) = subject(**contract), head
    found = inverse_of(example(quantity, shape, index), here)
    assert found is not None
    assert (found.start, found.start + len(found.T), found.row) == (*rows, row)
    assert found.head == f"b=0, h={h}"
    np.testing.assert_allclose(found.T, of_case(here, h, key, slice(*rows)), rtol=0, atol=1e-12)


def test_a_key_head_has_the_largest_inverse_of_its_value_heads() -> None:
    """dk of a key head that two value heads share; the entry's channel has its part of the overlaps."""
    here = subject(**KDA)
    found = inverse_of(example("dk", (1, 2, 11, 4), (0, 1, 6, 3)), here)
    assert found is not None
    each = {f"b=0, h={h}": of_case(here, h, 1, slice(4, 8)) for h in (1, 3)}
    largest = max(each, key=lambda name: float(np.abs(np.tril(each[name], -1)).max()))
    assert found.head == largest
    np.testing.assert_allclose(found.T, each[largest], rtol=0, atol=1e-12)
    parts = [inverse_of(example("dk", (1, 2, 11, 4), (0, 1, 6, d)), here) for d in range(4)]
    assert sum(x.channel[1] for x in parts if x and x.channel) == pytest.approx(1)


def test_there_is_none_where_none_can_be_told() -> None:
    """Not of a sum, not in steps, not where a call is cut or changed, and not without an entry."""
    of_o = example("o", (1, 2, 11, 3), (0, 1, 5, 2))
    here = subject(**CHUNKS)
    assert inverse_of(of_o, here) is not None
    assert inverse_of(of_o, None) is None
    assert inverse_of(of_o, subject(reads="delta")) is None
    sums = subject_of(Implementation.of("sum", fused(never_called, error_scope=4, factors=4)), "float32")
    assert inverse_of(of_o, sums) is None
    assert inverse_of(replace(of_o, case={**CASE, "cut": 3}), here) is None
    assert (
        inverse_of(replace(of_o, case={**CASE, "qkv": QKV(K=4)}), here) is None
    )  # no inputs of a delta rule
    assert inverse_of(example("o", (1, 2, 6, 3), (0, 1, 5, 2)), here) is None
    assert inverse_of(Example(CASE, Finding("o", (), "None", "o", what="shape")), here) is None


def test_it_stands_beside_the_panels(tmp_path: Path) -> None:
    """A mutant's picture has T beside a matrix and beside bands, and without its subject it has none."""
    mutant = next(one for one in FUSED_MUTANTS if one.name == "delta_no_decay_in_A")
    here = subject_of(Implementation.of(mutant.name, mutant.kernel), "float32")
    for law in ("values", "forget_gradient"):
        with pytest.raises(LawBroken) as broken:
            law_named(law, "fused").check(here, **CASE)
        found = Example(CASE, broken.value.finding)
        drawn = figure([found], here)
        assert len(artists(drawn, "row of T")) == 1
        assert "T = (I + A)^-1 of b=0, h=" in texts(drawn)
        assert artists(figure([found]), "row of T") == []
        draw([found], tmp_path / "look.png", here)
        assert (tmp_path / "look.png").stat().st_size > 0


def test_equal_keys_are_large_and_foreign_ones_are_nought() -> None:
    """The title says how large T is: 1 where keys are equal and beta is 1, 0 where no two overlap."""
    gates = Gates("float32", (1, 1, 4), fgate=Constant(0.0))
    of_o = example("o", (1, 1, 4, 3), (0, 0, 3, 0))
    equal = inverse_of(
        replace(of_o, case={"gates": gates, "qkv": replace(DENSE, keys="equal", beta="one")}),
        subject(**CHUNKS),
    )
    none = inverse_of(
        replace(of_o, case={"gates": gates, "qkv": replace(DENSE, beta="zero")}), subject(**CHUNKS)
    )
    assert equal is not None
    assert none is not None
    assert equal.largest == pytest.approx(1, abs=1e-6)
    assert none.largest == 0
