"""`assert_within_bound` accepts right results at any size, rejects wrong ones, and names a wrong argument."""

from __future__ import annotations

import math
import re
import tracemalloc
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dmat
from dmat.strategies.recipes.heads import HeadForm
from dmat.testing import FusedContract, NotCovered, OutOfBound, assert_within_bound, vacuous
from dmat.testing.assertion import dtilde as dtilde_rows
from dmat.testing.assertion import rows
from dmat.testing.assertion.dtilde import DtildeHead
from dmat.testing.assertion.heads import chosen
from dmat.testing.assertion.row_bounds import judged
from dmat.testing.assertion.rows import HeadInputs
from dmat.testing.bounds.dtilde import forward_bound
from dmat.testing.bounds.formats import Bound, FusedRounding
from dmat.testing.bounds.fused import FusedBounds
from dmat.testing.contract import Contract
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.dtilde import Backward, Forward
from dmat.testing.oracle.fused import Truth
from dmat.testing.oracle.fused_inputs import CallInputs

from .zoo import channels, delta_sound, fused_sound, gate_kernels, mamba
from .zoo.asserted import drawn
from .zoo.fused_mutants import FUSED_MUTANTS
from .zoo.wrong import FUSED_MUTANTS as EVERY_MUTANT

S, K, V = 13, 3, 2
SCOPES: list[dict[str, Any]] = [
    {},
    {"error_scope": 4, "factors": 4},
    {"error_scope": "prefix", "factors": "one"},
    {"error_scope": 4, "factors": 4, "grad_scope": "prefix"},
    {"grad_scope": "suffix", "multiplies_in": "input"},
]


# Blocks of rows


def head(random: np.random.Generator, contract: FusedContract, **more: Any) -> HeadInputs:
    """Draw the inputs of two heads under a contract."""
    form = HeadForm(contract.group, contract.group_order, K if contract.by_channel else None)
    q, k = random.random((2, 1, 2 * form.parts, S, 1 if contract.by_channel else K)) + 0.1
    v = np.repeat(random.standard_normal((1, 2, S, V)), form.parts, 1)
    i = random.standard_normal((1, 2 * form.parts, S)) * contract.igate
    log = -random.random((1, 2 * form.parts, S))
    return HeadInputs(q, k, v, i, log, heads=form, gate=contract.gate, **more)


def same_bound(one: Bound, other: Bound) -> bool:
    """Return whether two bounds are the same but for the order of float64 sums."""
    alike = np.allclose(one.bound, other.bound, rtol=1e-12, atol=0)
    masks = (one.overflow, other.overflow), (one.free, other.free)
    return alike and all(np.array_equal(np.broadcast_to(b, a.shape), a) for a, b in masks)


