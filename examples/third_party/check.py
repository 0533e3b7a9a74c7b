"""Checks published functions with dmat: installs them into a venv of their own, tries them, writes the page.

    python examples/third_party/check.py                      # everything; hours on two cores
    python examples/third_party/check.py fla.py mamba_ssm.py  # these adapters alone
    python examples/third_party/check.py --page               # the page alone, from results that there are

Each adapter goes through `dmat check --json`; of each broken law the counterexample's repro.py, a plain
call that imports no test framework, is run too, and an accusation that it does not confirm is shown as
such. Results stay in .third-party/, one file an adapter; docs/third-party.md is made of them and of
notes.toml, which says in words what was promised, what was seen, and whether it may be so by design.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / ".third-party"
PAGE = ROOT / "docs" / "third-party.md"
NO_ADAPTERS = ("check.py", "page.py", "around.py", "mamba_ssm_imports.py")
UNBUILT = {
    "mamba-ssm": {"MAMBA_FORCE_BUILD": "TRUE", "MAMBA_SKIP_CUDA_BUILD": "TRUE"}
}  # built here, without CUDA
LIMIT = 1500.0  # seconds for an adapter
PATIENCE = 120.0  # seconds for a repro.py
INTERPRETED = "_triton.py"


@dataclass(frozen=True)
class Adapter:
    """One adapted function: the file and the name that it has there."""

    file: str
    name: str

    @property
    def target(self) -> str:
        """Return what dmat calls it."""
        return f"examples/third_party/{self.file}:{self.name}"

    @property
    def result(self) -> Path:
        """Return where its result is kept."""
        return WORK / "results" / f"{self.file.removesuffix('.py')}.{self.name}.json"

    @property
    def options(self) -> list[str]:
        """Return what dmat must be told beside the target."""
        return ["--interpret"] if self.file.endswith(INTERPRETED) else []


def adapters(asked: list[str]) -> list[Adapter]:
    """Return those that are asked for, by file or by FILE:NAME, or all: what is assigned from fused(...)."""
    found = []
    for path in sorted(path for path in HERE.glob("*.py") if path.name not in NO_ADAPTERS):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            match node:
                case ast.Assign(targets=[ast.Name(name)], value=ast.Call(func=ast.Name("fused"))):
                    found.append(Adapter(path.name, name))
    wanted = [a for a in found if not asked or a.file in asked or f"{a.file}:{a.name}" in asked]
    return sorted(wanted, key=lambda a: a.file.endswith(INTERPRETED))


# Installing


def requirements() -> list[str]:
    """Return the pinned packages of requirements.txt."""
    lines = (line.partition("#")[0].strip() for line in (HERE / "requirements.txt").read_text().splitlines())
    return [line for line in lines if line]


def install(folder: Path) -> Path:
    """Make the venv, put the pinned packages and dmat into it, each alone; return its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    built = [line for line in requirements() if line.partition("==")[0] in UNBUILT]
    subprocess.run([*pip, *(line for line in requirements() if line not in built)], check=True)
    for line in built:
        told = os.environ | UNBUILT[line.partition("==")[0]]
        subprocess.run([*pip, "--no-build-isolation", line], check=True, env=told)
    subprocess.run([*pip, "--editable", str(ROOT)], check=True)
    return python


# Trying


def try_one(adapter: Adapter, python: Path, limit: float, more: list[str]) -> dict[str, Any]:
    """Check one adapter and run the repro.py of each counterexample; return and keep what became of it."""
    adapter.result.parent.mkdir(parents=True, exist_ok=True)
    report, kept = adapter.result.with_suffix(".report"), WORK / "counterexamples" / adapter.result.stem
    report.unlink(missing_ok=True)
    command = [str(python), "-m", "dmat.testing.cli", "check", "-n", "1", *adapter.options]
    command += [*more, "--json", str(report), "--counterexamples", str(kept), adapter.target]
    started = time.monotonic()
    code, said = _run(command, limit)
    result = {
        "target": adapter.target,
        "said": said[-4000:] if not report.exists() else "",
        "ended": "in time" if code is not None else f"not done in {limit:.0f} s",
        "report": json.loads(report.read_text()) if report.exists() else None,
        "told": more,
        "seconds": round(time.monotonic() - started),
        "date": datetime.now(UTC).date().isoformat(),
    }
    kept_grades = json.loads(adapter.result.read_text()).get("grades") if adapter.result.exists() else None
    result["grades"] = kept_grades
    result["confirmed"] = {record["folder"]: confirmed(record, python) for record in broken(result)}
    adapter.result.write_text(json.dumps(result, indent=1) + "\n")
    return result


