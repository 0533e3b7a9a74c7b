"""Each repair of Triton's interpreter is seen to work: run by test_interpret.py.

The interpreter is a choice of the whole process, so these are tests of a process of their own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dmat.testing.interpret.choice import ASKED, config_index
from dmat.testing.interpret.install import install

os.environ[ASKED] = "1"
install()

import triton  # noqa: E402
import triton.language as tl  # noqa: E402

from dmat.testing.interpret import selftest  # noqa: E402
from dmat.testing.interpret.bfloat16 import narrow, wide  # noqa: E402
from dmat.testing.interpret.sanitizer import OutOfBounds  # noqa: E402
from dmat.testing.interpret.tf32 import tf32  # noqa: E402
from tests.interpreted import language as kernels  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:tl.make_block_ptr is deprecated")  # but in use
BF16 = torch.bfloat16
N = 16


def bits(x: Tensor) -> Any:
    """bfloat16 as its bits."""
    return x.view(torch.int16).numpy().view(np.uint16)


def ran(kernel: Any, *inputs: Tensor, out: Tensor | None = None, **constants: Any) -> Tensor:
    """What a kernel of one program leaves in its last tensor."""
    found = torch.zeros_like(inputs[0]) if out is None else out
    kernel[(1,)](*inputs, found, N=N, **constants)
    return found


def test_it_is_installed_once() -> None:
    """install() a second time does nothing, and the config is the one that was asked for."""
    builder = triton.runtime.interpreter.InterpreterBuilder
    before = builder.create_masked_load
    install()
    assert builder.create_masked_load is before
    assert config_index() == 1


# Types and shapes


def test_types_are_what_they_were() -> None:
    """A type that is made again has its element, its sizes and its name; a tensor has its type's shape."""
    for _ in range(2):
        block = tl.block_type(tl.float32, [4, 8])
        assert (block.element_ty, list(block.shape), block.numel) == (tl.float32, [4, 8], 32)
        assert block.name == str(block) == f"<{block.shape}, fp32>"
        made = tl.tensor(None, block)
        assert ([n.value for n in made.shape], made.numel.value, made.dtype) == ([4, 8], 32, tl.float32)


@pytest.mark.parametrize("sizes", [[12], [4.0], []], ids=str)
def test_a_shape_that_triton_refuses(sizes: list[Any]) -> None:
    """Sizes that are no powers of two, no integers, or none are refused, whatever was accepted before."""
    tl.block_type(tl.float32, [4])
    with pytest.raises((TypeError, ValueError)):
        tl.block_type(tl.float32, sizes)


# bfloat16


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    """All float32 around ties, subnormal, infinite and NaN; there and back again for all 65,536 bits."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(BF16)
    assert np.array_equal(wide(bits(every)), every.float().numpy(), equal_nan=True)
    upper = bits(every).astype(np.uint32) << 16
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        x = torch.from_numpy((upper | lower).view(np.float32))
        y = torch.from_numpy(narrow(x.numpy()).view(np.int16)).view(BF16)
        assert torch.equal(y.isnan(), x.isnan())
        assert torch.equal(y.nan_to_num(), x.bfloat16().nan_to_num())


def test_bfloat16_toward_zero() -> None:
    """A cast may name its rounding."""
    x = torch.tensor([1.00390625, -1.0078124] * 8)
    found = ran(kernels.rounds_toward_zero, x, out=torch.zeros(N, dtype=BF16))
    assert found[:2].tolist() == [1.0, -1.0]


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "maximum": torch.fmax,
    "less": lambda x, y: torch.where(x < y, x, y),
    "negative": lambda x, y: -x,
    "constant": lambda x, y: torch.full_like(x, 1.5) * x,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_bfloat16_arithmetic(name: str) -> None:
    """Each operation is torch's own, which is in float32 and rounded once."""
    x, y = (torch.randn(N) * 100).to(BF16), torch.randn(N).to(BF16)
    x[3], x[4] = math.inf, math.nan
    found = ran(kernels.operation, x, y, OPERATION=name)
    assert torch.equal(found.isnan(), OPERATIONS[name](x, y).isnan())
    assert torch.equal(found.nan_to_num(), OPERATIONS[name](x, y).nan_to_num())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32], ids=str)
def test_bfloat16_casts(dtype: torch.dtype) -> None:
    """To and from every other type, through float32."""
    x = torch.tensor([1.0, 257.0, -3.0, 100.0] * 4).to(dtype)
    found = ran(kernels.cast, x, out=torch.zeros(N, dtype=BF16))
    assert torch.equal(found, x.float().to(BF16))
    assert torch.equal(ran(kernels.cast, found, out=torch.zeros(N, dtype=dtype)), found.to(dtype))


