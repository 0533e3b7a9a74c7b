"""The arguments of an assertion: which are tensors and which are promises, and the contract of both.

Each wrong one raises an error of one line: its name, its value, and what was expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dmat.testing.contract import DTYPES, Contract, FusedContract, rows
from dmat.testing.contract.names import PARAMETERS
from dmat.testing.errors import NotCovered
from dmat.testing.kernel.fused import LAST

# The names of tensors, and the roles that they have in dmat.testing.kernel.fused.NAMES.
ROLES = {
    "q": "q", "k": "k", "v": "v", "igate_preact": "i", "fgate_preact": "g", "log_gate": "g", "alpha": "g",
    "dt": "g", "beta": "b", "A_log": "A_log", "A": "A", "dt_bias": "dt_bias", "D": "D", "z": "z",
    "initial_state": "s",
}  # fmt: skip
FORMS = {"log_gate": ("log",), "fgate_preact": ("preact",), "alpha": ("decay",), "dt": ("dt", "bounded")}
OTHERS = ("cu_seqlens",)
RANGES = {
    "log_gate": (-float("inf"), 0.0, "at most 0; gates of log sigmoid inside the kernel are fgate_preact"),
    "alpha": (0.0, 1.0, "a number from 0 to 1"),
}


def no_argument(name: str, kind: type[Contract] | type[FusedContract]) -> TypeError:
    """Return the error for a name that is neither a tensor nor a promise."""
    tensors = (*ROLES, *OTHERS) if kind is FusedContract else ("igate_preact", "fgate_preact")
    expected = f"one of the tensors {', '.join(tensors)}, or a promise of dmat.testing.{kind.__name__}"
    return TypeError(
        f"assert_within_bound has no argument {name!r}; expected {expected}: {', '.join(rows(kind))}"
    )


def require_tensor(name: str, x: object, shape: tuple[int, ...] | None = None, axes: str = "") -> Tensor:
    """Return x. Raises TypeError unless it is a strided tensor, ValueError unless it has this shape."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}; expected a torch.Tensor")
    if x.layout is not torch.strided:
        raise TypeError(f"{name} has the layout {x.layout}; expected a dense tensor, torch.strided")
    if x.device.type == "meta":
        raise TypeError(f"{name} has no values: it lies on the device meta")
    if shape is not None and tuple(x.shape) != shape:
        raise ValueError(f"{name} has the shape {tuple(x.shape)}; expected {shape}{axes and f', {axes}'}")
    return x


def dtype_of(name: str, x: Tensor) -> str:
    """Return the name of the dtype of a tensor, one of DTYPES."""
    found = str(x.dtype).removeprefix("torch.")
    if found not in DTYPES:
        raise ValueError(f"{name} has the dtype {found}; expected one of {', '.join(DTYPES)}")
    return found


def require_finite(name: str, x: Tensor, *, closed: bool = False) -> None:
    """Raise ValueError for a tensor with NaN or infinity. closed: whether -inf is a closed gate."""
    wrong = ~(torch.isfinite(x) | (x == -torch.inf)) if closed else ~torch.isfinite(x)
    if bool(wrong.any()):
        index = tuple(int(n) for n in wrong.nonzero()[0])
        wanted = "numbers or -inf" if closed else "numbers"
        raise ValueError(f"{name}{list(index)} is {float(x[index])}; expected {wanted}")


def require_gate(name: str, x: Tensor) -> None:
    """Raise ValueError for a log gate above 0, or an alpha that is not in [0, 1]: no gate of a decay."""
    if name not in RANGES:
        return
    lowest, highest, wanted = RANGES[name]
    wrong = (x < lowest) | (x > highest)
    if bool(wrong.any()):
        index = tuple(int(n) for n in wrong.nonzero()[0])
        raise ValueError(f"{name}{list(index)} is {float(x[index]):g}; expected {wanted}")


