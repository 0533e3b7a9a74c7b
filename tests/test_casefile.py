"""Case files: what is written is read again, and what is damaged is refused in one line and does nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmat.strategies import Constant, Cotangent, Cycle, Edited, Gates, Normal, Palette, Ramp, Sum, inf, nan
from dmat.strategies.cases.dtilde import (
    COTANGENTS,
    DIRECTIONS,
    EXACT_COTANGENTS,
    GATES,
    MASKED_COTANGENTS,
    WINDOWS,
)
from dmat.strategies.domain import Domain
from dmat.strategies.recipes.recipe import Case
from dmat.testing.case_file import (
    CaseFile,
    FindingForm,
    case_of,
    decoded,
    encoded,
    parts_of,
    read,
    text_of,
    with_stored_randoms,
)
from dmat.testing.counterexample import replay
from dmat.testing.counterexample.folder import corpus_name, folder_name, write_case
from dmat.testing.counterexample.outcome import COULD_NOT, FIXED, Wanted
from dmat.testing.errors import CaseError

KINDS = (GATES, WINDOWS, COTANGENTS, EXACT_COTANGENTS, MASKED_COTANGENTS, DIRECTIONS)
CASE: Case = {
    "gates": Gates(
        "float32", (1, 2, 5), Edited(Ramp(1.0, 0.5), (((0, 1, 2), inf),)), Cycle((1.0, -0.0, nan))
    ),
    "cotangent": Cotangent(Sum(Constant(1.0), Constant(2.0))),
}
SEEDED: Case = {"gates": Gates("bfloat16", (2, 3, 70), Normal(3, 10.0), Palette(1, (1.0, -inf)))}


def file_of(case: Case, **others: Any) -> CaseFile:
    finding = FindingForm("df", (0, 0, 1), "0.0", "8.0", 8.0, 1e-5)
    dtype = case["gates"].dtype
    return CaseFile("values", "evil.py:f", dtype, "cpu", parts_of(case), finding=finding, **others)


@settings(max_examples=60, database=None)
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_every_case_that_is_drawn_is_read_again(data: st.DataObject, kind: Any) -> None:
    """Every kind of case comes back from its line of JSON as it was, infinities, NaN and -0.0 included."""
    case = data.draw(kind.search(Domain()))
    again = decoded(encoded(case))
    assert {name: repr(part) for name, part in again.items()} == {n: repr(part) for n, part in case.items()}


def test_a_file_is_read_again(tmp_path: Path) -> None:
    """All that a case.json says comes back, and its text is for people: indented."""
    file = file_of(CASE)
    write_case(tmp_path, file, CASE)
    assert read(tmp_path / "case.json") == file
    assert (tmp_path / "case.json").read_text() == text_of(file)
    assert not (tmp_path / "tensors.safetensors").exists()


def test_random_numbers_are_stored(tmp_path: Path) -> None:
    """Of a seeded recipe the numbers themselves are kept, so that no generator need give them again."""
    write_case(tmp_path, file_of(SEEDED), SEEDED)
    text = (tmp_path / "case.json").read_text()
    assert "seed" not in json.loads(text)["case"]["gates"]["fgate"]
    again = case_of(read(tmp_path / "case.json").case, tmp_path)["gates"]
    for ours, theirs in zip(SEEDED["gates"].dense(), again.dense(), strict=True):
        assert ours.equal(theirs)


def test_what_is_stored_is_known_to_other_processes(tmp_path: Path) -> None:
    """A case of a corpus, told by one process to another, is still read from where the corpus is."""
    write_case(tmp_path, file_of(SEEDED), SEEDED)
    case = case_of(read(tmp_path / "case.json").case, tmp_path)
    again = decoded(encoded(case))
    assert again == case
    assert again["gates"].dense()[0].equal(SEEDED["gates"].dense()[0])


def test_what_is_stored_is_only_what_is_random() -> None:
    """A case without random numbers stores nothing."""
    assert with_stored_randoms(CASE)[1] == {}
    assert sorted(with_stored_randoms(SEEDED)[1]) == ["gates.fgate", "gates.igate"]


# Damage. A file is damaged in 200 ways, by a generator of its own: none may do anything.

HOSTILE: tuple[Any, ...] = (
    None, True, -1, 10**30, 1e308, -(2**63), "", "nan", "../../../etc/passwd", "\x1b[2J", "a" * 10_000, [],
    {},
    [[[[]]]], {"type": "Gates"}, {"type": "os.system", "command": "touch ran"}, "__import__('os').abort()",
    {"type": "Stored", "name": "../../x"}, {"type": "Stored", "file": "/etc/passwd", "name": "x"}, "NaN",
    {"type": "Palette", "seed": -1, "values": [1.0]}, {"type": "Cycle", "values": []},
)  # fmt: skip


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a JSON document."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def replaced(node: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return the document with another value at a path."""
    if not path:
        return value
    copy = dict(node) if isinstance(node, dict) else list(node)
    copy[path[0]] = replaced(node[path[0]], path[1:], value)
    return copy


