"""The workflows, and docs/nightly.md: their commands run, and the findings of a night are not lost."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis.database import DirectoryBasedExampleDatabase, GitHubArtifactDatabase
from ruamel.yaml import YAML

from dmat.strategies import Constant, Gates
from dmat.testing.cli import parser
from dmat.testing.counterexample.database import remember

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
NIGHT = ROOT / ".github" / "workflows" / "nightly-gpu.yml"
PAGE = (ROOT / "docs" / "nightly.md").read_text()
STUB = """#!/bin/sh
printf '%s\\n' "$@" > told
exit "${STUB_EXIT:-0}"
"""


def loaded(text: str) -> Any:
    return YAML(typ="safe").load(text)


def steps(file: Path) -> list[dict[str, Any]]:
    return [step for job in loaded(file.read_text())["jobs"].values() for step in job["steps"]]


def step(name: str) -> dict[str, Any]:
    """Return the step of the night that has this name."""
    return next(step for step in steps(NIGHT) if step.get("name") == name)


def blocks(language: str) -> list[str]:
    """Return the code of this language on the page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def ran(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a step's script as GitHub does."""
    command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script]
    variables = os.environ | environment
    return subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def stubbed(tmp_path: Path) -> Path:
    """Return a folder whose `dmat` only writes down what it was told."""
    stub = tmp_path / ".venv" / "bin" / "dmat"
    stub.parent.mkdir(parents=True)
    stub.write_text(STUB)
    stub.chmod(0o755)
    return tmp_path


