"""`dmat init`: what it finds by calls, what it asks, and the file that it writes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dmat.testing.cli import main, parser
from dmat.testing.init import command
from dmat.testing.init.command import declaration
from dmat.testing.kernel.load import load

KERNELS = """
import torch
from torch.nn.functional import logsigmoid


def recurrence(q, k, v, g, state):
    outputs = []
    for t in range(q.shape[2]):
        state = state * g[:, :, t, None, None].exp() + k[:, :, t, :, None] * v[:, :, t, None, :]
        outputs.append((q[:, :, t, None] @ state)[:, :, 0])
    return torch.stack(outputs, 2), state


def empty(q, v):
    return torch.zeros(*q.shape[:2], q.shape[-1], v.shape[-1], dtype=torch.float32)


def renamed(one, two, three, four):
    wide = (x.float() for x in (one, two, three, four))
    return recurrence(*wide, empty(one, three))[0].to(three.dtype)


def times_first(queries, keys, values, log_decay, h0=None, output_final_state=False):
    q, k, v, g = (x.transpose(1, 2).float() for x in (queries, keys, values, log_decay))
    o, state = recurrence(q * q.shape[-1] ** -0.5, k, v, g, empty(q, v) if h0 is None else h0)
    return o.transpose(1, 2).to(values.dtype), state if output_final_state else None


def decays(q, k, v, alpha):
    return recurrence(q, k, v, alpha.float().log(), empty(q, v))[0]


def dtilde_swapped(forget, inp):
    sums = logsigmoid(forget.double())[..., 0].cumsum(-1)
    D = sums[..., :, None] - sums[..., None, :] + inp.double().transpose(-2, -1)
    mask = torch.ones(D.shape[-2:], dtype=torch.bool).tril()
    return D.masked_fill(~mask, -torch.inf).to(inp.dtype)


def squared(q, k, v, g):
    return recurrence(q, k, v, 2 * g, empty(q, v))[0]


def doubled(q, k, v, g):
    return 2 * recurrence(q, k, v, g, empty(q, v))[0]


def almost(q, k, v, g):
    return 1.003 * recurrence(q, k, v, g, empty(q, v))[0]


def either(q, k, v, g):
    if (g > 0).any():
        raise ValueError("log gates are at most 0")
    ones = torch.ones_like(g)
    return recurrence(q, k, v, 0 * ones, empty(q, v))[0]


def halves(q, k, v, g):
    return recurrence(q, k, v, g, empty(q, v).to(v.dtype))[0]


def no_gradient(q, k, v, g):
    with torch.no_grad():
        return recurrence(q, k, v, g, empty(q, v))[0]
"""


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write the functions to a file in an empty folder, go there, and return the file's name."""
    monkeypatch.chdir(tmp_path)
    Path(f"{tmp_path.name}_k.py").write_text(KERNELS)
    return f"{tmp_path.name}_k.py"


def found(kernels: str, name: str) -> tuple[Any, str]:
    """Return the contract of the adapter that is written, and its text."""
    text, questions, _ = declaration(f"{kernels}:{name}", name)
    assert not questions
    file = Path(f"{name}_dmat.py")
    file.write_text(command._page(f"{kernels}:{name}", file, text, []))
    return load(f"{file}:{name}").contract, text


def test_arguments_of_any_name(kernels: str) -> None:
    """The roles of arguments whose names say nothing are found by calls."""
    contract, text = found(kernels, "renamed")
    assert "kernel(one=q, two=k, three=v, four=g)" in text
    assert contract.stated() == {"reads": "linear"}


def test_layout_scale_and_states(kernels: str) -> None:
    """Axes, scale and the state of a call are found, and each line says what was seen."""
    contract, text = found(kernels, "times_first")
    wanted = {"reads": "linear", "layout": "BSHD", "scale": "K**-0.5", "states": "h0"}
    assert contract.stated() == wanted
    assert "output_final_state=True, **s" in text
    assert all("  # " in line for line in text.splitlines() if "=" in line and "fused(" not in line)


def test_decays(kernels: str) -> None:
    """A function that takes exp(l) is not one that takes l."""
    assert found(kernels, "decays")[0].gate == "decay"


def test_dtilde(kernels: str) -> None:
    """Of a D~ function the order of its gates and their layout are found."""
    contract, text = found(kernels, "dtilde_swapped")
    assert contract.stated() == {}
    assert contract.gate_layout == "B NH S 1"
    assert "kernel(forget=fgate_preact, inp=igate_preact)" in text


