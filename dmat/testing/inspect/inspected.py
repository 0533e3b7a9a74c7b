"""Inspect a TARGET: a process for each architecture, what they found, and what that contradicts.

Loads no torch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from msgspec.structs import replace

from dmat.testing.errors import CannotRun, Died, OutOfTime
from dmat.testing.inspect.judged import contradictions, has_order, notes
from dmat.testing.inspect.machines import Machine
from dmat.testing.inspect.result import Compiled, Inspected, Order
from dmat.testing.inspect.task import CALLS, PATIENCE, TOO_SLOW, Begun, Plan, Stated, Task
from dmat.testing.interpret.choice import asking
from dmat.testing.output import progress
from dmat.testing.processes import Send, apart

ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "TORCHDYNAMO_DISABLE": "1"}
INTERPRETING = ("DMAT_INTERPRET", "TRITON_INTERPRET")  # not in these processes


class Processes:
    """The processes of one task, one after the other: another begins where the compiler died."""

    def __init__(self, task: Task) -> None:
        """Begin with no launch compiled."""
        self.task, self.found = task, list[Compiled]()
        self.plan: Plan | None = None
        self._begun: Begun | None = None

    def run(self) -> None:
        """Compile all launches. Raises CannotRun."""
        while True:
            try:
                apart(_work, self.task, heard=self._heard, seconds=CALLS)
            except (Died, OutOfTime) as end:
                if self._begun is None:
                    raise CannotRun(f"the process that calls {self.task.target} {_words(end)}") from None
                self._died(_words(end))
                continue
            except RuntimeError as error:
                raise CannotRun(f"{self.task.target}: {error}") from None
            return

    def _heard(self, news: Plan | Begun | Compiled) -> float:
        if isinstance(news, Compiled):
            self.found.append(news)
            self._begun = None
        elif isinstance(news, Begun):
            self._begun = news
            progress(f"{news.arch}: {len(self.found)} launches compiled")
        else:
            self.plan = self.plan or news
            if news.error:
                raise CannotRun(news.error)
        return PATIENCE

    def _died(self, how: str) -> None:
        begun, task = self._begun, self.task
        assert begun is not None
        ended = Compiled(
            kernel=begun.kernel,
            arch=begun.arch,
            dtypes=begun.dtypes,
            group=begun.group,
            config=None,
            configs=1,
            options={},
            failure=f"the compiler {how}",
        )
        self.found.append(ended)
        done = {one.group for one in self.found if not one.failure}
        self.task, self._begun = replace(task, skip=begun.number + 1, done=tuple(sorted(done))), None


def inspected(
    target: str,
    machines: Sequence[Machine],
    *,
    named: bool,
    dtypes: Sequence[str] = (),
    shapes: Sequence[tuple[int, ...]] = (),
    every: bool = False,
    code: bool = True,
) -> Inspected:
    """Inspect a TARGET. Raises CannotRun.

    named: whether the user named the architectures. every: all autotune configurations. code: compile to
    machine code, else to TTIR alone, which says all of formats.
    """
    started = time.monotonic()
    parts = [(machine,) for machine in machines] if code else [tuple(machines)]
    runs = [Processes(Task(target, part, tuple(dtypes), tuple(shapes), every, code)) for part in parts]
    with ThreadPoolExecutor(max(1, min(len(runs), os.cpu_count() or 1))) as pool:
        for done in [pool.submit(run.run) for run in runs]:
            done.result()
    progress("")
    plans = [run.plan for run in runs if run.plan is not None]
    plan, found = plans[0], [one for run in runs for one in run.found]
    archs = [machine.name for machine in machines]
    order, other_bits = _order(target, plan.stated, found, dtypes)
    asked = archs if named else []
    return Inspected(
        implementation=target,
        contract=plan.contract,
        archs=archs,
        launches=found,
        contradictions=contradictions(found, plan.stated, asked, other_bits),
        notes=notes(found, plan.stated, asked),
        uncalled=list(dict.fromkeys(line for each in plans for line in each.uncalled)),
        order=order,
        seconds=round(time.monotonic() - started, 1),
    )


def _order(
    target: str, stated: Stated, found: Sequence[Compiled], dtypes: Sequence[str]
) -> tuple[Order, list[str]]:
    """Return whether bits change where programs run in another order, and in which dtypes.

    Tried in the interpreter, for kernels with float atomics that promise the same bits each time.
    """
    if not has_order(found) or not stated.deterministic:
        return "not tried", []
    other: list[str] = []

    def heard(news: str) -> None:
        other.append(news)

    try:
        with asking(0):
            apart(_reorder, target, tuple(dtypes), heard=heard, seconds=PATIENCE)
    except (Died, OutOfTime, RuntimeError, CannotRun):  # a program may wait for an earlier one, for ever
        return ("other bits", other) if other else ("not tried", [])
    return ("other bits", other) if other else ("same bits", [])


def _words(end: BaseException) -> str:
    return f"died, {end}" if isinstance(end, Died) else f"{TOO_SLOW} {PATIENCE:.0f} s"


# In a process of its own


def _work(task: Task, send: Send) -> None:
    for name in INTERPRETING:
        os.environ.pop(name, None)
    os.environ |= ENVIRONMENT
    from dmat.testing.inspect.work import work

    work(task, send)


def _reorder(target: str, dtypes: tuple[str, ...], send: Send) -> None:
    from dmat.testing.inspect.order import other_bits

    for dtype in other_bits(target, dtypes):
        send(dtype)
