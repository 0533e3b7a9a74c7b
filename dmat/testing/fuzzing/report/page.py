"""A fuzzing report as one HTML file that loads nothing: it embeds styles, script, pictures and cells."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from msgspec import to_builtins

from dmat.testing.causes.known import words_of
from dmat.testing.fuzzing.report.cells import packed
from dmat.testing.fuzzing.report.entries import FindingEntry, FuzzReport
from dmat.testing.fuzzing.report.words import counted, duration, figures, verdict
from dmat.testing.text import legible, short

Picture = dict[str, str | None]  # embedded data and path of a picture
HERE = Path(__file__).parent
PICTURES = 16_000_000  # bytes of embedded pictures; further pictures are linked
FINDINGS, MESSAGE = 500, 20_000  # largest number of findings shown, and of characters of a message


def html(report: FuzzReport, folder: Path) -> str:
    """Return the page. folder: folder of the report; paths of pictures are relative to it."""
    shown = legible(report)
    pictures = _pictures(report.findings[:FINDINGS], folder)
    findings = zip(shown.findings, pictures, strict=False)
    style, script = (_text(name) for name in ("report.css", "report.js"))
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            report=shown,
            verdict=verdict(shown),
            figures=figures(shown),
            causes=[words_of(number, cause) for number, cause in enumerate(shown.causes, 1)],
            findings=[_finding(shown, *pair) for pair in findings],
            data=packed(shown),
            style=Markup(style),
            script=Markup(script),
            style_hash=_hash(style),
            script_hash=_hash(script),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FileSystemLoader(HERE),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "counted": counted}
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the SHA-256 of a script or style. The page's content security policy admits no other one."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _finding(report: FuzzReport, finding: FindingEntry, picture: Picture) -> dict[str, Any]:
    statements = {law.name: law.statement for law in report.laws}
    message = short(finding.message, MESSAGE)
    entry: dict[str, Any] = to_builtins(finding)
    return entry | {"statement": statements.get(finding.law, ""), "message": message, "picture": picture}


def _pictures(findings: list[FindingEntry], folder: Path) -> list[Picture]:
    """Return the picture of each finding: its data, or its path if it is not embedded, or neither."""
    room = PICTURES
    pictures: list[Picture] = []
    for finding in findings:
        data = _read(finding, folder)
        room -= len(data or b"")
        if data is None:
            pictures.append({"data": None, "place": None})
        elif room >= 0:
            pictures.append({"data": base64.b64encode(data).decode(), "place": None})
        else:
            place = "./" + quote(f"{finding.folder}/picture.png", errors="surrogateescape")
            pictures.append({"data": None, "place": place})
    return pictures


def _read(finding: FindingEntry, folder: Path) -> bytes | None:
    if finding.folder is None:
        return None
    file = folder / str(finding.folder) / "picture.png"
    try:
        return file.read_bytes()
    except (OSError, ValueError):  # there is no picture, or the path is not valid
        return None
