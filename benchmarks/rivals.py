"""How many examples a second one law gets from our recipes, and from arrays drawn element by element."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from dmat.reference import masked_cumulative_sum
from dmat.strategies.shapes import shapes
from dmat.testing.causes.known import Cell
from dmat.testing.contract import Contract
from dmat.testing.fuzzing.messages import Turn
from dmat.testing.fuzzing.profile import fuzzing
from dmat.testing.fuzzing.turn import Going
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.run.session import Session
from dmat.testing.verdict.require import require_within

Pair = st.SearchStrategy[tuple[Tensor, Tensor]]
ROUNDS = 5
EXAMPLES = 60  # a call of Hypothesis
SHORT = 24  # what element-by-element strategies can draw densely at all


@dataclass(frozen=True)
class Rival:
    """Who draws, up to which length, how many examples a second: the median, and the extremes."""

    name: str
    longest: int
    rate: float
    spread: str


def rates(seconds: float) -> list[Rival]:
    """Time each for about so many seconds, in turns; return the medians of the rates."""
    kernel = Implementation("kernel", masked_cumulative_sum, Contract())
    runs: dict[tuple[str, int], Callable[[], int]] = {}
    for longest in (SHORT, 262):
        runs[("dmat.strategies, as dmat fuzz draws", longest)] = _ours(kernel, longest, targeted=False)
        runs[("dmat.strategies, led by target()", longest)] = _ours(kernel, longest, targeted=True)
        for name, pairs in _element_by_element(longest).items():
            runs[(name, longest)] = _theirs(kernel, pairs)
    found: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    for _ in range(ROUNDS):
        for key, run in runs.items():
            found[key].append(_rate(run, seconds / ROUNDS))
    return [Rival(*key, median(rates), _spread(rates)) for key, rates in found.items()]


def _spread(rates: list[float]) -> str:
    return f"{min(rates):.0f} to {max(rates):.0f}"


def _rate(run: Callable[[], int], seconds: float) -> float:
    began, examples = time.perf_counter(), 0
    while time.perf_counter() - began < seconds or not examples:
        examples += run()
    return examples / (time.perf_counter() - began)


def _ours(kernel: Implementation, longest: int, *, targeted: bool) -> Callable[[], int]:
    """Return a turn of the law on recipes, the database and all."""
    folder = Path(tempfile.mkdtemp(prefix="dmat-benchmark-"))
    contract = Contract(max_seq=longest)
    subject, number = DtildeSubject(Implementation(kernel.name, kernel.function, contract), "float32"), 0

    def run() -> int:
        nonlocal number
        number += 1
        turn = Turn("1", Cell("values", "kernel", "float32", "cpu"), number, 0.5, targeted=targeted)
        return Going(turn, subject, Session(), fuzzing(folder), folder, time.time() + 60).go().examples

    return run


def _element_by_element(longest: int) -> dict[str, Pair]:
    """Return pairs of gates (B, NH, S, 1) of the same shapes, from strategies of numpy and torch arrays."""
    shape = shapes(zero_length=False, max_seq=longest).map(lambda shape: (*shape, 1))
    floats = st.floats(-1e4, 1e4, width=32)

    def dense(shape: tuple[int, ...]) -> Pair:
        one = arrays(np.float32, shape, elements=floats, fill=st.nothing()).map(torch.from_numpy)
        return st.tuples(one, one)

    def filled(shape: tuple[int, ...]) -> Pair:
        one = arrays(np.float32, shape, elements=floats).map(torch.from_numpy)
        return st.tuples(one, one)

    found = {"hypothesis.extra.numpy.arrays": shape.flatmap(filled)}
    if longest <= SHORT:
        found["hypothesis.extra.numpy.arrays, dense"] = shape.flatmap(dense)
    try:
        from hypothesis_torch import tensor_strategy
    except ImportError:
        return found

    def tensors(shape: tuple[int, ...]) -> Pair:
        cpu, dense = torch.device("cpu"), torch.strided
        one = tensor_strategy(
            torch.float32, shape, elements=floats, device=cpu, layout=dense, requires_grad=False
        )
        return st.tuples(one, one)

    return {**found, "hypothesis_torch.tensor_strategy": shape.flatmap(tensors)}


def _theirs(kernel: Implementation, pairs: Pair) -> Callable[[], int]:
    """Return a search of the same law on these gates: the same call, oracle and bound."""
    subject, examples = DtildeSubject(kernel, "float32"), 0

    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(pairs)
    def values(pair: tuple[Tensor, Tensor]) -> None:
        nonlocal examples
        examples += 1
        run = subject.forward_of(*pair)
        require_within(run.dtilde, subject.expected_dtilde(run))

    def run() -> int:
        before = examples
        values()
        return examples - before

    return run
