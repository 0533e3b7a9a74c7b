"""What a law does with a kernel, written down as straight-line torch code while it does it.

A Subject that has a Transcript tells it of every call; each input becomes a variable of its own, each view
of the same memory a view, each later change an assignment. dmat.testing.repro makes a script of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dmat.testing.contract import Contract
from dmat.testing.exact import Array
from dmat.testing.literal import MOST_EDITS, bits, listed, memory_of, short, values, written
from dmat.testing.protected import side_of

LARGEST_WATCHED = 2**28  # bytes of memory that is compared before and after a call


@dataclass(frozen=True)
class Variable:
    """A name in the script, and the tensor that it stands for; given: an input of the law's, no result."""

    name: str
    tensor: Tensor
    given: bool


@dataclass(frozen=True)
class Seen:
    """The values of a tensor as a law read them, when so many lines were written and calls made."""

    tensor: Tensor
    array: Array
    lines: int
    calls: int


@dataclass(frozen=True)
class Place:
    """An element of a variable, as the law read it."""

    variable: Variable
    index: tuple[int, ...]
    seen: Seen


@dataclass
class Transcript:
    """Lines of torch code, and which tensors their names stand for.

    They may call the functions of dmat.testing.scripted. stored: tensors too large for a line. random:
    the kernel drew random numbers. looks: inputs are compared with what they were.
    """

    lines: list[str] = field(default_factory=list)
    stored: dict[str, Tensor] = field(default_factory=dict)
    variables: list[Variable] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    calls: int = 0
    random: bool = False
    looks: bool = True
    _indent: int = 0
    _used: dict[str, int] = field(default_factory=dict)
    _memory: dict[int, Tensor] = field(default_factory=dict)
    _states: dict[int, tuple[str, object]] = field(default_factory=dict)

    # Writing

    def write(self, *lines: str) -> None:
        """Add lines of code."""
        for line in lines:
            self.lines.append("    " * self._indent + line if line else "")

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Indent what is written inside, below this line."""
        apart = self._indent == 0 and head.startswith(("def", "class"))
        self.write(*[""] * apart, head)
        self._indent += 1
        try:
            yield
        finally:
            self._indent -= 1
            self.write(*[""] * apart)

    @contextmanager
    def unseeing(self, head: str) -> Iterator[None]:
        """Indent what is written inside, and look at no memory there: to look is to wait for the device."""
        self.looks = False
        try:
            with self.block(head):
                yield
        finally:
            self.looks = True

    def fresh(self, wanted: str) -> str:
        """Return a name that nothing has yet."""
        self._used[wanted] = self._used.get(wanted, 0) + 1
        return wanted if self._used[wanted] == 1 else f"{wanted}_{self._used[wanted]}"

    def _store(self, tensor: Tensor) -> str:
        key = f"tensor_{len(self.stored) + 1}"
        self.stored[key] = tensor.cpu().clone()
        return f"stored[{key!r}].to({tensor.device.type!r})"

    # Inputs

    def stands_for(self, name: str, tensor: Tensor, *, given: bool = True) -> None:
        """Note that a name stands for this tensor."""
        self.variables.append(Variable(name, tensor, given))

    def name(self, tensor: Tensor, wanted: str) -> str:
        """Return the name of an input, defined now if it is new, brought up to date if it has changed."""
        same = [v for v in self.variables if v.tensor is tensor]
        beside = [v for v in self.variables if _share(v.tensor, tensor)]
        known = same or [v for v in beside if _place(v.tensor) == _place(tensor)]
        if known and not known[-1].given:
            return known[-1].name
        if beside:
            self._bring_up_to_date(known[-1] if known else beside[0])
        if known:
            return known[-1].name
        name = self.fresh(wanted)
        if beside:
            shape, stride, offset = _place(tensor)
            self.write(f"{name} = {beside[0].name}.as_strided({shape}, {stride}, {offset})")
        else:
            self.write(*written(name, tensor, self._store))
        self.stands_for(name, tensor)
        self._remember(tensor)
        return name

    def _remember(self, tensor: Tensor) -> None:
        if self.looks and _readable(tensor):
            self._memory[tensor.untyped_storage().data_ptr()] = memory_of(tensor).clone()

    def _bring_up_to_date(self, variable: Variable) -> None:
        """Write down what the law has changed in a variable since the last call."""
        tensor, key = variable.tensor, variable.tensor.untyped_storage().data_ptr()
        if key not in self._memory or not (self.looks and _readable(tensor)):
            return
        before = self._memory[key].as_strided(*_place(tensor))
        changed = torch.nonzero(bits(before) != bits(tensor)).tolist()
        if 0 < len(changed) <= MOST_EDITS:
            for place in map(tuple, changed):
                value = short(tensor[place].item(), tensor.dtype)
                self.write(f"{variable.name}[{listed(place)}] = {value}")
        elif changed:
            self.write(f"{variable.name}.copy_({values(tensor, self._store)[0]})")
        self._remember(tensor)

    # Calls

    def call(self, callee: str, layout: str, igate: Tensor, fgate: Tensor) -> str:
        """Write the call that is about to be made; return the name of its output."""
        arguments = [
            arranged_text(self.name(gate, name), layout, gate.is_contiguous())
            for gate, name in ((igate, "igate_preact"), (fgate, "fgate_preact"))
        ]
        name = self.fresh("dtilde")
        self.write(f"{name} = {callee}({', '.join(arguments)})")
        return name

    def leaves(self, inputs: Sequence[Tensor], leaves: Sequence[Tensor], names: Sequence[str]) -> list[str]:
        """Write that leaves are made of inputs; return the names of the leaves."""
        made = [self.fresh(name) for name in names]
        given = [self.name(x, GIVEN[name]) for x, name in zip(inputs, names, strict=True)]
        asked = [".requires_grad_()" if leaf.requires_grad else "" for leaf in leaves]
        right = ", ".join(f"{x}.detach(){ask}" for x, ask in zip(given, asked, strict=True))
        self.write(f"{', '.join(made)} = {right}")
        for name, leaf in zip(made, leaves, strict=True):
            self.stands_for(name, leaf)
        return made

    def pull(self, output: Tensor, leaves: Sequence[Tensor], G: Tensor, *, retain: bool) -> list[str]:
        """Write that G is about to be pulled back; return the names of the gradients, "" for none."""
        asked = [leaf.requires_grad for leaf in leaves]
        cotangent = self.name(G, "G")
        names = [self.fresh(n) if ask else "" for n, ask in zip(("di", "df"), asked, strict=True)]
        into = ", ".join(name for name in names if name) + ("," if sum(asked) == 1 else "")
        of = ", ".join(self.name(x, "") for x, ask in zip(leaves, asked, strict=True) if ask)
        of = f"({of})" if sum(asked) > 1 else of
        more = ", retain_graph=True" if retain else ""
        arguments = f"{self.name(output, '')}, {of}, {cotangent}{more}, materialize_grads=True"
        self.write(f"{into} = torch.autograd.grad({arguments})")
        return names

    def in_a_child(self, callee: str, contract: Contract, inputs: Sequence[Tensor]) -> None:
        """Write a call on inputs that touch protected pages, in a process that may die of it."""
        names = [self.fresh(name) for name in GIVEN.values()]
        for name, x in zip(names, inputs, strict=True):
            self.write(f"{name} = at_the_edge({values(x, self._store)[0]}, {side_of(x)!r})")
        asked = ".requires_grad_()" if contract.has_gradients else ""
        with self.block("def call():"):
            self.write(f"i, f = {names[0]}.detach(){asked}, {names[1]}.detach(){asked}")
            arguments = ", ".join(arranged_text(x, contract.gate_layout, True) for x in "if")
            self.write(f"dtilde = {callee}({arguments})")
            if contract.has_gradients:
                self.write(f"torch.autograd.grad(dtilde, (i, f), {names[2]}, materialize_grads=True)")
        self.write("died = dies(call)")

    def returned(self, name: str, tensor: object) -> None:
        """Note what a call has returned, and what it may have done to the inputs' memory."""
        if isinstance(tensor, Tensor):
            self.stands_for(name, tensor, given=False)
        self.calls += 1
        for variable in self.variables:
            if variable.tensor.untyped_storage().data_ptr() in self._memory:
                self._remember(variable.tensor)

    # Calls of fused kernels: dmat.testing.fused

    def call_fused(
        self,
        callee: str,
        tensors: Mapping[str, Tensor],
        names: Mapping[str, str],
        layout: str,
        more: Mapping[str, object],
    ) -> str:
        """Write the call that is about to be made; return the name of its output.

        tensors: (B, NH, S, n), by role; names: what each is called. more: keywords.
        """
        arguments = [
            fused_text(self.name(x, names[role]), role, layout, x.is_contiguous())
            for role, x in tensors.items()
        ]
        arguments += [f"{keyword}={self._value(value)}" for keyword, value in more.items()]
        name = self.fresh("o")
        self.write(f"{name} = {callee}({', '.join(arguments)})")
        return name

    def _value(self, value: object) -> str:
        """Return a keyword's value: a state that was returned, or ends of sequences."""
        if isinstance(value, Tensor) and value.dtype == torch.int64:
            return f"torch.tensor({value.tolist()})" + (
                "" if value.device.type == "cpu" else f".to({value.device.type!r})"
            )
        return "None" if value is None else self._states[id(value)][0]

    def returned_fused(self, name: str, output: Tensor, rest: tuple[object, ...]) -> None:
        """Note the output of the call written last, and the state beside it."""
        if rest:
            state = self.fresh("state")
            self._states[id(rest[0])] = state, rest[0]
            left = f"{name}, {state}" + (", *_" if len(rest) > 1 else "")
            self.lines[-1] = self.lines[-1].replace(f"{name} = ", f"{left} = ", 1)
        self.returned(name, output)

    def fused_leaves(
        self, tensors: Mapping[str, Tensor], leaves: Mapping[str, Tensor], names: Mapping[str, str]
    ) -> None:
        """Write that leaves are made of inputs."""
        for role, leaf in leaves.items():
            given, made = self.name(tensors[role], names[role]), self.fresh(f"{names[role]}_")
            asked = ".requires_grad_()" if leaf.requires_grad else ""
            self.write(f"{made} = {given}.detach(){asked}")
            self.stands_for(made, leaf)

    def pull_fused(
        self,
        output: Tensor,
        leaves: Mapping[str, Tensor],
        W: Tensor,
        names: Mapping[str, str],
        layout: str,
        *,
        retain: bool,
    ) -> list[str]:
        """Write that W, (B, NH, S, V), is about to be pulled back; return the names of the gradients."""
        cotangent = self.name(W, "W") + ("" if layout == "BHSD" else ".transpose(1, 2)")
        made = [self.fresh(f"d{names[role]}") for role in leaves]
        of = ", ".join(self.name(leaf, "") for leaf in leaves.values())
        more = ", retain_graph=True" if retain else ""
        arguments = f"{self.name(output, '')}, ({of},), {cotangent}{more}, materialize_grads=True"
        self.write(f"{', '.join(made)}, = torch.autograd.grad({arguments})")
        return made

    def define(self, tensor: Tensor, name: str, *lines: str) -> None:
        """Write lines that define an input too large for a literal."""
        self.fresh(name)
        self.write(*lines)
        self.stands_for(name, tensor)

    # Findings

    def latest(self, wanted: str) -> str:
        """Return the last name made of this one."""
        number = self._used.get(wanted, 1)
        return wanted if number == 1 else f"{wanted}_{number}"

    def keep(self, place: Place) -> str:
        """Write a copy of a variable where the law has read it; return its name."""
        name, at = self.fresh("kept"), place.seen.lines
        before = self.lines[at - 1]
        indent = before[: len(before) - len(before.lstrip())]
        self.lines.insert(at, f"{indent}{name} = {place.variable.name}.clone()")
        return name

    def see(self, tensor: Tensor, array: Array) -> None:
        """Note that the law has read the values of a tensor."""
        self.seen.append(Seen(tensor, array, len(self.lines), self.calls))

    def place(self, array: Array, index: tuple[int, ...]) -> Place | None:
        """Return the variable's element that this element of an array was read from, or None."""
        address = _address(array) + sum(n * step for n, step in zip(index, array.strides, strict=True))
        for seen in self.seen:
            start = _address(seen.array)
            if start <= address < start + seen.array.nbytes:
                steps = [step // 8 for step in seen.array.strides]
                at = _unravel((address - start) // 8, steps, seen.array.shape)
                offset = int(seen.tensor.storage_offset())
                position = offset + sum(n * k for n, k in zip(at, seen.tensor.stride(), strict=True))
                return self._element(seen, position)
        return None

    def _element(self, seen: Seen, position: int) -> Place | None:
        beside = [v for v in self.variables if _share(v.tensor, seen.tensor)]
        exact = [v for v in beside if _place(v.tensor) == _place(seen.tensor)]
        same = [v for v in beside if v.tensor is seen.tensor]
        for variable in [*reversed(same), *reversed(exact), *reversed(beside)]:
            shape, stride, offset = _place(variable.tensor)
            if position >= offset:
                return Place(variable, _unravel(position - offset, stride, shape), seen)
        return None


GIVEN = {"i": "igate_preact", "f": "fgate_preact", "g": "G"}  # the input that a leaf is made of


def arranged_text(name: str, layout: str, contiguous: bool) -> str:
    """Return a gate (B, NH, S, 1) in the axes of the contract, as dmat.testing.subject.arranged does."""
    if layout == "B NH S 1":
        return name
    if layout == "B NH S":
        return f"{name}.squeeze(-1)"
    return f"{name}.squeeze(-1).transpose(1, 2)" + (".contiguous()" if contiguous else "")


def fused_text(name: str, role: str, layout: str, contiguous: bool) -> str:
    """Return a tensor (B, NH, S, n) in a fused kernel's axes, as dmat.testing.readout.subject does."""
    flat = f"{name}.squeeze(-1)" if role in ("i", "g") else name
    return flat if layout == "BHSD" else f"{flat}.transpose(1, 2)" + (".contiguous()" if contiguous else "")


def _place(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    return tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset())


def _share(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors lie in the same memory."""
    if one is other:
        return True
    at = one.untyped_storage().data_ptr()
    return at != 0 and one.device == other.device and at == other.untyped_storage().data_ptr()


def _readable(tensor: Tensor) -> bool:
    """Whether memory can be looked at: not huge, and not while CUDA captures or must not wait."""
    if tensor.untyped_storage().nbytes() > LARGEST_WATCHED:
        return False
    watched = tensor.is_cuda and (
        torch.cuda.is_current_stream_capturing() or torch.cuda.get_sync_debug_mode() != 0
    )
    return not watched


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _unravel(position: int, steps: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Return the index of the element so far from the first, in a tensor that repeats none."""
    index = [0] * len(shape)
    for axis in sorted(range(len(shape)), key=lambda axis: -steps[axis]):
        if steps[axis] and shape[axis] > 1:
            index[axis], position = divmod(position, steps[axis])
    return tuple(index)
