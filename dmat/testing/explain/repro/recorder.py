"""A recorder for repro scripts: it writes each kernel call into a Transcript as straight-line torch code."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from dmat.testing.contract import Contract
from dmat.testing.explain.repro.literals import number, values
from dmat.testing.explain.repro.transcript import Transcript
from dmat.testing.kernel.protected import side_of
from dmat.testing.kernel.recording import Recorder
from dmat.testing.oracle.arithmetic import Array

INPUTS = {"i": "igate_preact", "f": "fgate_preact", "g": "G"}  # the inputs that leaves are made of
GATES = ("igate_preact", "fgate_preact")


class ScriptRecorder(Recorder):
    """Writes every recorded event into a transcript as torch code."""

    def __init__(self, transcript: Transcript) -> None:
        """Write into this transcript."""
        self._script = transcript
        self._output = ""  # the variable that the last call written is assigned to
        self._gradients: list[str] = []  # the variables of the gradients being computed, "" for none
        self._states: dict[int, tuple[str, object]] = {}
        self._joined: list[Tensor] = []  # (B, NH, S, V) whatever the layout of the kernel is

    def read(self, tensor: Tensor, values: Array) -> None:
        self._script.see(tensor, values)

    def inputs(self, **inputs: Tensor) -> None:
        for name, x in inputs.items():
            self._script.name(x, name)

    def uninitialised(self, poison: float) -> AbstractContextManager[None]:
        return self._script.block(f"with uninitialised({number(poison)}):")

    # Kernels of D~

    def leaves(self, inputs: Sequence[Tensor], leaves: Sequence[Tensor]) -> None:
        names = "ifg"[: len(leaves)]
        made = [self._script.fresh(name) for name in names]
        given = [self._script.name(x, INPUTS[name]) for x, name in zip(inputs, names, strict=True)]
        asked = [".requires_grad_()" if leaf.requires_grad else "" for leaf in leaves]
        right = ", ".join(f"{x}.detach(){ask}" for x, ask in zip(given, asked, strict=True))
        self._script.write(f"{', '.join(made)} = {right}")
        for name, leaf in zip(made, leaves, strict=True):
            self._script.stands_for(name, leaf)

    def call(self, callee: str, layout: str, igate: Tensor, fgate: Tensor) -> None:
        arguments = [
            arranged_text(self._script.name(gate, name), layout, gate.is_contiguous())
            for gate, name in zip((igate, fgate), GATES, strict=True)
        ]
        self._output = self._script.fresh("dtilde")
        self._script.write(f"{self._output} = {callee}({', '.join(arguments)})")

    def returned(self, output: object) -> None:
        self._script.returned(self._output, output)

    def detached(self, output: Tensor, copy: Tensor) -> None:
        self._script.stands_for(self._script.name(output, ""), copy, given=False)

    def pull(self, output: Tensor, leaves: Sequence[Tensor], G: Tensor, *, retain: bool) -> None:
        asked = [leaf.requires_grad for leaf in leaves]
        cotangent = self._script.name(G, "G")
        names = [self._script.fresh(n) if ask else "" for n, ask in zip(("di", "df"), asked, strict=True)]
        into = ", ".join(name for name in names if name) + ("," if sum(asked) == 1 else "")
        of = ", ".join(self._script.name(x, "") for x, ask in zip(leaves, asked, strict=True) if ask)
        of = f"({of})" if sum(asked) > 1 else of
        self._gradients = names
        self._write_pull(into, self._script.name(output, ""), of, cotangent, retain=retain)

    def _write_pull(self, into: str, output: str, of: str, cotangent: str, *, retain: bool) -> None:
        more = ", retain_graph=True" if retain else ""
        arguments = f"{output}, {of}, {cotangent}{more}, materialize_grads=True"
        self._script.write(f"{into} = torch.autograd.grad({arguments})")

    def pulled(self, gradients: Sequence[Tensor]) -> None:
        for name, gradient in zip(self._gradients, gradients, strict=True):
            self._script.returned(name, gradient if name else None)

    def in_a_child(self, callee: str, contract: Contract, inputs: Sequence[Tensor]) -> None:
        write, names = self._script.write, [self._script.fresh(name) for name in INPUTS.values()]
        for name, x in zip(names, inputs, strict=True):
            write(f"{name} = at_the_edge({values(x, self._script.store)[0]}, {side_of(x)!r})")
        asked = ".requires_grad_()" if contract.has_gradients else ""
        with self._script.block("def call():"):
            write(f"i, f = {names[0]}.detach(){asked}, {names[1]}.detach(){asked}")
            arguments = ", ".join(arranged_text(x, contract.gate_layout, True) for x in "if")
            write(f"dtilde = {callee}({arguments})")
            if contract.has_gradients:
                write(f"torch.autograd.grad(dtilde, (i, f), {names[2]}, materialize_grads=True)")
        write("died = dies(call)")

    # Derivatives

    @contextmanager
    def forward_mode(
        self, gates: Sequence[Tensor], direction: Sequence[Tensor], duals: Sequence[Tensor]
    ) -> Iterator[None]:
        write = self._script.write
        given = [self._script.name(x, name) for x, name in zip(gates, GATES, strict=True)]
        own = [f"{name}.clone()" if 0 in x.stride() else name for name, x in zip(given, gates, strict=True)]
        moved = self._moved(direction)
        with self._script.block("with refusals(), torch.autograd.forward_ad.dual_level():"):
            for name, x, v, dual in zip("if", own, moved, duals, strict=True):
                write(f"{name} = torch.autograd.forward_ad.make_dual({x}, {v})")
                self._script.stands_for(name, dual)
            yield
            write("tangent = torch.autograd.forward_ad.unpack_dual(dtilde).tangent")
            write('assert tangent is not None, "the output carries no tangent"')

    def _moved(self, direction: Sequence[Tensor]) -> list[str]:
        return [self._script.name(v, name) for v, name in zip(direction, ("v_i", "v_f"), strict=True)]

    def tangent(self, tangent: Tensor) -> None:
        self._script.returned("tangent", tangent)

    def pulled_twice(
        self,
        direction: Sequence[Tensor],
        took_part: Sequence[int],
        second: Sequence[Tensor],
    ) -> None:
        write, moved = self._script.write, self._moved(direction)
        with self._script.block("with refusals():"):
            write("first = torch.autograd.grad(dtilde, (i, f), g, create_graph=True, allow_unused=True)")
            parts = " + ".join(f"(first[{n}] * {moved[n]}).sum()" for n in took_part)
            write(f"torch.autograd.backward({parts})")
        for name, leaf, tensor in zip(("d_f", "d_G"), "fg", second, strict=True):
            write(f"{name} = torch.zeros_like({leaf}) if {leaf}.grad is None else {leaf}.grad")
            self._script.returned(name, tensor)

    # Transforms

    def compiled(self) -> None:
        self._script.write("compiled = torch.compile(kernel, dynamic=True)")

    def exported(self, layout: str, igate: Tensor, fgate: Tensor) -> None:
        with (
            self._script.block("class Module(torch.nn.Module):"),
            self._script.block("def forward(self, igate_preact, fgate_preact):"),
        ):
            self._script.write("return kernel(igate_preact, fgate_preact)")
        example = ", ".join(
            arranged_text(self._script.name(x, name), layout, x.is_contiguous())
            for x, name in zip((igate, fgate), GATES, strict=True)
        )
        self._script.write(f"exported = torch.export.export(Module(), ({example})).module()")

    def autocast(self, device: str) -> None:
        with (
            self._script.block("def automatic(igate_preact, fgate_preact):"),
            self._script.block(f"with torch.autocast({device!r}, dtype=torch.bfloat16):"),
        ):
            self._script.write("return kernel(igate_preact, fgate_preact)")

    def vmapped(
        self,
        contract: Contract,
        inputs: Sequence[Tensor],
        in_dims: tuple[int | None, int | None],
        G: Tensor,
    ) -> None:
        write = self._script.write
        gates = [self._script.name(x, name) for x, name in zip(inputs, ("igates", "fgates"), strict=True)]
        names = [self._script.fresh(name) for name in ("dtilde", "di", "df")]
        arguments = [arranged_text(name, contract.gate_layout, True) for name in ("i", "f")]
        cotangent = self._script.name(G, "G")
        with self._script.block("def one(i, f):"):
            write(f"return kernel({', '.join(arguments)})")
        if not contract.has_gradients:
            write(f"{names[0]} = torch.func.vmap(one, {in_dims})({', '.join(gates)})")
            self._gradients = names[:1]
            return
        with self._script.block("def pulled(igate_preact, fgate_preact):"):
            write("output, pull = torch.func.vjp(one, igate_preact, fgate_preact)")
            write(f"return output, *pull({cotangent})")
        write(f"{', '.join(names)} = torch.func.vmap(pulled, {in_dims})({', '.join(gates)})")
        self._gradients = names

    def vmap_returned(self, results: Sequence[Tensor]) -> None:
        for name, tensor in zip(self._gradients, results, strict=False):
            self._script.returned(name, tensor)

    # Accelerators

    def no_synchronisation(self, device: str) -> None:
        self._script.write(f'torch.{device}.set_sync_debug_mode("error")')

    @contextmanager
    def warm_up(self, device: str) -> Iterator[None]:
        module, graph = f"torch.{device}", f"torch.{device}.{device.upper()}Graph()"
        self._script.write(f"side = {module}.Stream()", f"side.wait_stream({module}.current_stream())")
        with self._script.unseeing(f"with {module}.stream(side):"):
            yield
        self._script.write(f"{module}.current_stream().wait_stream(side)", f"graph = {graph}")

    def capture(self, device: str) -> AbstractContextManager[None]:
        return self._script.unseeing(f"with torch.{device}.graph(graph):")

    def replayed(self, device: str, gates: Sequence[Tensor]) -> None:
        for gate in gates:
            self._script.name(gate, "")
        self._script.write("graph.replay()", f"torch.{device}.synchronize()")

    def late(self, gates: Mapping[str, Tensor], buffers: Sequence[Tensor], G: Tensor) -> None:
        for (name, x), buffer in zip(gates.items(), buffers, strict=True):
            self._script.write(f"late_{name} = torch.full_like({self._script.name(x, name)}, nan)")
            self._script.stands_for(f"late_{name}", buffer)
        self._script.name(G, "G")

    @contextmanager
    def side_stream(self, device: str, cycles: int) -> Iterator[None]:
        module = f"torch.{device}"
        self._script.write(f"{module}.synchronize()", f"side = {module}.Stream()")
        with self._script.unseeing(f"with {module}.stream(side):"):
            self._script.write(f"{module}._sleep({cycles})")
            for name in GATES:
                self._script.write(f"late_{name}.copy_({name})")
            yield
        self._script.write("side.synchronize()")

    def peak_from_here(self, device: str) -> None:
        self._script.write(f"torch.{device}.synchronize()", f"torch.{device}.reset_peak_memory_stats()")
        self._script.write(f"before = torch.{device}.memory_allocated()")

    def peak_to_here(self, device: str, kept: int) -> None:
        self._script.write(f"torch.{device}.synchronize()")
        self._script.write(f"taken = max(0, torch.{device}.max_memory_allocated() - before - {kept})")

    def last_row(self, G: Tensor) -> None:
        zeros = f"G = torch.zeros({tuple(G.shape)}, dtype={G.dtype}, device={G.device.type!r})"
        self._script.define(G, "G", zeros, "G[..., -1, :] = 1")

    # Fused kernels

    def fused_leaves(
        self, tensors: Mapping[str, Tensor], leaves: Mapping[str, Tensor], names: Mapping[str, str]
    ) -> None:
        for role, leaf in leaves.items():
            given, made = self._script.name(tensors[role], names[role]), self._script.fresh(f"{names[role]}_")
            asked = ".requires_grad_()" if leaf.requires_grad else ""
            self._script.write(f"{made} = {given}.detach(){asked}")
            self._script.stands_for(made, leaf)

    def call_fused(
        self,
        callee: str,
        tensors: Mapping[str, Tensor],
        names: Mapping[str, str],
        layout: str,
        per_time: Collection[str],
        more: Mapping[str, object],
    ) -> None:
        arguments = [
            fused_text(self._script.name(x, names[role]), layout, role in per_time, x.is_contiguous())
            if x.ndim == 4
            else self._script.name(x, names[role])
            for role, x in tensors.items()
        ]
        arguments += [f"{keyword}={self._value(value)}" for keyword, value in more.items()]
        self._output = self._script.fresh("o")
        self._script.write(f"{self._output} = {callee}({', '.join(arguments)})")

    def _value(self, value: object) -> str:
        """Return a keyword argument as code: a state, ends of sequences, a mask, or None."""
        if isinstance(value, Tensor) and value.dtype in (torch.int64, torch.bool):
            return f"torch.tensor({value.tolist()})" + (
                "" if value.device.type == "cpu" else f".to({value.device.type!r})"
            )
        if isinstance(value, Tensor) and id(value) not in self._states:
            return self._script.name(value, "S0")
        return "None" if value is None else self._states[id(value)][0]

    def returned_fused(self, output: Tensor, rest: Sequence[object]) -> None:
        if rest:
            state = self._script.fresh("state")
            left = [self._output, state]
            if len(rest) > 1 and isinstance(rest[1], list | tuple):
                left.append(self._script.fresh("states"))
                for n, one in enumerate(rest[1]):
                    self._keep_state(f"{left[-1]}[{n}]", one)
            left += ["*_"] if len(rest) >= len(left) else []
            lines = self._script.lines
            lines[-1] = lines[-1].replace(f"{self._output} = ", f"{', '.join(left)} = ", 1)
            self._keep_state(state, rest[0])
        self._script.returned(self._output, output)

    def _keep_state(self, name: str, state: object) -> None:
        """Record that a variable has this state, and which tensors a tuple or list of it has."""
        self._states[id(state)] = name, state
        parts = enumerate(state) if isinstance(state, tuple | list) else ()
        named = [(name, state), *((f"{name}[{n}]", x) for n, x in parts)]
        for part, x in named:
            if isinstance(x, Tensor):
                self._script.stands_for(part, x, given=False)

    def joined(self, result: Tensor, pieces: Sequence[tuple[Tensor, int, int]], name: str) -> None:
        parts = [f"{self._script.name(x, name)}[:, :, {start}:{end}]" for x, start, end in pieces]
        made = self._script.fresh(f"{name}_part" if name != "o" else "o")
        part = (
            len(parts) == 1
            and result.untyped_storage().data_ptr() == pieces[0][0].untyped_storage().data_ptr()
        )
        whole = parts[0] if part else f"torch.cat([{', '.join(parts)}], 2)"
        self._script.write(f"{made} = {whole}")
        self._script.stands_for(made, result, given=False)
        self._joined.append(result)

    def copied(self, copy: object, state: object, made_by: str) -> None:
        name = self._script.fresh("copy")
        self._script.write(f"{name} = {made_by.format(self._value(state))}")
        self._keep_state(name, copy)

    def pull_fused(
        self,
        outputs: Mapping[str, tuple[Tensor, Tensor]],
        leaves: Mapping[str, Tensor],
        names: Mapping[str, str],
        layout: str,
        *,
        retain: bool,
    ) -> None:
        (output, W), *states = outputs.values()
        as_it_is = layout == "BHSD" or any(output is x for x in self._joined)
        cotangent = self._script.name(W, "W") + ("" if as_it_is else ".transpose(1, 2)")
        pulled = self._script.name(output, "")
        for state, W_state in states:
            pulled = f"({pulled}, {self._states[id(state)][0]})"
            cotangent = f"({cotangent}, {self._script.name(W_state, 'W_S')})"
        self._gradients = [self._script.fresh(f"d{names[role]}") for role in leaves]
        of = ", ".join(self._script.name(leaf, "") for leaf in leaves.values())
        into = ", ".join(self._gradients) + ","
        self._write_pull(into, pulled, f"({of},)", cotangent, retain=retain)

    def pulled_fused(self, gradients: Sequence[Tensor]) -> None:
        for name, gradient in zip(self._gradients, gradients, strict=True):
            self._script.returned(name, gradient)


def arranged_text(name: str, layout: str, contiguous: bool) -> str:
    """Return code that converts a gate (B, NH, S, 1) to the contract's axes, like law.subject.arranged."""
    if layout == "B NH S 1":
        return name
    if layout == "B NH S":
        return f"{name}.squeeze(-1)"
    return f"{name}.squeeze(-1).transpose(1, 2)" + (".contiguous()" if contiguous else "")


def fused_text(name: str, layout: str, flat: bool, contiguous: bool) -> str:
    """Return code that converts a tensor (B, NH, S, n) to a kernel's axes, like kernel.fused.arranged."""
    kept = f"{name}.squeeze(-1)" if flat else name
    return kept if layout == "BHSD" else f"{kept}.transpose(1, 2)" + (".contiguous()" if contiguous else "")
