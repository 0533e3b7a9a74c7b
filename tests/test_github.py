"""What a CI shows of a check: JUnit XML, GitHub's annotations and summary, and the action."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace
from ruamel.yaml import YAML

from dmat.testing.check import command
from dmat.testing.check.github import add_to_summary, definition, error_lines
from dmat.testing.check.junit import junit
from dmat.testing.check.plan import Plan
from dmat.testing.check.report import exit_code
from dmat.testing.cli import main
from dmat.testing.record import Broken, CauseEntry, LawRecord, Report

ROOT = Path(__file__).resolve().parents[1]
ACTION = ROOT / "action.yml"
PAGE = ROOT / "docs" / "github.md"

KERNELS = '''"""Kernels."""
import dmat.testing
from dmat import dtilde as imported

@dmat.testing.implementation(error_scope="prefix")
def decorated(i, f):
    return imported(i, f)

class Kernels:
    @staticmethod
    def inside(i, f):
        return imported(i, f)

if True:
    assigned = dmat.testing.fused(lambda q, k, v, x: v)
'''
LINES = {"decorated": 6, "Kernels.inside": 11, "assigned": 15, "imported": 3, "nowhere": 1}


def law(name: str, status: Any = "passed", reason: str = "", **more: Any) -> LawRecord:
    return LawRecord(name, "a.py:f", "float32", "cpu", status, reason, **more)


def report(*laws: LawRecord, name: str = "a.py:f", **more: Any) -> Report:
    return replace(Report.of(name, {}, list(laws)), **more)


CAUSE = CauseEntry(
    kind="bug",
    sentence="Wrong, 100%3A.",
    gates="not searched",
    law="values",
    dtype="float32",
    device="cpu",
    ended="broken",
    message="values: it is so.\nit is not",
    case=None,
    recipe=None,
    folder=None,
    breaks=[Broken(name, "float32", "cpu") for name in ("values", "slices")],
)
BROKEN = report(
    law("values", "failed", "values: it is so.", seconds=1.5),
    law("slices", "failed", "slices: they are so."),
    law("future"),
    law("exact", "known", "overflows"),
    law("adjoint", "not run", "no forward mode", promised=False),
    causes=[CAUSE],
)
SOUND = report(law("values"), law("adjoint", "not run", "no forward mode", promised=False))
UNFINISHED = report(law("values"), law("slices", "not run", "it raised \x00", uncallable=True))


# JUnit


def test_junit_has_a_testcase_for_each_law() -> None:
    """A broken law fails, with the message of its cause; one that is known or not promised is skipped."""
    [suite] = ElementTree.fromstring(junit([BROKEN]))
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["5", "2", "0", "2"]
    assert (suite.get("name"), suite.get("time")) == ("a.py:f", "1.500")
    cases = {case.get("name"): case for case in suite}
    [shown], [other] = cases["values[float32-cpu]"], cases["slices[float32-cpu]"]
    assert (shown.get("message"), shown.text) == ("values: it is so.", f"Wrong, 100%3A.\n\n{CAUSE.message}")
    told = "slices: they are so.\n\nWrong, 100%3A. Shown by values (float32 on cpu)."
    assert (other.get("type"), other.text) == ("broken", told)
    assert [x.get("message") for x in cases["exact[float32-cpu]"]] == ["known: overflows"]
    assert len(cases["future[float32-cpu]"]) == 0


@pytest.mark.parametrize("reports", [[SOUND], [BROKEN], [UNFINISHED], [SOUND, UNFINISHED]])
def test_junit_is_red_where_the_exit_code_is(reports: list[Report]) -> None:
    """failures + errors > 0 if and only if the exit code is not 0; what XML forbids is replaced."""
    root = ElementTree.fromstring(junit(reports))
    red = int(root.get("failures", "")) + int(root.get("errors", "")) > 0
    assert red == (exit_code(reports) != 0)


# Annotations


def unescaped(text: str) -> str:
    """Return the text as GitHub reads it: %25 last, so that no escape is read twice."""
    for escape, char in {"%3A": ":", "%2C": ",", "%0D": "\r", "%0A": "\n", "%25": "%"}.items():
        text = text.replace(escape, char)
    return text


def read(line: str) -> tuple[dict[str, str], str]:
    """Return the properties and the message of an annotation."""
    found = re.fullmatch("::error ([^:]*)::(.*)", line)
    assert found is not None, line
    pairs = [pair.split("=", 1) for pair in found[1].split(",")]
    return {name: unescaped(value) for name, value in pairs}, unescaped(found[2])


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder `a,b` of a repository, with kernels in it. It is the current folder."""
    folder = tmp_path / "a,b"
    folder.mkdir()
    (folder / "kernels.py").write_text(KERNELS)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    return folder


def test_an_annotation_stands_at_the_definition(repository: Path) -> None:
    """Of each cause: one line, at the kernel's file and line, from which GitHub reads the whole message."""
    name = "kernels.py:decorated"
    [line] = error_lines([report(*BROKEN.laws, name=name, causes=[CAUSE])])
    assert "\n" not in line
    properties, message = read(line)
    assert properties == {"file": "a,b/kernels.py", "line": "6", "title": "dmat: values (float32 on cpu)"}
    assert message.splitlines()[:2] == [
        f"BROKEN: {name} breaks 2 laws, by 1 cause: 1 bug",
        "1. a bug. Wrong, 100%3A.",
    ]
    assert message.endswith(CAUSE.message)


