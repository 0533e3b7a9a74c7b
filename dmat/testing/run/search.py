"""Search for a case that breaks one law: stored cases, corpus, ladder, random cases. Then shrink it."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, Unsatisfiable

from dmat.strategies.recipes.recipe import Case, shown
from dmat.strategies.shrinking.steps import single_heads
from dmat.testing.case_file import encoded
from dmat.testing.counterexample.database import forget, recall, remember
from dmat.testing.devices import is_broken
from dmat.testing.errors import DidNotEnd, Refused, SizesRefused
from dmat.testing.interpret.choice import LADDER_SECONDS, SEARCH_SECONDS, in_time, spread
from dmat.testing.law.law import Law, kinds_of
from dmat.testing.law.refusal import refused_sizes
from dmat.testing.law.subject import Subject
from dmat.testing.record import Record
from dmat.testing.run.attempt import attempt
from dmat.testing.run.journal import LADDER
from dmat.testing.run.session import Session
from dmat.testing.run.shapes import cases_at
from dmat.testing.run.shrink import attempted, minimal
from dmat.testing.run.tried import note
from dmat.testing.verdict.finding import Failure, LawBroken

NO_SERVICES = Session()
BLOCK = 25  # random cases for one draw of Hypothesis


class Failed(LawBroken):
    """A law does not hold on the case of `failure`. The full message is not yet composed."""

    def __init__(self, failure: Failure) -> None:
        """Keep the failure."""
        super().__init__(failure.broken.finding)
        self.failure = failure


def search(
    law: Law, subject: Subject, record: Record, profile: settings, session: Session = NO_SERVICES
) -> None:
    """Try the law on stored failing cases, the corpus, the ladder and random cases, and count them.

    Raises Failed if a case breaks the law, or Refused if the implementation refused every case of the ladder,
    or of the search. Failed has the smallest case found, if the profile has Phase.shrink; tries of the
    shrinker are not counted. The case is saved in the profile's database, if it has one, and the next run
    tries it first.
    """
    tried = _Search(law, subject, record, profile, session)
    try:
        tried.all()
    except LawBroken:
        failure = tried.failures[-1]
        if Phase.shrink in profile.phases and failure.ended == "broken":
            failure = replace(smallest(failure, law, subject, session), found=failure)
    except (Flaky, BaseExceptionGroup):
        if not tried.failures:
            raise
        failure = replace(tried.failures[0], reproducible=False)
    else:
        return
    if failure.reproducible and failure.ended == "broken":
        remember(profile.database, *_key(law, subject), failure.case)
    raise failed(failure, record) from failure.broken.__cause__


def failed(failure: Failure, record: Record) -> Failed:
    """Return the exception of a failure, and put its case into the record."""
    record.case, record.recipe = shown(failure.case), encoded(failure.case)
    return Failed(failure)


def _key(law: Law, subject: Subject) -> tuple[str, str, str, str]:
    return law.name, subject.implementation.name, subject.dtype, subject.device


def hash_of(*parts: object) -> int:
    """Return a seed made of these parts, the same in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")


def ladder(law: Law, subject: Subject) -> list[Case]:
    """Return the cases of the law's ladder in the order in which they are tried."""
    return list(spread(law.cases.ladder(subject.domain)))