@dataclass(frozen=True)
class FusedArguments:
    """The arguments of a fused call. tensors: by role, (B, NH, S, n) or (B, NH, S). names: of each role."""

    contract: FusedContract
    tensors: Mapping[str, Tensor]
    names: Mapping[str, str]
    begins: tuple[int, ...]

    @classmethod
    def of(cls, given: Mapping[str, Any], output: Tensor | None) -> FusedArguments:
        """Sort the arguments. output: o, or None. Raises TypeError, ValueError or NotCovered."""
        known = rows(FusedContract)
        named = {
            name: x for name, x in given.items() if name in ROLES and x is not None and not _flag(name, x)
        }
        promises = {name: x for name, x in given.items() if name not in named and name in known}
        left = next(
            (n for n in given if n not in named and n not in known and n not in (*ROLES, *OTHERS)), None
        )
        if left is not None:
            raise no_argument(left, FusedContract)
        missing = next((name for name in ("q", "k", "v") if name not in named), None)
        if missing is not None:
            raise TypeError(f"{missing} is not given; expected q, k and v")
        for name, x in named.items():
            dtype_of(name, require_tensor(name, x))
        gates = [name for name in named if ROLES[name] == "g"]
        if len(gates) > 1:
            raise ValueError(f"{' and '.join(gates)} are given; expected one gate")
        contract = FusedContract(**{**inferred(named, gates, output), **promises})
        _require_gate(contract, gates)
        _require_taken(contract, named)
        made = cls(contract, _arranged(contract, named), {ROLES[name]: name for name in named}, (0,))
        made._require_shapes()
        for name, x in named.items():
            require_finite(
                name, x, closed=ROLES[name] == "g" and contract.form.closes and contract.gate != "decay"
            )
            require_gate(name, x)
        return replace(made, begins=made._begins(given.get("cu_seqlens")))

    @property
    def dtype(self) -> str:
        """The dtype of q, k, v."""
        return dtype_of("q", self.tensors["q"])

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """B, the number of value heads, S, K and V."""
        q, v = self.tensors["q"], self.tensors["v"]
        return v.shape[0], v.shape[1], v.shape[2], q.shape[3], v.shape[3]

    def shape_of(self, role: str) -> tuple[int, ...]:
        """Return the shape of an input, or of o ("o") or a state (LAST), as the contract has it."""
        (B, NH, S, K, V), contract = self.sizes, self.contract
        by_channel = (K,) if contract.by_channel else ()
        D = (V,) if contract.skip == "channel" else ()
        shapes = {
            "q": (B, NH // contract.group, S, K), "k": (B, NH // contract.group, S, K), "v": (B, NH, S, V),
            "i": (B, NH, S), "g": (B, NH, S, *by_channel), "b": (B, NH, S), "z": (B, NH, S, V),
            "o": (B, NH, S, V), "s": (B, NH, K, V), LAST: (B, NH, K, V), "A_log": (NH,), "A": (NH,),
            "dt_bias": (NH, *by_channel), "D": (NH, *D),
        }  # fmt: skip
        return shapes[role]

    def taken(self, name: str, role: str, x: object) -> Tensor:
        """Return another tensor of this role in the axes of the oracle, its shape checked."""
        tensor = require_tensor(name, x)
        dtype_of(name, tensor)
        wanted = self._given(role, self.shape_of(role))
        return self._turned(role, require_tensor(name, tensor, wanted, self._axes(role)))

    def _given(self, role: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape in the caller's axes."""
        if role in ("s", LAST):
            return (*shape[:2], shape[3], shape[2]) if self.contract.state_layout == "BHVK" else shape
        if self.contract.layout == "BSHD" and role not in PARAMETERS:
            return (shape[0], shape[2], shape[1], *shape[3:])
        return shape

    def _axes(self, role: str) -> str:
        group = f" and group={self.contract.group}" if self.contract.group > 1 else ""
        return f"by {'v' if role == 'q' else 'q, v'}, layout={self.contract.layout!r}{group}"

    def _turned(self, role: str, x: Tensor) -> Tensor:
        """Return a tensor in the axes (B, NH, S, n), a state as (B, NH, K, V)."""
        if role in ("s", LAST):
            return x.mT if self.contract.state_layout == "BHVK" else x
        return x.transpose(1, 2) if self.contract.layout == "BSHD" and role not in PARAMETERS else x

    def _require_shapes(self) -> None:
        q, group = self.tensors["q"], self.contract.group
        for role in ("q", "k", "v"):
            if self.tensors[role].ndim != 4:
                raise ValueError(f"{role} has the shape {tuple(self.tensors[role].shape)}; expected 4 axes, "
                                 f"in the order {self.contract.layout}")  # fmt: skip
            if not self.tensors[role].numel():
                empty = tuple(self.tensors[role].shape)
                raise ValueError(f"{role} has the shape {empty}; expected no axis of 0: nothing is judged")
            if self.tensors[role].dtype != q.dtype:
                raise ValueError(
                    f"{role} has the dtype {self.tensors[role].dtype}; expected {q.dtype}, that of q"
                )
        if self.tensors["v"].shape[1] != q.shape[1] * group:
            found = f"v has {self.tensors['v'].shape[1]} heads and q has {q.shape[1]}"
            raise ValueError(f"{found}; expected group = {group} times as many")
        for role, x in self.tensors.items():
            own = self.shape_of(role)
            if tuple(x.shape) != own:
                there, expected = self._given(role, tuple(x.shape)), self._given(role, own)
                raise ValueError(
                    f"{self.names[role]} has the shape {there}; expected {expected}, {self._axes(role)}"
                )

    def _begins(self, ends: Any) -> tuple[int, ...]:
        """Return where packed sequences begin, of cu_seqlens, (0, ..., S)."""
        if ends is None:
            return (0,)
        B, _, S, _, _ = self.sizes
        try:
            found = [int(n) for n in ends]
        except (TypeError, ValueError):
            raise TypeError(f"cu_seqlens is {ends!r}; expected 0, rising, up to S = {S}") from None
        if found[:1] != [0] or found[-1] != S or sorted(found) != found or B != 1:
            raise ValueError(
                f"cu_seqlens is {found} at B = {B}; expected 0, rising, up to S = {S}, and B = 1"
            )
        return tuple(dict.fromkeys(n for n in found if n < S))


def _flag(name: str, x: object) -> bool:
    """Return whether `z` is the promise of that name, not the tensor."""
    return name == "z" and isinstance(x, bool)


def inferred(named: Mapping[str, Tensor], gates: list[str], output: Tensor | None) -> dict[str, Any]:
    """Return the promises that the tensors show: which there are, how many axes, which dtypes."""
    q, v = named["q"], named["v"]
    found: dict[str, Any] = {"igate": "igate_preact" in named, "z": "z" in named, "dtypes": DTYPES}
    if gates:
        x = named[gates[0]]
        found |= {"gate": FORMS[gates[0]][0], "gate_dtype": dtype_of(gates[0], x)}
        found["gates_by"] = "channel" if x.ndim == 4 else "head"
    if "dt" in gates:
        found["gate_parameters"] = tuple(name for name in ("A_log", "A", "dt_bias") if name in named)
    if "D" in named:
        found["skip"] = "head" if named["D"].ndim == 1 else "channel"
    if q.ndim == v.ndim == 4:
        found |= _group(q, v)
    if output is not None:
        found["output_dtype"] = dtype_of("the output", require_tensor("the output", output))
    return found


def _group(q: Tensor, v: Tensor) -> dict[str, int]:
    """Return how many value heads share a head of q, where exactly one axis of q and v has another size."""
    sizes = [(a, b) for a, b in zip(q.shape[1:3], v.shape[1:3], strict=True) if a != b]
    return {"group": sizes[0][1] // sizes[0][0]} if len(sizes) == 1 and sizes[0][1] % sizes[0][0] == 0 else {}


def _require_gate(contract: FusedContract, gates: list[str]) -> None:
    """Raise ValueError unless the gate that is given is of the form that the contract names."""
    wanted = [name for name, forms in FORMS.items() if contract.gate in forms]
    if gates != wanted:
        found = f"{gates[0]} is given" if gates else "no gate is given"
        raise ValueError(f"{found} with gate={contract.gate!r}; expected {wanted[0] if wanted else 'none'}")


def _require_taken(contract: FusedContract, named: Mapping[str, Tensor]) -> None:
    """Raise ValueError for beta, or a parameter of gates, that is not taken, or is and is not given."""
    taken = {**dict.fromkeys(("A_log", "A", "dt_bias"), False), "beta": contract.erases}
    taken |= dict.fromkeys(contract.of_gates, True)
    for name, wanted in taken.items():
        if wanted != (name in named):
            found = f"{name} is {'given' if name in named else 'not given'}"
            expected = "it" if wanted else "none"
            raise ValueError(
                f"{found} with reads={contract.reads!r}, gate={contract.gate!r}; expected {expected}"
            )


def _arranged(contract: FusedContract, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    made = FusedArguments(contract, {}, {}, (0,))
    return {ROLES[name]: made._turned(ROLES[name], x) for name, x in named.items()}


def require_covered(arguments: FusedArguments, gradients: Mapping[str, Any]) -> None:
    """Raise NotCovered for what has no bound here."""
    contract, dtype = arguments.contract, arguments.dtype
    if contract.accumulator(dtype) == "float64":
        why = "its true values take balls, entry by entry; `dmat check` has them at small S"
        raise NotCovered(f"a fused kernel that sums in float64 is not covered (dtype {dtype}): {why}")
    if "s" in arguments.tensors and not contract.erases:
        why = "only delta rules say what a state holds; `dmat check` hands the kernel's own states over"
        raise NotCovered(f'initial_state is not covered with reads="{contract.reads}": {why}')
    parameter = next((name for name in gradients if name in PARAMETERS), None)
    if parameter is not None:
        raise NotCovered(
            f"the gradient of {parameter} is not covered: it sums over all batches; `dmat check` has it"
        )