@pytest.mark.parametrize("scope", SCOPES, ids=str)
@pytest.mark.parametrize("reads", ["linear", "mlstm", "softmax", "normalised", "channel", "packed", "mamba"])
def test_blocks_of_rows_are_the_whole_call(
    reads: str, scope: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and bounds of blocks of rows are those of the call at once, output and gradients."""
    random, more = np.random.default_rng(0), dict[str, Any]()
    kinds: dict[str, dict[str, Any]] = {
        "channel": {"gates_by": "channel"},
        "packed": {"reads": "softmax"},
        "mlstm": {"reads": "mlstm", "igate": True, "gate": "preact"},
        "mamba": {"weight": "dt", "skip": "head", "z": True},
    }
    contract = FusedContract(**{**scope, **kinds.get(reads, {"reads": reads})})
    if reads == "packed":
        more = {"begins": (0, 5), "packed": True}
    if reads == "mamba":
        more = {"D": random.standard_normal((1, 2, 1, 1)), "z": random.standard_normal((1, 2, S, V))}
    inputs = head(random, contract, **more)
    rounding, names = FusedRounding.of(contract, "float32"), "qkvgi" if contract.igate else "qkvg"
    W = random.standard_normal((1, 2, S, V))
    monkeypatch.setattr(rows, "BLOCK", 5 * S * inputs.q.shape[1])
    truth = Truth(contract, CallInputs(**{x.name: getattr(inputs, x.name) for x in fields(inputs)}))
    whole, pulled = FusedBounds(truth, contract, rounding), truth.pulled(W)
    with np.errstate(all="ignore"):
        bounds, gradients = judged(contract, inputs, rounding, W, names)
    assert gradients is not None
    assert len(inputs.spans()) == 3
    assert np.allclose(bounds.truth.o, truth.o, rtol=1e-12)
    assert np.allclose(bounds.truth.o_slack, truth.o_slack, rtol=1e-12)
    assert same_bound(bounds.output(), whole.output())
    for name in names + ("z" if contract.z else ""):
        value, bound = of_gradient(name, bounds, gradients)
        expected, allowed = of_gradient(name, whole, pulled)
        assert np.allclose(value, expected, rtol=1e-9, atol=1e-12), name
        assert same_bound(bound, allowed), name


def of_gradient(name: str, bounds: Any, pulled: Any) -> tuple[Array, Bound]:
    """Return the gradient of an input, and its bound."""
    if name in "gi":
        return (pulled.dgate, bounds.gate(pulled)) if name == "g" else (pulled.di, bounds.igate(pulled))
    return getattr(pulled, f"d{name}"), bounds.product(name, pulled)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scope", ["window", 4, "prefix", "sequence"])
def test_blocks_of_dtilde_are_the_whole_matrix(
    scope: str | int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kinds, values and bounds of D~ in blocks of rows are those of the matrix, special gates included."""
    random, wide = np.random.default_rng(1), dtype == "float64"
    igate, fgate = random.standard_normal((2, 1, 1, S))
    fgate[..., 4], fgate[..., 7], igate[..., 2] = -np.inf, np.nan, np.inf
    monkeypatch.setattr(dtilde_rows, "BLOCK", 3 * S)
    one = DtildeHead(Contract(error_scope=scope), dtype, (0, 0), igate, fgate)
    whole = Forward.of(igate, fgate, wide=wide)
    blocks = list(one.truths())
    assert len(blocks) == 5
    bound, allowed = (forward_bound(x, one.rounding) for x in (whole, blocks[2]))
    for each, block in (("kind", 0), ("magnitude", 0), ("condition", 0), ("slack", 0)):
        found = np.concatenate([getattr(x, each) for x in blocks], -2)
        assert np.allclose(found, getattr(whole, each), rtol=1e-13, atol=0), (each, block)
    found = np.concatenate([x.value.hi for x in blocks], -2)
    assert np.allclose(found, whole.value.hi, rtol=1e-14)
    assert same_bound(
        allowed, Bound(bound.bound[..., 6:9, :], bound.overflow[..., 6:9, :], bound.free[..., 6:9, :])
    )
    G = random.standard_normal((S, S))
    backward = Backward.of(fgate, G[None, None], masked_cotangent="ignored", wide=wide)
    summed = one.backward(torch.from_numpy(G))
    for name in ("column_sum", "column_count", "rectangle_count", "rectangle_sum", "total_sum", "df_slack"):
        assert np.allclose(getattr(summed, name), getattr(backward, name), rtol=1e-13), name
    assert np.allclose(summed.df.hi, backward.df.hi, rtol=1e-12)


# Right and wrong results

RIGHT = (
    fused_sound.parallel_windows,
    fused_sound.parallel_input_gate,
    fused_sound.chunks_packed,
    fused_sound.recurrent_time_first,
    fused_sound.retention,
    fused_sound.forgetting_online,
    fused_sound.mlstm_chunks,
    fused_sound.mlstm_truncated,
    delta_sound.delta_chunks,
    delta_sound.delta_steps_l2norm,
    channels.gla_chunks,
    channels.grouped_gdn,
    gate_kernels.decays,
    mamba.mamba_chunked,
    mamba.normalised_steps,
)
DECLARED = {kernel.__name__: kernel for kernel in [*fused_sound.FUSED_SOUND, *delta_sound.DELTA_SOUND]}
DECLARED |= {kernel.__name__: kernel for kernel in [*channels.CHANNELS_SOUND, *gate_kernels.GATES_SOUND]}
DECLARED |= {kernel.__name__: kernel for kernel in mamba.MAMBA_SOUND}


def of_zoo(kernel: Any, dtype: str, length: int = 32, seed: int = 0) -> Any:
    """Draw a call of a kernel of the zoo, of sizes that it takes."""
    contract = kernel.__dmat_contract__
    keys = contract.K if isinstance(contract.K, int) else (contract.K or (1, 4))[1]
    V = contract.V * 4 if isinstance(contract.V, int) else contract.V[0]
    return drawn(kernel, dtype, (1, 2, length, keys, keys if contract.V_equals_K else V), seed)


@pytest.mark.parametrize("name", [kernel.__name__ for kernel in RIGHT])
def test_a_right_kernel_is_within(name: str) -> None:
    """Output and all gradients of a right kernel are within their bounds, in float32 and in bfloat16."""
    kernel = DECLARED[name]
    for dtype in ("float32", "bfloat16"):
        call = of_zoo(kernel, dtype)
        within = call.judged(heads="all")
        assert {"o", "dq"} <= set(within.worst)
        assert 0 < max(within.worst.values()) <= 1


@pytest.mark.parametrize(
    "name",
    ["strict_triangle", "masked_by_sign", "delta_without_erasing", "one_step_of_the_future"],
)
def test_a_wrong_kernel_is_rejected(name: str) -> None:
    """One call of a wrong kernel on plain inputs is out of bound."""
    mutant = next((each for each in EVERY_MUTANT if each.name == name), None) or FUSED_MUTANTS[0]
    with pytest.raises(OutOfBound, match="not within the bound of rounding"):
        of_zoo(mutant.kernel, "float32").judged(heads="all")


@pytest.fixture
def sums() -> dict[str, Tensor]:
    """Return q, k, v, log gates, and the right output and gradients of a linear sum."""
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 40, 4, generator=random) for _ in range(3))
    g = -torch.rand(2, 3, 40, generator=random)
    leaves = [x.requires_grad_() for x in (q, k, v, g)]
    o = DECLARED["parallel_windows"](*leaves)
    W = torch.randn(o.shape, generator=random)
    gradients = torch.autograd.grad(o, leaves, W)
    named = zip(("q", "k", "v", "log_gate"), leaves, strict=True)
    found = zip(("dq", "dk", "dv", "dg"), gradients, strict=True)
    return {**dict(named), "o": o.detach(), "W": W, **dict(found)}


