"""The schemas: the files that are shipped, what `dmat schema` prints, and what the documents follow."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from msgspec import to_builtins

from dmat.testing.case_file import CaseFile, FindingForm, parts_of, text_of
from dmat.testing.cli import main
from dmat.testing.grade.result import AccuracyClass, ClassResult, Graded, GradeResult, LedgerResult
from dmat.testing.record import LawRecord, Report, Wider
from dmat.testing.schemas import FILES, NAMES, file_of, schema

from .test_casefile import CASE

CLASS = AccuracyClass("window", "float32")
RESULT = ClassResult("window", "float32", "relative", stands=True, worst=0.5)
GRADE = GradeResult("float32", "cpu", forward=LedgerResult(CLASS, 3, [RESULT]))
FOUND = Wider("found", {"error_scope": "prefix"}, "@dmat.testing.implementation(...)", ["float64"])
RECORD = LawRecord("values", "k.py:f", "float32", "cpu", "failed", "values: ...", ended="broken")


def report(**more: Any) -> Report:
    """Return a report of a law that failed."""
    return Report(implementation="k.py:f", verdict="broken", contract={}, laws=[RECORD], **more)


def case_file(**more: Any) -> CaseFile:
    """Return a counterexample with a finding."""
    finding = FindingForm("df", (0, 0, 1), "0.0", "8.0", 8.0, 1e-5, what="value")
    return CaseFile("values", "k.py:f", "float32", "cpu", parts_of(CASE), finding=finding, **more)


DOCUMENTS: dict[str, list[Any]] = {
    "check": [to_builtins(report(stands_under=FOUND)), [to_builtins(report())] * 2],
    "grade": [[to_builtins(Graded(implementation="k.py:f", contract={}, grades=[GRADE]))]],
    "case": [json.loads(text_of(case_file(format=number))) for number in (1, 2)],
}


@pytest.mark.parametrize("name", FILES)
def test_the_shipped_file_is_the_schema_of_the_structs(name: str) -> None:
    """Each shipped file is what `dmat schema` makes of the structs; to renew it: dmat schema NAME > FILE."""
    assert json.loads(file_of(name).read_text()) == schema(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_command_prints_a_schema(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`dmat schema NAME` prints a schema that is one, and exits with 0; a wrong name is one line and 2."""
    assert main(["schema", name]) == 0
    printed = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(printed)
    assert printed == schema(name)
    assert main(["schema", "nothing"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_follow_their_schema(name: str) -> None:
    """A whole document follows; one with another field, or of a format that is not known, does not."""
    for document in DOCUMENTS[name]:
        jsonschema.validate(document, schema(name))
        one = document[0] if isinstance(document, list) else document
        assert one["format"] in (1, 2)
        for change in ({"more": 1}, {"format": 3}):
            wrong = [one | change] if isinstance(document, list) else one | change
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(wrong, schema(name))


@pytest.mark.parametrize("name", ["check", "grade"])
def test_a_document_that_lacks_a_field_is_refused(name: str) -> None:
    """Every field of a report is required, "format" included: a program need not ask whether it is there."""
    for field in schema(name)["$defs"]["Report" if name == "check" else "Graded"]["properties"]:
        document = DOCUMENTS[name][-1]
        without = [{key: value for key, value in document[0].items() if key != field}]
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(without, schema(name))
