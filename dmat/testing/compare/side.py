"""One side of a comparison, in a process of its own: `python -m dmat.testing.compare.side STEP FOLDER`.

It may be another Python, with other packages. All that it takes and gives are files of FOLDER, which belongs
to this side alone: job.json says what to do; answer.json, the cases and the arrays are what it gives. `now`
names the case that is being tried, should the process die.

STEP "cases" writes the cases that this kernel's contract allows, a line each. STEP "results" takes such a
file, tries those that its contract allows, and writes their results; an empty line is no case.
"""

from __future__ import annotations

import hashlib
import platform
import sys
import traceback
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import torch
from msgspec import Struct

from dmat import __version__
from dmat.strategies.cases.dtilde import COTANGENTS
from dmat.strategies.cases.fused import DENSE, PACKED, PROBED
from dmat.strategies.cases.handed import CUTS
from dmat.strategies.recipes.recipe import Case, shown
from dmat.testing.case_file import decoded, encoded
from dmat.testing.compare.judged import Judge, Judged
from dmat.testing.contract import FUSED, FusedContract
from dmat.testing.errors import CannotRun
from dmat.testing.grade import dtilde as grade_dtilde
from dmat.testing.grade import fused as grade_fused
from dmat.testing.kernel.select import select
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.subject import Subject
from dmat.testing.record import stated
from dmat.testing.verdict.finding import as_array

JOB, ANSWER, NOW = "job.json", "answer.json", "now"


class Job(Struct, forbid_unknown_fields=True):
    """What a side is asked to do. sites: (dtype, device), none: all that the contract has."""

    target: str
    devices: list[str]
    dtypes: list[str]
    examples: int
    sites: list[tuple[str, str]] = []


class Entry(Struct, forbid_unknown_fields=True):
    """One result of one case; its arrays stand in the file of the site. raised: instead of a result."""

    quantity: str
    dtype: str = ""
    worst: float | None = None
    strictest: float = 0.0
    over: str = ""
    raised: str = ""


class Tried(Struct, forbid_unknown_fields=True):
    """The results of one case. number: its place in the file of cases; shown: the case as Python.

    inputs: a digest of the inputs, which a recipe makes by the contract.
    """

    number: int
    length: int
    shown: str
    inputs: str
    entries: list[Entry]


class Site(Struct, forbid_unknown_fields=True):
    """A dtype and a device: how many cases were written, or what became of them; or why there are none."""

    dtype: str
    device: str
    reason: str = ""
    written: int = 0
    tried: list[Tried] = []


class Answer(Struct, forbid_unknown_fields=True):
    """What a side gives. error: why it could not, in a line; then the rest is empty."""

    error: str = ""
    kind: str = ""
    contract: dict[str, Any] = {}
    versions: dict[str, str] = {}
    sites: list[Site] = []


def arrays_of(folder: Path, dtype: str, device: str) -> Path:
    """Return the file of a site's arrays."""
    return folder / f"{dtype}-{device}.npz"


def cases_of(dtype: str, device: str) -> str:
    """Return the name of the file of a site's cases."""
    return f"cases-{dtype}-{device}.jsonl"


# The cases


