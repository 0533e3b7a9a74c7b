"""Try laws on a kernel: one record for each law, dtype and device. `dmat check` and pytest call this."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

from hypothesis import settings

from dmat.strategies.recipes.recipe import Case
from dmat.testing.devices import CPU, is_broken
from dmat.testing.errors import DidNotEnd, Refused
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.record import Record
from dmat.testing.run.attempt import without_end
from dmat.testing.run.journal import Journal, JournalLine
from dmat.testing.run.search import NO_SERVICES, Failed, failed, search
from dmat.testing.run.session import Session, explained_and_kept
from dmat.testing.verdict.finding import Failure, LawBroken


def run(
    kernel: Implementation,
    laws: Iterable[Law],
    dtypes: Iterable[str],
    devices: Iterable[str],
    until: float | None = None,
    *,
    profile: settings | None = None,
    session: Session = NO_SERVICES,
    part: str = "all",
) -> Iterator[Record]:
    """Try each law in each dtype on each device. Yield a record as soon as a law is done.

    laws: those of the kernel's kind, tried in this order. until: time.monotonic() from which on no further
    law begins; None: no limit. profile: Hypothesis' settings; default: the current profile. part: "ladder",
    "search", or "all" for both.
    """
    sites = [(dtype, device) for dtype in dtypes for device in devices]
    profile = settings() if profile is None else profile
    for law in laws:
        for dtype, device in sites:
            if until is not None and time.monotonic() >= until:
                return
            yield record_of(law, subject_of(kernel, dtype, device, part=part), profile, session)


def record_of(law: Law, subject: Subject, profile: settings, session: Session = NO_SERVICES) -> Record:
    """Try one law on one subject. Return the record."""
    record = Record(law.name, subject.implementation.name, subject.dtype, subject.device, part=subject.part)
    started = time.perf_counter()
    reason = law.not_applicable(subject)
    if reason is not None:
        _not_run(record, reason, promised=False)
    else:
        with _journal(law, subject, session):
            _fill(record, law, subject, profile, session)
    record.seconds, record.worst = round(time.perf_counter() - started, 3), subject.worst
    record.tried.remarks.update(subject.remarks)
    refused = subject.implementation.refuses.get((subject.dtype, subject.device), ())
    record.tried.refused.update((K, 0) for K in refused)
    return record


def _fill(record: Record, law: Law, subject: Subject, profile: settings, session: Session) -> None:
    """Try the law and put the result into the record. An error of the law itself is a result too."""
    try:
        if _is_known(record, law, subject, session):
            return
        uncallable = _smoke_call(subject, record, session)
        if uncallable:
            _not_run(record, uncallable)
            record.uncallable = True
            return
        search(law, subject, record, profile, session)
        if record.examples == 0 and subject.part != "ladder":
            lengths = getattr(subject.contract, "lengths", None)
            few = "" if lengths is None else f": no sequences of lengths {lengths} make one"
            _not_run(record, f"no case satisfies the contract{few}", promised=lengths is None)
        else:
            record.status, record.reason = "passed", ""
    except Failed as broken:
        _failed(record, law, subject, broken.failure, session)
    except Refused as refusal:
        _not_run(record, str(refusal), promised=False)
    except Exception as error:
        _not_run(record, f"the law itself raised {type(error).__name__}: {error}")
        record.traceback = traceback.format_exc()


def _not_run(record: Record, reason: str, *, promised: bool = True) -> None:
    record.status, record.reason, record.promised = "not run", reason, promised


def _failed(record: Record, law: Law, subject: Subject, failure: Failure, session: Session) -> None:
    """Put a failure into the record. With `session.explains`, compose the message and keep the case."""
    if session.milder is not None and failure.reproducible and failure.ended == "broken":
        failure, record.gates = session.milder(law, subject, failure, session)
        failed(failure, record)
    broken, home = failure.broken, None
    if session.explains:
        broken, home = explained_and_kept(law, subject, failure, session)
    record.status, record.reason, record.ended = "failed", str(broken), failure.ended
    record.folder = str(home) if home else None
    if session.replaceable and subject.device != CPU and session.journal is not None:
        leave_a_failed_device(session.journal, subject.device, record.reason, record.folder)


def _journal(law: Law, subject: Subject, session: Session) -> AbstractContextManager[None]:
    if session.journal is None:
        return nullcontext()
    site = subject.implementation.name, subject.dtype, subject.device
    line = JournalLine(
        session.name,
        law.name,
        *site,
        subject.part,
        session.journal.limit,
        expensive=law.cost == "costly",
    )
    return session.journal.of(line)


def _is_known(record: Record, law: Law, subject: Subject, session: Session) -> bool:
    """If known.toml lists this failure, try its witness alone: "known" while it fails, else an error."""
    corpus = session.corpus
    listed = corpus.known_for(law.name, subject.implementation.name, subject.dtype) if corpus else None
    if listed is None:
        return False
    known, witness = listed.known, listed.witness.case
    reason = law.why_not(subject, witness)
    try:
        if reason is None:
            with session.trying(witness):
                law.check(subject, **witness)
    except LawBroken:
        record.status, record.reason = "known", f"until {known.expires}: {known.reason} ({known.link})"
        return True
    except Refused as refusal:
        reason = str(refusal)
    _not_run(record, f"known failure {known}: " + (reason or "fixed: delete this entry"))
    return True


def _smoke_call(subject: Subject, record: Record, session: Session) -> str:
    """Make the smoke call. Return why it raises, or "". Raises Failed if it kills the process or hangs.

    With a journal, the processes of a run share the result: an implementation that raises is called once.
    """
    case: Case = {"gates": subject.plainest}
    journal = session.journal
    if journal is not None:
        if outcome := journal.smoke_call_outcome:
            raise failed(without_end(case, outcome), record)
        if reason := journal.uncallable():
            return reason
    try:
        with session.trying(case, plainest=True):
            uncallable = subject.uncallable or ""
    except DidNotEnd:
        raise failed(without_end(case, "did not end"), record) from None
    if uncallable and journal is not None:
        journal.note_uncallable(uncallable)
    return uncallable


def leave_a_failed_device(journal: Journal, device: str, message: str, folder: str | None) -> None:
    """End this process if the device is broken, as after a sticky CUDA error. The journal keeps both."""
    if is_broken(device):
        journal.ended("broken", message, folder or "")
        os._exit(1)
