"""Turn a case that breaks a law into a repro script, which needs only torch and the kernel.

The law runs once more, and recorder.py records its calls of the kernel as torch code. The script repeats
these calls, then checks the entry that the law found wrong: exit 1 if it is still wrong, exit 0 if it is
right.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dmat.strategies import Gates
from dmat.strategies.recipes.recipe import Case
from dmat.testing.case_file import decoded, encoded
from dmat.testing.contract import FUSED, Contract
from dmat.testing.errors import Died, OutOfTime
from dmat.testing.explain.repro.ending import ending
from dmat.testing.explain.repro.recorder import ScriptRecorder
from dmat.testing.explain.repro.transcript import Transcript
from dmat.testing.interpret.choice import ASKED, config_index
from dmat.testing.kernel.load import load
from dmat.testing.kernel.runtime import IMPORTS, sources
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.processes import apart
from dmat.testing.registry import law_named
from dmat.testing.verdict.finding import Finding, LawBroken

SEEDS = 20  # seeds to try, for kernels that draw random numbers or vary from call to call
MANY_CALLS = 4  # with more calls, the failure may depend on the number of calls: run the script to confirm it
WIDTH = 110
PATIENCE = 60.0  # seconds until a child process is ended


@dataclass(frozen=True)
class Repro:
    """A script, the tensors that are too large for its text, and the number of its kernel calls."""

    text: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    calls: int = 1

    def write(self, script: Path) -> None:
        """Write the script, and its tensors to a file beside it, NAME.safetensors."""
        script.write_text(self.text)
        if self.tensors:
            save_file(self.tensors, script.with_suffix(".safetensors"))


def script(law: Law, subject: Subject, case: Case, target: str | None, folder: Path) -> Repro | None:
    """Return the script of a case that breaks a law; None if the law now holds, or no code can check it.

    target: the TARGET as given to `dmat check`, or None: the script then takes it on its command line.
    folder: the working directory in which TARGET was typed.
    """
    for seed in range(SEEDS):
        recorded = Transcript()
        finding = _broken(law, subject, case, seed, recorded)
        if finding is not None:
            return _script(law, subject, finding, recorded, seed, target, folder)
    return None


def _broken(law: Law, subject: Subject, case: Case, seed: int, recorded: Transcript) -> Finding | None:
    """Run the law on the subject and record its calls. Return the finding, or None."""
    subject = replace(subject, recorder=ScriptRecorder(recorded))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        try:
            law.check(subject, **law.arguments(case))
        except LawBroken as broken:
            return broken.finding
        except Exception:  # a refusal, or an error in the law itself: no finding
            return None
        finally:
            recorded.random = not torch.equal(before, torch.get_rng_state())
    return None


# In a child process


def alone_script(
    law: Law, subject: Subject, case: Case, target: str, folder: Path, *, warm: bool = False
) -> Repro | None:
    """Like `script`, but in a new process without earlier kernel calls. None if the law holds there.

    warm: call the kernel on other gates of the same shape first.
    """
    # A fused contract may hold functions, which cannot be pickled: the child reads it from the target.
    contract = None if subject.kind == FUSED else subject.contract
    place = target, contract, subject.dtype, subject.device
    arguments = law.name, place, encoded(law.arguments(case)), str(folder), warm
    try:
        found: Repro | None = apart(_in_a_child, *arguments, heard=lambda message: None, seconds=PATIENCE)
        return found
    except Died as error:
        return deadly_script(law, subject, case, target, folder, f"the process died: {error}")
    except OutOfTime:
        return deadly_script(law, subject, case, target, folder, f"no result in {PATIENCE:.0f} s")


def deadly_script(
    law: Law, subject: Subject, case: Case, target: str, folder: Path, became: str
) -> Repro | None:
    """Return the script for a kernel that kills its process or hangs.

    The kernel is not called here: a harmless stand-in returns results of the same kind, while the law's calls
    are recorded. became: the end of the process, in words.
    """
    recorded = Transcript()
    harmless = replace(subject.implementation, function=subject.stand_in())
    _broken(law, replace(subject, implementation=harmless), case, 0, recorded)
    if not recorded.lines:
        return None
    outcome = ["call", f"  computed  {became}", "  exact     a result"]
    body = [*recorded.lines, "", 'print("FIXED")', "sys.exit(0)"]
    return _composed(law, subject, outcome, recorded, body, target, folder, deadly=True)


def _in_a_child(
    name: str,
    place: tuple[str, Contract | None, str, str],
    case: str,
    folder: str,
    warm: bool,
    send: Callable[[Any], None],
) -> Repro | None:

    target, contract, dtype, device = place
    recorded = Transcript()
    implementation = load(target) if contract is None else replace(load(target), contract=contract)
    law, read = law_named(name, implementation.kind), decoded(case)
    subject = subject_of(implementation, dtype, device, recorder=ScriptRecorder(recorded))
    for gates in (part for part in read.values() if warm and isinstance(part, Gates)):
        with suppress(LawBroken):
            subject.answer(read, subject.other_gates(gates))
    finding = _broken(law, subject, read, 0, recorded)
    return _script(law, subject, finding, recorded, 0, target, Path(folder)) if finding else None


def best_script(law: Law, subject: Subject, case: Case, target: str, folder: Path) -> Repro | None:
    """Return a script. Run it to confirm it if the kernel seems to cache results, or the calls are many."""
    first = script(law, subject, case, target, folder)
    if remembers(subject, case) or (first is not None and first.calls > MANY_CALLS):
        return confirmed(law, subject, case, target, folder, first)[0]
    return first


def remembers(subject: Subject, case: Case) -> bool:
    """Return whether the kernel gives equal results for the case's gates and other gates of their shape."""
    gates = case.get("gates")
    if gates is None or 0 in gates.shape:
        return False
    try:
        here, there = (subject.answer(case, g) for g in (gates, subject.other_gates(gates)))
    except LawBroken:
        return False
    return bool(torch.equal(here.nan_to_num(), there.nan_to_num()))


