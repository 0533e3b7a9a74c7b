"""The work of a check, in a worker process or in the process that asks. Loads torch and the targets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hypothesis import settings

from dmat.testing.causes.show import milder_failure
from dmat.testing.check.plan import STOP, Plan, Request, planned
from dmat.testing.counterexample.corpus import current, require_there
from dmat.testing.errors import CannotRun
from dmat.testing.kernel.select import Chosen, select
from dmat.testing.law.kinds import subject_of
from dmat.testing.output import progress
from dmat.testing.processes import Send, claim
from dmat.testing.record import Record
from dmat.testing.registry import families, names_of_laws, tasks
from dmat.testing.run.crash import crash_record
from dmat.testing.run.journal import Journal, first_to_go, left_behind
from dmat.testing.run.run import run
from dmat.testing.run.session import Session
from dmat.testing.run.shapes import Sizes, not_allowed


def work(request: Request, name: str, send: Send) -> None:
    """Send the plan, then the record of each task that this worker takes. name: its name in the journal."""
    torch.set_num_threads(1)  # cases are small: a second thread saves nothing
    first_to_go()
    _try_laws(request, name, send, worker=True)


def work_here(request: Request) -> tuple[Plan, list[Record]]:
    """Try the laws in this process, which must live. Return the plan and the records."""
    news: list[Any] = []

    def hear(one: Any) -> None:
        news.append(one)
        progress(f"{len(news) - 1} checks done")

    _try_laws(request, "here", hear, worker=False)
    progress("")
    return news[0], news[1:]


def _try_laws(request: Request, name: str, send: Send, *, worker: bool) -> None:
    """Send the plan, then the record of each task. worker: whether this process may end itself."""
    try:
        require_there(request.corpora)
        chosen = select(request.targets, request.devices, request.dtypes)
        corpus = current(request.corpora or [Path("corpus").resolve()], chosen)
        _require_shapes(chosen, request.shapes)
    except CannotRun as error:
        send(Plan(error=str(error)))
        return
    send(Plan(names_of_laws(), planned(chosen), families()))
    with closing(Journal(request.folder, request.time_limit, deadly=worker)) as journal:
        session = Session(
            journal,
            corpus,
            request.counterexamples,
            name=name,
            brief=not request.first,
            replaceable=worker,
            seed=request.seed,
            shapes=request.shapes,
            milder=milder_failure if request.first else None,
        )
        _try_tasks(request, chosen, session, send)


def _try_tasks(request: Request, chosen: Sequence[Chosen], session: Session, send: Send) -> None:
    """Send the record of each task, unless another worker has taken it or the time is up."""
    own = settings.get_profile("default")  # whatever profile is loaded in this process
    profile = settings(own, max_examples=request.examples, database=None)
    uncallable: set[tuple[str, ...]] = set()
    every = tasks(chosen, first=request.first or request.until is not None)
    for number, (law, kernel, dtype, device, part) in enumerate(every):
        site = (kernel.name, dtype, device)
        if site in uncallable or not _taken(request.folder, number):
            continue
        until = None if part == "ladder" else _end_of_search(request, len(every) - number)
        if request.until is not None and time.monotonic() >= request.until:
            return
        own_session = replace(session, until=until)
        [record] = run(kernel, [law], [dtype], [device], profile=profile, session=own_session, part=part)
        send(record)
        if record.status == "failed" and request.first:
            (request.folder / STOP).touch()
        if record.uncallable:
            uncallable.add(site)


def _end_of_search(request: Request, left: int) -> float | None:
    """Return when the random cases of a law end. Each of the tasks that are left gets as much time.

    None: the request has no time limit.
    """
    if request.until is None:
        return None
    now = time.monotonic()
    return now + (request.until - now) * min(1.0, request.processes / left)


def _require_shapes(chosen: Sequence[Chosen], shapes: Sequence[Sizes]) -> None:
    """Raise CannotRun for a shape that the contract of a chosen implementation does not allow."""
    for implementation, dtype, device in chosen:
        for sizes in shapes:
            reason = not_allowed(subject_of(implementation, dtype, device), sizes)
            if reason is not None:
                shown = ",".join(map(str, sizes))
                raise CannotRun(
                    f"--shape is {shown}; the contract of {implementation.name} allows no {reason}"
                )


def _taken(folder: Path, number: int) -> bool:
    """Take a task, unless another worker has taken it or the check is over. Return whether it was taken."""
    return not (folder / STOP).exists() and claim(folder / f"task-{number}")


def crash(request: Request, name: str) -> Record | None:
    """Return the record of the law that a dead worker was trying, None if it was trying no law."""
    line = left_behind(request.folder, name)
    return None if line is None else crash_record(line, request.folder, request.counterexamples)
