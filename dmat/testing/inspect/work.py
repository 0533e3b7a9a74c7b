"""The work of an inspection, in a process of its own for each architecture: record launches, compile them.

Triton is not interpreted in that process. It stands on the architecture before TARGET is imported, because
kernels ask the device for its memory and choose their configurations by it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

from dmat.testing.contract import FUSED, AnyContract, FusedContract
from dmat.testing.contract.checks import accumulators, multiplied
from dmat.testing.errors import CannotRun
from dmat.testing.inspect.calls import call_all
from dmat.testing.inspect.compiled import compiled
from dmat.testing.inspect.launches import Recorded, recording, stand_on
from dmat.testing.inspect.machine_code import tools
from dmat.testing.inspect.task import Begun, Plan, Stated, Task
from dmat.testing.inspect.ttir import STATED_DIGITS
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.kernel.load import load
from dmat.testing.processes import Send
from dmat.testing.record import stated


def work(task: Task, send: Send) -> None:
    """Send the plan; then of each launch that it is begun, and what was found."""
    logging.disable(logging.WARNING)
    stand_on(task.machines[0])
    try:
        implementation = on_the_cpu(load(task.target))
        if task.code and any(machine.backend == "cuda" for machine in task.machines):
            tools()
    except CannotRun as error:
        send(Plan(error=str(error)))
        return
    promised = implementation.contract
    wanted = [dtype for dtype in promised.dtypes if not task.dtypes or dtype in task.dtypes]
    if not wanted:
        there = f"{implementation.name} promises {', '.join(promised.dtypes)}"
        send(Plan(error=f"dtype is {', '.join(task.dtypes)}; {there}"))
        return
    every, uncalled = [], list[str]()
    for machine in task.machines:
        with recording(machine) as recorded:
            uncalled += _called(recorded, implementation, wanted, task.shapes)
        every.append(recorded)
    said = Stated(stated_multiplies(promised), stated_accumulates(promised), promised.deterministic)
    send(Plan(stated(promised.stated()), said, uncalled))
    _compile(task, every, send)


def on_the_cpu(implementation: Implementation) -> Implementation:
    """Return the implementation with a contract that takes the CPU: its launches are recorded there."""
    return replace(implementation, contract=replace(implementation.contract, devices=("cpu",)))


def _called(
    recorded: Recorded,
    implementation: Implementation,
    dtypes: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
) -> Iterator[str]:
    for dtype in dtypes:
        recorded.dtype = dtype
        yield from call_all(implementation, dtype, shapes)


def _compile(task: Task, every: Sequence[Recorded], send: Send) -> None:
    """Compile the launches that no earlier process has dealt with. They are numbered through."""
    number = 0
    for recorded in every:
        _compile_on(task, recorded, number, send)
        number += len(recorded.launches)


def _compile_on(task: Task, recorded: Recorded, first: int, send: Send) -> None:
    done = set(task.done)
    whole: dict[tuple[str, ...], int] = {}  # the group of each kernel and dtype that is compiled whole
    for number, (key, launch) in enumerate(recorded.launches.items(), first):
        group = first + launch.group
        dtypes = sorted(recorded.dtypes[key])
        kind = (launch.kernel.cache_key, *dtypes)
        all_of_it = task.every and whole.setdefault(kind, group) == group
        if number < task.skip or (group in done and not all_of_it):
            continue
        send(Begun(number, launch.name, recorded.machine.name, dtypes, group))
        found = compiled(launch, recorded.machine, dtypes, group, code=task.code)
        send(found)
        if not found.failure:
            done.add(group)


# What the contract states


def stated_multiplies(contract: AnyContract) -> dict[str, str]:
    """Return the format of products that the contract states, by dtype.

    Of a delta rule that states another one for its inversion, the narrower of both: TTIR does not say which
    product is part of it.
    """
    if contract.kind != FUSED or (own := cast(FusedContract, contract)).multiplies_in is None:
        return {}
    found = multiplied(own.multiplies_in)
    if own.erases and own.inverse_in is not None:
        inside = multiplied(own.inverse_in)
        found = {
            dtype: min(form, inside.get(dtype, form), key=lambda name: STATED_DIGITS[name])
            for dtype, form in found.items()
        }
    return found


def stated_accumulates(contract: AnyContract) -> dict[str, str]:
    """Return the format of sums that the contract states, by dtype."""
    given = contract.accumulates_in
    if given is None:
        return {}
    every = accumulators(given)
    named = {str(dtype).removeprefix("torch.") for dtype in given} if isinstance(given, dict) else set(every)
    return {dtype: form for dtype, form in every.items() if dtype in named}
