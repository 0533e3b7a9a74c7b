"""What the names of a function's parameters say. A name only proposes a role; calls decide."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# The roles of tensors, in the order in which a contract's fn takes them. "g": the forget gate. "b": beta.
ORDER = ("q", "k", "v", "i", "g", "b", "A_log", "A", "dt_bias", "D", "z")

# Each role and the names that it has elsewhere. A name may have several roles.
SYNONYMS = {
    "q": "q query queries C Cs query_states matQ",
    "k": "k key keys B Bs key_states matK",
    "v": "v value values x X u value_states hidden_states matV",
    "i": "i igate igate_preact input_gate vecI",
    "g": "g gk gate gates log_gate log_gates log_decay log_decays decay decays alpha a A f fgate "
    "fgate_preact forget_gate log_fgate dt delta w vecF",
    "b": "b beta betas",
    "A_log": "A_log",
    "A": "A",
    "dt_bias": "dt_bias delta_bias",
    "D": "D",
    "z": "z",
}

# The roles of other parameters.
KNOBS = {
    "scale": "scale sm_scale softmax_scale qk_scale",
    "chunk": "chunk_size block_len chunk_len chunk_length block_size BT",
    "state": "initial_state initial_states h0 state S0",
    "last": "output_final_state return_final_states return_last_states return_last_state return_final_state",
    "packed": "cu_seqlens",
    "softplus": "dt_softplus delta_softplus",
    "eps": "eps",
    "mask": "mask attention_mask padding_mask attn_mask",
}
FREE = ("q", "k", "v", "g", "i", "b")  # the roles that a required parameter of an unknown name may have
SUMS = {"q", "k", "v"}


@dataclass(frozen=True)
class Signature:
    """The parameters of a function, by what their names say.

    tensors: the roles that each tensor may have, in order of preference. optional: those that may be left
    out. knobs: the parameter of each other role that is known. required: the knobs without a default. left:
    parameters that nothing is known of, left at their default.
    """

    tensors: Mapping[str, tuple[str, ...]]
    optional: frozenset[str]
    knobs: Mapping[str, str]
    required: frozenset[str]
    left: tuple[str, ...]

    @classmethod
    def of(cls, fn: Callable[..., Any]) -> Signature | None:
        """Return the signature of fn; None if it has none."""
        try:
            parameters = list(inspect.signature(fn).parameters.values())
        except (TypeError, ValueError):
            return None
        tensors: dict[str, tuple[str, ...]] = {}
        optional, knobs, required, left = set(), {}, set(), []
        for one in parameters:
            if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD, one.POSITIONAL_ONLY):
                if one.kind == one.POSITIONAL_ONLY:
                    return None
                continue
            knob, roles = _role(KNOBS, one.name), _roles(one.name)
            if knob:
                knobs[knob[0]] = one.name
                required |= {knob[0]} if one.default is one.empty else set()
            elif one.default is one.empty:
                tensors[one.name] = roles or FREE
            elif roles and one.default is None:
                tensors[one.name] = roles
                optional.add(one.name)
            else:
                left.append(one.name)
        return cls(tensors, frozenset(optional), knobs, frozenset(required), tuple(left))

    def assignments(self, complete: set[str] = SUMS) -> Iterator[dict[str, str]]:
        """Yield the ways to give each parameter a role, {role: parameter}: with all optional ones first."""
        names = list(self.tensors)
        loose = [name for name in names if name in self.optional]
        for number in range(len(loose) + 1):
            for out in itertools.combinations(loose, number):
                kept = [name for name in names if name not in out]
                for roles in itertools.product(*(self.tensors[name] for name in kept)):
                    if len(set(roles)) == len(roles) and complete <= set(roles):
                        yield dict(zip(roles, kept, strict=True))


def _roles(name: str) -> tuple[str, ...]:
    return _role(SYNONYMS, name)


def _role(table: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Return the roles of a name; of its lower-case form if none has the name itself."""
    for known in (name, name.lower()):
        found = tuple(role for role, names in table.items() if known in names.split())
        if found:
            return found
    return ()
