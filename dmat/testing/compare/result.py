"""The structs of a comparison, which `dmat compare --json` writes."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from dmat.testing.record import FORMAT, Count, Device, Dtype, Format, Interpreted, Promises, Seconds, Target

Verdict = Literal["not worse", "worse", "error"]


class Measured(Struct, frozen=True, forbid_unknown_fields=True):
    """How far one result of OLD or NEW is from the truth, over all cases."""

    worst: Annotated[
        float | None,
        Meta(description="largest error over the bound of its own contract; null: a class is wrong, or none"),
    ]
    over: Annotated[int, Meta(ge=0, description="the cases in which it is over its bound, or gave no result")]
    strictest: Annotated[
        float | None, Meta(description="largest error over the bound of the strictest contract; null: none")
    ]
    nearer: Annotated[int, Meta(ge=0, description="the entries in which it alone is nearer the truth")]


class Quantity(Struct, frozen=True, forbid_unknown_fields=True):
    """One result of both kernels: an output, a state, or the gradient of an input."""

    quantity: str
    cases: Count
    entries: Annotated[int, Meta(ge=0, description="the entries that both have and that are judged")]
    same_bits: bool
    ulps: Annotated[
        float | None,
        Meta(
            description="largest difference in units of the last place; null: a NaN or an infinity in one"
            " alone, or one gave no result"
        ),
    ]
    from_length: Annotated[int | None, Meta(description="the shortest length with other bits; null: none")]
    old: Measured
    new: Measured
    worse: Annotated[str, Meta(description="why NEW is worse than OLD, or over its bound; else empty")]
    case: Annotated[
        str | None, Meta(description="as Python: where NEW is first over its bound, else where bits differ")
    ]


class Compared(Struct, frozen=True, forbid_unknown_fields=True):
    """Both kernels in one dtype on one device."""

    dtype: Dtype
    device: Device
    reason: Annotated[str, Meta(description="why they could not be compared; else empty")] = ""
    worse: Annotated[str, Meta(description="why NEW as a whole is worse: it died; else empty")] = ""
    cases: Count = 0
    left_out: Annotated[
        int,
        Meta(
            ge=0, description="the cases of NEW that OLD's contract does not allow, or makes other inputs of"
        ),
    ] = 0
    quantities: list[Quantity] = []


class Side(Struct, frozen=True, forbid_unknown_fields=True):
    """One of the two kernels."""

    implementation: Target
    contract: Promises
    python: Annotated[str, Meta(description="the interpreter that it ran in")]
    versions: Annotated[dict[str, str], Meta(description="of Python, torch and dmat there")]


class Comparison(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Two kernels over the same cases."""

    format: Format = FORMAT
    verdict: Annotated[
        Verdict,
        Meta(description="not worse: all of NEW is within its contract, and nothing is worse than OLD"),
    ]
    old: Side
    new: Side
    sites: list[Compared]
    seconds: Seconds = 0.0
    interpreter: Interpreted = None