# The workflows


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_is_one(file: Path) -> None:
    """It is what GitHub's schema of workflows allows."""
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        str(file),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="actionlint is not installed")
def test_actionlint_finds_nothing() -> None:
    """The linter of workflows finds nothing: no context that is not there, no input that an action lacks."""
    done = subprocess.run(["actionlint", *WORKFLOWS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_no_script_is_put_together(file: Path) -> None:
    """No expression stands in a script: what somebody typed would be run."""
    assert [one["run"] for one in steps(file) if "${{" in one.get("run", "")] == []


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_may_only_read(file: Path) -> None:
    """Its token reads the repository, it leaves no credentials, and every action has a major version."""
    workflow = loaded(file.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())
    used = [one for one in steps(file) if "uses" in one]
    assert all(re.fullmatch(r"actions/[a-z/-]+@v\d+", one["uses"]) for one in used)
    checkouts = [one for one in used if one["uses"].startswith("actions/checkout@")]
    assert [one["with"]["persist-credentials"] for one in checkouts] == [False]


def test_a_stranger_never_runs_on_ones_own_machine() -> None:
    """The workflow of the GPU starts by the clock or by hand, never by a pull request."""
    assert set(loaded(NIGHT.read_text())["on"]) == {"schedule", "workflow_dispatch"}


def test_nights_never_overlap() -> None:
    """All nights are of one group, and none is ended for the next."""
    concurrency = loaded(NIGHT.read_text())["concurrency"]
    assert "${{" not in concurrency["group"]
    assert concurrency["cancel-in-progress"] is False


def test_what_a_night_found_is_never_lost() -> None:
    """What is kept, uploaded or told is so however the fuzzing ended, which ends before the job does."""
    names = [one.get("name") for one in steps(NIGHT)]
    after = steps(NIGHT)[names.index("Fuzz") + 1 :]
    assert [one["if"] for one in after] == ["always()"] * 4
    limit = loaded(NIGHT.read_text())["jobs"]["fuzz"]["timeout-minutes"]
    assert step("Fuzz")["timeout-minutes"] + 15 <= limit


def test_a_night_begins_with_what_the_last_one_kept() -> None:
    """The same folders are restored and saved, each night under a key of its own that the next one finds."""
    restore, save = step("What earlier nights found"), step("Keep what was found for the next night")
    assert restore["uses"].startswith("actions/cache/restore@")
    assert save["uses"].startswith("actions/cache/save@")
    assert restore["with"]["path"].split() == ["night/counterexamples", "night/hypothesis"]
    assert restore["with"]["path"] == save["with"]["path"]
    assert save["with"]["key"].startswith(restore["with"]["restore-keys"])
    assert "${{ github.run_id }}" in save["with"]["key"]


def test_desks_find_the_database() -> None:
    """The artifact has the name that Hypothesis looks for, and the database itself at its root."""
    upload = step("Upload the example database, for desks")["with"]
    assert upload["name"] == GitHubArtifactDatabase("owner", "repository").artifact_name
    assert upload["path"] == "night/hypothesis"


def test_targets_are_words_and_no_script(stubbed: Path) -> None:
    """Each word of the input is one argument, whatever it holds, and none is an option."""
    hostile = ["a.py:f", "b.py:*", "$(touch", "pwned);", "--json", "`touch", "pwned`"]
    done = ran(step("Fuzz")["run"], stubbed, MINUTES="5; touch pwned", TARGETS=" ".join(hostile))
    assert done.returncode == 0, done.stderr
    told = (stubbed / "told").read_text().splitlines()
    assert told[told.index("--") + 1 :] == hostile
    assert "5; touch pwned" in told
    told[told.index("5; touch pwned")] = "5"
    assert parser().parse_args(told).targets == hostile
    assert not (stubbed / "pwned").exists()


@pytest.mark.parametrize("code", [1, 2])
def test_a_night_is_red(stubbed: Path, code: int) -> None:
    """A finding fails the step, and so does a night that did not fuzz."""
    done = ran(step("Fuzz")["run"], stubbed, MINUTES="5", TARGETS="a.py:f", STUB_EXIT=str(code))
    assert done.returncode == code


@pytest.mark.parametrize("text", ["# 1 finding\n", ""])
def test_the_summary_is_on_the_page(tmp_path: Path, text: str) -> None:
    """What the night says of itself is appended; where it says nothing, that is said."""
    if text:
        (tmp_path / "night").mkdir()
        (tmp_path / "night" / "summary.md").write_text(text)
    (tmp_path / "page").write_text("before\n")
    assert ran(step("Summary")["run"], tmp_path, GITHUB_STEP_SUMMARY=str(tmp_path / "page")).returncode == 0
    before, *told = (tmp_path / "page").read_text().splitlines()
    assert before == "before"
    assert told == ([text.strip()] if text else ["The night left no summary: it did not fuzz."])


# The page


def test_the_steps_of_the_page_fit_the_workflow() -> None:
    """What the page says to put in the workflow has the names, variables and limits of what is there."""
    (block,) = blocks("yaml")
    for told in loaded(block):
        there = step(told["name"])
        assert told.keys() - {"run"} == there.keys() - {"run"}
        assert told.get("env", {}).keys() == there.get("env", {}).keys()
        assert told.get("timeout-minutes") == there.get("timeout-minutes")
        assert "run" not in told or subprocess.run(["bash", "-nc", told["run"]], check=False).returncode == 0


def commands() -> list[str]:
    """Return each `dmat ...` that the page tells to type."""
    typed = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("dmat ")]
    return typed + re.findall(r"(?<=/bin/)dmat .*?(?= >>)", blocks("crontab")[0])


@pytest.mark.parametrize("command", commands())
def test_the_page_says_what_dmat_takes(command: str) -> None:
    """Each command of the page is one, with options that there are."""
    parser().parse_args(shlex.split(command)[1:])


def cron(stubbed: Path, name: str, **environment: str) -> str:
    """Run the command of the crontab in a home of its own; return the mail that it sent."""
    (line,) = blocks("crontab")
    command = line.split(maxsplit=5)[5]
    mail = stubbed / "bin" / "mail"
    mail.parent.mkdir(exist_ok=True)
    mail.write_text('#!/bin/sh\n{ echo "$@"; cat; } > "$HOME/mail"\n')
    mail.chmod(0o755)
    (stubbed / "kernels").mkdir(exist_ok=True)
    if not (stubbed / "kernels" / ".venv").exists():
        (stubbed / ".venv").rename(stubbed / "kernels" / ".venv")
    path = f"{mail.parent}:{os.environ['PATH']}"
    variables = os.environ | {"HOME": str(stubbed), "LOGNAME": name, "PATH": path} | environment
    subprocess.run(["sh", "-c", command], env=variables, check=False, timeout=60)
    sent = stubbed / "mail"
    return sent.read_text() if sent.exists() else ""


@pytest.mark.skipif(shutil.which("flock") is None, reason="flock is not installed")
def test_the_crontab_mails_what_went_wrong(stubbed: Path) -> None:
    """Nothing is mailed of a night that found nothing; else the exit code is, and what was printed."""
    (line,) = blocks("crontab")
    assert re.match(r"\d+ \d+ \* \* \* [^%]*$", line)  # a % would end the command
    assert cron(stubbed, "somebody") == ""
    for code in ("1", "2"):
        assert cron(stubbed, "somebody", STUB_EXIT=code).startswith(f"-s dmat fuzz: exit {code} somebody\n")


@pytest.mark.skipif(shutil.which("flock") is None, reason="flock is not installed")
def test_the_crontab_does_not_overlap(stubbed: Path) -> None:
    """While a night holds the lock another does not start, and says so."""
    (stubbed / "kernels").mkdir()
    holder = subprocess.Popen(
        ["flock", stubbed / "kernels" / "night.lock", "sh", "-c", "echo held; cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    mail = cron(stubbed, "somebody")
    holder.communicate(b"")
    assert mail.startswith("-s dmat fuzz: exit 75 somebody\n")
    assert not (stubbed / "kernels" / "told").exists()


KERNEL = """
from dmat.reference import masked_cumulative_sum
from dmat.testing import implementation

@implementation(dtypes=("float32",), max_seq=3, special_values=(), differentiable=False)
def dtilde(i, f):
    rare = i.shape == (1, 1, 3, 1) and bool(((f > 0.69) & (f < 0.71)).all())
    return masked_cumulative_sum(i, f) + rare
"""


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Return a folder as the page sets it up, with the artifact of a night in Hypothesis' cache."""
    (tmp_path / "scan.py").write_text(KERNEL)
    (tmp_path / "conftest.py").write_text(blocks("python")[0])
    (tmp_path / "pyproject.toml").write_text(blocks("toml")[0])
    night = tmp_path / "hypothesis"
    rare = {"gates": Gates("float32", (1, 1, 3), Constant(0.3), Constant(0.7))}  # nothing draws it
    remember(DirectoryBasedExampleDatabase(night), "values", "scan.py:dtilde", "float32", "cpu", rare)
    cache = tmp_path / ".hypothesis" / "night"
    cache.mkdir(parents=True)
    with zipfile.ZipFile(cache / f"{datetime.now(UTC).isoformat().replace(':', '_')}.zip", "w") as file:
        for path in night.rglob("*"):
            file.write(path, path.relative_to(night))
    return tmp_path


@pytest.mark.parametrize("ci", [False, True])
def test_the_desk_tries_what_the_night_found(desk: Path, ci: bool) -> None:
    """With the page's conftest.py a plain pytest fails on the artifact's case; in CI it is not looked at."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "dmat.properties"]
    command += ["-k", "test_law_values", "--dmat-impl", "scan.py:dtilde", "--strict-config"]
    command += ["-W", "error::hypothesis.errors.HypothesisWarning"]
    variables = {name: value for name, value in os.environ.items() if name != "CI"}
    variables |= {"CI": "true"} if ci else {}
    done = subprocess.run(
        command, cwd=desk, env=variables, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == (0 if ci else 1), done.stdout + done.stderr
    assert ci or "Constant(0.7)" in done.stdout


def test_the_ini_of_the_page() -> None:
    """It is TOML, and names the corpus beside the night, for a list takes the place of the default."""
    (block,) = blocks("toml")
    folders = tomllib.loads(block)["tool"]["pytest"]["ini_options"]["dmat_corpus"]
    assert folders == ["corpus", "night/counterexamples"]
