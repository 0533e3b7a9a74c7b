"""Write counterexample folders, one for each finding. A folder explains itself, and works on other machines.

counterexamples/<law>-<dtype>-<digest>/
    case.json  tensors.safetensors (only if the case has random numbers)  repro.py  report.md  picture.png
    also/<law>-<dtype>.json  also/<law>-<dtype>.safetensors (other laws that break by the same cause)
corpus/<law>--<implementation>--<dtype>--<device>--<digest>/
    case.json  tensors.safetensors
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import torch

from dmat import __version__
from dmat.strategies.recipes.recipe import Case
from dmat.testing import devices
from dmat.testing.case_file import (
    FILE,
    TENSORS,
    CaseFile,
    FindingForm,
    as_plain,
    parts_of,
    read,
    text_of,
    with_stored_randoms,
)
from dmat.testing.errors import DidNotEnd
from dmat.testing.explain.repro.script import REPRO, Made, best_script, deadly_script, runs_red
from dmat.testing.interpret.choice import TRITON, config_index
from dmat.testing.kernel.given import given_as
from dmat.testing.law.subject import Subject
from dmat.testing.output import output_path
from dmat.testing.record import FORMAT
from dmat.testing.verdict.finding import Example, Failure, Finding

if TYPE_CHECKING:
    from dmat.testing.law.law import Law

ALSO = "also"  # the folder of other laws of the same cause
PICTURE, REPORT = "picture.png", "report.md"
KEEPS = "; with `--keep` it joins `corpus/`, which later runs try first."
ALIVE = "there is no repro.py: in a new process the call did not end it. The replay is needed."
PACKAGES = ("torch", "numpy", "hypothesis", "python-flint")


class Watch(Protocol):
    """The services of a run that guard kernel calls while a folder is written."""

    def trying(self, case: Case) -> AbstractContextManager[None]:
        """Write the case down before it is tried. Raises DidNotEnd."""

    def pause_watchdog(self) -> None:
        """Pause the watchdog until the next example: what follows is not kernel code."""


def next_steps(home: Path, file: CaseFile) -> list[str]:
    """Return two lines: the command that replays the case, and the path of the picture.

    A third says why there is no repro.py, if no other process can import the kernel.
    """
    kernel = given_as(file.implementation)
    without = [f"there is no {REPRO}: {kernel.nowhere}"] if kernel is not None and kernel.nowhere else []
    return [f"replay: {replay_command(home, file)}", f"look:   {output_path(home) / PICTURE}", *without]


def replay_command(home: Path, file: CaseFile) -> str:
    """Return the command that replays the case; in Python, if the kernel's name does not say all of it."""
    kernel = given_as(file.implementation)
    if kernel is not None and not kernel.by_name:
        return kernel.call("replay", str(output_path(home)))
    config = config_index()
    interpreted = [] if config is None else ["--interpret", *(["--config", str(config)] if config else [])]
    return shlex.join(["dmat", "replay", str(output_path(home)), "--impl", file.implementation, *interpreted])


# Content of case.json


def case_file(law: Law, subject: Subject, failure: Failure) -> CaseFile:
    """Return the content of case.json for this failure. Its random numbers are not yet stored."""
    finding = failure.broken.finding
    return CaseFile(
        law.name,
        subject.implementation.name,
        subject.dtype,  # type: ignore[arg-type]
        subject.device,
        parts_of(failure.case),
        failure.ended,
        failure.reproducible,
        finding_form(finding),
        versions(),
        machine(subject.device),
        torch.initial_seed() % 2**63,
        FORMAT,
    )


def finding_form(finding: Finding) -> FindingForm:
    """Return a finding in the form of case.json. Control characters in its texts become "?"."""
    texts = [_clean(text) for text in (finding.computed, finding.exact, finding.note)]
    error, allowed = (as_plain(x) for x in (finding.error, finding.allowed))
    return FindingForm(
        finding.quantity, finding.index, texts[0], texts[1], error, allowed, texts[2], finding.what
    )


