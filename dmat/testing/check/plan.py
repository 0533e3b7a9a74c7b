"""The request of a check, and its plan: implementations, dtypes and devices that are promised.

A worker writes the plan to a file, so that the controller knows the targets without loading them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from dmat.testing.record import stated

if TYPE_CHECKING:
    from dmat.testing.kernel.select import Chosen


EXAMPLES = 200  # random cases per law and dtype, after the cases of its ladder
STOP = "stop"  # a file in the folder of the journals: no worker begins another task


class Request(Struct, frozen=True):
    """What to check. All paths are absolute.

    first: stop at the first broken law. corpora: folders of cases to try first, which must exist.
    counterexamples: the folder for failures, or None. folder: an empty folder for journals and claims.
    seed: of the random cases. shapes: sizes (B, NH, S) or (B, NH, S, K, V) that are tried too.
    until: the time.monotonic() from which on no further law is begun. processes: how many try the laws.
    archs: the GPUs for which interpreted launches are compiled; none: those that dmat chooses.
    """

    targets: list[str]
    devices: list[str]
    dtypes: list[str]
    examples: int
    time_limit: float
    corpora: list[Path]
    counterexamples: Path | None
    folder: Path
    first: bool = False
    seed: int = 0
    shapes: tuple[tuple[int, ...], ...] = ()
    until: float | None = None
    processes: int = 1
    archs: tuple[str, ...] = ()


def planned(chosen: Sequence[Chosen]) -> list[PlannedSubject]:
    """Return the selection as plain data, for a process that has not loaded the implementations."""
    return [
        PlannedSubject(i.name, stated(i.contract.stated()), dtype, device, i.kind)
        for i, dtype, device in chosen
    ]


class PlannedSubject(Struct, frozen=True):
    """An implementation, the promises that its contract states, and a dtype and device to check.

    kind: "D~" or "fused", the kind of its laws.
    """

    implementation: str
    contract: dict[str, Any]
    dtype: str
    device: str
    kind: str = "D~"


class Plan(Struct, frozen=True):
    """The names of all laws by kind of kernel, in order, and the subjects to check.

    families: the family of each law. error: the reason why nothing can be checked, else "".
    """

    laws: dict[str, list[str]] = {}
    subjects: list[PlannedSubject] = []
    families: dict[str, str] = {}
    error: str = ""
