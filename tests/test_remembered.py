"""What broke a law stands in the example database: the first case of the next run, here or elsewhere."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, settings
from hypothesis.database import (
    DirectoryBasedExampleDatabase,
    ExampleDatabase,
    GitHubArtifactDatabase,
    InMemoryExampleDatabase,
    MultiplexedDatabase,
    ReadOnlyDatabase,
)
from safetensors.numpy import save_file

from dmat.strategies import Constant, Gates
from dmat.strategies.recipes.backgrounds import Normal, Stored
from dmat.strategies.recipes.recipe import Case
from dmat.testing.case_file import TENSORS, encoded
from dmat.testing.contract import Contract
from dmat.testing.counterexample.database import forget, key, recall, remember
from dmat.testing.errors import Refused
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.subject import Subject
from dmat.testing.record import Record
from dmat.testing.registry import law_named
from dmat.testing.run.search import Failed, search

from .zoo.sound import masked_cumulative_sum as right

PLACE = ("values", "kernel", "float32", "cpu")
QUICK = Contract(dtypes=("float32",), max_seq=6, special_values=(), differentiable=False)
VALUES = law_named("values")
DEEP = b'{"type": "Edited", "background": ' * 100_000


class Kernel:
    """Wrong from a length of 4 on, as long as it is `wrong`; it counts its calls, and notes their shapes."""

    def __init__(self) -> None:
        self.wrong, self.shapes = True, list[tuple[int, ...]]()

    def __call__(self, i: Any, f: Any) -> Any:
        self.shapes.append(tuple(i.shape))
        return right(i, f) + int(self.wrong and i.shape[2] >= 4)

    def subject(self, contract: Contract = QUICK, device: str = "cpu") -> Subject:
        return DtildeSubject(Implementation("kernel", self, contract), "float32", device)


def tried(kernel: Kernel, database: ExampleDatabase | None, phases: Any = tuple(Phase)) -> Failed | None:
    """Search for a breach of the law of values, as a run of pytest does; return the failure."""
    torch.set_num_threads(1)  # threads that spin are processor time, which bounds the way to a smaller case
    kernel.shapes.clear()
    profile = settings(max_examples=5, database=database, phases=phases)
    try:
        search(VALUES, kernel.subject(), Record(*PLACE), profile)
    except Failed as failed:
        return failed
    return None


def case(length: int = 5) -> Case:
    return {"gates": Gates("float32", (1, 1, length), Constant(0.25))}


def lines(database: ExampleDatabase, *place: str) -> set[bytes]:
    return set(database.fetch(key(*(place or PLACE))))


def test_the_smallest_case_is_remembered() -> None:
    """What is saved when a law is broken is the case that was reported, not the larger one first met."""
    database = InMemoryExampleDatabase()
    failed = tried(Kernel(), database)
    assert failed is not None
    assert failed.failure.case["gates"].shape == (1, 1, 4)
    assert lines(database) == {encoded(failed.failure.case).encode()}


def test_it_is_the_first_example_of_the_next_run() -> None:
    """The next run calls the kernel on the remembered case before any other, and ends there."""
    database, kernel = InMemoryExampleDatabase(), Kernel()
    remember(database, *PLACE, case(6))
    assert tried(kernel, database) is not None
    assert kernel.shapes[0] == (1, 1, 6, 1)
    assert tried(kernel, None) is not None
    assert kernel.shapes[0] == (1, 1, 1, 1)


def test_a_case_that_holds_is_forgotten() -> None:
    """Once the kernel is mended the case is tried once more, and deleted; what was saved elsewhere stays."""
    database, kernel = InMemoryExampleDatabase(), Kernel()
    tried(kernel, database)
    remember(database, "values", "another", "float32", "cpu", case())
    kernel.wrong = False
    assert tried(kernel, database) is None
    assert kernel.shapes[0] == (1, 1, 4, 1)
    assert not lines(database)
    assert lines(database, "values", "another", "float32", "cpu")


def test_what_failed_on_another_device_stays() -> None:
    """A finding of a GPU is tried on a CPU, its own first, and not deleted because it holds there."""
    database, kernel = InMemoryExampleDatabase(), Kernel()
    remember(database, *PLACE[:3], "cuda", case(2))
    remember(database, *PLACE, case(3))
    kernel.wrong = False
    tried(kernel, database)
    assert kernel.shapes[:2] == [(1, 1, 3, 1), (1, 1, 2, 1)]
    assert not lines(database)
    assert lines(database, *PLACE[:3], "cuda")


def test_a_case_that_fails_by_chance_is_not_remembered() -> None:
    """A failure that does not happen again is reported, and would only waste the next run."""
    database, calls = InMemoryExampleDatabase(), iter([True])

    class Once(Kernel):
        def __call__(self, i: Any, f: Any) -> Any:
            return right(i, f) + int(i.shape[2] >= 4 and next(calls, False))

    failed = tried(Once(), database)
    assert failed is not None
    assert not failed.failure.reproducible
    assert not lines(database)


def test_a_case_that_is_refused_is_not_forgotten() -> None:
    """An implementation that refuses the case has not shown that it is right on it."""

    def refuse(subject: Subject, gates: Gates) -> None:
        raise Refused("not today")

    database, refused = InMemoryExampleDatabase(), replace(VALUES, check=refuse)
    remember(database, *PLACE, case())
    with pytest.raises(Refused):
        search(refused, Kernel().subject(), Record(*PLACE), settings(max_examples=5, database=database))
    assert lines(database)


def test_who_reuses_nothing_is_told_nothing() -> None:
    """A profile without Hypothesis' phase of reuse tries no remembered case, and still saves."""
    database, kernel = InMemoryExampleDatabase(), Kernel()
    remember(database, *PLACE, case(6))
    tried(kernel, database, [Phase.generate])
    assert kernel.shapes[0] == (1, 1, 1, 1)
    assert len(lines(database)) == 2


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\x00",
        b'{"gates": {"type": "Gates", "dtype": "float32", "shape": [1, 1, 4], "igate": ' + DEEP,
        b'{"gates": 7}',
        b"{}",
        encoded({"shape": (1, 1, 2)}).encode(),
        encoded(case(2**30)).encode(),
        encoded(case(7)).encode(),  # longer than the contract allows
        encoded({"gates": Gates("bfloat16", (1, 1, 4))}).encode(),
    ],
)
def test_a_damaged_entry_is_passed_over(line: bytes) -> None:
    """What cannot be read, or is no case of this law and contract, hides nothing that stands beside it."""
    database = InMemoryExampleDatabase()
    database.save(key(*PLACE), line)
    remember(database, *PLACE, case(4))
    assert recall(database, VALUES, Kernel().subject()) == [case(4)]


