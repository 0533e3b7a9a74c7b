"""A fuzzing report as JUnit XML: one testcase per law, implementation, dtype and device."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

from dmat.testing.fuzzing.report.covering import covering, key
from dmat.testing.fuzzing.report.entries import CellEntry, FindingEntry, FuzzReport
from dmat.testing.text import legible, xml_of

SKIPPED = ("known", "not reached", "not run")


def junit(report: FuzzReport) -> str:
    """Return the XML, with one testsuite per implementation. A run that did not fuzz becomes an error."""
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
    return xml_of(root)


def _did_not_fuzz(root: Element, report: FuzzReport) -> None:
    suite = SubElement(root, "testsuite", name="dmat fuzz", timestamp=report.started)
    case = SubElement(suite, "testcase", classname="dmat", name="fuzz", time="0")
    SubElement(case, "error", message=f"did not fuzz: {report.reason}")


def _case(suite: Element, cell: CellEntry, finding: FindingEntry | None) -> None:
    name = f"{cell.law}[{cell.dtype}-{cell.device}]"
    names = {"classname": cell.implementation, "name": name, "time": f"{cell.seconds:.3f}"}
    case = SubElement(suite, "testcase", names)
    if cell.status == "broken" or (finding and finding.law == cell.law and _is_of(finding, cell)):
        _failure(case, cell, finding)
    elif cell.status in SKIPPED:
        SubElement(case, "skipped", message=f"{cell.status}: {cell.reason}")


def _is_of(finding: FindingEntry, cell: CellEntry) -> bool:
    """Whether the finding is in this cell's dtype and device. Such a cell is never shown as passed."""
    return (finding.dtype, finding.device) == (cell.dtype, cell.device)


def _failure(case: Element, cell: CellEntry, finding: FindingEntry | None) -> None:
    text = cell.reason if finding is None else finding.message
    ended = "broken" if finding is None else finding.ended
    failure = SubElement(case, "failure", type=ended, message=next(iter(text.splitlines()), ended))
    failure.text = text if finding is None else f"{text}\n\n{finding.replay}"
