"""Counterexample folders: each explains itself, and works on another machine.

counterexamples/<law>--<implementation>--<dtype>--<device>--<hash>/
    case.json  tensors.safetensors (random numbers alone)  repro.py  report.md  picture.png
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import torch

from dmat import __version__
from dmat.strategies.recipes.recipe import Case
from dmat.testing.case_file import (
    FILE,
    TENSORS,
    CaseFile,
    FindingForm,
    as_plain,
    parts_of,
    read,
    text_of,
    told,
)
from dmat.testing.errors import DidNotEnd
from dmat.testing.explain.repro.script import best_script, deadly_script
from dmat.testing.interpret.choice import TRITON, asked
from dmat.testing.law.subject import Subject
from dmat.testing.output import near
from dmat.testing.record import FORMAT
from dmat.testing.verdict.finding import Failure, Finding, Look

if TYPE_CHECKING:
    from dmat.testing.law.law import Law

PICTURE, REPRO, REPORT = "picture.png", "repro.py", "report.md"
PACKAGES = ("torch", "numpy", "hypothesis", "python-flint")


class Watch(Protocol):
    """The guard that a run puts around each kernel call made while a folder is written."""

    def trying(self, case: Case) -> AbstractContextManager[None]:
        """Write the case down before it is tried. Raises DidNotEnd."""

    def at_ease(self) -> None:
        """Watch nothing for a while: what follows is not the kernel's."""


def next_steps(home: Path, file: CaseFile) -> list[str]:
    """Return the two commands: replay the case, look at it."""
    return [f"replay: {replay_command(home, file)}", f"look:   {near(home) / PICTURE}"]


def replay_command(home: Path, file: CaseFile) -> str:
    """Return the command that tries the case again."""
    config = asked()
    interpreted = [] if config is None else ["--interpret", *(["--config", str(config)] if config else [])]
    return shlex.join(["dmat", "replay", str(near(home)), "--impl", file.implementation, *interpreted])


# What stands in the folder


def case_file(law: Law, subject: Subject, failure: Failure) -> CaseFile:
    """Return what case.json says of this failure, its random numbers not yet stored."""
    finding = failure.broken.finding
    return CaseFile(
        law.name,
        subject.implementation.name,
        subject.dtype,  # type: ignore[arg-type]
        subject.device,  # type: ignore[arg-type]
        parts_of(failure.case),
        failure.ended,
        failure.again,
        finding_form(finding),
        versions(),
        machine(subject.device),
        torch.initial_seed() % 2**63,
        FORMAT,
    )


def finding_form(finding: Finding) -> FindingForm:
    """Return a finding as case.json has it; what is no text for a terminal is left out of its texts."""
    texts = [_clean(text) for text in (finding.computed, finding.exact, finding.note)]
    error, allowed = (as_plain(x) for x in (finding.error, finding.allowed))
    return FindingForm(
        finding.quantity, finding.index, texts[0], texts[1], error, allowed, texts[2], finding.what
    )


def _clean(text: str) -> str:
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", "?", text)[:20_000]


def versions() -> dict[str, str]:
    """Return the versions of all that takes part."""
    interpreter = {} if asked() is None else {"triton interpreter": TRITON}
    found = {p: version(p) for p in PACKAGES}
    return {"dmat": __version__, "python": platform.python_version()} | found | interpreter


def machine(device: str) -> str:
    """Return what the device is, in words."""
    if device == "cuda" and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{platform.machine()} {platform.system()}"


def folder_name(file: CaseFile) -> str:
    """Return the name of a counterexample's folder: what it is, and a hash of the case."""
    case = msgspec.json.encode(file.case).decode()  # the same whatever parts other laws take
    told = f"{file.law} {file.implementation} {file.dtype} {file.device} {case}"
    digest = hashlib.sha256(told.encode()).hexdigest()[:8]
    parts = (file.law, file.implementation, file.dtype, file.device, digest)
    return "--".join(re.sub(r"[^\w.]+", "_", part).strip("_.")[-60:] or "_" for part in parts)


