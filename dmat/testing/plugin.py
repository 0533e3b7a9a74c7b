"""The pytest plugin: command-line options, collection of the laws, and reports.

pytest loads the plugin in every run in the user's environment. Therefore the plugin imports neither torch nor
Hypothesis before a law is collected. It is not a root conftest.py, because the wheel does not contain one.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dmat.testing.causes.known import words_of
from dmat.testing.interpret.choice import ask
from dmat.testing.journals import JOURNALS, journals_of
from dmat.testing.record import LawRecord, Record, Report, text_of

pytest.register_assert_rewrite("dmat.properties")

_spec = importlib.util.find_spec("dmat.properties")
assert _spec is not None
LAWS = Path((_spec.submodule_search_locations or [""])[0]).resolve()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options. All have the prefix --dmat-, because other plugins have options too."""
    group = parser.getgroup("dmat", "laws of the decay matrix D~ (pytest --pyargs dmat.properties)")
    target = "package.module:function or path/to/file.py:function; more than once for several"
    group.addoption("--dmat-impl", action="append", metavar="TARGET", help=target)
    group.addoption("--dmat-device", action="append", metavar="DEVICE", help="cpu, cuda, xpu, ...")
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


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Select Triton's interpreter before a conftest.py can import triton. Workers inherit the selection."""
    options = early_config.known_args_namespace
    if options.dmat_interpret:
        ask(options.dmat_config)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, stop at the first failure with --dmat-first, and empty the report file."""
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
    """Send each worker the common folder of the journals."""
    node.workerinput["dmat_journals"] = str(journals_of(node.config))


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Collect the modules of the laws even if the user's python_files does not match them."""
    if not (file_path.match("test_law_*.py") and file_path.resolve().is_relative_to(LAWS)):
        return None
    patterns = parent.config.getini("python_files")
    if parent.session.isinitpath(file_path) or any(file_path.match(p) for p in patterns):
        return None  # pytest collects it itself
    return pytest.Module.from_parent(parent, path=file_path)


def _with_laws(config: pytest.Config) -> Any:
    """Return plugin_of_laws, the part of the plugin that loads torch. The first call registers it."""
    from dmat.testing import plugin_of_laws

    if not config.pluginmanager.is_registered(plugin_of_laws):
        config.pluginmanager.register(plugin_of_laws, "dmat-laws")
    return plugin_of_laws


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> Any:
    """Replace the function that states a law by the test of that law, and collect the test."""
    laws = vars(obj).get("laws") if inspect.isfunction(obj) else None
    if not isinstance(laws, tuple) or inspect.unwrap(getattr([*laws, None][0], "check", len)) is not obj:
        return None
    test = _with_laws(collector.config).test_of(obj, laws)
    setattr(collector.obj, name, test)  # type: ignore[attr-defined]  # pytest looks the test up by its name
    return collector.ihook.pytest_pycollect_makeitem(collector=collector, name=name, obj=test)


class Writer:
    """Appends each law's record to the file of --dmat-report. Runs in the controller process only."""

    def __init__(self, file: Path) -> None:
        """Store the path of the report."""
        self.file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Append the record of a law. CrashReporter has made that of a lost worker."""
        if report.when == "call" or _is_lost(report):
            for name, record in report.user_properties:
                if name == "dmat":
                    with self.file.open("a") as out:
                        out.write(text_of(record) + "\n")


def _is_lost(report: pytest.TestReport) -> bool:
    """Whether xdist made this report because the worker crashed."""
    return report.when not in ("setup", "call", "teardown")


class CrashReporter:
    """Completes the report of a crashed worker: the journal holds the case that the worker was trying."""

    def __init__(self, config: pytest.Config) -> None:
        """Store the configuration, which holds the folder of the journals."""
        self.config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add a record to the report of a crashed worker, and a message that names the case."""
        if not (_is_lost(report) and any(journals_of(self.config).glob("*.json"))):
            return  # no law was tried
        from dmat.testing.run.journal import left_behind

        entry = left_behind(journals_of(self.config), report.nodeid)
        if entry is not None:
            from dmat.testing.run.crash import crash_record

            kept = self.config.getoption("--dmat-counterexamples")
            folder = self.config.invocation_params.dir / kept if kept else None
            record = crash_record(entry, journals_of(self.config), folder)
            report.user_properties.append(("dmat", msgspec.to_builtins(record)))
            report.longrepr = record.reason


def pytest_sessionstart(session: pytest.Session) -> None:
    """Register CrashReporter and, with --dmat-report, Writer. Only in the controller process."""
    if hasattr(session.config, "workerinput"):
        return
    manager, report = session.config.pluginmanager, session.config.getoption("--dmat-report")
    manager.register(CrashReporter(session.config), "dmat-crash-reporter")
    if report:
        manager.register(Writer(Path(report)), "dmat-report")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the number of different gate sequences by regime, length and dtype, summed over all workers."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    properties = [
        p for report in reports if getattr(report, "when", "") == "call" for p in report.user_properties
    ]

    records = [msgspec.convert(value, Record) for name, value in properties if name == "dmat"]
    for line in _causes(records):
        terminalreporter.write_line(line)
    if any(record.drawn for record in records):
        terminalreporter.section("different gate sequences of the laws")
        for line in _drawn(records):
            terminalreporter.write_line(line)


def _causes(records: list[Record]) -> Iterator[str]:
    """Yield the causes of each implementation that breaks several laws, as `dmat check` tells them."""
    broken: dict[str, list[LawRecord]] = {}
    for record in records:
        if record.status == "failed":
            known = {name: getattr(record, name) for name in LawRecord.__struct_fields__}
            broken.setdefault(record.implementation, []).append(LawRecord(**known))
    for implementation, failed in broken.items():
        if len(failed) > 1:
            from dmat.testing.causes.search import with_causes

            yield f"the causes of {len(failed)} broken laws of {implementation}:"
            for number, cause in enumerate(
                with_causes(Report.of(implementation, {}, failed), None).causes, 1
            ):
                yield from words_of(number, cause)


def _drawn(records: list[Record]) -> list[str]:
    """Return the lines of the table. Rows: regimes, then classes of lengths. Columns: dtypes."""
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
