"""An implementation: a function, its name, and its contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dmat.testing import devices
from dmat.testing.contract import AnyContract, contract_of


@dataclass(frozen=True)
class Implementation:
    """A kernel's function, its name in reports, and its contract.

    function: of a D~ kernel (igate_preact, fgate_preact) -> D~; of a fused kernel (q, k, v, ...) -> o.
    refuses: the sizes K that it has refused by dtype and device, where its contract states none.
    """

    name: str
    function: Callable[..., object]
    contract: AnyContract
    refuses: dict[tuple[str, str], list[int]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, name: str, function: Callable[..., object]) -> Implementation:
        """Use the contract that the function was decorated with, else the strictest default."""
        return cls(name, function, contract_of(function))

    def __hash__(self) -> int:
        """Return the hash of the name: a contract may hold a mapping, which has none."""
        return hash(self.name)

    @property
    def kind(self) -> str:
        """The kind of the kernel, as its contract states it."""
        return self.contract.kind

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that the contract promises and this machine has."""
        promised = self.contract.devices
        return devices.here() if promised is None else tuple(d for d in promised if devices.is_there(d))
