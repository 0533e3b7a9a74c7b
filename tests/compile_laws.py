"""Compiled kernels: our own on five GPUs, and those of tests/zoo/triton_mutants.py. Run by test_inspect.py.

Triton interprets or compiles in a whole process, so these are tests of a process of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
import torch

from dmat.testing.inspect.launches import Recorded, recording, stand_on
from dmat.testing.inspect.machines import MACHINES, Machine

stand_on(MACHINES["sm_80"])

from dmat.testing.inspect.calls import call_all  # noqa: E402
from dmat.testing.inspect.compiled import compiled  # noqa: E402
from dmat.testing.inspect.judged import contradictions, notes  # noqa: E402
from dmat.testing.inspect.result import Compiled  # noqa: E402
from dmat.testing.inspect.task import Stated  # noqa: E402
from dmat.testing.inspect.work import on_the_cpu, stated_accumulates, stated_multiplies  # noqa: E402
from dmat.testing.kernel.implementation import Implementation  # noqa: E402
from dmat.testing.record import Contradiction  # noqa: E402
from dmat.triton_kernels import EDGE, LARGEST_CHUNK  # noqa: E402
from tests.interpreted import own  # noqa: E402
from tests.zoo import triton_mutants as zoo  # noqa: E402
from tests.zoo.triton_names import MUTANTS, SOUND  # noqa: E402

night = pytest.mark.night
OURS = ("sm_90", "gfx942", "sm_80", "sm_100", "gfx90a")
EVERY_DTYPE = ("float64", "float32", "bfloat16", "float16")


# Our own kernels


@cache
def launches(machine: Machine, S: int, dtype: str) -> Recorded:
    """Record what our D~ and its gradients launch: S > 128 needs all four kernels."""
    with recording(machine) as recorded:
        recorded.dtype = dtype
        assert not list(call_all(Implementation.of("own", own.dtilde), dtype, [(1, 2, S)]))
    return recorded


def require_fast(machine: Machine, recorded: Recorded, *, wide: bool) -> None:
    """Require that each launch compiles and fits, spills nothing, and stores D~ by 128 bits.

    On the diagonal a thread may have less than 128 bits of EDGE rows: AMD's halves, with 256 threads.
    """
    bytes_of_edge = EDGE * LARGEST_CHUNK * getattr(torch, recorded.dtype).itemsize
    narrow = int(bytes_of_edge < 16 * 4 * machine.warp)
    names = set()
    for number, launch in enumerate(recorded.launches.values()):
        one = compiled(launch, machine, [recorded.dtype], number, code=True)
        assert one.failure == "", one
        assert one.code is not None
        assert one.code.spilled == 0, one
        if wide and one.kernel == "_write_tile":
            assert one.code.wide_stores > 0, one
            assert one.code.wide_stores == one.code.stores - narrow, one
        names.add(one.kernel)
    assert names == {"_sum_chunks", "_write_tile", "_read_tile", "_add_tiles"}


@pytest.mark.parametrize("name", [OURS[0], *(pytest.param(name, marks=night) for name in OURS[1:])])
def test_our_kernels_compile(name: str) -> None:
    """Each of our kernels, float32 and S = 256: no spills, no local memory, stores of 128 bits."""
    require_fast(MACHINES[name], launches(MACHINES[name], 256, "float32"), wide=True)


@night
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("S", [144, 150, 256])
@pytest.mark.parametrize("name", OURS)
def test_all_specialisations_compile(name: str, S: int, dtype: str) -> None:
    """The same in each dtype, and where 16 does not divide S: narrow stores there."""
    require_fast(MACHINES[name], launches(MACHINES[name], S, dtype), wide=S % 16 == 0)


# Kernels with faults, and right ones


def found(name: str, machine: Machine, *, code: bool) -> tuple[list[Compiled], Stated]:
    """Compile the launches of a kernel of the zoo, and read what its contract states."""
    implementation = on_the_cpu(Implementation.of(name, getattr(zoo, name)))
    contract = implementation.contract
    stated = Stated(stated_multiplies(contract), stated_accumulates(contract), contract.deterministic)
    with recording(machine) as recorded:
        for dtype in contract.dtypes:
            recorded.dtype = dtype
            assert not list(call_all(implementation, dtype, [(1, 2, 16)]))
    return [
        compiled(launch, machine, sorted(recorded.dtypes[key]), launch.group, code=code)
        for key, launch in recorded.launches.items()
    ], stated


def judged(name: str, machine: str, *, code: bool, named: Sequence[str] = ()) -> list[Contradiction]:
    """Return the findings about a kernel of the zoo, all of whose atomics are taken to change bits."""
    every, stated = found(name, MACHINES[machine], code=code)
    return contradictions(every, stated, named, other_bits=["float32"])


FORMATS = [name for name, promise in MUTANTS.items() if promise != "compiles"]
REFUSED = [name for name, promise in MUTANTS.items() if promise == "compiles"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_that_is_not_kept(name: str) -> None:
    """Found in TTIR, under the promise that it breaks and with a line of its source."""
    (one,) = judged(name, "sm_80", code=False)
    assert one.promise == MUTANTS[name]
    assert one.line.startswith("triton_mutants.py:")


def test_what_does_not_compile() -> None:
    """Found where the architecture was named, and only there; elsewhere a line."""
    every, stated = found("unknown_format", MACHINES["sm_80"], code=False)
    (one,) = contradictions(every, stated, ["sm_80"])
    assert one.promise == "compiles"
    assert "fp8e4nv not supported" in one.message
    assert not contradictions(every, stated, [])
    assert any("it did not compile" in line for line in notes(every, stated, []))
    assert not judged("unknown_format", "sm_90", code=False, named=["sm_90"])


@night
@pytest.mark.parametrize("name", REFUSED)
def test_what_fits_nowhere(name: str) -> None:
    """Found on three architectures, but for a format that newer ones have."""
    for machine in ("sm_80", "sm_90", "gfx942"):
        there = [one.promise for one in judged(name, machine, code=True, named=[machine])]
        known = name == "unknown_format" and machine != "sm_80"
        assert there == ([] if known else ["compiles"])


RIGHT = [name for name in SOUND if not name.startswith("atomics")]


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("machine", ["sm_80", "sm_90", "gfx942"])
def test_a_right_kernel(name: str, machine: str) -> None:
    """Nothing contradicts its contract; but Triton has no tf32x3 for AMD's GPUs."""
    promises = [one.promise for one in judged(name, machine, code=False, named=[machine])]
    assert promises == (["compiles"] if (name, machine) == ("tf32x3", "gfx942") else [])


