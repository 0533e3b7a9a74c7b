"""The structs of an inspection, which `dmat inspect --json` writes."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from dmat.testing.record import FORMAT, Contradiction, Count, Dtype, Format, Promises, Seconds, Target

Line = Annotated[str, Meta(description="FILE:LINE of the kernel's source")]
Order = Literal["same bits", "other bits", "not tried"]


class ProductFound(Struct, frozen=True, forbid_unknown_fields=True):
    """A product of matrices, tl.dot, as TTIR has it."""

    line: Line
    operands: Annotated[str, Meta(description="the format in which the operands stand")]
    multiplied: Annotated[
        str, Meta(description="the format that they are multiplied in, or a split of them, like tf32x3")
    ]
    accumulated: Annotated[str, Meta(description="the format of the sum")]
    rounded: Annotated[
        bool, Meta(description="whether this rounds an operand, as far as its origin in the kernel shows")
    ]


class Code(Struct, frozen=True, forbid_unknown_fields=True):
    """What the machine code has, in instructions."""

    registers: Annotated[int, Meta(ge=0, description="of a thread")]
    spilled: Annotated[
        int, Meta(ge=0, description="NVIDIA: loads and stores of local memory; AMD: spilled registers")
    ]
    shared: Annotated[int, Meta(ge=0, description="bytes of shared memory of a program")]
    stores: Count
    wide_stores: Annotated[int, Meta(ge=0, description="stores of 128 bits")]
    exponentials: Annotated[int, Meta(ge=0, description="approximate ones: MUFU.EX2, v_exp_f32")]
    atomics: Annotated[int, Meta(ge=0, description="atomic sums of floats")]
    products: Annotated[dict[str, int], Meta(description="instructions of tensor cores, by name")]


class Compiled(Struct, frozen=True, forbid_unknown_fields=True):
    """A launch of a kernel, compiled for one architecture with one configuration.

    group: launches of one group differ by their autotune configuration alone.
    """

    kernel: str
    arch: str
    dtypes: Annotated[list[Dtype], Meta(description="of the calls that launch it")]
    group: Count
    config: Annotated[int | None, Meta(description="number of its autotune configuration; null: none")]
    configs: Annotated[int, Meta(ge=1, description="how many it has; not autotuned: 1")]
    options: Annotated[
        dict[str, str], Meta(description="num_warps, num_stages, constexprs and divisible arguments")
    ]
    failure: Annotated[str, Meta(description="why it does not compile or does not fit; else empty")] = ""
    products: list[ProductFound] = []
    atomics: Annotated[list[Line], Meta(description="of atomic sums of floats")] = []
    code: Annotated[Code | None, Meta(description="null: not compiled to the end")] = None
    seconds: Seconds = 0.0


class Inspected(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a device will do with the Triton kernels of an implementation."""

    format: Format = FORMAT
    implementation: Target
    contract: Promises
    archs: list[str]
    launches: list[Compiled]
    contradictions: list[Contradiction]
    notes: Annotated[list[str], Meta(description="what is no contradiction, in words")]
    uncalled: Annotated[list[str], Meta(description="calls that failed, and why")]
    order: Annotated[
        Order, Meta(description="of a kernel with float atomics whose programs run in another order")
    ] = "not tried"
    seconds: Seconds = 0.0