def grade_one(adapter: Adapter, python: Path, limit: float) -> None:
    """Find the strictest accuracy class that an adapter survives, in float32 if it may; keep it."""
    if adapter.options or not adapter.result.exists():
        return  # interpreted kernels take too long
    result = json.loads(adapter.result.read_text())
    dtypes = sorted({record["dtype"] for record in result["report"]["laws"]}) if result["report"] else []
    graded = adapter.result.with_suffix(".grade")
    graded.unlink(missing_ok=True)
    command = [str(python), "-m", "dmat.testing.cli", "grade", "--examples", "40", "--json", str(graded)]
    _run([*command, "--dtype", "float32" if "float32" in dtypes else dtypes[0], adapter.target], limit)
    result["grades"] = json.loads(graded.read_text())[0]["grades"] if graded.exists() else None
    adapter.result.write_text(json.dumps(result, indent=1) + "\n")


def _run(command: list[str], limit: float) -> tuple[int | None, str]:
    """Run a command in the repository; return its exit code, None where it did not end, and what it said."""
    one = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=one,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
    ) as process:
        try:
            said, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            return None, process.communicate()[0]
        return process.returncode, said


def broken(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records of the laws that do not hold."""
    records = result["report"]["laws"] if result["report"] else []
    return [record for record in records if record["status"] == "failed"]


def confirmed(record: dict[str, Any], python: Path) -> str:
    """Say whether the plain call of a counterexample shows the same: it exits 1 while it does."""
    script = Path(record["folder"] or "") / "repro.py"
    if not record["folder"] or not script.exists():
        return "no script"
    code, _ = _run([str(python), str(script)], PATIENCE)
    return {1: "yes", 0: "no", None: "did not end"}.get(code, f"exit {code}")


# The page


def versions(python: Path) -> dict[str, str]:
    """Return what is installed in the venv."""
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format", "json"], check=True, capture_output=True, text=True
    )
    return {entry["name"]: entry["version"] for entry in json.loads(listed.stdout)}


def results(of: list[Adapter]) -> Iterator[tuple[Adapter, dict[str, Any]]]:
    """Yield the adapters that have been tried, with what became of them."""
    for adapter in of:
        if adapter.result.exists():
            yield adapter, json.loads(adapter.result.read_text())


def write_page(python: Path) -> list[str]:
    """Write docs/third-party.md; return what is accused and not explained in notes.toml, or not confirmed."""
    from page import Page

    notes = tomllib.loads((HERE / "notes.toml").read_text(encoding="utf-8"))
    page = Page(list(results(adapters([]))), notes, versions(python), os.cpu_count() or 1)
    PAGE.write_text(page.text(), encoding="utf-8")
    return page.doubts()


def main() -> int:
    """Do what the command line says; 1 where an accusation stands that is not confirmed or not explained."""
    top = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    top.add_argument("files", nargs="*", help="FILE.py or FILE.py:NAME; default: all, Triton's last")
    top.add_argument(
        "--python", type=Path, help="of an environment that has them; default: .third-party/venv"
    )
    top.add_argument("--steps", nargs="+", choices=("check", "grade"), default=("check", "grade"))
    top.add_argument("--page", action="store_true", help="write the page from results that there are")
    top.add_argument(
        "--examples", type=int, help="random cases a law and dtype; default: as dmat check has it"
    )
    top.add_argument("--dtype", action="append", default=[], help="try these alone, of those that it takes")
    top.add_argument("--limit", type=float, default=LIMIT, help="seconds for an adapter")
    options = top.parse_args()
    WORK.mkdir(exist_ok=True)
    more = ["--examples", str(options.examples)] if options.examples else []
    more += [word for dtype in options.dtype for word in ("--dtype", dtype)]
    python = options.python or WORK / "venv" / "bin" / "python"
    if not options.page:
        if options.python is None:
            install(WORK / "venv")
        for adapter in adapters(options.files):
            if "check" in options.steps:
                result = try_one(adapter, python, options.limit, more)
                verdict = result["report"]["verdict"] if result["report"] else "error"
                print(f"{verdict:8} {result['seconds']:5} s  {adapter.target}", flush=True)
            if "grade" in options.steps:
                grade_one(adapter, python, options.limit)
    doubts = write_page(python)
    print(*doubts, f"written: {PAGE.relative_to(ROOT)}", sep="\n")
    return 1 if doubts else 0


if __name__ == "__main__":
    sys.exit(main())
