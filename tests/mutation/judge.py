"""The judge: each mutant in a process of its own, under limits, tried by all laws until one rejects it.

A child of fork() has torch and the laws imported already, so a mutant costs what its laws cost. The
parent must never have run a backward pass: torch's autograd does not survive a fork after one.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch._inductor.config as inductor
from hypothesis import Phase, settings

from dmat.testing.errors import Refused
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.record import Record
from dmat.testing.registry import laws, rank
from dmat.testing.run.search import search
from dmat.testing.verdict.finding import LawBroken

from . import direct
from .mutate import Mutant
from .targets import Target

LAW_SECONDS = 60  # of processor time that one law may take: a hundred times what it does
MEMORY = 8 * 2**30  # bytes beyond those of the parent
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant, and by what.

    outcome: "rejected" by a law that found a wrong result, "raised" where the mutant, or its import,
    raised, "refused" where it refuses what the original gives, "checked" by a direct check, "law raised"
    where the law itself did, "timeout", "died", or "survived".
    """

    outcome: str
    by: str = ""
    seconds: float = 0.0


def profile(examples: int) -> settings:
    """Return how to search: the same cases every night, so that a score is comparable to the last."""
    return settings(max_examples=examples, derandomize=True, database=None, phases=[Phase.generate])


def judged(
    work: Iterable[tuple[Target, Mutant]], examples: int, jobs: int
) -> Iterator[tuple[Target, Mutant, Verdict]]:
    """Judge each mutant, `jobs` at a time, and yield them as they come."""
    laws()  # imported once, not by every child
    inductor.force_disable_caches = True  # what a custom operator calls is no part of their keys
    waiting = iter(work)
    running: dict[Connection, tuple[Target, Mutant, BaseProcess, float]] = {}
    while True:
        while len(running) < jobs and (chosen := next(waiting, None)) is not None:
            receiver, sender = FORK.Pipe(duplex=False)
            process: BaseProcess = FORK.Process(target=_child, args=(*chosen, examples, sender))
            process.start()
            sender.close()
            running[receiver] = (*chosen, process, time.monotonic())
        if not running:
            return
        for ready in wait(list(running)):
            assert isinstance(ready, Connection)
            target, mutant, child, started = running.pop(ready)
            outcome, by = _result(ready, child)
            yield target, mutant, Verdict(outcome, by, time.monotonic() - started)


def _result(receiver: Connection, process: BaseProcess) -> tuple[str, str]:
    """Return what the child said, or how it ended."""
    try:
        outcome, by = receiver.recv()
        process.join()
        return outcome, by
    except EOFError:
        process.join()
        killed = process.exitcode == -signal.SIGPROF
        return ("timeout", f"{LAW_SECONDS} s") if killed else ("died", f"exit code {process.exitcode}")
    finally:
        receiver.close()


def _child(target: Target, mutant: Mutant, examples: int, sender: Connection) -> None:
    _limit()
    sender.send(_tried(target, mutant, examples))
    sender.close()


def _limit() -> None:
    """Bound memory and, law by law, processor time; be quiet."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _start_clock()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _start_clock() -> None:
    signal.setitimer(signal.ITIMER_PROF, LAW_SECONDS)


def _tried(target: Target, mutant: Mutant, examples: int) -> tuple[str, str]:
    """Return the outcome and what led to it: every ladder, direct checks, then every search."""
    try:
        target.load(mutant.source())
        subjects = target.subjects()
    except Exception as error:
        return "raised", f"import: {type(error).__name__}"
    for part in ("ladder", "search"):
        if part == "search" and (check := direct.broken(subjects, operator=target.operator)):
            return "checked", check
        for subject in subjects:
            subject.part = part
            for entry in sorted(laws(), key=rank):
                _start_clock()
                accusation = _accusation(entry, subject, profile(examples))
                if accusation is not None:
                    return accusation
    return "survived", ""


def _accusation(entry: Law, subject: Subject, profile: settings) -> tuple[str, str] | None:
    """Return the outcome of a law that does not hold, or None."""
    if entry.not_applicable(subject):
        return None
    name = f"{entry.name} {subject.dtype} {subject.part}"
    record = Record(entry.name, subject.implementation.name, subject.dtype, subject.device)
    try:
        search(entry, subject, record, profile)
    except LawBroken as broken:
        raised = broken.finding.computed.startswith("raised")
        return "raised" if raised else "rejected", name
    except Refused as refusal:
        return "refused", f"{name}: {refusal}"
    except Exception as error:
        return "law raised", f"{name}: {type(error).__name__}: {error}"
    return ("refused", f"{name}: {record.refused} of {record.examples}") if record.refused else None
