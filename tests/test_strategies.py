"""Recipes: their repr builds an equal recipe, they shrink to the smallest, and they reach every regime."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from dmat import strategies
from dmat.strategies import (
    COTANGENT_LAYOUTS,
    GATE_LAYOUTS,
    Constant,
    Cotangent,
    Cycle,
    Gates,
    Heads,
    MinusWindow,
    Ramp,
    lay_out,
)
from dmat.strategies.cases import dtilde
from dmat.strategies.cases.canonical import cotangent_ladder, exact_ladder, gate_ladder
from dmat.strategies.cases.dtilde import COTANGENTS, EXACT_COTANGENTS, GATES, WINDOWS, Cases
from dmat.strategies.domain import Domain
from dmat.strategies.recipes.recipe import Case
from dmat.testing.verdict.finding import as_array

DTYPES = ("float64", "float32", "bfloat16", "float16")
SEARCH = settings(max_examples=4000, database=None, deadline=None)


def arrays(gates: Gates) -> tuple[np.ndarray, np.ndarray]:
    """Return both gates of a recipe as float64 (B, NH, S)."""
    igate, fgate = (as_array(gate)[..., 0] for gate in gates.build())
    return igate, fgate


@given(case=COTANGENTS.search(Domain("bfloat16")))
def test_repr_builds_it_again(case: Case) -> None:
    """The repr of a recipe evaluates, with the names of dmat.strategies, to one that builds the same bits."""
    again = [eval(repr(part), vars(strategies)) for part in case.values()]
    assert [repr(part) for part in again] == [repr(part) for part in case.values()]
    old, new = ((*g.build(), c.build(g)) for g, c in (case.values(), again))
    bits = [[x.contiguous().view(torch.int16) for x in built] for built in (old, new)]
    assert all(torch.equal(a, b) for a, b in zip(*bits, strict=True))


def test_the_smallest_gates() -> None:
    """Where any gates will do, the search ends at one gate of zero."""
    smallest = find(strategies.gates(), lambda gates: 0 not in gates.shape, settings=SEARCH)
    assert repr(smallest) == "Gates('float32', (1, 1, 1))"


def test_a_needed_edit_is_all_that_is_left() -> None:
    """What does not matter is shrunk away around what does."""
    found = find(strategies.gates(), lambda gates: bool((arrays(gates)[1] == -np.inf).any()), settings=SEARCH)
    assert found.shape == (1, 1, 1)
    assert found.igate == strategies.Constant(0.0)


def cancels(igate: np.ndarray, fgate: np.ndarray) -> bool:
    """Whether i[s] is minus the sum of log sigmoid(f) over the window from s to the last row."""
    with np.errstate(over="ignore", invalid="ignore"):
        decays = np.logaddexp(0.0, -fgate[..., 1:])
        sums = np.flip(np.cumsum(np.flip(decays, -1), -1), -1).astype(np.float32)
    return sums.shape[-1] > 1 and bool((sums > 1).all() and (sums == igate[..., :-1]).all())


REGIMES: dict[str, Callable[[np.ndarray, np.ndarray], bool]] = {
    "a gate of exactly 0": lambda i, f: bool((f == 0).any()),
    "exp's edge at 88": lambda i, f: bool(((abs(f) > 80) & (abs(f) < 104.5)).any()),
    "exp's edge in float64": lambda i, f: bool(((abs(f) >= 600) & (abs(f) <= 745)).any()),
    "near 17": lambda i, f: bool((abs(f - 17) <= 0.5).any()),
    "near -17": lambda i, f: bool((abs(f + 17) <= 0.5).any()),
    "torch's threshold of 20": lambda i, f: bool((abs(abs(f) - 20) <= 0.5).any()),
    "near -33": lambda i, f: bool((abs(f + 33) <= 1).any()),
    "log gates near 0 from below": lambda i, f: bool(((f > 8) & (f < 17)).any()),
    "subnormal": lambda i, f: bool(((f != 0) & (abs(f) < 2.0**-126)).any()),
    "the largest number": lambda i, f: bool((abs(f) == torch.finfo(torch.float32).max).any()),
    "a reset": lambda i, f: bool((f == -np.inf).any()),
    "open for ever": lambda i, f: bool((f == np.inf).any()),
    "NaN": lambda i, f: bool(np.isnan(f).any()),
    "a closed input gate": lambda i, f: bool((i == -np.inf).any()),
    "an infinite input gate": lambda i, f: bool((i == np.inf).any()),
    "NaN in the input gate": lambda i, f: bool(np.isnan(i).any()),
    "a spike at f[0]": lambda i, f: (
        f.size > 0 and bool((f[..., 0] <= -1e4).any() and (f[..., 1:] > -10).all())
    ),
    "i minus the window's sum": cancels,
    "no times": lambda i, f: f.shape[-1] == 0,
    "no heads": lambda i, f: f.shape[1] == 0,
    "no batches": lambda i, f: f.shape[0] == 0,
    "B, NH, S pairwise different": lambda i, f: len(set(f.shape)) == 3 and min(f.shape) > 1,
}


@pytest.mark.parametrize("regime", REGIMES)
def test_gates_reach(regime: str) -> None:
    """The search finds gates of each regime that docs/spec.md section 7 asks for."""
    find(strategies.gates(), lambda gates: REGIMES[regime](*arrays(gates)), settings=SEARCH)


@pytest.mark.parametrize("S", [1, 2, 3, 4, 5, 17, 33, 65, 129])
def test_gates_reach_length(S: int) -> None:
    """The search finds each of the shortest lengths, and those just past a block, or near it."""
    past = range(S, S + 3) if S > 5 else (S,)
    find(strategies.gates(), lambda gates: gates.shape[-1] in past, settings=SEARCH)


@pytest.mark.parametrize("layout", GATE_LAYOUTS)
def test_gates_reach_layout(layout: str) -> None:
    """The search finds gates of each layout."""
    find(strategies.gates(), lambda gates: gates.fgate_layout == layout, settings=SEARCH)


KINDS: dict[str, Callable[[np.ndarray], bool]] = {
    "heavy diagonal": lambda G: G.shape[-1] > 3 and abs(G[0, 0, 3, 3]) > 100 * abs(G[0, 0, 2:, 0]).max() > 0,
    "constant": lambda G: G.shape[-1] > 3 and bool((np.tril(G) == np.tril(np.ones_like(G))).all()),
    "sparse": lambda G: G.shape[-1] > 9 and np.count_nonzero(G) == 1,
    "zero": lambda G: G.shape[-1] > 3 and not G.any(),
    "subnormal": lambda G: bool(((G != 0) & (abs(G) < 2.0**-126)).any()),
    "2^63": lambda G: bool((abs(G) == 2.0**63).any()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_cotangents_reach(kind: str) -> None:
    """The search finds cotangents of each kind that docs/spec.md section 7 asks for."""

    def wanted(case: Case) -> bool:
        G = as_array(case["cotangent"].build(case["gates"]))
        return G.size > 0 and KINDS[kind](G)

    find(COTANGENTS.search(Domain()), wanted, settings=SEARCH)


@pytest.mark.parametrize("layout", COTANGENT_LAYOUTS)
def test_cotangents_reach_layout(layout: str) -> None:
    """The search finds cotangents of each layout, strided and expanded ones too."""
    find(COTANGENTS.search(Domain()), lambda case: bool(case["cotangent"].layout == layout), settings=SEARCH)


LARGEST = {"float64": 2.0**511, "float32": 2.0**63, "bfloat16": 2.0**63, "float16": 65504.0}


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_causal_cotangents_are_finite(dtype: str, data: st.DataObject) -> None:
    """At t >= s they are finite and at most 2^63, float64 2^511, float16 any (docs/spec.md section 2)."""
    case = data.draw(COTANGENTS.search(Domain(dtype, max_seq=20)))
    G = np.tril(as_array(case["cotangent"].build(case["gates"])))
    assert (abs(G) <= LARGEST[dtype]).all()


@pytest.mark.parametrize(
    ("dtype", "accumulator", "bits"),
    [
        ("float64", "float64", 53),
        ("float32", "float32", 24),
        ("bfloat16", "float32", 8),
        ("float16", "float32", 11),
        ("float32", "bfloat16", 8),
        ("float64", "float32", 24),
    ],
)
@settings(max_examples=60)
@given(data=st.data())
def test_exact_cases_are_exact(dtype: str, accumulator: str, bits: int, data: st.DataObject) -> None:
    """max |i| + sum |f| stays within 64 x 2^p (float16: 64 x 1023), the sum of |G| within 2^p."""
    case = data.draw(EXACT_COTANGENTS.search(Domain(dtype, accumulator)))
    igate, fgate = arrays(case["gates"])
    G = np.tril(as_array(case["cotangent"].build(case["gates"])))
    closed = np.where(np.isinf(fgate), 0.0, fgate)
    units = (abs(igate).max(-1, initial=0) + abs(closed).sum(-1)) / 64
    assert (units <= (min(1023, 2**bits) if dtype == "float16" else 2**bits)).all()
    assert (abs(G).sum((-1, -2)) <= 2**bits).all()
    assert (igate % 64 == 0).all()
    assert ((fgate == np.inf) | (fgate <= -64)).all()
    assert (closed % 64 == 0).all()
    assert (G == np.round(G)).all()


NARROW = Domain(special_values=(), zero_length=False, seq_multiple_of=16, max_seq=40)


@pytest.mark.parametrize("cases", [GATES, COTANGENTS, EXACT_COTANGENTS, WINDOWS])
@given(data=st.data())
def test_the_contract_is_kept(cases: Cases, data: st.DataObject) -> None:
    """Neither the ladder nor the search leaves the contract's lengths and values."""
    for case in [data.draw(cases.search(NARROW)), *cases.ladder(NARROW)]:
        for gates in (part for part in case.values() if isinstance(part, Gates)):
            assert gates.shape[-1] in (16, 32)
            assert 0 not in gates.shape
            assert all(np.isfinite(gate).all() for gate in arrays(gates))


