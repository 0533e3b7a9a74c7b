"""dtilde, the log-gate decay matrix D~ of mLSTM, with a derivative of its own.

D~[t, s] = i[s] + sum over k = s+1 .. t of log sigmoid(f[k]) for s <= t, and -inf for s > t.
The linear part, and its adjoint, stand in dmat/segments.py; here the gates are joined to it.
"""

from __future__ import annotations

import os
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from dmat.segments import check_tensor, differentiable_window_sums, write_window_sums

MaskedCotangent = Literal["ignored", "summed"]

# An output smaller than this is allocated without asking the driver how much memory is free.
ALWAYS_FITS = 2**28  # bytes


def log_sigmoid(f: Tensor) -> Tensor:
    """min(f, 0) - log1p(exp(-|f|)): accurate relatively for every f, never inf - inf.

    Its autograd gives sigmoid(-f) as well as that, not 1 - sigmoid(f), which has no digits left
    where the gate is open; and further derivatives, in every nesting of modes. No Function of its
    own: one that saves a tensor is silently wrong under forward mode in forward mode (torch 2.13).
    """
    negative = f < 0
    minus_abs = torch.where(negative, f, -f)  # not -f.abs(), whose derivative at 0 is 0
    return torch.where(negative, f, 0.0) - torch.log1p(torch.exp(minus_abs))


def dtilde(
    igate_preact: Float[Tensor, "B NH S 1"],
    fgate_preact: Float[Tensor, "B NH S 1"],
    *,
    masked_cotangent: MaskedCotangent = "ignored",
    out: Float[Tensor, "B NH S S"] | None = None,
) -> Float[Tensor, "B NH S S"]:
    """Log-gate decay matrix: D~[t, s] = i[s] + sum over k = s+1 .. t of log sigmoid(f[k]).

    Row t is the time of reading, column s the time of writing, entries are in nats. The diagonal is
    igate_preact; above it stands -inf whatever the gates hold. f = -inf resets, i = -inf closes its
    column, and a NaN is in exactly the entries that read it. Accuracy class (window, float64) of
    docs/spec.md section 3 for every dtype; the derivative (section 2) is right to any order, in
    reverse and forward mode and under vmap. Any of B, NH, S may be 0; any strides.

    Args:
        igate_preact: input gates before their exponential, (B, NH, S, 1), of float64, float32,
            bfloat16 or float16.
        fgate_preact: forget gates before their sigmoid, same shape, dtype and device.
        masked_cotangent: what becomes of cotangents above the diagonal, where the output is
            constant. "ignored": they are not read, the derivative. "summed": they are passed on to
            the input gate, as autograd of a mask that is added does.
        out: memory to write into, (B, NH, S, S) of the gates' dtype and device, any strides that give
            each element its own place. Then there is no derivative, as with any `out` of torch.

    Returns:
        A new tensor of shape (B, NH, S, S), with the dtype and device of the gates; or out.

    Raises:
        TypeError: a gate is no tensor or of another dtype, or the two dtypes differ.
        ValueError: a shape is not (B, NH, S, 1), shapes or devices differ, masked_cotangent is
            unknown, the output does not fit in memory, or out is no place for it. Out is left as it was.
        RuntimeError: out is given, and a gate needs a gradient or carries a tangent.
    """
    _check_gates(igate_preact, fgate_preact)
    if masked_cotangent not in get_args(MaskedCotangent):
        raise ValueError(f'masked_cotangent is {masked_cotangent!r}; expected "ignored" or "summed"')
    if out is None:
        _check_memory(igate_preact)
    else:
        _check_out(out, igate_preact, fgate_preact)
    i, f = igate_preact.squeeze(-1), fgate_preact.squeeze(-1)
    log_decay = log_sigmoid(f.double())
    summed = masked_cotangent == "summed"
    if out is None:
        return differentiable_window_sums(i, log_decay, -torch.inf, summed, i.dtype)
    write_window_sums(i.clone(), log_decay, -torch.inf, out)  # a clone: out may lie over the gates
    return out


def vlstm_fwbw_Dtildemat(
    igate_preact: Float[Tensor, "B NH S 1"], fgate_preact: Float[Tensor, "B NH S 1"]
) -> Float[Tensor, "B NH S S"]:
    """D~ with its own backward, under the notebook's name and with the notebook's gradient.

    `dtilde` with masked_cotangent="summed": cotangents above the diagonal go to the input gate, so
    that D~.sum() has the gradient S at every input gate. Shapes, dtypes and errors as there.
    """
    return dtilde(igate_preact, fgate_preact, masked_cotangent="summed")


