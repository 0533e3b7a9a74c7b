"""Turn a case that breaks a law into a repro script, which needs only torch and the kernel.

The law runs once more, and recorder.py records its calls of the kernel as torch code. The script repeats
these calls, then checks the entry that the law found wrong: exit 1 if it is still wrong, exit 0 if it is
right.
"""

from __future__ import annotations

import json
import pickle
import re
import tempfile
import textwrap
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from dmat.strategies import Gates
from dmat.strategies.recipes.recipe import Case
from dmat.testing.case_file import decoded, encoded
from dmat.testing.contract import AnyContract
from dmat.testing.errors import Died, OutOfTime
from dmat.testing.explain.repro import fresh
from dmat.testing.explain.repro.ending import ending
from dmat.testing.explain.repro.recorder import ScriptRecorder
from dmat.testing.explain.repro.transcript import Transcript
from dmat.testing.interpret.choice import ASKED, config_index
from dmat.testing.kernel.given import given_as
from dmat.testing.kernel.load import load
from dmat.testing.kernel.runtime import IMPORTS, sources
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.registry import law_named
from dmat.testing.verdict.finding import Finding, LawBroken

SEEDS = 20  # seeds to try, for kernels that draw random numbers or vary from call to call
RUNS = 2  # a script must exit 1 in so many fresh processes
REPEATS = 12  # the law is recorded so many times in a new process, until it breaks
HISTORIES = ("", "other", "repeated")  # the calls that a new process makes before, see `alone_script`
WIDTH = 110
PATIENCE = 60.0  # seconds until a child process is ended
REPRO = "repro.py"

EARLIER = (
    "an earlier call is needed: alone, the call is right in a new process. repro.py makes those before it."
)
UNWRITABLE = "there is no repro.py: no code without dmat checks this finding. The replay tries the law."
UNCONFIRMED = (
    "there is no repro.py: in a new process its calls are right, also after a call on other gates and after"
    f" {REPEATS} repeats. The result depends on what the process did before, or on chance. The replay is"
    " needed: it tries the law itself, again and again."
)


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
    law: Law, subject: Subject, case: Case, target: str, folder: Path, history: str = ""
) -> Repro | None:
    """Like `script`, but in a new process without earlier kernel calls. None if the law holds there.

    history: the calls before. "": none. "other": a call on other gates of the same shape. "repeated": the law
    again and again, and calls on other gates between, until it breaks.
    """
    contract = subject.contract if _can_be_sent(subject.contract) else None
    place = target, contract, subject.dtype, subject.device
    arguments = law.name, place, encoded(law.arguments(case)), str(folder), history
    try:
        found: Repro | None = fresh.called(_in_a_child, *arguments, seconds=PATIENCE)
        return found
    except Died as error:
        return deadly_script(law, subject, case, target, folder, f"the process died: {error}")
    except OutOfTime:
        return deadly_script(law, subject, case, target, folder, f"no result in {PATIENCE:.0f} s")


def _can_be_sent(contract: AnyContract) -> bool:
    """Return whether a contract can be pickled. If it holds functions, a child reads it from the target."""
    try:
        pickle.dumps(contract)
    except Exception:
        return False
    return True


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
    place: tuple[str, AnyContract | None, str, str],
    case: str,
    folder: str,
    history: str,
) -> Repro | None:

    target, contract, dtype, device = place
    recorded = Transcript()
    implementation = load(target) if contract is None else replace(load(target), contract=contract)
    law, read = law_named(name, implementation.kind), decoded(case)
    subject = subject_of(implementation, dtype, device, recorder=ScriptRecorder(recorded))
    if history == "other":
        _other_call(subject, read)
    for _ in range(REPEATS if history == "repeated" else 1):
        finding = _broken(law, subject, read, 0, recorded)
        if finding is not None:
            return _script(law, subject, finding, recorded, 0, target, Path(folder))
        _other_call(subject, read)
    return None


def _other_call(subject: Subject, case: Case) -> None:
    """Call the kernel on other gates of the same shape: a wrong kernel may return a cached result."""
    for gates in (part for part in case.values() if isinstance(part, Gates)):
        with suppress(LawBroken):
            subject.answer(case, subject.other_gates(gates))


@dataclass(frozen=True)
class Made:
    """A script that exits 1 in fresh processes, or None. remark: what the message says of it, or ""."""

    repro: Repro | None
    remark: str = ""


def best_script(law: Law, subject: Subject, case: Case, target: str, folder: Path) -> Made:
    """Return a script that shows the broken law in fresh processes, or why there is none."""
    first = script(law, subject, case, target, folder)
    if first is None and _broken(law, subject, case, 0, Transcript()) is not None:
        return Made(None, UNWRITABLE)
    return confirmed(law, subject, case, target, folder, first)


def exit_code(
    repro: Repro, target: str | None = None, seconds: float = PATIENCE, *, module: str | None = None
) -> int:
    """Run a script in a fresh process. Return its exit code, or 1 if it does not end in time.

    module: as in fresh.py.
    """
    with tempfile.TemporaryDirectory(prefix="dmat-") as folder:
        path = Path(folder) / REPRO
        repro.write(path)
        return fresh.exit_code(path, [] if target is None else [target], seconds, module)


def confirmed(law: Law, subject: Subject, case: Case, target: str, folder: Path, first: Repro | None) -> Made:
    """Return the first script that exits with 1 in every one of RUNS fresh processes.

    first: the result of `script`.

    The result of a kernel may depend on earlier calls, so that `first` may find it right in a new process.
    Then try a script recorded in a new process; one recorded there after a call on other gates; and one that
    repeats the calls of the law until it breaks.
    """
    if first is not None and runs_red(first, subject, target):
        return Made(first)
    for history in HISTORIES:
        repro = alone_script(law, subject, case, target, folder, history)
        if repro is not None and runs_red(repro, subject, target):
            return Made(repro, EARLIER if first is not None or history else "")
    return Made(None, UNCONFIRMED)


def runs_red(repro: Repro, subject: Subject, target: str) -> bool:
    """Return whether a script exits with 1 in every one of RUNS fresh processes."""
    plain = subject.device == "cpu" and config_index() is None
    where = target.rpartition(":")[0]
    may_change = where.endswith(".py") or given_as(target) is not None  # in the life of this process
    module = None if not plain else "" if may_change else where
    return all(exit_code(repro, module=module) == 1 for _ in range(RUNS))


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
