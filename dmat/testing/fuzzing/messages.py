"""The messages between the processes of a fuzzing run. Plain data without torch; the log holds them too."""

from __future__ import annotations

from msgspec import Struct

from dmat.testing.causes.known import Cause, Cell
from dmat.testing.record import Ended

COUNTEREXAMPLES, AHEAD = "counterexamples", "unsettled"  # folders of a run


AT_A_LOSS = "the law itself raised"  # a bug of dmat: it is reported, but accuses no kernel


class PlannedCell(Struct, frozen=True):
    """A cell of the plan.

    order: the rank of the law; cells of low order run first. least: minimum number of examples of a turn,
    regardless of time. reason: why the cell is not run, else "". known: the reason is a known failure.
    """

    cell: Cell
    order: int
    least: int = 1
    reason: str = ""
    known: bool = False


class Layout(Struct, frozen=True):
    """All cells of a run, and data for the report: contracts, statements of laws, machine, versions."""

    cells: list[PlannedCell]
    contracts: dict[str, dict[str, object]]
    statements: dict[str, str]
    machine: str
    versions: dict[str, str]


class Setup(Struct, frozen=True):
    """The configuration that every process gets at its start. All paths are absolute.

    folder: folder of the run. where: working directory of the command; targets are relative to it. shared:
    folder of counterexamples and database; other machines may write to it too. journals: folder of the
    journals. limit: time limit of an example in seconds. corpora: folders of cases to try first and of known
    failures. devices: entries of CUDA_VISIBLE_DEVICES, distributed over the processes. sharing: processes per
    device. cutoff: time.time() after which no example starts.
    """

    folder: str
    where: str
    shared: str
    journals: str
    limit: float
    corpora: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    sharing: int = 1
    cutoff: float = float("inf")


class Turn(Struct, frozen=True):
    """A time slice of one cell.

    seconds: length of the turn. least: minimum number of examples. first: the first turn of its cell, which
    begins with the remembered cases. targeted: Hypothesis searches for larger errors. tried: examples of this
    law so far, by regime. symptoms: known symptoms of this cell, with the numbers of their causes.
    causes: known causes of this implementation.
    """

    name: str
    cell: Cell
    seed: int
    seconds: float
    least: int = 1
    first: bool = False
    targeted: bool = False
    tried: dict[str, int] = {}
    symptoms: dict[str, int] = {}
    causes: tuple[Cause, ...] = ()


class Found(Struct, frozen=True):
    """A failure of a cell with a new symptom.

    cause: number of the cause that explains the failure, or None for a new cause. folder: name of its folder
    of counterexamples, or None. reproducible: the case broke the law at every try. signs: symptoms with which
    the case breaks the general laws. files: contents of the folder, if another machine made it.
    """

    cell: Cell
    symptom: str
    recipe: str
    case: str
    message: str
    ended: Ended = "broken"
    reproducible: bool = True
    cause: int | None = None
    folder: str | None = None
    signs: tuple[str, ...] = ()
    files: dict[str, bytes] = {}


class Done(Struct, frozen=True):
    """The result of a turn.

    seconds: time that the turn took. drawn: examples by "REGIME, LENGTHS". worst: largest error over bound
    among the examples that passed; worst_case is that example as Python, worst_recipe as JSON. failing:
    failing examples by symptom. trouble: why the cell cannot be tried, or the error that the law itself
    raised. event: how the process died, if it did. at_a_loss: the law itself raised. uncallable: the smoke
    call raised.
    """

    name: str
    cell: Cell
    seconds: float
    examples: int = 0
    refused: int = 0
    out_of_memory: int = 0
    drawn: dict[str, int] = {}
    worst: float | None = None
    worst_case: str | None = None
    worst_recipe: str | None = None
    failing: dict[str, int] = {}
    found: tuple[Found, ...] = ()
    trouble: str = ""
    event: str = ""
    at_a_loss: bool = False
    uncallable: bool = False
