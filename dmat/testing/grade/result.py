"""The structs of a grade: a child process sends them, and `dmat grade --json` writes them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from dmat.testing.bounds.formats import Format, Rounding
from dmat.testing.contract import TF32, Contract, FusedContract, relaxations
from dmat.testing.contract.names import DTYPES
from dmat.testing.record import FORMAT, Count, Device, Dtype, Interpreted, Promises, Seconds, Target
from dmat.testing.record import Format as DocumentFormat

GATES = relaxations(Contract, "gates")
SCOPES = dict.fromkeys([*relaxations(Contract, "error_scope"), *relaxations(FusedContract, "error_scope")])

ErrorScope = Annotated[
    str | int,
    Meta(
        description="whose magnitudes errors grow with; an integer C: chunks of C; gradients of D~ have one"
        " bound for all beyond the window, called prefix; those of fused kernels are suffix or prefix, by the"
        " end that is summed from",
        extra_json_schema={"enum": list(SCOPES)},
    ),
]
Accumulator = Annotated[str, Meta(extra_json_schema={"enum": list(DTYPES)})]
Accuracy = Annotated[
    str,
    Meta(
        description="whether log sigmoid is right relatively, or only absolutely",
        extra_json_schema={"enum": list(GATES)},
    ),
]


class AccuracyClass(Struct, frozen=True, forbid_unknown_fields=True):
    """What errors may grow with, the format summed in, and whether log sigmoid is relatively right."""

    error_scope: ErrorScope
    accumulates_in: Accumulator
    gates: Accuracy = "relative"

    def rounding(self, dtype: str) -> Rounding:
        """Return the rounding that this class allows in a dtype."""
        return Rounding(Format.of(dtype), Format.of(self.accumulates_in), self.error_scope, self.gates)

    def implies(self, other: AccuracyClass) -> bool:
        """Whether every bound of this class is at most the other's bound."""
        narrower = _width(self.error_scope) < _width(other.error_scope)
        return (
            (narrower or self.error_scope == other.error_scope)
            and Format.of(self.accumulates_in).u <= Format.of(other.accumulates_in).u
            and GATES.index(self.gates) <= GATES.index(other.gates)
        )

    def __str__(self) -> str:
        """Return the class as the table shows it, with a star if gates="absolute"."""
        scope = f"chunk {self.error_scope}" if isinstance(self.error_scope, int) else self.error_scope
        return f"{scope}, {self.accumulates_in}" + ("*" if self.gates == "absolute" else "")


def _width(scope: str | int) -> float:
    """Return the sort key of a scope, strictest first. Prefix and suffix are equal: neither is stricter."""
    named = {"window": 0.0, "suffix": 2.0**62, "prefix": 2.0**62, "sequence": 2.0**63}
    return float(scope) if isinstance(scope, int) else named[scope]


class ClassResult(Struct, frozen=True, forbid_unknown_fields=True):
    """One accuracy class, and what became of it."""

    error_scope: ErrorScope
    accumulates_in: Accumulator
    gates: Accuracy
    stands: bool
    worst: Annotated[
        float | None,
        Meta(
            description="the largest error over its bound: of a class that fell, the one that felled it; null"
            " where a stricter class stood for all cases, or where no finite number came"
        ),
    ]
    finding: Annotated[str | None, Meta(description="what felled it: the entry")] = None
    case: Annotated[str | None, Meta(description="and the case, as Python")] = None


class LedgerResult(Struct, frozen=True, forbid_unknown_fields=True):
    """Which classes one result survives."""

    strictest: Annotated[
        AccuracyClass | None,
        Meta(description="the strictest class that it survives; null: it survives none"),
    ] = field(name="class")
    cases: Count
    classes: Annotated[
        list[ClassResult],
        Meta(description="those that stand, strictest first; then those that fell, in the order they did"),
    ]


