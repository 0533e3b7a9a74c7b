"""`python -m tests.mutation`: the score of the laws on every machine-made mutant, and the survivors."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from .equivalent import arguments, stale
from .judge import Verdict, judged
from .mutate import Mutant
from .targets import TARGETS, Target

GOAL = 0.98  # of the mutants that are not argued equivalent


def main(argv: Sequence[str] | None = None) -> int:
    """Judge, print, and return 0 where the goal is reached."""
    chosen = _parser().parse_args(argv)
    torch.set_num_threads(1)
    if unmatched := stale():
        print(*(f"equivalent.toml names no mutant: {key}" for key in unmatched), sep="\n")
        return 1
    work = _work(chosen.target, chosen.equivalent)[chosen.offset :: chosen.every]
    print(f"{len(work)} mutants")
    outcomes: dict[str, Counter[str]] = {target.name: Counter() for target, _ in work}
    for target, mutant, verdict in judged(work, chosen.examples, chosen.jobs):
        outcomes[target.name][verdict.outcome] += 1
        if chosen.log:
            _log(chosen.log, target, mutant, verdict)
        if (verdict.outcome == "survived") != chosen.equivalent or verdict.outcome == "law raised":
            print(_shown(target, mutant, verdict), flush=True)
    return _score(outcomes, chosen.equivalent)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--target", action="append", choices=[target.name for target in TARGETS])
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th mutant")
    parser.add_argument("--offset", type=int, default=0, metavar="N", help="from the N-th on")
    parser.add_argument("--examples", type=int, default=50, help="random cases a law, after its ladder")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at a time")
    parser.add_argument("--equivalent", action="store_true", help="only those argued equivalent")
    parser.add_argument("--log", type=Path, help="append each verdict to this file, as JSON lines")
    return parser


def _work(names: list[str] | None, equivalent: bool) -> list[tuple[Target, Mutant]]:
    """Return the mutants to judge: those argued equivalent, or all others."""
    argued = arguments()
    return [
        (target, mutant)
        for target in TARGETS
        if names is None or target.name in names
        for mutant in target.mutants()
        if ((target.path, *mutant.key) in argued) == equivalent
    ]


def _shown(target: Target, mutant: Mutant, verdict: Verdict) -> str:
    where = f"{target.path}:{mutant.line} {mutant.function}"
    why = f"{verdict.outcome} {verdict.by}".strip()
    return f"{why}: {where} ({mutant.operator})\n  - {mutant.before}\n  + {mutant.after}"


def _log(path: Path, target: Target, mutant: Mutant, verdict: Verdict) -> None:
    entry = {
        "target": target.name, "file": target.path, "function": mutant.function, "line": mutant.line,
        "before": mutant.before, "after": mutant.after, "operator": mutant.operator, **vars(verdict),
    }  # fmt: skip
    with path.open("a") as log:
        print(json.dumps(entry), file=log)


def _score(outcomes: dict[str, Counter[str]], equivalent: bool) -> int:
    """Print a line a target and the score; return the exit code."""
    for name, counted in outcomes.items():
        print(f"{name}: {counted.total()} mutants, " + ", ".join(f"{n} {o}" for o, n in counted.items()))
    total = sum(outcomes.values(), Counter[str]())
    survived, tried = total["survived"], total.total()
    if equivalent:
        print(f"{tried - survived} of {tried} argued equivalent were rejected")
        return int(survived != tried)
    score = 1 - survived / tried if tried else 1.0
    print(f"{tried - survived} of {tried} rejected: {100 * score:.2f}% (at least {100 * GOAL:.0f}%)")
    return int(score < GOAL)


if __name__ == "__main__":
    sys.exit(main())
