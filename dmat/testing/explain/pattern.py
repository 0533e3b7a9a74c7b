"""Describe the failing entries in one line: a column, the windows across a chunk's edge, one head.

A predicate on the index is named only if it fits exactly: in every failing head, the wrong entries are the
judged entries that satisfy the predicate, and no others. The line describes one case. It proves nothing about
the kernel's code, and several causes may look alike on a small case. Predicates are tried from simple to
complex, and the first that fits is named. If none fits, the line counts the wrong entries and gives the range
of their rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dmat.testing.oracle.arithmetic import Mask
from dmat.testing.verdict.finding import Finding, axes_of

CHUNKS = (2, 4, 8, 16, 32, 64, 128)
LISTED = 5  # at most this many rows, columns or gates are listed

Places = npt.NDArray[np.int_]
Test = Callable[[Places], Mask]
Guess = tuple[str, Mask]  # a predicate in words, and its entries in one head


@dataclass(frozen=True)
class Entries:
    """The judged and the wrong entries of a finding, (heads, S, S) with axes t, s, or (heads, S).

    heads: the shape of the leading axes, mostly (B, NH). axes: the names of the axes in one head. worst: the
    flat number of the finding's head.
    """

    wrong: Mask
    judged: Mask
    heads: tuple[int, ...]
    axes: tuple[str, ...]
    worst: int

    @classmethod
    def of(cls, finding: Finding) -> Entries | None:
        """Return the entries of a finding, or None if it has no evidence or no wrong entry."""
        evidence = finding.evidence
        if evidence is None or not evidence.wrong.any():
            return None
        axes = inner_axes(finding)
        heads, inside = split_shape(evidence.wrong.shape, axes)
        wrong = evidence.wrong.reshape(-1, *inside)
        judged = np.asarray(evidence.judged | evidence.wrong).reshape(wrong.shape)
        return cls(wrong, judged, heads, axes, worst_head(finding))

    @property
    def failing(self) -> Mask:
        """The heads that have a wrong entry, (heads,)."""
        return np.asarray(self.wrong.reshape(len(self.wrong), -1).any(-1))

    def alone(self, head: int) -> Entries:
        """Return these entries with those of all other heads counted as right, and `heads` empty."""
        other = np.arange(len(self.wrong)) != head
        shaped = other.reshape(-1, *(1,) * len(self.axes))
        return replace(self, wrong=self.wrong & ~shaped, heads=())

    def in_heads(self, words: str, concerned: Mask) -> str:
        """Append the failing heads to the words, unless every head with a `concerned` entry fails."""
        if not self.heads:
            return words
        some = np.asarray(concerned.reshape(len(concerned), -1).any(-1))
        heads = which_heads(self.failing.reshape(self.heads), some.reshape(self.heads))
        return f"{words}, {heads}" if heads else words


def inner_axes(finding: Finding) -> tuple[str, ...]:
    """Return the names of the axes in one head of a finding's tensors: ("t", "s"), ("s",), ("k",), ..."""
    evidence = finding.evidence
    shape = () if evidence is None else evidence.wrong.shape
    by_channel = len(shape) == 4 and shape[-1] > 1  # else the last axis of a gate, 1
    names = axes_of(finding.quantity, len(shape) if by_channel else 3)[2:]
    if names:
        return names[max(0, len(names) - len(shape)) :]
    if len(shape) in (2, 4) and shape[-1] == shape[-2]:
        return ("t", "s")
    if len(shape) < 2:
        return ("n",) * len(shape)  # entries picked from anywhere
    return ("t",) if "D~" in finding.quantity else ("k",)


