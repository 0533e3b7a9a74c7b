"""The pairs of calls of a fused kernel that should give the same bits, as far as its contract has them.

All have dense q, k, v and ordinary gates, of one length after another: the table says from which length on
the bits differ. No call begins with a state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from dmat.strategies import Constant, Gates, Normal, Within
from dmat.strategies.fused_domain import FusedDomain
from dmat.strategies.recipes.backgrounds import Background
from dmat.strategies.recipes.qkv import QKV, delta_ladder, is_qkv, plain_qkv
from dmat.strategies.recipes.recipe import Case, shown
from dmat.testing.contract.names import PARAMETERS
from dmat.testing.grade.agreement import Identity, Results, joined
from dmat.testing.interpret.choice import (
    CONFIGS,
    SEARCH_SECONDS,
    config_index,
    configured,
    in_time,
    is_interpreted,
)
from dmat.testing.kernel.call import pulled
from dmat.testing.kernel.fused import LAST, Inputs
from dmat.testing.law.fused import FusedSubject
from dmat.testing.processes import Send
from dmat.testing.verdict.finding import LawBroken

LENGTHS = (1, 2, 3, 5, 8, 13, 16, 17, 24, 32, 33, 48, 64, 65, 96, 129)
SLOW_LENGTHS = (1, 2, 5, 17, 33)
DECODED, SLOW_DECODED = 48, 5  # the longest sequence that is called token by token
SHAPE = (3, 2)  # batches and heads
MOST_CONFIGS = 8

Two = tuple[Results, Results]


@dataclass(frozen=True)
class Place:
    """A case, its inputs and cotangent, contiguous, and the kernel that is called on them."""

    subject: FusedSubject
    inputs: Inputs
    W: Tensor  # (B, NH, S, V)

    @property
    def S(self) -> int:
        """The length of the sequence."""
        return int(self.W.shape[2])

    @property
    def cuts(self) -> list[int]:
        """The times at which the contract allows to cut the sequence in two."""
        has = self.subject.domain.has_length
        return [n for n in range(1, self.S) if has(n) and has(self.S - n)]

    def rows(self, rows: slice | Tensor) -> Place:
        """Return some rows of the batch alone."""
        named = {n: x if n in PARAMETERS else x[rows].contiguous() for n, x in self.inputs.named.items()}
        return Place(self.subject, self.inputs.with_(**named), self.W[rows].contiguous())

    def head(self, h: int) -> Place:
        """Return a head of q and k alone, with the value heads that read it."""
        members = self.subject.head_form(1).members(h, self.inputs.q.shape[1])
        own = {n: [h] if n in "qk" else members for n in self.inputs.named}
        named = {n: x[own[n]] if n in PARAMETERS else x[:, own[n]] for n, x in self.inputs.named.items()}
        return Place(self.subject, self.inputs.with_(**named), self.W[:, members])

    def times(self, start: int, end: int) -> Place:
        """Return some times alone."""
        part = self.inputs.part(start, end)
        named = {n: x.contiguous() for n, x in part.named.items()}
        return Place(self.subject, part.with_(**named), self.W[:, :, start:end].contiguous())

    def pull(self, W: Tensor | None = None, **more: object) -> Results:
        """Call the kernel; return its output and the gradients of all inputs but parameters.

        W: the cotangent, if it is another. more: keyword arguments of the call.
        """
        subject, named = self.subject, self.inputs.named
        needs = subject.contract.has_gradients
        leaves = {n: x.detach().requires_grad_(needs and n not in PARAMETERS) for n, x in named.items()}
        o = subject.call_fused(self.inputs.with_(**leaves), **more)
        asked = {n: x for n, x in leaves.items() if x.requires_grad}
        found = pulled({"o": (o, self.W if W is None else W)}, asked, retain=False)
        gradients = {subject.gradient_name(n): x for n, x in found.items() if x is not None}
        return {"o": o.detach(), **gradients}

    def with_state(self, state: object = None) -> tuple[Tensor, object]:
        """Call the kernel with a state; return its output and the next state."""
        with torch.no_grad():
            return self.subject.call_with_state(self.inputs, state)


# The pairs: each returns two results that should be the same, or none where the case is too short


def packed(case: Place) -> Iterator[Two]:
    """Yield three sequences packed in one call, and each alone."""
    row, has = case.rows(slice(0, 1)), case.subject.domain.has_length
    ends = [0, *(n for n in sorted({case.S // 3, 2 * case.S // 3}) if n > 0), case.S]
    if len(ends) > 2 and all(has(end - start) for start, end in pairwise(ends)):
        name = str(case.subject.contract.packed)
        where = torch.tensor(ends, dtype=torch.int64, device=case.subject.device)
        alone = [row.times(start, end).pull() for start, end in pairwise(ends)]
        yield row.pull(**{name: where}), joined(alone)


def split(case: Place) -> Iterator[Two]:
    """Yield one call, and two with the state handed over."""
    for cut in case.cuts[len(case.cuts) // 2 :][:1]:
        yield _whole(case), _handed_over(case, [0, cut, case.S])


def decode(case: Place) -> Iterator[Two]:
    """Yield one call, and a call a token with the state handed over."""
    longest = SLOW_DECODED if is_interpreted() else DECODED
    if 1 < case.S <= longest and case.subject.domain.has_length(1):
        yield _whole(case), _handed_over(case, list(range(case.S + 1)))


def _whole(case: Place) -> Results:
    output, state = case.with_state()
    return {"o": output, **_of_state(state)}


def _handed_over(case: Place, ends: list[int]) -> Results:
    outputs: list[Results] = []
    state: object = None
    for start, end in pairwise(ends):
        output, state = case.times(start, end).with_state(state)
        outputs.append({"o": output})
    return {**joined(outputs), **_of_state(state)}


def _of_state(state: object) -> Results:
    """Return the tensors of a state by name."""
    tensors = [x for x in tree_leaves(state) if isinstance(x, Tensor) and x.is_floating_point()]
    return {LAST if len(tensors) == 1 else f"{LAST}.{n}": x for n, x in enumerate(tensors)}


def order(case: Place) -> Iterator[Two]:
    """Yield a batch in order, and reversed."""
    reverse = torch.arange(case.W.shape[0] - 1, -1, -1)
    yield _at(case.pull(), lambda x: x.flip(0)), case.rows(reverse).pull()


def batch(case: Place) -> Iterator[Two]:
    """Yield the last row of a batch, and that row alone."""
    yield _at(case.pull(), lambda x: x[-1:]), case.rows(slice(-1, None)).pull()


def head(case: Place) -> Iterator[Two]:
    """Yield the last batch and head among all, and alone."""
    NH = case.inputs.q.shape[1]
    members = case.subject.head_form(1).members(NH - 1, NH)
    whole = {name: x[-1:, [NH - 1] if name in ("dq", "dk") else members] for name, x in case.pull().items()}
    yield whole, case.rows(slice(-1, None)).head(NH - 1).pull()


def prefix(case: Place) -> Iterator[Two]:
    """Yield the first times of a sequence, and these alone; no cotangent reaches the later ones."""
    for cut in dict.fromkeys((*case.cuts[len(case.cuts) // 2 :][:1], *case.cuts[-1:])):
        W = case.W.clone()
        W[:, :, cut:] = 0
        whole = case.pull(W)
        yield {name: x[:, :, :cut] for name, x in whole.items()}, case.times(0, cut).pull()


def config(case: Place) -> Iterator[Two]:
    """Yield the autotune configuration of this run, and each other."""
    first, own = case.pull(), config_index() or 0
    for number in range(own + 1, own + min(max(CONFIGS), MOST_CONFIGS)):
        with configured(number):
            yield first, case.pull()


def _at(results: Results, part: Callable[[Tensor], Tensor]) -> Results:
    return {name: part(x) for name, x in results.items()}


EACH = (packed, split, decode, order, batch, head, prefix, config)


def pairs(subject: FusedSubject) -> list[Callable[[Place], Iterator[Two]]]:
    """Return the pairs that the contract has."""
    contract = subject.contract
    alike = contract.gate != "fixed" or contract.has_open_gates  # a fixed gate depends on the number of heads
    has = {
        packed: contract.packed is not None,
        split: contract.states is not None,
        decode: contract.states is not None,
        head: alike,
        config: is_interpreted(),
    }
    return [pair for pair in EACH if has.get(pair, True)]


# The cases


def cases(domain: FusedDomain) -> Iterator[Case]:
    """Yield cases with dense q, k, v and ordinary gates, shortest first."""
    lengths = SLOW_LENGTHS if domain.slow else (*LENGTHS, *domain.past_chunks(), domain.all_lengths[-1])
    allowed = sorted({S for S in lengths if S in domain.all_lengths} | set(domain.shortest(2)))
    for S in allowed:
        gates = _ordinary(domain, S)
        for qkv in _dense(domain, S) if domain.has_gates(gates) else ():
            if is_qkv(qkv, gates, domain):
                yield {"gates": gates, "qkv": qkv}
                break


def _ordinary(domain: FusedDomain, S: int) -> Gates:
    """Return gates that decay by some tenths a step."""
    contract = domain.contract
    igate: Background = Constant(0.0)
    fgate: Background = Constant(0.0)
    if contract.igate:
        igate = Within(Normal(1, 1.0, 0.0), *contract.i_range)
    if contract.gate != "fixed":
        mean = 1.0 if contract.from_preact else -0.5
        fgate = Within(Normal(2, 0.5, mean), domain.least, domain.most)
    return Gates(domain.dtype, (*SHAPE, S), igate, fgate)


def _dense(domain: FusedDomain, S: int) -> list[QKV]:
    if domain.scaling.erases:
        return delta_ladder(domain, S, "dense", several=True)
    K = domain.key_sizes(S)[-1]
    V = 0 if domain.contract.V_equals_K else domain.value_size(3, K)
    plain = plain_qkv(domain, S, "dense", seed=1, pull=1)
    return [QKV("dense", K, V, seed=1, pull=1), plain]


# The search


def identity_of(subject: FusedSubject, identity: Identity, send: Send) -> None:
    """Compare all pairs on all cases. `send` receives each case before it is tried."""
    left = in_time(SEARCH_SECONDS * 8)
    for case in cases(subject.domain):
        if not left():
            break
        send(shown(case))
        place = _built(subject, case)
        for pair in pairs(subject):
            name = pair.__name__
            try:
                for first, second in pair(place):
                    identity.note(name, first, second, case)
            except LawBroken as broken:
                identity.failed(name, "o", broken, case)


def _built(subject: FusedSubject, case: Case) -> Place:
    inputs = subject.inputs(case["gates"], case["qkv"])
    whole = {name: x.contiguous() for name, x in inputs.named.items()}
    inputs = inputs.with_(**whole).with_(s=None)
    return Place(subject, inputs, subject.cotangent(inputs, case["qkv"]).contiguous())
