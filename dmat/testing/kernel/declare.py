"""The decorator `fused`, by which a user declares a fused kernel: an operator on q, k, v and gates.

The output of a fused kernel contains D~, so that the laws of D~ apply to it. docs/fused.md has the
mathematics.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from dmat.testing.contract import Contract, FusedContract, rows
from dmat.testing.kernel.segment_sum import from_segment_sum

# The fields of reads="log", where fn computes D~ itself: the fields of both kinds, and the one of gradients.
OF_LOG = (*(name for name in rows(Contract) if name in rows(FusedContract)), Contract.of_gradients)


def fused(fn: Callable[..., Any], *, reads: str = "linear", **contract: Any) -> Callable[..., Any]:
    """Declare fn to be an operator o = fn(q, k, v, [i,] [l or f], ...) that contains D~; return it.

    reads: the kind of operator, "linear", "mlstm", "softmax", "normalised" or "delta". The other keywords
    are the fields of dmat.testing.FusedContract. reads="log": fn is a function of log gates,
    (B, NH, S) -> (B, NH, S, S), like Mamba-2's segsum, and dmat.testing.from_segment_sum makes D~ of it.
    Shapes: q, k (B, NH, S, K), v (B, NH, S, V), gates and beta (B, NH, S), with the axes in the order of
    `layout`.
    fn returns o, (B, NH, S, V) of the dtype of v, or (o, state, ...).

    Raises TypeError for a field that does not exist, ValueError for a value that its field does not allow.
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


GONE = {
    "keys": 'write reads="delta" in its place, and let fn take beta, (B, NH, S), after the gate: keys '
    "overlap, and beta is not 1 (docs/fused.md section 5)"
}


def _require_known(contract: dict[str, Any], known: Any, where: str) -> None:
    gone = next((name for name in contract if name in GONE), None)
    if gone is not None:
        raise TypeError(f"{gone!r} is no field of {where} any more; {GONE[gone]}")
    unknown = [name for name in contract if name not in known]
    if unknown:
        raise TypeError(f"{unknown[0]!r} is no field of {where}; expected {', '.join(known)}")
