"""The assertion that a user's own tensors are within the bounds of rounding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmat.strategies.recipes.heads import HeadForm
from dmat.testing.assertion.arguments import (
    ROLES,
    FusedArguments,
    dtype_of,
    no_argument,
    require_covered,
    require_finite,
    require_tensor,
)
from dmat.testing.assertion.dtilde import DtildeHead
from dmat.testing.assertion.fused import FusedHead
from dmat.testing.assertion.heads import Head, Heads, chosen
from dmat.testing.assertion.judged import Judged, require_all
from dmat.testing.bounds.formats import Format, format_of
from dmat.testing.contract import AnyContract, Contract, rows
from dmat.testing.contract.names import PARAMETERS
from dmat.testing.kernel.dtilde import unarranged
from dmat.testing.kernel.fused import LAST, Inputs
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.verdict.finding import as_array

GATES = ("igate_preact", "fgate_preact")
SHOWN = ("dtypes", "gate_dtype", "output_dtype")  # the tensors show them
NO_COLUMN = np.zeros(0, dtype=np.int64)  # no source has a column of its own


@dataclass(frozen=True)
class Within:
    """What an assertion has judged.

    heads: those that were judged, of all `of` heads. worst: the largest error over its bound, by tensor.
    """

    heads: tuple[Head, ...]
    of: int
    worst: Mapping[str, float]

    def __str__(self) -> str:
        """Return one line."""
        worst = ", ".join(f"{name} {x:.2g}" for name, x in self.worst.items())
        return f"within bounds: {worst} of the allowed error; {_judged(self.heads, self.of)}"


def assert_within_bound(
    actual: Tensor | None,
    igate_preact: Tensor | None = None,
    fgate_preact: Tensor | None = None,
    *,
    grad_output: Tensor | None = None,
    gradients: Mapping[str, Tensor] | None = None,
    last_state: Tensor | None = None,
    grad_last_state: Tensor | None = None,
    heads: Heads = None,
    **more: Any,
) -> Within:
    """Assert that D~, or the output of a fused kernel, and its gradients are within their bounds of rounding.

        assert_within_bound(D, igate_preact, fgate_preact, error_scope="prefix")
        assert_within_bound(o, q=q, k=k, v=v, log_gate=g, reads="linear", scale="K**-0.5", error_scope=64,
                            factors=64, grad_output=do, gradients={"q": dq, "log_gate": dg})

    The tensors are those of your own call, of any size; no tolerance is typed. `more` has the other tensors
    and the promises: the fields of dmat.testing.Contract, or with q, k, v those of
    dmat.testing.FusedContract. What is not promised has its strictest default.

    actual: D~ or o; None to judge gradients alone. Gates of D~: (B, NH, S, 1), or as gate_layout says.
    Tensors of a fused kernel: q, k, v, a gate (log_gate, fgate_preact, alpha or dt), igate_preact, beta,
    A_log, A, dt_bias, D, z, initial_state, cu_seqlens, in the axes of `layout`. What they show need not be
    promised: the form of the gate, group, gates_by, skip, the dtypes of gates and output.
    grad_output: the cotangent of `actual`. gradients: those to judge, by the name of their argument.
    last_state, grad_last_state: of delta rules.
    heads: the heads (b, h) of q and k to judge: "all", a number (evenly spread), or the heads. None: so many
    that a call takes some 5 seconds, at least one.

    A head of S = 4096, K = V = 128 takes 2 seconds for o, 4 to 6 with all gradients, and 2 for D~ with both;
    S = 8192 takes four times as long, gates by channel K times. At most 1 GiB is held beside your tensors, so
    that delta rules, which hold a state a time, reach S = 1024 at K = V = 128.

    Returns what was judged. Raises OutOfBound, an AssertionError whose text is that of a broken law;
    TypeError or ValueError for an argument that is wrong, and NotCovered for what has no bound here, in one
    line each.
    """
    given = {"igate_preact": igate_preact, "fgate_preact": fgate_preact, **more}
    if gradients is not None and not isinstance(gradients, Mapping):
        raise TypeError(f"gradients is a {type(gradients).__name__}; expected a mapping of names to tensors")
    pulled = dict(gradients or {})
    if pulled and grad_output is None and grad_last_state is None:
        raise ValueError(
            f"grad_output is None; expected the cotangent that {', '.join(pulled)} were pulled from"
        )
    if actual is None and not pulled and last_state is None:
        raise ValueError("actual is None; expected a tensor, or gradients")
    if any(name in more for name in ("q", "k", "v", "reads")):
        states = {"last_state": last_state, "grad_last_state": grad_last_state}
        return _fused(actual, given, grad_output, pulled, states, heads)
    unknown = next((name for name in more if name not in rows(Contract)), None)
    if unknown is not None:
        raise no_argument(unknown, Contract)
    if last_state is not None or grad_last_state is not None:
        raise ValueError("last_state is given without q, k, v; expected the tensors of a delta rule")
    return _dtilde(actual, given, grad_output, pulled, heads)


def _asserted(
    judged: Iterator[Judged], heads: list[Head], of: int, form: Format, contract: AnyContract
) -> Within:
    """Raise OutOfBound if one is out of bound; return what was judged."""
    found = list(judged)
    promises = {name: value for name, value in contract.stated().items() if name not in SHOWN}
    stated = ", ".join(f"{name}={value!r}" for name, value in promises.items())
    require_all(found, form, f"held to: {stated or 'the strictest contract'}", _judged(heads, of))
    worst: dict[str, float] = {}
    for each in found:
        worst[each.quantity] = max(worst.get(each.quantity, 0.0), each.worst)
    return Within(tuple(heads), of, worst)


def _judged(heads: tuple[Head, ...] | list[Head], of: int) -> str:
    few = ", ".join(f"(b={b}, h={h})" for b, h in heads[:4])
    return f"{len(heads)} of {of} heads judged: {few}{', ...' if len(heads) > 4 else ''}"


# D~


def _dtilde(
    D: Tensor | None,
    given: Mapping[str, Any],
    G: Tensor | None,
    gradients: Mapping[str, Tensor],
    heads: Heads,
) -> Within:
    contract = Contract(**{name: x for name, x in given.items() if name not in GATES})
    gates = [_gate(name, given[name], contract) for name in GATES]
    shape, dtype = tuple(gates[0].shape), dtype_of("igate_preact", gates[0])
    if gates[1].shape != gates[0].shape or gates[1].dtype != gates[0].dtype:
        found = f"fgate_preact has the shape {tuple(gates[1].shape)} and the dtype {gates[1].dtype}"
        raise ValueError(f"{found}; expected {shape} and {gates[0].dtype}, those of igate_preact")
    square, by_name = (*shape, shape[-1]), dict[str, Tensor]()
    for name, x in {"the output": D, "grad_output": G}.items():
        if x is not None:
            require_tensor(name, x, square, "(B, NH, S, S)")
    if D is not None and D.dtype != gates[0].dtype:
        raise ValueError(f"the output has the dtype {D.dtype}; expected {gates[0].dtype}, that of the gates")
    for name, x in gradients.items():
        if name not in GATES:
            raise ValueError(f"gradients has {name!r}; expected {' or '.join(GATES)}")
        by_name[name] = _gate(f"gradients[{name!r}]", x, contract)
        require_tensor(f"gradients[{name!r}]", by_name[name], shape, "that of its gate")
    own = chosen(heads, *shape)
    form = Format.of(dtype)
    return _asserted(
        _dtilde_heads(own, contract, dtype, gates, D, G, by_name), own, shape[0] * shape[1], form, contract
    )


def _dtilde_heads(
    heads: list[Head],
    contract: Contract,
    dtype: str,
    gates: list[Tensor],
    D: Tensor | None,
    G: Tensor | None,
    gradients: Mapping[str, Tensor],
) -> Iterator[Judged]:
    for b, h in heads:
        one: list[Array] = [as_array(gate[b : b + 1, h : h + 1]) for gate in gates]
        head = DtildeHead(contract, dtype, (b, h), one[0], one[1])
        if D is not None:
            yield head.forward(D[b, h])
        if G is not None and gradients:
            yield from head.gradients(G[b, h], {name: x[b, h] for name, x in gradients.items()})


def _gate(name: str, x: object, contract: Contract) -> Tensor:
    """Return a gate as (B, NH, S)."""
    gate, axes = require_tensor(name, x), contract.gate_layout.split()
    if gate.ndim == 3 and contract.gate_layout == "B NH S 1":
        return gate
    if gate.ndim != len(axes) or (axes[-1] == "1" and gate.shape[-1] != 1):
        raise ValueError(f"{name} has the shape {tuple(gate.shape)}; expected ({', '.join(axes)})")
    return unarranged(gate, contract.gate_layout)[..., 0]


# Fused kernels


def _fused(
    output: Tensor | None,
    given: Mapping[str, Any],
    grad_output: Tensor | None,
    gradients: Mapping[str, Tensor],
    states: Mapping[str, Tensor | None],
    heads: Heads,
) -> Within:
    arguments = FusedArguments.of(given, output)
    by_role = _gradients(arguments, gradients)
    require_covered(arguments, by_role)
    results, cotangents = dict[str, Tensor](), dict[str, Tensor]()
    for into, role, name, x in (
        (results, "o", "the output", output),
        (cotangents, "o", "grad_output", grad_output),
        (results, LAST, "last_state", states["last_state"]),
        (cotangents, LAST, "grad_last_state", states["grad_last_state"]),
    ):
        if x is not None:
            into[role] = arguments.taken(name, role, x)
    if LAST in (*results, *cotangents) and not arguments.contract.erases:
        raise ValueError(
            f"last_state is given with reads={arguments.contract.reads!r}; expected reads='delta'"
        )
    for name, x in {"grad_output": cotangents.get("o"), "grad_last_state": cotangents.get(LAST)}.items():
        if x is not None:
            require_finite(name, x)
    B, NH, S, K, _ = arguments.sizes
    contract = arguments.contract
    width = contract.group * (K if contract.by_channel and not contract.erases else 1)
    own = chosen(heads, B, NH // contract.group, S, width)
    judged = (one for head in own for one in _of_head(arguments, head, results, cotangents, by_role))
    form = format_of(contract.returns(arguments.dtype))
    return _asserted(judged, own, B * (NH // contract.group), form, contract)


def _gradients(arguments: FusedArguments, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradients by role. Raises ValueError for one of an argument that is not there."""
    found = {}
    for name, x in gradients.items():
        role = ROLES.get(name)
        if role is None or arguments.names.get(role) != name:
            raise ValueError(f"gradients has {name!r}; expected one of {', '.join(arguments.names.values())}")
        found[role] = arguments.taken(f"gradients[{name!r}]", role, x)
    return found


