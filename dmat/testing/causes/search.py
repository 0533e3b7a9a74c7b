"""Find the causes of a broken kernel's failures, in a child process: a case may end it."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from dmat.strategies.recipes.recipe import shown
from dmat.testing.case_file import decoded, encoded
from dmat.testing.causes.failure import WAITING, Clock, Failure
from dmat.testing.causes.group import Group, Grouping
from dmat.testing.causes.known import DOUBTFUL, UNSORTED, breaks_of, entry_of, unsorted
from dmat.testing.causes.length import at_length
from dmat.testing.causes.relaxable import Relaxable
from dmat.testing.causes.show import SECONDS_OF_WORDS, falls_of, mildest, with_words
from dmat.testing.causes.words import ENDED, of_bug, of_promises
from dmat.testing.counterexample.folder import case_file, folder_name, next_steps
from dmat.testing.errors import Died, OutOfTime
from dmat.testing.explain import message as explain
from dmat.testing.explain.hints_kind import OTHER, fits_no_kind
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.kernel.select import implementation_named
from dmat.testing.processes import Run, Send, apart
from dmat.testing.record import AtLength, CauseEntry, LawRecord, Refuting, Report
from dmat.testing.verdict.finding import Example, LawBroken
from dmat.testing.verdict.finding import Failure as Found

SECONDS = 9.0  # of CPU time of the whole search, with the start of its process
GROUPING = 0.5  # the share of it that grouping may take
MARGIN = 0.5  # CPU seconds between the end of the search and that of its process
MILDER = 1.5  # seconds of the search for milder cases, a cause


@dataclass
class Causes:
    """The causes that were found, and how far off the kernel is at ordinary gates."""

    entries: list[CauseEntry] = field(default_factory=list)
    at_length: AtLength | None = None


def with_causes(
    report: Report, folder: Path | None, seconds: float | None = None, run: Run = apart
) -> Report:
    """Return the report with the causes of its failures.

    folder: where counterexamples are kept. seconds: CPU time of the search, by default SECONDS. run: calls
    the search in a process of its own, or in this one.

    If a case ends the child process, the search starts again without that case.
    """
    seconds = SECONDS if seconds is None else seconds
    until = time.monotonic() + WAITING * seconds
    spent = 0.0 if run is apart else time.process_time()  # the search counts all CPU time of its process
    found, deadly, trying, why = Causes(), set[int](), -1, UNSORTED

    def heard(news: int | Causes) -> None:
        nonlocal trying, found
        if isinstance(news, int):
            trying = news
        else:
            found = news

    while not found.entries and (left := until - time.monotonic()) > 0:
        arguments = (report, folder, deadly, spent + min(seconds, left / WAITING) - MARGIN)
        try:
            found = run(_search_here, *arguments, heard=heard, seconds=left)
        except Died:
            if trying in deadly:
                break
            deadly.add(trying)
        except OutOfTime:
            break
        except RuntimeError as error:
            why = f"Not sorted by cause: the search for causes raised {error}"
            break
    entries = found.entries or [unsorted(report.broken(), why)]
    return replace(report, causes=entries, at_length=found.at_length)


def _search_here(report: Report, folder: Path | None, deadly: set[int], seconds: float, send: Send) -> Causes:
    """Search in this process. seconds: CPU time of the whole process."""
    import torch

    torch.set_num_threads(1)
    own = implementation_named(report.implementation)
    return causes_of(own, report, folder, deadly, seconds - time.process_time(), send)


def causes_of(
    own: Implementation,
    report: Report,
    folder: Path | None = None,
    deadly: set[int] | frozenset[int] = frozenset(),
    seconds: float = SECONDS,
    send: Send = lambda news: None,
) -> Causes:
    """Group the failures of a report, and show each cause by its mildest case.

    deadly: the numbers of failures that end a process. seconds: CPU time. send: receives the number of each
    failure before it is tried, and the causes as soon as they are known.
    """
    clock = Clock.of(seconds, send)
    records = report.broken()
    failures = []
    for number, record in enumerate(records):
        clock.trying(number)
        known = replace(record, ended="died") if number in deadly else record
        failures.append(Failure.of(number, known, own))
    refuting = [
        Failure.of(-1 - number, _refuting(report.implementation, case), own)
        for number, case in enumerate(report.stands_under.refuted_by if report.stands_under else [])
    ]
    # A case that refuted another contract may hold under this one: it has no finding then.
    failures += [failure for failure in refuting if failure.finding is not None]
    relaxable = Relaxable.of(own, report.stands_under)
    grouping = Grouping(relaxable, clock.at_most(GROUPING * seconds))
    grouping.sort(failures)
    found = Causes([_entry(group, relaxable, folder, clock) for group in _in_order(grouping)])
    for failures, sentence in ((grouping.doubtful, DOUBTFUL), (grouping.unsorted, UNSORTED)):
        left = [failure.record for failure in sorted(failures, key=lambda failure: failure.number)]
        found.entries += [unsorted(left, sentence)] if left else []
    send(found)
    if not report.interpreter:
        found.at_length = at_length(own, found.entries[0].dtype, found.entries[0].device)
    return found


def _refuting(implementation: str, case: Refuting) -> LawRecord:
    """Return the record of a case that shows a bug, which the search for a wider contract found."""
    place = case.law, implementation, case.dtype, case.device
    read = shown(decoded(case.recipe))
    return LawRecord(*place, "failed", case.law, case=read, recipe=case.recipe, ended="broken")


def _in_order(grouping: Grouping) -> list[Group]:
    """Return bugs first, then the causes of most failures."""
    return [
        *sorted(grouping.bugs, key=lambda group: -len(group.failures)),
        *sorted(grouping.promises, key=lambda group: -len(group.failures)),
    ]


def _entry(group: Group, relaxable: Relaxable, folder: Path | None, clock: Clock) -> CauseEntry:
    relaxable = group.relaxable or relaxable
    falls = falls_of(group, relaxable)
    failure = mildest(group.failures, falls, clock.at_most(MILDER))
    failure, gates = with_words(failure, falls, clock.at_most(SECONDS_OF_WORDS))
    record = _shown(failure, folder)
    return entry_of(
        record,
        kind=_kind(group, failure),
        sentence=_sentence(group, failure, relaxable),
        promises=relaxable.values(group.given_up),
        decorator=None if group.is_bug else relaxable.written(group.given_up),
        tried=_tried(group, relaxable),
        gates=gates,
        breaks=breaks_of(_records(group)),
    )


def _kind(group: Group, failure: Failure) -> Literal["bug", "operator", "promise"]:
    """Return the kind of a cause. "operator": the output is that of no kind of operator of dmat."""
    if not group.is_bug:
        return "promise"
    found = failure.finding
    values = group.ended == "broken" and found is not None and found.quantity == "o" and found.what == "value"
    return "operator" if values and fits_no_kind(failure.subject, lambda case: nullcontext()) else "bug"


def _records(group: Group) -> list[LawRecord]:
    """Return the records of a group in the order of the report; what the search found only if it is alone."""
    failures = sorted(group.failures, key=lambda failure: failure.number)
    own = [failure.record for failure in failures if failure.number >= 0]
    return own or [failure.record for failure in failures]


def _tried(group: Group, relaxable: Relaxable) -> str:
    """Say on what the contract without these promises was tried."""
    if group.is_bug:
        return ""
    if relaxable.whole and group.given_up == relaxable.around(group.given_up):
        return "all laws, which hold"
    return f"its {len(group.failures)} known cases, which then hold"


def _sentence(group: Group, failure: Failure, relaxable: Relaxable) -> str:
    if group.ended != "broken":
        return ENDED[group.ended]
    if not group.is_bug:
        end = "reverse" if getattr(relaxable.own.contract, "grad_scope", None) != "prefix" else "forward"
        return of_promises(relaxable.values(group.given_up), end)
    if _kind(group, failure) == "operator":
        return f"{OTHER[:1].upper()}{OTHER[1:]}"
    if failure.finding is None:
        return f"{failure.law.name} does not hold, but not at every try: an earlier call may be needed."
    symptom, finding = failure.symptom, failure.finding
    if finding.what == "class" and finding.computed == "NaN":
        symptom = symptom.replace(": a number for", ": NaN for", 1)
    return of_bug(finding.quantity, symptom, finding.what)


def _shown(failure: Failure, folder: Path | None) -> LawRecord:
    """Return the record of the case to show: its own, or one with a milder case. Its message is brief."""
    record = failure.record
    told = failure.number >= 0 and encoded(failure.case) == record.recipe
    if failure.deadly or failure.finding is None or told:
        return record
    law, subject = failure.law, failure.subject
    found = Found(failure.case, LawBroken(failure.finding))
    examples = [Example(failure.case, failure.finding)]
    file = case_file(law, subject, found)
    home = None if folder is None else folder / folder_name(file)
    after = [] if home is None else next_steps(home, file)
    text = explain.message(law, subject, examples, reproducible=True, after=after)
    return replace(
        record,
        reason=text,
        case=shown(failure.case),
        recipe=encoded(failure.case),
        folder=None if home is None else str(home),
    )
