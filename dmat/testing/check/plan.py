"""The plan of a check: implementations, dtypes and devices that are requested and promised.

A worker writes the plan to a file, so that the controller knows the targets without loading them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmat.testing.kernel.select import Chosen


def planned(chosen: Sequence[Chosen]) -> list[Planned]:
    """Return the selection as plain data, for a process that has not loaded the implementations."""
    return [Planned(i.name, i.contract.stated(), dtype, device, i.kind) for i, dtype, device in chosen]


@dataclass(frozen=True)
class Planned:
    """An implementation, the promises that its contract states, and a dtype and device to check.

    kind: "D~" or "fused", the kind of its laws.
    """

    implementation: str
    contract: dict[str, object]
    dtype: str
    device: str
    kind: str = "D~"


@dataclass(frozen=True)
class Plan:
    """The names of all laws by kind of kernel, in order, and the subjects to check.

    error: the reason why nothing can be checked, else "".
    """

    laws: Mapping[str, Sequence[str]] = field(default_factory=dict)
    subjects: Sequence[Planned] = ()
    error: str = ""

    def write(self, file: Path) -> None:
        """Write the plan atomically: several processes may write it at once."""
        beside = file.with_name(f"{file.name}-{os.getpid()}")
        beside.write_text(json.dumps(asdict(self), default=str))
        beside.replace(file)

    @classmethod
    def read(cls, file: Path) -> Plan:
        """Read a plan that `write` wrote."""
        plain = json.loads(file.read_text())
        return cls(plain["laws"], [Planned(**subject) for subject in plain["subjects"]], plain["error"])


def subject_id(name: str, dtype: str, device: str, part: str) -> str:
    """Return the name of a subject in test ids. Characters that ids cannot contain become "_"."""
    label = re.sub(r"[^\w.:]", "_", name.replace("\\", "/"))
    return f"{label}-{dtype}-{device}" + ("" if part == "all" else f"-{part}")


def subject_ids(name: str, dtype: str, device: str) -> list[str]:
    """Return the ids of all parts of a subject."""
    return [subject_id(name, dtype, device, part) for part in ("all", "ladder", "search")]
