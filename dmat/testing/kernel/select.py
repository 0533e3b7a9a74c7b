"""Select implementations, dtypes and devices: those requested, as far as the contract promises them."""

from __future__ import annotations

from collections.abc import Sequence

from dmat.testing.contract.names import DEVICES_EXPECTED, require_known
from dmat.testing.devices import in_words, is_known, is_there, lacks
from dmat.testing.errors import SelectionError
from dmat.testing.kernel.builtin import BUILTIN
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.kernel.load import load

Chosen = tuple[Implementation, str, str]


def select(
    targets: Sequence[str] = (),
    devices: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    *,
    otherwise: Sequence[Implementation] = BUILTIN,
) -> list[Chosen]:
    """Return (implementation, dtype, device) for every combination of the three lists.

    An empty list of dtypes or devices means all that the contract promises. otherwise: the implementations
    to use if no target is named.

    Raises TargetError for a target that cannot be loaded, and SelectionError for a dtype or device that is
    unknown, absent from this machine, or not promised.
    """
    require_known(targets, devices, dtypes)
    loaded = [load(target) for target in dict.fromkeys(targets)]
    _require_there(devices)
    chosen: list[Chosen] = []
    for implementation in loaded or otherwise:
        chosen += _of(implementation, devices, dtypes)
    return chosen


def implementation_named(name: str) -> Implementation:
    """Return the implementation with this name in reports: a built-in one, or else the TARGET, loaded."""
    builtin = (implementation for implementation in BUILTIN if implementation.name == name)
    return next(builtin, None) or load(name)


def _require_there(devices: Sequence[str]) -> None:
    """Raise SelectionError for a device that torch does not know, or that this machine has not."""
    for device in devices:
        if not is_known(device):
            raise SelectionError(f"device is {device!r}; expected {DEVICES_EXPECTED}")
        if not is_there(device):
            raise SelectionError(f"device is {device!r}; this machine has no {in_words(device)} device")


def _of(implementation: Implementation, devices: Sequence[str], dtypes: Sequence[str]) -> list[Chosen]:
    contract = implementation.contract
    for dtype in dtypes:
        if dtype not in contract.dtypes:
            promised = ", ".join(contract.dtypes)
            raise SelectionError(f"dtype is {dtype!r}; {implementation.name} promises {promised}")
    for device in devices:
        if contract.devices is not None and device not in contract.devices:
            promised = ", ".join(contract.devices)
            raise SelectionError(f"device is {device!r}; {implementation.name} promises {promised}")
    places = tuple(dict.fromkeys(devices)) or implementation.devices
    if not places:
        promised = ", ".join(contract.devices or ())
        raise SelectionError(f"{implementation.name} promises {promised}; this machine has none")
    wanted = [dtype for dtype in contract.dtypes if not dtypes or dtype in dtypes]
    reasons = [lacks(dtype, device) for device in places for dtype in wanted]
    if all(reasons):
        raise SelectionError(f"dtype is {wanted[0]!r}; {reasons[0]}")
    return [(implementation, dtype, device) for device in places for dtype in wanted]
