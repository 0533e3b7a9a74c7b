"""An implementation: a function, its name, and what it promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from dmat.testing.contract import DEVICES, AnyContract, contract_of


@dataclass(frozen=True)
class Implementation:
    """A function (igate_preact, fgate_preact) -> D~, its name in reports, and what it promises."""

    name: str
    function: Callable[..., object]
    contract: AnyContract

    @classmethod
    def of(cls, name: str, function: Callable[..., object]) -> Implementation:
        """Take the contract that the function was decorated with, else the strictest default."""
        return cls(name, function, contract_of(function))

    @property
    def kind(self) -> str:
        """The kind of the kernel, as its contract states it."""
        return self.contract.kind

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that it promises and this machine has."""
        present = {"cpu": True, "cuda": torch.cuda.is_available()}
        return tuple(d for d in self.contract.devices or DEVICES if present[d])
