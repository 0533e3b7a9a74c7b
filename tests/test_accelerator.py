"""dmat on a simulated accelerator of torch: laws, wrong kernels, a device that lacks a dtype or breaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dmat.testing import Contract, devices
from dmat.testing.contract.names import require_known
from dmat.testing.errors import SelectionError
from dmat.testing.kernel.select import select
from dmat.testing.processes import apart
from dmat.testing.record import Record

from .accelerator.few import Tried, records

ROOT = Path(__file__).resolve().parents[1]
HELD = ("values", "forget_gradient", "no_synchronisation", "device_agreement", "peak_memory")
NEVER_RUN = {  # on a device without graphs and streams, of 64 MiB
    "graph_capture": "a law of CUDA: torch has no graphs for sim",
    "side_stream": "a law of CUDA: torch has no streams that sleep for sim",
    "past_2_31": "does not fit on this device",
    "protected_pages": "a law of the CPU",
}
WRONG = {  # kernel -> the law that it breaks, and what is said of it
    "without_igate": ("values", "exact     1"),
    "on_the_host": ("no_synchronisation", "called a synchronizing sim operation"),
    "left_on_the_host": ("values", "on sim:0"),
    "hoarding": ("values", "OutOfMemoryError: sim out of memory"),
    "mixing": ("values", "Expected all tensors to be on the same device"),
    "breaking": ("values", "an illegal memory access was encountered"),  # the last: it breaks the device
}


def tried(*every: Tried) -> tuple[list[Record], dict[str, int]]:
    """Return the records of these laws, from a process that has the device."""
    found: tuple[list[Record], dict[str, int]] = apart(records, every, heard=lambda news: None, seconds=500.0)
    return found


def test_laws_hold_or_say_what_the_device_has_not() -> None:
    """A right kernel keeps the laws on any device of torch; one of CUDA's calls alone says so."""
    laws = (*HELD, *NEVER_RUN)
    found, copies = tried(*(("right", law, "float32") for law in laws))
    assert [r.status for r in found[: len(HELD)]] == ["passed"] * len(HELD), [r.reason for r in found]
    for record, reason in zip(found[len(HELD) :], NEVER_RUN.values(), strict=True):
        assert record.status == "not run"
        assert reason in record.reason
        assert "\n" not in record.reason
    files = {line.partition(":")[0] for line in copies if line != "?"}
    assert files <= {"dmat/testing/verdict/finding.py"}, "values are read at one place alone"


def test_wrong_kernels_fall_on_the_device() -> None:
    """A kernel that is wrong there, waits, mixes devices or breaks the device is rejected, and no later one.

    After an error that sticks each call raises, as CUDA's do after an illegal access.
    """
    kernels = [(kernel, law, "float32") for kernel, (law, _) in WRONG.items()]
    found, _ = tried(*kernels, ("right", "values", "float32"))
    for record, (kernel, (_, said)) in zip(found[:-1], WRONG.items(), strict=True):
        status = "not run" if kernel == "mixing" else "failed"
        assert (record.status, record.uncallable) == (status, kernel == "mixing"), (kernel, record.reason)
        assert said in record.reason
    assert found[-1].status == "not run"
    assert "an illegal memory access was encountered" in found[-1].reason


