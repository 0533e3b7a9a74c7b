"""What the compiled code contradicts in a contract, and what is only worth a line.

A finding needs a promise that the contract states. Left at its default, TF32 is a line. A float atomic is a
finding only if another order of programs changes bits in the interpreter. A launch that does not compile is
one only for an architecture that was named, and only if no configuration of it compiles.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from dmat.testing.inspect.result import Compiled, ProductFound
from dmat.testing.inspect.task import TOO_SLOW, Stated
from dmat.testing.inspect.ttir import DIGITS, STATED_DIGITS
from dmat.testing.record import Contradiction

HALVES = ("float16", "bfloat16")
Key = tuple[str, str, str, str]  # promise, kernel, line, and what is wrong


def contradictions(
    found: Sequence[Compiled], stated: Stated, named: Collection[str], other_bits: Sequence[str] = ()
) -> list[Contradiction]:
    """Return the findings, each with all its architectures and dtypes.

    named: the architectures that the user asked for. other_bits: the dtypes in which another order of
    programs changes bits.
    """
    places: dict[Key, tuple[dict[str, None], dict[str, None]]] = {}
    for key, arch, dtype in _findings(found, stated, named, other_bits):
        archs, dtypes = places.setdefault(key, ({}, {}))
        archs[arch], dtypes[dtype] = None, None
    return [
        Contradiction(
            promise=promise,  # type: ignore[arg-type]  # one of its names
            kernel=kernel,
            line=line,
            archs=list(archs),
            dtypes=list(dtypes),
            message=_message(promise, kernel, line, wrong, list(archs)),
        )
        for (promise, kernel, line, wrong), (archs, dtypes) in places.items()
    ]


def _message(promise: str, kernel: str, line: str, wrong: str, archs: Sequence[str]) -> str:
    where = f"{line}, " if line else ""
    return f"{where}kernel {kernel}, {', '.join(archs)}: {wrong}"


def _findings(
    found: Sequence[Compiled], stated: Stated, named: Collection[str], other_bits: Sequence[str]
) -> Iterator[tuple[Key, str, str]]:
    for one in found:
        for dtype in one.dtypes:
            for product in one.products:
                for promise, wrong in _of_product(product, dtype, stated):
                    yield (promise, one.kernel, product.line, wrong), one.arch, dtype
            for line in one.atomics if dtype in other_bits and stated.deterministic else ():
                wrong = "sums floats by atomics; another order of programs gives other bits"
                yield ("deterministic", one.kernel, line, wrong), one.arch, dtype
    for group in _groups(found):
        first = group[0]
        if first.arch in named and all(one.failure and TOO_SLOW not in one.failure for one in group):
            tried = f"none of its {len(group)} configurations compiles: " if len(group) > 1 else ""
            for dtype in first.dtypes:
                yield ("compiles", first.kernel, "", f"{tried}{first.failure}"), first.arch, dtype


def _of_product(product: ProductFound, dtype: str, stated: Stated) -> Iterator[tuple[str, str]]:
    """Yield the promises that a product does not keep, and how."""
    promised = stated.multiplies.get(dtype, "")
    used = product.multiplied
    narrower = bool(promised) and used in DIGITS and DIGITS[used] < STATED_DIGITS[promised]
    if narrower and product.rounded:
        yield "multiplies_in", f"multiplies in {used}; the contract states multiplies_in {promised}"
    summed = stated.accumulates.get(dtype)
    if summed and product.accumulated in HALVES and DIGITS[product.accumulated] < DIGITS[summed]:
        yield "accumulates_in", f"sums products in {product.accumulated}; the contract states {summed}"


def _groups(found: Iterable[Compiled]) -> list[list[Compiled]]:
    groups: dict[tuple[str, int], list[Compiled]] = {}
    for one in found:
        groups.setdefault((one.arch, one.group), []).append(one)
    return list(groups.values())


def has_order(found: Sequence[Compiled]) -> bool:
    """Whether the order of programs may show: some kernel sums floats by atomics."""
    return any(one.atomics for one in found)


def notes(found: Sequence[Compiled], stated: Stated, named: Collection[str]) -> list[str]:
    """Return what is no finding, a line each: TF32 that is not excluded, launches that do not compile."""
    lines = []
    archs: dict[str, dict[str, None]] = {}
    for one in found:
        for product in one.products:
            free = any(dtype not in stated.multiplies for dtype in one.dtypes)
            if product.multiplied == "tf32" and product.rounded and free:
                archs.setdefault(one.arch, {})[product.line] = None
    if archs:
        where = ", ".join(dict.fromkeys(line for own in archs.values() for line in own))
        lines.append(
            f"TF32 on {', '.join(archs)} ({where}); judged as such: multiplies_in is not stated, "
            "and the interpreter rounds these operands to TF32 too"
        )
    for group in _groups(found):
        failed = [one for one in group if one.failure]
        if failed and (len(failed) < len(group) or group[0].arch not in named):
            many = f"{len(failed)} of {len(group)} tried configurations" if group[0].configs > 1 else "it"
            lines.append(f"{group[0].kernel}, {group[0].arch}: {many} did not compile: {failed[0].failure}")
    atomics = dict.fromkeys(line for one in found for line in one.atomics)
    if atomics:
        lines.append(f"float atomics at {', '.join(atomics)}: their sums depend on the order of programs")
    return list(dict.fromkeys(lines))
