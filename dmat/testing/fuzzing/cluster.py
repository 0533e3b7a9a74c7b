"""The machines of a Ray cluster: a shard is a task, some seconds of turns; a lost node costs its shards.

On its node a shard is taken by a pool of one process, as here: a kernel may end that. Where the folder of the
run is not shared, what is found travels in the result.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import ray

from dmat.testing.errors import CannotRun
from dmat.testing.fuzzing.messages import COUNTEREXAMPLES, Done, Found, Setup, Turn
from dmat.testing.fuzzing.pool import Gone, Pool, lost
from dmat.testing.fuzzing.tasks import Task

STINT = 15.0  # seconds of a shard: what a lost node costs
ONE_MORE = 1  # shard for each place: it waits there when the one before it ends

# Of this worker of Ray: its pool, the folder that it shares or not, and whether it does.
_pools: list[tuple[Pool, Path, bool]] = []


class Cluster:
    """The places of a cluster, each a core, or a GPU where CUDA is tried.

    address: of the cluster, or "auto". CannotRun where none answers, or it has no such place.
    """

    stint = STINT
    patience = Pool.patience

    def __init__(self, setup: Setup, address: str, *, cuda: bool) -> None:
        """Join the cluster."""
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise CannotRun(f"--ray is {address!r}; no cluster answers: {_first_line(error)}") from None
        kind = "GPU" if cuda else "CPU"
        self.places = int(ray.cluster_resources().get(kind, 0))
        if not self.places:
            self.stop()
            raise CannotRun(f"--ray is {address!r}; the cluster has no {kind}")
        self.setup = setup
        asked = {"num_cpus": 1, "num_gpus": 1 if cuda else 0, "max_retries": 0}
        self.shard, self.ask = ray.remote(**asked)(take_shard), ray.remote(**asked)(call_there)
        self.room = self.places * (1 + ONE_MORE)
        self.shards: dict[Any, list[Turn]] = {}

    @property
    def under_way(self) -> int:
        """How many shards are."""
        return len(self.shards)

    def call(self, task: Task, *arguments: Any, seconds: float | None = None) -> Any:
        """Return the result of a task, done in some process of the cluster. Gone where that dies."""
        try:
            within = self.patience if seconds is None else seconds
            return ray.get(self.ask.remote(self.setup, task, arguments, within), timeout=within)
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except ray.exceptions.RayError as error:
            raise Gone(_first_line(error)) from None

    def submit(self, turns: Sequence[Turn]) -> None:
        """Have these turns taken, one after the other, at some place."""
        self.shards[self.shard.remote(self.setup, list(turns))] = list(turns)

    def ended(self, seconds: float) -> list[Done]:
        """Return what has become of turns, waiting at most so long for a shard."""
        ready, _ = ray.wait(list(self.shards), num_returns=1, timeout=max(0.0, seconds))
        return [done for shard in ready for done in self._of(shard, self.shards.pop(shard))]

    def _of(self, shard: Any, turns: list[Turn]) -> list[Done]:
        try:
            ends: list[Done] = ray.get(shard)
        except ray.exceptions.RayError as error:
            first, *others = [msgspec.structs.replace(turn, seconds=0.0) for turn in turns]
            told = f"a shard of {len(turns)} turns is lost: {_first_line(error)}"
            return [lost(first, told), *(lost(turn, "") for turn in others)]
        for done in ends:
            for found in done.found:
                _unpack(found, Path(self.setup.shared) / COUNTEREXAMPLES)
        return ends

    def stop(self) -> None:
        """Leave the cluster, and let it end what is under way."""
        ray.shutdown()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _unpack(found: Found, home: Path) -> None:
    """Write the files that a found counterexample has brought along."""
    if found.folder is not None and found.files:
        folder = home / found.folder
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in found.files.items():
            (folder / name).write_bytes(content)


# In a worker of Ray, on its node


def take_shard(setup: Setup, turns: list[Turn]) -> list[Done]:
    """Take these turns, in a process that the worker keeps for its next shard."""
    pool, folder, shared = _pool(setup)
    ends: list[Done] = []
    for turn in turns:
        pool.submit([turn])
        while pool.under_way:
            ends += pool.ended(1.0)
    return ends if shared else [_packed(done, folder / COUNTEREXAMPLES) for done in ends]


def call_there(setup: Setup, task: Task, arguments: Any, seconds: float) -> Any:
    """Do a task in that process."""
    return _pool(setup)[0].call(task, *arguments, seconds=seconds)


def _pool(setup: Setup) -> tuple[Pool, Path, bool]:
    if not _pools:
        journals, own = (tempfile.mkdtemp(prefix=f"dmat-{kind}-") for kind in ("journals", "fuzz"))
        seen = Path(setup.shared).is_dir() and Path(setup.folder).is_dir()
        folder, shared = (setup.folder, setup.shared) if seen else (own, own)
        here = msgspec.structs.replace(setup, folder=folder, shared=shared, journals=journals)
        _pools.append((Pool(here, 1), Path(shared), seen))
    return _pools[0]


def _packed(done: Done, home: Path) -> Done:
    """Return a turn whose findings bring their files along."""
    found = []
    for one in done.found:
        folder = home / one.folder if one.folder is not None else None
        files = {file.name: file.read_bytes() for file in folder.iterdir()} if folder is not None else {}
        found.append(msgspec.structs.replace(one, files=files))
    return msgspec.structs.replace(done, found=tuple(found))
