"""A fuzzing report as Markdown, for the page of a CI job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dmat.testing.causes.known import words_of
from dmat.testing.fuzzing.report.entries import CellEntry, FindingEntry, FuzzReport
from dmat.testing.fuzzing.report.words import figures, verdict
from dmat.testing.text import legible, short

TABLE = 45_000  # bytes of each of the two tables; GitHub accepts a page of 1 MiB
MOST_LINES = 40  # of the causes
LONGEST = 600  # characters of a text; no valid name or command is longer


def markdown(report: FuzzReport) -> str:
    """Return the summary. It has less than 100 kB, and says what was cut."""
    report = legible(report)
    lines = [f"## dmat fuzz: {verdict(report)}", ""]
    if report.reason:
        lines += [code(report.reason), ""]
    lines += [code(report.command), "", "| | |", "|---|---|"]
    lines += [f"| {name} | {code(text)} |" for name, text in figures(report).items()]
    if report.findings:
        lines += ["", "### Causes", "", *_causes(report), "", "### Findings", "", *_findings(report)]
    if worst := _worst(report):
        lines += ["", "### Worst error over bound that was let pass, by law", "", *_worst_rows(worst)]
    return "\n".join(lines)


def code(text: str, most: int = LONGEST) -> str:
    """Return the text as code for a cell of a table: one line, with all Markdown escaped."""
    text = short(" ".join(text.split()), most)
    if not text:
        return ""
    if not set(text) & set("`|\\"):
        return f"`{text}`"
    safe = (c if c.isalnum() or c == " " or not c.isascii() else f"&#{ord(c)};" for c in text)
    return f"<code>{''.join(safe)}</code>"


def _causes(report: FuzzReport) -> list[str]:
    """Return the words of each cause, as code, which escapes them."""
    lines = [line for n, cause in enumerate(report.causes, 1) for line in words_of(n, cause)]
    return [f"- {code(line.strip())}" for line in lines[:MOST_LINES]]


def _findings(report: FuzzReport) -> list[str]:
    heads = ("law", "kernel", "dtype", "smallest case", "replay")
    return _table(heads, (_finding_row(finding) for finding in report.findings), len(report.findings))


def _finding_row(finding: FindingEntry) -> Sequence[str]:
    ended = "" if finding.ended == "broken" else f" ({finding.ended})"
    place = f"{finding.dtype} {finding.device}"
    case = "; ".join(finding.case.splitlines())
    names = (finding.implementation, place)
    return code(finding.law) + ended, *map(code, names), code(case, 160), code(finding.replay)


def _worst(report: FuzzReport) -> list[CellEntry]:
    """Return, for each law with a bound, the cell of the largest error over bound. Largest first."""
    cells = [cell for cell in report.cells if cell.worst is not None]
    by_law = {cell.law: cell for cell in sorted(cells, key=_ratio)}
    return sorted(by_law.values(), key=_ratio, reverse=True)


def _ratio(cell: CellEntry) -> float:
    return cell.worst or 0.0


def _worst_rows(worst: Sequence[CellEntry]) -> list[str]:
    heads = ("law", "error / bound", "kernel", "dtype")
    rows = (
        (code(c.law), f"{c.worst:.3f}", code(c.implementation), code(f"{c.dtype} {c.device}")) for c in worst
    )
    return _table(heads, rows, len(worst))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], number: int) -> list[str]:
    """Return the lines of the table. If rows do not fit, the last line says how many."""
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    size = 0
    for shown, row in enumerate(rows):
        line = f"| {' | '.join(row)} |"
        size += len(line.encode()) + 1
        if size > TABLE:
            return [*lines, "", f"{number - shown} more did not fit: see report.html or report.json."]
        lines.append(line)
    return lines