class _Search:
    """The cases of one law and subject, tried in turn until one breaks the law.

    failures: each failure so far. Hypothesis tries a failing case again, so there may be several.
    """

    def __init__(
        self,
        law: Law,
        subject: Subject,
        record: Record,
        profile: settings,
        session: Session,
    ) -> None:
        """Begin with no case tried."""
        self.law, self.subject, self.record = law, subject, record
        self.profile, self.session = profile, session
        self.failures: list[Failure] = []
        self.refusals: list[Refused] = []
        self.tried = 0  # random cases
        self.there_is_time = in_time(math.inf)

    def all(self) -> None:
        """Try every case of the subject's part: "ladder", "search", or "all" for both."""
        if self.subject.part != "search":
            self._stored()
            self.session.begin(LADDER)
            there_is_time = in_time(LADDER_SECONDS)
            for number, case in enumerate(ladder(self.law, self.subject)):
                if there_is_time():
                    self._try(case, number)
            self._require_one_answer()
        if self.subject.part != "ladder":
            self._random()
            self._at_shapes()
            self._require_one_answer()

    def _stored(self) -> None:
        """Try the cases of the database and of the corpus. Forget a case of the database that now holds."""
        law, subject, corpus = self.law, self.subject, self.session.corpus
        database = self.profile.database if Phase.reuse in self.profile.phases else None
        for case in recall(database, law, subject):
            if self._try(case):
                forget(database, *_key(law, subject), case)
        for case in corpus.cases_for(law, subject) if corpus else ():
            self._try(case)

    def _random(self) -> None:
        """Try random cases, as many as the profile and the law allow.

        Hypothesis costs more than most calls. So it draws one seed for a block of cases if our shrinker
        (dmat.testing.run.shrink) can make the law's cases smaller. Otherwise it draws and shrinks each case.
        """
        law, profile = self.law, self.profile
        self.there_is_time = self._in_both(in_time(SEARCH_SECONDS))
        most = min(law.max_examples or profile.max_examples, profile.max_examples)
        if law.cases.inside is not None:
            blocks = 1 + math.ceil((most - 1) / BLOCK)
            self._draw(st.binary(min_size=8, max_size=8), blocks, lambda block: self._block(block, most))
        else:
            self._draw(law.cases.search(self.subject.domain), most, self._in_time)

    def _in_both(self, there_is_time: Callable[[], bool]) -> Callable[[], bool]:
        """Return whether there is time for a random case, by the session too. There is for the first."""
        until = self.session.until
        if until is None:
            return there_is_time
        return lambda: there_is_time() and (self.tried <= 1 or time.monotonic() < until)

    def _at_shapes(self) -> None:
        """Try random cases at each shape of the session."""
        for sizes in self.session.shapes:
            block = hash_of(self.session.seed, *_key(self.law, self.subject), sizes).to_bytes(8, "little")
            for case in cases_at(self.law, self.subject, sizes, block):
                self._try(case)

    def _block(self, seed: bytes, most: int) -> None:
        """Try a block of random cases, until `most` were tried. The seed 0, drawn by every run, has one."""
        if self.failures:  # Hypothesis tries the failing block again
            self._try(self.failures[-1].case)
            return
        left = most - self.tried
        self.session.begin(seed.hex())
        for number in range(min(left, BLOCK if any(seed) else 1)):
            self.tried += 1
            if self.there_is_time():
                case = self.law.cases.of_block(seed, number, self.subject.domain)
                if self._has_lengths(case):
                    self._try(case, number)

    def _has_lengths(self, case: Case) -> bool:
        """Whether the contract allows the lengths of the case's calls; of some contracts no two fit."""
        inside = self.law.cases.inside
        return "cut" not in case or inside is None or inside(case, self.subject.domain)

    def _in_time(self, case: Case) -> None:
        """Try a case, if there is time for it."""
        self.tried += 1
        if self.failures or self.there_is_time():
            self._try(case)

    def _draw(self, cases: st.SearchStrategy[Any], most: int, attempt: Callable[[Any], object]) -> None:
        """Let Hypothesis draw `most` times and attempt what it draws. It stops when an attempt raises."""
        ours = self.law.cases.inside is not None
        unused = {Phase.explain, *((Phase.shrink,) if ours else ())}

        @settings(
            self.profile,
            max_examples=most,
            deadline=None,  # the first call of a compiled or CUDA kernel takes seconds
            print_blob=False,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            phases=[phase for phase in self.profile.phases if phase not in unused],
        )
        @given(drawn=cases)
        def draws(drawn: Any) -> None:
            attempt(drawn)

        if self.session.seed is not None:
            draws = seed(hash_of(self.session.seed, *_key(self.law, self.subject)))(draws)
        digest = " ".join(_key(self.law, self.subject)).encode()
        draws.hypothesis.inner_test._hypothesis_internal_add_digest = digest  # type: ignore[attr-defined]
        with suppress(Unsatisfiable):  # an empty domain; run() reports a law that has no case at all
            draws()

    def _try(self, drawn: Case, number: int | None = None) -> bool:
        """Try a case. Return whether the law held; False if the implementation refused. Raises LawBroken.

        number: of attempt().
        """
        case = self.law.arguments(drawn)
        if self.failures and self.failures[-1].ended != "broken":  # Hypothesis' replay: do not hang twice
            raise self.failures[-1].broken
        self.record.count(case["gates"].shape if "gates" in case else (1, 1), kinds_of(case))
        outcome = attempt(self.law, self.subject, case, self.session, number)
        tried = outcome.instead if isinstance(outcome, SizesRefused) else (case,)
        for each in tried:
            note(self.record.tried, each, self.subject.domain)
        if isinstance(outcome, SizesRefused):
            self.record.tried.refused.add(outcome.sizes)
        elif isinstance(outcome, Refused):
            outcome = self._alone(case, outcome)
        if isinstance(outcome, Refused):
            self.record.refused += 1
            self.refusals.append(outcome)
        elif outcome is not None:
            self.failures.append(outcome)
            raise outcome.broken
        return outcome is None

    def _alone(self, case: Case, refused: Refused) -> Failure | Refused | None:
        """Try each head of a refused case alone: the gates of one may be why all are refused.

        Return the first failure, else None if the law held for a head, else the refusal of the whole case.
        """
        held = False
        for head in single_heads(case):
            outcome = attempt(self.law, self.subject, head, self.session)
            if isinstance(outcome, Failure):
                return outcome
            held = held or outcome is None
        return None if held else refused

    def _require_one_answer(self) -> None:
        """Raise Refused if the implementation refused every case so far."""
        if self.refusals and self.record.refused == self.record.examples:
            raise self.refusals[0]


def smallest(
    failure: Failure, law: Law, subject: Subject, session: Session, seconds: float | None = None
) -> Failure:
    """Shrink a failure. Return the smallest failure found that is reproducible.

    seconds: CPU seconds for the shrinker; default: MOST_SECONDS of dmat.testing.run.shrink.
    """
    inside, domain = law.cases.inside, subject.domain
    if inside is None or is_broken(subject.device) or subject.in_dtype(subject.dtype).uncallable:
        return failure
    quiet = subject.in_dtype(subject.dtype)  # errors of the shrinker's tries stay out of the record

    def check(case: Case) -> None:
        try:
            with session.trying(case):
                law.check(quiet, **case)
        except LawBroken as broken:
            if isinstance(refusal := refused_sizes(law, quiet, case, broken, session.trying), SizesRefused):
                raise refusal from broken
            raise
        except DidNotEnd as error:
            raise RuntimeError("no finding, and no time for more of them") from error

    found = minimal(check, lambda case: inside(case, domain), domain.seq_multiple_of, failure, seconds)
    if is_broken(subject.device) or subject.in_dtype(subject.dtype).uncallable:
        return failure  # the device has failed: every case fails now
    stable = (one for one in reversed(found) if attempted(check, one.case))
    return next(stable, replace(failure, reproducible=False))