def cases(subject: Subject, examples: int) -> Iterator[Case]:
    """Yield the ladders of the grade and of the laws of values, then so many random cases, all finite."""
    domain = grade_dtilde.finite(subject.domain)
    if subject.kind == FUSED:
        fused = cast(FusedSubject, subject)
        further = [CUTS] * bool(fused.contract.states) + [PACKED] * bool(fused.contract.packed)
        yield from grade_fused.ladder(fused)
        yield from chain.from_iterable(kind.ladder(domain) for kind in (DENSE, *further))
        searches = [kind.search(domain) for kind in (PROBED, DENSE, *further)]
    else:
        for case in grade_dtilde.ladder(subject.domain):
            yield {name: case[name] for name in ("gates", "cotangent")}
        searches = [COTANGENTS.search(domain)]
    found: list[Case] = []
    for search in searches:
        grade_dtilde.search(search, found.append, examples // len(searches) or 1)
    yield from found


def _allowed(subject: Subject, case: Case) -> bool:
    """Whether the contract allows a case: its gates and recipes."""
    fused = subject.kind == FUSED
    if fused != ("qkv" in case):
        return False
    kind = COTANGENTS
    if fused:
        contract = cast(FusedContract, subject.contract)
        kind = DENSE if case["qkv"].kind == "dense" else PROBED
        if "cut" in case:
            kind, able = (PACKED, contract.packed) if "t" in case else (CUTS, contract.states)
            if not able:
                return False
    return kind.inside is None or kind.inside(case, subject.domain)


# The two steps


def _subjects(job: Job) -> list[Subject]:
    chosen = select([job.target], job.devices, job.dtypes)
    wanted = [each for each in chosen if not job.sites or each[1:] in job.sites]
    return [subject_of(*each) for each in wanted]


def make_cases(job: Job, folder: Path) -> Answer:
    """Return the cases of each dtype and device."""
    subjects = _subjects(job)
    sites = []
    for subject in subjects:
        reason = subject.uncallable or ""
        found = [] if reason else cases(subject, job.examples)
        lines = list(dict.fromkeys(encoded(case) for case in found))
        (folder / cases_of(subject.dtype, subject.device)).write_text("\n".join(lines))
        sites.append(Site(subject.dtype, subject.device, reason, len(lines)))
    return _answer(subjects, sites)


def results(job: Job, folder: Path) -> Answer:
    """Return what became of the cases in each dtype and device that the contract has."""
    subjects = _subjects(job)
    return _answer(subjects, [_results(subject, folder) for subject in subjects])


def _results(subject: Subject, folder: Path) -> Site:
    site = Site(subject.dtype, subject.device, subject.uncallable or "")
    if site.reason:
        return site
    if "torch._dynamo" in sys.modules:  # torch.compile falls back to eager after some dtypes and shapes
        torch.compiler.reset()
    arrays: dict[str, Any] = {}
    judge = Judge(subject)
    lines = (folder / cases_of(subject.dtype, subject.device)).read_text().splitlines()
    for number, line in enumerate(lines):
        case = decoded(line) if line else {}
        if case and _allowed(subject, case):
            (folder / NOW).write_text(shown(case))
            entries = [_entry(*each, f"{number}/", arrays) for each in judge.results(case)]
            site.tried.append(
                Tried(number, case["gates"].shape[-1], shown(case), _digest(subject, case), entries)
            )
    np.savez(arrays_of(folder, subject.dtype, subject.device), **arrays)
    return site


def _digest(subject: Subject, case: Case) -> str:
    """Return a digest of the values of all inputs of a case."""
    found = hashlib.sha256()
    for name, x in subject.build(case).named.items():
        found.update(f"{name} {tuple(x.shape)} {x.dtype}".encode() + as_array(x).tobytes())
    return found.hexdigest()


def _entry(name: str, judged: Judged | str, place: str, arrays: dict[str, Any]) -> Entry:
    if isinstance(judged, str):
        return Entry(name, raised=judged)
    for part in ("values", "errors", "slack", "truth"):
        arrays[f"{place}{name}/{part}"] = getattr(judged, part)
    return Entry(name, judged.dtype, judged.worst, judged.strictest, judged.over)


def _answer(subjects: list[Subject], sites: list[Site]) -> Answer:
    versions = {"python": platform.python_version(), "torch": str(torch.__version__), "dmat": __version__}
    contract = stated(subjects[0].contract.stated()) if subjects else {}
    kind = subjects[0].kind if subjects else ""
    return Answer(kind=kind, contract=contract, versions=versions, sites=sites)


STEPS = {"cases": make_cases, "results": results}


def main(step: str, folder: Path) -> None:
    """Do a step of the job of a folder, and write the answer."""
    torch.set_num_threads(1)
    job = msgspec.json.decode((folder / JOB).read_bytes(), type=Job)
    try:
        answer = STEPS[step](job, folder)
    except CannotRun as error:
        answer = Answer(error=str(error))
    except Exception as error:  # of dmat, or of what a kernel does outside its calls
        traceback.print_exc()
        answer = Answer(error=f"{type(error).__name__}: {error}".splitlines()[0])
    (folder / ANSWER).write_bytes(msgspec.json.encode(answer))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
