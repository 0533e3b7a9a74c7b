"""`dmat check --gate CONTRACT.json` and `--freeze`: a check for programs, whose contract lies in a file.

The kernel runs in a process of its own (dmat/testing/gate/). One line of JSON is the last of the output.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct

from dmat.testing.check.report import exit_code
from dmat.testing.errors import CannotRun, Died
from dmat.testing.gate.behind import stand_behind
from dmat.testing.gate.frozen import frozen_of, parsed, read
from dmat.testing.output import written
from dmat.testing.processes import Send, apart, preparing
from dmat.testing.record import Broken, Report, text_of

COULD_NOT = 2
LINES = 6  # of the message of a broken law
VERDICTS: dict[int, Literal["SOUND", "BROKEN", "COULD NOT"]] = {0: "SOUND", 1: "BROKEN", 2: "COULD NOT"}


class GateLine(Struct, frozen=True, kw_only=True):
    """The last line of the output, as JSON.

    exit: the exit code. contract: the digest of the contract in force. why: why the verdict is not SOUND:
    the causes, or what could not be done. cases: how many were tried. not_run: the laws that
    were not run, each with the reason.
    """

    verdict: Literal["SOUND", "BROKEN", "COULD NOT"]
    exit: int
    target: str
    contract: str = ""
    seed: int | None = None
    broken: list[Broken] = []
    why: list[str] = []
    cases: int = 0
    not_run: dict[str, str] = {}


Checked = Callable[[argparse.Namespace], Sequence[Report]]


def gate(options: argparse.Namespace, checked: Checked) -> int:
    """Check one TARGET under the contract of a file; print the page and the line; return the exit code.

    checked: checks what the options say, and prints the page.
    """
    target = options.targets[0] if options.targets else ""
    try:
        line = _through(options, target, checked)
    except CannotRun as error:
        line = GateLine(verdict="COULD NOT", exit=COULD_NOT, target=target, why=[str(error)])
    print(text_of(line), flush=True)
    return line.exit


def _through(options: argparse.Namespace, target: str, checked: Checked) -> GateLine:
    _require_whole(options)
    text = read(options.gate)
    frozen = parsed(text, str(options.gate))
    options.shape = [*options.shape, *map(tuple, frozen.shapes)]
    with tempfile.TemporaryDirectory(prefix="dmat-") as nothing, preparing(stand_behind, target, text):
        options.corpus = options.corpus or [nothing]  # a known.toml beside the kernel would excuse it
        (report,) = checked(options)
    code, why = exit_code([report]), _why(report)
    refused = sorted(report.tried.refused) if report.tried else []
    if refused:
        shown = ", ".join(f"K = {K or 'any'}, V = {V or 'any'}" for K, V in refused)
        code, why = code or COULD_NOT, [*why, f"it refuses sizes that the contract does not exclude: {shown}"]
    if _now(options.gate) != text:
        code, why = code or COULD_NOT, [*why, f"{options.gate} was changed during the check"]
    return GateLine(
        verdict=VERDICTS[code],
        exit=code,
        target=target,
        contract=frozen.digest,
        seed=report.seed,
        broken=[Broken(law.law, law.dtype, law.device) for law in report.broken()],
        why=why,
        cases=sum(law.examples for law in report.laws),
        not_run=_not_run(report),
    )


def _why(report: Report) -> list[str]:
    """Return why it is not SOUND: each cause with the value that shows it, else what was not tried."""
    if report.causes:
        return [f"{cause.sentence} {_shown(cause.message)}" for cause in report.causes]
    uncallable = set(report.uncallable().values())
    return sorted(uncallable or {f"{law.law}: {law.reason}" for law in report.unfinished()})


def _shown(message: str) -> str:
    """Return the first lines of a law's message in one: the law, the computed and the exact value."""
    lines = message.partition("\non the case")[0].splitlines()
    return " ".join(" ".join(lines[:LINES]).split())


def _not_run(report: Report) -> dict[str, str]:
    """Return why a law was not run, by "LAW", or by "LAW DTYPE DEVICE" where it ran in another one."""
    ran = {law.law for law in report.laws if law.status != "not run"}
    left = [law for law in report.laws if law.status == "not run"]
    return {f"{law.law} {law.dtype} {law.device}" if law.law in ran else law.law: law.reason for law in left}


def _now(file: Path) -> str | None:
    try:
        return read(file)
    except CannotRun:
        return None


def _require_whole(options: argparse.Namespace) -> None:
    """Raise CannotRun for options with which the verdict would not be that of the whole contract."""
    if len(options.targets) != 1:
        raise CannotRun(f"--gate takes one TARGET; there are {len(options.targets)}")
    for name in ("dtype", "device"):
        if getattr(options, name):
            raise CannotRun(f"--gate tries every {name} of the contract; leave out --{name}")
    if options.interpret:
        raise CannotRun("--gate runs the kernel in a process of its own, where Triton is not interpreted")


# Freezing


def freeze(options: argparse.Namespace) -> int:
    """Write the contract of one TARGET into a new file, and return the exit code."""
    if len(options.targets) != 1:
        raise CannotRun(f"--freeze takes one TARGET; there are {len(options.targets)}")
    file: Path = options.freeze
    if file.exists():
        raise CannotRun(f"{file} is there; a frozen contract is not overwritten")
    if not file.resolve().parent.is_dir():
        raise CannotRun(f"--freeze is {str(file)!r}; there is no folder to write it in")
    try:
        text, error = apart(_frozen, options.targets[0], options.shape, heard=lambda news: None)
    except Died:
        text, error = "", "the process died while the target was imported"
    if error:
        raise CannotRun(error)
    written(text, file)
    print(f"{file}: the contract of {options.targets[0]} is frozen, digest {parsed(text).digest}")
    return 0


def _frozen(target: str, shapes: list[tuple[int, ...]], send: Send) -> tuple[str, str]:
    """Return the text of the file, and why there is none, in a process of its own."""
    from dmat.testing.kernel.load import load

    try:
        return frozen_of(load(target).contract, shapes), ""
    except CannotRun as error:
        return "", str(error)
