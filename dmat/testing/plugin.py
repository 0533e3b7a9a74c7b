"""The pytest plugin: the options of the laws, one id per law x implementation x dtype x device, reports.

It is loaded in every pytest run of the user's environment, so it imports neither torch nor Hypothesis
before a law is collected. What stands here would, in the root conftest, be missing from the wheel.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

if TYPE_CHECKING:
    from dmat.testing.record import Record

pytest.register_assert_rewrite("dmat.properties")

_spec = importlib.util.find_spec("dmat.properties")
assert _spec is not None
LAWS = Path((_spec.submodule_search_locations or [""])[0]).resolve()
SELECTION = pytest.StashKey[list[Any]]()
KEEPING = pytest.StashKey[Any]()
JOURNALS = pytest.StashKey[Path]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, all prefixed."""
    group = parser.getgroup("dmat", "laws of the decay matrix D~ (pytest --pyargs dmat.properties)")
    target = "package.module:function or path/to/file.py:function; more than once for several"
    group.addoption("--dmat-impl", action="append", metavar="TARGET", help=target)
    group.addoption("--dmat-device", action="append", metavar="DEVICE", help="cpu or cuda")
    group.addoption("--dmat-dtype", action="append", metavar="DTYPE", help="float32, bfloat16, ...")
    group.addoption("--dmat-first", action="store_true", help="fastest laws first, and stop at a broken one")
    examples = "random cases a law tries after its ladder; default: Hypothesis' profile"
    group.addoption("--dmat-examples", type=int, metavar="N", help=examples)
    corpus = "cases to try first, and known.toml; more than once for several; default: the ini's, else corpus"
    group.addoption("--dmat-corpus", action="append", metavar="DIR", help=corpus)
    folders = "folders of cases to try first, those that are there; default: corpus, where pytest was started"
    parser.addini("dmat_corpus", type="paths", default=None, help=folders)
    kept = "where counterexamples are kept, a folder each; default: counterexamples; '' for nowhere"
    group.addoption("--dmat-counterexamples", metavar="DIR", default="counterexamples", help=kept)
    limit = "how long an example may take; default: 60, 0 for no limit"
    group.addoption("--dmat-time-limit", type=float, metavar="SECONDS", default=60.0, help=limit)
    interpret = "run Triton kernels on the CPU, in its interpreter"
    group.addoption("--dmat-interpret", action="store_true", help=interpret)
    config = "interpreted: the config of autotuned kernels; default: 0, the first"
    group.addoption("--dmat-config", type=int, metavar="N", default=0, help=config)
    group.addoption("--dmat-report", metavar="FILE", help="write every law's record, a JSON line each")
    group.addoption("--dmat-plan", metavar="FILE", help="write what is tried, or why nothing can be")


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Choose Triton's interpreter before a conftest.py may import triton; workers inherit the choice."""
    options = early_config.known_args_namespace
    if options.dmat_interpret:
        from dmat.testing.interpret import ask

        ask(options.dmat_config)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; begin the report and the journals anew."""
    config.addinivalue_line("markers", "dmat_law: a law of D~, run for each implementation")
    if config.getoption("--dmat-first"):
        config.option.maxfail = 1
    if hasattr(config, "workerinput"):
        config.stash[JOURNALS] = Path(config.workerinput["dmat_journals"])
        return
    report = config.getoption("--dmat-report")
    if report:
        Path(report).write_text("")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell each worker where all of them write their journals."""
    node.workerinput["dmat_journals"] = str(_journals(node.config))


def _journals(config: pytest.Config) -> Path:
    """Return the folder in which every process of this run keeps its journal; it goes when the run ends."""
    if JOURNALS not in config.stash:
        folder = config.stash[JOURNALS] = Path(tempfile.mkdtemp(prefix="dmat-journals-"))
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    return config.stash[JOURNALS]


