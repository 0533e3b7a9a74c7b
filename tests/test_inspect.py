"""`dmat inspect` and `dmat check --interpret`: findings, lines, exit codes; compile_laws.py in a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from dmat.testing.cli import main
from dmat.testing.inspect import machine_code
from dmat.testing.inspect.machines import DEFAULT, MACHINES
from dmat.testing.inspect.ttir import Product, read
from dmat.testing.schemas import schema

from .test_interpret import ROOT, needs_triton
from .zoo.triton_names import MUTANTS, SOUND

FILE = "tests/zoo/triton_mutants.py"


def in_a_process(*options: str) -> None:
    """Run compile_laws.py, where Triton compiles."""
    plain = {name: x for name, x in os.environ.items() if name not in ("TRITON_INTERPRET", "DMAT_INTERPRET")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["-o", "addopts=--strict-markers -rs", "tests/compile_laws.py", *options]
    run = subprocess.run(command, env=plain, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert run.returncode == 0, run.stdout + run.stderr


@needs_triton
def test_what_compiles_without_a_gpu() -> None:
    """Our kernels on one GPU; each format that a contract excludes is found, no right kernel is accused."""
    in_a_process("-m", "not night")


@needs_triton
@pytest.mark.night
def test_what_compiles_without_a_gpu_at_night() -> None:
    """Our kernels on five GPUs, in each dtype and specialisation; what fits nowhere."""
    in_a_process("-m", "night")


# Reading

LINES = """
#loc1 = loc("/a/k.py":7:3)
#loc2 = loc("/x/triton/language/standard.py":90:1)
#loc3 = loc(callsite(#loc2 at #loc1))
  tt.func public @f(%x: !tt.ptr<f32>) {
    %a = tt.load %x : tensor<16x16x!tt.ptr<f32>> loc(#loc1)
    %h = arith.truncf %a : tensor<16x16xf32> to tensor<16x16xbf16> loc(#loc1)
    %w = arith.extf %h : tensor<16x16xbf16> to tensor<16x16xf32> loc(#loc1)
    %c = arith.constant dense<1.000000e+00> : tensor<16x16xf32> loc(#loc1)
    %r = tt.dot %a, %c, %c, inputPrecision = tf32 : tensor<16x16xf32> * tensor<16x16xf32> -> tensor<16x16xf32> loc(#loc3)
    %s = tt.dot %w, %c, %c, inputPrecision = tf32 : tensor<16x16xf32> * tensor<16x16xf32> -> tensor<16x16xf32> loc(#loc1)
    %t = tt.dot %h, %h, %c : tensor<16x16xbf16> * tensor<16x16xbf16> -> tensor<16x16xf32> loc(#loc1)
  }
"""  # noqa: E501


def test_products_of_ttir() -> None:
    """TF32 rounds float32, not what was widened from bfloat16, nor ones; a cast rounds before a product."""
    assert read(LINES).products == (
        Product("k.py:7", "float32", "tf32", "float32", rounded=True),
        Product("k.py:7", "float32", "tf32", "float32", rounded=False),
        Product("k.py:7", "bfloat16", "bfloat16", "float32", rounded=True),
    )


def test_a_split_by_hand_does_not_round() -> None:
    """high = bfloat16(a) is excused where the rest, a - high, is multiplied too."""
    rest = "    %d = arith.subf %a, %w : tensor<16x16xf32> loc(#loc1)\n    %r ="
    assert [p.rounded for p in read(LINES.replace("    %r =", rest)).products] == [True, False, False]


def test_machine_code_of_amd() -> None:
    """Registers, spills and opcodes of AMD's text."""
    codes = ("v_mfma_f32_32x32x4_xf32", "v_exp_f32_e32", "global_store_dwordx4", "global_atomic_add_f32")
    text = "".join(f"\t{code} v0\n" for code in codes)
    found = machine_code.of_amdgcn(text + "    .vgpr_count:     206\n    .vgpr_spill_count: 3\n")
    assert (found.registers, found.spilled, found.stores, found.wide_stores) == (206, 3, 1, 1)
    assert (found.exponentials, found.atomics) == (1, 1)
    assert found.products == {"v_mfma_f32_32x32x4_xf32": 1}


# The command


def test_could_not(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown architecture, --arch without --interpret: one line, exit code 2."""
    for arguments in (
        ("inspect", "k.py:f", "--arch", "sm_12"),
        ("check", "k.py:f", "--arch", "sm_90"),
    ):
        assert main(arguments) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert set(DEFAULT) <= set(MACHINES)


@needs_triton
@pytest.mark.night
def test_no_triton(capsys: pytest.CaptureFixture[str]) -> None:
    """A kernel without Triton: one line that says so, exit code 2."""
    assert main(["inspect", "dmat:dtilde", "--arch", "sm_80", "--dtype", "float32"]) == 2
    assert capsys.readouterr().out.startswith("NO TRITON KERNELS: the calls of dmat:dtilde launch none")


@needs_triton
@pytest.mark.night
@pytest.mark.parametrize("name", [*MUTANTS, *SOUND])
def test_inspect(name: str, tmp_path: Path) -> None:
    """Each kernel with a fault is found under the promise that it breaks, no right one is accused."""
    file = tmp_path / "report.json"
    code = main(["inspect", f"{FILE}:{name}", "--arch", "sm_80", "--json", str(file)])
    report = json.loads(file.read_text())
    jsonschema.validate(report, schema("inspect"))
    promises = {one["promise"] for one in report["contradictions"]}
    assert (code, promises) == ((1, {MUTANTS[name]}) if name in MUTANTS else (0, set()))


@needs_triton
@pytest.mark.night
@pytest.mark.parametrize("name", ["ieee", "tf32_not_stated", "tf32_by_default"])
def test_check(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Interpreted, a stated float32 that a device multiplies in TF32 is broken; unstated it is a line."""
    file = tmp_path / "report.json"
    options = ["--interpret", "--examples", "1", "--counterexamples", "", "--json", str(file)]
    code = main(["check", f"{FILE}:{name}", *options])
    report = json.loads(file.read_text())
    jsonschema.validate(report, schema("check"))
    found = report["compiled"]
    said = capsys.readouterr().out
    assert found["archs"] == ["sm_80", "sm_90"]
    if name == "ieee":
        assert (code, found["contradictions"], found["notes"]) == (0, [], []), said
    elif name == "tf32_not_stated":
        assert "TF32 on sm_80, sm_90 (triton_mutants.py:" in said
        assert not found["contradictions"]
    else:
        assert code == 1
        assert "multiplies in tf32; the contract states multiplies_in float32" in said
        assert "machine_code" in {law["law"] for law in report["laws"] if law["status"] == "failed"}
