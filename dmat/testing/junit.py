"""What JUnit files of all commands share: the counts of testcases, and the text of the XML."""

from __future__ import annotations

from xml.etree.ElementTree import Element, indent, tostring


def xml_of(root: Element) -> str:
    """Return the XML of a <testsuites>, with counts in it and in each of its <testsuite>s."""
    for element in (*root, root):
        _count(element)
    indent(root)
    return bytes(tostring(root, encoding="utf-8", xml_declaration=True)).decode()


def _count(element: Element) -> None:
    """Set the numbers of testcases, failures, errors and skipped testcases, and the total time."""
    element.set("tests", str(sum(1 for _ in element.iter("testcase"))))
    for one, many in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        element.set(many, str(sum(1 for _ in element.iter(one))))
    seconds = sum(float(case.get("time", "0")) for case in element.iter("testcase"))
    element.set("time", f"{seconds:.3f}")