def _keeping(config: pytest.Config) -> Any:
    """Return the journal of this process, the corpus, and where counterexamples go; made once."""
    from dmat.testing.journal import Journal, first_to_go
    from dmat.testing.session import Keeping

    if KEEPING not in config.stash:
        start = config.invocation_params.dir
        journal = Journal(_journals(config), config.getoption("--dmat-time-limit"))
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
    """Return the corpus, or None where there is none. UsageError where it cannot be used as it stands."""
    from dmat.testing.corpus import CorpusError, current, require_there

    start = config.invocation_params.dir
    named = [start / folder for folder in config.getoption("--dmat-corpus") or ()]
    configured = config.getini("dmat_corpus")  # before the first night, its folder is not there
    otherwise = [start / "corpus"] if configured is None else configured
    try:
        require_there(named)
        return current(named or otherwise, _selection(config))
    except CorpusError as error:
        raise _cannot(config, str(error)) from None


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Collect the laws also where the user's python_files would hide them."""
    if not (file_path.match("test_law_*.py") and file_path.resolve().is_relative_to(LAWS)):
        return None
    patterns = parent.config.getini("python_files")
    if parent.session.isinitpath(file_path) or any(file_path.match(p) for p in patterns):
        return None  # pytest collects it itself
    return pytest.Module.from_parent(parent, path=file_path)


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> Any:
    """Make the test of a law, in the place of the function that states it."""
    laws = vars(obj).get("laws") if inspect.isfunction(obj) else None
    if not laws or inspect.unwrap(getattr(laws[0], "check", len)) is not obj:
        return None
    test = _test_of(obj, laws)
    setattr(collector.obj, name, test)  # type: ignore[attr-defined]  # where pytest looks it up by its name
    return collector.ihook.pytest_pycollect_makeitem(collector=collector, name=name, obj=test)


def _test_of(function: Any, laws: Sequence[Any]) -> Any:
    """Return the test of a law. It bears the name, docstring, marks and `laws` of the law's function."""

    def test(subject: Any, dmat_keeping: Any, request: pytest.FixtureRequest) -> None:
        from dmat.testing.running import run_test

        run_test(_law_of(laws, subject.kind), subject, dmat_keeping, request)

    functools.update_wrapper(test, function)
    del test.__wrapped__  # type: ignore[attr-defined]  # pytest would take the arguments of the law
    return pytest.mark.dmat_law(test)


def _law_of(laws: Sequence[Any], kind: str) -> Any:
    """Return the law of this kind of kernel."""
    return next(law for law in laws if law.kind == kind)


def _selection(config: pytest.Config) -> list[Any]:
    """Return the subjects that the options name, loaded once."""
    from dmat.testing.cannot import CannotRun
    from dmat.testing.select import select

    if SELECTION not in config.stash:
        options = ("--dmat-impl", "--dmat-device", "--dmat-dtype")
        try:
            config.stash[SELECTION] = select(*(config.getoption(name) or [] for name in options))
        except CannotRun as error:
            raise _cannot(config, str(error)) from None
    return config.stash[SELECTION]


def _cannot(config: pytest.Config, why: str) -> pytest.UsageError:
    """Return the error that ends the run, and leave the reason where the plan was to be."""
    from dmat.testing.plan import Plan

    if config.getoption("--dmat-plan"):
        Plan(error=why).write(Path(config.getoption("--dmat-plan")))
    return pytest.UsageError(f"dmat: {why}")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the plan, in a process that has loaded what is tried."""
    file = session.config.getoption("--dmat-plan")
    if file and KEEPING in session.config.stash:  # else the reason stands there why nothing is tried
        from dmat.testing.contract import DTILDE, FUSED
        from dmat.testing.plan import Plan
        from dmat.testing.registry import laws
        from dmat.testing.select import planned

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
    _keeping(metafunc.config)  # a corpus that cannot be used is told here, once
    subjects = [(*subject, part) for part in parts for subject in chosen]
    from dmat.testing.plan import subject_id

    ids = [subject_id(i.name, dtype, device, part) for i, dtype, device, part in subjects]
    metafunc.parametrize("subject", subjects, ids=ids, indirect=True)


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> Any:
    """Return what the law is tried on."""
    import torch

    from dmat.testing.kinds import subject_of

    # Cases are small: a second thread saves nothing, and on a busy machine each waits for the other.
    torch.set_num_threads(1)
    implementation, dtype, device, part = request.param
    return subject_of(implementation, dtype, device, part=part)


@pytest.fixture
def dmat_keeping(request: pytest.FixtureRequest) -> Any:
    """Return what the run has kept, and where it keeps what it finds."""
    return _keeping(request.config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the laws of what is not tried; with --dmat-first, all ladders first, then the searches."""
    items[:] = [item for item in items if not _of_nothing(item)]
    if config.getoption("--dmat-first"):
        items.sort(key=_rank)  # stable: dtypes stay in the order of the contract


