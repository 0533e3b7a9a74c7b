"""Try one law: known failure, stored failing cases, corpus, ladder, random cases; then shrink a failure."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Flaky, Unsatisfiable

from dmat.strategies.recipes.recipe import Case, shown
from dmat.testing.case_file import encoded
from dmat.testing.counterexample.corpus import Corpus
from dmat.testing.counterexample.database import forget, recall, remember
from dmat.testing.errors import DidNotEnd, Refused
from dmat.testing.interpret.choice import spread
from dmat.testing.law.law import Law, kind_of
from dmat.testing.law.subject import Subject
from dmat.testing.record import Ended, Record
from dmat.testing.run.journal import SLOW, Journal, JournalLine
from dmat.testing.run.session import Keeping, explained_and_kept
from dmat.testing.run.shrink import attempted, minimal
from dmat.testing.verdict.finding import Failure, Finding, LawBroken

NOTHING = Keeping()


class Failed(LawBroken):
    """A law does not hold on the case of `failure`. The full message is not yet composed."""

    def __init__(self, failure: Failure) -> None:
        """Keep the failure."""
        super().__init__(failure.broken.finding)
        self.failure = failure


def run_test(law: Law, subject: Subject, keeping: Keeping, request: pytest.FixtureRequest) -> None:
    """Try a law as a test of pytest, and leave its record in the test's user_properties."""
    record = Record(law.name, subject.implementation.name, subject.dtype, subject.device)
    record.part, started = subject.part, time.perf_counter()
    try:
        examples = request.config.getoption("--dmat-examples")
        profile = settings() if examples is None else settings(max_examples=examples)
        run_law(law, subject, record, request.node.nodeid, profile, keeping)
    finally:
        record.seconds = round(time.perf_counter() - started, 3)
        record.worst = subject.worst
        request.node.user_properties.append(("dmat", msgspec.to_builtins(record)))


def run_law(
    law: Law, subject: Subject, record: Record, key: str, profile: settings, keeping: Keeping
) -> None:
    """Try a law in pytest and fill in the record: skip, fail, or raise LawBroken with the full message."""
    reason = law.not_applicable(subject)
    if reason is not None:
        record.status, record.reason, record.promised = "not run", reason, False
        pytest.skip(reason)
    with _journal(law, subject, key, keeping):
        try:
            if keeping.corpus is not None:
                try_known(law, subject, record, keeping.corpus, keeping)
            require_callable(subject, record, keeping)
            search(law, subject, record, key, profile, keeping)
            _passed(subject, record)
        except Failed as failed:
            broken, home = explained_and_kept(law, subject, failed.failure, keeping)
            record.status, record.reason, record.folder = "failed", str(broken), str(home) if home else None
            record.ended = failed.failure.ended
            _leave_a_failed_device(subject, record, keeping)
            raise broken from failed.failure.broken.__cause__
        except Refused as refusal:
            record.status, record.reason, record.promised = "not run", str(refusal), False
            pytest.skip(str(refusal))
        except Exception as error:
            record.reason = f"the law itself raised {type(error).__name__}: {error}"
            raise


def _passed(subject: Subject, record: Record) -> None:
    if record.examples == 0 and subject.part != "ladder":
        record.status, record.reason = "not run", "no case satisfies the contract"
        pytest.fail(f"not run: {record.reason}", pytrace=False)
    record.status, record.reason = "passed", ""


def _journal(law: Law, subject: Subject, key: str, keeping: Keeping) -> AbstractContextManager[None]:
    if keeping.journal is None:
        return nullcontext()
    name, limit = subject.implementation.name, keeping.journal.limit
    return keeping.journal.of(
        JournalLine(
            key,
            law.name,
            name,
            subject.dtype,
            subject.device,
            subject.part,
            limit,
            expensive=law.cost == "costly",
        )
    )


