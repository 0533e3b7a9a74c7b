"""Fused kernels: operators on q, k, v and gates, held to laws of the D~ that can be read out of them.

docs/fused.md has the mathematics. `fused` is how a user names one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from dmat.testing.contract import Contract, FusedContract, rows
from dmat.testing.kernel.segment_sum import from_segment_sum

# The fields of reads="log", where D~ itself is computed: those of both kinds, and whether it has gradients.
OF_LOG = (*(name for name in rows(Contract) if name in rows(FusedContract)), Contract.of_gradients)


def fused(fn: Callable[..., Any], *, reads: str = "linear", **contract: Any) -> Callable[..., Any]:
    """Return fn, promised to be an operator o = fn(q, k, v, [i,] [l or f], ...) in which D~ stands.

    reads: "linear", "mlstm", "softmax", as dmat.testing.FusedContract has it, whose fields the other keywords
    are; or "log", where fn is itself a function of log gates, (B, NH, S) -> (B, NH, S, S), as Mamba-2's
    segsum is: then dmat.testing.from_segment_sum. q, k: (B, NH, S, K), v: (B, NH, S, V), gates (B, NH, S),
    in the order of `layout`. fn returns o, (B, NH, S, V) of the dtype of v, or (o, state, ...).

    Raises TypeError for a field that does not exist, ValueError for a value that is none.
    """
    if not callable(fn):
        raise TypeError(f"fn is {fn!r}; expected a callable")
    if reads == "log":
        _require_known(contract, OF_LOG, 'fused(reads="log")')
        return from_segment_sum(fn, **contract)
    _require_known(contract, rows(FusedContract), "fused()")
    promised = FusedContract(reads=reads, **contract)

    @functools.wraps(fn)
    def kernel(*arguments: Any, **keywords: Any) -> Any:
        return fn(*arguments, **keywords)

    kernel.__dmat_contract__ = promised  # type: ignore[attr-defined]
    return kernel


def _require_known(contract: dict[str, Any], known: Any, where: str) -> None:
    unknown = [name for name in contract if name not in known]
    if unknown:
        raise TypeError(f"{unknown[0]!r} is no field of {where}; expected {', '.join(known)}")
