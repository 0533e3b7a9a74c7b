"""The report of a check as JUnit XML: one testcase per law, dtype and device."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement

from dmat.testing.record import CauseEntry, LawRecord, Report
from dmat.testing.text import legible, xml_of


def junit(reports: Sequence[Report]) -> str:
    """Return the XML, with one testsuite per implementation. It is red if and only if the check is."""
    root = Element("testsuites", name="dmat check")
    for report in map(legible, reports):
        suite = SubElement(root, "testsuite", name=report.implementation)
        causes = {(b.law, b.dtype, b.device): cause for cause in report.causes for b in cause.breaks}
        for law in report.laws:
            _case(suite, law, causes.get((law.law, law.dtype, law.device)))
    return xml_of(root)


def _case(suite: Element, law: LawRecord, cause: CauseEntry | None) -> None:
    """Add the testcase of a law. It is an error if the contract implies the law and it was not run."""
    name = f"{law.law}[{law.dtype}-{law.device}]"
    names = {"classname": law.implementation, "name": name, "time": f"{law.seconds:.3f}"}
    case = SubElement(suite, "testcase", names)
    if law.status == "failed":
        ended = law.ended or "broken"
        failure = SubElement(case, "failure", type=ended, message=next(iter(law.reason.splitlines()), ended))
        failure.text = _text(law, cause)
    elif law.status == "not run" and law.promised:
        SubElement(case, "error", message=f"not run: {law.reason}")
    elif law.status != "passed":
        SubElement(case, "skipped", message=f"{law.status}: {law.reason}")


def _text(law: LawRecord, cause: CauseEntry | None) -> str:
    """Return the message of the cause if it shows this law, else the law's own and what the cause is."""
    if cause is None:
        return law.reason
    if (cause.law, cause.dtype, cause.device) == (law.law, law.dtype, law.device):
        return f"{cause.sentence}\n\n{cause.message}"
    return f"{law.reason}\n\n{cause.sentence} Shown by {cause.law} ({cause.dtype} on {cause.device})."
