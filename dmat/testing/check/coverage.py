"""What a verdict covers: the inputs that were tried, the gradients that were judged, and what no law reads.

`covered` and `untried` return lines for people. They follow from the records of a run and from the contract.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from dmat.testing.contract.names import GATES, PARAMETERS
from dmat.testing.record import Report, Tried

INPUTS = ("gates", "q, k, v", "cotangent")
LISTED = 8  # stretches of numbers, or heads, that are listed
LISTED_SIZES = 20
POWERS = tuple(2**n for n in range(9))  # the sizes up to 256 that models use most

# The gradients that each law compares with their exact values, by the letter of their input. g is the forget
# gate, b beta, s the first state, A, a, p and D: A_log, A, dt_bias and D; z: z. Those of the second
# group are of one-hot q, k, v (of a delta rule, v), and of calls that are given a state, or are packed.
OF_DENSE = {
    "product_gradients": "qkvz",
    "beta_gradient": "b",
    "state_gradient": "s",
    "parameter_gradients": "AapD",
}
OF_ONE_HOT = {"forget_gradient": "g", "input_gradient": "i", "one_sided": "qkvgibAapDz"}
EVERY_OF_CALLS = "qkvgibAapDz"
OF_CALLS = {"handover": EVERY_OF_CALLS, "packed": EVERY_OF_CALLS, "packed_states": EVERY_OF_CALLS}
NAMES = {"i": "di", "b": "dbeta", "s": "dS0", "A": "dA_log", "a": "dA", "p": "ddt_bias", "D": "dD", "z": "dz"}
LETTERS = "qkvgibsAapDz"


def covered(report: Report) -> list[str]:
    """Return one line each: lengths, heads, sizes, layouts, gradients; then the lines of `untried`."""
    tried = report.tried
    if tried is None or not tried.lengths:
        return []
    sizes = [_sizes(report, tried)] if tried.K else []
    return [
        f"lengths    S = {numbers(tried.lengths)}",
        f"heads      (B, NH) = {_heads(tried)}",
        *sizes,
        f"layouts    {'; '.join(_layouts(tried))}",
        *_gradients(report),
        *(f"remark     {remark}" for remark in sorted(tried.remarks)),
        *untried(report),
    ]


def untried(report: Report) -> list[str]:
    """Return what was stated but never tried together, and what no law reads: at most one line each."""
    fused = _is_fused(report)
    together = list(_never_together(report.contract)) if fused else []
    unread = list(_unread_of_fused(report) if fused else _unread_of_dtilde(report))
    lines = [f"never tried together: {'; '.join(together)}"] if together else []
    return lines + ([f"no law reads: {'; '.join(unread)}"] if unread else [])


def _is_fused(report: Report) -> bool:
    return "reads" in report.contract


def _erases(contract: dict[str, Any]) -> bool:
    return contract.get("reads") == "delta"


def _has_known_state(report: Report) -> bool:
    """Return whether the layout of a delta rule's states was known: then a gradient of one was compared."""
    return any(r.law == "state_gradient" and r.worst is not None for r in report.laws)


def refusals(report: Report) -> list[str]:
    """Return one line each for the sizes K, and V, that were refused: what to state."""
    tried = report.tried
    if tried is None:
        return []
    lines, pairs = [], sorted((K, V) for K, V in tried.refused if K and V)
    for name, n, taken in (("K", 0, tried.K), ("V", 1, tried.V)):
        refused = {sizes[n] for sizes in tried.refused if sizes[n] and not sizes[1 - n]}
        left = [size for size in sorted(taken - refused) if name == "K" or size in POWERS or size in tried.K]
        if refused:
            few = ", ".join(map(str, sorted(refused)))
            told = few if len(refused) <= LISTED_SIZES else numbers(refused)
            lines.append(f"refuses {name}={told}: state {name}={tuple(left)}")
    if pairs:
        both = ", ".join(f"K={K} with V={V}" for K, V in pairs)
        lines.append(f"refuses {both}: state a K or a V without them")
    return lines


def _sizes(report: Report, tried: Tried) -> str:
    """Return the line of the sizes K and V that were tried, and of powers of two that were not."""
    contract, missing = report.contract, []
    K, V = contract.get("K"), contract.get("V", 1)
    of_K = [K, 4 * K] if isinstance(K, int) else K or POWERS
    of_V = [x for x in POWERS if x % V == 0] if isinstance(V, int) else V
    of_V = of_K if contract.get("V_equals_K") else of_V
    for n, (name, allowed, values) in enumerate((("K", of_K, tried.K), ("V", of_V, tried.V))):
        refused = {sizes[n] for sizes in tried.refused if 0 in sizes}
        left = [x for x in POWERS if x in {*allowed} - values - refused]
        missing += [f"{name} = {numbers(left)}"] if left else []
    told = f"K = {numbers(tried.K, LISTED_SIZES)}; V = {numbers(tried.V, LISTED_SIZES)}"
    return f"sizes      {told}" + (f"; not tried: {'; '.join(missing)}" if missing else "")


def numbers(values: Iterable[int], most: int = LISTED) -> str:
    """Return numbers as stretches: "1 .. 40, 64, 65"; if over `most`, the first ones and the largest."""
    ordered = sorted(set(values))
    starts = [ordered[0], *(b for a, b in pairwise(ordered) if b > a + 1)]
    ends = [*(a for a, b in pairwise(ordered) if b > a + 1), ordered[-1]]
    parts = [str(a) if a == b else f"{a} .. {b}" for a, b in zip(starts, ends, strict=True)]
    if len(parts) <= most:
        return ", ".join(parts)
    return f"{', '.join(parts[: most - 1])}, ..., {parts[-1]} ({len(ordered)} in all)"


