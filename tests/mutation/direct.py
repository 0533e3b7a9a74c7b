"""Direct checks of what no law tests: bad input, memory, other shapes, high derivatives, devices.

A law calls on gates (B, NH, S, 1) that the contract promises, and on outputs that fit.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.func import jacfwd, jacrev

from dmat.testing.law.dtilde import DtildeSubject

GATE = torch.zeros(1, 1, 4, 1)
MODES: tuple[Callable[..., Any], ...] = (jacfwd, jacrev)


def broken(subjects: Sequence[DtildeSubject], *, operator: bool) -> str | None:
    """Return the name of a check that does not pass: of every subject; of the operator's modules."""
    checks: list[Callable[[], None]] = [partial(other_default_device, subject) for subject in subjects]
    for check in [*checks, *(_of_operator() if operator else ())]:
        try:
            check()
        except (Exception, pytest.fail.Exception):
            return str(getattr(check, "func", check).__name__)
    return None


def other_default_device(subject: DtildeSubject) -> None:
    """What a kernel allocates beside its inputs is on their device, not on torch's default one."""
    for S in (3, 70):
        gates = (torch.ones(1, 2, S, 1, dtype=getattr(torch, subject.dtype)) for _ in "if")
        with torch.device("meta"):
            subject.call(*gates)


def _of_operator() -> Iterator[Callable[[], None]]:
    """Each check of the operator as it is now imported: of its own tests, and those below."""
    its = importlib.import_module("tests.test_operator")
    for shape in ((0,), (3,), (0, 5), (2, 3, 4, 5)):
        yield partial(its.test_any_batch_shape, shape)
    for S, dtype in product((2, 65, 200), its.DTYPES):
        yield partial(its.test_segment_sum_is_exact_on_integers, S, dtype)
        yield partial(its.test_rectangle_sum_is_exact_on_integers, S, dtype)
    for piece in (1, 7, 300):
        yield partial(small_pieces, its, piece)
    yield from _of_derivatives(its)
    yield from _of_bad_input(its)
    yield from (output_that_just_fits, small_output_asks_nobody, twice_the_memory, memory_of_a_device)
    yield compiled_without_asking_for_memory


def _of_derivatives(its: ModuleType) -> Iterator[Callable[[], None]]:
    """Of orders and nestings that the laws do not try."""
    yield partial(its.test_each_is_the_derivative_of_the_other, 65)
    for modes in product(MODES, repeat=2):
        yield partial(its.test_modes_nest, *modes)
    for masked_cotangent in ("ignored", "summed"):
        yield partial(its.test_gradcheck, masked_cotangent, 4)
    yield fourth_derivatives


def _of_bad_input(its: ModuleType) -> Iterator[Callable[[], None]]:
    yield its.test_segment_errors_name_the_argument
    yield its.test_unknown_masked_cotangent_is_refused
    yield its.test_an_output_beyond_memory_is_refused
    for bad in its.BAD_GATES:
        yield partial(its.test_bad_gates_are_refused, bad)
    yield every_dtype_is_named
    yield last_dimension


def small_pieces(its: ModuleType, piece: int) -> None:
    """Sequences of the laws are one piece: shorter ones, as of long sequences."""
    with pytest.MonkeyPatch.context() as patched:
        its.test_pieces_change_nothing(150, piece, patched)


def fourth_derivatives() -> None:
    """In every nesting of modes: at f = 0 the fourth of log sigmoid is 1/8, so that of sum(D~) is R / 8."""
    dtilde = importlib.import_module("dmat.operator").dtilde
    past = torch.ones(3, 3, dtype=torch.bool).tril()

    def derivative(f: Tensor) -> Tensor:
        D: Tensor = dtilde(torch.zeros(1, 1, 3, 1, dtype=torch.float64), f.reshape(1, 1, 3, 1))
        return torch.where(past, D, 0.0).sum()

    for modes in product(MODES, repeat=4):
        nested: Callable[[Tensor], Tensor] = derivative
        for mode in modes:
            nested = mode(nested)
        fourth = nested(torch.zeros(3, dtype=torch.float64))
        assert [fourth[k, k, k, k].item() for k in range(3)] == [0.0, 2 / 8, 2 / 8]
        assert fourth.count_nonzero() == 2


def every_dtype_is_named() -> None:
    """A dtype that is not computed in is refused with those that are, widest first."""
    named = "float64, torch.float32, torch.bfloat16, torch.float16$"
    with pytest.raises(TypeError, match=named):
        importlib.import_module("dmat.segments").segment_sum(torch.zeros(1, dtype=torch.int64))


def last_dimension() -> None:
    """Gates whose last dimension is not 1 are refused, both of them so too."""
    with pytest.raises(ValueError, match=r"igate_preact has shape \(1, 1, 1, 4\); expected \(B, NH, S, 1\)"):
        importlib.import_module("dmat.operator").dtilde(GATE.mT, GATE.mT)


def output_that_just_fits() -> None:
    """64 bytes are made of 64, and of an unknown number, and refused of 63."""
    operator = importlib.import_module("dmat.operator")
    with patch.object(operator, "ALWAYS_FITS", 64):
        for available in (64, None):
            with patch.object(operator, "_memory", lambda device, available=available: available):
                operator.dtilde(GATE, GATE)
        with patch.object(operator, "_memory", lambda device: 63), pytest.raises(ValueError, match="needs"):
            operator.dtilde(GATE, GATE)
    with patch.object(operator, "ALWAYS_FITS", 1), patch.object(operator, "_memory", lambda device: 119):
        operator.dtilde(*[GATE[:, :, :2].expand(2, 3, 2, 1)] * 2)
        with pytest.raises(ValueError, match=r"\(2, 3, 3, 3\)"):
            operator.dtilde(*[GATE[:, :, :3].expand(2, 3, 3, 1)] * 2)


def small_output_asks_nobody() -> None:
    """Below ALWAYS_FITS nobody is asked how much memory there is."""
    operator = importlib.import_module("dmat.operator")
    with patch.object(operator, "ALWAYS_FITS", 65), patch.object(operator, "_memory", lambda device: 1):
        operator.dtilde(GATE, GATE)


def twice_the_memory() -> None:
    """An output of twice this machine's memory is refused before it is tried."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    gate = torch.zeros(1, 1, 1, 1).expand(1, 1, math.isqrt(2 * memory // 4), 1)
    with pytest.raises(ValueError, match="needs"):
        importlib.import_module("dmat.operator").dtilde(gate, gate)


def memory_of_a_device() -> None:
    """CUDA: free, and cached without being allocated. The CPU: all of the machine's. Others: unknown."""
    memory = importlib.import_module("dmat.operator")._memory
    with (
        patch("torch.cuda.mem_get_info", lambda device: (7, 50)),
        patch("torch.cuda.memory_reserved", lambda device: 5),
        patch("torch.cuda.memory_allocated", lambda device: 2),
    ):
        assert memory(torch.device("cuda")) == 10
    with patch("os.sysconf", {"SC_PHYS_PAGES": 6, "SC_PAGE_SIZE": 7}.__getitem__):
        assert memory(torch.device("cpu")) == 42
    with patch("os.sysconf_names", {}):
        assert memory(torch.device("cpu")) is None
    assert memory(torch.device("meta")) is None


def compiled_without_asking_for_memory() -> None:
    """Under torch.compile nobody is asked, at any size: the graph would break there."""
    operator = importlib.import_module("dmat.operator")
    with patch.object(operator, "ALWAYS_FITS", 0):
        compiled: Callable[..., Tensor] = torch.compile(operator.dtilde, backend="eager", fullgraph=True)
        compiled(GATE, GATE)