INSIDE = {name: kind for name, kind in vars(dtilde).items() if isinstance(kind, Cases) and kind.inside}
DOMAINS = (
    Domain("float64", "float64"),
    Domain("bfloat16", masked_cotangent="summed"),
    Domain("float16"),
    NARROW,
)


@pytest.mark.parametrize("name", INSIDE)
@given(data=st.data())
def test_what_is_tried_is_inside(name: str, data: st.DataObject) -> None:
    """Each kind takes what its own search has for its domain."""
    domain, kind = data.draw(st.sampled_from(DOMAINS)), INSIDE[name]
    assert kind.inside is not None
    assert kind.inside(data.draw(kind.search(domain)), domain)


@pytest.mark.parametrize("name", INSIDE)
def test_the_ladder_is_inside(name: str) -> None:
    """Each kind takes every case of its own ladder, for each domain."""
    kind = INSIDE[name]
    assert kind.inside is not None
    for domain in DOMAINS:
        assert all(kind.inside(case, domain) for case in kind.ladder(domain))


ONE, TWO, EMPTY = (Gates("float32", shape) for shape in ((1, 1, 1), (1, 1, 2), (1, 0, 1)))


def filled(igate: float = 0.0, fgate: float = 0.0) -> Gates:
    """Return two times of constant gates."""
    return replace(TWO, igate=strategies.Constant(igate), fgate=strategies.Constant(fgate))


