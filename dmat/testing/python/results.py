"""What dmat.check, dmat.grade and dmat.replay return. The str of each is the page that the command prints."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass

from dmat.testing.counterexample.outcome import BROKEN, FIXED, Outcome
from dmat.testing.grade.result import Graded, GradeResult
from dmat.testing.record import CauseEntry, LawRecord, Report


class Page:
    """A result that a notebook and a terminal show as its page, the text that the command prints."""

    page: str

    def __str__(self) -> str:
        """Return the page."""
        return self.page

    def __repr__(self) -> str:
        """Return the first line of the page."""
        first = self.page.partition("\n")[0].strip()
        return f"<{type(self).__name__}: {first}>"

    def _repr_html_(self) -> str:
        """Return the page for a notebook."""
        return _in_html(self.page)


@dataclass(frozen=True, repr=False)
class Verdict(Page):
    """What a check found of one kernel. As a bool: whether it is sound.

    report: all of it, as `dmat check --json` writes it. page: as `dmat check` prints it. picture: the PNG of
    the first cause, if its counterexample is kept.
    """

    report: Report
    page: str
    picture: bytes | None = None

    @property
    def sound(self) -> bool:
        """Whether every law that the contract implies was run, and held."""
        return self.report.verdict == "sound"

    @property
    def broken(self) -> bool:
        """Whether a law does not hold. A kernel that could not be checked is neither sound nor broken."""
        return self.report.verdict == "broken"

    @property
    def causes(self) -> tuple[CauseEntry, ...]:
        """The causes of the failures, bugs first."""
        return tuple(self.report.causes)

    @property
    def laws(self) -> tuple[LawRecord, ...]:
        """What became of each law, a record a dtype and device."""
        return tuple(self.report.laws)

    def __bool__(self) -> bool:
        """Return whether it is sound, so that `assert dmat.check(kernel)` says what it seems to say."""
        return self.sound

    def _repr_html_(self) -> str:
        """Return the page for a notebook, with the picture."""
        return _in_html(self.page, self.picture)


@dataclass(frozen=True, repr=False)
class Grades(Page):
    """The grades of one kernel, a dtype and device each. page: as `dmat grade` prints it."""

    report: Graded
    page: str

    @property
    def grades(self) -> tuple[GradeResult, ...]:
        """The grade of each dtype and device."""
        return tuple(self.report.grades)

    @property
    def complete(self) -> bool:
        """Whether every dtype and device could be graded."""
        return bool(self.grades) and not any(grade.reason for grade in self.grades)


@dataclass(frozen=True, repr=False)
class Replay(Page):
    """What became of counterexamples that were tried again. page: as `dmat replay` prints it."""

    outcomes: tuple[Outcome, ...]
    page: str

    @property
    def broken(self) -> bool:
        """Whether a case is still broken."""
        return any(outcome.status == BROKEN for outcome in self.outcomes)

    @property
    def fixed(self) -> bool:
        """Whether every case is fixed."""
        return bool(self.outcomes) and all(outcome.status == FIXED for outcome in self.outcomes)


def _in_html(page: str, picture: bytes | None = None) -> str:
    shown = f'<pre style="line-height: 1.3">{html.escape(page)}</pre>'
    if picture is None:
        return shown
    data = base64.b64encode(picture).decode()
    return f'{shown}\n<img alt="exact, computed, error over allowed" src="data:image/png;base64,{data}">'
