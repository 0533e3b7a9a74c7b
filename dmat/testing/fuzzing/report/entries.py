"""The structs of report.json, the report of a fuzzing run. report.schema.json is made of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from dmat.testing.record import (
    FORMAT,
    CauseEntry,
    Count,
    Device,
    Dtype,
    Ended,
    Format,
    Interpreted,
    Seconds,
    Target,
)

Drawn = Annotated[
    dict[Annotated[str, Meta(pattern="^[a-z]+, S .+$")], Annotated[int, Meta(ge=1)]],
    Meta(description='examples by "REGIME, LENGTHS"'),
]
CellStatus = Literal["held", "broken", "not run", "not reached", "known"]
Positive = Annotated[int, Meta(ge=1)]


class ImplementationEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """An implementation of the run."""

    name: Target
    contract: Annotated[dict[str, Any], Meta(description="only what it states; of a bare function nothing")]


class LawEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """A law of the run."""

    name: str
    statement: str


class CellEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """The outcome of one law for one implementation, dtype and device."""

    law: str
    implementation: str
    dtype: Dtype
    device: Device
    status: CellStatus
    reason: Annotated[str, Meta(description="why it was not run or is known; broken: what was found")]
    turns: Count
    examples: Count
    refused: Annotated[
        int,
        Meta(
            ge=0,
            description="of the examples, those that the implementation refused with an error, where it may",
        ),
    ]
    out_of_memory: Count
    seconds: Seconds
    worst: Annotated[
        float | None,
        Meta(description="the largest error over bound that was let pass; null for laws without a bound"),
    ]
    worst_case: Annotated[str | None, Meta(description="its case, as Python, a line an argument")]
    worst_recipe: Annotated[str | None, Meta(description="the same, as a line of JSON")]
    drawn: Drawn


class AlsoEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """Another law, dtype and device that a finding breaks."""

    law: str
    dtype: Dtype
    device: Device


class FindingEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """A distinct cause, and the smallest case that shows it."""

    law: str
    implementation: str
    dtype: Dtype
    device: Device
    ended: Annotated[Ended, Meta(description="a wrong result, or what became of the process")]
    reproducible: Annotated[bool, Meta(description="whether its case failed again when tried again")]
    message: str
    case: Annotated[str, Meta(description="the smallest case, as Python, a line an argument")]
    recipe: Annotated[str, Meta(description="the same, as a line of JSON")]
    folder: Annotated[
        str | None,
        Meta(description="where the counterexample is kept, relative to the report's folder"),
    ]
    replay: Annotated[str, Meta(description="the command that tries it again")]
    after_seconds: Annotated[float, Meta(ge=0, description="when it was found first")]
    times: Annotated[int, Meta(ge=1, description="failing examples seen with its symptoms")]
    also: Annotated[list[AlsoEntry], Meta(description="what else its smallest case, or theirs, breaks")]


class EventEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """Something that happened in the run: a process that died, say."""

    after_seconds: Seconds
    what: str


class FuzzReport(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """report.json of `dmat fuzz`."""

    format: Format = FORMAT
    verdict: Literal["nothing found", "found", "did not fuzz"]
    reason: Annotated[str, Meta(description="did not fuzz: why, in a line; else empty")]
    command: str
    started: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
    asked_seconds: Seconds
    seconds: Annotated[float, Meta(ge=0, description="of fuzzing, all sittings together")]
    sittings: Annotated[int, Meta(ge=1, description="1, and 1 for each time it was resumed")]
    seed: int
    processes: Positive
    machine: str
    versions: dict[str, str]
    interpreter: Interpreted
    examples: Count
    per_second: Seconds
    implementations: list[ImplementationEntry]
    laws: list[LawEntry]
    cells: Annotated[list[CellEntry], Meta(description="one a law x implementation x dtype x device")]
    findings: Annotated[list[FindingEntry], Meta(description="one a distinct cause")]
    causes: Annotated[
        list[CauseEntry],
        Meta(description="the causes of the findings, as `dmat check` tells them: bugs, then promises"),
    ]
    events: list[EventEntry]
