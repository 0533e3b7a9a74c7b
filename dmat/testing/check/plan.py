"""The request of a check, and its plan: implementations, dtypes and devices that are promised.

A worker writes the plan to a file, so that the controller knows the targets without loading them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from dmat.testing.output import written
from dmat.testing.record import stated, text_of

if TYPE_CHECKING:
    from dmat.testing.kernel.select import Chosen


STOP = "stop"  # a file in the folder of the journals: no worker begins another task


class Request(Struct, frozen=True):
    """What to check. All paths are absolute.

    first: stop at the first broken law. corpora: folders of cases to try first, which must exist.
    counterexamples: the folder for failures, or None. folder: an empty folder for journals and claims.
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

    error: the reason why nothing can be checked, else "".
    """

    laws: dict[str, list[str]] = {}
    subjects: list[PlannedSubject] = []
    error: str = ""

    def write(self, file: Path) -> None:
        """Write the plan atomically: several processes may write it at once."""
        written(text_of(self), file)

    @classmethod
    def read(cls, file: Path) -> Plan:
        """Read a plan that `write` wrote."""
        return msgspec.convert(json.loads(file.read_text()), cls)


def subject_id(name: str, dtype: str, device: str, part: str) -> str:
    """Return the name of a subject in test ids. Characters that ids cannot contain become "_"."""
    label = re.sub(r"[^\w.:]", "_", name.replace("\\", "/"))
    return f"{label}-{dtype}-{device}" + ("" if part == "all" else f"-{part}")


def subject_ids(name: str, dtype: str, device: str) -> list[str]:
    """Return the ids of all parts of a subject."""
    return [subject_id(name, dtype, device, part) for part in ("all", "ladder", "search")]
