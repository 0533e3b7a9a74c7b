"""Adapters for published functions, what checks them, and their page; none of those packages is needed."""

from __future__ import annotations

import ast
import sys
import tomllib
from fnmatch import fnmatch
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from dmat.testing.registry import laws

HERE = Path(__file__).parents[1] / "examples" / "third_party"
LINES = 6


def imported(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a file of that folder; the folder itself is in no path, for adapters are named like packages."""
    spec = spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return examples/third_party/page.py."""
    return imported("page", monkeypatch)


@pytest.fixture
def check(page: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return examples/third_party/check.py."""
    return imported("check", monkeypatch)


def result(law: str, status: str, **more: Any) -> dict[str, Any]:
    """Return what became of an adapter with this one law."""
    record = {"law": law, "dtype": "float32", "status": status, "worst": 0.5, "promised": True, "folder": "f"}
    record |= {"case": "gates = Gates('float32', (1, 1, 4), fgate=Constant(-30.0))\nprobe = Probe(K=4)"}
    record["reason"] = "does not hold for x, float32 on cpu:\n  dq[t=0]\n    computed  NaN\n    exact     1.0"
    verdict = {"failed": "broken", "passed": "sound"}[status]
    report = {"verdict": verdict, "contract": {"reads": "delta"}, "laws": [record | more]}
    confirmed = {"f": "yes"} if status == "failed" else {}
    told: list[str] = ["--examples", "6"]
    return {
        "report": report,
        "confirmed": confirmed,
        "told": told,
        "date": "2026-01-01",
        "grades": None,
        "seconds": 7,
    }


def test_adapters(check: Any) -> None:
    """There are adapters of ten packages, each of at most six lines, and all can be named."""
    found = check.adapters([])
    assert len({(a.file, a.name) for a in found}) == len(found) >= 60
    assert len({a.file.removesuffix(".py").removesuffix("_triton") for a in found}) == 10
    assert sum(bool(a.options) for a in found) >= 10
    for file in {a.file for a in found}:
        for node in ast.parse((HERE / file).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < LINES, (file, node.lineno)
    assert check.adapters(["fla.py:naive_chunk_kda"])[0].target.endswith("fla.py:naive_chunk_kda")


def test_notes(check: Any) -> None:
    """A note accuses adapters that there are, of laws that there are, and says all that a section has."""
    stems = [adapter.result.stem for adapter in check.adapters([])]
    names = {law.name for of in ("D~", "fused") for law in laws(of)}
    for note in tomllib.loads((HERE / "notes.toml").read_text(encoding="utf-8"))["note"]:
        assert note.keys() >= {"title", "accuses", "promised", "seen", "by_design"}
        assert all(any(fnmatch(stem, pattern) for stem in stems) for pattern in note["accuses"]), note[
            "title"
        ]
        assert set(note.get("laws", names)) <= names


def test_page(check: Any, page: Any) -> None:
    """The page has a row an adapter and a section a note; what is not explained or confirmed is told."""
    broken, sound = check.adapters(["fla.py:naive_chunk_kda", "fla.py:naive_retention"])
    results = [
        (broken, result("gradient_finite", "failed")),
        (sound, result("values", "passed")),
    ]
    words = {"promised": "Finite gradients.", "seen": "NaN.", "by_design": "No."}
    note = {"title": "A title", "accuses": ["fla.*"], "laws": ["gradient_finite"], **words}
    versions = {"fla_core": "0.6.0", "torch": "2.13.0", "triton": "3.7.1"}
    text = page.Page(results, {"note": [note]}, versions, 2).text()
    row = "| fla-core 0.6.0 | `fla.py:naive_chunk_kda` | delta rule, errors of the window | **breaks** |"
    assert row in text
    assert "gradient_finite at S = 4 | yes |" in text
    assert "`naive_chunk_kda`: gradient_finite, float32: dq[t=0] computed NaN, exact 1.0, on `gates" in text
    assert "1 of 2 adapters keep every law" in " ".join(text.split())
    assert page.Page(results, {"note": [note]}, versions, 2).doubts() == []
    results[0][1]["confirmed"]["f"] = "no"
    told = page.Page(results, {"note": []}, versions, 2).doubts()
    assert [line.partition(":")[0] for line in told] == ["not confirmed", "not explained"]


def test_requirements(check: Any) -> None:
    """Every package is pinned, and none of those that are checked is asked for by dmat."""
    pinned = dict(line.split("==") for line in check.requirements())
    project = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = str([project["dependencies"], project["optional-dependencies"]])
    for package in ("fla-core", "mamba-ssm", "mlstm_kernels", "xlstm", "transformers", "mambapy"):
        assert package in pinned
        assert package not in asked
