"""Try one law on one implementation of the zoo: how soon is it rejected, and on which case?"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import settings

from dmat.strategies.recipes.recipe import shown
from dmat.testing.errors import Refused
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.record import Record
from dmat.testing.run.search import Failed, search
from dmat.testing.verdict.finding import Failure


@dataclass(frozen=True)
class Rejection:
    """The law and dtype that rejected, after how many examples and seconds, and how it failed there."""

    law: str
    dtype: str
    examples: int
    seconds: float
    failure: Failure

    @property
    def case(self) -> str:
        """The case as Python."""
        return shown(self.failure.case)


def rejection(entry: Law, subject: Subject, profile: settings) -> Rejection | None:
    """Return how the law rejects the subject, or None."""
    torch.set_num_threads(1)
    if entry.not_applicable(subject):
        return None
    record = Record(entry.name, subject.implementation.name, subject.dtype, subject.device)
    begun = time.perf_counter()
    try:
        search(entry, subject, record, profile)
    except Failed as failed:
        seconds = time.perf_counter() - begun
        return Rejection(entry.name, subject.dtype, record.examples, seconds, failed.failure)
    except Refused:
        return None
    return None


def subjects(function: Callable[..., Any], name: str, device: str = "cpu") -> list[Subject]:
    """Return the function as a subject in each dtype that it promises."""
    implementation = Implementation.of(name, function)
    return [subject_of(implementation, dtype, device) for dtype in implementation.contract.dtypes]


def first_rejection(entry: Law, wrong: list[Subject], profiles: list[settings]) -> Rejection | None:
    """Return the first rejection. Every profile is tried on all subjects before the next profile."""
    trials = (rejection(entry, subject, profile) for profile in profiles for subject in wrong)
    return next((found for found in trials if found is not None), None)
