"""Fused kernels use the commands of D~: they are named, refused with a message, checked, replayed, graded."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flint import arb
from hypothesis import given, settings
from torch import Tensor

from dmat.strategies import QKV, Constant, Gates, Heads
from dmat.strategies.cases.fused import DENSE, EXACT, PACKED, PLACES, PROBED, RIVALS, gate_ladder
from dmat.strategies.cases.handed import CUTS, PACKED_STATES
from dmat.testing import fused
from dmat.testing.bounds.scope import no_larger
from dmat.testing.case_file import decoded, encoded
from dmat.testing.contract import FusedContract
from dmat.testing.explain.decays import read_out
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.fused import FusedSubject
from dmat.testing.oracle.fused_balls import HeadBalls
from dmat.testing.record import Record
from dmat.testing.registry import laws
from dmat.testing.run.search import Failed, search
from dmat.testing.verdict.finding import LawBroken
from dmat.testing.verdict.require import require_within

LAWS = {law.name: law for law in laws("fused")}
KERNELS = '''
"""Fused kernels: one right, others wrong, or named wrongly."""

import os
import signal

import torch
from dmat.testing import fused


def windows(l):
    S = l.shape[-1]
    causal = torch.ones(S, S, dtype=torch.bool).tril()
    sums = torch.where(causal.tril(-1), l[..., :, None].expand(*l.shape, S), 0.0).cumsum(-2)
    return sums.masked_fill(~causal, -torch.inf)


def parallel(q, k, v, l):
    return (q.float() @ k.float().mT * windows(l.float()).exp() @ v.float()).to(v.dtype)


def strict(q, k, v, l):
    return (q @ k.mT * windows(l).exp().tril(-1) @ v).to(v.dtype)


def deadly(q, k, v, l):
    return parallel(q, k, v, l) if l.shape[-1] < 2 else os.kill(os.getpid(), signal.SIGSEGV)


right = fused(parallel, factors="one", dtypes=("float32",))
kills = fused(deadly, factors="one", dtypes=("float32",))
leaves_out_the_diagonal = fused(strict, factors="one", dtypes=("float32",))
of_another_shape = fused(lambda q, k, v, l: parallel(q, k, v, l)[..., :-1, :])
of_another_dtype = fused(lambda q, k, v, l: parallel(q, k, v, l).double())
without_the_keyword = fused(parallel, states="initial_state")
without_a_state = fused(lambda q, k, v, l, initial_state=None: parallel(q, k, v, l), states="initial_state")
'''


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run dmat in a folder."""
    run = [sys.executable, "-m", "dmat.testing.cli", *arguments]
    return subprocess.run(run, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the kernels."""
    home = tmp_path_factory.mktemp("fused")
    (home / "kernels.py").write_text(KERNELS)
    return home


# Contracts


def nothing(*inputs: Tensor) -> Tensor:
    """Stand for a kernel that is never called."""
    return inputs[2]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"reads": "quadratic"}, "reads is 'quadratic'; expected one of"),
    ({"gate": "sigmoid"}, "gate is 'sigmoid'; expected one of"),
    ({"gate": "fixed"}, "expected fixed, a function"),
    ({"fixed": lambda NH: torch.zeros(NH)}, "expected fixed, a function"),
    ({"scale": "K**("}, "scale is 'K**('; expected a positive number, or an expression in K"),
    ({"scale": "__import__('os')"}, "expected a positive number, or an expression in K"),
    ({"scale": -1.0}, "scale is -1.0; expected"),
    ({"weight": "w"}, "weight (or None) is 'w'"),
    ({"weight": "dt", "gate": "preact"}, 'expected gate="log"'),
    ({"reads": "softmax", "igate": True}, "igate is True"),
    ({"layout": "SBHD"}, "layout is 'SBHD'; expected one of BHSD, BSHD"),
    ({"states": "initial state"}, "states is 'initial state'; expected the name of a keyword"),
    ({"beta_max": 2.0}, 'expected 1.0: it is a field of reads="delta" alone'),
    ({"l2norm": 1e-6}, 'expected False: it is a field of reads="delta" alone'),
    ({"reads": "delta", "beta_max": 1.5}, "beta_max is 1.5; expected 1.0 or 2.0"),
    ({"reads": "delta", "l2norm": True}, "l2norm is True; expected False, or what is added to |k|^2"),
    ({"reads": "delta", "state_layout": "BKHV"}, "state_layout (or None) is 'BKHV'; expected one of"),
    ({"reads": "delta", "doubling": 0}, "doubling is 0; expected a positive integer"),
    ({"reads": "delta", "igate": True}, "a delta rule has beta"),
    ({"reads": "delta", "positive": True}, 'positive is True with reads="delta"; expected False'),
    ({"reads": "delta", "gradient": "truncated"}, 'expected "full" or "none"'),
    ({"K": 0}, "K is 0; expected a positive integer"),
    ({"V": ()}, "V is empty"),
    ({"lengths": 64}, "lengths is 64; expected a collection"),
    ({"min_seq": 8, "max_seq": 4}, "max_seq is 4; expected at least min_seq = 8"),
    ({"i_range": (1.0, 2.0)}, "i_range is (1.0, 2.0); expected"),
    ({"i_range": 3}, "i_range is 3; expected (lowest, highest)"),
    ({"l_min": 1.0}, "l_min is 1.0; expected a finite negative number"),
    ({"eps": -1e-6}, "eps is -1e-06; expected 0 <= eps < 1"),
    ({"multiplies_in": "float8"}, "multiplies_in is 'float8'"),
    ({"factors": "two"}, "factors (or "),
    ({"grad_scope": "column"}, "grad_scope is 'column'"),
    ({"gradient": "half"}, "gradient is 'half'"),
    ({"error_scope": "sequence"}, "error_scope is 'sequence'"),
    ({"special_values": {"+inf"}}, "expected some of -inf"),
    ({"causal": "loosely"}, "causal is 'loosely'"),
    ({"homogeneous": 1}, "homogeneous is 1; expected True or False"),
]


@pytest.mark.parametrize(("fields", "why"), WRONG, ids=[why[:40] for _, why in WRONG])
def test_a_wrong_field_is_named(fields: dict[str, Any], why: str) -> None:
    """A field of a contract that is none says so: its name, its value, what was expected."""
    with pytest.raises(ValueError, match=re.escape(why)):
        fused(nothing, **fields)


def test_an_unknown_field_is_named() -> None:
    """A field that does not exist is an error that lists those that do."""
    with pytest.raises(TypeError, match=r"'chunk' is no field of fused\(\); expected .*error_scope"):
        fused(nothing, chunk=64)
    with pytest.raises(TypeError, match="'K' is no field of fused"):
        fused(nothing, reads="log", K=16)
    with pytest.raises(TypeError, match="fn is 3; expected a callable"):
        fused(3)  # type: ignore[arg-type]


def test_scale_is_arithmetic_in_K() -> None:
    """A scale is a number, or arithmetic in K, and nothing else is evaluated."""
    assert FusedContract(scale="K**-0.5").scale_of(64) == 0.125
    assert FusedContract(scale="1 / (2 * K)").scale_of(4) == 0.125
    assert FusedContract(scale=0.5).scale_of(7) == 0.5


def test_reads_log_is_a_segment_sum() -> None:
    """reads="log" lifts a function of log gates to D~, held to the laws of D~ itself."""
    lifted = fused(lambda log: log.cumsum(-1)[..., :, None] - log.cumsum(-1)[..., None, :], reads="log")
    assert Implementation.of("k", lifted).contract.kind == "D~"


# Before any law: what cannot be called


@pytest.mark.parametrize(
    ("kernel", "why"),
    [
        ("of_another_shape", "gives a torch.float32 tensor (1, 1, 0, 1) on cpu, expected a torch.float32"),
        ("of_another_dtype", "gives a torch.float64 tensor (1, 1, 1, 1) on cpu, expected a torch.float32"),
        ("without_the_keyword", "unexpected keyword argument 'initial_state'"),
        ("without_a_state", "gives no state beside o, expected (o, state)"),
    ],
)
def test_what_cannot_be_called_is_said_before_any_law(kernel: str, why: str, folder: Path) -> None:
    """A result of another shape or dtype, or a keyword that it does not know, is a clear error: exit 2."""
    done = command(folder, "check", "--first", f"kernels.py:{kernel}", "--dtype", "float32")
    assert done.returncode == 2, done.stdout + done.stderr
    assert why in done.stdout
    assert "COULD NOT BE CHECKED" in done.stdout


# A wrong kernel, from the check to the repro


def test_a_deadly_kernel_has_its_repro(folder: Path) -> None:
    """A kernel that kills its process is accused by name, and its repro makes the same call."""
    done = command(folder, "check", "--first", "kernels.py:kills", "--counterexamples", "deaths")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the process died while it called kernels.py:kills" in done.stdout
    [home] = (folder / "deaths").iterdir()
    for target, code, last in (("kernels.py:kills", 1, "BROKEN: -11"), ("kernels.py:right", 0, "FIXED")):
        repro = [sys.executable, str(home / "repro.py"), target]
        run = subprocess.run(repro, cwd=folder, capture_output=True, text=True)
        assert (run.returncode, run.stdout.splitlines()[-1]) == (code, last), run.stdout + run.stderr


def test_a_wrong_kernel_is_found_small_and_replayed(folder: Path) -> None:
    """A strict triangle falls at S = 1 with a message, a picture, and a repro that is a plain call."""
    done = command(folder, "check", "--first", "kernels.py:leaves_out_the_diagonal")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Gates('float32', (1, 1, 1))" in done.stdout
    assert "wrong" in done.stdout
    [home] = (folder / "counterexamples").iterdir()
    assert {"case.json", "repro.py", "report.md", "picture.png"} <= {file.name for file in home.iterdir()}
    repro = subprocess.run(
        [sys.executable, str(home / "repro.py")], cwd=folder, capture_output=True, text=True
    )
    assert (repro.returncode, "BROKEN" in repro.stdout) == (1, True), repro.stdout + repro.stderr
    right = [sys.executable, str(home / "repro.py"), "kernels.py:right"]
    repro = subprocess.run(right, cwd=folder, capture_output=True, text=True)
    assert (repro.returncode, "FIXED" in repro.stdout) == (0, True), repro.stdout + repro.stderr
    for kernel, code in (("leaves_out_the_diagonal", 1), ("right", 0)):
        again = command(folder, "replay", "counterexamples", "--impl", f"kernels.py:{kernel}")
        assert again.returncode == code, again.stdout + again.stderr


# Cases


def windows(log: Tensor) -> Tensor:
    S = log.shape[-1]
    causal = torch.ones(S, S, dtype=torch.bool).tril()
    sums = torch.where(causal.tril(-1), log[..., :, None].expand(*log.shape, S), 0.0).cumsum(-2)
    return sums.masked_fill(~causal, -torch.inf)


def linear(q: Tensor, k: Tensor, v: Tensor, log: Tensor) -> Tensor:
    """Right, and short."""
    o: Tensor = q.float() @ k.float().mT * windows(log.float()).exp() @ v.float()
    return o.to(v.dtype)


def normalised(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """An mLSTM without a stabiliser: right while e^i does not overflow."""
    log = torch.nn.functional.logsigmoid(f.float())
    a = q.float() @ k.float().mT * (windows(log) + i.float()[..., None, :]).exp()
    return ((a @ v.float()) / a.sum(-1, keepdim=True).abs().clamp(min=1)).to(v.dtype)


def softmax(q: Tensor, k: Tensor, v: Tensor, log: Tensor) -> Tensor:
    """Forgetting attention."""
    scores = q.float() @ k.float().mT * q.shape[-1] ** -0.5 + windows(log.float())
    o: Tensor = scores.softmax(-1) @ v.float()
    return o.to(v.dtype)


KINDS: dict[str, Callable[..., Any]] = {
    "linear": fused(linear, factors="one", zero_length=True),
    "mlstm": fused(normalised, reads="mlstm", gate="preact", igate=True, factors="one"),
    "softmax": fused(softmax, reads="softmax", scale="K**-0.5", factors="one"),
}


def subject(name: str, dtype: str = "float32", **contract: Any) -> FusedSubject:
    """Return a right kernel as a law sees it."""
    kernel = KINDS[name] if not contract else fused(linear, **contract)
    return FusedSubject(Implementation.of(name, kernel), dtype)


CASES = {
    "PROBED": PROBED,
    "DENSE": DENSE,
    "EXACT": EXACT,
    "PLACES": PLACES,
    "RIVALS": RIVALS,
    "CUTS": CUTS,
    "PACKED_STATES": PACKED_STATES,
    "PACKED": PACKED,
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", CASES)
def test_cases_are_of_their_kind(kind: str, name: str) -> None:
    """What the ladder holds and the search draws lies in the domain, and its file tells the same case."""
    domain, cases = subject(name).domain, CASES[kind]
    assert cases.inside is not None
    ladder = list(cases.ladder(domain))
    assert ladder or (kind, name) == ("EXACT", "softmax")
    for case in ladder:
        assert cases.inside(case, domain), case
        read = decoded(encoded(case))
        assert {n: repr(x) for n, x in read.items()} == {n: repr(x) for n, x in case.items()}

    @settings(max_examples=60, database=None, deadline=None)
    @given(cases.search(domain))
    def drawn(case: dict[str, Any]) -> None:
        assert cases.inside is not None
        assert cases.inside(case, domain), case

    drawn()


def _heads(gates: Gates) -> set[tuple[Any, ...]]:
    """Return length and backgrounds of each head."""
    each = [x.backgrounds if isinstance(x, Heads) else (x,) for x in (gates.igate, gates.fgate)]
    return {(gates.shape[-1], *pair) for pair in zip(*each, strict=True)}


def test_a_slow_ladder_has_the_gates_of_any_other() -> None:
    """The ladder of a slow domain tries the same gates at the same lengths, with fewer heads."""
    usual = subject("mlstm").domain
    slow = replace(usual, slow=True)
    ladders = {domain: gate_ladder(domain) for domain in (usual, slow)}
    kept, all_ = (set().union(*map(_heads, ladders[domain])) for domain in (slow, usual))
    several = {(gates.shape[-1], gates.igate, gates.fgate) for gates in ladders[usual] if gates.shape[0] > 1}
    assert all_ - several - {(1, *pair) for _, *pair in several} <= kept
    assert {S for S, *_ in kept} == {S for S, *_ in all_}
    times = {d: sum(math.prod(gates.shape) for gates in ladder) for d, ladder in ladders.items()}
    assert times[slow] <= 0.75 * times[usual]


def test_one_hot_probes_read_one_term() -> None:
    """Each column of a one-hot probe's output is a single term: E times a power of two."""
    here = subject("linear")
    gates = Gates("float32", (2, 3, 9), fgate=Constant(-0.25))
    run = here.run(gates, QKV(K=4, seed=3))
    truth = here.truth(run.inputs)
    column = here.inputs(gates, QKV(K=4, seed=3)).column
    factor = run.o[..., column] / np.where(truth.E == 0, 1, truth.E)
    causal = np.tri(9, dtype=bool) & (truth.E > 0)
    power = np.log2(np.abs(np.where(causal, factor, 1.0)))
    assert np.abs(power - np.round(power)).max() < 1e-5
    assert sorted(column) == list(range(9))


def test_small_regime_has_a_normaliser_of_one() -> None:
    """In the small regime |n| is at most 1/2, whatever the gates."""
    here = subject("mlstm")
    for igate in (-8.0, 0.0, 8.0):
        gates = Gates("float32", (1, 2, 17), Constant(igate), Constant(2.0))
        for kind in ("one-hot", "dense"):
            qkv = QKV(kind, K=4, V=0, seed=5, regime="small")
            assert np.abs(here.truth(here.read_inputs(here.inputs(gates, qkv))).n).max() <= 0.5


# Oracle and bounds


@pytest.mark.parametrize("name", KINDS)
def test_the_filter_agrees_with_balls(name: str) -> None:
    """Outputs and gradients in float64 are those of balls, within what the filter says of itself."""
    here = subject(name)
    igate = Constant(0.75) if name == "mlstm" else Constant(0.0)
    gates = Gates("float32", (1, 2, 5), igate, Constant(-0.375))
    qkv = QKV("dense", K=4, V=3, seed=2, pull=4)
    gradients = here.pull(gates, qkv)
    truth = here.truth(gradients.run.inputs)
    pulled = truth.pulled(gradients.W)
    balls = HeadBalls(here.contract, gradients.run.inputs, 0, 1, gradients.W[0, 1])

    def near(value: float, ball: arb) -> bool:
        return abs(arb(float(value)) - ball) < arb(1e-12) * (1 + abs(ball))

    for t in range(5):
        assert all(near(truth.o[0, 1, t, c], balls.o(t, c)) for c in range(3))
        assert near(pulled.dgate[0, 1, t], balls.dgate(t))
        assert near(pulled.di[0, 1, t], balls.di(t))
        assert all(near(pulled.dv[0, 1, t, c], balls.dv(t, c)) for c in range(3))
        assert all(near(pulled.dq[0, 1, t, d], balls.dq(t, d)) for d in range(4))
        assert all(near(pulled.dk[0, 1, t, d], balls.dk(t, d)) for d in range(4))


@pytest.mark.parametrize("name", KINDS)
def test_gradients_are_autograds(name: str) -> None:
    """The gradients of the oracle are autograd's of the formula in float64."""
    here = subject(name)
    gates = Gates("float32", (1, 1, 6), Constant(0.5 if name == "mlstm" else 0.0), Constant(-0.5))
    inputs = here.inputs(gates, QKV("dense", K=4, V=3, seed=7, pull=1))
    wide = {n: x.detach().double().requires_grad_() for n, x in inputs.named.items()}
    formulas: dict[str, Callable[..., Tensor]] = {"linear": linear, "mlstm": normalised, "softmax": softmax}
    with torch.no_grad():
        W = torch.from_numpy(QKV(pull=1).cotangent((1, 1, 6, 3)))
    plain = [x.squeeze(-1) if n in ("i", "g") else x for n, x in wide.items()]
    double = _in_float64(formulas[name])(*plain)
    found = dict(zip(wide, torch.autograd.grad(double, list(wide.values()), W), strict=True))
    truth = here.truth(here.read_inputs(inputs))
    pulled = truth.pulled(W.numpy())
    names = {"g": "dgate", "i": "di", "v": "dv", "q": "dq", "k": "dk"}
    for n, of in names.items():
        if n in found:
            computed = found[n].squeeze(-1).numpy() if n in ("g", "i") else found[n].numpy()
            np.testing.assert_allclose(getattr(pulled, of), computed, rtol=1e-10, atol=1e-12)


def _in_float64(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the formula without its casts to float32."""

    def run(*arguments: Tensor) -> Tensor:
        original = Tensor.float
        Tensor.float = lambda self: self  # type: ignore[method-assign,assignment,return-value]
        try:
            return formula(*arguments)
        finally:
            Tensor.float = original  # type: ignore[method-assign]

    return run


def test_no_larger_sums_those_that_are_no_larger() -> None:
    """For each entry, the errors of those of its row whose exponent is no larger, ties included."""
    exponent = np.array([[0.0, -1.0, -np.inf], [2.0, 2.0, 5.0]])[None, None]
    error = np.array([[1.0, 10.0, 0.0], [1.0, 10.0, 100.0]])[None, None]
    assert no_larger(exponent, error, exponent).tolist() == [[[[11.0, 10.0, 0.0], [11.0, 11.0, 111.0]]]]


def test_a_half_accumulator_is_out_of_bound() -> None:
    """A kernel that multiplies in bfloat16 what it promises to keep in float32 is beyond the bound."""

    def narrow(q: Tensor, k: Tensor, v: Tensor, log: Tensor) -> Tensor:
        return (q @ k.mT * windows(log).exp()) @ v

    here = FusedSubject(Implementation.of("narrow", fused(narrow, factors="one")), "bfloat16")
    record = Record("values", "narrow", "bfloat16", "cpu")
    with pytest.raises(Failed):
        search(LAWS["values"], here, record, settings(max_examples=200, database=None))


def test_findings_are_shown_as_decays() -> None:
    """What is wrong of an output is told and drawn as exp(D~)[t, s], the source for the column."""

    def shifted(q: Tensor, k: Tensor, v: Tensor, log: Tensor) -> Tensor:
        return linear(q, k, v, log.roll(1, -1))

    here = FusedSubject(Implementation.of("shifted", fused(shifted, factors="one")), "float32")
    gates = Gates("float32", (1, 1, 3), fgate=Constant(-1.0))
    run = here.run(Gates("float32", (1, 1, 3)), QKV())
    expected = here.expected(here.run_of(here.inputs(gates, QKV())))
    with pytest.raises(LawBroken) as broken:
        require_within(run.o, expected)
    shown = read_out(broken.value.finding)
    assert shown.quantity == "exp(D~)"
    assert shown.evidence is not None
    np.testing.assert_allclose(
        shown.evidence.exact[0, 0], np.tril(np.exp([[0, 0, 0], [-1, 0, 0], [-2, -1, 0]]))
    )


def test_a_field_that_is_gone_says_what_to_write() -> None:
    """An old contract with keys= is told of reads="delta"."""
    with pytest.raises(TypeError, match=r'keys.* is no field of fused.* any more; write reads="delta"'):
        fused(lambda q, k, v, log_f: q, keys="orthonormal")