def split_shape(shape: tuple[int, ...], axes: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split a shape into its leading axes and the axes of one head. Drop a gate's last axis, 1."""
    if len(shape) == 4 and len(axes) == 1:
        shape = shape[:3]
    cut = len(shape) - len(axes)
    return shape[:cut], shape[cut:]


def worst_head(finding: Finding) -> int:
    """Return the flat number of the head that holds a finding's index."""
    if finding.evidence is None:
        return 0
    heads, _ = split_shape(finding.evidence.wrong.shape, inner_axes(finding))
    where = finding.index[: len(heads)]
    if len(where) < len(heads) or 0 in heads:
        return 0
    return int(np.ravel_multi_index(where, heads, mode="clip")) if heads else 0


# Predicates on one head, (S, S): the position, then the part of the matrix


def _listed(name: str, places: Places) -> str:
    text = [str(place) for place in places]
    few = ", ".join(text[:LISTED]) + (", ..." if len(text) > LISTED else "")
    return f"{name} = {few}"


def _tail(first: int, S: int) -> str:
    """Return a remark if `first` is the first time past the last whole chunk of a size in CHUNKS; else ""."""
    sizes = [str(C) for C in CHUNKS[1:] if C < S and S % C and S // C * C == first]
    return f" (past the last whole chunk of {', '.join(sizes)})" if sizes else ""


def _thresholds(hits: Places, S: int, name: str) -> Iterator[tuple[str, Test]]:
    """Yield predicates on one axis with one constant each: x = c, x >= c, x < c."""
    low, high = int(hits[0]), int(hits[-1])
    if low == high:
        yield f"{name} = {low}{_tail(low, S)}", lambda x: np.asarray(x == low)
    if low > 0:
        yield f"{name} >= {low}{_tail(low, S)}", lambda x: np.asarray(x >= low)
    if high < S - 1:
        yield f"{name} < {high + 1}", lambda x: np.asarray(x <= high)


def _many(noun: str, words: str) -> str:
    return f"{noun} {words}" if " = " in words else f"{noun}s {words}"


def _remainder(C: int, rest: int) -> Test:
    return lambda x: np.asarray(x % C == rest)


def _repeated(hits: Places, S: int, name: str, of: str) -> Iterator[tuple[str, Test]]:
    """Yield periodic predicates on one axis, and predicates that list its indices."""
    if len(hits) < 2:
        return
    for C in (C for C in CHUNKS if C < S):
        yield f"the first {of} of each chunk of {C}", _remainder(C, 0)
        yield f"the last {of} of each chunk of {C}", _remainder(C, C - 1)
    step, first = int(hits[1] - hits[0]), int(hits[0])
    if len(hits) > 2 and step > 1 and (np.diff(hits) == step).all():
        yield (
            f"each {of} with {name} = {first} + a multiple of {step}",
            lambda x: np.asarray((x >= first) & ((x - first) % step == 0)),
        )
    others = np.setdiff1d(np.arange(S), hits)
    if len(others) <= 3:
        yield f"each {of} but {_listed(name, others)}", lambda x: ~np.isin(x, others)
    if len(hits) <= LISTED:
        many = "entries" if of == "entry" else f"{of}s"
        yield f"{many} {_listed(name, hits)}", lambda x: np.isin(x, hits)


def _lags(union: Mask, t: Places, s: Places) -> Iterator[Guess]:
    lags = (t - s)[union]
    low, high = int(lags.min()), int(lags.max())
    if low == high:
        yield f"with t - s = {low}", np.asarray(t - s == low)
    yield f"with t - s >= {low}", np.asarray(t - s >= low)
    yield f"with t - s < {high + 1}", np.asarray(t - s <= high)


def _spans(rows: Places, t: Places, s: Places) -> Iterator[Guess]:
    """Yield the windows s+1 .. t that contain gate c, where row c is the first with a wrong entry."""
    c, S = int(rows[0]), len(t)
    chunks = f"; t and s in different chunks of {c}" if c in CHUNKS and S <= 2 * c else ""
    yield f"whose window holds the gate k = {c} (s < {c} <= t{chunks})", np.asarray((s < c) & (c <= t))


def _gates(union: Mask, t: Places, s: Places) -> Iterator[Guess]:
    """Yield the windows that contain a wrong gate: one whose one-gate window, D~[k, k-1], is wrong."""
    gates = np.flatnonzero(np.diagonal(union, -1)) + 1
    held = np.cumsum(np.isin(np.arange(len(t)), gates))
    if len(gates) > 1:
        some = f"one of the {len(gates)} gates {_listed('k', gates)}"
        yield f"whose window holds {some}", np.asarray(held[t] > held[s])


def _chunks(t: Places, s: Places) -> Iterator[Guess]:
    for C in (C for C in CHUNKS if C < len(t)):
        apart = np.abs(t // C - s // C)
        yield f"with t and s in different chunks of {C}", apart > 0
        yield f"with t and s in the same chunk of {C}", apart == 0
        yield f"with t and s two or more chunks of {C} apart", apart > 1
        yield f"with t and s in neighbouring chunks of {C}", apart == 1
        edges = np.abs(t // C - (s + 1) // C)
        yield (
            f"whose window crosses an edge of chunks of {C} (gates s+1 and t in different chunks)",
            edges > 0,
        )
        yield f"whose window crosses two or more edges of chunks of {C}", edges > 1


def _places(union: Mask) -> Iterator[Guess]:
    """Yield predicates on the position (t, s). union: the entries that are wrong in any head."""
    S = len(union)
    t, s = np.arange(S).reshape(-1, 1), np.arange(S).reshape(1, -1)
    rows, columns = np.flatnonzero(union.any(1)), np.flatnonzero(union.any(0))
    of_rows, of_columns = list(_thresholds(rows, S, "t")), list(_thresholds(columns, S, "s"))
    yield from ((f"in {_many('column', words)}", test(s) | (t < 0)) for words, test in of_columns)
    yield from ((f"in {_many('row', words)}", test(t) | (s < 0)) for words, test in of_rows)
    yield from _lags(union, t, s)
    yield from _spans(rows, t, s)
    yield from _chunks(t, s)
    for row_words, row in of_rows:
        for words, column in of_columns:
            both = f"in {_many('row', row_words)} and {_many('column', words)}"
            yield both, row(t) & column(s)
    yield from ((f"in {words}", test(t) | (s < 0)) for words, test in _repeated(rows, S, "t", "row"))
    yield from ((f"in {words}", test(s) | (t < 0)) for words, test in _repeated(columns, S, "s", "column"))
    yield from _gates(union, t, s)
    box = f"in rows {rows[0]} to {rows[-1]} and columns {columns[0]} to {columns[-1]}"
    between = (t >= rows[0]) & (t <= rows[-1]) & (s >= columns[0]) & (s <= columns[-1])
    yield box, between


def _matrix_guesses(union: Mask, judged: Mask) -> Iterator[Guess]:
    """Yield predicates on D~ or another (S, S) tensor, from simple to complex."""
    everything = np.ones_like(union)
    if judged.all():
        yield "every entry", everything
    causal = np.tri(len(union), dtype=bool)
    below = np.tri(len(union), k=-1, dtype=bool)
    yield "all of the diagonal (t = s)", causal & ~below
    yield "all of the future (s > t)", ~causal
    yield "all of the causal part (t >= s)", causal
    yield "all of the part below the diagonal (t > s)", below
    yield "every entry that was judged", everything
    parts: list[Guess] = [("causal entries", causal), ("entries below the diagonal", below)]
    if (union & ~causal).any():
        parts = [("entries", everything), ("entries of the future", ~causal)]
    for words, where in _places(union):
        for part, held in parts:
            yield f"all {part} {words}", where & held


def _vector_guesses(union: Mask, judged: Mask, axis: str) -> Iterator[Guess]:
    """Yield predicates on di, df or another (S,) tensor, from simple to complex."""
    everything, x, hits = np.ones_like(union), np.arange(len(union)), np.flatnonzero(union)
    yield "every entry" if judged.all() else "every entry that was judged", everything
    of_axis = list(_thresholds(hits, len(union), axis))
    yield from ((f"all entries {words}", test(x)) for words, test in of_axis)
    between = np.asarray((x >= hits[0]) & (x <= hits[-1]))
    yield f"all entries {axis} = {hits[0]} to {hits[-1]}", between
    for words, test in _repeated(hits, len(union), axis, "entry"):
        yield f"all {words}" if words.startswith("entries") else words, test(x)


# Heads


def head_name(name: tuple[int, ...]) -> str:
    """Return the name of a head by its indices: "b=0, h=1"."""
    names = ("b", "h") if len(name) == 2 else tuple(f"axis {n}" for n in range(len(name)))
    return ", ".join(f"{axis}={n}" for axis, n in zip(names, name, strict=True))


def _by_axis(bad: Mask, concerned: Mask) -> str | None:
    """Name the failing batch, or the failing head of every batch: one, or all but one. Else return None."""
    if bad.ndim != 2 or concerned.any(1).sum() < 2:
        return None
    for axis, name, noun, more in ((0, "b", "batch", ""), (1, "h", "head", ", whatever the batch")):
        across = np.asarray(bad.any(1 - axis))
        if (bad != (np.expand_dims(across, 1 - axis) & concerned)).any():
            continue
        if across.sum() == 1:
            return f"in {noun} {name}={int(np.argmax(across))}{more}"
        if (~across).sum() == 1:
            spared = int(np.argmin(across))
            return f"in every {noun} but {f'{name}={spared}' if spared else 'the first'}{more}"
    return None


def which_heads(failing: Mask, concerned: Mask) -> str:
    """Name the failing heads among the concerned ones; "" if all fail. Masks: (B, NH), or another rank."""
    bad = failing & concerned
    if (bad == concerned).all():
        return ""
    words = _by_axis(bad, concerned)
    if words:
        return words
    heads, spared = np.argwhere(bad), np.argwhere(concerned & ~bad)
    if len(heads) > 1 and len(spared) == 1:
        return f"in every head but {head_name(tuple(spared[0]))}"
    if len(heads) == 1:
        return f"in head {head_name(tuple(heads[0]))}"
    few = "; ".join(head_name(tuple(head)) for head in heads[:LISTED])
    return f"in {len(heads)} of {int(concerned.sum())} heads ({few}{'; ...' if len(heads) > LISTED else ''})"


# The line


def _fits(where: Mask, entries: Entries, union: Mask) -> bool:
    """Return whether, in every failing head, the wrong entries are exactly the judged entries of `where`."""
    if (union & ~where).any():
        return False
    failing = entries.failing
    return bool((entries.wrong[failing] == (entries.judged[failing] & where)).all())


def _guesses(entries: Entries, union: Mask) -> Iterator[Guess]:
    judged = entries.judged[entries.failing]
    if entries.axes == ("n",):
        yield "every entry" if judged.all() else "every entry that was judged", np.ones_like(union)
    elif len(entries.axes) == 1:
        yield from _vector_guesses(union, judged, entries.axes[0])
    elif union.ndim == 2 and union.shape[0] == union.shape[1]:
        yield from _matrix_guesses(union, judged)


def _fit(entries: Entries) -> Guess | None:
    """Return the first predicate that fits, or None."""
    union = np.asarray(entries.wrong.any(0))
    return next((guess for guess in _guesses(entries, union) if _fits(guess[1], entries, union)), None)


def _everywhere(entries: Entries) -> str | None:
    """Describe the wrong entries by a predicate that fits every failing head, or return None."""
    guess = _fit(entries)
    return entries.in_heads(guess[0], entries.judged & guess[1]) if guess else None


def _single(entries: Entries) -> str | None:
    """Describe one wrong entry among many by its index: too many predicates fit a single entry."""
    if entries.wrong.sum() != 1 or entries.judged.sum() == 1:
        return None
    head, *where = np.argwhere(entries.wrong)[0]
    place = [f"{axis}={n}" for axis, n in zip(entries.axes, where, strict=True)]
    name = np.unravel_index(head, entries.heads) if entries.heads else ()
    lead = [head_name(tuple(int(n) for n in name))] if entries.heads else []
    return f"1 of {int(entries.judged.sum())} entries: {', '.join([*lead, *place])}"


def _in_some_heads(entries: Entries) -> str | None:
    """Describe the finding's head and the heads that fail alike, if other heads fail at other entries."""
    failing, judged = entries.failing, entries.judged
    guess = _fit(entries.alone(entries.worst)) if failing.sum() > 1 and failing[entries.worst] else None
    if guess is None:
        return None
    unlike = entries.wrong != judged & guess[1]
    alike = failing & ~unlike.reshape(len(unlike), -1).any(-1)
    heads = which_heads(alike.reshape(entries.heads), failing.reshape(entries.heads))
    others = int((failing & ~alike).sum())
    return f"{guess[0]}, {heads}; {others} more head{'s fail' if others > 1 else ' fails'} in other places"


def _extent(hits: Places, name: str) -> str:
    low, high = int(hits[0]), int(hits[-1])
    return f"{name} {low}" if low == high else f"{name}s {low} to {high}"


def _summary(entries: Entries) -> str:
    """Count the wrong entries and give the range of their indices."""
    union, judged, part = np.asarray(entries.wrong.any(0)), entries.judged, "entries"
    if len(entries.axes) == 2 and union.shape[0] == union.shape[1]:
        for words, k in (("entries below the diagonal", -1), ("causal entries", 0)):
            region = np.tri(len(union), k=k, dtype=bool)
            if part == "entries" and not (union & ~region).any():
                judged, part = judged & region, words
    names = {1: (f"{entries.axes[-1]} =",), 2: ("row", "column")}[len(entries.axes)]
    if len(entries.axes) == 1:
        hits = np.flatnonzero(union)
        extents = [f"{names[0]} {hits[0]}" + (f" to {hits[-1]}" if len(hits) > 1 else "")]
    else:
        extents = [_extent(np.flatnonzero(union.any(1 - n)), name) for n, name in enumerate(names)]
    line = ", ".join([f"{int(entries.wrong.sum())} of {int(judged.sum())} {part}", *extents])
    return entries.in_heads(line, judged)


def failing_entries(finding: Finding) -> str | None:
    """Return one line that describes the failing entries of a finding; None if it has no wrong entry.

    The line is fitted to this one case. It proves nothing about the kernel's code: see the module.
    """
    entries = Entries.of(finding)
    return None if entries is None else described(entries)


def described(entries: Entries, *, fitted: bool = True) -> str:
    """Return one line that describes wrong entries. fitted: False to count them without a pattern."""
    if not fitted:
        return _single(entries) or _summary(entries)
    return _single(entries) or _everywhere(entries) or _in_some_heads(entries) or _summary(entries)
