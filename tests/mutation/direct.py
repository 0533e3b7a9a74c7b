"""Direct checks of the operator, for what no law reaches: bad input, memory, and other shapes than gates.

A law calls on gates (B, NH, S, 1) that the contract promises, and on outputs that fit.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from unittest.mock import patch

import pytest
import torch


def broken() -> str | None:
    """Return the name of a check that the operator, as it is now imported, does not pass."""
    for check in _checks():
        try:
            check()
        except (Exception, pytest.fail.Exception):
            return getattr(check, "func", check).__name__
    return None


def _checks() -> Iterator[Callable[[], None]]:
    """Each check: the operator's own tests of bad input and of other shapes, and those below."""
    its = importlib.import_module("tests.test_operator")
    yield its.test_segment_errors_name_the_argument
    yield its.test_unknown_masked_cotangent_is_refused
    yield its.test_an_output_beyond_memory_is_refused
    for bad in its.BAD_GATES:
        yield partial(its.test_bad_gates_are_refused, bad)
    for shape in ((0,), (3,), (0, 5), (2, 3, 4, 5)):
        yield partial(its.test_any_batch_shape, shape)
    for S in (2, 65, 129):
        yield partial(its.test_segment_sum_is_exact_on_integers, S, torch.float64)
        yield partial(its.test_rectangle_sum_is_exact_on_integers, S, torch.float64)
    yield every_dtype_is_named
    yield output_that_just_fits
    yield small_output_asks_nobody
    yield memory_of_a_device


def every_dtype_is_named() -> None:
    """A dtype that is not computed in is refused with those that are, widest first."""
    named = "float64, torch.float32, torch.bfloat16, torch.float16$"
    with pytest.raises(TypeError, match=named):
        importlib.import_module("dmat.segments").segment_sum(torch.zeros(1, dtype=torch.int64))


def output_that_just_fits() -> None:
    """64 bytes are made of 64, and of an unknown number, and refused of 63."""
    operator = importlib.import_module("dmat.operator")
    gate = torch.zeros(1, 1, 4, 1)
    with patch.object(operator, "ALWAYS_FITS", 64):
        for available in (64, None):
            with patch.object(operator, "_memory", lambda device, available=available: available):
                operator.dtilde(gate, gate)
        with patch.object(operator, "_memory", lambda device: 63), pytest.raises(ValueError, match="needs"):
            operator.dtilde(gate, gate)
    with patch.object(operator, "ALWAYS_FITS", 1), patch.object(operator, "_memory", lambda device: 119):
        operator.dtilde(gate[:, :, :2].expand(2, 3, 2, 1), gate[:, :, :2].expand(2, 3, 2, 1))
        with pytest.raises(ValueError, match=r"\(2, 3, 3, 3\)"):
            operator.dtilde(gate[:, :, :3].expand(2, 3, 3, 1), gate[:, :, :3].expand(2, 3, 3, 1))


def small_output_asks_nobody() -> None:
    """Below ALWAYS_FITS nobody is asked how much memory there is."""
    operator = importlib.import_module("dmat.operator")
    gate = torch.zeros(1, 1, 4, 1)
    with patch.object(operator, "ALWAYS_FITS", 65), patch.object(operator, "_memory", lambda device: 1):
        operator.dtilde(gate, gate)


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