def constant(value: float = 1.0, masked: float = 0.0, layout: str = "contiguous") -> Cotangent:
    """Return a constant cotangent."""
    return Cotangent(strategies.Constant(value), masked, layout)


SUMMED = Domain(masked_cotangent="summed")
OUTSIDE: list[tuple[str, Domain, dict[str, object]]] = [
    ("GATES", Domain("float64"), {"gates": ONE}),
    ("GATES", Domain(max_seq=1), {"gates": TWO}),
    ("GATES", Domain(seq_multiple_of=4), {"gates": TWO}),
    ("GATES", Domain(zero_length=False), {"gates": EMPTY}),
    ("GATES", Domain(special_values=("-inf",)), {"gates": filled(igate=math.nan)}),
    ("GATES", Domain(special_values=("nan",)), {"gates": filled(fgate=-math.inf)}),
    ("EXACT", Domain(), {"gates": TWO}),
    ("EXACT", Domain(), {"gates": filled(32.0, -64.0)}),
    ("EXACT", Domain(), {"gates": filled(0.0, -96.0)}),
    ("EXACT", Domain(), {"gates": filled(0.0, -math.inf)}),
    ("EXACT", Domain(), {"gates": filled(2.0**30, -64.0)}),
    ("CUTS", Domain(), {"gates": TWO, "cut": 3}),
    ("CUTS", Domain(seq_multiple_of=2), {"gates": TWO, "cut": 1}),
    ("CUTS", Domain(), {"gates": EMPTY, "cut": 0}),
    ("WINDOWS", Domain(), {"gates": TWO, "rival": ONE}),
    ("WINDOWS", Domain(special_values=()), {"gates": TWO, "rival": filled(math.inf)}),
    ("WINDOWS", Domain(), {"gates": TWO, "head": (0, 1)}),
    ("WINDOWS", Domain(), {"gates": TWO, "t": 2, "s": 0}),
    ("WINDOWS", Domain(), {"gates": TWO, "t": 0, "s": 1}),
    ("WINDOWS", Domain(), {"gates": replace(TWO, fgate_layout="expanded over time")}),
    ("COTANGENTS", Domain(), {"gates": TWO, "cotangent": constant(2.0**64)}),
    ("COTANGENTS", Domain(), {"gates": TWO, "cotangent": constant(math.inf)}),
    ("COTANGENTS", Domain(), {"gates": TWO, "cotangent": constant(masked=1.0)}),
    ("FINITE_COTANGENTS", Domain(), {"gates": filled(math.inf), "cotangent": constant()}),
    ("EXACT_COTANGENTS", Domain(), {"gates": TWO, "cotangent": constant()}),
    ("EXACT_COTANGENTS", Domain(), {"gates": filled(0.0, -64.0), "cotangent": constant(0.5)}),
    ("EXACT_COTANGENTS", Domain(), {"gates": filled(0.0, -64.0), "cotangent": constant(2.0**23)}),
    ("POWERS_OF_TWO", Domain(), {"gates": TWO, "cotangent": constant(3.0)}),
    ("POWERS_OF_TWO", Domain(), {"gates": TWO, "cotangent": constant(512.0)}),
    ("MASKED_COTANGENTS", Domain(), {"gates": TWO, "cotangent": constant()}),
    ("MASKED_COTANGENTS", SUMMED, {"gates": TWO, "cotangent": constant(masked=math.nan)}),
    ("MASKED_COTANGENTS", Domain(), {"gates": TWO, "cotangent": constant(1.0, 1.0, "expanded over all")}),
    ("DIRECTIONS", Domain(), {"gates": TWO, "direction": filled(4.0), "cotangent": constant()}),
    ("DIRECTIONS", Domain(), {"gates": TWO, "direction": ONE, "cotangent": constant()}),
    ("DIRECTIONS", Domain(), {"gates": filled(math.inf), "direction": TWO, "cotangent": constant()}),
]