def _of_head(
    arguments: FusedArguments,
    head: Head,
    results: Mapping[str, Tensor],
    cotangents: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
) -> Iterator[Judged]:
    """Judge one head of q and k, with its value heads."""
    (b, h), contract, keys = head, arguments.contract, arguments.tensors["q"].shape[1]
    form = HeadForm(contract.group, contract.group_order)
    members = form.members(h, keys)

    def cut(role: str, x: Tensor) -> Tensor:
        if role in PARAMETERS:
            return x[members]
        own = x[b : b + 1, [h] if role in ("q", "k") else members]
        return own

    def every(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {role: cut(role, x) for role, x in tensors.items()}

    taken: dict[str, Any] = {"i": None, "g": None, **every(arguments.tensors)}
    per_time = ("i", "b") if contract.by_channel else ("i", "b", "g")
    taken |= {role: taken[role].unsqueeze(-1) for role in per_time if taken.get(role) is not None}
    if contract.fixed is not None:
        contract = replace(contract, fixed=_fixed(contract, arguments.sizes[1], members))
    states = [x for x in (results.get(LAST), arguments.tensors.get("s")) if x is not None]
    one = FusedHead(
        contract,
        arguments.dtype,
        head,
        [(b, n) for n in members],
        Inputs(column=NO_COLUMN, **taken),
        arguments.begins,
        dtype_of("last_state", states[0]) if states else None,
    )
    yield from one.judge(every(results), every(cotangents), every(gradients))


def _fixed(contract: Any, NH: int, members: list[int]) -> Any:
    """Return the fixed gates of these value heads, as a function of their number."""
    log = torch.as_tensor(contract.fixed(NH))[members]
    return lambda number: log
