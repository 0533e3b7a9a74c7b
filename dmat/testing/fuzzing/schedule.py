"""Choice of the next cell: all laws get the same time, and each law takes its least tried cell first.

So every law is tried soon, however dear its examples are, and a run of any length has tried all cells as
evenly as it could. Turns begin short, for breadth, and double, for depth.
"""

from __future__ import annotations

from heapq import heappop, heappush
from random import Random

from dmat.testing.fuzzing.messages import Cell, Turn
from dmat.testing.fuzzing.tally import Sum

FIRST, LONGEST = 0.05, 10.0  # seconds of a turn
LED_FROM = 1.5  # seconds: shorter ones are too few examples to lead anywhere
PENALTY = 30.0  # seconds that a cell waits longer for each process that it has ended
DEAR = 30.0  # seconds that a turn may take of a law of which one example costs a compilation


class Schedule:
    """The turns of a run.

    seed: of the run; a turn's own seed follows from it, its cell and its number. sitting: a run that is
    resumed begins another; no two turns of a run have one name.
    """

    def __init__(self, total: Sum, seed: int, sitting: int = 1) -> None:
        """Know which cells can be tried at all, by law, in the order of the laws."""
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
        """Return the cells by law; of a law at random, or every law would begin with one implementation."""
        order = [planned for planned in self.total.cells.values() if not planned.reason]
        Random(self.seed).shuffle(order)
        return [planned.cell for planned in sorted(order, key=lambda planned: planned.order)]

    def _wait(self, cell: Cell) -> None:
        tally = self.total.tallies[cell]
        if not tally.trouble:
            waited = tally.spent + PENALTY * tally.deaths
            heappush(self.waiting.setdefault(cell.law, []), (tally.turns, waited, self.places[cell]))

    def next(self, left: float) -> Turn | None:
        """Return the next turn, of at most `left` seconds; None while all that can be tried is under way."""
        free = [law for law, waiting in self.waiting.items() if waiting and self._fits(waiting[0], left)]
        if not free:
            return None
        law = min(free, key=self.spent.__getitem__)  # of equal ones the first: the laws of low order
        cell = self.cells[heappop(self.waiting[law])[-1]]
        turn = self._turn(cell, left)
        self.under_way[cell] = DEAR if turn.least > 1 else turn.seconds
        self.spent[law] += self.under_way[cell]
        return turn

    def _fits(self, waiting: tuple[int, float, int], left: float) -> bool:
        """Return whether enough time is left for this turn."""
        return left >= DEAR or self.total.cells[self.cells[waiting[-1]]].least == 1

    def stint(self, seconds: float, left: float) -> list[Turn]:
        """Return turns of so many seconds together, one at the least if there is any."""
        turns: list[Turn] = []
        while sum(turn.seconds for turn in turns) < seconds or not turns:
            turn = self.next(left)
            if turn is None:
                break
            turns.append(turn)
        return turns

    def ended(self, cell: Cell, seconds: float) -> None:
        """Take note of what a turn has really taken, its tally being added to; its cell waits again."""
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
