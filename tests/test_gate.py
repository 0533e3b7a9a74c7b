"""`dmat check --gate`: the contract is a file's, the kernel has its own process, and cheats are refused."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dmat.testing.check.gate import GateLine
from dmat.testing.check.skill import PAGE
from dmat.testing.cli import main, parser
from dmat.testing.contract import Contract, FusedContract
from dmat.testing.errors import CannotRun, TargetError
from dmat.testing.gate.frozen import frozen_of, parsed
from dmat.testing.gate.proxy import Foreign
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.kinds import subject_of
from dmat.testing.registry import laws

from .cheats import CHEATS, IMPORTED, RIGHT

CONTRACT = Contract(dtypes=("float32",))
FUSED = FusedContract(dtypes=("float32",), factors="one")
OPTIONS = ("-n", "1", "--examples", "20", "--counterexamples", "")


def gated(
    folder: Path, name: str, *options: str, shapes: Any = (), fused: bool = False
) -> tuple[int, GateLine]:
    """Run `dmat check --gate` on a cheat there. Return the exit code and the last line."""
    (folder / "kernels.py").write_text(RIGHT + CHEATS + IMPORTED.get(name, ""))
    (folder / "contract.json").write_text(frozen_of(FUSED if fused else CONTRACT, shapes))
    target = f"kernels.py:{'right' if name == 'exits_on_import' else name}"
    command = [sys.executable, "-m", "dmat.testing.cli", "check", "--gate", "contract.json", target]
    done = subprocess.run(
        [*command, *OPTIONS, *options], cwd=folder, capture_output=True, text=True, check=False, timeout=600
    )
    said = json.loads(done.stdout.splitlines()[-1])
    broken = said.pop("broken")
    line = GateLine(**said, broken=[])
    assert line.exit == done.returncode, done.stdout + done.stderr
    assert bool(broken) == (done.returncode == 1)
    return done.returncode, line


# Ten ways to cheat

CAUGHT = {  # the exit code, and what the line says
    "contract_edited": (1, "contract.json was changed during the check"),
    "reads_the_oracle": (2, "dmat.testing.oracle is not there behind the gate"),
    "cached": (1, "computed 0.0"),
    "zeros": (1, "computed 0.0"),
    "decorator_edited": (1, "values"),
    "exits": (1, "the process died"),
    "exits_on_import": (2, "importing it ended its process"),
    "dies_late": (1, "raised SystemExit: 0"),
    "report_written": (1, "values"),
    "comparison_patched": (1, "computed 0.0"),
}


@pytest.mark.parametrize("name", CAUGHT)
def test_a_cheat_is_refused(name: str, tmp_path: Path) -> None:
    """Exit 1 or 2, and the line says why."""
    code, says = CAUGHT[name]
    found, line = gated(tmp_path, name, "--first", "--json", "report.json")
    assert found == code, line
    assert says in " ".join(line.why), line
    if code == 1:
        assert json.loads((tmp_path / "report.json").read_text())["verdict"] == "broken"


def test_right_on_sparse_inputs_alone(tmp_path: Path) -> None:
    """A fused kernel that is wrong where k is dense is broken."""
    found, line = gated(tmp_path, "sparse_alone", "--first", fused=True)
    assert (found, line.verdict) == (1, "BROKEN")


def test_wrong_at_a_shape_of_the_file(tmp_path: Path) -> None:
    """A kernel that is wrong at a length that the file names is broken."""
    found, line = gated(tmp_path, "short_alone", "--first", shapes=[(1, 2, 190)])
    assert (found, line.verdict) == (1, "BROKEN")


def test_sizes_that_it_refuses(tmp_path: Path) -> None:
    """A kernel that raises for sizes which the contract does not exclude is not SOUND."""
    found, line = gated(tmp_path, "refuses_sizes", fused=True)
    assert (found, line.verdict) == (2, "COULD NOT"), line
    assert "refuses sizes that the contract does not exclude" in line.why[-1]


@pytest.mark.parametrize(("name", "fused"), [("right", False), ("linear", True)])
def test_a_right_kernel_passes(name: str, fused: bool, tmp_path: Path) -> None:
    """Exit 0, SOUND; the laws of one process are named as not run."""
    found, line = gated(tmp_path, name, fused=fused)
    assert (found, line.verdict, line.why) == (0, "SOUND", []), line
    assert line.not_run["uninitialised_unread"].startswith("gate:")


# The file


def test_a_frozen_contract_comes_back() -> None:
    """The contract of the file's text is the contract that was frozen, with its shapes."""
    contract = FusedContract(reads="delta", accumulates_in={"bfloat16": "bfloat16"}, dt_limit=None, K=(4, 8))
    frozen = parsed(frozen_of(contract, [(1, 2, 64, 8, 4)]))
    assert frozen.contract == contract
    assert frozen.shapes == [[1, 2, 64, 8, 4]]


