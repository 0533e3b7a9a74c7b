"""JSON schemas of the files that dmat writes, generated from the structs that it writes.

`dmat schema NAME` prints them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dmat.testing.record import Report

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NAMES = ("check", "grade", "compare", "inspect", "fuzz", "case")
FILES = {
    "check": "check/report.schema.json",
    "grade": "grade/grade.schema.json",
    "compare": "compare/compare.schema.json",
    "inspect": "inspect/inspect.schema.json",
    "fuzz": "fuzzing/report/report.schema.json",
}


def file_of(name: str) -> Path:
    """Return the path of the schema file in the package."""
    return Path(__file__).parent / FILES[name]


def text_of(name: str) -> str:
    """Return the schema as indented JSON."""
    return json.dumps(schema(name), indent=2) + "\n"


def schema(name: str) -> dict[str, Any]:
    """Return the schema of a command's report, or of case.json if the name is "case"."""
    made = msgspec.json.schema(_type(name))
    if name != "case":  # a case.json may omit fields that have defaults; a report omits none
        for struct in made["$defs"].values():
            _require_all(struct)
    return {"$schema": DIALECT, **made}


def _type(name: str) -> Any:
    if name == "check":
        title = "The report of `dmat check --json FILE`: an object for one implementation, a list for several"
        return Annotated[Report | list[Report], Meta(title=title)]
    if name == "grade":
        from dmat.testing.grade.result import Graded

        title = "The report of `dmat grade --json FILE`: a list, an entry an implementation"
        return Annotated[list[Graded], Meta(title=title)]
    if name == "compare":
        from dmat.testing.compare.result import Comparison

        return Annotated[Comparison, Meta(title="The report of `dmat compare --json FILE`")]
    if name == "inspect":
        from dmat.testing.inspect.result import Inspected

        return Annotated[Inspected, Meta(title="The report of `dmat inspect --json FILE`")]
    if name == "fuzz":
        from dmat.testing.fuzzing.report.entries import FuzzReport

        return FuzzReport
    from dmat.testing.case_file import CaseFile

    return CaseFile


def _require_all(struct: dict[str, Any]) -> None:
    """Make every property required: a report contains all of them."""
    struct["required"] = list(struct["properties"])
    for about in struct["properties"].values():
        about.pop("default", None)