def of(tensors: dict[str, Tensor], *names: str) -> dict[str, Any]:
    """Return q, k, v, the gate, and other tensors by name."""
    return {name: tensors[name].detach() for name in ("q", "k", "v", "log_gate", *names)}


def test_the_message_is_that_of_a_law(sums: dict[str, Tensor]) -> None:
    """It has the entry, its value, the exact one, the error in units, the wrong entries, the promises."""
    o, dg = sums["o"].clone(), sums["dg"].clone()
    o[1, 2, 32:] *= 1.01
    dg[0, 1, 7] = math.nan
    with pytest.raises(AssertionError) as broken:
        assert_within_bound(
            o, **of(sums), factors="one", grad_output=sums["W"], gradients={"log_gate": dg}, heads="all"
        )
    lines = str(broken.value).splitlines()
    assert lines[0] == "o, dl: not within the bound of rounding"
    assert lines[1].startswith("  o[b=1, h=2, t=3")
    assert lines[2].startswith("    computed  ")
    assert lines[3].startswith("    exact     ")
    assert " x the " in lines[4]
    assert lines[5].startswith("    units ")
    assert "in the last place of float32" in lines[5]
    assert lines[6] == "  wrong in head b=1, h=2: 32 of 160 entries, rows 32 to 39, columns 0 to 3"
    assert lines[7].startswith("  1 of 6 judged heads are wrong; right: (b=0, h=0)")
    assert "  dl[b=0, h=1, k=7]" in lines
    assert "    computed  NaN" in lines
    assert lines[-2].startswith("6 of 6 heads judged")
    assert lines[-1] == "held to: reads='linear', factors='one'"
    assert broken.value.finding.index[:2] == (1, 2)  # type: ignore[attr-defined]