def test_a_changed_file_is_refused() -> None:
    """A promise or a shape that was changed after freezing is refused in one line."""
    text = frozen_of(CONTRACT, [(1, 1, 190)])
    for old, new in (('"float32"', '"float64"'), ("190", "19"), ('"kind": "D~"', '"kind": "fused"')):
        with pytest.raises(CannotRun, match="changed after it was frozen"):
            parsed(text.replace(old, new))
    with pytest.raises(CannotRun, match="no frozen contract"):
        parsed(text[:-3])


def test_a_function_cannot_be_frozen() -> None:
    """A contract with fixed gates states a function, which no file can hold."""
    with pytest.raises(CannotRun, match="states fixed, a function"):
        frozen_of(FusedContract(gate="fixed", fixed=lambda NH: torch.zeros(NH)), ())


def test_options_that_would_weaken_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--dtype, --device and --interpret are refused with --gate; so is a file that is there with --freeze."""
    monkeypatch.chdir(tmp_path)
    Path("contract.json").write_text(frozen_of(CONTRACT, ()))
    for more in (["--dtype", "float32"], ["--device", "cpu"], ["--interpret"], ["b:c"]):
        assert main(["check", "--gate", "contract.json", "a:b", *more]) == 2
        assert json.loads(capsys.readouterr().out)["verdict"] == "COULD NOT"
    assert main(["check", "--freeze", "contract.json", "a:b"]) == 2
    assert "not overwritten" in capsys.readouterr().err


# The process

KERNELS = """
import torch

KEPT = torch.zeros(4)

def doubled(x, *, state=None, fails=False):
    if fails:
        raise KeyError("no such key")
    total = x.sum() if state is None else state["s"][0] + x.sum()
    return 2 * x, {"s": (total,), "n": 3}

def overwritten(x):
    x.detach()[:] = 7
    return x

def buffered(x):
    return torch.add(x, 1, out=KEPT)

def kernel(name, x, **more):
    return globals()[name](x, **more)
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Foreign]:
    """Return a kernel behind the gate."""
    file = tmp_path_factory.mktemp("gate") / "kernels.py"
    file.write_text(KERNELS)
    foreign = Foreign(f"{file}:kernel")
    yield foreign
    foreign.end()


def test_states_gradients_and_exceptions(kernel: Foreign) -> None:
    """Trees of tensors come back, gradients flow through both calls, and exceptions keep their names."""
    x = torch.arange(8.0)[1::2].requires_grad_()
    first, state = kernel("doubled", x)
    second, state = kernel("doubled", x, state=state)
    assert state["n"] == 3
    assert state["s"][0].item() == 2 * x.sum().item()
    assert torch.equal(second, 2 * x)
    (gradient,) = torch.autograd.grad(state["s"][0] + first.sum(), x)
    assert gradient.tolist() == [4.0] * 4
    with pytest.raises(Exception, match="no such key") as raised:
        kernel("doubled", x, fails=True)
    assert type(raised.value).__name__ == "KeyError"


def test_what_the_call_changes_is_seen(kernel: Foreign) -> None:
    """A changed input, an output that shares its memory, and a changed earlier result are seen here."""
    x = torch.zeros(4)
    output = kernel("overwritten", x)
    assert x.tolist() == [7.0] * 4
    assert output.data_ptr() == x.data_ptr()
    first = kernel("buffered", torch.zeros(4))
    kernel("buffered", torch.ones(4))
    assert first.tolist() == [2.0] * 4


def test_laws_of_one_process_are_not_run(kernel: Foreign) -> None:
    """A law that would ask nothing of the kernel behind the gate says why it is not run."""
    subject = subject_of(Implementation("kernel", kernel, CONTRACT), "float32", "cpu")
    reasons = {law.name: law.not_applicable(subject) for law in laws("D~")}
    for name in ("uninitialised_unread", "protected_pages", "adjoint", "second_order"):
        assert str(reasons[name]).startswith("gate:"), name


def test_an_import_that_fails(tmp_path: Path) -> None:
    """It is told in one line, as without the gate."""
    (tmp_path / "kernels.py").write_text("import dmat.operator")
    with pytest.raises(TargetError, match=r"importing it raised ImportError: dmat\.operator is not there"):
        Foreign(f"{tmp_path}/kernels.py:right").start()


# The page for programs


def test_the_commands_of_the_page_exist() -> None:
    """Each command of `dmat skill` is one that dmat takes."""
    lines = [line.partition("  dmat ")[2] for line in PAGE.splitlines() if "  dmat " in line]
    assert len(lines) == 6
    for line in lines:
        parser().parse_args(shlex.split(line))
    assert max(map(len, PAGE.splitlines())) <= 120
