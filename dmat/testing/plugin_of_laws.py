"""The part of the pytest plugin that loads torch: the tests of the laws and their fixtures.

plugin.py registers this module when the first law is collected, so that other pytest runs do not load torch.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import settings

from dmat.testing.counterexample.corpus import current, require_there
from dmat.testing.errors import CannotRun, CorpusError
from dmat.testing.journals import journals_of
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.kernel.select import select
from dmat.testing.record import Record
from dmat.testing.registry import first_key
from dmat.testing.run.journal import Journal, first_to_go
from dmat.testing.run.run import run
from dmat.testing.run.session import Session

SELECTION = pytest.StashKey[list[Any]]()
SESSION = pytest.StashKey[Any]()


def _session(config: pytest.Config) -> Any:
    """Return the journal of this process, the corpus and the folder of counterexamples. Made once."""
    if SESSION not in config.stash:
        start = config.invocation_params.dir
        journal = Journal(journals_of(config), config.getoption("--dmat-time-limit"))
        kept = config.getoption("--dmat-counterexamples")
        worker = hasattr(config, "workerinput")
        folder = start / kept if kept else None
        config.stash[SESSION] = Session(journal, _corpus(config), folder, replaceable=worker)
        if worker:
            first_to_go()
    return config.stash[SESSION]


def _corpus(config: pytest.Config) -> Any:
    """Return the corpus, or None if there is none. Raises UsageError if the corpus cannot be used."""
    start = config.invocation_params.dir
    named = [start / folder for folder in config.getoption("--dmat-corpus") or ()]
    configured = config.getini("dmat_corpus")  # its folder is missing until the first nightly run
    otherwise = [start / "corpus"] if configured is None else configured
    try:
        require_there(named)
        return current(named or otherwise, _selection(config))
    except CorpusError as error:
        raise _cannot(str(error)) from None


def test_of(function: Any, laws: Sequence[Any]) -> Any:
    """Make the test of a law. The test has the name, docstring, marks and `laws` of the law's function."""

    def test(subject: tuple[Implementation, str, str, str], request: pytest.FixtureRequest) -> None:
        kernel, dtype, device, part = subject
        examples, session = request.config.getoption("--dmat-examples"), _session(request.config)
        [record] = run(
            kernel,
            [_law_of(laws, kernel.kind)],
            [dtype],
            [device],
            profile=settings() if examples is None else settings(max_examples=examples),
            session=replace(session, name=request.node.nodeid),
            part=part,
        )
        request.node.user_properties.append(("dmat", msgspec.to_builtins(record)))
        end_test(record, session.journal)

    functools.update_wrapper(test, function)
    del test.__wrapped__  # type: ignore[attr-defined]  # pytest would read the law's arguments as fixtures
    return pytest.mark.dmat_law(test)


def end_test(record: Record, journal: Journal) -> None:
    """End the test of a law as its record says: pass, fail with the message, skip or xfail.

    An implementation that cannot be called fails one test, and its other tests are skipped.
    """
    if record.status == "passed":
        return
    if record.status == "known":
        pytest.xfail(f"known {record.reason}")
    if record.status == "failed":
        pytest.fail(record.reason, pytrace=False)
    if not record.promised or (record.uncallable and not journal.first_to_report(record.implementation)):
        pytest.skip(record.reason)
    name = f"{record.implementation} " if record.uncallable else ""
    pytest.fail(record.traceback or f"not run: {name}{record.reason}", pytrace=False)


def _law_of(laws: Sequence[Any], kind: str) -> Any:
    """Return the law of this kind of kernel."""
    return next(law for law in laws if law.kind == kind)


def _selection(config: pytest.Config) -> list[Any]:
    """Return the implementations, dtypes and devices that the options select. Loaded once."""
    if SELECTION not in config.stash:
        options = ("--dmat-impl", "--dmat-device", "--dmat-dtype")
        try:
            config.stash[SELECTION] = select(*(config.getoption(name) or [] for name in options))
        except CannotRun as error:
            raise _cannot(str(error)) from None
    return config.stash[SELECTION]


def _cannot(why: str) -> pytest.UsageError:
    """Return the error that ends the run."""
    return pytest.UsageError(f"dmat: {why}")


def subject_id(name: str, dtype: str, device: str, part: str) -> str:
    """Return the name of a subject in test ids. Characters that ids cannot contain become "_"."""
    label = re.sub(r"[^\w.:]", "_", name.replace("\\", "/"))
    return f"{label}-{dtype}-{device}" + ("" if part == "all" else f"-{part}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each law one test per implementation, dtype and device."""
    if metafunc.definition.get_closest_marker("dmat_law") is None:
        return
    kinds = [law.kind for law in metafunc.function.laws]
    chosen = [subject for subject in _selection(metafunc.config) if subject[0].kind in kinds]
    parts = ("ladder", "search") if metafunc.config.getoption("--dmat-first") else ("all",)
    _session(metafunc.config)  # raises here, once, if the corpus cannot be used
    subjects = [(*subject, part) for part in parts for subject in chosen]
    ids = [subject_id(i.name, dtype, device, part) for i, dtype, device, part in subjects]
    metafunc.parametrize("subject", subjects, ids=ids, indirect=True)


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> Any:
    """Return the implementation, dtype, device and part of a law's test. torch gets one thread."""
    # Cases are small. A second thread saves nothing, and on a busy machine the threads wait for each other.
    torch.set_num_threads(1)
    return request.param


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop laws of kinds that are not checked. With --dmat-first, sort the rest by `_rank`."""
    items[:] = [item for item in items if not _of_nothing(item)]
    if config.getoption("--dmat-first"):
        items.sort(key=_rank)  # stable sort: dtypes keep the order of the contract


def _of_nothing(item: pytest.Item) -> bool:
    """Whether this is a law of a kind of kernel that is not checked, so that it has no subject."""
    if item.get_closest_marker("dmat_law") is None:
        return False
    return not isinstance(item.callspec.params["subject"], tuple)  # type: ignore[attr-defined]


def _rank(item: pytest.Item) -> tuple[bool, bool, int, int]:
    """Return the sort key of a test: ladder or search, cheap or costly, a ladder's dtype, the law's rank."""
    laws = getattr(getattr(item, "obj", None), "laws", None)
    if laws is None:
        return (False, False, 0, 0)
    implementation, dtype, _, part = item.callspec.params["subject"]  # type: ignore[attr-defined]
    law = _law_of(laws, implementation.kind)
    return first_key(law, dtype, part)
