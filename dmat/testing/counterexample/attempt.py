"""Replay counterexamples in this process, a child that dmat.testing.counterexample.replay starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dmat.strategies import Gates
from dmat.testing.case_file import case_of, read
from dmat.testing.counterexample.outcome import BROKEN, COULD_NOT, FIXED, Outcome, Wanted
from dmat.testing.devices import is_broken
from dmat.testing.errors import CaseError, Refused, SizesRefused
from dmat.testing.kernel.builtin import BUILTIN
from dmat.testing.kernel.load import load
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.refusal import refused_sizes
from dmat.testing.processes import Send
from dmat.testing.registry import law_named
from dmat.testing.verdict.finding import LawBroken

LEAST_TRIES = 2  # the first in a process without earlier calls, the second after a call
DEADLY = {"died": "its call ended the process", "did not end": "its call did not end"}
TRIES, SECONDS_OF_TRIES = 100, 2.0  # tries until "fixed": some kernels fail by chance


def attempts(files: Sequence[Path], wanted: Wanted, send: Send) -> Iterator[Outcome]:
    """Yield the outcome of each case. send: called with None before each case and before each try."""
    torch.set_num_threads(1)
    implementation = None if wanted.target is None else load(wanted.target)
    for file in files:
        send(None)
        yield _outcome(file, implementation, wanted, send)


def _outcome(file: Path, implementation: Any, wanted: Wanted, send: Send) -> Outcome:
    try:
        case_file = read(file)
        case = case_of(case_file.case, file.parent)
    except CaseError as error:
        return Outcome(file, COULD_NOT, str(error))
    if implementation is None:
        implementation = next((i for i in BUILTIN if i.name == case_file.implementation), None)
    if implementation is None:
        why = (
            f"pass --impl TARGET: the case is of {case_file.implementation}, which is not imported by itself"
        )
        return Outcome(file, COULD_NOT, why)
    if case_file.ended != "broken" and not wanted.deadly:
        return Outcome(
            file, COULD_NOT, f"{DEADLY[case_file.ended]} when it was found: isolated=True tries it"
        )
    torch.manual_seed(case_file.seed)
    dtype, device = wanted.dtype or case_file.dtype, wanted.device or case_file.device
    return Outcome(file, *tried(case_file.law, implementation, dtype, device, case, lambda: send(None)))


def tried(
    law_name: str,
    implementation: Any,
    dtype: str,
    device: str,
    case: Any,
    before: Callable[[], None] = lambda: None,
) -> tuple[str, str]:
    """Try a law on a case in this process. Return the status, and the reason for it.

    Stops at the first try that breaks the law, after TRIES tries, or after SECONDS_OF_TRIES seconds and
    LEAST_TRIES tries. before: called before each try.
    """
    try:
        law = law_named(law_name, implementation.kind)
    except KeyError:
        return COULD_NOT, f"there is no law {law_name!r}"
    if dtype not in implementation.contract.dtypes:
        return COULD_NOT, f"{implementation.name} does not promise {dtype}"
    if device not in implementation.devices:
        return (
            COULD_NOT,
            f"{implementation.name} does not promise {device}, or this machine has none: see --device",
        )
    subject = subject_of(implementation, dtype, device)
    case = in_dtype(case, subject.domain.dtype)
    until = time.monotonic() + SECONDS_OF_TRIES
    try:
        reason = law.why_not(subject, case)
        for number in range(TRIES if reason is None else 0):
            if number < LEAST_TRIES or time.monotonic() < until:
                before()
                law.check(subject, **case)
                _other_call(subject, case)
    except LawBroken as broken:
        if isinstance(refusal := refused_sizes(law, subject, case, broken), SizesRefused):
            return COULD_NOT, f"{implementation.name} refuses {refusal}"
        reason = None if broken.finding.index else _uncallable(implementation, dtype, device)
        return (COULD_NOT, f"{implementation.name} {reason}") if reason else (BROKEN, str(broken))
    except Refused as refusal:
        return COULD_NOT, str(refusal)
    except Exception as error:  # an error in the law itself is no finding
        return COULD_NOT, f"the law itself raised {type(error).__name__}: {error}"
    return (FIXED, f"{law.name} holds") if reason is None else (COULD_NOT, reason)


def _uncallable(implementation: Any, dtype: str, device: str) -> str | None:
    """Return why the smoke call raises, or None. Also None if the case has broken the device."""
    return None if is_broken(device) else subject_of(implementation, dtype, device).uncallable


def _other_call(subject: Any, case: Any) -> None:
    """Call the kernel on other gates of the same shape: a wrong kernel may return a cached result."""
    if "gates" in case:
        with suppress(LawBroken):
            subject.answer(case, subject.other_gates(case["gates"]))


def in_dtype(case: Any, dtype: str) -> Any:
    """Return the case with its gates in another dtype, rounded to that dtype."""
    return {n: replace(part, dtype=dtype) if isinstance(part, Gates) else part for n, part in case.items()}
