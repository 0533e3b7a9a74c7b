"""Messages between the processes of a fuzzing run, and lines of its log: plain data, no torch."""

from __future__ import annotations

from msgspec import Struct

from dmat.testing.record import Ended

COUNTEREXAMPLES, AHEAD = "counterexamples", "unsettled"  # folders of a run


AT_A_LOSS = "the law itself raised"  # dmat's own fault: it accuses nobody, and is told


class Cell(Struct, frozen=True):
    """One cell of the matrix: the names of a law and an implementation, a dtype and a device."""

    law: str
    implementation: str
    dtype: str
    device: str


class Planned(Struct, frozen=True):
    """A cell, and what is known before it is tried.

    order: low ones come first. least: examples of a turn, whatever they take. reason: why it is not run.
    known: the reason is a known failure.
    """

    cell: Cell
    order: int
    least: int = 1
    reason: str = ""
    known: bool = False


class Layout(Struct, frozen=True):
    """All cells of a run, and what the report says of them: contracts, statements, machine, versions."""

    cells: list[Planned]
    contracts: dict[str, dict[str, object]]
    statements: dict[str, str]
    machine: str
    versions: dict[str, str]


class Setup(Struct, frozen=True):
    """The settings that every process gets when it starts. Paths are absolute.

    folder: of the run. where: the command was given, for targets are relative to it. shared: of
    counterexamples and database, which other machines may write to as well. journals: where each writes what
    it tries. limit: seconds an example may take. corpora: of cases to try first, and known failures. devices:
    the entries of CUDA_VISIBLE_DEVICES to spread over. sharing: how many processes each of them has. cutoff:
    time.time() at which nothing new is begun.
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


class Cause(Struct, frozen=True):
    """Something that was found: the smallest case, as a line of JSON, the law it breaks, and its signs."""

    number: int
    cell: Cell
    recipe: str
    symptom: str
    ended: Ended = "broken"
    signs: tuple[str, ...] = ()


class Turn(Struct, frozen=True):
    """A while of one cell.

    seconds: how long. first: of its cell: what is remembered comes before all else. targeted: Hypothesis
    leads it towards larger errors. tried: examples of this law so far, by regime. symptoms: by which failures
    of this cell are known, and their causes. causes: what was found of this implementation.
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
    """A failure of a cell, of a symptom that was not known.

    cause: the number of the one that explains it, or None. folder: its name among the counterexamples, where
    it is kept. again: it happens each time. signs: how its case breaks the general laws. files: what is in
    the folder, where it was made elsewhere.
    """

    cell: Cell
    symptom: str
    recipe: str
    case: str
    message: str
    ended: Ended = "broken"
    again: bool = True
    cause: int | None = None
    folder: str | None = None
    signs: tuple[str, ...] = ()
    files: dict[str, bytes] = {}


class Done(Struct, frozen=True):
    """The outcome of a turn.

    seconds: that it took. drawn: examples by "REGIME, LENGTHS". worst: the largest error over bound that was
    let pass; worst_case as Python, worst_recipe as JSON. failing: examples by symptom. trouble: why the cell
    could not be tried, or what the law itself raised. at_a_loss: the law itself raised. event: what became of
    its process.
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
