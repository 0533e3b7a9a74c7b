"""What there is to see of a failure: the case, and every entry that was judged on it."""

from __future__ import annotations

from dataclasses import dataclass

from dmat.strategies.recipe import Case
from dmat.testing.verdict import Finding


@dataclass(frozen=True)
class Look:
    """One case that breaks a law, and the finding on it."""

    case: Case
    finding: Finding
