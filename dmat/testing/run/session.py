"""Services of a run, each optional: a journal, a corpus, a folder for counterexamples."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from dmat.strategies.recipes.recipe import Case
from dmat.testing.counterexample.corpus import Corpus
from dmat.testing.counterexample.folder import case_file, folder_name, next_steps, write, write_alone
from dmat.testing.devices import is_broken
from dmat.testing.explain import message as explain
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.run.journal import Journal
from dmat.testing.run.shapes import Sizes
from dmat.testing.verdict.finding import Example, Failure, LawBroken


@dataclass(frozen=True)
class Session:
    """Services of a run in one process. Each is optional.

    journal: writes each case down before it is tried. name: the name of this run's line in the journal, for
    example a test's id. corpus: cases to try first, and known failures. folder: gets a folder for each
    counterexample. explains: failures get their full message, which tries longer cases too.
    brief: the message tries nothing, and a folder has case.json alone: the causes get the rest later.
    replaceable: another process takes over if this one ends. So it ends itself once its device is broken.
    seed: of the random cases; None: Hypothesis chooses. milder: returns a failure with a milder case, and
    with which gates it falls. shapes: sizes (B, NH, S) or (B, NH, S, K, V) that are tried too. until: the
    time.monotonic() from which on no further random case of a law is begun.
    """

    journal: Journal | None = None
    corpus: Corpus | None = None
    folder: Path | None = None
    name: str = ""
    explains: bool = True
    brief: bool = False
    replaceable: bool = False
    seed: int | None = None
    shapes: tuple[Sizes, ...] = ()
    until: float | None = None
    milder: Callable[[Law, Subject, Failure, Session], tuple[Failure, str]] | None = None

    def trying(
        self, case: Case, *, plainest: bool = False, number: int | None = None
    ) -> AbstractContextManager[None]:
        """Write the case into the journal, if there is one, before it is tried. Raises DidNotEnd.

        number: the case's number in the block that was begun last; None: the case is in no block.
        """
        if self.journal is None:
            return nullcontext()
        if number is not None:
            return self.journal.trying_number(number)
        return self.journal.trying(case, plainest=plainest)

    def begin(self, block: str) -> None:
        """Begin a block of cases in the journal, if there is one: LADDER, or a seed in hexadecimal."""
        if self.journal is not None:
            self.journal.begin(block)

    def leave_a_broken_device(self, device: str, why: str) -> None:
        """End this process if its device is broken and another process takes over. why: for the journal."""
        if self.replaceable and self.journal is not None and is_broken(device):
            self.journal.device_failed(why)
            os._exit(1)

    def pause_watchdog(self) -> None:
        """Pause the watchdog until the next example: what follows is not kernel code."""
        if self.journal is not None:
            self.journal.pause_watchdog()


def explained_and_kept(
    law: Law, subject: Subject, failure: Failure, session: Session
) -> tuple[LawBroken, Path | None]:
    """Return the failure with its full message, and its counterexample folder, or None."""
    session.pause_watchdog()
    examples = [Example(failure.case, failure.broken.finding)]
    again, tried = failure.reproducible, list[str]()
    brief = session.brief or is_broken(subject.device)
    if again and failure.ended != "died" and not brief:
        further = explain.longer(law, subject, failure.case, session.trying)
        examples += [further] if further is not None else []
        tried = explain.what_is_tried(law, subject, examples, failure.known[1:], session.trying)

    def composed(after: Sequence[str]) -> LawBroken:
        text = explain.message(law, subject, examples, reproducible=again, tried=tried, after=after)
        return _with_message(failure, text)

    if session.folder is None:
        return composed(()), None
    file = case_file(law, subject, failure)
    home = session.folder / folder_name(file)
    steps = next_steps(home, file)
    try:
        if brief:
            write_alone(home, file, failure.case)
            return composed(steps[:1]), home
        remarks = write(home, law, subject, failure, file, examples, str(composed(steps)), session)
    except OSError as error:  # disk full or not writable: the finding is reported all the same
        return composed([f"not kept: {session.folder}: {error}"]), None
    return composed([*remarks, *steps]), home


def _with_message(failure: Failure, message: str) -> LawBroken:
    explained = LawBroken(failure.broken.finding)
    explained.args = (message,)
    return explained
