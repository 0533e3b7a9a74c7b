"""The contract that a function carries: stated by a decorator, or the strictest default."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from dmat.testing.contract.dtilde import Contract
from dmat.testing.contract.fused import FusedContract
from dmat.testing.contract.rows import rows

Kernel = TypeVar("Kernel", bound=Callable[..., Any])
AnyContract = Contract | FusedContract


def implementation(**contract: Any) -> Callable[[Kernel], Kernel]:
    """Return a decorator that attaches a contract to a function (igate_preact, fgate_preact) -> D~.

    The decorator returns the function itself. The keywords are the fields of Contract. Raises TypeError for a
    field that does not exist, ValueError for a value that the field does not allow.
    """
    require_fields(contract)
    promised = Contract(**contract)

    def attach(kernel: Kernel) -> Kernel:
        if not callable(kernel):
            raise TypeError(f"implementation() decorates {kernel!r}; expected a callable")
        kernel.__dmat_contract__ = promised  # type: ignore[attr-defined]
        return kernel

    return attach


def require_fields(names: Iterable[str]) -> None:
    """Raise TypeError for a name that is no field of Contract."""
    unknown = [name for name in names if name not in rows(Contract)]
    if unknown:
        raise TypeError(f"{unknown[0]!r} is no field of a contract; expected {', '.join(rows(Contract))}")


def contract_of(kernel: object) -> AnyContract:
    """Return the contract attached to a function, else the strictest default."""
    promised = getattr(kernel, "__dmat_contract__", None)
    return promised if isinstance(promised, AnyContract) else Contract()