def test_dtilde_and_its_gradients() -> None:
    """D~ and both gradients of the operator are within; one row of one head, or a gradient of 0, is not."""
    random = torch.Generator().manual_seed(1)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        igate, fgate = (
            torch.randn(1, 2, 50, 1, generator=random).to(dtype).requires_grad_() for _ in range(2)
        )
        D = dmat.dtilde(igate, fgate)
        G = torch.randn(D.shape, generator=random).to(dtype)
        di, df = torch.autograd.grad(D, (igate, fgate), G)
        gates = igate.detach(), fgate.detach()
        pulled = {"igate_preact": di, "fgate_preact": df}
        within = assert_within_bound(D.detach(), *gates, grad_output=G, gradients=pulled)
        assert set(within.worst) == {"D~", "di", "df"}
        wrong = D.detach().clone()
        wrong[0, 1, 32:, :32] *= 1.02
        with pytest.raises(OutOfBound, match=r"wrong in head b=0, h=1: .*whose window holds the gate k = 32"):
            assert_within_bound(wrong, *gates)
        df[0, 0, 20] = 0
        with pytest.raises(OutOfBound, match="df: not within"):
            assert_within_bound(None, *gates, grad_output=G, gradients=pulled)


def test_special_gates_of_dtilde() -> None:
    """-inf and NaN must stand where the gates say."""
    igate, fgate = torch.zeros(1, 1, 6), torch.ones(1, 1, 6)
    fgate[..., 3] = -torch.inf
    igate[..., 1] = torch.nan
    D = dmat.dtilde(igate[..., None], fgate[..., None])
    assert_within_bound(D, igate, fgate)
    D[0, 0, 4, 2] = -1e30
    with pytest.raises(OutOfBound, match="-inf"):
        assert_within_bound(D, igate, fgate)


def test_only_the_heads_that_are_named(sums: dict[str, Tensor]) -> None:
    """A wrong head that is not judged is not seen, and the result says which were judged."""
    o = sums["o"].clone()
    o[1, 1] = 0
    within = assert_within_bound(o, **of(sums), heads=[(0, 1), (1, 2)])
    assert within.heads == ((0, 1), (1, 2))
    assert str(within).endswith("2 of 6 heads judged: (b=0, h=1), (b=1, h=2)")
    with pytest.raises(OutOfBound, match=r"b=1, h=1"):
        assert_within_bound(o, **of(sums), heads=[(1, 1)])


def test_heads_are_spread() -> None:
    """A default call judges the first and the last head and more between, as many as seconds allow."""
    assert chosen(None, 2, 8, 64) == chosen("all", 2, 8, 64)
    assert len(chosen(None, 8, 16, 4096)) == 1
    assert chosen(2, 4, 8, 4096) == [(0, 0), (3, 7)]


def test_layout_groups_and_packed_sequences(sums: dict[str, Tensor]) -> None:
    """Tensors may be time first; v may have more heads than q; no sequence reads the one before it."""
    first = {name: x.transpose(1, 2).contiguous() for name, x in of(sums, "o").items()}
    o = first.pop("o")
    assert_within_bound(o, **first, layout="BSHD", factors="one")
    one = {name: x[:1] for name, x in of(sums).items()}
    grouped = {**one, "q": one["q"][:, :1], "k": one["k"][:, :1]}
    repeated = [grouped[name].expand(1, 3, 40, 4) for name in "qk"]
    o = DECLARED["parallel_windows"](*repeated, one["v"], one["log_gate"])
    assert_within_bound(o, **grouped, factors="one", heads="all")
    parts = [{name: x[:, :, span] for name, x in one.items()} for span in (slice(0, 15), slice(15, 40))]
    o = torch.cat([DECLARED["parallel_windows"](*part.values()) for part in parts], 2)
    assert_within_bound(o, **one, factors="one", cu_seqlens=torch.tensor([0, 15, 40]))
    with pytest.raises(OutOfBound):
        assert_within_bound(o, **one, factors="one")


def test_states_of_a_delta_rule() -> None:
    """The last state and the gradient of the first are judged; a transposed state is not within."""
    random = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, 2, 24, n, generator=random) for n in (4, 4, 3))
    k = k / k.norm(dim=-1, keepdim=True)
    g, beta = -torch.rand(1, 2, 24, generator=random), torch.rand(1, 2, 24, generator=random)
    leaves = [x.requires_grad_() for x in (q, k, v, g, beta, torch.randn(1, 2, 4, 3, generator=random))]
    o, last = DECLARED["delta_chunks"](*leaves[:5], state=leaves[5])
    cotangents = [torch.randn(x.shape, generator=random) for x in (o, last)]
    names = ("q", "k", "v", "log_gate", "beta", "initial_state")
    pulled = dict(zip(names, torch.autograd.grad((o, last), leaves, cotangents), strict=True))
    given: dict[str, Any] = {name: x.detach() for name, x in zip(names, leaves, strict=True)}
    given |= {"reads": "delta", "error_scope": 4, "factors": 4}
    W, W_state = cotangents
    within = assert_within_bound(
        o.detach(),
        last_state=last.detach(),
        grad_output=W,
        grad_last_state=W_state,
        gradients=pulled,
        **given,
    )
    assert set(within.worst) == {"o", "S", "dq", "dk", "dv", "dl", "dbeta", "dS0"}
    with pytest.raises(OutOfBound, match="S: not within"):
        assert_within_bound(None, last_state=last.detach().flip(-1), **given)
    pulled["initial_state"] = 2 * pulled["initial_state"]
    with pytest.raises(OutOfBound, match="dS0: not within"):
        assert_within_bound(None, grad_output=W, grad_last_state=W_state, gradients=pulled, **given)


