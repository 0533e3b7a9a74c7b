"""Make texts valid for an HTML page or an XML file, shorten them, and write the XML of JUnit files."""

from __future__ import annotations

import re
from typing import Any, TypeVar
from xml.etree.ElementTree import Element, indent, tostring

import msgspec

T = TypeVar("T")
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def legible(report: T) -> T:
    """Return a copy of a struct in which all texts are valid in XML."""
    return msgspec.convert(_legible(msgspec.to_builtins(report)), type(report))


def _legible(value: Any) -> Any:
    """Return a copy of plain data in which U+FFFD stands for each character that XML forbids or discourages.

    These are control characters, halves of surrogate pairs, U+FFFE and U+FFFF.
    """
    if isinstance(value, str):
        return _FORBIDDEN.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_legible(name): _legible(entry) for name, entry in value.items()}
    return [_legible(entry) for entry in value] if isinstance(value, list) else value


def short(text: str, most: int) -> str:
    """Return the text cut to at most `most` characters. A cut text ends with an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"


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
