"""A turn: try one law of one implementation on new cases for some time. Known failures do not end it."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import msgspec
import torch
from hypothesis import given, seed, settings, target

from dmat.strategies.domain import Domain
from dmat.strategies.recipes.recipe import Case, shown
from dmat.strategies.regimes import regimes_of
from dmat.strategies.shapes import length_class
from dmat.testing.case_file import FILE, encoded, text_of
from dmat.testing.causes.compare import alike, explains, one_cause, signs, symptom
from dmat.testing.counterexample.database import forget, recall, remember
from dmat.testing.counterexample.folder import case_file
from dmat.testing.devices import CPU, empty_cache
from dmat.testing.errors import Refused
from dmat.testing.fuzzing.balance import balanced
from dmat.testing.fuzzing.messages import AT_A_LOSS, Done, Found, Turn
from dmat.testing.fuzzing.schedule import EXPENSIVE
from dmat.testing.law.subject import Subject
from dmat.testing.registry import law_named
from dmat.testing.run.attempt import attempt
from dmat.testing.run.search import smallest
from dmat.testing.run.session import Session, explained_and_kept
from dmat.testing.verdict.finding import Failure

DEEP = 1.0  # turns of at least so many seconds try long sequences too
LONGEST, LONGEST_ON_CPU = 2200, 1100
SMALL = 2**20  # entries of D~; every device has memory for so many
EXAMPLES_A_SECOND = 2000  # upper limit
LARGEST_TARGET = 1e3
SECONDS_OF_SHRINKING = 6.0
MOST_SYMPTOMS = 8  # per cell; a kernel may be wrong in any number of ways, and further symptoms are ignored


def one_length(domain: Domain, random: Random) -> Domain:
    """Return the domain with a single length, so that all examples of a turn use one compiled kernel."""
    S = domain.draw_shape(random, zero=False)[-1]
    return replace(domain, seq_multiple_of=max(S, 1), max_seq=S)


class Over(BaseException):
    """The time of a targeted search is over. A BaseException: Hypothesis takes an Exception for a failure."""


class Going:
    """A running turn.

    session: the journal, the corpus, and the folder of counterexamples. profile: the Hypothesis profile, with
    the database. ahead: folder for failures that are not yet shrunk. cutoff: time.time() at which the turn
    stops. memory: number of bytes that one D~ may fill.
    """

    def __init__(
        self,
        turn: Turn,
        subject: Subject,
        session: Session,
        profile: settings,
        ahead: Path,
        cutoff: float,
        memory: int = 0,
    ) -> None:
        """Start the clock and set all counts to zero."""
        self.profile, self.ahead = profile, ahead
        self.turn, self.session, self.law = turn, session, law_named(turn.cell.law, subject.kind)
        self.subject = subject.in_dtype(subject.dtype)  # a copy: `worst` is of this turn alone
        longest = (LONGEST_ON_CPU if subject.device == CPU else LONGEST) if turn.seconds >= DEEP else 0
        self.domain = replace(subject.domain, longest=longest, memory=memory)
        if self.law.max_examples is not None:
            self.domain = one_length(self.domain, Random(turn.seed))
        self.began = time.perf_counter()
        self.until = min(time.time() + turn.seconds, cutoff)
        self.examples = self.refused = self.out_of_memory = 0
        self.drawn: Counter[str] = Counter()
        self.tried: Counter[str] = Counter(turn.tried)
        self.failing: Counter[str] = Counter()
        self.found: list[Found] = []
        self.worst: tuple[float, Case] | None = None
        self.trouble = ""
        self.at_a_loss = self.uncallable = False

    @property
    def over(self) -> bool:
        """Whether the turn should stop.

        It stops when its time is over and it has its minimum number of examples or has found a failure. It
        stops at the latest EXPENSIVE seconds after its time.
        """
        if self.trouble:
            return True
        late = time.time() - self.until
        return late >= 0 and (self.examples >= self.turn.least or bool(self.found) or late >= EXPENSIVE)

    def go(self) -> Done:
        """Try cases until the turn is over. Return the result."""
        if self.turn.first:
            self._remembered()
        if self.turn.targeted:
            self._led()
        else:
            random = Random(self.turn.seed)
            while not self.over:
                self.attempt(self.law.arguments(balanced(self.law, self.domain, random, self.tried)))
        return self.done()

    def _remembered(self) -> None:
        """Try the remembered cases: the database's, which broke this law in any run, and the corpus."""
        for case in recall(self.profile.database, self.law, self.subject):
            if self.attempt(case):
                forget(self.profile.database, *self._site, case)
        for case in self.session.corpus.cases_for(self.law, self.subject) if self.session.corpus else ():
            self.attempt(case)

    @property
    def _site(self) -> tuple[str, str, str, str]:
        cell = self.turn.cell
        return cell.law, cell.implementation, cell.dtype, cell.device

    def _led(self) -> None:
        """Let Hypothesis search for larger errors over bound. Its database keeps the largest."""
        most = max(1, int(EXAMPLES_A_SECOND * self.turn.seconds))

        @settings(self.profile, max_examples=most)
        @seed(self.turn.seed)  # must stand below the settings: above, it would disable the database
        @given(case=self.law.cases.search(self.domain))
        def led(case: Case) -> None:
            if self.over:
                raise Over
            self.attempt(self.law.arguments(case))
            if self.subject.worst is not None:
                target(min(self.subject.worst, LARGEST_TARGET), label="error / bound")

        digest = f"fuzz {self._site}".encode()
        led.hypothesis.inner_test._hypothesis_internal_add_digest = digest  # type: ignore[attr-defined]
        with suppress(Over):
            led()

    def attempt(self, case: Case) -> bool:
        """Try one case and record its result. Return whether the law held."""
        self._count(case)
        self.subject.worst = None
        try:
            outcome = attempt(self.law, self.subject, case, self.session)
        except torch.OutOfMemoryError:
            self._shorten()
        except Exception as error:  # an error of the law itself accuses no kernel
            self.at_a_loss = True
            self.trouble = f"{AT_A_LOSS} {type(error).__name__}: {error} on {encoded(case)}"
        else:
            if isinstance(outcome, Refused):
                self.refused += 1
            elif outcome is not None:
                self._failed(outcome)
            else:
                self._note_worst(case)
                return True
        return False

    def _count(self, case: Case) -> None:
        self.examples += 1
        if "gates" in case:
            length = length_class(case["gates"].shape[-1])
            for kind in regimes_of(case["gates"]):
                self.tried[kind] += 1
                self.drawn[f"{kind}, {length}"] += 1

    def _note_worst(self, case: Case) -> None:
        worst = self.subject.worst
        if worst is not None and (self.worst is None or worst > self.worst[0]):
            self.worst = worst, case

    def _shorten(self) -> None:
        """Draw shorter sequences from now on. Out of memory is no failure of the kernel."""
        self.out_of_memory += 1
        empty_cache(self.subject.device)
        self.domain = replace(self.domain, longest=self.domain.longest // 2)

    # Failures

    def _failed(self, failure: Failure) -> None:
        if self._is_of_memory(failure):
            self._shorten()
            return
        kind = symptom(failure.broken.finding)
        self.failing[kind] += 1
        known = {*self.turn.symptoms, *(found.symptom for found in self.found)}
        if kind not in known and len(known) < MOST_SYMPTOMS:
            self.found.append(self.settled(failure))

    def _is_of_memory(self, failure: Failure) -> bool:
        """Whether the kernel ran out of memory on a case that is not small."""
        cause = failure.broken.__cause__
        if not isinstance(cause, torch.OutOfMemoryError) or "gates" not in failure.case:
            return False
        B, NH, S = failure.case["gates"].shape
        return bool(B * NH * S * S > SMALL)

    def settled(self, failure: Failure) -> Found:
        """Shrink a failure. Return it with the known cause that explains it, or keep it as a new cause.

        A new cause gets a message and a folder of counterexamples.
        """
        kind = symptom(failure.broken.finding)
        self._write_ahead(failure)
        causes = alike(self.turn.causes, failure.ended)
        for cause in causes:  # a case that killed a process is not tried again: it would kill this one too
            if failure.ended != "broken" or explains(cause, self.law, self.subject, self.session.trying):
                return self._of(kind, failure, cause=cause.number)
        if failure.ended == "broken":
            failure = smallest(failure, self.law, self.subject, self.session, SECONDS_OF_SHRINKING)
            if failure.reproducible:
                remember(self.profile.database, *self._site, failure.case)
        for cause in causes:
            if one_cause(failure.case, kind, cause, self.law, self.subject, self.session.trying):
                return self._of(kind, failure, cause=cause.number)
        broken, home = explained_and_kept(self.law, self.subject, failure, self.session)
        shown = signs(failure.case, self.subject, self.session.trying) if failure.ended == "broken" else ()
        return msgspec.structs.replace(self._of(kind, failure, str(broken), folder=home), signs=shown)

    def _write_ahead(self, failure: Failure) -> None:
        """Write the unshrunk case to disk, because the run may be killed while the case is shrunk."""
        home = self.ahead / self.turn.name
        home.mkdir(parents=True, exist_ok=True)
        # The case keeps its random backgrounds: stored tensors could not be shrunk.
        (home / FILE).write_text(text_of(case_file(self.law, self.subject, failure)))

    def _of(
        self,
        kind: str,
        failure: Failure,
        message: str = "",
        *,
        cause: int | None = None,
        folder: Path | None = None,
    ) -> Found:
        case = failure.case
        return Found(
            self.turn.cell,
            kind,
            encoded(case),
            shown(case),
            message or str(failure.broken),
            failure.ended,
            failure.reproducible,
            cause,
            folder.name if folder is not None else None,
        )

    def done(self) -> Done:
        """Return the result of the turn."""
        worst, case = self.worst if self.worst is not None else (None, None)
        return Done(
            self.turn.name,
            self.turn.cell,
            round(time.perf_counter() - self.began, 4),
            self.examples,
            self.refused,
            self.out_of_memory,
            dict(self.drawn),
            worst,
            shown(case) if case is not None else None,
            encoded(case) if case is not None else None,
            dict(self.failing),
            tuple(self.found),
            self.trouble,
            at_a_loss=self.at_a_loss,
            uncallable=self.uncallable,
        )