def test_fixed_gates_are_those_of_the_head() -> None:
    """With fixed gates a judged head has its own gate, not that of the first head."""
    call = of_zoo(DECLARED["retention"], "float32")
    call.judged(heads=[(0, 1)])


def test_memory_does_not_grow_with_the_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head takes blocks of rows at a time, not some 30 arrays (S, S): a quarter of that at S = 1024."""
    q, k, v = (torch.randn(1, 1, 1024, 8) for _ in range(3))
    g = torch.full((1, 1, 1024), -0.1)
    o, _ = DECLARED["chunks_of_16"](q, k, v, g)
    monkeypatch.setattr(rows, "BLOCK", 2**15)
    tracemalloc.start()
    assert_within_bound(o, q=q, k=k, v=v, log_gate=g, error_scope=16, factors=16)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30 * 8 * 1024**2 / 4


# Arguments


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"log_gate": None}, "no gate is given with gate='log'; expected log_gate"),
        ({"q": None}, "q is not given; expected q, k and v"),
        ({"v": torch.zeros(2, 3, 39, 4)}, r"q has the shape \(2, 3, 40, 4\); expected \(2, 3, 39, 4\), by v"),
        ({"foo": 1}, "assert_within_bound has no argument 'foo'; expected one of the tensors q, k, v"),
        (
            {"k": torch.zeros(2, 3, 40, 4).bfloat16()},
            "k has the dtype torch.bfloat16; expected torch.float32",
        ),
        ({"reads": "lin"}, "reads is 'lin'; expected one of"),
        ({"heads": 0}, 'heads is 0; expected "all"'),
        ({"heads": [(2, 0)]}, r"heads is \[\(2, 0\)\]; expected"),
        (
            {"log_gate": torch.full((2, 3, 40), torch.nan)},
            r"log_gate\[0, 0, 0\] is nan; expected numbers or -inf",
        ),
        ({"heads": (0, 0)}, r"heads is \(0, 0\); expected"),
        ({"heads": 1.5}, "heads is 1.5; expected"),
        ({"heads": True}, "heads is True; expected"),
        ({"log_gate": torch.full((2, 3, 40), 0.5)}, r"log_gate\[0, 0, 0\] is 0.5; expected at most 0"),
        ({"q": torch.zeros(2, 3, 40, 4, device="meta")}, "q has no values: it lies on the device meta"),
        ({"k": torch.zeros(2, 3, 40, 4).to_sparse()}, "k has the layout torch.sparse_coo; expected"),
        ({"cu_seqlens": 3}, "cu_seqlens is 3; expected"),
        ({"cu_seqlens": "ab"}, "cu_seqlens is 'ab'; expected"),
        ({"gradients": [torch.zeros(1)]}, "gradients is a list; expected a mapping"),
        ({name: torch.zeros(2, 3, 0, 4) for name in "qkv"}, r"q has the shape \(2, 3, 0, 4\); expected no"),
        ({"beta": torch.zeros(2, 3, 40)}, "beta is given with reads='linear'"),
        ({"gradients": {"k": torch.zeros(1)}}, "grad_output is None; expected the cotangent"),
        (
            {"gradients": {"kk": torch.zeros(1)}, "grad_output": torch.zeros(2, 3, 40, 4)},
            "gradients has 'kk'",
        ),
        ({"cu_seqlens": [0, 9]}, r"cu_seqlens is \[0, 9\] at B = 2"),
        ({"error_scope": "chunk"}, "error_scope is 'chunk'"),
        ({"last_state": torch.zeros(2, 3, 4, 4)}, "last_state is given with reads='linear'"),
    ],
    ids=lambda x: "" if isinstance(x, dict) else x[:30],
)
def test_a_wrong_argument_is_named(sums: dict[str, Tensor], change: dict[str, Any], words: str) -> None:
    """One line names the argument, its value, and what was expected."""
    arguments = {name: x for name, x in {**of(sums), **change}.items() if x is not None}
    with pytest.raises((TypeError, ValueError), match=words) as error:
        assert_within_bound(sums["o"], **arguments)
    assert "\n" not in str(error.value)


def test_what_has_no_bound_is_named(sums: dict[str, Tensor]) -> None:
    """NotCovered names float64, a state of a sum, a parameter, a long delta rule, in one line each."""
    wide = {name: x.double() for name, x in of(sums, "o").items()}
    with pytest.raises(NotCovered, match="float64 is not covered"):
        assert_within_bound(wide.pop("o"), **wide)
    with pytest.raises(NotCovered, match="initial_state is not covered"):
        assert_within_bound(sums["o"], **of(sums), initial_state=torch.zeros(2, 3, 4, 4))
    call = of_zoo(DECLARED["mamba_parallel"], "float32")
    with pytest.raises(NotCovered, match="the gradient of A is not covered"):
        assert_within_bound(
            None,
            **call.tensors,
            layout=call.kernel.__dmat_contract__.layout,
            grad_output=call.cotangent,
            gradients={"A": call.gradients["A"]},
        )
    long: dict[str, Any] = {name: torch.zeros(1, 1, 8192, 128) for name in ("q", "k", "v")}
    gates: dict[str, Any] = {name: torch.zeros(1, 1, 8192) for name in ("log_gate", "beta")}
    with pytest.raises(NotCovered, match='reads="delta" at S = 8192, K = 128, V = 128 is not covered'):
        assert_within_bound(long["v"], **long, **gates, reads="delta", error_scope=64, factors=64)


# Tolerances, and the README


def test_the_example_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's example prints what the README shows, but for digits."""
    after = (Path(__file__).parents[1] / "README.md").read_text().split("## In your own tests\n")[1]
    code, shown = after.split("```python\n")[1].split("```\n")[0], after.split("```\n")[2]
    with pytest.raises(OutOfBound) as broken:
        exec(code, {})
    said = f"{capsys.readouterr().out}dmat.testing.assertion.judged.OutOfBound: {broken.value}\n"
    digits = re.compile(r"[0-9][0-9.e+-]*")
    assert digits.sub("#", said) == digits.sub("#", shown)


