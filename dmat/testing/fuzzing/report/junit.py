"""A fuzzing report as JUnit XML: a testcase a law, implementation, dtype and device."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, indent, tostring

from dmat.testing.fuzzing.report.covering import covering, key
from dmat.testing.fuzzing.report.entries import CellEntry, FindingEntry, FuzzReport
from dmat.testing.fuzzing.report.text import legible

SKIPPED = ("known", "not reached", "not run")


def junit(report: FuzzReport) -> str:
    """Return the XML, a testsuite an implementation; a run that did not fuzz is an error in it."""
    report = legible(report)
    root = Element("testsuites", name="dmat fuzz")
    if report.verdict == "did not fuzz":
        _did_not_fuzz(root, report)
    by_cell = covering(report)
    for name in dict.fromkeys(cell.implementation for cell in report.cells):
        suite = SubElement(root, "testsuite", name=name, timestamp=report.started)
        for cell in (c for c in report.cells if c.implementation == name):
            number = by_cell.get(key(name, cell))
            _case(suite, cell, None if number is None else report.findings[number])
        _count(suite)
    _count(root)
    indent(root)
    return bytes(tostring(root, encoding="utf-8", xml_declaration=True)).decode()


def _did_not_fuzz(root: Element, report: FuzzReport) -> None:
    suite = SubElement(root, "testsuite", name="dmat fuzz", timestamp=report.started)
    case = SubElement(suite, "testcase", classname="dmat", name="fuzz", time="0")
    SubElement(case, "error", message=f"did not fuzz: {report.reason}")
    _count(suite)


def _case(suite: Element, cell: CellEntry, finding: FindingEntry | None) -> None:
    name = f"{cell.law}[{cell.dtype}-{cell.device}]"
    names = {"classname": cell.implementation, "name": name, "time": f"{cell.seconds:.3f}"}
    case = SubElement(suite, "testcase", names)
    if cell.status == "broken" or (finding and finding.law == cell.law and _is_of(finding, cell)):
        _failure(case, cell, finding)
    elif cell.status in SKIPPED:
        SubElement(case, "skipped", message=f"{cell.status}: {cell.reason}")


def _is_of(finding: FindingEntry, cell: CellEntry) -> bool:
    """Say whether it was found in this very cell: what was found is never green."""
    return (finding.dtype, finding.device) == (cell.dtype, cell.device)


def _failure(case: Element, cell: CellEntry, finding: FindingEntry | None) -> None:
    told = cell.reason if finding is None else finding.message
    ended = "broken" if finding is None else finding.ended
    failure = SubElement(case, "failure", type=ended, message=next(iter(told.splitlines()), ended))
    failure.text = told if finding is None else f"{told}\n\n{finding.replay}"


def _count(element: Element) -> None:
    """Write how many testcases are in it, and what became of them."""
    element.set("tests", str(sum(1 for _ in element.iter("testcase"))))
    for one, many in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        element.set(many, str(sum(1 for _ in element.iter(one))))
    seconds = sum(float(case.get("time", "0")) for case in element.iter("testcase"))
    element.set("time", f"{seconds:.3f}")