def test_bfloat16_maxima() -> None:
    """Of negative numbers too, whose bits are in the other order."""
    x = (torch.randn(N) - 5).to(BF16)
    found = ran(kernels.extremes, x, out=torch.zeros(N, dtype=BF16))
    assert found[:4].tolist() == [x.max(), x.min(), x.argmax(), x.argmin()]


def test_bfloat16_sums_are_rounded_at_each_addition() -> None:
    """By halves: a kernel that means to sum in float32 must say so."""
    x = torch.full((N,), 1.0).to(BF16)
    x[0] = 256.0
    found = ran(kernels.sums, x, out=torch.zeros(N, dtype=BF16))
    # 256 + 1 is 256 in bfloat16, three times; wide, it is 271, and 272 once rounded.
    assert found[0] == 256 + 14
    assert found[1] == 272
    assert torch.equal(found[2:4], torch.tensor([270.0, 270.0]).to(BF16))


def test_bfloat16_scans() -> None:
    """An associative scan of one's own, rounded at each step."""
    x = torch.full((N,), 1.0).to(BF16)
    x[0] = 250.0
    found = ran(kernels.scan, x)
    assert found.tolist() == [*range(250, 257), *[256] * 9]


def test_bfloat16_atomics() -> None:
    """Each is added to what the one before left, and gets that."""
    x, total = torch.full((N,), 1.0).to(BF16), torch.tensor([250.0, 0.0]).to(BF16)
    before = torch.zeros(N, dtype=BF16)
    kernels.atomic[(1,)](x, total, before, N=N)
    assert total.tolist() == [256.0, 0.0]
    assert before.tolist() == [*range(250, 256), *[256.0] * 9, 0.0]  # the last is masked


def test_bfloat16_padding() -> None:
    """What a block pointer pads with NaN is NaN."""
    x = torch.arange(12.0).to(BF16)
    found = ran(kernels.padded, x, out=torch.zeros(N, dtype=BF16))
    assert found[:12].tolist() == list(range(12))
    assert bool(found[12:].isnan().all())


@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=str)
def test_bfloat16_dots(dtype: torch.dtype) -> None:
    """Products are exact and summed in float32."""
    x, y = torch.randn(2, N, N).to(BF16)
    found = torch.zeros(N, N, dtype=dtype)
    kernels.dot[(1,)](x, y, found, N=N, PRECISION="tf32")
    rtol = 2.0**-7 if dtype == BF16 else 1e-5
    torch.testing.assert_close(found, (x.float() @ y.float()).to(dtype), rtol=rtol, atol=1e-5)


# tf32 and NaN


def test_extrema_beside_nan() -> None:
    """A NaN is dropped, unless it is to be kept, as on the device."""
    x = torch.tensor([3.0, math.nan, -3.0, 0.5] * 4)
    found = torch.zeros(5, N)
    kernels.extrema[(1,)](x, found, N=N)
    wanted = [[3, 0, 0, 0.5], [0, 0, -3, 0], [1, -1, -1, 0.5], [3, math.nan, 0, 0.5], [1, math.nan, -1, 0.5]]
    torch.testing.assert_close(found[:, :4], torch.tensor(wanted), rtol=0, atol=0, equal_nan=True)


def test_tf32_is_rounded_to_ten_bits() -> None:
    """To nearest, ties to even; infinities and NaN stay."""
    ulp = 2.0**-10
    x = [1 + ulp / 2, 1 + 3 * ulp / 2, 1 + 0.51 * ulp, -(1 + ulp), math.inf, math.nan]
    wanted = [1.0, 1 + 2 * ulp, 1 + ulp, -(1 + ulp), math.inf, math.nan]
    assert np.array_equal(tf32(x), np.array(wanted, dtype=np.float32), equal_nan=True)


@pytest.mark.parametrize("precision", ["tf32", None, "tf32x3", "ieee"])
def test_tf32_dots(precision: str | None) -> None:
    """It is the default of float32, and rounds the operands alone."""
    x, y = torch.randn(2, N, N)
    found = torch.zeros(N, N)
    kernels.dot[(1,)](x, y, found, N=N, PRECISION=precision)
    if precision in ("tf32", None):
        x, y = (torch.from_numpy(tf32(z.numpy())) for z in (x, y))
    torch.testing.assert_close(found, x @ y, rtol=0, atol=1e-5)


# Addresses


def outside(kernel: Any, *arguments: Any, **constants: Any) -> str:
    """What is said of a kernel that leaves its tensors."""
    with pytest.raises(OutOfBounds) as caught:
        kernel[(1,)](*arguments, N=N, **constants)
    return str(caught.value)


def test_a_load_past_the_end() -> None:
    """It says which kernel and line, how many addresses, outside of what, how far."""
    text = outside(kernels.cast, torch.zeros(N - 3), torch.zeros(N))
    said = "load of 3 of 16 addresses outside of x (52 bytes), as far as 12 bytes past its end"
    assert text.startswith("kernel cast, language.py:")
    assert text.endswith(said)


