"""The worker processes of `dmat check`. They try the laws, and may die. No pytest takes part.

This process loads neither torch nor a target. Each worker loads both, and takes one task after another: a
part of a law for an implementation, dtype and device. A worker that dies leaves its case in its journal. The
law that it was trying is then broken, and another worker takes its place.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from threading import Lock

from dmat.testing.check.plan import STOP, Plan, Request
from dmat.testing.errors import Died
from dmat.testing.output import progress
from dmat.testing.processes import Send, apart
from dmat.testing.record import Record


class Workers:
    """The workers of one check, and what they have sent so far."""

    def __init__(self, request: Request) -> None:
        """Start with no worker."""
        self.request = request
        self.plan: Plan | None = None
        self.records: list[Record] = []
        self._lock, self._over = Lock(), False

    def run(self) -> tuple[Plan, list[Record]]:
        """Run the workers, all at once, until all tasks are done. Return the plan and the records."""
        numbers = range(self.request.processes)
        with ThreadPoolExecutor(len(numbers)) as pool:
            try:
                for done in [pool.submit(self._keep_one, number) for number in numbers]:
                    done.result()
            except BaseException:  # Ctrl-C ends the workers; no other one may take their place
                self._over = True
                (self.request.folder / STOP).touch()
                raise
        progress("")
        return self.plan or Plan(error="the process died while the targets were imported"), self.records

    def _keep_one(self, number: int) -> None:
        """Run a worker, and another one for each that dies while it tries a law."""
        for generation in count():
            name = f"worker {number}, {generation} died"
            try:
                apart(_work, self.request, name, heard=self._heard)
                return
            except Died:
                found = None if self._over else apart(_crash, self.request, name, heard=lambda news: None)
            if found is None:  # it died while it imported the targets: so would the next one
                return
            self._heard(found)

    def _heard(self, news: Plan | Record) -> None:
        with self._lock:
            if isinstance(news, Plan):
                self.plan = self.plan or news
                return
            self.records.append(news)
            if news.status == "failed" and self.request.first:  # a dead worker did not say so
                (self.request.folder / STOP).touch()
            progress(f"{len(self.records)} checks done")


# In a worker


def _work(request: Request, name: str, send: Send) -> None:
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(request.folder / "hypothesis")  # not the user's folder
    from dmat.testing.check.work import work

    work(request, name, send)


def _crash(request: Request, name: str, send: Send) -> Record | None:
    from dmat.testing.check.work import crash

    return crash(request, name)