def damaged(text: str, n: int) -> bytes:
    """Return the n-th damaged version of a case file."""
    chance, whole = random.Random(n), text.encode()
    if n % 5 == 0:
        return whole[: chance.randrange(len(whole))]
    if n % 5 == 1:
        at = chance.randrange(len(whole))
        return whole[:at] + bytes([chance.randrange(256)]) + whole[at + chance.randrange(3) :]
    if n % 50 == 2:
        return b'{"law":' * 5000
    if n % 50 == 7:
        deep = "1.0".join(['{"type":"Sum","second":{"type":"Constant","value":1.0},"first":'] * 1) * 3000
        return whole.replace(b'"igate": {', b'"igate": ' + deep.encode() + b"{", 1)
    document = json.loads(text)
    path = chance.choice(places(document))
    hostile = json.dumps(replaced(document, path, chance.choice(HOSTILE)))
    return hostile.replace("10000", "NaN" if n % 4 == 0 else "1e999", 1).encode()


@pytest.fixture(scope="module")
def harm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 200 damaged cases, in folders of their own, beside the kernel that they name."""
    folder = tmp_path_factory.mktemp("harm")
    (folder / "evil.py").write_text("open('imported', 'w').close()")
    text = text_of(file_of(CASE))
    for n in range(200):
        (folder / str(n)).mkdir()
        (folder / str(n) / "case.json").write_bytes(damaged(text, n))
    return folder


def test_damaged_files_do_nothing(harm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 200 is refused in one line, or is a case to try; nothing runs, nothing is written."""
    monkeypatch.chdir(harm)
    before = sorted(harm.rglob("*"))
    refusals = []
    for file in replay.found(harm):
        try:
            case_of(read(file).case, file.parent)
        except CaseError as error:
            refusals.append(str(error))
    assert len(refusals) > 100
    assert [text for text in refusals if len(text.splitlines()) != 1 or "\x1b" in text] == []
    assert sorted(harm.rglob("*")) == before


def test_damaged_files_are_replayed_without_a_crash(harm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dmat replay` on all 200 gives an outcome each; what a file names as its kernel is not imported."""
    monkeypatch.chdir(harm)
    before = sorted(harm.rglob("*"))
    outcomes = replay.replay(replay.found(harm), Wanted())
    assert len(outcomes) == 200
    assert {outcome.status for outcome in outcomes} == {COULD_NOT}
    assert sorted(harm.rglob("*")) == before


def test_damaged_files_on_a_kernel(harm: Path) -> None:
    """On a right kernel none of them is broken: those that cannot be read could not run."""
    outcomes = replay.replay(replay.found(harm), Wanted(target="dmat:dtilde"))
    assert {outcome.status for outcome in outcomes} <= {COULD_NOT, FIXED}
    assert sum(outcome.status == COULD_NOT for outcome in outcomes) > 100


@pytest.mark.parametrize("hostile", ["../../../x", "a/b", "..", "\N{SNOWMAN}/", "x" * 400])
def test_names_stay_within_their_folder(hostile: str) -> None:
    """The folder of a case is one name, in the corpus too, whatever the implementation is called."""
    file = msgspec.structs.replace(file_of(CASE), implementation=hostile, law=hostile)
    for name in (folder_name(file), corpus_name(file)):
        assert Path(name).name == name
        assert name not in ("", ".", "..")
        assert len(name) < 250


@pytest.mark.parametrize("number", [None, 1, 2])
def test_older_formats_are_read(tmp_path: Path, number: int | None) -> None:
    """A case.json of format 1, or that says none, has no `what` in its finding, and is read as before."""
    document = json.loads(text_of(file_of(CASE)))
    del document["format"], document["finding"]["what"]
    (tmp_path / "case.json").write_text(json.dumps(document | ({} if number is None else {"format": number})))
    file = read(tmp_path / "case.json")
    assert file == msgspec.structs.replace(file_of(CASE), format=number or 1)
    assert repr(case_of(file.case, tmp_path)) == repr(CASE)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"law": 3}, "Expected `str`, got `int` - at `$.law`"),
        ({"dtype": "int8"}, "Invalid enum value 'int8' - at `$.dtype`"),
        ({"more": 1}, "Object contains unknown field `more`"),
        ({"format": 3}, "Invalid enum value 3 - at `$.format`"),
        ({"law": "\x1b[2J"}, "at `$.law`"),
    ],
)
def test_the_error_says_where(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    """The error names the file, the field, its type or value, and what was expected."""
    file = tmp_path / "case.json"
    file.write_text(json.dumps(json.loads(text_of(file_of(CASE))) | change))
    with pytest.raises(CaseError) as caught:
        read(file)
    assert str(file) in str(caught.value)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ({"gates": Gates("float32", (10**6, 10**6, 10**6))}, "the case asks for D~ of"),
        (
            {"gates": Gates("float32", (1, 1, 2), Edited(Constant(0.0), (((0, 0, 9), 1.0),)))},
            "cannot be built",
        ),
        ({"gates": Gates("float32", (1, 1, 2)), "rival": Gates("float32", (1, 1, 3))}, "the shape of gates"),
    ],
)
def test_what_fits_no_tensor(case: Case, why: str) -> None:
    """A case of the right form that asks for too much, or contradicts itself, is refused untried."""
    with pytest.raises(CaseError, match=why):
        case_of(parts_of(case), Path())