def exit_code(repro: Repro, target: str | None = None, seconds: float = PATIENCE) -> int:
    """Run a script in a child process. Return its exit code, or 1 if it does not end in time."""
    with tempfile.TemporaryDirectory(prefix="dmat-") as folder:
        path = Path(folder) / "repro.py"
        repro.write(path)
        command = [sys.executable, str(path), *([] if target is None else [target])]
        try:
            return subprocess.run(command, capture_output=True, timeout=seconds, check=False).returncode
        except subprocess.TimeoutExpired:
            return 1


def confirmed(
    law: Law, subject: Subject, case: Case, target: str, folder: Path, first: Repro | None
) -> tuple[Repro | None, bool]:
    """Return a script, and whether it exited with 1 when run in a child process.

    first: the result of `script`.

    The result of a kernel may depend on earlier calls, so that `first` may find it right in a new process.
    Then try a script recorded in a new process, then one recorded there after a call on other gates.
    """
    ways: tuple[Callable[[], Repro | None], ...] = (
        lambda: first,
        lambda: alone_script(law, subject, case, target, folder),
        lambda: alone_script(law, subject, case, target, folder, warm=True),
    )
    for way in ways:
        repro = way()
        if repro is not None and exit_code(repro) == 1:
            return repro, True
    return first, False


# The script

_INTERPRETED = """
It was found in Triton's interpreter as dmat mends it, which this takes where dmat is installed. Triton's
own sees no access out of bounds, has bfloat16 and tf32 wrong, no autotuner and no context of a device.
"""

_MENDED = """\
os.environ |= {{"TRITON_INTERPRET": "1", "{asked}": "{config}"}}
try:
    from dmat.testing.interpret.install import install

    install()
except Exception as error:
    print(f"in Triton's own interpreter, for dmat's is not to be had: {{error}}")
"""

