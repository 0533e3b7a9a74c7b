"""The plan of a check: implementations, dtypes and devices, as far as contracts promise them."""

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
    """Return the same, as a process that has not loaded them knows them."""
    return [Planned(i.name, i.contract.stated(), dtype, device, i.kind) for i, dtype, device in chosen]


@dataclass(frozen=True)
class Planned:
    """An implementation, what its contract states, and a dtype and device in which it is tried.

    kind: "D~" or "fused": which laws are its.
    """

    implementation: str
    contract: dict[str, object]
    dtype: str
    device: str
    kind: str = "D~"


@dataclass(frozen=True)
class Plan:
    """The names of all laws, in order, by kind of kernel, and what is tried. error: why nothing is."""

    laws: Mapping[str, Sequence[str]] = field(default_factory=dict)
    subjects: Sequence[Planned] = ()
    error: str = ""

    def write(self, file: Path) -> None:
        """Write it whole; several processes may."""
        beside = file.with_name(f"{file.name}-{os.getpid()}")
        beside.write_text(json.dumps(asdict(self), default=str))
        beside.replace(file)

    @classmethod
    def read(cls, file: Path) -> Plan:
        """Read what was written."""
        told = json.loads(file.read_text())
        return cls(told["laws"], [Planned(**subject) for subject in told["subjects"]], told["error"])


def subject_id(name: str, dtype: str, device: str, part: str) -> str:
    """Return how a test id names a subject: the implementation's name as it can stand in one."""
    label = re.sub(r"[^\w.:]", "_", name.replace("\\", "/"))
    return f"{label}-{dtype}-{device}" + ("" if part == "all" else f"-{part}")


def subject_ids(name: str, dtype: str, device: str) -> list[str]:
    """Return the ids of all parts of a subject."""
    return [subject_id(name, dtype, device, part) for part in ("all", "ladder", "search")]