@night
@pytest.mark.parametrize("machine", ["sm_80", "sm_90", "gfx942"])
def test_one_configuration_is_enough(machine: str) -> None:
    """An autotuned kernel, one of whose configurations fits, is right; a line says that another does not."""
    every, stated = found("one_configuration_fits", MACHINES[machine], code=True)
    assert not contradictions(every, stated, [machine])
    assert any(
        "1 of 2 tried configurations did not compile" in line for line in notes(every, stated, [machine])
    )


def test_tf32_that_is_not_stated_is_a_line() -> None:
    """TF32 where multiplies_in is left at its default: no finding, a line with the place."""
    (line,) = notes(*found("tf32_not_stated", MACHINES["sm_80"], code=False), ())
    assert line.startswith("TF32 on sm_80 (triton_mutants.py:")
    assert "judged as such" in line


def test_tf32x3_is_not_tf32() -> None:
    """Its instructions are TF32's, its TTIR says that operands are split."""
    every, _ = found("tf32x3", MACHINES["sm_80"], code=True)
    formats = {product.multiplied for one in every for product in one.products}
    assert formats == {"tf32x3"}
    assert any("TF32" in name for one in every if one.code for name in one.code.products)


def test_an_argument_of_one_and_none() -> None:
    """Arguments equal to 1, None, defaults of constexprs, heuristics: as Triton's own binder has them."""
    x = torch.zeros(16)
    with recording(MACHINES["sm_80"]) as recorded:
        for size, more in ((1, None), (2, x), (16, x)):
            zoo.specialised[(1,)](x, more, size)
    signatures = [launch.signature for launch in recorded.launches.values()]
    assert [s["size"] for s in signatures] == ["constexpr", "i32", "i32"]
    assert [s["more"] for s in signatures] == ["constexpr", "*fp32", "*fp32"]
    for number, launch in enumerate(recorded.launches.values()):
        assert not compiled(launch, MACHINES["sm_80"], ["float32"], number, code=False).failure
