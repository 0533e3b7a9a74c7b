"""The corpus: its cases come first in every run; known failures pass while they fail, and only then."""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings

from dmat.strategies import Constant, Gates
from dmat.strategies.recipes.recipe import Case
from dmat.testing.case_file import CaseFile, parts_of
from dmat.testing.contract import Contract
from dmat.testing.counterexample.corpus import Corpus
from dmat.testing.counterexample.folder import write_case
from dmat.testing.errors import CorpusError
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.record import Record
from dmat.testing.registry import law_named
from dmat.testing.run.search import Failed, search
from dmat.testing.run.session import Session
from dmat.testing.verdict.finding import LawBroken

from .zoo.sound import masked_cumulative_sum as right

RARE: Case = {"gates": Gates("float32", (1, 1, 3), Constant(0.3), Constant(0.7))}  # nothing draws it
KERNELS = """
from dmat.reference import masked_cumulative_sum
from dmat.testing import implementation

quick = implementation(dtypes=("float32",), max_seq=3, special_values=(), differentiable=False)

@quick
def rarely_wrong(i, f):
    rare = i.shape == (1, 1, 3, 1) and bool(((f > 0.69) & (f < 0.71)).all())
    return masked_cumulative_sum(i, f) + rare

@quick
def mended(i, f):
    return masked_cumulative_sum(i, f)
"""
KNOWN = """
[[known]]
law = "values"
implementation = "kernels.py:{name}"
dtype = "float32"
reason = "waits for the new scan"
link = "https://example.org/7"
expires = {expires}
witness = "{witness}"
"""
TODAY = datetime.date(2026, 11, 24)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two kernels, and a corpus of one case."""
    (tmp_path / "kernels.py").write_text(KERNELS)
    (tmp_path / "corpus" / "rare").mkdir(parents=True)
    file = CaseFile("values", "kernels.py:rarely_wrong", "float32", "cpu", parts_of(RARE))
    write_case(tmp_path / "corpus" / "rare", file, RARE)
    return tmp_path


def know(
    folder: Path, name: str = "rarely_wrong", expires: str = "2999-01-01", witness: str = "rare"
) -> None:
    text = KNOWN.format(name=name, expires=expires, witness=witness)
    (folder / "corpus" / "known.toml").write_text(text)


def checked(folder: Path, name: str, *options: str) -> tuple[int, str]:
    """Run `dmat check` there; return its exit code and what it printed."""
    command = [sys.executable, "-m", "dmat.testing.cli", "check", f"kernels.py:{name}", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    return done.returncode, done.stdout + done.stderr


def record_of_values(folder: Path, name: str) -> dict[str, Any]:
    """Try the law of values alone there, by pytest; return its record."""
    command = [sys.executable, "-m", "pytest", "--pyargs", "dmat.properties", "-k", "test_law_values", "-q"]
    command += ["--dmat-impl", f"kernels.py:{name}", "--dmat-report", "r.jsonl", "-p", "no:cacheprovider"]
    subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=300)
    records = [json.loads(line) for line in (folder / "r.jsonl").read_text().splitlines()]
    found: dict[str, Any] = next(record for record in records if record["law"] == "values")
    return found


def test_a_case_of_the_corpus_is_found(folder: Path) -> None:
    """A failure that no search draws is found, for the corpus has it; without the corpus it is not."""
    assert record_of_values(folder, "rarely_wrong")["status"] == "failed"
    assert record_of_values(folder, "mended")["status"] == "passed"
    (folder / "corpus").rename(folder / "elsewhere")
    shutil.rmtree(folder / ".hypothesis", ignore_errors=True)  # remembered there, but not where CI is set
    assert record_of_values(folder, "rarely_wrong")["status"] == "passed"


def test_the_ini_names_folders_that_may_not_be_there_yet(folder: Path) -> None:
    """A fresh clone passes over the night that has not been; what another folder of the list has is found."""
    (folder / "corpus").rename(folder / "kept")
    (folder / "pytest.ini").write_text("[pytest]\ndmat_corpus = night/counterexamples kept\n")
    assert record_of_values(folder, "rarely_wrong")["status"] == "failed"


def test_a_named_folder_must_be_there(folder: Path) -> None:
    """--corpus of a folder that is not there ends the check before it begins, in one line that names it."""
    code, printed = checked(folder, "rarely_wrong", "--corpus", "corpus", "--corpus", "nigth")
    assert code == 2
    assert printed.splitlines() == ["dmat: the corpus is 'nigth'; there is no such folder"]


def test_every_named_folder_is_tried(folder: Path) -> None:
    """--corpus given twice: a case of the second folder is found, and the default is not looked at."""
    (folder / "corpus").rename(folder / "kept")
    (folder / "corpus" / "torn").mkdir(parents=True)
    (folder / "corpus" / "torn" / "case.json").write_text("{")
    (folder / "empty").mkdir()
    code, printed = checked(folder, "rarely_wrong", "--first", "--corpus", "empty", "--corpus", "kept")
    assert code == 1, printed
    assert "Constant(0.7)" in printed


def test_a_known_failure_passes_as_known(folder: Path) -> None:
    """While the witness fails the law is "known", with reason and link, and the check exits 0."""
    know(folder)
    code, printed = checked(folder, "rarely_wrong")
    assert code == 0, printed
    reason = "until 2999-01-01: waits for the new scan (https://example.org/7)"
    assert f"known: values (float32): {reason}" in printed
    assert ", but for 1 known not to hold" in printed


def test_a_known_failure_that_is_fixed_is_an_error(folder: Path) -> None:
    """Once the witness holds the entry must go: the law counts as not run, and the reason says so."""
    know(folder, name="mended")
    record = record_of_values(folder, "mended")
    assert (record["status"], record["promised"]) == ("not run", True)
    assert record["reason"].endswith("fixed: delete this entry")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"expires": "2026-11-24"}, "expired on 2026-11-24"),
        ({"witness": "no_such_case"}, "no case 'no_such_case'"),
    ],
)
def test_what_is_wrong_with_an_entry_is_told_first(folder: Path, change: dict[str, str], why: str) -> None:
    """An entry that has expired or has no witness ends the check before it begins, in one line."""
    know(folder, **change)
    code, printed = checked(folder, "rarely_wrong")
    assert code == 2
    assert why in printed
    assert len(printed.splitlines()) == 1


def corpus_of(folder: Path) -> Corpus:
    return Corpus.read(folder / "corpus")


def test_folders_make_one_corpus(folder: Path) -> None:
    """The cases of all, and the known failures of each with the witness that lies beside them."""
    know(folder)
    shutil.copytree(folder / "corpus", folder / "night")
    know(folder, name="mended")
    joined = Corpus.read(folder / "corpus", folder / "night", folder / "corpus")
    assert [kept.folder for kept in joined.cases] == [folder / "corpus" / "rare", folder / "night" / "rare"]
    assert [listed.known.implementation for listed in joined.known] == [
        "kernels.py:mended",
        "kernels.py:rarely_wrong",
    ]
    found = joined.known_for("values", "kernels.py:rarely_wrong", "float32")
    assert found is not None
    assert found.witness.folder == folder / "night" / "rare"


def test_a_witness_of_another_folder_is_none(folder: Path) -> None:
    """An entry whose witness lies in another folder than its list is an error: folders come and go."""
    know(folder)
    (folder / "night").mkdir()
    (folder / "corpus" / "known.toml").rename(folder / "night" / "known.toml")
    with pytest.raises(CorpusError, match=r"night/known.toml: .*: no case 'rare' in .*night"):
        Corpus.read(folder / "corpus", folder / "night")


def test_what_is_still_being_written_is_no_case(folder: Path) -> None:
    """A folder that begins with a dot, as a run makes them before it names them, is not read."""
    (folder / "corpus" / ".unfinished").mkdir()
    (folder / "corpus" / ".unfinished" / "case.json").write_text("{")
    assert [kept.folder.name for kept in corpus_of(folder).cases] == ["rare"]


@pytest.mark.parametrize(
    ("implementation", "why"),
    [
        ("kernels.py:rarely_wrong", None),
        ("gone.py:f", "there is no implementation"),
        ("nosuch:f", "there is no"),
    ],
)
def test_an_entry_for_nothing_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, implementation: str, why: str | None
) -> None:
    """An implementation that is not in this run must at least be there; nothing is imported to know that."""
    monkeypatch.chdir(folder)
    know(folder)
    file = folder / "corpus" / "known.toml"
    file.write_text(file.read_text().replace("kernels.py:rarely_wrong", implementation))
    if why is None:
        corpus_of(folder).require_current(["values"], {}, TODAY)
        return
    with pytest.raises(CorpusError, match=why):
        corpus_of(folder).require_current(["values"], {}, TODAY)


def test_an_entry_for_a_dtype_that_is_not_promised_is_an_error(folder: Path) -> None:
    """What no law of the run could ever match is told, and not passed over."""
    know(folder)
    promised = {"kernels.py:rarely_wrong": ("bfloat16",)}
    with pytest.raises(CorpusError, match="matches nothing: the kernel does not promise float32"):
        corpus_of(folder).require_current(["values"], promised, TODAY)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('law = "values"', 'law = "valeus"', "its witness rare is of values"),
        ('dtype = "float32"', 'dtype = "int8"', "Invalid enum value 'int8' - at `\\$.known\\[0\\].dtype`"),
        ("expires = 2999-01-01", 'expires = "soon"', "at `\\$.known\\[0\\].expires`"),
        ('reason = "waits for the new scan"\n', "", "missing required field `reason`"),
        ("[[known]]", "[[known", "is no list of known failures"),
    ],
)
def test_a_list_that_is_none(folder: Path, old: str, new: str, why: str) -> None:
    """What is wrong with known.toml is told with the entry and the field."""
    know(folder)
    file = folder / "corpus" / "known.toml"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(CorpusError, match=why):
        corpus_of(folder)


def test_a_torn_case_is_an_error(folder: Path) -> None:
    """A corpus with a case that cannot be read is not silently a smaller one."""
    file = folder / "corpus" / "rare" / "case.json"
    file.write_text(file.read_text()[:100])
    with pytest.raises(CorpusError, match="is no case"):
        corpus_of(folder)


def test_the_corpus_comes_first_and_only_where_allowed(folder: Path) -> None:
    """Its cases are tried before the ladder; not where the contract does not allow them."""
    tried: list[tuple[int, ...]] = []

    def kernel(i: Any, f: Any) -> Any:
        tried.append(tuple(i.shape))
        return right(i, f) + 1

    session, law = Session(corpus=corpus_of(folder)), law_named("values")
    profile = settings(max_examples=1, database=None, phases=[Phase.generate])
    for contract, first in ((Contract(), (1, 1, 3, 1)), (Contract(max_seq=2), (1, 1, 1, 1))):
        tried.clear()
        subject = DtildeSubject(Implementation("k", kernel, contract), "float32")
        with pytest.raises(Failed) as caught:
            search(law, subject, Record("values", "k", "float32", "cpu"), profile, session)
        assert isinstance(caught.value, LawBroken)
        assert tried[0] == first