def _clean(text: str) -> str:
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", "?", text)[:20_000]


def versions() -> dict[str, str]:
    """Return the versions of dmat, Python and the packages that a result depends on."""
    interpreter = {} if config_index() is None else {"triton interpreter": TRITON}
    found = {p: version(p) for p in PACKAGES}
    return {"dmat": __version__, "python": platform.python_version()} | found | interpreter


def machine(device: str) -> str:
    """Return the model of an accelerator, or the architecture and the system of the CPU."""
    return devices.model(device) or f"{platform.machine()} {platform.system()}"


def folder_name(file: CaseFile) -> str:
    """Return the folder name of a counterexample: law, dtype, digest of the case and the implementation."""
    return f"{_as_name(file.law)}-{file.dtype}-{_digest(file)}"


def corpus_name(file: CaseFile) -> str:
    """Return the folder name of a case of the corpus: law, implementation, dtype, device, digest."""
    parts = (file.law, file.implementation, file.dtype, file.device, _digest(file))
    return "--".join(_as_name(part) for part in parts)


def _as_name(part: str) -> str:
    return re.sub(r"[^\w.]+", "_", part).strip("_.")[-60:] or "_"


def _digest(file: CaseFile) -> str:
    case = msgspec.json.encode(file.case).decode()  # independent of the parts that other laws take
    whole = f"{file.law} {file.implementation} {file.dtype} {file.device} {case}"
    return hashlib.sha256(whole.encode()).hexdigest()[:8]


def write(
    home: Path,
    law: Law,
    subject: Subject,
    failure: Failure,
    file: CaseFile,
    examples: Sequence[Example],
    message: str,
    watch: Watch,
) -> list[str]:
    """Write a whole folder, then move it to `home`. It replaces a folder of the same name.

    Return what is to be said of repro.py: that it makes earlier calls, or why there is none.
    """
    with _moved_to(home) as beside:
        write_case(beside, file, failure.case)
        remarks = _remarks(REPRO, lambda: _write_repro(beside, law, subject, failure, watch))
        others = _remarks(PICTURE, lambda: _draw(examples, beside / PICTURE, subject, watch))
        kept = (beside / REPRO).exists()
        text = report(file, message, replay_command(home, file), [*remarks, *others], repro=kept)
        (beside / REPORT).write_text(text)
    return remarks


def write_alone(home: Path, file: CaseFile, case: Any) -> None:
    """Write a folder with case.json alone, then move it to `home`. It replaces a folder of the same name."""
    with _moved_to(home) as beside:
        write_case(beside, file, case)


@contextmanager
def _moved_to(home: Path) -> Iterator[Path]:
    """Give an empty folder beside `home`, and move it there if the body ends without an error."""
    home.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".", dir=home.parent))
    try:
        yield beside
        put(beside, home)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_case(folder: Path, file: CaseFile, case: Any) -> None:
    """Write case.json, and a file of tensors beside it if the case has random numbers."""
    from safetensors.numpy import save_file

    kept, tensors = with_stored_randoms(case)
    if tensors:
        save_file(dict(tensors), str(folder / TENSORS))
    (folder / FILE).write_text(text_of(msgspec.structs.replace(file, case=parts_of(kept))))


def put(beside: Path, home: Path) -> None:
    """Move a finished folder to `home`. Another worker may put the same folder there at the same time."""
    os.chmod(beside, 0o755)
    shutil.rmtree(home, ignore_errors=True)
    try:
        beside.rename(home)
    except OSError:
        if not (home / FILE).exists():
            raise


def _remarks(name: str, make: Callable[[], str]) -> list[str]:
    """Make a file. Return the remark on it, or why it failed: a finding is reported without it, too."""
    try:
        remark = make()
    except Exception as error:
        remark = f"{name} could not be made: {type(error).__name__}: {error}"
    return [remark] if remark else []


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _draw(examples: Sequence[Example], file: Path, subject: Subject, watch: Watch) -> str:
    watch.pause_watchdog()
    from dmat.testing.explain.picture.figure import draw

    draw(examples, file, subject)
    return ""