def test_a_store_into_a_neighbour() -> None:
    """Memory of another argument is not the tensor's own; nothing is stored."""
    both = torch.zeros(2 * N)
    text = outside(kernels.cast, torch.ones(N), both[: N - 1])
    assert "store of 1 of 16 addresses outside of out (60 bytes), as far as 4 bytes past its end" in text
    assert both.count_nonzero() == 0
    assert "8 bytes before its beginning" in outside(kernels.before, torch.zeros(N), torch.zeros(N))


@pytest.mark.parametrize(
    "where", ["in a function", "an atomic", "a block pointer", "a pointer of another type"]
)
def test_other_accesses(where: str) -> None:
    """None of them gets by."""
    short = torch.zeros(N - 1)
    if where == "an atomic":
        assert "atomic update of 1 of 16" in outside(kernels.adds, torch.zeros(N), short)
    else:
        kernel = {
            "in a function": kernels.calls,
            "a block pointer": kernels.block,
            "a pointer of another type": kernels.recast,
        }[where]
        text = outside(kernel, short, torch.zeros(N))
        assert text.startswith(f"kernel {kernel.fn.__name__}, language.py:")
        assert "load of 1 of 16 addresses outside of x" in text


def test_what_is_masked_is_not_looked_at() -> None:
    """A mask may be of integers; of two pointers, either may be meant."""
    found = ran(kernels.masked, torch.arange(2.0 * N)[: 2 * 5 : 2], out=torch.zeros(N))
    assert found.tolist() == [0, 2, 4, 6, 8, *[-1] * (N - 5)]
    a, b, out = torch.zeros(N), torch.ones(N), torch.zeros(N)
    kernels.either[(1,)](a, b, out, N=N)
    assert torch.equal(out, torch.tensor([0.0, 1.0] * (N // 2)))


def test_an_empty_tensor() -> None:
    """It has no memory at all."""
    assert "outside of x (0 bytes)" in outside(kernels.cast, torch.zeros(0), torch.zeros(N))


# Loops, configs, devices, launches


@pytest.mark.parametrize("loop", ["range", "tl.range", "tl.static_range"])
def test_the_integers_of_loops(loop: str) -> None:
    """They know .to(), and so does what is computed from them; a host's range is Python's own."""
    out = torch.zeros(1, dtype=torch.int64)
    kernels.loops[(1,)](out, 4, LOOP=loop)
    assert out.item() == sum(2 * i + i // 2 + (7 - i) for i in (1, 2, 3))
    assert len(kernels.host_range()) == 3


@pytest.mark.parametrize(("config", "taken"), [(0, 10), (1, 30), (2, 30), (3, 10)])
def test_the_config(config: int, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one asked for, after a refused one the next, and so around; its hook is called, none is timed."""
    monkeypatch.setenv(ASKED, str(config))
    out = torch.zeros(1, dtype=torch.int32)
    kernels.HOOKED.clear()
    kernels.tuned[(1,)](out, 3)
    assert out.item() == taken + 1  # and the heuristic's 1
    assert len(kernels.HOOKED) == (1 if taken == 30 else 0)


def test_an_error_is_no_refusal() -> None:
    """Any other error is the kernel's own, though it would stand with the next config."""
    assert "store of 1 of 1" in outside(kernels.tuned_wrongly, torch.zeros(1, dtype=torch.int32))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_devices() -> None:
    """What launchers ask of a GPU is answered where there is none, and CUDA is still not there."""
    with torch.cuda.device(0), torch.cuda.device(torch.device("cpu")):
        assert torch.cuda.get_device_properties(0).multi_processor_count > 0
        assert torch.cuda.get_device_capability() >= (8, 0)
    driver = triton.runtime.driver.active
    assert driver.get_active_torch_device() == torch.device("cpu")
    assert driver.get_current_target().backend == "cuda"
    assert not torch.cuda.is_available()


def test_the_language_is_patched_once() -> None:
    """A launch, and a call within, patch nothing: that took half the time."""
    before = tl.load
    ran(kernels.calls, torch.zeros(N))
    assert tl.load is before
    assert triton.runtime.interpreter._patch_lang(SimpleNamespace())._changes == []


@pytest.mark.filterwarnings("error")
def test_numpy_does_not_warn() -> None:
    """Infinities are a kernel's own affair."""
    assert bool(ran(kernels.operation, *torch.full((2, N), math.inf), OPERATION="sub").isnan().all())


@pytest.mark.parametrize("repair", selftest.REPAIRS, ids=lambda repair: repair.__name__)
def test_the_start_looks_at_each_repair(repair: Callable[[], bool]) -> None:
    """Each is seen to work."""
    assert repair()