_APART = """\
if "REPRO_INSIDE" not in os.environ:  # the kernel may kill its process, or not end: another makes the call
    try:
        inside = {{**os.environ, "REPRO_INSIDE": "1"}}
        code = subprocess.run([sys.executable, *sys.argv], env=inside, timeout={patience:.0f}).returncode
    except subprocess.TimeoutExpired:
        code = "no end"
    print("FIXED" if code == 0 else f"BROKEN: {{code}}")
    sys.exit(0 if code == 0 else 1)
"""


def _script(
    law: Law,
    subject: Subject,
    finding: Finding,
    recorded: Transcript,
    seed: int,
    target: str | None,
    folder: Path,
) -> Repro | None:
    end = ending(finding, recorded)
    if end is None:
        return None
    body = [f"torch.manual_seed({seed})"] if recorded.random else []
    body += recorded.lines
    if finding.what == "raised" and finding.detail == "SystemExit":
        body = ["try:", *(f"    {line}" for line in body), "except SystemExit:", "    sys.exit(1)"]
    return _composed(law, subject, finding.lines(), recorded, [*body, "", *end], target, folder)


def _composed(
    law: Law,
    subject: Subject,
    outcome: list[str],
    recorded: Transcript,
    body: list[str],
    target: str | None,
    folder: Path,
    deadly: bool = False,
) -> Repro:
    """Compose the script: docstring, imports and helper functions, loading of the kernel, body."""
    code = "\n".join(wrapped(line) for line in body)
    config = config_index()
    imports = ("import os", "import subprocess") if deadly else () if config is None else ("import os",)
    used = {name for name in IMPORTS if name in ("load", "from_file") or re.search(rf"\b{name}\b", code)}
    typed = "sys.argv[1] if len(sys.argv) > 1 else TARGET" if target is not None else "sys.argv[1]"
    lines = [
        *_says(law, subject, outcome, target),
        "",
        *sources(used, imports),
        "",
        "",
        'inf, nan = float("inf"), float("nan")',
        *([] if target is None else [f"TARGET = {json.dumps(target, ensure_ascii=False)}"]),
        f"FOUND_IN = {json.dumps(str(folder), ensure_ascii=False)}",
        *([] if config is None else ["", _MENDED.format(asked=ASKED, config=config)]),
        *(["", _APART.format(patience=PATIENCE)] if deadly else []),
        f"kernel = load({typed}, FOUND_IN)",
        *(['stored = read(Path(__file__).with_suffix(".safetensors"))'] if "stored" in used else []),
        "",
        code,
        "",
    ]
    return Repro("\n".join(lines), recorded.stored, recorded.calls)


def wrapped(line: str) -> str:
    """Break a line that is too long and lists the elements of a tensor."""
    if len(line) <= WIDTH or "torch.tensor([" not in line:
        return line
    indent = line[: len(line) - len(line.lstrip())] + "    "
    broken = textwrap.wrap(
        line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(broken)


def _says(law: Law, subject: Subject, outcome: list[str], target: str | None) -> list[str]:
    """Return the docstring of the script."""
    quotes = '"' * 3
    text = [
        f"{law.name}: {law.statement}",
        "",
        f"does not hold for {subject.implementation.name}, {subject.dtype} on {subject.device}:",
        "",
        *(f"    {line}" for line in outcome),
        "",
        f"    python repro.py {'TARGET' if target is None else '[TARGET]'}",
        "",
        "exits 1 while the kernel is wrong here, 0 when it is right. It needs torch and the kernel alone.",
        "TARGET, to try another kernel: package.module:function or path/to/file.py:function.",
        *([] if config_index() is None else _INTERPRETED.splitlines()),
    ]
    plain = "\n".join(text).replace("\\", "\\\\").replace(quotes, "'" * 3)
    return [quotes + plain, quotes]