def test_a_sound_kernel_has_no_annotation(repository: Path) -> None:
    """What could not be checked has one; what is sound has none."""
    [line] = error_lines([SOUND, UNFINISHED])
    properties, message = read(line)
    assert properties == {"title": "dmat: could not be checked"}
    assert message.startswith("COULD NOT BE CHECKED: a.py:f")


@pytest.mark.parametrize("where", ["kernels.py", "kernels"])
@pytest.mark.parametrize("attribute", LINES)
def test_the_line_of_a_definition(where: str, attribute: str, repository: Path) -> None:
    """It is the def, the assignment or the import of a name, in a file and in a module; else line 1."""
    found = definition(f"{where}:{attribute}")
    assert found is not None
    assert (found[0].resolve(), found[1]) == (repository / "kernels.py", LINES[attribute])


def test_what_has_no_file() -> None:
    """A built-in implementation, and a module that is not found, have no place."""
    assert definition("no_such_module:f") is definition("a name") is None


# The command


def test_the_command_writes_all_three(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--github prints the annotations behind the page and adds the page to the summary; --junit writes."""
    monkeypatch.setattr(command, "_checked", lambda options: ([BROKEN], Plan()))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(repository / "summary.md"))
    (repository / "summary.md").write_text("before\n")
    arguments = ["check", "--counterexamples", "", "--junit", "j.xml", "a.py:f"]
    assert main([*arguments, "--github"]) == 1
    page, *lines = re.split("^(?=::)", capsys.readouterr().out, flags=re.MULTILINE)
    assert [line.rstrip("\n") for line in lines] == error_lines([BROKEN])
    assert (repository / "j.xml").read_text() == junit([BROKEN]) + "\n"
    told = f"before\n## dmat check\n\n```text\n{page.rstrip()}\n```\n\n"
    assert (repository / "summary.md").read_text() == told
    assert main(arguments) == 1
    assert (capsys.readouterr().out, (repository / "summary.md").read_text()) == (page, told)


def test_a_page_cannot_end_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fence of the block is longer than any in the page."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    add_to_summary("```\n````\n# heading")
    assert (tmp_path / "summary.md").read_text().splitlines()[2] == "`````text"


def test_no_folder_for_the_xml(capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is not there is told before the check."""
    assert main(["check", "a.py:f", "--junit", "no/j.xml"]) == 2
    assert "--junit is 'no/j.xml'; there is no folder to write it in" in capsys.readouterr().err


# The action


def loaded(text: str) -> Any:
    return YAML(typ="safe").load(text)


def example() -> str:
    """Return the workflow of docs/github.md."""
    [block] = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(block)


@pytest.mark.parametrize("schema", ["vendor.github-actions", "vendor.github-workflows"])
def test_the_action_and_its_workflow_are_such(schema: str, tmp_path: Path) -> None:
    """GitHub's schemas allow the action, and the workflow of the page, which gives inputs that there are."""
    file = ACTION
    if schema.endswith("workflows"):
        file = tmp_path / "workflow.yml"
        file.write_text(example())
    asked = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(file)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    inputs = loaded(ACTION.read_text())["inputs"]
    [used] = [s for s in loaded(example())["jobs"]["laws"]["steps"] if "dmat" in s.get("uses", "")]
    needed = {name for name, stated in inputs.items() if stated.get("required")}
    assert needed <= used["with"].keys() <= inputs.keys()


def ran(folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """Run the script of the action's check, with a `dmat` that writes down what it was told."""
    step = next(one for one in loaded(ACTION.read_text())["runs"]["steps"] if one["name"] == "Check")
    assert "${{" not in step["run"]
    (folder / "dmat").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\" > told\nexit 1\n")
    (folder / "dmat").chmod(0o755)
    shell = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]]
    variables = (
        os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "OPTIONS": "", "JUNIT": "j.xml"} | inputs
    )
    return subprocess.run(
        shell, cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=60
    )


def test_inputs_are_words_and_no_script(tmp_path: Path) -> None:
    """Each word of the targets is one argument, and no option; the exit code is that of dmat."""
    hostile = ["a.py:f", "b.py:*", "$(touch", "pwned)", "--json", "`touch", "pwned`"]
    done = ran(
        tmp_path, TARGETS=" ".join(hostile[:3]) + "\n" + " ".join(hostile[3:]), OPTIONS="--first\n-n 1"
    )
    assert done.returncode == 1, done.stderr
    told = (tmp_path / "told").read_text().splitlines()
    asked = ["check", "--github", "--junit", "j.xml", "--first", "-n", "1", "--"]
    assert told == [*asked, *hostile]
    assert not (tmp_path / "pwned").exists()


def test_no_targets_are_an_error(tmp_path: Path) -> None:
    """An empty input checks nothing, and is not green."""
    done = ran(tmp_path, TARGETS=" \n")
    assert done.returncode == 2
    assert done.stdout == "::error title=dmat::targets is empty; nothing was checked\n"
    assert not (tmp_path / "told").exists()