def test_an_entry_names_no_file(tmp_path: Path) -> None:
    """Tensors of a file are not where the entry is read: such a case is not saved, and one is not read."""
    save_file({"f": np.zeros((1, 1, 4))}, tmp_path / TENSORS)
    stored: Case = {"gates": Gates("float32", (1, 1, 4), Stored(str(tmp_path / TENSORS), "f"))}
    stored["gates"].dense()  # here it is there
    database = InMemoryExampleDatabase()
    remember(database, *PLACE, stored)
    assert not lines(database)
    database.save(key(*PLACE), encoded(stored).encode())
    assert recall(database, VALUES, Kernel().subject()) == []


def test_random_numbers_are_their_seed() -> None:
    """A case of a generator's numbers is remembered as its recipe, and read as the same."""
    drawn: Case = {"gates": Gates("float32", (1, 1, 4), Normal(7, 2.0))}
    database = InMemoryExampleDatabase()
    remember(database, *PLACE, drawn)
    assert recall(database, VALUES, Kernel().subject()) == [drawn]


def test_an_entry_is_forgotten_however_it_is_written() -> None:
    """An entry in another order, or without its defaults, goes with the case that it tells."""
    database = InMemoryExampleDatabase()
    database.save(key(*PLACE), b'{"gates": {"shape": [1, 1, 4], "dtype": "float32", "type": "Gates"}}')
    (told,) = recall(database, VALUES, Kernel().subject())
    forget(database, *PLACE, told)
    assert not lines(database)


def test_no_database_is_no_error() -> None:
    """Where settings have no database nothing is saved, read or deleted."""
    remember(None, *PLACE, case())
    forget(None, *PLACE, case())
    assert recall(None, VALUES, Kernel().subject()) == []


# The desk: a folder of its own, the night's beside it


def artifact(night: Path, cache: Path) -> GitHubArtifactDatabase:
    """Return the database of an artifact as it lies in Hypothesis' cache once it is fetched."""
    cache.mkdir()
    stamp = datetime.now(UTC).isoformat().replace(":", "_")
    with zipfile.ZipFile(cache / f"{stamp}.zip", "w") as file:
        for path in sorted(night.rglob("*")):
            file.write(path, path.relative_to(night))
    return GitHubArtifactDatabase("owner", "repository", path=cache)


@pytest.fixture(params=["a folder", "an artifact"])
def night(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ExampleDatabase]:
    """Yield the database of a night that found something, as another machine sees it."""
    folder = tmp_path / "night" / "hypothesis"
    assert tried(Kernel(), DirectoryBasedExampleDatabase(folder)) is not None
    if request.param == "a folder":
        yield ReadOnlyDatabase(DirectoryBasedExampleDatabase(folder))
    else:
        yield ReadOnlyDatabase(artifact(folder, tmp_path / "cache"))


def test_a_finding_of_the_night_comes_first_at_the_desk(tmp_path: Path, night: ExampleDatabase) -> None:
    """Through a read-only database beside one's own it is the first call; then one's own has it as well."""
    own, kernel = DirectoryBasedExampleDatabase(tmp_path / "own"), Kernel()
    assert tried(kernel, MultiplexedDatabase(own, night)) is not None
    assert kernel.shapes[0] == (1, 1, 4, 1)
    assert lines(own) == lines(night) != set()


def test_the_night_keeps_what_holds_at_the_desk(tmp_path: Path, night: ExampleDatabase) -> None:
    """Mended at the desk, the case goes from one's own database; the night's own run deletes it there."""
    own, kernel = DirectoryBasedExampleDatabase(tmp_path / "own"), Kernel()
    tried(kernel, MultiplexedDatabase(own, night))
    kernel.wrong = False
    for _ in range(2):
        assert tried(kernel, MultiplexedDatabase(own, night)) is None
        assert kernel.shapes[0] == (1, 1, 4, 1)
    assert not lines(own)
    assert lines(night)
