"""The machines of a Ray cluster. A Ray task is a shard, some seconds of turns; a lost node loses its shards.

On its node, a Ray worker runs a shard in a pool of one process, because a kernel may kill that process. If
the folder of the run is not shared, the files of a finding are sent with the result.
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

STINT = 15.0  # seconds of a shard; a lost node loses that much work
ONE_MORE = 1  # extra shard per process, so that the process never waits for its next shard

# At most one item, of this Ray worker: (pool, folder of counterexamples, whether the folder is shared).
_pools: list[tuple[Pool, Path, bool]] = []


class Cluster:
    """The processes of a cluster: one per core, or one per GPU if an accelerator is tested.

    address: address of the cluster, or "auto". Raises CannotRun if no cluster answers, or if the cluster has
    no core or GPU.
    """

    stint = STINT
    patience = Pool.patience

    def __init__(self, setup: Setup, address: str, *, gpus: bool) -> None:
        """Join the cluster."""
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise CannotRun(f"--ray is {address!r}; no cluster answers: {_first_line(error)}") from None
        kind = "GPU" if gpus else "CPU"
        self.places = int(ray.cluster_resources().get(kind, 0))
        if not self.places:
            self.stop()
            raise CannotRun(f"--ray is {address!r}; the cluster has no {kind}")
        self.setup = setup
        asked = {"num_cpus": 1, "num_gpus": 1 if gpus else 0, "max_retries": 0}
        self.shard, self.ask = ray.remote(**asked)(take_shard), ray.remote(**asked)(call_there)
        self.room = self.places * (1 + ONE_MORE)
        self.shards: dict[Any, list[Turn]] = {}

    @property
    def under_way(self) -> int:
        """The number of unfinished shards."""
        return len(self.shards)

    def call(self, task: Task, *arguments: Any, seconds: float | None = None) -> Any:
        """Run a task in some process of the cluster. Return its result. Raises Gone if the process dies."""
        try:
            within = self.patience if seconds is None else seconds
            return ray.get(self.ask.remote(self.setup, task, arguments, within), timeout=within)
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except ray.exceptions.RayError as error:
            raise Gone(_first_line(error)) from None

    def submit(self, turns: Sequence[Turn]) -> None:
        """Submit these turns as one shard. Some process runs them one after the other."""
        self.shards[self.shard.remote(self.setup, list(turns))] = list(turns)

    def ended(self, seconds: float) -> list[Done]:
        """Return the results of finished turns. Wait for a shard at most `seconds`."""
        ready, _ = ray.wait(list(self.shards), num_returns=1, timeout=max(0.0, seconds))
        return [done for shard in ready for done in self._of(shard, self.shards.pop(shard))]

    def _of(self, shard: Any, turns: list[Turn]) -> list[Done]:
        try:
            ends: list[Done] = ray.get(shard)
        except ray.exceptions.RayError as error:
            first, *others = [msgspec.structs.replace(turn, seconds=0.0) for turn in turns]
            reason = f"a shard of {len(turns)} turns is lost: {_first_line(error)}"
            return [lost(first, reason), *(lost(turn, "") for turn in others)]
        for done in ends:
            for found in done.found:
                _unpack(found, Path(self.setup.shared) / COUNTEREXAMPLES)
        return ends

    def stop(self) -> None:
        """Leave the cluster. Ray ends the unfinished shards."""
        ray.shutdown()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _unpack(found: Found, home: Path) -> None:
    """Write the files of a counterexample that were sent with it."""
    if found.folder is not None and found.files:
        folder = home / found.folder
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in found.files.items():
            (folder / name).write_bytes(content)


# In a worker of Ray, on its node


def take_shard(setup: Setup, turns: list[Turn]) -> list[Done]:
    """Run these turns in the process of the worker's pool, which stays for the next shard."""
    pool, folder, shared = _pool(setup)
    ends: list[Done] = []
    for turn in turns:
        pool.submit([turn])
        while pool.under_way:
            ends += pool.ended(1.0)
    return ends if shared else [_packed(done, folder / COUNTEREXAMPLES) for done in ends]


def call_there(setup: Setup, task: Task, arguments: Any, seconds: float) -> Any:
    """Run a task in the process of the worker's pool."""
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
    """Return the result of a turn, with the files of its findings."""
    found = []
    for one in done.found:
        folder = home / one.folder if one.folder is not None else None
        files = {file.name: file.read_bytes() for file in folder.iterdir()} if folder is not None else {}
        found.append(msgspec.structs.replace(one, files=files))
    return msgspec.structs.replace(done, found=tuple(found))