def test_what_the_device_lacks_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dtype that the device has not is not run, in one line, and no law makes a tensor of it there."""
    monkeypatch.setenv("SIM_LACKS_FLOAT64", "1")
    laws = ("values", "exact", "causality")
    found, _ = tried(*(("in_float32", law, "float32") for law in laws), ("in_float32", "values", "float64"))
    assert [r.status for r in found[:-1]] == ["passed"] * len(laws), [r.reason for r in found]
    assert (found[-1].status, found[-1].reason) == ("not run", "sim has no float64")


@pytest.mark.parametrize("name", ["cuda:0", "CUDA", "", "a b", "cpu;"])
def test_a_device_of_another_form_is_refused(name: str) -> None:
    """A contract and a command name the argument, the value, and what was expected."""
    with pytest.raises(SelectionError, match=r"^device is .*; expected cpu or cuda, xpu, mps or another"):
        require_known((), (name,), ())
    with pytest.raises(ValueError, match=r"^devices has .*; expected cpu or cuda, xpu, mps or another"):
        Contract(devices=(name,))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("xpu", "device is 'xpu'; this machine has no xpu device"),
        ("mtia", "device is 'mtia'; this machine has no mtia device"),
        ("tpu", "device is 'tpu'; expected cpu or cuda, xpu, mps or another device of torch"),
    ],
)
def test_a_device_that_is_not_there_is_refused(name: str, why: str) -> None:
    """A device that torch knows is absent; one that it does not know is no device."""
    if devices.is_there(name):
        pytest.skip(f"this machine has {name}")
    with pytest.raises(SelectionError, match=f"^{why}$"):
        select((), (name,))


def test_a_contract_may_name_any_device_of_torch() -> None:
    """Devices keep their names, the CPU first, each once; those that are not there are not tried."""
    assert Contract(devices=("npu", "cpu", "npu")).devices == ("cpu", "npu")


# End to end, at night


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Make every process load the device with torch, by an entry point, as torch's own backends do."""
    home = tmp_path / "sim-1.dist-info"
    home.mkdir()
    (home / "METADATA").write_text("Metadata-Version: 2.1\nName: sim\nVersion: 1\n")
    (home / "entry_points.txt").write_text("[torch.backends]\nsim = tests.accelerator.simulated:autoload\n")
    return os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path)))}


def dmat(
    folder: Path, environment: dict[str, str], arguments: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    """Run the command in this folder."""
    command = [sys.executable, "-m", "dmat.testing.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_check_runs_every_law_on_the_device(tmp_path: Path, environment: dict[str, str]) -> None:
    """A right kernel is sound there; only graphs, streams, sizes and the CPU's own law are not run."""
    report = tmp_path / "report.json"
    target = "tests.accelerator.targets:right"
    options = ["--device", "sim", "--dtype", "float32", "--examples", "20", "--json", str(report)]
    done = dmat(tmp_path, environment, ["check", target, *options])
    assert done.returncode == 0, done.stdout + done.stderr
    laws = json.loads(report.read_text())["reports"][0]["laws"]
    left = {law["law"] for law in laws if law["status"] != "passed"}
    assert left == {*NEVER_RUN, "half_precision", "autocast", "compiled", "exported"}


@pytest.mark.parametrize("kernel", ["without_igate", "breaking"])
def test_a_failure_is_shrunk_kept_and_replayed(
    kernel: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    """The folder's script is red there; the case is broken on the device, and holds on the CPU."""
    target = f"tests.accelerator.targets:{kernel}"
    options = ["--device", "sim", "--dtype", "float32", "--first", "-n", "1"]
    done = dmat(tmp_path, environment, ["check", target, *options])
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the device failed" in done.stdout or "(1, 1, 1)" in done.stdout
    [home] = (tmp_path / "counterexamples").iterdir()
    broken = dmat(tmp_path, environment, ["replay", str(home), "--impl", target])
    assert (broken.returncode, broken.stdout[:12]) == (1, "STILL BROKEN"), broken.stdout
    fixed = dmat(tmp_path, environment, ["replay", str(home), "--impl", target, "--device", "cpu"])
    assert (fixed.returncode, fixed.stdout[:5]) == (0, "FIXED"), fixed.stdout
    if kernel == "without_igate":
        script = [sys.executable, str(home / "repro.py")]
        assert subprocess.run(script, cwd=tmp_path, env=environment, check=False).returncode == 1


def test_fuzzing_of_two_devices(tmp_path: Path, environment: dict[str, str]) -> None:
    """A run over the CPU and the device finds the kernel that is wrong on the device alone."""
    target = "tests.accelerator.targets:without_igate"
    options = ["--device", "cpu", "--device", "sim", "--dtype", "float32", "-n", "2", "--minutes", "2"]
    done = dmat(tmp_path, environment, ["fuzz", target, *options, "--out", "run"])
    assert done.returncode == 1, done.stdout + done.stderr
    assert "float32 on sim" in done.stdout
    assert "float32 on cpu" not in done.stdout