@pytest.mark.parametrize("name", ["squared", "doubled", "almost"])
def test_no_reading_is_a_question(kernels: str, name: str) -> None:
    """What agrees with no reading is asked, even if a reading is within 0.3 percent."""
    text, questions, _ = declaration(f"{kernels}:{name}", name)
    assert not text
    assert "No reading agrees" in questions[0]


def test_a_gate_that_is_not_read_is_a_question(kernels: str) -> None:
    """A function that ignores its gate fits no reading in which it takes one."""
    text, questions, _ = declaration(f"{kernels}:either", "either")
    assert not text
    assert questions


def test_sums_in_a_half_are_asked(kernels: str) -> None:
    """A half type in which the kernel sums is a question, and no dtype of the contract."""
    contract, text = found(kernels, "halves")
    assert contract.dtypes == ("float32",)
    assert "# ? dtypes: bfloat16 is taken but off by" in text


def test_no_gradient(kernels: str) -> None:
    """An output that requires no gradient gives gradient="none"."""
    assert found(kernels, "no_gradient")[0].gradient == "none"


def test_it_overwrites_nothing(kernels: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is there stays as it is; the command says so in one line, with exit code 2."""
    Path("renamed_dmat.py").write_text("mine")
    assert main(["init", f"{kernels}:renamed"]) == 2
    assert Path("renamed_dmat.py").read_text() == "mine"
    assert capsys.readouterr().err == (
        "dmat: renamed_dmat.py is there already; dmat init overwrites nothing (--output FILE)\n"
    )


@pytest.mark.parametrize(("name", "broken", "code"), [("renamed", 0, 0), ("renamed", 1, 1), ("halves", 0, 1)])
def test_exit_code(kernels: str, monkeypatch: pytest.MonkeyPatch, name: str, broken: int, code: int) -> None:
    """0: nothing is asked, and the check holds. 1: a law is broken, or a question is left."""
    asked: list[SimpleNamespace] = []

    def check(options: SimpleNamespace) -> int:
        asked.append(options)
        return broken

    monkeypatch.setattr(command, "check", check)
    assert main(["init", f"{kernels}:{name}"]) == code
    assert asked[0].targets == [f"{name}_dmat.py:{name}"]
    assert asked[0].first
    assert ("# ? error_scope" in Path(f"{name}_dmat.py").read_text()) == bool(broken)


def test_the_check_has_all_its_options(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of an adapter gets every option that `dmat check` has, so that it reads none in vain."""
    asked: list[SimpleNamespace] = []

    def check(options: SimpleNamespace) -> int:
        asked.append(options)
        return 0

    monkeypatch.setattr(command, "check", check)
    assert main(["init", f"{kernels}:renamed"]) == 0
    assert vars(parser().parse_args(["check"])).keys() <= vars(asked[0]).keys()


def test_a_question_alone_is_written(kernels: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A function for which nothing was found leaves a file with the question, nothing to check, and 1."""
    assert main(["init", f"{kernels}:squared", "--output", "q.py"]) == 1
    assert "# ? what does it compute?" in Path("q.py").read_text()
    assert "? what does it compute?" in capsys.readouterr().out


def test_a_function_that_exits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that calls sys.exit does not end the command: its call is told like one that raised."""
    monkeypatch.chdir(tmp_path)
    Path("k.py").write_text("import sys\n\ndef exits(q, k, v, g):\n    sys.exit(3)\n")
    assert main(["init", "k.py:exits"]) == 1
    assert "SystemExit: 3" in Path("exits_dmat.py").read_text()


def test_a_function_of_any_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A function of *arguments alone has no names to ask about: the question says so."""
    monkeypatch.chdir(tmp_path)
    Path("k.py").write_text("def star(*tensors):\n    return tensors[0]\n")
    assert main(["init", "k.py:star"]) == 1
    assert "? which tensors does it take? Its signature names none" in capsys.readouterr().out


@pytest.mark.night
def test_the_adapter_is_checked(kernels: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The written adapter keeps all laws in the check of the command itself."""
    assert main(["init", f"{kernels}:times_first", "--examples", "2"]) == 0
    assert "SOUND: times_first_dmat.py:times_first" in capsys.readouterr().out
