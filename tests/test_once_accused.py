"""Right implementations of D~ that were accused once, each on the case that did it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from dmat import dtilde
from dmat.strategies import Constant, Cotangent, Edited, Gates
from dmat.strategies.recipes.recipe import Case
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law import transforms
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.registry import law_named
from dmat.testing.verdict.finding import LawBroken

from .zoo.ends import ENDS

STYLES = {style.__name__: style for style in ENDS}


def moved(dtype: str, *fgate: float, v_f: float = 1.0) -> Case:
    """A case of one head whose direction and cotangent are constant; fgate: its forget gates."""
    shape = (1, 1, len(fgate))
    edits = tuple(((0, 0, t), f) for t, f in enumerate(fgate))
    gates = Gates(dtype, shape, Constant(0.0), Edited(Constant(0.0), edits))
    direction = Gates(dtype, shape, Constant(0.0), Constant(v_f))
    return {"gates": gates, "direction": direction, "cotangent": Cotangent()}


def dense(S: int, G: float) -> Case:
    """A case with open gates and one constant cotangent."""
    gates = Gates("float32", (1, 1, S), Constant(0.0), Constant(-3.0))
    return {"gates": gates, "cotangent": Cotangent(Constant(G))}


OPEN_THEN_CLOSED = (7.0, 7.0, 0.0)
LATE = (60.0,) * 6 + (-300.0, 40.0)  # sigmoid(-f) is 1e-26, and 1 at t = 6
EARLY = (60.0, 60.0, 60.0, -300.0, *(60.0,) * 4)

ACCUSED: dict[str, tuple[str, str, Case]] = {
    "the adjoint of sums from the front, in float64": (
        "front_front",
        "second_order",
        moved("float64", *OPEN_THEN_CLOSED),
    ),
    "the same with float64 accumulators": (
        "front_front_wide",
        "second_order",
        moved("float64", *OPEN_THEN_CLOSED),
    ),
    "the same to base 2": ("base_two_front", "second_order", moved("float32", *LATE)),
    "chunks, gradients from the front": ("chunks_front", "second_order", moved("float32", *LATE)),
    "chunks, gradients from the back": ("chunks_back", "second_order", moved("float32", *EARLY)),
    "ways to G that are rounded apart": (
        "front_apart_wide",
        "second_order",
        moved("float32", 60.0, 7.0, 0.0, v_f=1 / 3),
    ),
    "a forward mode from the back": ("front_back", "adjoint", moved("float32", *LATE)),
    "a forward mode from the front under chunks": ("chunks_front", "adjoint", moved("float32", *EARLY)),
    "columns and rows summed one by one": ("front_one_by_one", "forget_gradient", dense(128, 0.1)),
}


@pytest.mark.parametrize("name", ACCUSED)
def test_it_is_not_accused_again(name: str) -> None:
    """The law holds on the case that once broke it."""
    style, law, case = ACCUSED[name]
    subject = DtildeSubject(Implementation.of(style, STYLES[style]), case["gates"].dtype)
    entry = law_named(law)
    assert entry.why_not(subject, entry.arguments(case)) is None
    entry.check(subject, **entry.arguments(case))


def test_a_compiler_cache_cut_short_is_no_fault_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty file in inductor's cache accuses nobody; a kernel that never compiles is broken."""
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    for variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(variable, os.environ.get(variable, ""))  # restored at the end

    def broken_cache(function: Callable[..., object], **_: object) -> Callable[..., object]:
        def call(*gates: Tensor) -> object:
            if os.environ["TORCHINDUCTOR_CACHE_DIR"] == (before or ""):
                raise ImportError("file too short")
            return function(*gates)

        return call

    def broken_compiler(_: object, **__: object) -> Callable[..., object]:
        def call(*_: Tensor) -> object:
            raise ImportError("no such header")

        return call

    unused = lru_cache(maxsize=1)(transforms._own_compiler_cache.__wrapped__)
    monkeypatch.setattr(transforms, "_own_compiler_cache", unused)
    law, case = law_named("compiled"), dense(3, 1.0)
    for compiler, held in ((broken_cache, True), (broken_compiler, False)):
        monkeypatch.setattr(torch, "compile", compiler)
        transforms._compiled.cache_clear()
        subject = DtildeSubject(Implementation.of("dtilde", dtilde), "float32")
        with nullcontext() if held else pytest.raises(LawBroken):
            law.check(subject, **law.arguments(case))
