"""What an inspection tells the process of an architecture, and what that process tells it. Loads no torch."""

from __future__ import annotations

from msgspec import Struct

from dmat.testing.inspect.machines import Machine

PATIENCE = 120.0  # seconds for each launch to compile
TOO_SLOW = "took longer than"  # begins what is said of a process that was ended: it proves nothing
CALLS = 300.0  # seconds for the import of TARGET and its calls


class Task(Struct, frozen=True):
    """What to inspect in one process.

    machines: the process stands on the first one when it imports TARGET.
    every: whether to compile all configurations, else until one compiles. code: to machine code, else to TTIR
    alone. skip: the launches that earlier processes have dealt with. done: groups of which one compiles.
    """

    target: str
    machines: tuple[Machine, ...]
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    every: bool = False
    code: bool = True
    skip: int = 0
    done: tuple[int, ...] = ()


class Stated(Struct, frozen=True):
    """The formats that the contract states, by dtype; a dtype for which it states none is not there."""

    multiplies: dict[str, str]
    accumulates: dict[str, str]
    deterministic: bool


class Plan(Struct, frozen=True):
    """What the process found before it compiled. uncalled: calls that failed. error: why it ends, else ""."""

    contract: dict[str, object] = {}
    stated: Stated = Stated({}, {}, deterministic=True)
    uncalled: list[str] = []
    error: str = ""


class Begun(Struct, frozen=True):
    """A launch is about to be compiled, which may end the process."""

    number: int
    kernel: str
    arch: str
    dtypes: list[str]
    group: int