def _check_gates(igate_preact: Tensor, fgate_preact: Tensor) -> None:
    """Raise unless the two are gates of shape (B, NH, S, 1), alike in dtype, shape and device."""
    gates = {"igate_preact": igate_preact, "fgate_preact": fgate_preact}
    for name, gate in gates.items():
        check_tensor(name, gate)
    _check_alike("dtype", igate_preact.dtype, fgate_preact.dtype, TypeError)
    for name, gate in gates.items():
        if gate.ndim != 4 or gate.shape[-1] != 1:
            raise ValueError(f"{name} has shape {tuple(gate.shape)}; expected (B, NH, S, 1)")
    _check_alike("shape", tuple(igate_preact.shape), tuple(fgate_preact.shape), ValueError)
    _check_alike("device", igate_preact.device, fgate_preact.device, ValueError)


def _check_alike(what: str, igate: object, fgate: object, error: type[Exception]) -> None:
    """Raise unless both gates have the same."""
    if igate != fgate:
        raise error(f"fgate_preact has {what} {fgate}; expected {igate}, the {what} of igate_preact")


def _check_out(out: Tensor, igate_preact: Tensor, fgate_preact: Tensor) -> None:
    """Raise unless D~ can be written into out, and nobody asks for its derivative."""
    if not isinstance(out, Tensor):
        raise TypeError(f"out is a {type(out).__name__}; expected a torch.Tensor")
    B, NH, S, _ = igate_preact.shape
    _check_out_has("dtype", out.dtype, igate_preact.dtype, TypeError)
    _check_out_has("shape", tuple(out.shape), (B, NH, S, S), ValueError)
    _check_out_has("device", out.device, igate_preact.device, ValueError)
    if _overlaps_itself(out):
        raise ValueError(
            f"out has shape {tuple(out.shape)} and strides {out.stride()}, so that elements share memory; "
            f"expected each in a place of its own"
        )
    gates = {"igate_preact": igate_preact, "fgate_preact": fgate_preact}
    for name, x in {**gates, "out": out}.items():
        if (torch.is_grad_enabled() and x.requires_grad) or _has_tangent(x):
            raise RuntimeError(
                f"out is given and {name} needs a derivative; expected gates and out without one "
                f"(torch.no_grad, or detach)"
            )


def _check_out_has(what: str, found: object, expected: object, error: type[Exception]) -> None:
    """Raise unless out has what was expected."""
    if found != expected:
        raise error(f"out has {what} {found}; expected {expected}")


def _has_tangent(x: Tensor) -> bool:
    """Whether x is differentiated in forward mode."""
    return unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]


def _overlaps_itself(x: Tensor) -> bool:
    """Whether two elements of x may share a place: a stride does not step over all that lies within it."""
    within = 0
    for stride, size in sorted(
        (stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1
    ):
        if stride <= within:
            return x.numel() > 0
        within += stride * (size - 1)
    return False


def _check_memory(igate_preact: Tensor) -> None:
    """Raise unless memory can hold the output: it grows with S squared, and is easily too big."""
    B, NH, S, _ = igate_preact.shape
    needed = B * NH * S * S * igate_preact.element_size()
    if torch.compiler.is_compiling() or needed < ALWAYS_FITS:
        return
    available = _memory(igate_preact.device)
    if available is not None and needed > available:
        raise ValueError(
            f"igate_preact has shape {tuple(igate_preact.shape)}: an output of shape "
            f"{(B, NH, S, S)} in {igate_preact.dtype} needs {needed / 2**30:.1f} GiB, and "
            f"{igate_preact.device} has {available / 2**30:.1f} GiB; expected an S for which "
            f"B NH S S elements fit"
        )


def _memory(device: torch.device) -> int | None:
    """Bytes that one tensor could take at most: the device's free memory, the machine's memory, or None."""
    if device.type == "cpu" and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    module: Any = getattr(torch, device.type, None)  # torch.cuda, torch.xpu, ...; torch.meta there is none
    if not hasattr(module, "mem_get_info"):
        return None
    cached = module.memory_reserved(device) - module.memory_allocated(device)
    return int(module.mem_get_info(device)[0] + cached)
