"""What is mutated, and what each mutant is tried as: dmat's own operator, and four unlike sound kernels."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import dmat
import tests
from dmat.testing.contract import DTYPES, contract_of
from dmat.testing.kernel.builtin import BUILTIN
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.kernel.segment_sum import from_segment_sum
from dmat.testing.law.dtilde import DtildeSubject

from .mutate import Mutant, mutants

ROOT = Path(tests.__file__).parents[1]
assert Path(dmat.__file__).parents[1] == ROOT, f"dmat is {dmat.__file__}, the tests are {tests.__file__}"

Subjects = Callable[[], list[DtildeSubject]]  # of the modules as they are now imported


@dataclass(frozen=True)
class Target:
    """Functions of a module, and how their mutants are tried.

    functions: qualified names, each with all that is below it; "" is the module's own statements.
    reloaded: modules to import anew, in order, after the mutant took its module's place.
    operator: of the operator, which has direct checks, tried between the ladders and the searches.
    graphless: only called in the forward of an autograd Function, where no graph is recorded, so that
    to detach changes nothing.
    """

    name: str
    module: str
    functions: tuple[str, ...]
    subjects: Subjects
    reloaded: tuple[str, ...] = ()
    operator: bool = False
    graphless: bool = False

    @property
    def path(self) -> str:
        """The module's file, from the root of the repository."""
        return self.module.replace(".", "/") + ".py"

    def mutants(self) -> list[Mutant]:
        """Return every mutant of these functions."""
        left_out = "detached" if self.graphless else ""
        mine = (m for m in _mutants(self.path) if any(_within(m.function, name) for name in self.functions))
        return [mutant for mutant in mine if mutant.operator != left_out]

    def load(self, source: str) -> None:
        """Put a module of this source in place of the one imported, and what imports it anew."""
        _execute(self.module, source, str(ROOT / self.path))
        for name in self.reloaded:
            path = ROOT / (name.replace(".", "/") + ".py")
            _execute(name, path.read_text(), str(path))


@cache
def _mutants(path: str) -> list[Mutant]:
    return mutants((ROOT / path).read_text())


def _within(function: str, name: str) -> bool:
    return function == name or (name != "" and function.startswith(name + "."))


def _execute(name: str, source: str, path: str) -> None:
    package, _, last = name.rpartition(".")
    registered = getattr(sys.modules[name], "_library", None)
    if registered is not None:  # torch takes an operator only once
        registered._destroy()
    module = ModuleType(name)
    module.__dict__.update(__file__=path, __package__=package)
    sys.modules[name] = module
    setattr(importlib.import_module(package), last, module)
    exec(compile(source, path, "exec"), module.__dict__)


# The operator.


def _built_in(name: str, dtypes: tuple[str, ...]) -> list[DtildeSubject]:
    """Return one of the implementations that dmat ships, of dmat.operator as it is now imported."""
    function = getattr(importlib.import_module("dmat.operator"), name)
    shipped = next(implementation for implementation in BUILTIN if implementation.name == name)
    return [DtildeSubject(replace(shipped, function=function), dtype) for dtype in dtypes]


def ignoring() -> list[DtildeSubject]:
    """Return dtilde: masked cotangents ignored."""
    return _built_in("dtilde", DTYPES)


def both() -> list[DtildeSubject]:
    """Return dtilde, and the same with masked cotangents summed."""
    return ignoring() + _built_in("vlstm_fwbw_Dtildemat", ("float32", "float64"))


def lifted_segment_sum() -> list[DtildeSubject]:
    """Return segment_sum, lifted to D~."""
    lifted = from_segment_sum(importlib.import_module("dmat.segments").segment_sum)
    return _subjects(lifted, "segment_sum")


