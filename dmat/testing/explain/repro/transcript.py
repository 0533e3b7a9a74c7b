"""Transcripts: a law's calls of a kernel as straight-line torch code, recorded while the law runs.

recorder.py writes the calls into a Transcript, and script.py makes a script of it. Each input becomes a
variable, each view of the same memory a view, and each later change of an input an assignment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dmat.testing.devices import forbids_reading
from dmat.testing.explain.repro.literals import MOST_EDITS, bits, listed, memory_of, short, values, written
from dmat.testing.oracle.arithmetic import Array

LARGEST_WATCHED = 2**28  # bytes; larger storages are not compared before and after a call


@dataclass(frozen=True)
class Variable:
    """A variable of the script, and its tensor. given: the tensor is an input, not a result of a call."""

    name: str
    tensor: Tensor
    given: bool


@dataclass(frozen=True)
class SeenTensor:
    """A law's read of a tensor: its values, and the numbers of lines, calls and variables before it."""

    tensor: Tensor
    array: Array
    lines: int
    calls: int
    variables: int


@dataclass(frozen=True)
class Element:
    """An element of a variable, and the read in which the law saw it."""

    variable: Variable
    index: tuple[int, ...]
    seen: SeenTensor


@dataclass
class Transcript:
    """Lines of torch code, and the tensors of their variables.

    Lines may call the functions of dmat.testing.kernel.runtime. stored: tensors too large for a line. seen:
    the law's reads. random: the kernel drew random numbers. compares: inputs are compared with their
    values at the last call.
    """

    lines: list[str] = field(default_factory=list)
    stored: dict[str, Tensor] = field(default_factory=dict)
    variables: list[Variable] = field(default_factory=list)
    seen: list[SeenTensor] = field(default_factory=list)
    calls: int = 0
    random: bool = False
    compares: bool = True
    _indent: int = 0
    _used: dict[str, int] = field(default_factory=dict)
    _memory: dict[int, Tensor] = field(default_factory=dict)

    # Writing

    def write(self, *lines: str) -> None:
        """Add lines of code."""
        for line in lines:
            self.lines.append("    " * self._indent + line if line else "")

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Write this line, and indent the lines that are written inside the context."""
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
        """Like `block`, but read no memory inside the context: a read would synchronise with the GPU."""
        self.compares = False
        try:
            with self.block(head):
                yield
        finally:
            self.compares = True

    def fresh(self, wanted: str) -> str:
        """Return an unused variable name: the wanted one, or with a number appended."""
        self._used[wanted] = self._used.get(wanted, 0) + 1
        return wanted if self._used[wanted] == 1 else f"{wanted}_{self._used[wanted]}"

    def store(self, tensor: Tensor) -> str:
        """Store a tensor beside the script. Return an expression that reads it."""
        key = f"tensor_{len(self.stored) + 1}"
        self.stored[key] = tensor.cpu().clone()
        return f"stored[{key!r}].to({tensor.device.type!r})"

    # Inputs

    def stands_for(self, name: str, tensor: Tensor, *, given: bool = True) -> None:
        """Record that a variable has this tensor."""
        self.variables.append(Variable(name, tensor, given))

    def name(self, tensor: Tensor, wanted: str) -> str:
        """Return an input's variable. Write a definition if it is new, an assignment if it has changed."""
        same = [v for v in self.variables if v.tensor is tensor]
        beside = [v for v in self.variables if _share(v.tensor, tensor)]
        beside = [v for v in beside if v.tensor.requires_grad == tensor.requires_grad] or beside
        known = same or [v for v in beside if _memory_layout(v.tensor) == _memory_layout(tensor)]
        if known and not known[-1].given:
            return known[-1].name
        if beside:
            self._bring_up_to_date(known[-1] if known else beside[0])
        if known:
            return known[-1].name
        if beside and not wanted:  # the transpose of a result in the kernel's own layout
            return beside[0].name
        name = self.fresh(wanted)
        if beside:
            shape, stride, offset = _memory_layout(tensor)
            self.write(f"{name} = {beside[0].name}.as_strided({shape}, {stride}, {offset})")
        else:
            self.write(*written(name, tensor, self.store))
        self.stands_for(name, tensor)
        self._remember(tensor)
        return name

    def _remember(self, tensor: Tensor) -> None:
        if self.compares and _readable(tensor):
            self._memory[tensor.untyped_storage().data_ptr()] = memory_of(tensor).clone()

    def _bring_up_to_date(self, variable: Variable) -> None:
        """Write assignments for the elements of a variable that the law has changed since the last call."""
        tensor, key = variable.tensor, variable.tensor.untyped_storage().data_ptr()
        if key not in self._memory or not (self.compares and _readable(tensor)):
            return
        before = self._memory[key].as_strided(*_memory_layout(tensor))
        changed = torch.nonzero(bits(before) != bits(tensor)).tolist()
        if 0 < len(changed) <= MOST_EDITS:
            for element in map(tuple, changed):
                value = short(tensor[element].item(), tensor.dtype)
                self.write(f"{variable.name}[{listed(element)}] = {value}")
        elif changed:
            self.write(f"{variable.name}.copy_({values(tensor, self.store)[0]})")
        self._remember(tensor)

    def define(self, tensor: Tensor, name: str, *lines: str) -> None:
        """Write lines that define an input too large for a literal."""
        self.fresh(name)
        self.write(*lines)
        self.stands_for(name, tensor)

    # Results

    def returned(self, name: str, tensor: object) -> None:
        """Record the result of a call, and the inputs' memory after it: the call may have changed it."""
        if isinstance(tensor, Tensor):
            self.stands_for(name, tensor, given=False)
        self.calls += 1
        for variable in self.variables:
            if variable.tensor.untyped_storage().data_ptr() in self._memory:
                self._remember(variable.tensor)

    # Findings

    def latest(self, wanted: str) -> str:
        """Return the last variable that `fresh` made of this name."""
        number = self._used.get(wanted, 1)
        return wanted if number == 1 else f"{wanted}_{number}"

    def keep(self, element: Element) -> str:
        """Insert a line that copies a variable at the law's read of it. Return the copy's name."""
        name, at = self.fresh("kept"), element.seen.lines
        before = self.lines[at - 1]
        indent = before[: len(before) - len(before.lstrip())]
        self.lines.insert(at, f"{indent}{name} = {element.variable.name}.clone()")
        return name

    def see(self, tensor: Tensor, array: Array) -> None:
        """Record that the law has read the values of a tensor."""
        self.seen.append(SeenTensor(tensor, array, len(self.lines), self.calls, len(self.variables)))

    def element(self, array: Array, index: tuple[int, ...]) -> Element | None:
        """Return the element of a variable from which the law read this element of an array, or None."""
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

    def _element(self, seen: SeenTensor, position: int) -> Element | None:
        known = self.variables[: seen.variables], self.variables  # an input may be named after it is read
        every = [[v for v in variables if _share(v.tensor, seen.tensor)] for variables in known]
        beside = every[0] or every[1]
        exact = [v for v in beside if _memory_layout(v.tensor) == _memory_layout(seen.tensor)]
        same = [v for v in beside if v.tensor is seen.tensor]
        for variable in [*reversed(same), *reversed(exact), *reversed(beside)]:
            shape, stride, offset = _memory_layout(variable.tensor)
            if position >= offset:
                return Element(variable, _unravel(position - offset, stride, shape), seen)
        return None


def _memory_layout(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    return tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset())


def _share(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors share a storage."""
    if one is other:
        return True
    at = one.untyped_storage().data_ptr()
    return at != 0 and one.device == other.device and at == other.untyped_storage().data_ptr()


def _readable(tensor: Tensor) -> bool:
    """Return whether memory may be read: it is not huge, and its device allows it now."""
    if tensor.untyped_storage().nbytes() > LARGEST_WATCHED:
        return False
    return not forbids_reading(tensor.device.type)


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _unravel(position: int, steps: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Return the index of the element at this offset, in a tensor whose elements do not overlap."""
    index = [0] * len(shape)
    for axis in sorted(range(len(shape)), key=lambda axis: -steps[axis]):
        if steps[axis] and shape[axis] > 1:
            index[axis], position = divmod(position, steps[axis])
    return tuple(index)
