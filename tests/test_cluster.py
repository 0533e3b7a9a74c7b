"""`dmat fuzz --ray`: shards on a real cluster of two nodes, one of which is lost during the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmat.testing.causes.known import Cell
from dmat.testing.errors import CannotRun
from dmat.testing.fuzzing.messages import Setup, Turn

from .test_fuzz import KERNELS

pytest.importorskip("ray", reason="Ray is not installed: pip install 'dmat[cluster]'")

CLUSTER = """
import sys
import ray
told = ray.init(num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False)
print(told.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""
OPEN = {**os.environ, "RAY_AUTH_MODE": "disabled"}  # two processes of one test need no token


@pytest.fixture
def address() -> Iterator[str]:
    """The address of a cluster of this machine alone."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", CLUSTER], text=True, env=OPEN, **pipes) as cluster:  # type: ignore[call-overload]
        yield cluster.stdout.readline().strip()
        cluster.stdin.close()
        cluster.wait(30)


def takers() -> list[int]:
    """Return the processes that take shards."""
    told = subprocess.run(
        ["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True
    ).stdout
    return [int(line.split()[0]) for line in told.splitlines() if "ray::take_shard" in line]


def test_a_lost_node_costs_its_shard(address: str, tmp_path: Path) -> None:
    """A run over two places finds what is wrong, though one of them is killed, and says that it was."""
    (tmp_path / "kernels.py").write_text(KERNELS)
    log = tmp_path / "night" / "log.jsonl"
    fuzz = [sys.executable, "-m", "dmat.testing.cli", "fuzz", "kernels.py:right", "kernels.py:unmasked"]
    run = subprocess.Popen(
        [*fuzz, "--minutes", "1.4", "--out", "night", "--ray", address],
        cwd=tmp_path,
        env=OPEN,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        until = time.monotonic() + 70
        while (
            run.poll() is None
            and time.monotonic() < until
            and not (log.exists() and '"ended"' in log.read_text())
        ):
            time.sleep(0.1)
        assert run.poll() is None, run.communicate()[0]
        while time.monotonic() < until and not takers():
            time.sleep(0.02)
        victim = takers()[0]
        os.kill(victim, signal.SIGKILL)
        printed, _ = run.communicate(timeout=90)
    finally:
        run.kill()
        run.communicate()
    assert run.returncode == 1, printed
    report = json.loads((tmp_path / "night" / "report.json").read_text())
    assert [f["implementation"] for f in report["findings"]] == ["kernels.py:unmasked"]
    assert (tmp_path / "night" / report["findings"][0]["folder"] / "case.json").is_file()
    assert any("a shard of" in event["what"] and "is lost" in event["what"] for event in report["events"])
    assert report["processes"] == 2
    assert victim not in takers()


def test_findings_travel_where_nothing_is_shared(tmp_path: Path) -> None:
    """A node that does not see the folder of the run sends what it found along, and it is unpacked there."""
    from dmat.testing.fuzzing import cluster
    from dmat.testing.fuzzing.messages import COUNTEREXAMPLES

    (tmp_path / "kernels.py").write_text(KERNELS)
    cell = Cell("future", f"{tmp_path / 'kernels.py'}:unmasked", "float32", "cpu")
    elsewhere = str(tmp_path / "not seen")
    setup = Setup(elsewhere, elsewhere, elsewhere, elsewhere, 60.0)
    try:
        (done,) = cluster.take_shard(setup, [Turn("1-000001", cell, 1, 1.0)])
    finally:
        for pool, _, _ in cluster._pools:
            pool.stop()
        cluster._pools.clear()
    assert not Path(elsewhere).exists()
    (found,) = done.found
    assert found.folder is not None
    cluster._unpack(found, tmp_path / COUNTEREXAMPLES)
    names = {file.name for file in (tmp_path / COUNTEREXAMPLES / found.folder).iterdir()}
    assert {"case.json", "repro.py", "report.md", "picture.png"} <= names


def test_no_cluster_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address at which no cluster answers is one line that names it."""
    from dmat.testing.fuzzing import cluster

    def none(**asked: object) -> None:
        raise ConnectionError("no node is alive\nat great length")

    monkeypatch.setattr("ray.init", none)
    with pytest.raises(CannotRun, match=r"--ray is 'nowhere:1'; no cluster answers: no node is alive$"):
        cluster.Cluster(Setup("", "", "", "", 60.0), "nowhere:1", gpus=False)
