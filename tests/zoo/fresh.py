"""Fresh cases for all sound implementations together: `python -m tests.zoo.fresh` (make sound).

A run tries every law in every dtype on so many random examples, each on a sound implementation drawn with it,
so that a run costs what checking one implementation costs. Before the first run every ladder is tried once on
every implementation. An accusation is printed whole, and the exit is 1. Laws whose every example is dear, a
compilation or a process, are left to the tests.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import product

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dmat.strategies.recipes.recipe import Case
from dmat.testing.contract import DTYPES
from dmat.testing.errors import Refused
from dmat.testing.kernel.builtin import BUILTIN
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.registry import laws
from dmat.testing.verdict.finding import LawBroken

from .right import RIGHT

Accusation = tuple[Subject, Case, LawBroken]


def choir(dtype: str) -> list[Subject]:
    """Return every sound implementation that promises this dtype."""
    right = [Implementation.of(style.__name__, style) for style in RIGHT] + list(BUILTIN)
    return [DtildeSubject(one, dtype) for one in right if dtype in one.contract.dtypes]


def accusations(entry: Law, subjects: list[Subject], examples: int) -> list[Accusation]:
    """Try the law on this number of random cases, each on a random subject. Return the accusations."""
    held = [subject for subject in subjects if entry.not_applicable(subject) is None]
    found: list[Accusation] = []
    if not held:
        return found
    searches = [entry.cases.search(subject.domain) for subject in held]

    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def fresh(data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(held) - 1))
        case = entry.arguments(data.draw(searches[number]))
        try:
            entry.check(held[number], **case)
        except Refused:
            pass
        except LawBroken as broken:
            found.append((held[number], case, broken))

    fresh()
    return found


def ladder_accusations(entry: Law, subjects: list[Subject]) -> list[Accusation]:
    """Try the law's canonical cases on each subject. Return the accusations."""
    found: list[Accusation] = []
    for subject in [subject for subject in subjects if entry.not_applicable(subject) is None]:
        for drawn in entry.cases.ladder(subject.domain):
            case = entry.arguments(drawn)
            try:
                entry.check(subject, **case)
            except Refused:
                continue
            except LawBroken as broken:
                found.append((subject, case, broken))
    return found


def main() -> int:
    """Run, and print each accusation when it is found. Return 1 if there is one, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo.fresh", description=__doc__)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--examples", type=int, default=100, help="a law and dtype, in each run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    accused, begun = 0, time.monotonic()
    subjects = {dtype: choir(dtype) for dtype in DTYPES}
    for run in range(options.runs + 1):
        for entry, dtype in product([entry for entry in laws() if entry.cost == "cheap"], DTYPES):
            if run == 0:
                found = ladder_accusations(entry, subjects[dtype])
            else:
                found = accusations(entry, subjects[dtype], options.examples)
            for subject, case, broken in found:
                accused += 1
                print(f"{entry.name} accuses {subject.implementation.name}, {dtype}: {case}\n{broken}")
        name = f"run {run}" if run else "ladders"
        print(f"{name}: {accused} accusations, {time.monotonic() - begun:.0f} s", flush=True)
    return 1 if accused else 0


if __name__ == "__main__":
    sys.exit(main())