def test_a_vacuous_tolerance() -> None:
    """A tolerance above the output passes everything; one of 1e-3 nothing; equal heads pass as each other."""
    reference = torch.randn(2, 3, 20, 4, generator=torch.Generator().manual_seed(0))
    loose = vacuous(1e-4 * reference, rtol=1e-3, atol=1e-2)
    assert loose
    assert loose.passing == loose.tried
    assert str(loose).startswith("rtol=0.001, atol=0.01 proves nothing: zeros, ")
    strict = vacuous(reference, rtol=1e-3, atol=1e-3)
    assert not strict
    assert str(strict).startswith("rtol=0.001, atol=0.001 rejects zeros, ")
    alike = vacuous(reference[:, :1].expand(2, 3, 20, 4), rtol=1e-3, atol=1e-3)
    assert alike.passing == ("the next head",)
    assert "the next batch" not in vacuous(reference[:1], rtol=0, atol=0).tried


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1.0, 0, 0), "reference is a float; expected a torch.Tensor"),
        ((torch.zeros(0, 2), 0, 0), r"reference has the shape \(0, 2\)"),
        ((torch.zeros(2), -1, 0), "rtol is -1; expected a number of at least 0"),
        ((torch.zeros(2).int(), 0, 0), "reference has the dtype int32; expected one of"),
        ((torch.zeros(2, dtype=torch.complex64), 0, 0), "reference has the dtype complex64; expected one of"),
        ((torch.full((2,), torch.nan), 0, 0), "reference holds no finite number"),
    ],
)
def test_a_wrong_tolerance_is_named(arguments: tuple[Any, ...], words: str) -> None:
    """One line names the argument."""
    with pytest.raises((TypeError, ValueError), match=words):
        vacuous(*arguments)
