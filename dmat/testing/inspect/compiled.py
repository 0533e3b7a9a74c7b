"""Compile a recorded launch for an architecture, and read what came of it."""

from __future__ import annotations

import time
import warnings
from typing import Any

import triton
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend

from dmat.testing.inspect import machine_code, ttir
from dmat.testing.inspect.launches import Launch
from dmat.testing.inspect.machines import KIB, MOST_TENSOR_MEMORY, MOST_THREADS, Machine
from dmat.testing.inspect.result import Code, Compiled, ProductFound

SHOWN = ("num_warps", "num_stages", "num_ctas", "maxnreg")


def compiled(launch: Launch, machine: Machine, dtypes: list[str], group: int, *, code: bool) -> Compiled:
    """Compile a launch and return what was found. code: to machine code, else to TTIR alone."""
    started = time.perf_counter()
    about: dict[str, Any] = {
        "kernel": launch.name,
        "arch": machine.name,
        "dtypes": dtypes,
        "group": group,
        "config": launch.config,
        "configs": launch.configs,
        "options": _options(launch),
    }
    if launch.failure:
        return Compiled(**about, failure=launch.failure)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            about |= _compiled(launch, machine) if code else _read(_ttir(launch, machine))
    except Exception as error:  # Triton's compiler raises many kinds
        about["failure"] = _reason(error)
    return Compiled(**about, seconds=round(time.perf_counter() - started, 3))


def _compiled(launch: Launch, machine: Machine) -> dict[str, Any]:
    made = triton.compile(_source(launch), target=_target(machine), options=launch.options.__dict__)
    if machine.backend == "cuda":
        found = machine_code.of_cubin(made.asm["cubin"])
    else:
        found = machine_code.of_amdgcn(made.asm["amdgcn"])
    code = Code(
        registers=found.registers,
        spilled=found.spilled,
        shared=made.metadata.shared,
        stores=found.stores,
        wide_stores=found.wide_stores,
        exponentials=found.exponentials,
        atomics=found.atomics,
        products=found.products,
    )
    return {**_read(made.asm["ttir"]), "code": code, "failure": _unfit(made.metadata, machine)}


def _unfit(metadata: Any, machine: Machine) -> str:
    """Return why the machine cannot launch it, as Triton decides when it loads it; else ""."""
    if metadata.shared > machine.shared:
        needs = f"{metadata.shared / KIB:.0f} KiB of shared memory"
        return f"needs {needs}; a program on {machine.name} has {machine.shared // KIB}"
    if (getattr(metadata, "tmem_size", 0) or 0) > MOST_TENSOR_MEMORY:
        return f"needs {metadata.tmem_size} columns of tensor memory; there are {MOST_TENSOR_MEMORY}"
    threads = metadata.num_warps * machine.warp
    if threads > MOST_THREADS:
        return f"needs {threads} threads; a program has at most {MOST_THREADS}"
    return ""


def _ttir(launch: Launch, machine: Machine) -> str:
    """Return the TTIR, as triton.compile makes it, and go no further."""
    backend = make_backend(_target(machine))
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    generators, modules = backend.get_codegen_implementation(launch.options), backend.get_module_map()
    module = _source(launch).make_ir(_target(machine), launch.options, generators, modules, context)
    stages: dict[str, Any] = {}
    backend.add_stages(stages, launch.options, _source(launch).language)
    return str(stages["ttir"](module, {"target": _target(machine), **launch.options.__dict__}))


def _source(launch: Launch) -> Any:
    kind = launch.kernel.ASTSource  # Gluon's kernels have one of their own
    return kind(launch.kernel, launch.signature, launch.constants, launch.attributes)


def _target(machine: Machine) -> GPUTarget:
    return GPUTarget(machine.backend, machine.arch, machine.warp)


def _read(text: str) -> dict[str, Any]:
    found = ttir.read(text)
    products = [
        ProductFound(p.line, p.operands, p.multiplied, p.accumulated, p.rounded) for p in found.products
    ]
    return {"products": list(dict.fromkeys(products)), "atomics": list(found.atomics)}


def _options(launch: Launch) -> dict[str, str]:
    """Return what distinguishes this launch from others of its kernel, for people."""
    names = launch.kernel.arg_names
    own = {name: getattr(launch.options, name, None) for name in SHOWN}
    constants = {names[at[0]]: value for at, value in launch.constants.items() if len(at) == 1}
    divisible = [names[at[0]] for at, attribute in launch.attributes.items() if attribute and len(at) == 1]
    shown = {**{name: x for name, x in own.items() if x is not None}, **constants}
    return {name: str(getattr(x, "value", x)) for name, x in shown.items()} | {
        "divisible": ", ".join(divisible)
    }


def _reason(error: BaseException) -> str:
    """Return the innermost error in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(getattr(error, "error_message", None) or error)
    lines = [line.strip() for line in text.splitlines() if line.strip(" ^\t")]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"
