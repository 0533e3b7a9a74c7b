"""The page of a check: the verdict, the causes, what held, what was not run, and the seed.

A cause is told once, by its mildest case, with all laws that it breaks in one line. Bugs come first. With
`verbose` the matrix of all laws comes too, and each broken law's own message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec.structs import replace
from rich.console import Console

from dmat.testing.causes.known import unsorted, words_of
from dmat.testing.check.coverage import covered, refusals, untried
from dmat.testing.check.matrix import matrix
from dmat.testing.contract.names import NO_KIND
from dmat.testing.interpret.choice import caveat
from dmat.testing.output import in_places, plain
from dmat.testing.record import AtLength, CauseEntry, LawRecord, Report, Unreached

LONGEST = 140  # characters of a line that lists names
LOOK = "look:"  # begins the line of a message that names its picture
OTHER = "laws"  # the family of a law whose family is not known


def show_all(
    reports: Sequence[Report],
    console: Console,
    families: Mapping[str, str] | None = None,
    *,
    first: bool = False,
    verbose: bool = False,
) -> None:
    """Print the page of each report. first: whether the check stopped at the first broken law."""
    for number, report in enumerate(reports):
        if number:
            plain(console, "")
        show(report, console, families, verbose=verbose)
    unstated = [report for report in reports if not report.contract or "reads" in report.contract]
    if first and any(report.verdict == "broken" for report in unstated):
        plain(console, "Without --first, dmat check looks for a wider contract under which it stands.")


def show(
    report: Report, console: Console, families: Mapping[str, str] | None = None, *, verbose: bool = False
) -> None:
    """Print the page of a report. families: the family of each law.

    A target that cannot be called in any dtype gets one line instead of what held. If it cannot be called in
    some dtypes, one line names these dtypes.
    """
    uncallable, callable_ = report.uncallable(), report.only_callable()
    plain(console, verdict_line(report))
    if uncallable and not callable_.laws:
        lines: Iterable[str] = ()
    else:
        held, left = _held(callable_, families or {}), _not_run(callable_, verbose)
        lines = (*_causes(report, verbose), *held, *refusals(report), *_coverage(report), *left)
    for line in lines:
        plain(console, line)
    if uncallable and callable_.laws:
        plain(console, f"not run: {in_places(uncallable)}: {next(iter(uncallable.values()))}")
    if verbose and callable_.laws:
        console.print(matrix(callable_))
    for line in _last(report if callable_.laws else replace(report, seed=None), verbose):
        plain(console, line)


def verdict_line(report: Report) -> str:
    """Return the verdict in one line, with the number of causes."""
    name, callable_ = report.implementation, report.only_callable()
    if report.uncallable() and not callable_.laws:
        return f"COULD NOT BE CHECKED: {name} {next(iter(report.uncallable().values()))}"
    ran = [r for r in report.laws if r.status in ("passed", "failed")]
    known = sum(r.status == "known" for r in report.laws)
    if report.verdict == "sound":
        but = f", but for {known} known not to hold" if known else ""
        tried = f"{sum(r.examples for r in ran)} examples, {sum(r.sequences for r in ran)} gate sequences"
        return f"SOUND: {name} keeps all {len(ran)} laws{but} ({tried})"
    if report.verdict == "broken":
        broken = dict.fromkeys(r.law for r in report.broken())
        laws = f"{len(broken)} law" + ("s" if len(broken) > 1 else "")
        return f"BROKEN: {name} breaks {laws}{_number_of_causes(report)}"
    missing = len(report.unfinished())
    return f"COULD NOT BE CHECKED: {name}: {missing} laws that its contract implies were not run"


def _number_of_causes(report: Report) -> str:
    sorted_ = [cause for cause in report.causes if cause.kind != "unsorted"]
    bugs = sum(cause.kind == "bug" for cause in sorted_)
    if not sorted_:
        return ""
    kinds = [f"{bugs} bug{'s' * (bugs > 1)}"] if bugs else []
    foreign = sum(cause.kind == "operator" for cause in sorted_)
    kinds += [f"{foreign} operator of no known kind"] if foreign else []
    others = len(sorted_) - bugs - foreign
    kinds += [f"{others} promise{'s' * (others > 1)} not kept"] if others else []
    return f", by {len(sorted_)} cause{'s' * (len(sorted_) > 1)}: {', '.join(kinds)}"


# The causes


def _causes(report: Report, verbose: bool) -> Iterator[str]:
    broken = report.broken()
    if not broken:
        return
    for number, cause in enumerate(report.causes or [unsorted(broken)], 1):
        yield ""
        yield from _cause(number, cause)
    if report.at_length is not None:
        yield f"\n{_at_length(report.at_length)}"
    yield from _wider(report)
    if verbose:
        shown = {cause.message for cause in report.causes}
        for record in broken:
            if record.reason not in shown:
                yield f"\n{record.reason}"
    yield ""


def _cause(number: int, cause: CauseEntry) -> Iterator[str]:
    """Yield the lines of one cause. Failures that were not sorted are named only, unless they stand alone."""
    yield from words_of(number, cause)
    if cause.kind == "unsorted" and number > 1:
        return
    lines = cause.message.splitlines()
    look = [line for line in lines if line.startswith(LOOK)]
    yield from (f"   {line}" for line in [*look, *(line for line in lines if line not in look)])


def _at_length(found: AtLength) -> str:
    where = f"At ordinary gates of a model's length (S = {found.S}, {found.dtype}, outputs alone)"
    if found.worst is None or found.ulps is None:
        return f"{where}: a number is not finite."
    return f"{where}: worst error {found.worst:.3g} x the allowed, {found.ulps:.3g} units in the last place."


def _wider(report: Report) -> list[str]:
    """Return the lines that say whether a wider contract admits the implementation, or it has a bug."""
    found, fused = report.stands_under, "reads" in report.contract
    if found is None:
        return []
    if found.outcome == "unfinished":
        return ["Whether it stands under a wider contract was not searched to the end."]
    if found.outcome == "none" and any(cause.kind in ("bug", "operator") for cause in report.causes):
        return []
    if found.outcome == "none":
        same = " that reads the same from the same arguments" if fused else ""
        if any(NO_KIND in cause.message for cause in report.causes):  # not sorted, for the time was too short
            return [f"No contract{same} admits it."]
        return [f"No contract{same} admits it: this is a bug."]
    wrong = ", ".join(found.wrong_in)
    bug = [f"In {wrong} no contract admits it: there it is a bug."] if wrong else []
    if bug and all(cause.kind == "bug" for cause in report.causes) and report.causes:
        return bug
    if any(cause.decorator == found.decorator for cause in report.causes):
        return bug
    return ["It stands under a wider contract, which promises less:", f"  {found.decorator}", *bug]


# What held, and what was not run


def _held(report: Report, families: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each family: how many laws that were promised held, and the worst error.

    Nothing if the run stopped before it had tried all laws.
    """
    if any(isinstance(r, Unreached) for r in report.laws):
        return
    by_family: dict[str, dict[str, list[LawRecord]]] = {}
    for r in report.laws:
        if r.status in ("passed", "failed", "known"):
            by_family.setdefault(families.get(r.law, OTHER), {}).setdefault(r.law, []).append(r)
    width = max(map(len, by_family), default=0)
    for family, laws in by_family.items():
        held = [law for law, records in laws.items() if all(r.status == "passed" for r in records)]
        of = "all" if len(held) == len(laws) else f"{len(held)} of"
        names = f": {', '.join(held)}" if held else ""
        yield _cut(f"held  {family:<{width}}  {of} {len(laws)}{_worst(laws, held)}{names}")
    if report.verdict == "sound" and report.regimes:
        tried = ", ".join(f"{name} {count}" for name, count in report.regimes.items())
        yield f"gate sequences by regime: {tried}"