def write(
    home: Path,
    law: Law,
    subject: Subject,
    failure: Failure,
    file: CaseFile,
    looks: Sequence[Look],
    message: str,
    watch: Watch,
) -> None:
    """Write the folder whole, in the place of one of the same name."""
    home.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".", dir=home.parent))
    try:
        write_case(beside, file, failure.case)
        extras = [
            _or_why_not(lambda: _write_repro(beside, law, subject, failure, watch), REPRO),
            _or_why_not(lambda: _draw(looks, beside / PICTURE, watch), PICTURE),
        ]
        (beside / REPORT).write_text(
            report(file, message, replay_command(home, file), [text for text in extras if text])
        )
        put(beside, home)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_case(folder: Path, file: CaseFile, case: Any) -> None:
    """Write case.json, and the random numbers of the case, if it has any, beside it."""
    from safetensors.numpy import save_file

    kept, tensors = told(case)
    if tensors:
        save_file(dict(tensors), str(folder / TENSORS))
    (folder / FILE).write_text(text_of(msgspec.structs.replace(file, case=parts_of(kept))))


def put(beside: Path, home: Path) -> None:
    """Move a finished folder to its place; another worker may have put the same there just now."""
    os.chmod(beside, 0o755)
    shutil.rmtree(home, ignore_errors=True)
    try:
        beside.rename(home)
    except OSError:
        if not (home / FILE).exists():
            raise


def _or_why_not(make: Callable[[], object], name: str) -> str:
    """Make a file; return why it could not be made: a finding is reported whatever becomes of its picture."""
    try:
        make()
    except Exception as error:
        return f"{name} could not be made: {type(error).__name__}: {error}"
    return ""


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _draw(looks: Sequence[Look], file: Path, watch: Watch) -> None:
    watch.at_ease()
    from dmat.testing.explain.picture.figure import draw

    draw(looks, file)


def _write_repro(folder: Path, law: Law, subject: Subject, failure: Failure, watch: Watch) -> None:

    where = subject.implementation.name, Path.cwd()
    if failure.ended == "broken":
        try:
            with watch.trying(failure.case):
                made = best_script(law, subject, failure.case, *where)
        except DidNotEnd:
            raise TimeoutError("tried again, the case did not end") from None
    else:
        became = failure.broken.finding.computed
        made = deadly_script(law, subject, failure.case, *where, became)
    if made is None:
        raise ValueError("tried again, the case held")
    made.write(folder / REPRO)


def report(file: CaseFile, message: str, replay: str, remarks: Sequence[str]) -> str:
    """Return report.md: the message, the picture, how to go on, and what took part."""
    lines = [
        f"# {file.law} does not hold for {file.implementation}",
        "",
        "```",
        message,
        "```",
        "",
        f"![exact, computed, error over allowed]({PICTURE})",
        "",
        f"- `python {REPRO}` needs torch and the kernel alone; it exits 1 while the kernel is wrong here.",
        f"- `{replay}` tries it again; with `--keep` it joins `corpus/`, which later runs try first.",
        "",
        f"{file.dtype} on {file.device} ({file.machine}); {_listed(file.versions)}",
        *(f"\n{remark}" for remark in remarks),
    ]
    return "\n".join(lines) + "\n"


def keep(files: Sequence[Path], corpus: Path) -> list[Path]:
    """Copy these cases into the corpus, each under its own name; return their folders.

    CaseError where a file is no case; then none is copied.
    """
    homes = [(file, corpus / folder_name(read(file))) for file in files]
    corpus.mkdir(parents=True, exist_ok=True)
    for file, home in homes:
        beside = Path(tempfile.mkdtemp(prefix=".", dir=corpus))
        try:
            for name in (FILE, TENSORS):
                source = file if name == FILE else file.parent / name
                if source.is_file():
                    shutil.copyfile(source, beside / name)
            if home.resolve() != file.parent.resolve():
                put(beside, home)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return [home for _, home in homes]