def _of_nothing(item: pytest.Item) -> bool:
    """Whether this is a law of D~ where only fused kernels are tried, or the other way round."""
    if item.get_closest_marker("dmat_law") is None:
        return False
    return not isinstance(item.callspec.params["subject"], tuple)  # type: ignore[attr-defined]


def _rank(item: pytest.Item) -> tuple[int, int, int]:
    laws = getattr(getattr(item, "obj", None), "laws", None)
    if laws is None:
        return (0, 0, 0)
    implementation, dtype, _, part = item.callspec.params["subject"]  # type: ignore[attr-defined]
    entry = _law_of(laws, implementation.kind)
    from dmat.testing.contract.names import DTYPES

    return (0, DTYPES.index(dtype), entry.order) if part == "ladder" else (1, entry.order, 0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show a broken law as its message alone, without the frames of pytest, Hypothesis and dmat."""
    report = yield
    if call.excinfo is not None and item.get_closest_marker("dmat_law") is not None:
        from dmat.testing.verdict import LawBroken

        if isinstance(call.excinfo.value, LawBroken):
            report.longrepr = str(call.excinfo.value)  # type: ignore[attr-defined]
    return report


class Writer:
    """Appends each law's record to the report as it comes in, in the process that gathers them."""

    def __init__(self, file: Path) -> None:
        """Write to this file."""
        self.file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write the record of a law; of one that left none (a lost worker), what pytest knows."""
        records = [value for name, value in report.user_properties if name == "dmat"]
        if report.when == "call" or _is_lost(report) or (report.failed and not records):
            from dmat.testing.record import Lost, text_of

            for record in records or [Lost(report.nodeid, str(report.longrepr))]:
                with self.file.open("a") as out:
                    out.write(text_of(record) + "\n")


def _is_lost(report: pytest.TestReport) -> bool:
    """Whether this is no report of a test, but xdist's of a worker that is gone."""
    return report.when not in ("setup", "call", "teardown")


class Mourner:
    """Says, of a test whose worker is gone, what it was trying: the journal knows."""

    def __init__(self, config: pytest.Config) -> None:
        """Look where the workers of this run write."""
        self.config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Complete the report of a lost worker by a record, and by a message that names the case."""
        if not (_is_lost(report) and "::test_law_" in report.nodeid):
            return
        from dmat.testing.journal import left_behind

        entry = left_behind(_journals(self.config), report.nodeid)
        if entry is not None:
            from dmat.testing.mourn import record_of

            kept = self.config.getoption("--dmat-counterexamples")
            folder = self.config.invocation_params.dir / kept if kept else None
            record = record_of(entry, _journals(self.config), folder)
            report.user_properties.append(("dmat", msgspec.to_builtins(record)))
            report.longrepr = record.reason


def pytest_sessionstart(session: pytest.Session) -> None:
    """Listen to what becomes of each law, in the controller alone."""
    if hasattr(session.config, "workerinput"):
        return
    manager, report = session.config.pluginmanager, session.config.getoption("--dmat-report")
    manager.register(Mourner(session.config), "dmat-mourner")
    if report:
        manager.register(Writer(Path(report)), "dmat-report")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many examples each regime of gates and class of lengths got, by dtype, in all workers."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    properties = [
        p for report in reports if getattr(report, "when", "") == "call" for p in report.user_properties
    ]
    from dmat.testing.record import Record

    records = [msgspec.convert(value, Record) for name, value in properties if name == "dmat"]
    if any(record.drawn for record in records):
        terminalreporter.section("examples of the laws")
        for line in _drawn(records):
            terminalreporter.write_line(line)


def _drawn(records: list[Record]) -> list[str]:
    """Return the table: rows the regimes, then the lengths, columns the dtypes."""
    from dmat.strategies.regimes import NAMES
    from dmat.strategies.shapes import LENGTHS

    dtypes = list(dict.fromkeys(record.dtype for record in records))
    counts: dict[tuple[str, str], int] = {}
    for record in records:
        for name, number in record.drawn.items():
            for part in name.split(", "):
                key = part, record.dtype
                counts[key] = counts.get(key, 0) + number
    lines = [" " * 14 + "".join(f"{dtype:>12}" for dtype in dtypes)]
    for name in (*NAMES, *LENGTHS):
        lines.append(f"{name:14}" + "".join(f"{counts.get((name, dtype), 0):12,}" for dtype in dtypes))
    return lines
