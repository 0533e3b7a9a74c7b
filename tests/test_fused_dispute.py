"""A right fused kernel that promises too much: its true contract is found and shown. A bug is called one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import Phase, settings
from torch import Tensor
from torch.nn.functional import logsigmoid

from dmat.testing import fused
from dmat.testing.explain import tries
from dmat.testing.explain.message import longer, what_is_tried
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.kernel.load import load
from dmat.testing.law.fused import FusedSubject
from dmat.testing.registry import law_named
from dmat.testing.relax import search
from dmat.testing.relax.claimed import claimed
from dmat.testing.relax.dtilde import Promises
from dmat.testing.relax.search import nearest_contract, promises_of
from dmat.testing.run import shrink
from dmat.testing.verdict.finding import Example

from .zoo.channel_mutants import group_by_modulo
from .zoo.fused_ends import STATED, Style, columns_less_rows, kernel_of
from .zoo.fused_sound import by_differences, by_windows, chunkwise, in_chunks_of, product, widen
from .zoo.gate_kernels import decays
from .zoo.trial import rejection

TELLING = ("values", "forget_gradient", "output_shape", "causality")


def chunks(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    """Chunks of 16."""
    return chunkwise(16, widen(q, k, v, log_f))[0].to(v.dtype)


def prefixes(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    """Differences of one cumulative sum, in the inputs' own format."""
    return product(q, k, v, by_differences(log_f).exp())


from_the_front = kernel_of(Style(by_differences, columns_less_rows))
FRONT = {"error_scope": "prefix", "igate": True, **STATED}