def lifted_rectangle_sum() -> list[DtildeSubject]:
    """Return a kernel whose backward is rectangle_sum, in the accumulator's format."""
    sound = importlib.import_module("tests.zoo.sound")
    rectangle_sum = importlib.import_module("dmat.segments").rectangle_sum

    def gradient(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
        rectangles = rectangle_sum(sound.widen(G)).unsqueeze(-1)
        return sound.input_gradient(G, i), (rectangles * torch.sigmoid(-sound.widen(f))).to(f.dtype)

    return _subjects(sound.with_gradient(sound.masked_cumulative_sum, gradient), "rectangle_sum")


# Sound kernels.


def _subjects(function: Callable[..., Any], name: str) -> list[DtildeSubject]:
    contract = contract_of(function)
    return [DtildeSubject(Implementation(name, function, contract), dtype) for dtype in contract.dtypes]


def kernels(*names: str) -> Subjects:
    """Return these of tests/zoo/sound.py, as it is now imported."""

    def subjects() -> list[DtildeSubject]:
        sound = importlib.import_module("tests.zoo.sound")
        return [subject for name in names for subject in _subjects(getattr(sound, name), name)]

    return subjects


TORCH_KERNELS, SEGMENTS = "dmat.torch_kernels", "dmat.segments"
OPERATOR, SOUND = "dmat.operator", "tests.zoo.sound"
UNLIKE = ("chunkwise", "closed_form_backward", "two_branches", "binary_lifting")

TARGETS = (
    Target(
        "the sums by halves",
        TORCH_KERNELS,
        (
            "", "base_of", "padded", "halves", "squares", "_diagonal", "cut", "Workspace", "sum_from",
            "after", "window_sums", "flattened", "_write", "_write_sums", "_joined", "_write_squares",
            "rectangle_sums", "_read", "_read_sums", "_read_squares", "_sum_rows",
        ),
        both,
        (SEGMENTS, OPERATOR),
        operator=True,
        graphless=True,
    ),
    Target(
        "where they are taken",
        SEGMENTS,
        (
            "", "_triton_kernels", "kernels", "window_sums", "rectangle_sums", "_window_sums_kernel",
            "_window_sums_out_kernel", "write_window_sums",
        ),
        ignoring,
        (OPERATOR,),
        operator=True,
        graphless=True,
    ),
    Target(
        "their derivatives",
        SEGMENTS,
        (
            "_WindowSums", "_RectangleSums", "_derivative", "differentiable_window_sums",
            "tangent_window_sums", "differentiable_rectangle_sums",
        ),
        both,
        (OPERATOR,),
        operator=True,
    ),
    Target(
        "as operators of torch",
        SEGMENTS,
        (
            "_fake_window_sums", "_vmap_window_sums", "_fake_rectangle_sums", "_vmap_rectangle_sums",
            "_batch_first", "_register", "_register_derivative",
        ),
        ignoring,
        (OPERATOR,),
        operator=True,
    ),
    Target("segment_sum", SEGMENTS, ("segment_sum",), lifted_segment_sum, (OPERATOR,), operator=True),
    Target("rectangle_sum", SEGMENTS, ("rectangle_sum",), lifted_rectangle_sum, (OPERATOR,), operator=True),
    Target("check_tensor", SEGMENTS, ("check_tensor",), ignoring, (OPERATOR,), operator=True),
    Target(
        "operator",
        OPERATOR,
        ("", "log_sigmoid", "dtilde", "vlstm_fwbw_Dtildemat", "_check_gates", "_check_alike",
         "_check_out", "_check_out_has", "_has_tangent", "_overlaps_itself", "_check_memory", "_memory"),
        both,
        operator=True,
    ),
    Target(
        "what sound kernels share",
        SOUND,
        ("widen", "causal", "log_decays", "window_sums", "dress"),
        kernels(*UNLIKE),
    ),
    Target("chunkwise", SOUND, ("chunked", "_tiles", "chunkwise"), kernels("chunkwise")),
    Target(
        "closed_form_backward",
        SOUND,
        ("rectangle_sum", "input_gradient", "forget_gradient", "gradient", "_WithGradient", "with_gradient",
         "masked_cumulative_sum", "closed_form_backward"),
        kernels("closed_form_backward"),
    ),
    Target("two_branches", SOUND, ("_with_log_gate", "two_branches"), kernels("two_branches")),
    Target("binary_lifting", SOUND, ("times", "binary_lifting"), kernels("binary_lifting")),
)  # fmt: skip
