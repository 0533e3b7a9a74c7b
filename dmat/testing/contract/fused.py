"""The contract of a fused kernel: how its output depends on D~, its arguments, and how far it rounds."""

from __future__ import annotations

from dataclasses import dataclass

from dmat.testing.contract import checks
from dmat.testing.contract.fields import Delta, Fused
from dmat.testing.contract.names import FUSED, GATES, READS, Form, GateName
from dmat.testing.contract.rows import BaseContract, described, rows


def implied_grad_scope(error_scope: object) -> str:
    """Return the grad_scope of a contract that states none."""
    return "rectangle" if error_scope == "window" else "suffix"


SOME_HEADS = 8  # fixed gates are looked at for so many heads


@described
@dataclass(frozen=True)
class FusedContract(Fused, BaseContract):
    """The promises of an operator o = fn(q, k, v, ...) in which D~ stands.

    fn takes q, k, v, [i,] [l or f,] [beta,] [A_log or A,] [dt_bias,] [D,] [z], as its fields say.

    ValueError names the field, its value and what was expected. With E = exp(D~), w = 1 (or dt),
    a[t, s] = w[s] E[t, s] scale (q_t . k_s), the fields:
    """

    kind = FUSED
    of_gradients = "gradient"

    def _require_consistent(self) -> None:
        super()._require_consistent()
        self._require_gates()
        self._require_delta(READS[self.reads])
        self._require_channels(READS[self.reads])
        if self.max_seq is not None and self.max_seq < self.min_seq:
            raise ValueError(f"max_seq is {self.max_seq}; expected at least min_seq = {self.min_seq}")
        if self.chunk_states is not None and self.states is None:
            raise ValueError(f"chunk_states is {self.chunk_states} without states; expected None")

    def _require_gates(self) -> None:
        wanted = "fixed, a function NH -> l of shape (NH,)"
        if (self.gate == "fixed") != (self.fixed is not None):
            found = f"gate is {self.gate!r} and fixed is {self.fixed!r}"
            raise ValueError(f'{found}; expected {wanted}, with gate="fixed" alone')
        if self.fixed is not None and not callable(self.fixed):
            raise ValueError(f"fixed is {self.fixed!r}; expected {wanted.removeprefix('fixed, ')}")
        self._require_parameters()
        form = READS[self.reads]
        weighted = " or ".join(f'reads="{name}"' for name, form in READS.items() if form.weighted)
        if self.weight is not None and (self.gate not in ("log", "dt") or not form.weighted):
            raise ValueError(
                f'weight is "dt" with gate={self.gate!r}, reads={self.reads!r}; expected gate="log" or "dt", '
                f"{weighted}: the weight is -l, or dt"
            )
        for name in ("skip", "z"):
            if getattr(self, name) and not form.weighted:
                found = f"{name} is {getattr(self, name)!r} with reads={self.reads!r}"
                raise ValueError(f"{found}; expected {weighted}")
        if self.igate and form.without_igate:
            raise ValueError(f'igate is True with reads="{self.reads}"; expected False: {form.without_igate}')

    def _require_parameters(self) -> None:
        """Raise ValueError for lower_bound, or a gate of -inf, where the form of gates has none."""
        if (self.gate == "bounded") != (self.lower_bound is not None):
            found = f"gate is {self.gate!r} and lower_bound is {self.lower_bound!r}"
            raise ValueError(f'{found}; expected a lower_bound below 0 with gate="bounded" alone')
        for name, plain in (("dt_softplus", True), ("dt_limit", None)):
            if self.gate != "dt" and getattr(self, name) != plain:
                raise ValueError(
                    f'{name} is {getattr(self, name)!r} with gate={self.gate!r}; expected gate="dt"'
                )
        if "A" in self.gate_parameters and (self.gate != "dt" or "A_log" in self.gate_parameters):
            found = f"gate_parameters has 'A' with gate={self.gate!r} and {self.gate_parameters!r}"
            raise ValueError(f'{found}; expected gate="dt", and A or A_log, not both')
        if "-inf" in self.special_values and not self.form.closes:
            raise ValueError(f'special_values has "-inf" with gate={self.gate!r}; expected none of it')

    @property
    def form(self) -> GateName:
        """The form of its gates."""
        return GATES[self.gate]

    @property
    def from_preact(self) -> bool:
        """Whether a recipe of gates says pre-activations f, not log gates."""
        return self.form.preact and self.dt_softplus

    @property
    def of_gates(self) -> tuple[str, ...]:
        """The parameters of its gates that it takes, of A_log, A and dt_bias."""
        return self.gate_parameters if self.form.parameters else ()

    @property
    def parameters(self) -> tuple[str, ...]:
        """The tensors without times that it takes: the parameters of its gates, and D."""
        return self.of_gates if self.skip is None else (*self.of_gates, "D")

    def _require_delta(self, form: Form) -> None:
        """Raise ValueError for a field of delta rules elsewhere, or a field that no delta rule has."""
        own = "" if form.erases else 'a field of reads="delta" alone'
        for name, each in rows(Delta).items() if own else ():  # type: ignore[arg-type]  # Delta has rows
            if getattr(self, name) != each.default:
                found = f"{name} is {getattr(self, name)!r} with reads={self.reads!r}"
                raise ValueError(f"{found}; expected {each.default!r}: it is {own}")
        foreign = {"positive": False, "eps": 0.0} if form.erases else {}
        for name, wanted in foreign.items():
            if getattr(self, name) != wanted:
                raise ValueError(f'{name} is {getattr(self, name)!r} with reads="delta"; expected {wanted!r}')
        if form.erases and self.gradient == "truncated":
            raise ValueError('gradient is "truncated" with reads="delta"; expected "full" or "none"')

    def _require_channels(self, form: Form) -> None:
        """Raise ValueError for gates by channel where a gate of a head alone can stand."""
        if not self.by_channel:
            return
        if not form.by_channel:
            able = " or ".join(f'reads="{name}"' for name, each in READS.items() if each.by_channel)
            raise ValueError(f'gates_by is "channel" with reads={self.reads!r}; expected {able}')
        gates = tuple(name for name in GATES if name != "fixed")
        for name, wanted in {"gate": gates, "weight": (None,), "positive": (False,)}.items():
            if getattr(self, name) not in wanted:
                found = f'gates_by is "channel" with {name}={getattr(self, name)!r}'
                raise ValueError(f"{found}; expected {' or '.join(map(repr, wanted))}")

    @property
    def by_channel(self) -> bool:
        """Whether each channel of k has a gate of its own."""
        return self.gates_by == "channel"

    def scale_of(self, K: int) -> float:
        """Return the factor of q.k for this K."""
        return checks.scale_at(self.scale, K)

    def multiplies(self, dtype: str) -> str:
        """Return the name of the format to which the operands of products are rounded.

        It may also be one of OPERANDS_OF_FLOAT32.
        """
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
    def erases(self) -> bool:
        """Whether it is a delta rule: it takes beta, and a token erases what the state holds for its key."""
        return READS[self.reads].erases

    def inverts(self, dtype: str) -> str:
        """Return the name of the format to which operands inside the inversion of I + A are rounded."""
        return checks.multiplied(self.inverse_in).get(dtype, self.accumulator(dtype))

    @property
    def has_open_gates(self) -> bool:
        """Whether its gates are fixed at l = 0, so that nothing decays."""
        return self.fixed is not None and not any(float(log) for log in self.fixed(SOME_HEADS))

    @property
    def chunk(self) -> int | None:
        """The chunk size that the contract states, or None."""
        sizes = [x for x in (self.error_scope, self.factors) if isinstance(x, int)]
        return max(sizes, default=None)
