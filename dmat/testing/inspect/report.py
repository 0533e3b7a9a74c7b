"""The page of an inspection: the verdict, a row for each kernel and architecture, findings, and lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table

from dmat.testing.inspect.machines import KIB, MACHINES
from dmat.testing.inspect.result import Compiled, Inspected
from dmat.testing.output import plain

COLUMNS = {
    "  arch": 9,
    "compiled": 10,
    "products": 22,
    "exp": 4,
    "atomics": 7,
    "regs": 5,
    "spilled": 7,
    "shared": 8,
}
LEGEND = (
    "compiled: of launches and their configurations. products: the format of operands, and how many lines;"
    " +f16: summed in float16. exp, atomics: instructions of approximate exponentials, of float atomics.",
    "spilled: NVIDIA, accesses of local memory; AMD, registers. shared: KiB of a program, of the device's.",
)


def exit_code(found: Inspected) -> int:
    """Return 0 if nothing contradicts the contract, 1 if something does, 2 if no kernel was launched."""
    if found.contradictions:
        return 1
    return 0 if found.launches else 2


def show(found: Inspected, console: Console) -> None:
    """Print the page."""
    plain(console, _verdict(found))
    for finding in found.contradictions:
        plain(console, f"  {finding.promise}: {finding.message} ({', '.join(finding.dtypes)})")
    if found.launches:
        plain(console, "")
        rows(found.launches, console)
        for line in LEGEND:
            console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
    for line in (*found.notes, *_order(found), *(f"not called: {line}" for line in found.uncalled)):
        plain(console, line)


def _verdict(found: Inspected) -> str:
    name, archs = found.implementation, ", ".join(found.archs)
    if not found.launches:
        why = f": {found.uncalled[0]}" if found.uncalled else ""
        return f"NO TRITON KERNELS: the calls of {name} launch none{why}"
    if found.contradictions:
        return f"CONTRADICTS ITS CONTRACT: {name}, {len(found.contradictions)} findings on {archs}"
    return f"INSPECTED: {name} on {archs}: nothing contradicts its contract ({found.seconds:.0f} s)"


def _order(found: Inspected) -> Iterable[str]:
    if found.order == "same bits":
        yield "with its programs in the opposite order the interpreter gives the same bits"
    elif any(one.atomics for one in found.launches) and found.order == "not tried":
        yield "another order of programs was not tried"


def rows(launches: Sequence[Compiled], console: Console) -> None:
    """Print a row for each kernel and architecture, the kernel's name in a line of its own."""
    found: dict[str, dict[str, list[Compiled]]] = {}
    for one in launches:
        found.setdefault(one.kernel, {}).setdefault(one.arch, []).append(one)
    console.print(_table([], header=True))
    for kernel, archs in sorted(found.items()):
        plain(console, kernel)
        console.print(_table([(arch, *cells(own, arch)) for arch, own in archs.items()], header=False))


def _table(lines: Sequence[Sequence[str]], *, header: bool) -> Table:
    made = Table(box=None, show_header=header, pad_edge=False, padding=(0, 1, 0, 0))
    for name, width in COLUMNS.items():
        right = name not in ("  arch", "compiled", "products")
        made.add_column(name, width=width, no_wrap=name != "products", justify="right" if right else "left")
    for first, *line in lines:
        made.add_row(f"  {first}", *line)
    return made


def cells(own: Sequence[Compiled], arch: str) -> Iterator[str]:
    """Yield what was found of the launches of a kernel on one architecture."""
    good = [one for one in own if not one.failure]
    yield f"{len(good)} of {len(own)}"
    yield products(own)
    codes = [one.code for one in own if one.code is not None]
    if not codes:
        yield from ("-",) * 5
        return
    yield str(max(code.exponentials for code in codes))
    yield str(max(code.atomics for code in codes))
    yield str(max(code.registers for code in codes))
    yield str(max(code.spilled for code in codes))
    yield f"{max(code.shared for code in codes) / KIB:.0f}/{MACHINES[arch].shared // KIB}"


def products(own: Iterable[Compiled]) -> str:
    """Return the formats of products, and how many lines have each: "tf32 x3, float32"."""
    lines = {
        (product.line, product.multiplied + (" +f16" if product.accumulated == "float16" else ""))
        for one in own
        for product in one.products
    }
    counts = Counter(kind for _, kind in lines)
    return ", ".join(f"{kind} x{count}" for kind, count in sorted(counts.items())) or "-"
