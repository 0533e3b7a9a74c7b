"""The process pool of this machine: its processes run turns, and a dead process is replaced.

The pool is Pebble's, because Pebble reports for each task whether its process died.
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

FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM)  # sent by a user or the out-of-memory killer, not by a kernel
OUT_OF_TIME = "no result in time"


class Gone(Exception):
    """The process died in a task, or the task did not end in time. The message says how."""


class Pool:
    """A pool of processes. One turn more than processes is submitted, so that no process waits for a turn.

    stint: seconds of turns that are submitted together. patience: default time limit in seconds of a call,
    waiting included.
    """

    stint = 0.0
    patience = 120.0

    def __init__(self, setup: Setup, processes: int) -> None:
        """Start the processes."""
        self.pool = ProcessPool(processes, initializer=start, initargs=(setup,), context=SPAWN)
        self.room, self.under_way = processes + 1, 0
        self._ended: queue.Queue[tuple[Turn, Done | BaseException]] = queue.Queue()

    def call(self, task: Task, *arguments: Any, seconds: float | None = None) -> Any:
        """Run a task with these arguments in one of the processes. Return its result.

        seconds: time limit, waiting included; default: `patience`. Raises Gone if the process dies or the
        time is over. An exception of the task is raised here.
        """
        future = self.pool.schedule(do, (task, *arguments))
        try:
            return future.result(timeout=self.patience if seconds is None else seconds)
        except ProcessExpired as death:
            raise Gone(_exit_words(death)) from None
        except TimeoutError:
            future.cancel()  # type: ignore[no-untyped-call]
            raise Gone(OUT_OF_TIME) from None

    def submit(self, turns: Sequence[Turn]) -> None:
        """Submit these turns. The next free process runs each."""
        for turn in turns:
            self.under_way += 1
            future = self.pool.schedule(do, ("take", turn))
            future.add_done_callback(lambda future, turn=turn: self._hear(turn, future))  # type: ignore[misc]

    def _hear(self, turn: Turn, future: ProcessFuture[Done]) -> None:
        error = future.exception()
        self._ended.put((turn, future.result() if error is None else error))

    def ended(self, seconds: float) -> list[Done]:
        """Return the results of finished turns. Wait for the first at most `seconds`."""
        try:
            outcomes = [self._ended.get(timeout=max(0.0, seconds))]
        except queue.Empty:
            return []
        while not self._ended.empty():
            outcomes.append(self._ended.get())
        self.under_way -= len(outcomes)
        return [end if isinstance(end, Done) else self._lost(turn, end) for turn, end in outcomes]

    def _lost(self, turn: Turn, error: BaseException) -> Done:
        """Return the result of a turn whose process died: the event, and the case if it could be kept."""
        where = f"{turn.cell.law} of {turn.cell.implementation}"
        if not isinstance(error, ProcessExpired):
            return lost(turn, f"{where} came to no end: {type(error).__name__}: {error}")
        event = f"a process died ({_exit_words(error)}) in {where}"
        if -error.exitcode in FROM_OUTSIDE and not self._dies_again(turn):
            return lost(turn, f"{event}; tried again, its case did not end one")
        try:
            found = self.call("settle_crash", turn)
        except Gone as again:
            return lost(turn, f"{event}; its case could not be kept: {again}")
        return lost(turn, event, *([found] if found else []))

    def _dies_again(self, turn: Turn) -> bool:
        """Whether the case at which the process died kills another process too."""
        try:
            self.call("once_more", turn)
        except Gone as again:
            return str(again) != OUT_OF_TIME
        except Exception:  # an error of the law itself
            return False
        return False

    def stop(self) -> None:
        """Kill all processes, even in the middle of a turn."""
        self.pool.stop()  # type: ignore[no-untyped-call]
        self.pool.join()


def lost(turn: Turn, event: str, *found: Any) -> Done:
    """Return the result of a lost turn: it has only the event and the failures found."""
    return Done(turn.name, turn.cell, turn.seconds, found=found, event=event)


def _exit_words(death: ProcessExpired) -> str:
    """Return how a process ended, as text. A negative exit code is a signal."""
    return f"signal {-death.exitcode}" if death.exitcode < 0 else f"exit code {death.exitcode}"
