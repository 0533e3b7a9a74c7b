"""The files of a fuzzing report: JSON for programs, HTML for people, JUnit XML and Markdown for CI.

The content of a report is described by entries.py, and by report.schema.json in this folder.
"""

from __future__ import annotations

from pathlib import Path

from dmat.testing.fuzzing.report.entries import FuzzReport
from dmat.testing.fuzzing.report.junit import junit
from dmat.testing.fuzzing.report.markdown import markdown
from dmat.testing.fuzzing.report.page import html
from dmat.testing.output import written
from dmat.testing.record import text_of

__all__ = ["html", "junit", "markdown", "write"]


def write(report: FuzzReport, folder: Path) -> None:
    """Write report.json, report.html, junit.xml and summary.md into the folder, each atomically.

    folder: created if it does not exist. Raises OSError if it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written(text_of(report, indent=2), folder / "report.json")
    written(junit(report), folder / "junit.xml")
    written(markdown(report), folder / "summary.md")
    written(html(report, folder), folder / "report.html")
