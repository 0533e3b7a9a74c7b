"""The processes of this machine: they take turns, and one that is gone is replaced.

The pool is Pebble's, which tells of each task whether its process died in it.
"""

from __future__ import annotations

import queue
import signal
from collections.abc import Sequence
from typing import Any

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from dmat.testing.fuzzing.messages import Done, Setup, Turn
from dmat.testing.fuzzing.tasks import Task, do, start
from dmat.testing.processes import SPAWN

FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM)  # by whoever sent it, or for want of memory: no kernel's own
OUT_OF_TIME = "no result in time"


class Gone(Exception):
    """The process died in what it was asked; its text says how."""


class Pool:
    """So many processes, each with a turn and one to come, or it would wait for its next.

    stint: seconds of turns that are handed out together. patience: seconds that a call may wait and take.
    """

    stint = 0.0
    patience = 120.0

    def __init__(self, setup: Setup, processes: int) -> None:
        """Start them."""
        self.pool = ProcessPool(processes, initializer=start, initargs=(setup,), context=SPAWN)
        self.room, self.under_way = processes + 1, 0
        self._ended: queue.Queue[tuple[Turn, Done | BaseException]] = queue.Queue()

    def call(self, task: Task, *arguments: Any, seconds: float | None = None) -> Any:
        """Return the result of a task with these arguments, done in one of them.

        seconds: that it may take, and wait; default: `patience`. Gone where it dies, or is not done by then;
        else what it raises.
        """
        future = self.pool.schedule(do, (task, *arguments))
        try:
            return future.result(timeout=self.patience if seconds is None else seconds)
        except ProcessExpired as death:
            raise Gone(_told(death)) from None
        except TimeoutError:
            future.cancel()  # type: ignore[no-untyped-call]
            raise Gone(OUT_OF_TIME) from None

    def submit(self, turns: Sequence[Turn]) -> None:
        """Have these turns taken, each by whoever is free next."""
        for turn in turns:
            self.under_way += 1
            future = self.pool.schedule(do, ("take", turn))
            future.add_done_callback(lambda future, turn=turn: self._hear(turn, future))  # type: ignore[misc]

    def _hear(self, turn: Turn, future: ProcessFuture[Done]) -> None:
        error = future.exception()
        self._ended.put((turn, future.result() if error is None else error))

    def ended(self, seconds: float) -> list[Done]:
        """Return what has become of turns, waiting at most so long for the first."""
        try:
            outcomes = [self._ended.get(timeout=max(0.0, seconds))]
        except queue.Empty:
            return []
        while not self._ended.empty():
            outcomes.append(self._ended.get())
        self.under_way -= len(outcomes)
        return [end if isinstance(end, Done) else self._lost(turn, end) for turn, end in outcomes]

    def _lost(self, turn: Turn, error: BaseException) -> Done:
        """Return what is known of a turn whose process is gone."""
        where = f"{turn.cell.law} of {turn.cell.implementation}"
        if not isinstance(error, ProcessExpired):
            return lost(turn, f"{where} came to no end: {type(error).__name__}: {error}")
        event = f"a process died ({_told(error)}) in {where}"
        if -error.exitcode in FROM_OUTSIDE and not self._dies_again(turn):
            return lost(turn, f"{event}; tried again, its case did not end one")
        try:
            found = self.call("mourn", turn)
        except Gone as again:
            return lost(turn, f"{event}; its case could not be kept: {again}")
        return lost(turn, event, *([found] if found else []))

    def _dies_again(self, turn: Turn) -> bool:
        """Return whether the case that ended one process also ends another."""
        try:
            self.call("once_more", turn)
        except Gone as again:
            return str(again) != OUT_OF_TIME
        except Exception:  # the law itself at a loss
            return False
        return False

    def stop(self) -> None:
        """End all of them, whatever they do."""
        self.pool.stop()  # type: ignore[no-untyped-call]
        self.pool.join()


def lost(turn: Turn, event: str, *found: Any) -> Done:
    """Return a turn of which nothing is known but that it is lost, and what was found of it."""
    return Done(turn.name, turn.cell, turn.seconds, found=found, event=event)


def _told(death: ProcessExpired) -> str:
    """Return how a process ended: a signal has a negative exit code."""
    return f"signal {-death.exitcode}" if death.exitcode < 0 else f"exit code {death.exitcode}"
