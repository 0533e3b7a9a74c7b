"""The work of one worker process of `dmat check`. Loads torch and the targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from hypothesis import settings

from dmat.testing.causes.show import milder_failure
from dmat.testing.check.plan import STOP, Plan, Request, planned
from dmat.testing.counterexample.corpus import current, require_there
from dmat.testing.errors import CannotRun
from dmat.testing.kernel.select import Chosen, select
from dmat.testing.law.kinds import subject_of
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
    try:
        require_there(request.corpora)
        chosen = select(request.targets, request.devices, request.dtypes)
        corpus = current(request.corpora or [Path("corpus").resolve()], chosen)
        _require_shapes(chosen, request.shapes)
    except CannotRun as error:
        send(Plan(error=str(error)))
        return
    send(Plan(names_of_laws(), planned(chosen), families()))
    settings.load_profile("default")
    profile = settings(max_examples=request.examples, database=None)
    journal = Journal(request.folder, request.time_limit)
    session = Session(
        journal,
        corpus,
        request.counterexamples,
        name=name,
        brief=not request.first,
        replaceable=True,
        seed=request.seed,
        shapes=request.shapes,
        milder=milder_failure if request.first else None,
    )
    uncallable: set[tuple[str, ...]] = set()
    for number, (law, kernel, dtype, device, part) in enumerate(tasks(chosen, first=request.first)):
        site = (kernel.name, dtype, device)
        if site in uncallable or not _taken(request.folder, number):
            continue
        [record] = run(kernel, [law], [dtype], [device], profile=profile, session=session, part=part)
        send(record)
        if record.status == "failed" and request.first:
            (request.folder / STOP).touch()
        if record.uncallable:
            uncallable.add(site)


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
