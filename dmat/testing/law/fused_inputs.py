"""The inputs of a fused kernel's calls: tensors of recipes, their exact values, and states handed over."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise, takewhile
from typing import cast

import numpy as np
import torch
from torch import Tensor

from dmat.strategies.fused_domain import SOME_K, FusedDomain
from dmat.strategies.recipes.backgrounds import rounded
from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.heads import HeadForm
from dmat.strategies.recipes.layouts import lay_out
from dmat.strategies.recipes.qkv import QKV, Products, plain_qkv
from dmat.strategies.recipes.recipe import Case
from dmat.testing.contract import FusedContract
from dmat.testing.contract.names import PARAMETERS
from dmat.testing.interpret.choice import is_interpreted
from dmat.testing.kernel import runtime
from dmat.testing.kernel.call import NAN
from dmat.testing.kernel.fused import NAMES, Inputs
from dmat.testing.kernel.turns import Piece, Span, Turn, in_order, tensors_of, turns_of
from dmat.testing.law.subject import Subject
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.fused_inputs import CallInputs, Turns
from dmat.testing.oracle.reads import READS, Reads
from dmat.testing.verdict.finding import Finding, LawBroken

LEAST = 4
FURTHER_K = (32, 64, 128, 256)  # are tried where a kernel refuses all of SOME_K
MANY = 64  # numbers of a state that are all bfloat16 by chance once in 2^(16 x 64) states
NARROW = "a state is returned in float32, but all its numbers are bfloat16: it was rounded on the way"


@dataclass
class FusedInputs(Subject):
    """A fused kernel in a dtype on a device, and the inputs that laws call it on."""

    @property
    def contract(self) -> FusedContract:
        """The implementation's contract."""
        return cast(FusedContract, self.implementation.contract)

    @property
    def reads(self) -> type[Reads]:
        """The kind of operator."""
        return READS[self.contract.reads]

    @property
    def letters(self) -> dict[str, str]:
        """The printed name of each tensor of a call."""
        gate, beta = self.contract.form.letter, "beta" if self.contract.beta_in == "value" else "b"
        return dict(zip(NAMES, ("q", "k", "v", "i", gate, beta, *PARAMETERS, "z", "S0"), strict=True))

    @cached_property
    def domain(self) -> FusedDomain:
        """The cases that the strategies may draw for this kernel."""
        contract, dtype = self.contract, self.dtype
        formats = {"dtype": contract.gates_in(dtype), "accumulator": contract.accumulator(dtype)}
        more = {"contract": contract, "scaling": self.reads.scaling, "products_dtype": dtype}
        slow = is_interpreted()
        return FusedDomain.of(contract, **more, **formats, slow=slow, some_K=self._some_sizes)

    def _some_sizes(self) -> tuple[int, ...]:
        """Return the sizes of q and k to draw where none is stated: SOME_K from the first that is taken.

        If none of them is taken, return the first of FURTHER_K that is.
        """
        refused = self.implementation.refuses.get((self.dtype, self.device))
        if refused is None:
            every = (*SOME_K, *FURTHER_K)
            refused = list(takewhile(self.unrecorded()._refuses, every))
            refused = [] if len(refused) == len(every) else refused
            self.implementation.refuses[self.dtype, self.device] = refused
        left = tuple(K for K in SOME_K if K not in refused)
        return left or next((K,) for K in FURTHER_K if K not in refused)

    def _refuses(self, K: int) -> bool:
        """Whether the plainest call with this size of q and k raises."""
        gates, one = self.plainest, replace(self.domain, some_K=lambda: (K,))
        qkv = plain_qkv(one, gates.shape[-1])
        try:
            self.call_fused(self.inputs(gates, qkv))
        except LawBroken as broken:
            return broken.finding.what == "raised"
        return False

    @abstractmethod
    def call_fused(self, inputs: Inputs, **more: object) -> Tensor:
        """Call the kernel; return its output, (B, NH, S, V). more: keyword arguments of the call."""

    def inputs(self, gates: Gates, qkv: QKV, poison: float = NAN) -> Inputs:
        """Build the tensors of a call, each in the memory layout of its recipe."""
        products = qkv.build(gates, self.domain)
        igate, fgate = gates.lay_out(*self.gates_of(gates, qkv.K, qkv.gate_block), self.device, poison)
        return self.inputs_of(qkv, products, igate, fgate, poison)

    def head_form(self, K: int) -> HeadForm:
        """Return how heads share keys, and whether each of K channels has a gate."""
        contract = self.contract
        return HeadForm(contract.group, contract.group_order, K if contract.by_channel else None)

    def gates_of(self, gates: Gates, K: int, block: int = 1) -> tuple[Tensor, Tensor]:
        """Return both gates, contiguous on the CPU: (B, NH, S, 1), the forget gate (B, NH, S, K) by channel.

        A recipe has the heads of q and k. The further value heads and channels are further heads to it: the
        first value head and channel of a head have what the recipe says of that head. block: so many channels
        have the gate of their first one.
        """
        form = self.head_form(K)
        if form.group == 1 and form.channels is None:
            igate, fgate = gates.dense()
            return igate, self._in_form(fgate)
        B, NH, S = gates.shape
        inputs, _ = gates.wider(form.group).values()
        _, every = gates.wider(form.group * form.parts).values()
        by_channel = np.moveaxis(every.reshape(B, form.group, form.parts, NH, S), 2, -1)
        by_channel = by_channel[..., np.arange(form.parts) // block * block]
        dtype = getattr(torch, gates.dtype)
        both = inputs.reshape(B, form.group, NH, S, 1), by_channel
        first, second = (torch.from_numpy(form.ordered(x).copy()).to(dtype) for x in both)
        return first, self._in_form(second)

    def _in_form(self, fgate: Tensor) -> Tensor:
        """Return the gates of a recipe, f or l, in the form that the kernel takes.

        A decay of 0 closes a gate for good: it is the smallest normal number unless the contract has "-inf".
        """
        if self.contract.gate == "decay":
            least = 0.0 if "-inf" in self.contract.special_values else torch.finfo(fgate.dtype).tiny
            return fgate.double().exp().clamp(min=least).to(fgate.dtype)
        return fgate if self.contract.form.sign > 0 else -fgate

    def parameters_of(self, qkv: QKV, heads: int, K: int, V: int = 1) -> dict[str, Tensor]:
        """Return those of A_log or A, (heads,), dt_bias, (heads,) or (heads, K), and D that the kernel takes.

        Zeros where the recipe is plain, and of integers, where gates are open or closed whatever they are; A
        is -exp(A_log). D is 0, 1 or another number. Where the contract bounds the log gates, no parameter
        makes them smaller: A_log and dt_bias are at most 0. Without softplus dt + dt_bias is never below 0.
        """
        if not self.contract.parameters:
            return {}
        random, most = np.random.default_rng([qkv.seed, heads]), 2.0 if self.contract.l_min is None else 0.0
        bias = (heads, K) if self.contract.by_channel else (heads,)
        A = random.choice([0.0, 1.0], heads) * random.uniform(-2.0, most, heads)
        drawn = {"A_log": A, "dt_bias": random.standard_normal(bias)}
        if self.contract.l_min is not None:
            drawn["dt_bias"] = -np.abs(drawn["dt_bias"])
        if not self.contract.dt_softplus:
            drawn["dt_bias"] = np.abs(drawn["dt_bias"]) * (self.contract.l_min is None)
        if self.contract.dt_limit is not None:  # without a bias dt itself may be at an end of the limit
            drawn["dt_bias"] *= random.choice([0.0, 1.0, 1.0], (heads, *(1,) * (len(bias) - 1)))
        dtype = torch.float64 if self.dtype == "float64" else torch.float32
        plain = qkv.seed == 0 or qkv.kind in ("integers", "equal")
        drawn = {name: 0 * x if plain else x for name, x in drawn.items()}
        drawn["A"] = -np.exp(drawn["A_log"])
        if self.contract.skip is not None:
            drawn["D"] = self._skip(random, heads, V, plain=plain)
        every = {name: torch.from_numpy(x) for name, x in drawn.items()}
        return {name: every[name].to(self.device, dtype) for name in self.contract.parameters}

    def _skip(self, random: np.random.Generator, heads: int, V: int, *, plain: bool) -> Array:
        """Return D, (heads,) or (heads, V): 0 where the recipe is plain, else 0, 1 or another number."""
        shape = (heads,) if self.contract.skip == "head" else (heads, V)
        other = np.where(
            random.random(shape) < 0.6, random.standard_normal(shape), random.integers(0, 2, shape)
        )
        return np.zeros(shape) if plain else np.asarray(other, dtype=np.float64)

    def _z(self, qkv: QKV, shape: tuple[int, ...]) -> Array:
        """Return z: 1 where the recipe is plain, else normal numbers, among them 0, 1 and far ones."""
        if qkv.seed == 0 or qkv.kind == "equal":
            return np.ones(shape)
        random = np.random.default_rng([qkv.seed, *shape])
        few = random.choice([0.0, 1.0, -1.0, 20.0, -20.0, 100.0, -100.0], shape)
        return np.where(random.random(shape) < 0.8, 2 * random.standard_normal(shape), few)

    def gates_of_case(self, case: Case) -> tuple[Tensor, Tensor]:
        """Return both gates of a case as `gates_of` does."""
        qkv: QKV | None = case.get("qkv")
        return case["gates"].dense() if qkv is None else self.gates_of(case["gates"], qkv.K, qkv.gate_block)

    def inputs_of(
        self, qkv: QKV, products: Products, igate: Tensor, fgate: Tensor, poison: float = NAN
    ) -> Inputs:
        """Build the tensors of a call with these gates, as `gates_of` returns them."""
        dtype = getattr(torch, self.dtype)
        q, k, v = (
            lay_out(rounded(x, dtype).to(self.device), layout, poison)
            for x, layout in zip((products.q, products.k, products.v), qkv.layouts, strict=True)
        )
        fixed = self.contract.gate == "fixed"
        taken = igate if self.contract.igate else None, None if fixed else fgate
        more = self.parameters_of(qkv, v.shape[1], q.shape[-1], v.shape[-1])
        if self.contract.z:
            z = self._z(qkv, tuple(v.shape))
            more["z"] = lay_out(rounded(z, dtype).to(self.device), qkv.layouts[0], poison)
        return Inputs(q, k, v, *taken, products.column, **more)

    def read_inputs(
        self, inputs: Inputs, begins: tuple[int, ...] = (0,), *, packed: bool = False
    ) -> CallInputs:
        """Return the exact values of the inputs of a call. A gate that the kernel does not take is zeros.

        begins, packed: the fields of CallInputs.
        """
        form, v = self.head_form(inputs.q.shape[-1]), self.read(inputs.v)
        q, k = (form.repeated(self.read(x)) for x in (inputs.q, inputs.k))
        zeros = np.zeros(v.shape[:3])
        igate = zeros if inputs.i is None else self.read(inputs.i)[..., 0]
        fgate = self._fixed(zeros)[..., None] if inputs.g is None else self.read(inputs.g)
        if self.contract.erases:
            form = replace(form, channels=None)
            fgate = fgate if self.contract.by_channel else fgate[..., 0]
        else:
            q, k, fgate = form.split(q), form.split(k), form.split(fgate)[..., 0]
            v, igate = form.each(v), form.each(igate)
        size = inputs.A_log if inputs.A is None else inputs.A
        A, bias = (self._per_gate(x, form) for x in (size, inputs.dt_bias))
        gate, D, z = self.contract.gate, *(self._after(x) for x in (inputs.D, inputs.z))
        return CallInputs(
            q, k, v, igate, fgate, begins, packed, heads=form, gate=gate, A_log=A, dt_bias=bias, D=D, z=z
        )  # fmt: skip

    def _after(self, x: Tensor | None) -> Array | None:
        """Return z as it is, and D as (1, heads, 1, 1) or (1, heads, 1, V)."""
        if x is None:
            return None
        values = self.read(x)
        return values if x.ndim == 4 else values.reshape(1, values.shape[0], 1, -1)

    def read_turns(self, inputs: Inputs, turns: Turns) -> CallInputs:
        """Return the exact values of the inputs of several packed calls in turn. turns: as of CallInputs."""
        begins = {start for spans in turns for start, end in spans if start < end}
        return replace(self.read_inputs(inputs, tuple(sorted(begins)), packed=True), turns=turns)

    def _per_gate(self, parameter: Tensor | None, form: HeadForm) -> Array | float:
        """Return a parameter of the gates, broadcast to those of CallInputs; 0 for None."""
        if parameter is None:
            return 0.0
        x = self.read(parameter)[None, :, None]  # one a head, or a channel of it
        x = x[..., None] if parameter.ndim == 1 else x
        if form.channels is not None:
            x = form.split(np.broadcast_to(x, (*x.shape[:3], form.channels)))
        return x if self.contract.erases and self.contract.by_channel else x[..., 0]

    def _fixed(self, zeros: Array) -> Array:
        assert self.contract.fixed is not None
        log = np.asarray(torch.as_tensor(self.contract.fixed(zeros.shape[1])).double(), dtype=np.float64)
        return zeros + log[None, :, None]

    def cotangent(self, inputs: Inputs, qkv: QKV) -> Tensor:
        """Build the recipe's cotangent of the output of these inputs, (B, NH, S, V)."""
        dtype = getattr(torch, self.contract.returns(self.dtype))
        dense = torch.from_numpy(qkv.cotangent(tuple(inputs.v.shape))).to(self.device, dtype)
        return lay_out(dense, qkv.pull_layout) if qkv.pull_layout else dense


@dataclass
class FusedTurns(FusedInputs):
    """A fused kernel in a dtype on a device, whose calls hand states over."""

    @abstractmethod
    def _called(self, inputs: Inputs, more: dict[str, object]) -> tuple[Tensor, tuple[object, ...]]:
        """Call the kernel; return its output, and what it returned beside it."""

    def ending(self, ends: Sequence[int]) -> dict[str, object]:
        """Return the keyword argument with the ends of packed sequences."""
        assert self.contract.packed
        return {self.contract.packed: torch.tensor(list(ends), dtype=torch.int64, device=self.device)}

    def _with_copy(self, more: dict[str, object]) -> dict[str, object]:
        """Return the keyword arguments with a copy of the state, if the call may write into its state."""
        name = self.contract.states
        if self.contract.updates is None or name is None or more.get(name) is None:
            return more
        copy = runtime.copied(more[name])
        self.recorder.copied(copy, more[name], "copied({})")
        return {**more, name: copy}

    def laid_out(self, state: object, layout: str) -> object:
        """Return a state with other strides, and NaN around it. layout: one of STATE_LAYOUTS."""
        moved = runtime.laid_out(state, layout)
        self.recorder.copied(moved, state, f"laid_out({{}}, {layout!r})")
        return moved

    def _require_dtype_of(self, state: object) -> None:
        """Raise LawBroken for a state of another dtype than the contract states."""
        wanted = self.contract.state_dtype
        found = {str(x.dtype).removeprefix("torch.") for x in tensors_of(state)}
        if wanted is not None and found - {wanted}:
            raise LawBroken(Finding("state", (), " and ".join(sorted(found)), wanted, what="shape"))

    def called_in_turn(
        self, inputs: Inputs, more: Mapping[str, object], call_inputs: CallInputs
    ) -> tuple[Tensor, list[object]]:
        """Call the kernel once for each call of `call_inputs`, each with the state of the one before it.

        Return the output at all times, and what each call returned beside its output.
        """
        turns = turns_of(call_inputs)
        if len(turns) == 1 and not turns[0].packed:
            output, rest = self._called(inputs, dict(more))
            return output, [*rest[:1]]
        outputs, states = list[Tensor](), list[object]()
        for turn in turns:
            name = str(self.contract.states)
            given = {name: states[-1]} if states else dict(more)
            if turn.packed:
                given = {name: None, **given, **self.ending(turn.ends)}
            output, rest = self._called(self._at(inputs, turn), given)
            outputs.append(output)
            states.append(self._next_state(rest))
        return self._joined(in_order(turns, outputs), "o"), states

    def _at(self, inputs: Inputs, turn: Turn) -> Inputs:
        """Return the inputs of one of several calls. Those of several packed sequences are contiguous."""
        spans = [span for span in turn.spans if span[0] < span[1]]
        timed = {name: x for name, x in inputs.named.items() if name not in ("s", *PARAMETERS)}
        parts = {
            name: self._joined([(x, *span) for span in spans], self.letters[name])
            for name, x in timed.items()
        }
        return inputs.with_(**parts, s=None if turn.spans[0][0] else inputs.s)

    def _joined(self, pieces: Sequence[Piece], name: str, *, whole: bool = True) -> Tensor:
        """Return pieces of tensors as one. name: its printed name. whole: in new memory, one piece too."""
        parts = [x[:, :, start:end] for x, start, end in pieces]
        result = torch.cat(parts, 2) if whole or len(parts) > 1 else parts[0]
        self.recorder.joined(result, pieces, name)
        return result

    def _next_state(self, rest: tuple[object, ...]) -> object:
        """Return the state that a call returned. Raises LawBroken if there is none."""
        if not rest:
            raise LawBroken(Finding("state", (), "no state beside o", "(o, state)", what="shape"))
        return rest[0]

    def chunk_states_of(self, inputs: Inputs, turn: Turn) -> list[tuple[Span, list[object]]]:
        """Call the kernel once; return the times of each of its sequences, with the states of its chunks.

        Raises LawBroken unless the call returns a list of as many states as its sequences have chunks.
        """
        ends = self.ending(turn.ends) if turn.packed else {}
        _, rest = self._called(inputs, {str(self.contract.states): None, **ends})
        found = rest[1] if len(rest) > 1 else None
        size = self.contract.chunk_states or 1
        numbers = [-(-(end - start) // size) for start, end in turn.spans]
        wanted = f"(o, state, states), a list of {sum(numbers)} states"
        if not isinstance(found, list | tuple) or len(found) != sum(numbers):
            shown = f"{len(found)} states" if isinstance(found, list | tuple) else f"a {type(found).__name__}"
            raise LawBroken(Finding("states", (), shown, wanted, what="shape"))
        places = pairwise(accumulate(numbers, initial=0))
        parts = [list(found[start:end]) for start, end in places]
        return list(zip(turn.spans, parts, strict=True))

    def goes_on(self, inputs: Inputs, span: Span, state: object) -> Tensor:
        """Call the kernel on some times, from this state; return its output."""
        part = self._at(inputs, Turn((span,), False)).with_(s=None)
        return self._called(part, {str(self.contract.states): state})[0]

    def write_nothing_at_first(self, inputs: Inputs, turns: Turns) -> None:
        """Set v to 0 in the first call of every third sequence, which so hands over zeros.

        An mLSTM sums k too: k is 0 there, but of delta rules, which may divide by its norm.
        """
        for start, end in turns[0][1::3] if not self.contract.positive else ():
            inputs.v[:, :, start:end] = 0.0
            if not self.contract.erases:
                inputs.k[:, :, start:end] = 0.0

    def remark_on_state(self, state: object, inputs: Inputs, qkv: QKV) -> None:
        """Note a float32 state of dense inputs, of 64 numbers or more, that all have the bits of bfloat16.

        Only of states whose last axes are K and V, for a cache of k or v holds their own numbers; and of four
        rows and columns or more, for a k that is a power of two hands the numbers of v on.
        """
        K, V = inputs.q.shape[-1], inputs.v.shape[-1]
        for x in tensors_of(state) if qkv.kind == "dense" and min(K, V) >= LEAST else ():
            if x.dtype == torch.float32 and x.ndim == 4 and sorted(x.shape[-2:]) == sorted((K, V)):
                given = x.detach()[x.detach() != 0]
                if given.numel() >= MANY and torch.equal(given, given.bfloat16().float()):
                    self.remarks.add(NARROW)