@pytest.mark.parametrize("number", range(len(OUTSIDE)), ids=lambda n: f"{OUTSIDE[n][0]}-{n}")
def test_what_is_not_promised_is_outside(number: int) -> None:
    """Each kind turns down a case one step beyond its domain: as a smaller one it would accuse falsely."""
    name, domain, case = OUTSIDE[number]
    inside = INSIDE[name].inside
    assert inside is not None
    assert not inside(case, domain)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ladder(dtype: str) -> None:
    """It is the same each time, begins with one gate of zero, and goes past every block."""
    ladder = gate_ladder(Domain(dtype))
    assert [repr(gates) for gates in ladder] == [repr(gates) for gates in gate_ladder(Domain(dtype))]
    assert repr(ladder[0]) == f"Gates('{dtype}', (1, 1, 1))"
    assert exact_ladder(Domain(dtype))
    zeros = [gates.shape[-1] for gates in ladder if gates == Gates(dtype, gates.shape)]
    assert [S for S in zeros if S > 3] == [17, 33, 65, 129]
    assert all(cotangent_ladder(gates) for gates in ladder)


def lengths(domain: Domain) -> list[int]:
    """Return the lengths of the ladder's cases, in its order, 0 left out."""
    return [gates.shape[-1] for gates in gate_ladder(domain) if 0 not in gates.shape]


def test_the_ladder_is_short_first() -> None:
    """Minimal lengths come first: until all of 1, 2, 3 have come there is no longer one."""
    found = lengths(Domain())
    assert found[: found.index(17)] == sorted(found[: found.index(17)])
    assert set(found[: found.index(17)]) == {1, 2, 3}