def whole_chunks(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    """Chunks of 16, none of them cut short."""
    if q.shape[2] % 16:
        raise ValueError("S")
    return chunks(q, k, v, log_f)


def one_early(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    """A window that begins one gate early."""
    return product(q.float(), k.float(), v.float(), by_windows(log_f.float().roll(1, -1)).exp()).to(v.dtype)


def scaled(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    """A scale that nobody stated."""
    return chunks(q * q.shape[-1] ** -0.5, k, v, log_f)


def of_preactivations(q: Tensor, k: Tensor, v: Tensor, f: Tensor) -> Tensor:
    """Gates before their activation."""
    return product(q.float(), k.float(), v.float(), by_windows(logsigmoid(f.float())).exp()).to(v.dtype)


def of(kernel: Callable[..., Any], **stated: Any) -> Implementation:
    """Return a kernel that states no more than that."""
    return Implementation.of(kernel.__name__, fused(kernel, **stated))


# What it stands under


@pytest.fixture
def few_laws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try the laws that tell contracts apart, on their ladders and a few cases."""
    few = [law_named(name, "fused") for name in TELLING]
    monkeypatch.setattr(search, "laws", lambda of: few)
    monkeypatch.setattr(search, "EXAMPLES", 2)


STANDS: list[tuple[Callable[..., Any], dict[str, Any], tuple[str, ...], str | None]] = [
    (chunks, {}, ("float32",), "error_scope=16"),
    (chunks, {"grad_scope": "suffix"}, ("float32",), "error_scope=16"),
    (prefixes, {}, ("float32",), 'error_scope="prefix"'),
    (
        prefixes,
        {"error_scope": "prefix"},
        ("bfloat16",),
        'accumulates_in={"bfloat16": "bfloat16", "float16": "float16"}',
    ),
    (from_the_front, FRONT, ("float32",), 'grad_scope="prefix"'),
    (whole_chunks, {}, ("float32",), "error_scope=16, seq_multiple_of=16"),
    (one_early, {}, ("float32", "bfloat16"), None),
    (scaled, {}, ("float32",), None),
]


@pytest.mark.usefixtures("few_laws")
@pytest.mark.parametrize(("kernel", "stated", "dtypes", "wider"), STANDS)
def test_what_it_stands_under(
    kernel: Callable[..., Any], stated: dict[str, Any], dtypes: tuple[str, ...], wider: str | None
) -> None:
    """Of what was left at its default, no more is given up than must be; what was stated stays."""
    implementation = of(kernel, **stated)
    contract = nearest_contract(implementation, [(dtype, "cpu") for dtype in dtypes])
    if wider is None:
        assert contract is None
    else:
        assert contract is not None
        assert promises_of(implementation).written(contract) == f"dmat.testing.fused(..., {wider})"


def test_what_is_stated_is_not_given_up() -> None:
    """A promise that an author has made is no option."""
    open_: Promises = promises_of(of(chunks, error_scope=16, causal="bound"))
    assert {"error_scope", "causal", "gradient", "gates"}.isdisjoint(open_.options)
    assert {"grad_scope", "l_min", "multiplies_in"} <= set(open_.options)


# What the message says


def told(implementation: Implementation, law: str = "values") -> str:
    """Return what the message of the smallest case that breaks a law says of the contract."""
    subject, entry = FusedSubject(implementation, "float32"), law_named(law, "fused")
    found = rejection(entry, subject, QUICK)
    assert found is not None
    case = found.failure.case
    looks = [
        Example(case, found.failure.broken.finding),
        longer(entry, subject, case, lambda case: nullcontext()),
    ]
    known = [look for look in looks if look is not None]
    return "\n".join(
        what_is_tried(entry, subject, known, found.failure.known[1:], lambda case: nullcontext())
    )


QUICK = settings(max_examples=50, derandomize=True, database=None, phases=[Phase.generate, Phase.shrink])
HINTS: list[tuple[Callable[..., Any], dict[str, Any], str, str]] = [
    (chunks, {}, "values", "it is within what error_scope=16 or a wider one allows:"),
    (prefixes, {"error_scope": 16}, "values", 'it is within what error_scope="prefix" allows:'),
    (
        scaled,
        {"K": 4, "error_scope": 16},
        "values",
        'it is what scale="K**-0.5" gives, and the contract says scale=1.0',
    ),
    (of_preactivations, {}, "values", 'it is what gate="preact" gives, and the contract says gate="log"'),
    (
        from_the_front,
        FRONT,
        "forget_gradient",
        'it is within what grad_scope="prefix" allows:',
    ),
    (of_preactivations, {}, "forget_gradient", 'it is what gate="preact" gives'),
    (decays, {"gate": "log"}, "values", 'it is what gate="decay" gives, and the contract says gate="log"'),
    (
        group_by_modulo,
        {"group": 2},
        "values",
        'it is what group_order="modulo" gives, and the contract says group_order="consecutive"',
    ),
]


@pytest.mark.parametrize(("kernel", "stated", "law", "hint"), HINTS)
def test_a_misunderstanding_is_named(
    kernel: Callable[..., Any],
    stated: dict[str, Any],
    law: str,
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where another contract accounts for all entries of the case, short and long, the message names it."""
    monkeypatch.setattr(shrink, "MOST_SECONDS", float("inf"))  # a busy machine finds the same
    monkeypatch.setattr(tries, "MOST_SECONDS", float("inf"))
    lines = told(of(kernel, **stated), law)
    assert hint in lines
    assert "tried: under it the law holds on" in lines


def test_a_bug_is_no_misunderstanding() -> None:
    """What no other contract accounts for is not excused."""
    assert "allows" not in told(of(one_early))
    assert "is that meant" not in told(of(one_early))


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("fused_delta_final_is_before_last", {"state_gradients"}),
        ("fused_last_cut_off", set()),
        ("fused_packed_delta_permuted", {"state_gradients", "packed_states"}),
        ("fused_mamba_chunked", {"state_gradients"}),
    ],
)
def test_what_a_kernel_does_with_states_is_no_option(name: str, kept: set[str]) -> None:
    """A kernel whose states carry gradients, or that takes them packed, and is wrong there, has a bug."""
    assert claimed(load(f"tests.zoo.named:{name}")) == kept


def test_a_contract_may_hold_a_mapping() -> None:
    """What a kernel does with states is found where its contract states a format for each dtype."""
    formats = {"bfloat16": "bfloat16"}
    kernel = fused(in_chunks_of(4), states="state", error_scope=4, factors=4, accumulates_in=formats)
    assert claimed(Implementation.of("chunks", kernel)) == {"state_gradients"}
