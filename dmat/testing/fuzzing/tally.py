"""The sums of a run: examples tried and failures found, added up from the finished turns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from dmat.testing.causes.known import Cause, Cell
from dmat.testing.fuzzing.messages import Done, Found, PlannedCell


@dataclass
class Tally:
    """The sums of one cell.

    symptoms: the known symptoms of its failures, each with the number of its cause. spent: seconds, including
    those of lost processes.
    """

    turns: int = 0
    examples: int = 0
    refused: int = 0
    out_of_memory: int = 0
    spent: float = 0.0
    drawn: Counter[str] = field(default_factory=Counter)
    worst: float | None = None
    worst_case: str | None = None
    worst_recipe: str | None = None
    symptoms: dict[str, int] = field(default_factory=dict)
    deaths: int = 0
    trouble: str = ""
    uncallable: bool = False

    def add(self, done: Done) -> None:
        """Add the result of a turn."""
        self.turns += 1
        self.examples += done.examples
        self.refused += done.refused
        self.out_of_memory += done.out_of_memory
        self.spent += done.seconds
        self.drawn.update(done.drawn)
        self.trouble = self.trouble or done.trouble
        self.uncallable = self.uncallable or done.uncallable
        if done.worst is not None and (self.worst is None or done.worst > self.worst):
            self.worst, self.worst_case, self.worst_recipe = done.worst, done.worst_case, done.worst_recipe


@dataclass
class Finding:
    """A distinct cause of failures.

    found: its first failure. after: time of that failure, in seconds since the run began. also: other cells
    that the cause breaks. times: number of failing examples with its symptoms.
    """

    number: int
    found: Found
    after: float
    also: list[Cell] = field(default_factory=list)
    times: int = 1

    def cause(self) -> Cause:
        """Return the finding as a message to the processes."""
        found = self.found
        return Cause(self.number, found.cell, found.recipe, found.symptom, found.ended, found.signs)

    def covers(self, cell: Cell) -> None:
        """Record that the cause breaks this cell too."""
        if cell != self.found.cell and cell not in self.also:
            self.also.append(cell)


class Sum:
    """The sums of a whole run.

    cells: all cells, in the order in which they are tried. elapsed: seconds of fuzzing of all sittings.
    """

    def __init__(self, cells: list[PlannedCell]) -> None:
        """Start with empty sums."""
        self.cells = {planned.cell: planned for planned in cells}
        self.tallies = {cell: Tally() for cell in self.cells}
        self.findings: list[Finding] = []
        self.events: list[tuple[float, str]] = []
        self.regimes: dict[str, Counter[str]] = {}
        self.elapsed = 0.0

    @property
    def examples(self) -> int:
        """The number of examples tried."""
        return sum(tally.examples for tally in self.tallies.values())

    def causes(self, implementation: str) -> tuple[Cause, ...]:
        """Return the known causes of an implementation's failures."""
        return tuple(f.cause() for f in self.findings if f.found.cell.implementation == implementation)

    def add(self, done: Done) -> None:
        """Add the result of a turn, without its failures: `note` adds them when their causes are known."""
        tally = self.tallies[done.cell]
        tally.add(done)
        regimes = self.regimes.setdefault(done.cell.law, Counter())
        for name, count in done.drawn.items():
            regimes[name.split(", ")[0]] += count
        for symptom, count in done.failing.items():
            if symptom in tally.symptoms:
                self.findings[tally.symptoms[symptom]].times += count

    def note(self, found: Found) -> None:
        """Add a failure to its cause, or as a new cause."""
        number = found.cause
        if number is None:
            number = len(self.findings)
            self.findings.append(Finding(number, found, self.elapsed))
        else:
            self.findings[number].covers(found.cell)
            self.findings[number].times += 1
        tally = self.tallies[found.cell]
        tally.symptoms[found.symptom] = number
        tally.deaths += found.ended != "broken"

    def happened(self, what: str) -> None:
        """Record an event."""
        self.events.append((self.elapsed, what))
