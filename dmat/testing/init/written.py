"""The file that `dmat init` writes: the adapter, its contract with what was seen, and questions."""

from __future__ import annotations

import os
from pathlib import Path

from dmat.testing.contract import FusedContract
from dmat.testing.contract.names import parted
from dmat.testing.init.facts import Facts
from dmat.testing.init.gates import Found
from dmat.testing.init.readings import FIXED
from dmat.testing.init.search import Fit

WIDTH = 110
BEHIND = ("A_log", "A", "dt_bias", "D", "z")


def head(target: str, file: Path, uses: str) -> str:
    """Return the beginning of the file: what it is, and its imports."""
    where, attribute = parted(target)
    top, *rest = attribute.split(".")
    if where.endswith(".py"):
        folder, module = (
            os.path.relpath(Path(where).resolve().parent, file.resolve().parent),
            Path(where).stem,
        )
        path = "" if folder == "." else f"sys.path.append(str(Path(__file__).parent / {folder!r}))\n"
        first = f"import sys\nfrom pathlib import Path\n\n{path}" if path else ""
    else:
        module, first = where, ""
    name = "kernel" if not rest else "_top"
    lines = f"{first}from {module} import {top} as {name}\n"
    lines += "" if not rest else f"\nkernel = _top.{'.'.join(rest)}\n"
    torch = "import torch\n" if "torch." in uses else ""
    call = "implementation" if uses.startswith("@") else "fused"
    imports = f"from dmat.testing import {call}\n" if uses else ""
    return (
        f'"""An adapter of {target}, with the contract that `dmat init` saw in its calls.\n\n'
        "Each comment says what was seen. A line that begins with # ? is a question that no call answered.\n"
        f'"""\n\n{torch}{lines}\n{imports}'
    )


def of_fit(fit: Fit, facts: Facts, name: str) -> str:
    """Return the declaration of a fused kernel."""
    order = [role for role in ("q", "k", "v", "i", "g", "b", *BEHIND) if role in fit.binding.roles]
    given = ", ".join(f"{fit.binding.roles[role]}={_axes(fit, role)}" for role in order)
    knobs = {name: value for name, value in facts.knobs.items() if name != facts.state}
    more = "".join(f", {key}={value!r}" for key, value in knobs.items())
    arguments = ", ".join(order) + (", **s" if facts.state else "")
    state = ""
    if facts.state:
        state = f', **({{"{facts.state}": None}} | s)' if facts.needs_state else ", **s"
    call = _returned(fit, facts, f"kernel({given}{more}{state})")
    lines = [f"{name} = fused(", f"    lambda {arguments}: {call},  # it returned {fit.seen}"]
    for key, (value, seen) in {**_fields(fit), **facts.fields}.items():
        lines.append(f"    {key}={value},  # {seen}")
    lines += [f"    # ? {question}" for question in facts.questions]
    return "\n".join([*lines, ")"])


def _axes(fit: Fit, role: str) -> str:
    column = fit.binding.column and (role in ("i", "b") or (role == "g" and not fit.by_channel))
    return f"{role}[..., None]" if column else role


def _returned(fit: Fit, facts: Facts, call: str) -> str:
    """Return the call so that it gives o, or o and a state."""
    index = fit.binding.index
    if facts.state is None:
        return call if index is None else f"{call}[{index}]"
    index = index or 0
    return (
        call
        if (index, facts.state_index) == (0, 1)
        else (f"(lambda x: (x[{index}], x[{facts.state_index}]))({call})")
    )


def _fields(fit: Fit) -> dict[str, tuple[str, str]]:
    """Return the fields that the reading itself has."""
    far = f"within {fit.distance:.1g} of this sum; the nearest of {fit.number - 1} other readings is"
    found = {"reads": (f'"{fit.contract.reads}"', f"{far} {fit.rival:.1g} off")}
    others = {
        "layout": "with the axes otherwise no reading agrees",
        "gates_by": "it takes gates of q's own shape",
        "scale": "the others tried were 1.0, K**-0.5 and 1/K; it holds at K = 4 and at K = 16",
        "fixed": "it takes no gate; it holds for 3 and for 5 heads",
    }
    stated = fit.contract.stated() | {"layout": fit.binding.layout}
    defaults = FusedContract()
    for name, value in stated.items():
        if name == "reads" or (getattr(defaults, name) == value and name not in ("layout",)):
            continue
        code = FIXED[value] if name == "fixed" else repr(value).replace("'", '"')  # type: ignore[index]
        found[name] = code, others.get(name, "as the reading that agreed")
    return found


def of_gates(found: Found, name: str) -> str:
    """Return the declaration of a function that computes D~, or sums of log gates."""
    if found.segment_sum:
        lines = [f"{name} = fused(", f"    lambda l: kernel({found.call}),"]
        lines += [f"    {key}={value},  # {seen}" for key, (value, seen) in found.fields.items()]
        return "\n".join([*lines, ")"])
    lines = ["@implementation("]
    lines += [f"    {key}={value},  # {seen}" for key, (value, seen) in found.fields.items()]
    return "\n".join([*lines, ")", f"def {name}(igate_preact, fgate_preact):", '    """Return D~."""',
                      f"    return kernel({found.call})"])  # fmt: skip


def of_chunks(size: int) -> str:
    """Return the lines of a kernel whose sums and gradients round a chunk at a time."""
    fields = {"error_scope": size, "factors": size, "grad_scope": '"suffix"'}
    seen = f"it is called with chunks of {size}; without these three lines a law is broken"
    return "\n".join(f"    {name}={value},  # {seen}" for name, value in fields.items())
