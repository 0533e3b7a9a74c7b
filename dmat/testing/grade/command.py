"""The command `dmat grade`: grade each implementation in a child process, because it may crash."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from dmat.testing.contract import DTILDE, FUSED
from dmat.testing.errors import Died
from dmat.testing.grade.dtilde import EXAMPLES, Grade, grade
from dmat.testing.grade.fused import grade_fused
from dmat.testing.grade.report import exit_code, show, write_json
from dmat.testing.grade.result import Graded, GradeResult
from dmat.testing.interpret.choice import caveat, interpreter_record
from dmat.testing.kernel.builtin import COMPARED
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.kernel.load import load
from dmat.testing.kernel.select import Chosen, select
from dmat.testing.law.kinds import subject_of
from dmat.testing.output import plain, progress
from dmat.testing.processes import Run, Send, apart
from dmat.testing.record import stated

Site = tuple[str, str]  # a dtype and a device
GRADES: Mapping[str, Callable[[Any, int, Send], Grade]] = {DTILDE: grade, FUSED: grade_fused}


def grade_all(options: argparse.Namespace) -> list[Graded]:
    """Grade the targets of the options. Without a TARGET, grade the built-in formulas for comparison."""
    chosen = select(options.targets, options.device, options.dtype, otherwise=COMPARED)
    return graded(chosen, options.examples or EXAMPLES)


def graded(chosen: Sequence[Chosen], examples: int, run: Run = apart) -> list[Graded]:
    """Grade each implementation. run: calls the grading in a child process, or in this one."""
    found = []
    for implementation in dict.fromkeys(i for i, _, _ in chosen):
        sites = [(dtype, device) for i, dtype, device in chosen if i == implementation]
        grades = _grades(implementation.name, sites, examples, run)
        found.append(
            Graded(
                implementation=implementation.name,
                contract=stated(implementation.contract.stated()),
                grades=grades,
                interpreter=interpreter_record(),
            )
        )
    progress("")
    return found


def _grades(name: str, sites: list[Site], examples: int, run: Run) -> list[GradeResult]:
    """Return one grade per dtype and device.

    If the process dies, that dtype and device gets a reason instead of a grade, and the next ones are tried.
    """
    grades: list[GradeResult] = []
    case = "a call with gates of zeros"

    def heard(news: GradeResult | str) -> None:
        nonlocal case
        if isinstance(news, str):
            case = news
            return
        grades.append(news)
        progress(f"{len(grades)} of {len(sites)} dtypes of {name} graded")

    while len(grades) < len(sites):
        try:
            run(_grade_here, name, sites[len(grades) :], examples, heard=heard)
        except Died as died:
            dtype, device = sites[len(grades)]
            reason = f"its process died, {died}, on the case\n{case}"
            grades.append(GradeResult(dtype, device, reason))
    return grades


def _grade_here(name: str, sites: list[Site], examples: int, send: Send) -> None:
    """Grade the implementation in this process. Send each case before it is tried, and each grade."""
    import torch

    torch.set_num_threads(1)  # cases are small: a second thread saves nothing
    implementation = _named(name)
    for dtype, device in sites:
        subject = subject_of(implementation, dtype, device)
        send(GRADES[subject.kind](subject, examples, send).result())


def _named(name: str) -> Implementation:
    return next((known for known in COMPARED if known.name == name), None) or load(name)


def command(options: argparse.Namespace) -> int:
    """Grade, print the table, and return the exit code."""
    grades = grade_all(options)
    console = Console(emoji=False)
    show(grades, console)
    interpreter = interpreter_record()
    if interpreter is not None:
        plain(console, caveat(interpreter))
    if options.json is not None:
        write_json(grades, options.json)
    return exit_code(grades)