def try_known(law: Law, subject: Subject, record: Record, corpus: Corpus, keeping: Keeping) -> None:
    """If known.toml lists this failure, try its witness alone: xfail while it fails, fail once it holds."""
    listed = corpus.known_for(law.name, subject.implementation.name, subject.dtype)
    if listed is None:
        return
    known, witness = listed.known, listed.witness.case
    reason = law.why_not(subject, witness)
    try:
        if reason is None:
            with keeping.trying(witness):
                law.check(subject, **witness)
    except LawBroken:
        record.status, record.reason = "known", f"{known.reason} ({known.link})"
        pytest.xfail(f"known until {known.expires}: {record.reason}")
    except Refused as refusal:
        reason = str(refusal)
    record.status = "not run"
    record.reason = f"known failure {known}: " + (reason or "fixed: delete this entry")
    pytest.fail(record.reason, pytrace=False)


def require_callable(subject: Subject, record: Record, keeping: Keeping) -> None:
    """Make the smoke call. Raises Failed if the call kills the process or does not end.

    Skips or fails the test if the call raises.
    """
    case: Case = {"gates": subject.plainest}
    journal = keeping.journal
    outcome = journal.smoke_call_outcome if journal is not None else None
    try:
        if outcome:
            raise _failed(without_end(case, outcome), record)
        uncallable: str | None = journal.uncallable() if journal is not None else ""
        if not uncallable:
            with keeping.trying(case, plainest=True):
                uncallable = subject.uncallable
    except DidNotEnd:
        raise _failed(without_end(case, "did not end"), record) from None
    if uncallable:
        record.status, record.reason = "not run", uncallable
        _report_uncallable(subject, uncallable, keeping)


def _report_uncallable(subject: Subject, reason: str, keeping: Keeping) -> None:
    """Fail the first test of an implementation that cannot be called. Skip its other tests."""
    journal = keeping.journal
    if journal is not None:
        journal.note_uncallable(reason)
    if keeping.by_record or (journal is not None and not journal.first_to_report()):
        pytest.skip(reason)
    pytest.fail(f"not run: {subject.implementation.name} {reason}", pytrace=False)


def without_end(case: Case, outcome: Ended) -> Failure:
    """Return the failure of a case that killed its process ("died") or exceeded its limit ("did not end")."""
    what = "the process died" if outcome == "died" else "no result within the time limit"
    note = "" if outcome == "died" else SLOW
    finding = Finding("call", (), what, "a result", note=note, what="died")
    return Failure(case, LawBroken(finding), ended=outcome)


def _leave_a_failed_device(subject: Subject, record: Record, keeping: Keeping) -> None:
    """In an xdist worker, end the process if its GPU has failed: xdist starts another worker."""
    if subject.device == "cuda" and keeping.journal is not None and "PYTEST_XDIST_WORKER" in os.environ:
        leave_a_failed_device(keeping.journal, record.reason, record.folder)


