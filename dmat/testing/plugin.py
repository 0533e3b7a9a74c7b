"""The pytest plugin: the options of the laws, one id per law x implementation x dtype x device, reports.

It is loaded in every pytest run of the user's environment, so it imports neither torch nor Hypothesis
before a law is collected. What stands here would, in the root conftest, be missing from the wheel.
"""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from dmat.testing.interpret.choice import ask
from dmat.testing.record import Lost, Record, text_of
from dmat.testing.run.journals import JOURNALS, journals_of

if TYPE_CHECKING:
    from dmat.testing.record import Record

pytest.register_assert_rewrite("dmat.properties")

_spec = importlib.util.find_spec("dmat.properties")
assert _spec is not None
LAWS = Path((_spec.submodule_search_locations or [""])[0]).resolve()


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
    node.workerinput["dmat_journals"] = str(journals_of(node.config))


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Collect the laws also where the user's python_files would hide them."""
    if not (file_path.match("test_law_*.py") and file_path.resolve().is_relative_to(LAWS)):
        return None
    patterns = parent.config.getini("python_files")
    if parent.session.isinitpath(file_path) or any(file_path.match(p) for p in patterns):
        return None  # pytest collects it itself
    return pytest.Module.from_parent(parent, path=file_path)


def _with_laws(config: pytest.Config) -> Any:
    """Return the plugin's other half, which loads torch; it is registered when the first law is collected."""
    from dmat.testing import plugin_of_laws

    if not config.pluginmanager.is_registered(plugin_of_laws):
        config.pluginmanager.register(plugin_of_laws, "dmat-laws")
    return plugin_of_laws


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> Any:
    """Make the test of a law, in the place of the function that states it."""
    laws = vars(obj).get("laws") if inspect.isfunction(obj) else None
    if not laws or inspect.unwrap(getattr(laws[0], "check", len)) is not obj:
        return None
    test = _with_laws(collector.config).test_of(obj, laws)
    setattr(collector.obj, name, test)  # type: ignore[attr-defined]  # where pytest looks it up by its name
    return collector.ihook.pytest_pycollect_makeitem(collector=collector, name=name, obj=test)


class Writer:
    """Appends each law's record to the report as it comes in, in the process that gathers them."""

    def __init__(self, file: Path) -> None:
        """Write to this file."""
        self.file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write the record of a law; of one that left none (a lost worker), what pytest knows."""
        records = [value for name, value in report.user_properties if name == "dmat"]
        if report.when == "call" or _is_lost(report) or (report.failed and not records):
            for record in records or [Lost(report.nodeid, str(report.longrepr))]:
                with self.file.open("a") as out:
                    out.write(text_of(record) + "\n")


def _is_lost(report: pytest.TestReport) -> bool:
    """Return whether this report is xdist's report of a dead worker, not a test's."""
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
        from dmat.testing.run.journal import left_behind

        entry = left_behind(journals_of(self.config), report.nodeid)
        if entry is not None:
            from dmat.testing.run.crash import record_of

            kept = self.config.getoption("--dmat-counterexamples")
            folder = self.config.invocation_params.dir / kept if kept else None
            record = record_of(entry, journals_of(self.config), folder)
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
