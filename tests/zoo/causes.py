"""What `dmat check` says of every mutant: causes, mildest case, hint, repro.py. One line of JSON each.

    python -m tests.zoo.causes FILE [NAME ...]     adds to FILE every mutant and pair that is not there yet
    python -m tests.zoo.causes FILE --summary      counts what is there

Each kernel is checked as by `dmat check`, in float32, and every fourth also in another dtype, with fewer
random cases, less shrinking, and no picture. Names are those of tests/zoo/named.py and tests/zoo/pairs.py.
Of a kernel that is shown at gates that are not ordinary, its law is tried on FURTHER ordinary cases. repro.py
is run twice in fresh processes.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

from rich.console import Console

from dmat.testing import processes
from dmat.testing.case_file import decoded
from dmat.testing.causes import failure, keep, search
from dmat.testing.causes import message as messages
from dmat.testing.causes.mildest import ORDINARY, milder, severity
from dmat.testing.causes.trial import broken
from dmat.testing.check import command, judge
from dmat.testing.check.page import show
from dmat.testing.check.plan import Plan
from dmat.testing.check.report import gather
from dmat.testing.check.workers import Workers
from dmat.testing.cli import parser
from dmat.testing.counterexample import folder as folder_module
from dmat.testing.errors import Died, OutOfTime
from dmat.testing.explain.repro import fresh
from dmat.testing.explain.repro.script import REPRO
from dmat.testing.kernel.load import load
from dmat.testing.law.kinds import subject_of
from dmat.testing.processes import Send, apart
from dmat.testing.record import CauseEntry, Report
from dmat.testing.registry import law_named
from dmat.testing.run import shrink

from .hints import LABELS, judged, sentences_of
from .mutants import MUTANTS
from .pairs import PAIRS
from .wrong import FUSED_MUTANTS

EXAMPLES = 10
START = 2.0  # CPU seconds in which the process of the search starts, where none is forked
PATIENCE = 300.0  # wall-clock seconds of each part
FURTHER = 2000  # ordinary cases
SECONDS = 300.0  # for them
SPENT = "spent"  # a file: CPU seconds of the search for causes
search_here = search._search_here
PRELOADED = ["torch", "dmat.testing.check.work", "dmat.testing.causes.keep", "tests.zoo.hints"]
SECOND = ("bfloat16", "float16", "float64")  # the second dtype: the first that the name of a mutant has
FLOAT16 = ("half_sums", "intermediate_overflows", "half_gradient")


def targets() -> dict[str, str]:
    """Return the TARGET of every mutant on the CPU and of every pair, by name."""
    names = [m.name for m in MUTANTS if m.device == "cpu"] + [f"fused_{m.name}" for m in FUSED_MUTANTS]
    found = {name: f"tests.zoo.named:{name}" for name in names}
    return found | {pair.name: f"tests.zoo.pairs:{pair.name}" for pair in PAIRS}


def dtypes(name: str, target: str) -> list[str]:
    """Return float32, and another dtype where the fault is one of that dtype, or of every fourth kernel."""
    promised, number = load(target).contract.dtypes, crc32(name.encode())
    some = ("bfloat16", "float16")[number // 4 % 2] if number % 4 == 0 else "float32"
    half = "float16" if name in FLOAT16 else some
    second = next((dtype for dtype in SECOND if dtype in name), half)
    return [dtype for dtype in dict.fromkeys(("float32", second)) if dtype in promised] or list(promised[:1])


def _timed_search(report: Report, folder: Path | None, deadly: set[int], seconds: float, send: Send) -> Any:
    """Search for causes in this process. Note the CPU time that it took."""
    begun = time.process_time()
    found = search_here(report, folder, deadly, begun + seconds - START, send)
    (Path(folder or ".") / SPENT).write_text(str(time.process_time() - begun))
    return found


def prepare() -> None:
    """Take less time, in the workers too, which import this module."""
    shrink.MOST_SECONDS = 0.25
    folder_module._draw = lambda *arguments: ""
    search._search_here = _timed_search
    search.WAITING = failure.WAITING = PATIENCE / search.SECONDS  # type: ignore[attr-defined]
    messages.SECONDS = keep.SECONDS = PATIENCE


def looked_at(name: str, target: str) -> dict[str, Any]:
    """Check one kernel in an empty folder. Return what its line has."""
    with tempfile.TemporaryDirectory() as empty:
        options = [x for dtype in dtypes(name, target) for x in ("--dtype", dtype)]
        numbers = ["--seed", "1", "--examples", str(EXAMPLES), "--time-limit", "60", "-n", "1"]
        given = parser().parse_args(["check", *options, *numbers, "--counterexamples", empty, target])
        report, plan, seconds = _checked(given, Path(empty))
        page = _page(report, plan)
        line: dict[str, Any] = {
            "name": name,
            "dtypes": dtypes(name, target),
            "verdict": report.verdict,
            "seconds": seconds,
        }
        line |= {"lines": len(page.splitlines()), "page": page}
        line["wider"] = report.stands_under.outcome if report.stands_under else None
        line["causes"] = [_cause(name, target, report, cause) for cause in report.causes]
    return line


def _checked(options: argparse.Namespace, folder: Path) -> tuple[Report, Plan, dict[str, float]]:
    """Return the report of a check, its plan, and the seconds of each part."""
    seconds: dict[str, float] = {}

    def timed(part: str, function: Callable[..., Any], *arguments: Any) -> Any:
        begun = time.monotonic()
        result = function(*arguments)
        seconds[part] = round(time.monotonic() - begun, 1)
        return result

    with tempfile.TemporaryDirectory(prefix="dmat-") as journals:
        request = command.requested(options, Path(journals))
        plan, records = timed("laws", Workers(request).run)
    [report] = gather(records, plan, first=False)
    report = timed("wider", judge.with_wider_contract, report, plan.subjects)
    report = timed("causes and messages", judge.with_sorted_causes, report, folder)
    if (folder / SPENT).is_file():
        seconds["causes"] = round(START + float((folder / SPENT).read_text()), 1)
    return timed("folders", judge.with_kept_folders, report), plan, seconds


def _page(report: Report, plan: Plan) -> str:
    written = io.StringIO()
    show(report, Console(file=written, emoji=False, width=10_000), plan.families)
    return written.getvalue()


def _cause(name: str, target: str, report: Report, cause: CauseEntry) -> dict[str, Any]:
    """Return what is told of one cause, and how it compares with the label of the mutant."""
    said = sentences_of(cause.message)
    found = {
        "kind": cause.kind,
        "sentence": cause.sentence,
        "promises": cause.promises,
        "breaks": len(cause.breaks),
        "law": f"{cause.law} {cause.dtype}",
        "gates": cause.gates,
        "case": cause.case,
        "hints": said,
        "hint": judged(name, said) if said else "absent",
        "repro": _ends(cause),
    }
    if cause.recipe and cause.ended == "broken":
        try:
            found |= apart(_severities, target, report, cause, heard=lambda news: None, seconds=SECONDS)
        except (Died, OutOfTime, RuntimeError) as error:
            found["further"] = f"{type(error).__name__}: {error}"
    return found


def _ends(cause: CauseEntry) -> list[Any]:
    """Return the exit codes of repro.py in two new processes, or why the folder has no repro.py."""
    home = Path(cause.folder or "/nowhere")
    if not (home / REPRO).is_file():
        report = (home / "report.md").read_text() if (home / "report.md").is_file() else "no folder"
        return [line for line in report.splitlines() if "repro.py" in line] or ["no reason"]
    return [fresh.exit_code(home / REPRO, [], PATIENCE, "tests.zoo.named") for _ in (1, 2)]


def _severities(target: str, report: Report, cause: CauseEntry, send: Send) -> dict[str, Any]:
    """Return how extreme the gates were as found, and as shown; if shown extreme, what ordinary ones do."""
    import torch

    torch.set_num_threads(1)
    own, case = load(target), decoded(cause.recipe or "{}")
    places = {(one.law, one.dtype, one.device) for one in cause.breaks}
    found = [
        severity(law_named(r.law, own.kind), subject_of(own, r.dtype, r.device), decoded(r.recipe or "{}"))
        for r in report.broken()
        if (r.law, r.dtype, r.device) in places
    ]
    law, subject = law_named(cause.law, own.kind), subject_of(own, cause.dtype, cause.device)
    shown = severity(law, subject, case)
    line: dict[str, Any] = {"found": found, "shown": shown}
    if shown > ORDINARY:
        tried, failing, until = 0, [], time.monotonic() + SECONDS - 20
        for ordinary in milder(law, subject, case, ORDINARY, FURTHER):
            tried += 1
            if broken(law, subject.in_dtype(subject.dtype), ordinary) is not None:
                failing.append(str(ordinary))
            if time.monotonic() > until:
                break
        line |= {"further": tried, "further failing": len(failing), "one": failing[:1]}
    return line


# Counts


def summary(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the counts of these lines."""
    pairs = {pair.name for pair in PAIRS}
    singles = [line for line in lines if line["name"] not in pairs]
    number = Counter(_number(line) for line in singles)
    yield f"{len(singles)} mutants by number of causes: {dict(sorted(number.items()))}"
    yield f"  verdicts: {dict(Counter(line['verdict'] for line in singles))}"
    yield from (f"  {_number(x)} causes: {x['name']}: {_causes(x)}" for x in singles if _number(x) != 1)
    left = [line["name"] for line in singles if any(cause["kind"] == "unsorted" for cause in line["causes"])]
    yield f"  with failures left unsorted: {len(left)}: {', '.join(left)}"
    first = [line["causes"][0] for line in singles if line["causes"]]
    known = [cause for cause in first if "shown" in cause]
    milder_ = sum(max(cause["found"], default=0) > 0 == cause["shown"] for cause in known)
    at_first = sum(cause["found"][:1] > [0] and cause["shown"] == 0 for cause in known)
    yield (
        f"shown at ordinary gates: {sum(c['shown'] == 0 for c in known)} of {len(known)}; of these an extreme"
        f" case was found too: {milder_}, first: {at_first}"
    )
    extreme = [(line["name"], line["causes"][0]) for line in singles if line["causes"]]
    for name, cause in extreme:
        if cause.get("shown"):
            further = f"{cause.get('further')} further, {cause.get('further failing')} fail"
            yield f"  {name}: {cause['gates']}; {further}"
    hints = Counter(cause["hint"] for cause in first)
    yield f"hints: {dict(hints)}"
    for line in singles:
        for cause in line["causes"]:
            if cause["hint"] == "wrong":
                yield f"  wrong: {line['name']}: {cause['hints']}"
            if cause["kind"] == "promise" and "contract" not in LABELS.get(line["name"], ""):
                yield f"  promise: {line['name']}: {cause['sentence']}"
    repro = Counter(str(cause["repro"]) for cause in first)
    yield f"repro.py: {dict(repro)}"
    longest = sorted(singles, key=lambda line: -line["lines"])[:5]
    yield f"lines of the page: {[(line['name'], line['lines']) for line in longest]}"
    seconds = sorted(line["seconds"].get("causes", 0.0) for line in lines)
    yield f"seconds of the search for causes: median {seconds[len(seconds) // 2]}, most {seconds[-1]}"
    two = [line for line in lines if line["name"] in pairs]
    yield f"{len(two)} pairs, {sum(_number(line) == 2 for line in two)} with two causes"
    yield from (f"  {_number(line)}: {line['name']}: {_causes(line)}" for line in two)


