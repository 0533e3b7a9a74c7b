"""Name the likely place of a fault, where the pattern of the wrong entries leaves one place.

The pattern (pattern.py) fits every wrong entry. A place is named only for a sequence of several chunks, for a
short one fits many patterns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from dmat.testing.explain.decays import read_out
from dmat.testing.explain.pattern import failing_entries
from dmat.testing.verdict.finding import Evidence, Example

CHUNKS = 3  # of so many chunks or more
PLACES = {
    r"t and s two or more chunks of (\d+) apart": "the carry into the third chunk of {}, and later ones",
    r"crosses two or more edges of chunks of (\d+)": "the carry into the third chunk of {}, and later ones",
    r"t and s in different chunks of (\d+)": "the carry from one chunk of {} into the next",
    r"t and s in neighbouring chunks of (\d+)": "the carry from one chunk of {} into the next",
    r"crosses an edge of chunks of (\d+)": "the carry across the edge of a chunk of {}",
    r"t and s in the same chunk of (\d+)": "the product within a chunk of {}, not the carry",
}
WHOLE = {
    "all of the diagonal (t = s)": "the diagonal of the mask",
    "all of the future (s > t)": "the mask",
}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


def likely_place(examples: Sequence[Example]) -> Iterator[str]:
    """Yield a line that names the place, or none. examples: the smallest case, then perhaps a longer one."""
    largest = examples[-1]
    gates, pattern = largest.case.get("gates"), failing_entries(read_out(largest.finding))
    if gates is None or pattern is None:
        return
    evidence = largest.finding.evidence
    others = evidence is not None and _numbers(evidence) >= 2 * evidence.wrong.sum()
    plain = all(np.isfinite(gate).all() for gate in gates.values())  # else no mask, but what meets infinity
    whole = WHOLE.get(pattern.split(", in ")[0]) if plain and (others or "future" in pattern) else ""
    place = whole or _of_chunks(pattern, gates.shape[-1]) or _of_gates(largest)
    if place:
        yield f"likely place: {place}."


def _numbers(evidence: Evidence) -> int:
    """Return how many judged entries are numbers. Gates of -inf leave the diagonal alone as numbers."""
    return int((evidence.judged & np.isfinite(evidence.exact)).sum())


def _of_chunks(pattern: str, S: int) -> str:
    for words, place in PLACES.items():
        found = re.search(words, pattern)
        if found and S >= CHUNKS * int(found[1]) - int(found[1]) + 1:
            return place.format(found[1])
    return ""


def _of_gates(example: Example) -> str:
    """Return the carry that all windows share which hold one of the gates at the starts of later chunks."""
    pattern = failing_entries(read_out(example.finding)) or ""
    found = re.search(r"one of the (\d+) gates k = ([\d, ]+)", pattern)
    starts = [int(k) for k in found[2].strip(", ").split(", ")] if found else []
    steps = {b - a for a, b in pairwise(starts)}
    if len(starts) < CHUNKS or len(steps) != 1:
        return ""
    chunk = steps.pop()
    number, rest = divmod(starts[0], chunk)
    known = not rest and 0 < number < len(ORDINALS)
    return f"the carry into the {ORDINALS[number]} chunk of {chunk}, and later ones" if known else ""