def _write_repro(folder: Path, law: Law, subject: Subject, failure: Failure, watch: Watch) -> str:
    """Write repro.py, unless it finds the kernel right in a fresh process. Return the remark on it, or ""."""
    kernel = given_as(subject.implementation.name)
    if kernel is not None and kernel.nowhere:
        return ""  # the message says why
    where = subject.implementation.name, Path.cwd()
    if failure.ended == "broken":
        try:
            with watch.trying(failure.case):
                made = best_script(law, subject, failure.case, *where)
        except DidNotEnd:
            raise TimeoutError("tried again, the case did not end") from None
    else:
        deadly = deadly_script(law, subject, failure.case, *where, failure.broken.finding.computed)
        dies = deadly is None or failure.ended != "died" or runs_red(deadly, subject, where[0])
        made = Made(deadly) if dies else Made(None, ALIVE)
    if made.repro is not None:
        made.repro.write(folder / REPRO)
    elif not made.remark:
        raise ValueError("tried again, the case held")
    return made.remark


def report(file: CaseFile, message: str, replay: str, remarks: Sequence[str], *, repro: bool) -> str:
    """Return report.md: the message, the picture, the next steps, the machine and the versions.

    repro: whether there is a repro.py.
    """
    alone = "needs torch and the kernel alone; it exits 1 while the kernel is wrong here."
    lines = [
        f"# {file.law} does not hold for {file.implementation}",
        "",
        "```",
        message,
        "```",
        "",
        f"![exact, computed, error over allowed]({PICTURE})",
        "",
        *([f"- `python {REPRO}` {alone}"] if repro else []),
        f"- `{replay}` tries it again{KEEPS if replay.startswith('dmat replay ') else '.'}",
        "",
        f"{file.dtype} on {file.device} ({file.machine}); {_listed(file.versions)}",
        *(f"\n{remark}" for remark in remarks),
    ]
    return "\n".join(lines) + "\n"


def keep(files: Sequence[Path], corpus: Path) -> list[Path]:
    """Copy cases into the corpus, each under its own folder name. Return the folders.

    Raises CaseError if a file is no case; then nothing is copied.
    """
    homes = [(file, corpus / corpus_name(read(file))) for file in files]
    corpus.mkdir(parents=True, exist_ok=True)
    for file, home in homes:
        beside = Path(tempfile.mkdtemp(prefix=".", dir=corpus))
        try:
            copy_case(file, beside / FILE, beside / TENSORS)
            if home.resolve() != file.parent.resolve():
                put(beside, home)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return [home for _, home in homes]


# Other laws of the same cause


def add_also(home: Path, folder: Path, suffix: str = "") -> None:
    """Move the case of another counterexample into `home`/also, and delete that counterexample's folder.

    suffix: added to the name, to tell apart two cases of one law and dtype.
    """
    file = folder / FILE
    if folder.resolve() == home.resolve() or not file.is_file():
        return
    kept = read(file)
    also = home / ALSO
    also.mkdir(exist_ok=True)
    name = f"{_as_name(kept.law)}-{kept.dtype}{suffix}"
    copy_case(file, also / f"{name}.json", also / f"{name}.safetensors")
    shutil.rmtree(folder)


def copy_case(file: Path, case: Path, tensors: Path) -> None:
    """Copy the file of a case, with its tensors if it has some. The copy names its own tensors."""
    text, old = file.read_text(), tensors_of(file)
    if old.is_file():
        shutil.copyfile(old, tensors)
        text = text.replace(f'"{old.name}"', f'"{tensors.name}"')
    case.write_text(text)


def tensors_of(file: Path) -> Path:
    """Return the file of the tensors of a case, which is there if the case has random numbers."""
    return file.with_name(TENSORS) if file.name == FILE else file.with_suffix(".safetensors")
