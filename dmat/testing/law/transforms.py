"""A D~ kernel under a transform of torch: compiled, exported, under autocast, vmapped.

Each transform except vmap returns a subject with the same contract, which a law calls like any other subject.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from dmat.testing.kernel.call import raised
from dmat.testing.kernel.dtilde import arranged
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.verdict.finding import LawBroken

InDims = tuple[int | None, int | None]


def judge_compiled(subject: DtildeSubject, judge: Callable[[DtildeSubject], None]) -> None:
    """Judge the subject under torch.compile, with one graph for all lengths. Raises what judge raises.

    torch.compile keeps what it built for later processes. A process that was killed can leave a file that is
    cut short, which is no fault of the kernel. So a call that raises is tried once more without such files.
    """
    try:
        judge(_under_compile(subject))
        return
    except LawBroken as broken:
        if broken.__cause__ is None or _own_compiler_cache.cache_info().currsize:
            raise
    _own_compiler_cache()
    judge(_under_compile(subject))


def _under_compile(subject: DtildeSubject) -> DtildeSubject:
    subject.recorder.compiled()
    return subject.calling(_compiled(subject.implementation, subject.dtype), "compiled")


@lru_cache(maxsize=1)
def _compiled(implementation: Implementation, dtype: str) -> Callable[..., object]:
    """Compile once for all cases of a law. dtype: part of the cache key, for another dtype recompiles."""
    torch.compiler.reset()
    return torch.compile(implementation.function, dynamic=True)


@lru_cache(maxsize=1)
def _own_compiler_cache() -> None:
    """From here on this process compiles into an empty folder of its own."""
    from torch._inductor.utils import clear_caches  # 1.7 s of imports that no other law needs

    folder = tempfile.mkdtemp(prefix="dmat-inductor-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ.update(TORCHINDUCTOR_CACHE_DIR=folder, TRITON_CACHE_DIR=os.path.join(folder, "triton"))
    clear_caches()
    _compiled.cache_clear()


def exported(subject: DtildeSubject, igate: Tensor, fgate: Tensor) -> DtildeSubject:
    """Return the subject under torch.export for gates of this shape. Raises LawBroken if that fails."""
    function, layout = subject.implementation.function, subject.contract.gate_layout

    class Module(torch.nn.Module):
        def forward(self, igate_preact: Tensor, fgate_preact: Tensor) -> object:
            return function(igate_preact, fgate_preact)

    subject.recorder.exported(layout, igate, fgate)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(Module(), tuple(arranged(x, layout) for x in (igate, fgate)))
            return subject.calling(program.module(), "exported")
    except (Exception, SystemExit) as error:  # a user's kernel may raise anything
        raise LawBroken(raised("D~", error)) from error


def under_autocast(subject: DtildeSubject) -> DtildeSubject:
    """Return the subject under autocast to bfloat16."""
    function = subject.implementation.function

    def automatic(igate_preact: Tensor, fgate_preact: Tensor) -> object:
        with torch.autocast(subject.device, dtype=torch.bfloat16):
            return function(igate_preact, fgate_preact)

    subject.recorder.autocast(subject.device)
    return subject.calling(automatic, "automatic")


def vmapped(
    subject: DtildeSubject, inputs: Sequence[Tensor], in_dims: InDims, G: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Call the kernel under torch.func.vmap; return D~, di and df for G of every sample, batch first.

    in_dims: 0 for a gate with a batch axis, None for a gate that all samples share. Gradients that the
    contract does not promise are zeros. Raises LawBroken if vmap raises.
    """

    recorder, subject = subject.recorder, subject.unrecorded()

    def pulled(igate: Tensor, fgate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not subject.contract.has_gradients:
            return subject.call(igate, fgate), torch.zeros_like(igate), torch.zeros_like(fgate)
        output, pull = torch.func.vjp(subject.call, igate, fgate)  # type: ignore[misc]
        di, df = pull(G)
        return output, di, df

    recorder.vmapped(subject.contract, inputs, in_dims, G)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output, di, df = torch.func.vmap(pulled, in_dims)(*inputs)
    except LawBroken:
        raise
    except (Exception, SystemExit) as error:  # a user's backward may raise anything
        raise LawBroken(raised("gradients", error)) from error
    recorder.vmap_returned((output, di, df))
    return output, di, df
