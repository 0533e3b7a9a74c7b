"""An implementation under a transform of torch: compiled, exported, under autocast, vmapped.

Each but vmap gives a subject of the same promises, to be called like any other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from dmat.testing.subject import Implementation, Subject, arranged, raised
from dmat.testing.transcript import Transcript, arranged_text
from dmat.testing.verdict import LawBroken

InDims = tuple[int | None, int | None]


def compiled(subject: Subject) -> Subject:
    """Return it under torch.compile, one graph for all lengths."""
    if subject.transcript:
        subject.transcript.write("compiled = torch.compile(kernel, dynamic=True)")
    return subject.calling(_compiled(subject.implementation, subject.dtype), "compiled")


@lru_cache(maxsize=1)
def _compiled(implementation: Implementation, dtype: str) -> Callable[..., object]:
    """Compile once for all cases of a law; a kernel of another dtype would count as a recompilation."""
    torch.compiler.reset()
    return torch.compile(implementation.function, dynamic=True)


def exported(subject: Subject, igate: Tensor, fgate: Tensor) -> Subject:
    """Return it as torch.export gives it for gates of this shape; LawBroken where that raises."""
    function, layout = subject.implementation.function, subject.contract.gate_layout

    class Module(torch.nn.Module):
        def forward(self, igate_preact: Tensor, fgate_preact: Tensor) -> object:
            return function(igate_preact, fgate_preact)

    if subject.transcript:
        _write_export(subject.transcript, layout, igate, fgate)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(Module(), tuple(arranged(x, layout) for x in (igate, fgate)))
            return subject.calling(program.module(), "exported")
    except (Exception, SystemExit) as error:  # whatever a user's kernel may raise
        raise LawBroken(raised("D~", error)) from error


def _write_export(transcript: Transcript, layout: str, igate: Tensor, fgate: Tensor) -> None:
    gates = zip((igate, fgate), ("igate_preact", "fgate_preact"), strict=True)
    example = (arranged_text(transcript.name(x, name), layout, x.is_contiguous()) for x, name in gates)
    with (
        transcript.block("class Module(torch.nn.Module):"),
        transcript.block("def forward(self, igate_preact, fgate_preact):"),
    ):
        transcript.write("return kernel(igate_preact, fgate_preact)")
    transcript.write(f"exported = torch.export.export(Module(), ({', '.join(example)})).module()")


def under_autocast(subject: Subject) -> Subject:
    """Return it under autocast to bfloat16."""
    function = subject.implementation.function

    def automatic(igate_preact: Tensor, fgate_preact: Tensor) -> object:
        with torch.autocast(subject.device, dtype=torch.bfloat16):
            return function(igate_preact, fgate_preact)

    if subject.transcript:
        with (
            subject.transcript.block("def automatic(igate_preact, fgate_preact):"),
            subject.transcript.block(f"with torch.autocast({subject.device!r}, dtype=torch.bfloat16):"),
        ):
            subject.transcript.write("return kernel(igate_preact, fgate_preact)")
    return subject.calling(automatic, "automatic")


def vmapped(
    subject: Subject, inputs: Sequence[Tensor], in_dims: InDims, G: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Call it under torch.func.vmap; return every D~, di and df for G, batch first.

    in_dims: for each gate 0, or None where all calls share it. Gradients that the contract does not have
    are zeros. Raises LawBroken where vmap does.
    """

    transcript, subject = subject.transcript, subject.unrecorded()

    def pulled(igate: Tensor, fgate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not subject.contract.has_gradients:
            return subject.call(igate, fgate), torch.zeros_like(igate), torch.zeros_like(fgate)
        output, pull = torch.func.vjp(subject.call, igate, fgate)  # type: ignore[misc]
        di, df = pull(G)
        return output, di, df

    names = _write_vmap(transcript, subject, inputs, in_dims, G) if transcript else ()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output, di, df = torch.func.vmap(pulled, in_dims)(*inputs)
    except LawBroken:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's backward may raise
        raise LawBroken(raised("gradients", error)) from error
    for name, tensor in zip(names, (output, di, df), strict=False):
        assert transcript
        transcript.returned(name, tensor)
    return output, di, df


def _write_vmap(
    transcript: Transcript, subject: Subject, inputs: Sequence[Tensor], in_dims: InDims, G: Tensor
) -> tuple[str, ...]:
    """Write the call that is about to be made; return the names of its results."""
    gates = [transcript.name(x, name) for x, name in zip(inputs, ("igates", "fgates"), strict=True)]
    names = tuple(transcript.fresh(name) for name in ("dtilde", "di", "df"))
    arguments = [arranged_text(name, subject.contract.gate_layout, True) for name in ("i", "f")]
    cotangent = transcript.name(G, "G")
    with transcript.block("def one(i, f):"):
        transcript.write(f"return kernel({', '.join(arguments)})")
    if not subject.contract.has_gradients:
        transcript.write(f"{names[0]} = torch.func.vmap(one, {in_dims})({', '.join(gates)})")
        return names[:1]
    with transcript.block("def pulled(igate_preact, fgate_preact):"):
        transcript.write("output, pull = torch.func.vjp(one, igate_preact, fgate_preact)")
        transcript.write(f"return output, *pull({cotangent})")
    transcript.write(f"{', '.join(names)} = torch.func.vmap(pulled, {in_dims})({', '.join(gates)})")
    return names