@pytest.mark.parametrize("domain", [Domain(max_seq=2), Domain(max_seq=64), Domain(seq_multiple_of=24)])
def test_the_ladder_keeps_the_contract(domain: Domain) -> None:
    """No length is beyond max_seq or between two multiples, and the shortest allowed one is there."""
    found = lengths(domain)
    assert max(found) <= (domain.max_seq or max(found))
    assert {S % domain.seq_multiple_of for S in found} == {0}
    assert min(found) == domain.seq_multiple_of


@pytest.mark.parametrize("layout", sorted(GATE_LAYOUTS | COTANGENT_LAYOUTS))
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 3, 4, 1), (1, 0, 4, 1), (2, 3, 0, 0)])
def test_layouts_show_the_same_values(layout: str, shape: tuple[int, ...]) -> None:
    """A layout changes no value, but an expanded one repeats its first slice; NaN stands around it."""
    dense = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
    shown = lay_out(dense, layout)
    for axis in range(4):
        if shown.stride(axis) == 0 and shape[axis] > 1:
            dense = dense.narrow(axis, 0, 1).expand(shape)
    assert torch.equal(shown, dense)
    storage = torch.as_strided(shown, (shown.untyped_storage().nbytes() // 4,), (1,), 0)
    around = storage.numel() - len(set(dense.reshape(-1).tolist()))
    assert int(storage.isnan().sum()) == around


def test_an_unknown_layout_is_named() -> None:
    """ValueError shows the layout and those there are."""
    with pytest.raises(ValueError, match="layout is 'diagonal'; expected one of"):
        lay_out(torch.zeros(1, 1, 1, 1), "diagonal")


def test_a_masked_cotangent_is_what_was_asked_for() -> None:
    """Above the diagonal stands `masked`, and nothing of it below."""
    G = Cotangent(strategies.Constant(1.0), masked=math.nan).build(Gates("float32", (1, 1, 3)))
    assert G.isnan().equal(~torch.ones(1, 1, 3, 3, dtype=torch.bool).tril())


def test_find_fails_where_there_is_nothing() -> None:
    """The searches above can fail: gates without special values are finite."""
    with pytest.raises(NoSuchExample):
        find(
            strategies.gates(special_values=()),
            lambda gates: not np.isfinite(arrays(gates)[1]).all(),
            settings=settings(max_examples=200, database=None),
        )


def test_minus_window_is_finite_where_its_sum_overflows() -> None:
    """A window past 2^1024 is cancelled by a finite gate: no special value that nobody declared."""
    igate, _ = arrays(Gates("float64", (1, 1, 4), MinusWindow(), Constant(-1.7e308)))
    assert np.isfinite(igate).all()


@pytest.mark.parametrize("heads", [[0], [4], [0, 1], [0, 1, 2, 3], [1, 2], [5, 0]])
def test_some_heads_keep_their_values(heads: list[int]) -> None:
    """A background restricted to some of six heads fills them as the whole one does."""
    whole = Heads((Constant(2.0), Ramp(0.0, 1.0, 5.0), Cycle((1.0, -1.0, 3.0))))
    some = whole.of(heads).fill((1, len(heads), 4))
    assert np.array_equal(some[0], whole.fill((2, 3, 4)).reshape(6, 4)[heads])


def test_a_slow_domain_has_few_heads() -> None:
    """A domain of slow calls has the lengths of any other, in the ladder and the search, with fewer heads."""
    usual, slow = Domain(), Domain(slow=True)
    shapes = {domain: [domain.draw_shape(Random(n)) for n in range(4000)] for domain in (usual, slow)}
    assert {S for *_, S in shapes[usual]} == {S for *_, S in shapes[slow]}
    heads = {d: sum(B * NH for B, NH, S in shapes[d] if S > 24) for d in shapes}
    assert heads[slow] <= 2 / 3 * heads[usual]
    ladders = {domain: gate_ladder(domain) for domain in (usual, slow)}
    assert {gates.shape[-1] for gates in ladders[usual]} == {gates.shape[-1] for gates in ladders[slow]}
    assert len(ladders[slow]) < len(ladders[usual])
