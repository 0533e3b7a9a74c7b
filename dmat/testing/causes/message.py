"""Compose the message of each cause that is shown, in a child process: a try may end the process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from dmat.strategies.recipes.recipe import Case
from dmat.testing.case_file import decoded
from dmat.testing.causes.search import SECONDS as SEARCH
from dmat.testing.causes.search import with_causes
from dmat.testing.causes.trial import broken, found_again
from dmat.testing.counterexample.attempt import in_dtype
from dmat.testing.counterexample.folder import case_file, next_steps
from dmat.testing.errors import Died, OutOfTime
from dmat.testing.explain import message as explain
from dmat.testing.kernel.select import implementation_named
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.processes import Run, Send, apart
from dmat.testing.record import CauseEntry, Report
from dmat.testing.registry import law_named
from dmat.testing.run.session import Session
from dmat.testing.verdict.finding import Example, Failure, LawBroken

WITHOUT_END = float("inf")
SECONDS = 60.0  # of the wall clock for the messages of one report; its tries have a limit of CPU time


def with_causes_told(
    report: Report, folder: Path | None, run: Run = apart, most: float = WITHOUT_END
) -> Report:
    """Return the report with the causes of its failures, and the whole message of each that is shown.

    folder: where counterexamples are kept. run: calls what tries the kernel. most: seconds for all of it.

    A cause for which there is no time, or whose case no longer fails, keeps its brief message.
    """
    end = time.monotonic() + most
    report = with_causes(report, folder, None if most == WITHOUT_END else min(SEARCH, most), run)
    until = min(time.monotonic() + SECONDS, end)
    causes = []
    for number, cause in enumerate(report.causes):
        shown = cause.kind != "unsorted" or number == 0
        left = until - time.monotonic()
        if shown and cause.ended == "broken" and cause.recipe and left > 0:
            with suppress(Died, OutOfTime, RuntimeError):  # RuntimeError: a law itself raised
                cause = run(_message_here, report, cause, heard=lambda news: None, seconds=left)
        causes.append(cause)
    return replace(report, causes=causes)


def _message_here(report: Report, cause: CauseEntry, send: Send) -> CauseEntry:
    import torch

    torch.set_num_threads(1)
    law, subject, case = asked_again(report.implementation, cause)
    examples = examples_again(law, subject, case)
    if not examples:
        return cause
    others = list(_others(report, cause, law, subject))
    tried = explain.what_is_tried(law, subject, examples, others, Session().trying)
    home, failure = cause.folder, Failure(case, LawBroken(examples[0].finding))
    after = [] if home is None else next_steps(Path(home), case_file(law, subject, failure))
    text = explain.message(law, subject, examples, reproducible=True, tried=tried, after=after)
    return replace(cause, message=text)


def asked_again(target: str, cause: CauseEntry) -> tuple[Law, Subject, Case]:
    """Return the law, the subject and the case of a cause."""
    own = implementation_named(target)
    law, subject = law_named(cause.law, own.kind), subject_of(own, cause.dtype, cause.device)
    return law, subject, decoded(cause.recipe or "{}")


def examples_again(law: Law, subject: Subject, case: Case) -> list[Example]:
    """Try the case of a cause again. Return it and perhaps a longer one; none if it holds now."""
    found = found_again(law, subject, case)
    if found is None:
        return []
    further = explain.longer(law, subject, case, Session().trying)
    return [Example(case, found.finding), *([further] if further is not None else [])]


def _others(report: Report, cause: CauseEntry, law: Law, subject: Subject) -> Iterator[Example]:
    """Yield the cases of other dtypes that break the law of the cause in its dtype too."""
    places = {(one.law, one.dtype, one.device) for one in cause.breaks}
    for record in report.broken():
        alike = record.law == cause.law and (record.law, record.dtype, record.device) in places
        if alike and record.recipe and record.recipe != cause.recipe:
            case: Case = in_dtype(decoded(record.recipe), subject.domain.dtype)
            found = broken(law, subject, case)
            if found is not None:
                yield Example(case, found.finding)