def _heads(tried: Tried) -> str:
    heads = sorted(tried.heads)
    few = ", ".join(f"({B}, {NH})" for B, NH in heads[:LISTED])
    most = [max(axis) for axis in zip(*heads, strict=True)]
    return (
        few if len(heads) <= LISTED else f"{few}, ...: {len(heads)} in all, B to {most[0]}, NH to {most[1]}"
    )


def _layouts(tried: Tried) -> Iterator[str]:
    for name, layouts in sorted(tried.layouts.items(), key=lambda item: INPUTS.index(item[0])):
        others = sorted(layouts - {"contiguous"})
        yield f"{name}: {', '.join(['contiguous', *others] if 'contiguous' in layouts else others)}"


# Gradients


def _gradients(report: Report) -> Iterator[str]:
    """Yield the line of the gradients that laws which held compared with their exact values."""
    held = {r.law for r in report.laws if r.status == "passed" and r.examples}
    if not _has_known_state(report):
        held -= {"state_gradient"}
    if not _is_fused(report):
        laws = {"di": "input_gradient", "df": "forget_gradient"}
        judged = [name for name, law in laws.items() if law in held]
        yield f"gradients  {', '.join(judged)}" if judged else "gradients  none was judged"
        return
    contract = report.contract
    groups = [
        ("of dense q, k, v", _judged(held, OF_DENSE, contract)),
        ("of one-hot v" if _erases(contract) else "of one-hot q, k, v", _judged(held, OF_ONE_HOT, contract)),
    ]
    states, packed = contract.get("states"), contract.get("packed")
    for law, keyword in {"handover": states, "packed": packed}.items():
        if keyword:
            groups.append((f"of a call with {keyword}", _judged(held, {law: OF_CALLS[law]}, contract)))
    if states and packed:
        names = _judged(held, {"packed_states": OF_CALLS["packed_states"]}, contract)
        groups.append((f"of a call with {packed} and {states}", names))
    said = [f"{', '.join(names)} {words}" for words, names in groups if names]
    yield f"gradients  {'; '.join(said)}" if said else "gradients  none was judged"


def _judged(held: set[str], laws: dict[str, str], contract: dict[str, Any]) -> list[str]:
    """Return the names of the gradients that these laws judge, if they held."""
    letters = {letter for law, letters in laws.items() if law in held for letter in letters}
    absent = set() if contract.get("igate") else {"i"}
    absent |= {"g"} if contract.get("gate") == "fixed" else set()
    absent |= set() if _erases(contract) else set("bs")
    absent |= {"v"} if contract.get("positive") and laws is not OF_DENSE else set()
    absent |= _without_parameters(contract)
    absent |= set(LETTERS) if contract.get("gradient") == "none" else set()
    names = NAMES | {"g": f"d{GATES[str(contract.get('gate', 'log'))].letter}"}
    return [names.get(letter, f"d{letter}") for letter in LETTERS if letter in letters - absent]


def _without_parameters(contract: dict[str, Any]) -> set[str]:
    """Return the letters of the parameters of gates, of D and of z that the kernel does not take."""
    form = GATES[str(contract.get("gate", "log"))]
    taken = contract.get("gate_parameters", ("A_log", "dt_bias")) if form.parameters else ()
    taken = (*taken, *(name for name, field in (("D", "skip"), ("z", "z")) if contract.get(field)))
    return {letter for letter, name in zip("AapDz", (*PARAMETERS, "z"), strict=True) if name not in taken}


# What is not tried


def _never_together(contract: dict[str, Any]) -> Iterator[str]:
    """Yield pairs of stated promises of a fused kernel of which no case has both."""
    states, packed = contract.get("states"), contract.get("packed")
    if states and packed and not contract.get("packed_states", True):
        yield f"{states} with {packed}"
    if states:
        yield f"more than two handovers of {states}"
    if packed:
        both = states and contract.get("packed_states", True)
        dense = f"with dense q, k, v but with {states}, " if both else "with dense q, k, v, "
        yield f"{packed} {dense}with strided inputs, with more than one batch"


def _unread_of_fused(report: Report) -> Iterator[str]:
    contract = report.contract
    known = _has_known_state(report) or contract.get("state_layout") in ("BHKV", "BHVK")
    if contract.get("states") and not known:
        yield "the returned state, but through the output of the next call"
    if contract.get("gradient") != "none":
        if contract.get("states") and not contract.get("state_gradients", True):
            yield "gradients through states"
        elif contract.get("states") and not known:
            yield "the gradient of the state, but through the gradients of the call before"
        if contract.get("gradient") == "truncated":
            yield "gradients where the normaliser is above 1"
        yield "second derivatives and forward mode"
    yield "torch.compile, vmap, export and autocast"
    if any(r.device != "cpu" for r in report.laws):
        yield "streams, graphs and offsets past 2^31"


def _unread_of_dtilde(report: Report) -> Iterator[str]:
    contract = report.contract
    if contract.get("differentiable", True):
        yield "derivatives beyond the second"
        if "export" in contract.get("transforms", ()):
            yield "gradients of the exported kernel"