def _number(line: dict[str, Any]) -> int:
    return sum(cause["kind"] != "unsorted" for cause in line["causes"])


def _causes(line: dict[str, Any]) -> list[str]:
    return [f"{x['kind']}: {x['sentence']} [{x['law']}, {x['gates']}]" for x in line["causes"]]


def main() -> None:
    """Add the lines that are missing, or count."""
    options = argparse.ArgumentParser(prog="python -m tests.zoo.causes", description=__doc__)
    options.add_argument("file", type=Path)
    options.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    options.add_argument("--summary", action="store_true")
    options.add_argument("--part", default="0/1", metavar="I/N", help="every N-th name, from the I-th on")
    given = options.parse_args()
    lines = [json.loads(x) for x in given.file.read_text().splitlines()] if given.file.exists() else []
    if given.summary:
        print("\n".join(summary(lines)))
        return
    forking = multiprocessing.get_context("forkserver")  # torch is imported once
    forking.set_forkserver_preload(PRELOADED)
    processes.SPAWN = forking  # type: ignore[assignment]
    prepare()
    done, every = {line["name"] for line in lines}, targets()
    part, parts = map(int, given.part.split("/"))
    fair = sorted(
        every, key=lambda name: ("__" in name, crc32(name.encode()))
    )  # a part of them is a fair one
    for name in given.names or fair[part::parts]:
        if name in done:
            continue
        line = looked_at(name, every[name])
        with given.file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{name}: {_number(line)} {line['seconds']} {_causes(line)}", flush=True)


if __name__ == "__mp_main__":  # in a worker
    prepare()
if __name__ == "__main__":
    main()
