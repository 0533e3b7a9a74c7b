"""The contract of a fused kernel: how its output depends on D~, its arguments, and how far it rounds."""

from __future__ import annotations

from dataclasses import dataclass

from dmat.testing.contract import checks
from dmat.testing.contract.fields import ANY_K, Fused
from dmat.testing.contract.names import FUSED, READS
from dmat.testing.contract.rows import BaseContract, described


def implied_grad_scope(error_scope: object) -> str:
    """Return the grad_scope of a contract that states none."""
    return "rectangle" if error_scope == "window" else "suffix"


@described
@dataclass(frozen=True)
class FusedContract(Fused, BaseContract):
    """The promises of an operator o = fn(q, k, v, [i,] [l or f]) in which D~ stands.

    ValueError names the field, its value and what was expected. With E = exp(D~), w = 1 (or dt),
    a[t, s] = w[s] E[t, s] scale (q_t . k_s), the fields:
    """

    kind = FUSED
    of_gradients = "gradient"

    def _require_consistent(self) -> None:
        super()._require_consistent()
        self._require_gates()
        if self.distinct_keys and self.K == ANY_K:
            self._set("K", (*ANY_K, 64))  # each source has its own key, so longer sequences need larger K
        if self.max_seq is not None and self.max_seq < self.min_seq:
            raise ValueError(f"max_seq is {self.max_seq}; expected at least min_seq = {self.min_seq}")

    def _require_gates(self) -> None:
        wanted = "fixed, a function NH -> l of shape (NH,)"
        if (self.gate == "fixed") != (self.fixed is not None):
            found = f"gate is {self.gate!r} and fixed is {self.fixed!r}"
            raise ValueError(f'{found}; expected {wanted}, with gate="fixed" alone')
        if self.fixed is not None and not callable(self.fixed):
            raise ValueError(f"fixed is {self.fixed!r}; expected {wanted.removeprefix('fixed, ')}")
        form = READS[self.reads]
        if self.weight is not None and (self.gate != "log" or not form.weighted):
            weighted = " or ".join(f'reads="{name}"' for name, form in READS.items() if form.weighted)
            raise ValueError(
                f'weight is "dt" with gate={self.gate!r}, reads={self.reads!r}; expected gate="log", '
                f"{weighted}: the weight is -l"
            )
        if self.igate and form.without_igate:
            raise ValueError(f'igate is True with reads="{self.reads}"; expected False: {form.without_igate}')

    def scale_of(self, K: int) -> float:
        """Return the factor of q.k for this K."""
        return checks.scale_at(self.scale, K)

    def multiplies(self, dtype: str) -> str:
        """Return the name of the format to which the operands of products are rounded; it may be "tf32"."""
        return checks.multiplied(self.multiplies_in).get(dtype, self.accumulator(dtype))

    def gates_in(self, dtype: str) -> str:
        """Return the dtype of the gates if q, k, v have this dtype."""
        return self.gate_dtype or dtype

    def returns(self, dtype: str) -> str:
        """Return the dtype of the output if q, k, v have this dtype."""
        return self.output_dtype or dtype

    def stated(self) -> dict[str, object]:
        """Return `reads`, and the fields that differ from the strictest default, for reports."""
        return {"reads": self.reads, **super().stated()}

    @property
    def widest_gradient(self) -> str:
        """The scope of gradients, stated or implied."""
        return self.grad_scope or implied_grad_scope(self.error_scope)

    @property
    def distinct_keys(self) -> bool:
        """Whether each source must have its own key, orthogonal to all others. Then K >= S."""
        return self.keys == "orthonormal"

    @property
    def chunk(self) -> int | None:
        """The chunk size that the contract states, or None."""
        sizes = [x for x in (self.error_scope, self.factors) if isinstance(x, int)]
        return max(sizes, default=None)
