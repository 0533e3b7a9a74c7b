"""The part of the pytest plugin that loads torch: the tests of the laws and their fixtures.

plugin.py registers this module when the first law is collected, so that other pytest runs do not load torch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from dmat.testing.check.plan import Plan, planned, subject_id
from dmat.testing.contract import DTILDE, FUSED
from dmat.testing.contract.names import DTYPES
from dmat.testing.counterexample.corpus import current, require_there
from dmat.testing.errors import CannotRun, CorpusError
from dmat.testing.kernel.select import select
from dmat.testing.law.kinds import subject_of
from dmat.testing.registry import laws, rank
from dmat.testing.run.journal import Journal, first_to_go
from dmat.testing.run.journals import journals_of
from dmat.testing.run.search import run_test
from dmat.testing.run.session import Keeping
from dmat.testing.verdict.finding import LawBroken

SELECTION = pytest.StashKey[list[Any]]()
KEEPING = pytest.StashKey[Any]()


def _keeping(config: pytest.Config) -> Any:
    """Return the journal of this process, the corpus and the folder of counterexamples. Made once."""
    if KEEPING not in config.stash:
        start = config.invocation_params.dir
        journal = Journal(journals_of(config), config.getoption("--dmat-time-limit"))
        kept = config.getoption("--dmat-counterexamples")
        config.stash[KEEPING] = Keeping(
            journal,
            _corpus(config),
            start / kept if kept else None,
            by_record=bool(config.getoption("--dmat-plan")),
        )
        if hasattr(config, "workerinput"):
            first_to_go()
    return config.stash[KEEPING]


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
        raise _cannot(config, str(error)) from None


def test_of(function: Any, laws: Sequence[Any]) -> Any:
    """Make the test of a law. The test has the name, docstring, marks and `laws` of the law's function."""

    def test(subject: Any, dmat_keeping: Any, request: pytest.FixtureRequest) -> None:
        run_test(_law_of(laws, subject.kind), subject, dmat_keeping, request)

    functools.update_wrapper(test, function)
    del test.__wrapped__  # type: ignore[attr-defined]  # pytest would read the law's arguments as fixtures
    return pytest.mark.dmat_law(test)


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
            raise _cannot(config, str(error)) from None
    return config.stash[SELECTION]


def _cannot(config: pytest.Config, why: str) -> pytest.UsageError:
    """Return the error that ends the run. With --dmat-plan, also write the reason to the plan file."""
    if config.getoption("--dmat-plan"):
        Plan(error=why).write(Path(config.getoption("--dmat-plan")))
    return pytest.UsageError(f"dmat: {why}")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the plan file, in a process that has loaded the targets."""
    file = session.config.getoption("--dmat-plan")
    if file and KEEPING in session.config.stash:  # otherwise the file holds the reason why no law is run
        chosen = _selection(session.config)
        names = {kind: [law.name for law in laws(kind)] for kind in (DTILDE, FUSED)}
        Plan(names, planned(chosen)).write(Path(file))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each law one test per implementation, dtype and device."""
    if metafunc.definition.get_closest_marker("dmat_law") is None:
        return
    kinds = [law.kind for law in metafunc.function.laws]
    chosen = [subject for subject in _selection(metafunc.config) if subject[0].kind in kinds]
    parts = ("ladder", "search") if metafunc.config.getoption("--dmat-first") else ("all",)
    _keeping(metafunc.config)  # raises here, once, if the corpus cannot be used
    subjects = [(*subject, part) for part in parts for subject in chosen]
    ids = [subject_id(i.name, dtype, device, part) for i, dtype, device, part in subjects]
    metafunc.parametrize("subject", subjects, ids=ids, indirect=True)


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> Any:
    """Return the implementation with its dtype, device and part, as the law sees it."""
    # Cases are small. A second thread saves nothing, and on a busy machine the threads wait for each other.
    torch.set_num_threads(1)
    implementation, dtype, device, part = request.param
    return subject_of(implementation, dtype, device, part=part)


@pytest.fixture
def dmat_keeping(request: pytest.FixtureRequest) -> Any:
    """Return the journal, the corpus and the folder of counterexamples of this run."""
    return _keeping(request.config)


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
    ladder = part == "ladder"
    return (not ladder, law.cost == "costly", DTYPES.index(dtype) if ladder else 0, rank(law))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show only the message of a broken law, without the traceback of pytest, Hypothesis and dmat."""
    report = yield
    of_a_law = item.get_closest_marker("dmat_law") is not None
    if of_a_law and call.excinfo is not None and isinstance(call.excinfo.value, LawBroken):
        report.longrepr = str(call.excinfo.value)  # type: ignore[attr-defined]
    return report
