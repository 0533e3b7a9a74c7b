"""A user's corpus: cases that every run tries first, and known failures.

corpus/<any name>/case.json    written by `dmat replay --keep`, committed like tests
corpus/known.toml              known failures: laws that do not hold, each with a witness among the cases

Several folders can make one corpus. A folder of counterexamples is a corpus, too.
"""

from __future__ import annotations

import datetime
import importlib.util
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from dmat.strategies.recipes.recipe import Case
from dmat.testing.case_file import FILE, CaseFile, Dtype, Name, Text, case_of, read
from dmat.testing.contract import DTILDE, FUSED
from dmat.testing.errors import CaseError, CorpusError
from dmat.testing.output import output_path
from dmat.testing.registry import laws

if TYPE_CHECKING:
    from dmat.testing.kernel.select import Chosen
    from dmat.testing.law.law import Law
    from dmat.testing.law.subject import Subject


KNOWN = "known.toml"


class Known(Struct, frozen=True, forbid_unknown_fields=True):
    """A known failure: a law that does not hold for an implementation in a dtype.

    reason: why the failure is tolerated. link: the issue. expires: from this day on, the entry is an error.
    witness: the name of a folder in the corpus, whose case breaks the law.
    """

    law: Name
    implementation: Name
    dtype: Dtype
    reason: Text
    link: Text
    expires: datetime.date
    witness: Name

    def __str__(self) -> str:
        """Name the known failure."""
        return f"{self.law} of {self.implementation} in {self.dtype}"


class KnownFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The content of known.toml: tables [[known]]."""

    known: list[Known] = []


@dataclass(frozen=True)
class Kept:
    """A case of the corpus: its folder, its parsed case.json, and the case itself."""

    folder: Path
    file: CaseFile
    case: Case


@dataclass(frozen=True)
class Listed:
    """A known failure, the known.toml that lists it, and its witness."""

    file: Path
    known: Known
    witness: Kept

    def __str__(self) -> str:
        """Name the file and the known failure."""
        return f"{self.file}: {self.known}"


@dataclass(frozen=True)
class Corpus:
    """The cases and the known failures of one or more folders."""

    cases: tuple[Kept, ...] = ()
    known: tuple[Listed, ...] = ()

    @classmethod
    def read(cls, *folders: Path) -> Corpus:
        """Read the folders. Raises CorpusError, which names the wrong file or the missing witness."""
        parts = [_read(folder) for folder in dict.fromkeys(folder.resolve() for folder in folders)]
        cases = tuple(kept for part in parts for kept in part.cases)
        return cls(cases, tuple(listed for part in parts for listed in part.known))

    def cases_for(self, law: Law, subject: Subject) -> list[Case]:
        """Return the cases of this law, in the subject's dtype, that the subject's contract allows."""
        alike = (k for k in self.cases if (k.file.law, k.file.dtype) == (law.name, subject.dtype))
        return [kept.case for kept in alike if law.why_not(subject, kept.case) is None]

    def known_for(self, law: str, implementation: str, dtype: str) -> Listed | None:
        """Return the first known failure of this law, implementation and dtype, or None."""
        wanted = (law, implementation, dtype)
        alike = (k for k in self.known if (k.known.law, k.known.implementation, k.known.dtype) == wanted)
        return next(alike, None)

    def require_current(
        self, laws: Collection[str], chosen: Mapping[str, Collection[str]], today: datetime.date
    ) -> None:
        """Raise CorpusError for a known failure that has expired, or that names nothing that exists.

        laws: the names of all laws. chosen: the implementations of this run by name, each with its promised
        dtypes. Other implementations may stand in known.toml, if they seem importable.
        """
        for where in self.known:
            entry = where.known
            if entry.law not in laws:
                raise CorpusError(f"{where}: there is no law {entry.law!r}")
            if entry.expires <= today:
                raise CorpusError(f"{where}: expired on {entry.expires}: mend it, or give it another date")
            if entry.dtype not in chosen.get(entry.implementation, (entry.dtype,)):
                raise CorpusError(f"{where}: matches nothing: the kernel does not promise {entry.dtype}")
            if entry.implementation not in chosen and not _exists(entry.implementation):
                raise CorpusError(f"{where}: there is no implementation {entry.implementation!r}")


def current(folders: Sequence[Path], chosen: Sequence[Chosen]) -> Corpus | None:
    """Read the corpus of a run from the folders that exist; None if none does. CorpusError if outdated."""
    there = [folder for folder in folders if folder.is_dir()]
    if not there:
        return None

    corpus = Corpus.read(*there)
    promised = {implementation.name: implementation.contract.dtypes for implementation, _, _ in chosen}
    corpus.require_current(
        {law.name for kind in (DTILDE, FUSED) for law in laws(kind)}, promised, datetime.date.today()
    )
    return corpus


def require_there(folders: Sequence[Path]) -> None:
    """Raise CorpusError for a folder that does not exist."""
    for folder in folders:
        if not folder.is_dir():
            raise CorpusError(f"the corpus is {str(output_path(folder))!r}; there is no such folder")


def _read(folder: Path) -> Corpus:
    # A name with a leading dot is a temporary folder: another run is writing it, or was stopped then.
    every = sorted([*folder.glob(f"*/{FILE}"), *folder.glob("*/also/*.json")])
    files = [file for file in every if not file.relative_to(folder).parts[0].startswith(".")]
    try:
        cases = tuple(Kept(f.parent, file := read(f), case_of(file.case, f.parent)) for f in files)
    except CaseError as error:
        raise CorpusError(str(error)) from None
    listed = folder / KNOWN
    known = (Listed(listed, entry, _witness(listed, entry, cases)) for entry in _known(listed))
    return Corpus(cases, tuple(known))


def _witness(file: Path, known: Known, cases: Sequence[Kept]) -> Kept:
    """Return the witness of a known failure. CorpusError if it is missing, or has another law or dtype."""
    found = next((kept for kept in cases if kept.folder.name == known.witness), None)
    if found is None:
        raise CorpusError(f"{file}: {known}: no case {known.witness!r} in {file.parent}")
    if (found.file.law, found.file.dtype) != (known.law, known.dtype):
        of = f"{found.file.law} in {found.file.dtype}"
        raise CorpusError(f"{file}: {known}: its witness {known.witness} is of {of}")
    return found


def _known(file: Path) -> list[Known]:
    if not file.exists():
        return []
    try:
        return msgspec.toml.decode(file.read_bytes(), type=KnownFile).known
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
        raise CorpusError(f"{file} is no list of known failures: {error}") from None


def _exists(target: str) -> bool:
    """Return whether a TARGET seems importable, without importing it."""
    where = target.rpartition(":")[0]
    if where.endswith(".py"):
        return Path(where).is_file()
    top = where.partition(".")[0] or target
    return Path(top).is_dir() or Path(f"{top}.py").is_file() or importlib.util.find_spec(top) is not None
