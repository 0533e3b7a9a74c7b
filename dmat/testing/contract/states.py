"""The promises of a fused kernel about the states that its calls take and return: one row each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dmat.testing.contract import checks
from dmat.testing.contract.checks import flag, one_of, optional
from dmat.testing.contract.rows import NOT_STATED, row


@dataclass(frozen=True)
class States:
    """What a call does with a state. All of it is void without `states`."""

    packed_states: bool = row(
        True,
        flag,
        "with `packed` and `states`: one call takes both; a state has N rows in place of B, one for each "
        "sequence, empty ones too; None: all begin anew",
        relaxations=(True, False),
    )
    state_gradients: bool = row(
        True,
        flag,
        "gradients flow through states: to the one that a call is given, and from the one that it returns",
        relaxations=(True, False),
    )
    state_dtype: Any = row(
        None, optional(checks.dtype_name), "the dtype of a state's floating-point tensors; None: any"
    )
    updates: str | None = row(
        None,
        optional(one_of("state", label="{name} (or None)")),
        '"state" where a call may write the next state into the one that it is given: dmat hands over copies',
    )
    chunk_states: int | None = row(
        None,
        optional(checks.positive),
        "a call returns (o, state, states): a list of the states with which the times 0, c, 2 c, .. of its "
        "sequence begin, c = chunk_states; of packed sequences those of one after another, a row each",
        off=None,
        reason=NOT_STATED,
    )