Doubling = Annotated[
    int | None,
    Meta(description="powers of A are multiplied within blocks of so many rows; null: substitution"),
]
InverseIn = Annotated[
    str,
    Meta(
        description="what operands inside the inversion of I + A are rounded to",
        extra_json_schema={"enum": [*DTYPES, TF32]},
    ),
]


class InverseClass(Struct, frozen=True, forbid_unknown_fields=True):
    """How a delta rule inverts I + A."""

    doubling: Doubling
    inverse_in: InverseIn

    def __str__(self) -> str:
        """Return the class as the table shows it."""
        way = "substitution" if self.doubling is None else f"powers of {self.doubling}"
        return f"{way}, {self.inverse_in}"


class InverseTried(Struct, frozen=True, forbid_unknown_fields=True):
    """One class of inversions, and what became of it."""

    doubling: Doubling
    inverse_in: InverseIn
    stands: bool
    worst: Annotated[
        float | None,
        Meta(description="the largest error over its bound; of a class that fell, the one that felled it"),
    ]
    finding: Annotated[str | None, Meta(description="what felled it: the entry")] = None
    case: Annotated[str | None, Meta(description="and the case, as Python")] = None


class InverseResult(Struct, frozen=True, forbid_unknown_fields=True):
    """How a delta rule inverts I + A, found from its outputs."""

    strictest: Annotated[
        InverseClass | None,
        Meta(
            description="the first class that stands: the accumulator's format first, of each format"
            " substitution first, then powers within ever larger blocks; null: none does"
        ),
    ] = field(name="class")
    error_scope: Annotated[ErrorScope, Meta(description="of the bounds it was tried with")]
    accumulates_in: Accumulator
    cases: Count
    classes: Annotated[
        list[InverseTried],
        Meta(description="the one that stands, if any; then those that fell. Later ones are not tried"),
    ]


class IdentityResult(Struct, frozen=True, forbid_unknown_fields=True):
    """Whether two calls that should agree give the same bits, in one result of them."""

    pair: Annotated[
        str,
        Meta(
            description="the two calls: packed sequences and each alone; one call and two with the state"
            " handed over, or a call a token; a batch reversed; a row of it alone; a head alone; the"
            " first times alone; another autotune configuration",
            extra_json_schema={
                "enum": ["packed", "split", "decode", "order", "batch", "head", "prefix", "config"]
            },
        ),
    ]
    quantity: Annotated[str, Meta(description="the result: D~, o, a state, or the gradient of an input")]
    same_bits: bool
    ulps: Annotated[
        float | None,
        Meta(
            description="the largest difference in units of the last place of the larger number; null: a NaN,"
            " an infinity, another shape, or an error in one of the two"
        ),
    ]
    from_length: Annotated[int | None, Meta(description="the shortest length with other bits; null: none")]
    cases: Count
    case: Annotated[str | None, Meta(description="the first that has other bits, as Python")]
    raised: Annotated[str, Meta(description="what one of the two calls gave instead of a result")] = ""


class GradeResult(Struct, frozen=True, forbid_unknown_fields=True):
    """The grade of one implementation in one dtype on one device."""

    dtype: Dtype
    device: Device
    reason: Annotated[str, Meta(description="why it could not be graded; else empty")] = ""
    seconds: Seconds = 0.0
    forward: LedgerResult | None = None
    gradients: LedgerResult | None = None
    identity: Annotated[
        list[IdentityResult], Meta(description="the pairs of calls that the contract has")
    ] = []
    inverse: Annotated[
        InverseResult | None, Meta(description="of delta rules in chunks; null for others")
    ] = None
    uncallable: Annotated[bool, Meta(description="whether the plainest call raised")] = False

    def ledgers(self) -> dict[str, LedgerResult | None]:
        """Return the ledgers by quantity."""
        return {"forward": self.forward, "gradients": self.gradients}


class Graded(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One implementation's grades, a dtype and device each."""

    format: DocumentFormat = FORMAT
    implementation: Target
    contract: Promises
    grades: list[GradeResult]
    interpreter: Interpreted = None
