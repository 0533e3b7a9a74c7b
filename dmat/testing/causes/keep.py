"""Keep one counterexample folder for each cause, after the verdict: its repro.py takes calls to confirm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from dmat.testing.case_file import FILE, read
from dmat.testing.causes.message import asked_again, examples_again
from dmat.testing.counterexample.folder import REPORT, add_also, case_file, replay_command, write
from dmat.testing.counterexample.folder import report as in_report
from dmat.testing.errors import Died, OutOfTime
from dmat.testing.output import output_path
from dmat.testing.processes import Run, Send, apart
from dmat.testing.record import CauseEntry, LawRecord, Report
from dmat.testing.run.session import Session
from dmat.testing.verdict.finding import Failure, LawBroken

SECONDS = 120.0  # for the folders of one report
CAUSE = "**Cause.**"
HELD = "there is no repro.py: tried again in a new process, the case held. The replay tries it more often."

Key = tuple[str, str, str]  # law, dtype, device


def with_folders(report: Report, run: Run = apart) -> Report:
    """Write the folder of each cause, and gather its other cases there. Return the report with the folders.

    A cause whose folder cannot be written keeps the folders of its laws as they are. run: calls what tries
    the kernel.
    """
    homes: dict[Key, str] = {}
    for cause in report.causes:
        if cause.kind == "unsorted" or cause.folder is None:
            continue
        try:
            run(_keep_here, report, cause, heard=lambda news: None, seconds=SECONDS)
        except (Died, OutOfTime, RuntimeError):
            continue
        homes |= {(one.law, one.dtype, one.device): cause.folder for one in cause.breaks}
    return replace(report, laws=[_at_home(record, homes) for record in report.laws])


def _at_home(record: LawRecord, homes: Mapping[Key, str]) -> LawRecord:
    """Return the record with the folder of its cause, in its message too."""
    home = homes.get((record.law, record.dtype, record.device))
    if home is None or record.folder is None:
        return record
    old, new = (str(output_path(Path(folder))) for folder in (record.folder, home))
    return replace(record, folder=home, reason=record.reason.replace(old, new))


def _keep_here(report: Report, cause: CauseEntry, send: Send) -> None:
    """Write the folder of a cause, and move the cases of its other laws into it."""
    import torch

    torch.set_num_threads(1)
    assert cause.folder is not None
    home = Path(cause.folder)
    _write(report.implementation, cause, home)
    by_key = {(r.law, r.dtype, r.device): r for r in report.broken()}
    several = len({one.device for one in cause.breaks}) > 1
    for one in cause.breaks:
        record = by_key.get((one.law, one.dtype, one.device))
        if record is not None and record.folder is not None:
            add_also(home, Path(record.folder), f"-{one.device}" if several else "")
    _write_words(home / REPORT, cause)


def _write(target: str, cause: CauseEntry, home: Path) -> None:
    law, subject, case = asked_again(target, cause)
    examples = examples_again(law, subject, case)
    if examples:
        failure = Failure(case, LawBroken(examples[0].finding))
        file = case_file(law, subject, failure)
        write(home, law, subject, failure, file, examples, cause.message, Session())
    elif (home / FILE).is_file():  # as the worker that found the case kept it
        file = read(home / FILE)
        text = in_report(file, cause.message, replay_command(home, file), [HELD], repro=False)
        (home / REPORT).write_text(text)


def _write_words(report: Path, cause: CauseEntry) -> None:
    """Write the words of the cause below the title of report.md."""
    if not report.is_file():
        return
    title, _, rest = report.read_text().partition("\n")
    if CAUSE in rest:
        return
    report.write_text("\n".join([title, "", *in_markdown(cause), rest]))


def in_markdown(cause: CauseEntry) -> list[str]:
    """Return the words of a cause: what it is, with which gates, what it breaks, what promises it not."""
    bug = "A bug: " if cause.kind == "bug" else ""
    breaks = ", ".join(f"{one.law} ({one.dtype})" for one in cause.breaks)
    lines = [f"{CAUSE} {bug}{cause.sentence} Seen {cause.gates}. It breaks {breaks}."]
    if cause.decorator is not None:
        lines.append(f"Not promised with `{cause.decorator}`, tried on {cause.tried}.")
    return lines