def leave_a_failed_device(journal: Journal, message: str, folder: str | None) -> None:
    """End this process after a sticky CUDA error. The journal keeps the message and the folder."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        journal.ended("broken", message, folder or "")
        os._exit(1)


def search(
    law: Law,
    subject: Subject,
    record: Record,
    key: str,
    profile: settings,
    keeping: Keeping = NOTHING,
) -> None:
    """Run the law on stored failing cases, the corpus, the ladder and random cases, and count them.

    key: distinguishes this search in Hypothesis' database. Raises Failed, or Refused if the implementation
    refused every case of the ladder, or of the search. Failed has the smallest case found, if the profile has
    Phase.shrink; tries of the shrinker are not counted. The case is saved in the profile's database, if it
    has one, and the next run tries it first.
    """
    failures: list[Failure] = []
    try:
        try_all(law, subject, record, key, profile, failures, keeping)
    except LawBroken:
        failure = failures[-1]
        if Phase.shrink in profile.phases and failure.ended == "broken":
            failure = smallest(failure, law, subject, keeping)
    except (Flaky, BaseExceptionGroup):
        if not failures:
            raise
        failure = replace(failures[0], reproducible=False)
    else:
        return
    if failure.reproducible and failure.ended == "broken":
        remember(profile.database, *_place(law, subject), failure.case)
    raise _failed(failure, record) from failure.broken.__cause__


def _place(law: Law, subject: Subject) -> tuple[str, str, str, str]:
    return law.name, subject.implementation.name, subject.dtype, subject.device


def _failed(failure: Failure, record: Record) -> Failed:
    record.case, record.recipe = shown(failure.case), encoded(failure.case)
    return Failed(failure)


def try_all(
    law: Law,
    subject: Subject,
    record: Record,
    key: str,
    profile: settings,
    failures: list[Failure],
    keeping: Keeping,
) -> None:
    """Run the law on all cases until one breaks it. Append the failure to `failures`."""
    refusals: list[Refused] = []

    def attempt(drawn: Case) -> bool:
        """Try a case. Return True if the law held, False if the implementation refused the case."""
        case = law.arguments(drawn)
        if failures and failures[-1].ended != "broken":  # Hypothesis' replay: do not hang twice
            raise failures[-1].broken
        record.count(kind_of(case))
        try:
            with keeping.trying(case):
                law.check(subject, **case)
        except Refused as refusal:
            record.refused += 1
            refusals.append(refusal)
            return False
        except LawBroken as error:
            failures.append(Failure(case, error))
            raise
        except DidNotEnd:
            failures.append(without_end(case, "did not end"))
            raise failures[-1].broken from None
        return True

    if subject.part != "search":
        database = profile.database if Phase.reuse in profile.phases else None
        for case in recall(database, law, subject):
            if attempt(case):
                forget(database, *_place(law, subject), case)
        for case in keeping.corpus.cases_for(law, subject) if keeping.corpus else ():
            attempt(case)
        for case in spread(law.cases.ladder(subject.domain)):
            attempt(case)
        if refusals and record.refused == record.examples:
            raise refusals[0]
    if subject.part == "ladder":
        return

    # Our shrinker (dmat.testing.run.shrink) costs less than Hypothesis' and ends at smaller cases. It works
    # on recipes: for a law that has it, Hypothesis draws one seed a case and does not shrink.
    ours, domain = law.cases.inside is not None, subject.domain
    unused = {Phase.explain, *((Phase.shrink,) if ours else ())}
    most = min(law.max_examples or profile.max_examples, profile.max_examples)

    @settings(
        profile,
        max_examples=most,
        deadline=None,  # the first call of a compiled or CUDA kernel takes seconds
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[phase for phase in profile.phases if phase not in unused],
    )
    @given(case=law.cases.seeded(domain) if ours else law.cases.search(domain))
    def random_cases(case: Case) -> None:
        attempt(case)

    digest = f"{law.name} {key}".encode()
    random_cases.hypothesis.inner_test._hypothesis_internal_add_digest = digest  # type: ignore[attr-defined]
    with suppress(Unsatisfiable):  # an empty domain: `_passed` fails if the ladder had no case either
        random_cases()
    if refusals and record.refused == record.examples:
        raise refusals[0]


def smallest(
    failure: Failure, law: Law, subject: Subject, keeping: Keeping, seconds: float | None = None
) -> Failure:
    """Shrink a failure. Return the smallest failure found that is reproducible.

    seconds: CPU seconds for the shrinker; default: MOST_SECONDS of dmat.testing.run.shrink.
    """
    inside, domain = law.cases.inside, subject.domain
    if inside is None or subject.in_dtype(subject.dtype).uncallable:
        return failure
    quiet = subject.in_dtype(subject.dtype)  # errors of the shrinker's tries stay out of the record

    def check(case: Case) -> None:
        try:
            with keeping.trying(case):
                law.check(quiet, **case)
        except DidNotEnd as error:
            raise RuntimeError("no finding, and no time for more of them") from error

    found = minimal(check, lambda case: inside(case, domain), domain.seq_multiple_of, failure, seconds)
    if subject.in_dtype(subject.dtype).uncallable:
        return failure  # the GPU has failed: every case fails now
    reproducible = (one for one in reversed(found) if attempted(check, one.case))
    return next(reproducible, replace(failure, reproducible=False))
