"""The detection matrix, mutant x law: `python -m tests.zoo.matrix` (make zoo).

Each mutant in the dtype in which its own law rejects it: examples and seconds until then, the size of the
shrunk case, and which of the other laws reject it too.
"""

from __future__ import annotations

import argparse
import re

import torch
from hypothesis import Phase, settings

from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.registry import laws

from .mutants import MUTANTS, Mutant
from .trial import Rejection, first_rejection, rejection, subjects

OWN = [settings(max_examples=n, database=None) for n in (50, 2000)]
OTHERS = settings(max_examples=25, database=None, phases=[Phase.generate])


def own_rejection(mutant: Mutant, entry: Law) -> tuple[Subject, Rejection] | None:
    """Return how its own law rejects it, and the subject that was."""
    wrong = subjects(mutant.implementation, mutant.name, mutant.device)
    found = first_rejection(entry, wrong, OWN)
    if found is None:
        return None
    return next(subject for subject in wrong if subject.dtype == found.dtype), found


def size(case: str) -> str:
    """Return the shape (B, NH, S) of the first recipe of a case."""
    shape = re.search(r"\((\d+), (\d+), (\d+)\)", case)
    return " x ".join(shape.groups()) if shape else ""


def row(mutant: Mutant, entries: list[Law]) -> str:
    """Return one line of the matrix."""
    own = own_rejection(mutant, next(entry for entry in entries if entry.name == mutant.law))
    if own is None:
        return f"{'-' * len(entries)}  {mutant.name}: NOT REJECTED by {mutant.law}"
    subject, found = own
    marks = "".join(_mark(entry, subject, mutant.law) for entry in entries)
    figures = f"{found.dtype:8} {found.examples:5} {found.seconds:7.2f} s  {size(found.case):12}"
    return f"{marks}  {figures} {mutant.name} ({mutant.law})"


def _mark(entry: Law, subject: Subject, own: str) -> str:
    if entry.name == own:
        return "#"
    if entry.not_applicable(subject):
        return " "
    return "x" if rejection(entry, subject, OTHERS) else "."


def main() -> None:
    """Print the matrix."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo.matrix", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MUTANT", help="default: all")
    names = parser.parse_args().names
    entries = laws()
    for number, entry in enumerate(entries):
        print(" " * number + f"{entry.name}")
    print("# its own law rejects it, x another does, . does not, blank: not applicable")
    for mutant in MUTANTS:
        if mutant.device == "cuda" and not torch.cuda.is_available():
            print(f"{'':{len(entries)}}  not run, no CUDA device: {mutant.name} ({mutant.law})")
        elif not names or mutant.name in names:
            print(row(mutant, entries), flush=True)


if __name__ == "__main__":
    main()
