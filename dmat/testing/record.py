"""The result of one law in one place: what a process tells of it, and what the report of a check holds."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from dmat.testing.contract.names import DEVICES, DTYPES
from dmat.testing.interpret import Interpreter

FORMAT: Final = 2  # of every JSON document that dmat writes

Format = Literal[2]
Dtype = Annotated[str, Meta(extra_json_schema={"enum": list(DTYPES)})]
Device = Annotated[str, Meta(extra_json_schema={"enum": list(DEVICES)})]
Status = Literal["passed", "failed", "known", "not run"]
Ended = Literal["broken", "died", "did not end"]
What = Literal["value", "class", "raised", "shape", "memory", "died"]  # of dmat.testing.verdict.Finding
Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]
Target = Annotated[str, Meta(description="TARGET as given, or a built-in name")]
Promises = Annotated[dict[str, Any], Meta(description="promises that differ from the strictest default")]


Interpreted = Annotated[
    Interpreter | None,
    Meta(description="of Triton, that the kernels ran in, and the number of the autotune config; else null"),
]


class LawRecord(Struct, forbid_unknown_fields=True):
    """What became of one law for one implementation, dtype and device."""

    law: str
    implementation: str
    dtype: Dtype
    device: Device
    status: Status = "not run"  # until it is known better
    reason: Annotated[
        str,
        Meta(
            description="failed: the whole message; not run: why; known: the reason and link told; else empty"
        ),
    ] = "interrupted"
    promised: Annotated[bool, Meta(description="whether the contract implies that the law is run")] = True
    examples: Count = 0
    worst: Annotated[
        float | None, Meta(description="largest error over its bound; null for laws without a bound")
    ] = None
    case: Annotated[
        str | None, Meta(description="failed: the smallest case found, as Python, a line an argument")
    ] = None
    recipe: Annotated[str | None, Meta(description="failed: the same case, as a line of JSON")] = None
    folder: Annotated[str | None, Meta(description="failed: where the counterexample is kept")] = None
    ended: Annotated[
        Ended | None, Meta(description="failed: a wrong result, or what became of the process")
    ] = None
    seconds: Seconds = 0.0


class Unreached(LawRecord):
    """The record of a law that the run did not come to."""


class Record(LawRecord, tag="record", tag_field="line"):
    """A LawRecord while the law is tried, or one part of it: "all", "ladder" or "search".

    refused: of the examples, those that the implementation refused with an error, where it may.
    drawn: how many examples had gates of this regime, and of this class of lengths, by "REGIME, LENGTHS".
    """

    refused: int = 0
    drawn: dict[str, int] = {}
    part: str = "all"

    def count(self, kind: str | None) -> None:
        """Count an example. kind: "REGIME, LENGTHS" of its gates; None where it has none."""
        self.examples += 1
        if kind is not None:
            self.drawn[kind] = self.drawn.get(kind, 0) + 1


class Lost(Struct, tag="lost", tag_field="line"):
    """A test of which no record came. lost: what pytest knows of it, that its worker is gone, say."""

    nodeid: str
    lost: str


def text_of(document: Any, indent: int | None = None) -> str:
    """Return structs as JSON. Half a surrogate pair in a text is escaped, where msgspec would raise."""
    return json.dumps(msgspec.to_builtins(document), indent=indent)


def read_line(text: str) -> Record | Lost:
    """Return what a line of --dmat-report holds."""
    line: Record | Lost = msgspec.convert(json.loads(text), Record | Lost)
    return line


def stated(contract: dict[str, object]) -> dict[str, Any]:
    """Return what a contract states as JSON has it; what JSON has not, a function, say, as its text."""
    said: dict[str, Any] = json.loads(json.dumps(contract, default=str))
    return said
