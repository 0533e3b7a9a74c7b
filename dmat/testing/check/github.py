"""What GitHub Actions shows of a check: annotations at the kernels' definitions, and the page of the job.

An annotation is a line of the output, a workflow command ::error. This process loads no target, so it looks
for the definition in the text of the TARGET's file.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dmat.testing.causes.known import unsorted, words_of
from dmat.testing.check.page import verdict_line
from dmat.testing.record import Report

FENCE = re.compile("`{3,}")
BODIES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def error_lines(reports: Sequence[Report]) -> list[str]:
    """Return an annotation for each cause, and one for each kernel that could not be checked."""
    return [line for report in reports for line in _of_report(report)]


def add_to_summary(page: str) -> None:
    """Append the page to the summary of the job, in Markdown. Without $GITHUB_STEP_SUMMARY, do nothing."""
    file = os.environ.get("GITHUB_STEP_SUMMARY")
    if not file:
        return
    fence = max(FENCE.findall(page), key=len, default="``") + "`"
    with open(file, "a", encoding="utf-8", errors="replace") as summary:
        summary.write(f"## dmat check\n\n{fence}text\n{page.rstrip()}\n{fence}\n\n")


# Annotations


def _of_report(report: Report) -> Iterator[str]:
    if report.verdict == "sound":
        return
    place = definition(report.implementation)
    if report.verdict == "error":
        yield _error(place, "dmat: could not be checked", verdict_line(report))
        return
    for number, cause in enumerate(report.causes or [unsorted(report.broken())], 1):
        message = "\n".join([verdict_line(report), *words_of(number, cause), cause.message])
        yield _error(place, f"dmat: {cause.law} ({cause.dtype} on {cause.device})", message)


def _error(place: tuple[Path, int] | None, title: str, message: str) -> str:
    """Return the workflow command. place: a file and a line, or None for the whole job."""
    properties = {"title": title}
    if place is not None:
        properties = {"file": _in_workspace(place[0]), "line": str(place[1]), "title": title}
    stated = ",".join(f"{name}={_escaped(value, ':,')}" for name, value in properties.items())
    return f"::error {stated}::{_escaped(message)}"


def _escaped(text: str, further: str = "") -> str:
    """Return the text with %, line ends and the further characters as %XX, as GitHub reads it."""
    return "".join(f"%{ord(c):02X}" if c in "%\r\n" or c in further else c for c in text)


def _in_workspace(file: Path) -> str:
    """Return the path from the root of the checked-out repository; as it is, if it lies elsewhere."""
    root = Path(os.environ.get("GITHUB_WORKSPACE") or ".").resolve()
    found = file.resolve()
    return (found.relative_to(root) if found.is_relative_to(root) else found).as_posix()


# Definitions


def definition(target: str) -> tuple[Path, int] | None:
    """Return the file of a TARGET, and the line that defines its function; line 1 if no line is found.

    None if there is no such file: of a built-in implementation, or of a module that is found in another way.
    """
    where, _, attribute = target.rpartition(":")
    file = Path(where) if where.endswith(".py") else _file_of(where)
    if file is None or not file.is_file():
        return None
    body, line = ast.parse(file.read_bytes()).body, 1
    for name in attribute.split("."):
        found = next((node for node in reversed(list(_statements(body))) if name in _bound(node)), None)
        if found is None:
            break
        body, line = getattr(found, "body", []), found.lineno
    return file, line


def _file_of(module: str) -> Path | None:
    places = [Path(root, *module.split(".")) for root in (".", *sys.path)]
    files = [file for place in places for file in (place / "__init__.py", Path(f"{place}.py"))]
    return next((file for file in files if module and file.is_file()), None)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a body, those inside `if`, `try` and `with` too."""
    for node in body:
        yield node
        if not isinstance(node, BODIES):
            inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            yield from _statements(inner)


def _bound(node: ast.stmt) -> set[str]:
    """Return the names that a statement binds."""
    if isinstance(node, BODIES):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name for alias in node.names}
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return set()
