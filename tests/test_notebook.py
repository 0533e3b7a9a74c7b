"""The seed notebook's printed numbers, D~ and the gradients of its sum; docs/notebook.ipynb, executed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dmat import vlstm_fw_Dtildemat, vlstm_fwbw_Dtildemat
from tests.notebook import NOTEBOOK, executed, stored

INF = math.inf
PRINTED = [  # D~ of batch 0, heads 0 to 2
    [
        [1.6217, -INF, -INF, -INF, -INF],
        [0.2749, -1.1963, -INF, -INF, -INF],
        [-0.4557, -1.9268, 1.2651, -INF, -INF],
        [-1.1081, -2.5793, 0.6127, -1.0511, -INF],
        [-2.1250, -3.5962, -0.4043, -2.0680, 0.8248],
    ],
    [
        [1.7687, -INF, -INF, -INF, -INF],
        [0.8717, -0.2273, -INF, -INF, -INF],
        [0.4286, -0.6704, -0.3192, -INF, -INF],
        [-0.4977, -1.5967, -1.2455, -0.1224, -INF],
        [-0.6990, -1.7980, -1.4468, -0.3237, 0.5716],
    ],
    [
        [1.7480, -INF, -INF, -INF, -INF],
        [1.4963, 1.5525, -INF, -INF, -INF],
        [1.0670, 1.1231, -0.0406, -INF, -INF],
        [0.6663, 0.7224, -0.4413, 1.0113, -INF],
        [0.4371, 0.4932, -0.6705, 0.7821, 1.5455],
    ],
]
PRINTED_FGATES = [0.0124, -1.0455]  # the first two of head 0, all that is printed
PRINTED_FGATE_GRADIENTS = [  # the third head breaks off after its second
    [0.0000, 2.9597, 3.1102, 2.8753, 2.5532],
    [0.0000, 2.3688, 2.1476, 3.6239, 0.7294],
    [0.0000, 0.8900],
]
PRINTED_IGATE_GRADIENT = 5.0

S = 5
DTILDE = torch.tensor([PRINTED], dtype=torch.float64)  # (1, 3, S, S)
IGATES = DTILDE.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)  # (1, 3, S, 1)
LOG_DECAYS = DTILDE[..., 1:, 0].diff(dim=-1, prepend=DTILDE[..., :1, 0])  # k = 1 .. S - 1

# The notebook computed in float32, by prefix: gamma(n + 8) M, n = S + 2 (docs/spec.md section 3).
LARGEST_SUM = float(IGATES.abs().max() + 2 * LOG_DECAYS.abs().sum(-1).max())
COMPUTED = math.expm1((S + 2 + 8) * math.log1p(2.0**-24)) * LARGEST_SUM
SLACK = 0.5e-4 + COMPUTED  # half a unit of the last digit printed, and what the computer rounded

both_names = pytest.mark.parametrize("operator", [vlstm_fw_Dtildemat, vlstm_fwbw_Dtildemat])
Operator = Callable[[Tensor, Tensor], Tensor]


def fgates(shift: float) -> Tensor:
    """Forget gates whose log sigmoid is the printed log decay + shift; f[0] is free, so 0."""
    f = -torch.log(torch.expm1(-(LOG_DECAYS + shift)))  # the inverse of -log(1 + exp(-f))
    return torch.nn.functional.pad(f, (1, 0)).unsqueeze(-1)


def gradients(operator: Operator, f: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the sum of D~ in float32, as the notebook takes them."""
    i, f = (x.float().requires_grad_() for x in (IGATES, f))
    di, df = torch.autograd.grad(operator(i, f).sum(), (i, f))
    return di.squeeze(), df.squeeze()


def test_recovered_forget_gates_are_the_printed_ones() -> None:
    """f recovered from the printed D~ lies within its printing of the f printed."""
    low, high = fgates(-2 * SLACK)[0, 0, 1, 0], fgates(2 * SLACK)[0, 0, 1, 0]
    assert low - SLACK <= PRINTED_FGATES[1] <= high + SLACK


@both_names
def test_dtilde_is_the_printed_one(operator: Operator) -> None:
    """D~ of the recovered gates is the printed D~: i and D~ round once each, every decay twice."""
    computed = operator(IGATES.float(), fgates(0.0).float()).double()
    window = torch.arange(S).unsqueeze(-1) - torch.arange(S)  # t - s
    past = window >= 0
    difference = (computed - DTILDE)[..., past].abs()
    assert bool((computed[..., ~past] == -INF).all())
    assert bool((difference <= (2 * SLACK + 2 * SLACK * window)[past]).all())


@both_names
def test_input_gate_gradients_are_all_5(operator: Operator) -> None:
    """The masked rows are summed too: every input gate has the gradient S."""
    di, _ = gradients(operator, fgates(0.0))
    assert bool((di == PRINTED_IGATE_GRADIENT).all())


@both_names
def test_forget_gate_gradients_are_the_printed_ones(operator: Operator) -> None:
    """df = R (1 - exp(l)) falls as l rises: the print lies between the ends of l's interval."""
    _, most = gradients(operator, fgates(-2 * SLACK))
    _, least = gradients(operator, fgates(2 * SLACK))
    for head, printed in enumerate(PRINTED_FGATE_GRADIENTS):
        for k, df in enumerate(printed):
            assert least[head, k] - SLACK <= df <= most[head, k] + SLACK, (head, k)


@both_names
def test_first_forget_gate_has_no_gradient(operator: Operator) -> None:
    """df[0] prints as 0.0000: f[0] is in no window."""
    _, df = gradients(operator, fgates(0.0))
    assert bool((df[:, 0].abs() <= COMPUTED).all())


# docs/notebook.ipynb

LARGEST = 220_000  # bytes, with its one picture
PICTURE = re.compile(r"\n<img [^>]*>")
LAWS = re.compile(r"\d+ checks not reached")  # so many laws there are
NUMBER = re.compile(r"\d+(\.\d+)?(e[-+]\d+)?")


def shown(cell: Any) -> list[str]:
    """Return what a cell shows, without pictures. Of a cell that varies, only what every CPU and ladder says.

    Rounding errors differ from CPU to CPU. What a sound kernel was tried on changes with dmat's cases.
    """
    data = [output.get("data", {"text": output.get("text", "")}) for output in cell.get("outputs", ())]
    said = [LAWS.sub("", PICTURE.sub("", text)) for texts in data for _, text in sorted(texts.items())]
    varies = "varies" in cell.metadata.get("tags", ())
    return [NUMBER.sub("#", text.partition("\nheld ")[0]) for text in said] if varies else said


def test_the_notebook_shows_what_it_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Executed from top to bottom, each cell shows the output that is stored: executed = stored."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    now, before = ([shown(cell) for cell in one.cells] for one in (executed(tmp_path), stored()))
    assert now == before
    pages = [text for said in now for text in said if text.startswith("<pre")]
    verdicts = [re.findall("BROKEN|SOUND|breaks .*[(]", page) for page in pages]
    of_values, of_gradient = ["BROKEN", "breaks values ("], ["BROKEN", "breaks forget_gradient ("]
    assert verdicts == [of_values] * 3 + [of_gradient] * 3 + [["SOUND"]]


def test_the_notebook_is_small() -> None:
    """One picture is stored in it: size <= 220 kB."""
    assert NOTEBOOK.stat().st_size <= LARGEST