def _coverage(report: Report) -> list[str]:
    """Return what was tried of a sound kernel; of any other that was tried to the end, what was not."""
    if report.verdict == "sound":
        return covered(report)
    return [] if any(isinstance(r, Unreached) for r in report.laws) else untried(report)


def _worst(laws: Mapping[str, Sequence[LawRecord]], held: Sequence[str]) -> str:
    ratios = [r.worst for law in held for r in laws[law] if r.worst is not None]
    return f", worst error {max(ratios):.2f} of its bound" if ratios else ""


def _not_run(report: Report, verbose: bool) -> Iterator[str]:
    """Yield one line for the laws that the contract does not promise, and a line for each other gap."""
    reasons: dict[str, dict[str, None]] = {}
    for r in report.laws:
        if r.status == "not run" and not r.promised and not isinstance(r, Unreached):
            reasons.setdefault(r.reason, {})[r.law] = None
    if reasons:
        line = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
        yield f"not run: {line}" if verbose else _cut(f"not run: {line}")
    unreached = sum(isinstance(r, Unreached) for r in report.laws)
    if unreached:
        yield f"{unreached} checks not reached: the run stopped before"
    for record in [r for r in report.unfinished() if not isinstance(r, Unreached)]:
        yield f"not run: {record.law} ({record.dtype}): {record.reason}"
    for record in [r for r in report.laws if r.status == "known"]:
        yield f"known: {record.law} ({record.dtype}): {record.reason}"


def _last(report: Report, verbose: bool) -> Iterator[str]:
    if report.seed is not None:
        matrix_too = "" if verbose else "; --verbose shows the matrix of all laws"
        yield f"--seed {report.seed} repeats this check{matrix_too}"
    if report.compiled is not None:
        yield from report.compiled.notes
        if report.compiled.reason:
            yield f"its launches were not compiled: {report.compiled.reason}"
    if report.interpreter is not None:
        yield caveat(report.interpreter)


def _cut(line: str) -> str:
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 4]} ..."
