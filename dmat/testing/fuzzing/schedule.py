"""The scheduler: all laws get the same time, and within a law the least tried cell has the next turn.

Thus every law is tried soon, even one with expensive examples, and at any time all cells have been tried as
evenly as possible. Turns are short at first, for breadth, and double in length, for depth.
"""

from __future__ import annotations

from heapq import heappop, heappush
from random import Random

from dmat.testing.causes.known import Cell
from dmat.testing.fuzzing.messages import Turn
from dmat.testing.fuzzing.tally import Sum

FIRST, LONGEST = 0.05, 10.0  # seconds of a turn
LED_FROM = 1.5  # seconds from which a turn is targeted; shorter turns have too few examples for that
PENALTY = 30.0  # seconds added to a cell's spent time, in the queue, for each process that it has killed
EXPENSIVE = 30.0  # seconds that a turn of a law may take if each example needs a compilation


class Schedule:
    """The queue of the turns of a run.

    seed: seed of the run. The seed of a turn is computed from it, the cell and the cell's number of turns.
    sitting: number of this sitting; each resumption begins a new one. It makes the names of turns unique.
    """

    def __init__(self, total: Sum, seed: int, sitting: int = 1) -> None:
        """Queue all cells that can be tried, by law, in the order of the laws."""
        self.total, self.seed, self.sitting, self.number = total, seed, sitting, 0
        self.waiting: dict[str, list[tuple[int, float, int]]] = {}
        self.spent: dict[str, float] = {}
        self.under_way: dict[Cell, float] = {}
        self.cells = self._in_order()
        self.places = {cell: place for place, cell in enumerate(self.cells)}
        for cell in self.cells:
            self.spent[cell.law] = self.spent.get(cell.law, 0.0) + total.tallies[cell].spent
            self._wait(cell)

    def _in_order(self) -> list[Cell]:
        """Return the cells in the order of the laws.

        Within a law the order is random: otherwise every law would begin with the same implementation.
        """
        order = [planned for planned in self.total.cells.values() if not planned.reason]
        Random(self.seed).shuffle(order)
        return [planned.cell for planned in sorted(order, key=lambda planned: planned.order)]

    def _wait(self, cell: Cell) -> None:
        tally = self.total.tallies[cell]
        if not tally.trouble:
            waited = tally.spent + PENALTY * tally.deaths
            heappush(self.waiting.setdefault(cell.law, []), (tally.turns, waited, self.places[cell]))

    def next(self, left: float) -> Turn | None:
        """Return the next turn, of at most `left` seconds. None if no waiting cell can be tried now."""
        free = [law for law, waiting in self.waiting.items() if waiting and self._fits(waiting[0], left)]
        if not free:
            return None
        law = min(free, key=self.spent.__getitem__)  # among equal laws, the one of lowest rank
        cell = self.cells[heappop(self.waiting[law])[-1]]
        turn = self._turn(cell, left)
        self.under_way[cell] = EXPENSIVE if turn.least > 1 else turn.seconds
        self.spent[law] += self.under_way[cell]
        return turn

    def _fits(self, waiting: tuple[int, float, int], left: float) -> bool:
        """Whether the time left is enough for a turn of this cell."""
        return left >= EXPENSIVE or self.total.cells[self.cells[waiting[-1]]].least == 1

    def stint(self, seconds: float, left: float) -> list[Turn]:
        """Return turns of `seconds` seconds together: at least one turn, if any cell can be tried."""
        turns: list[Turn] = []
        while sum(turn.seconds for turn in turns) < seconds or not turns:
            turn = self.next(left)
            if turn is None:
                break
            turns.append(turn)
        return turns

    def ended(self, cell: Cell, seconds: float) -> None:
        """Record the time that a turn really took, and queue its cell again.

        The tally of the cell must already contain the turn.
        """
        self.spent[cell.law] += seconds - self.under_way.pop(cell)
        self._wait(cell)

    def _turn(self, cell: Cell, left: float) -> Turn:
        tally = self.total.tallies[cell]
        seconds = min(FIRST * 2.0 ** min(tally.turns, 20), LONGEST)
        self.number += 1
        least = self.total.cells[cell].least
        return Turn(
            f"{self.sitting}-{self.number:06}",
            cell,
            Random(f"{self.seed} {cell} {tally.turns}").getrandbits(64),
            max(0.0, min(seconds, left)),
            least,
            first=tally.turns == 0,
            targeted=seconds >= LED_FROM and tally.turns % 2 == 1 and least == 1,
            tried=dict(self.total.regimes.get(cell.law, {})),
            symptoms=dict(tally.symptoms),
            causes=self.total.causes(cell.implementation),
        )
