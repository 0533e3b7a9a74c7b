"""What a fused kernel promises: how D~ stands in what it computes, its arguments, and how far it rounds."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from dmat.testing.asked import DTYPES
from dmat.testing.contract import FUSED, Contract, dtype_name, one_of, positive

READS = ("linear", "mlstm", "softmax")
GATES = ("log", "preact", "fixed")
GRAD_SCOPES = ("rectangle", "suffix", "prefix")
TF32 = "tf32"  # what a tensor core keeps of a float32 operand
LARGEST_I = 600.0  # e^i and its products stay within float64, in which the filter computes

# Fields of a contract of D~ that mean nothing for a fused kernel.
OF_DTILDE_ALONE = (
    "masked_cotangent",
    "differentiable",
    "forward_mode",
    "second_order",
    "gate_layout",
    "transforms",
    "peak_memory",
)

ANY_K = (1, 4, 16)

Sizes = int | tuple[int, ...]


@dataclass(frozen=True)
class FusedContract(Contract):
    """The promises of an operator o = fn(q, k, v, ...). ValueError names field, value, and what may be.

    With E = exp(D~), w = 1 (or dt), a[t, s] = w[s] E[t, s] scale (q_t . k_s):

    reads: "linear", o = sum of a v; "mlstm", that over max(|n|, 1), n the sum of a; "softmax", the sum of
        E exp(scale q.k) v over that of E exp(scale q.k).
    gate: "log", fn takes l <= 0; "preact", it takes f, and l = log sigmoid(f); "fixed", `fixed(NH)` gives l,
        a number a head. igate: it takes an input gate. fn is called (q, k, v, [i,] [l or f]).
    weight: "dt" where the source is weighted by -l (Mamba with A = -1). scale: a number, or an expression in
    K.
    layout: "BHSD" or "BSHD". states, packed: the names of the keywords that take a state (fn then returns
        (o, state)) and the ends of packed sequences.
    keys: "any", or "orthonormal" for delta rules. positive: values must be above 0 (log-space scans).
    K, V: their sizes, a tuple, or an int: any multiples of V, and K and 4 K of K. V_equals_K.
    lengths: the only lengths to try; else see seq_multiple_of, min_seq, max_seq, zero_length.
    i_range: of the input gate. l_min: the least log gate.
    gate_dtype, output_dtype: where they are not that of q, k, v.
    accumulates_in: as for D~. multiplies_in: what operands of products are rounded to: None for the
        accumulator's format, "input" for that of q, k, v, where float32 stands for tf32; or one by dtype.
    error_scope: as for D~; chunks are counted from the start of each call, and of each packed sequence.
    factors: how many exponentials are multiplied into one E: "one", a chunk size, or "steps".
    grad_scope: "rectangle"; "suffix" where gradients are reverse cumulative sums of row minus column sums;
        "prefix" where they are cumulative sums of column minus row sums; default: "rectangle" for
        error_scope="window", else "suffix".
    gradient: "full", "truncated" (mLSTM: the normaliser held constant), "none".
    eps: what is added to the normaliser after the stabiliser. homogeneous: 2 v gives 2 o, bit for bit.
    causal: "bits", or "bound" where rounding may depend on later rows. strided: q, k, v may have any strides.
    """

    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16")
    special_values: tuple[str, ...] = ()
    zero_length: bool = False
    reads: str = "linear"
    gate: str = "log"
    igate: bool = False
    fixed: Callable[[int], Any] | None = None
    weight: str | None = None
    scale: float | str = 1.0
    layout: str = "BHSD"
    states: str | None = None
    packed: str | None = None
    keys: str = "any"
    positive: bool = False
    K: Sizes = ANY_K
    V: Sizes = 1
    V_equals_K: bool = False
    lengths: tuple[int, ...] | None = None
    min_seq: int = 1
    i_range: tuple[float, float] = (-8.0, 8.0)
    l_min: float | None = None
    gate_dtype: Any = None
    output_dtype: Any = None
    multiplies_in: Any = None
    factors: str | int = "steps"
    grad_scope: str | None = None
    gradient: str = "full"
    eps: float = 0.0
    homogeneous: bool = True
    causal: str = "bits"
    strided: bool = True
    _scale: Callable[[int], float] = field(init=False, repr=False, compare=False)
    _multiplies: dict[str, str] = field(init=False, repr=False, compare=False)

    of = FUSED

    def __post_init__(self) -> None:
        """Validate every field."""
        super().__post_init__()
        one_of(self.reads, "reads", READS)
        one_of(self.gate, "gate", GATES)
        one_of(self.layout, "layout", ("BHSD", "BSHD"))
        one_of(self.keys, "keys", ("any", "orthonormal"))
        one_of(self.gradient, "gradient", ("full", "truncated", "none"))
        if self.error_scope == "sequence":
            raise ValueError('error_scope is \'sequence\'; expected "window", "prefix" or a chunk size')
        one_of(self.causal, "causal", ("bits", "bound"))
        _flags(self)
        _gates(self)
        _keywords(self)
        _sizes(self)
        if self.keys == "orthonormal" and self.K == ANY_K:
            self._set("K", (*ANY_K, 64))  # a key a source: longer sequences need more
        _ranges(self)
        self._set("_scale", _scale(self.scale))
        self._set("_multiplies", _multiplies(self.multiplies_in, self))
        for name in ("gate_dtype", "output_dtype"):
            if getattr(self, name) is not None:
                self._set(name, dtype_name(getattr(self, name), name))
        if self.factors not in ("one", "steps"):
            positive(self.factors, 'factors (or "one", "steps")')
        if self.grad_scope is not None:
            one_of(self.grad_scope, "grad_scope", GRAD_SCOPES)
        self._set("differentiable", self.gradient != "none")

    def scale_of(self, K: int) -> float:
        """Return what q.k is multiplied by."""
        return self._scale(K)

    def multiplies(self, dtype: str) -> str:
        """Return the name of the format to which the operands of products are rounded, maybe "tf32"."""
        return self._multiplies[dtype]

    def gates_in(self, dtype: str) -> str:
        """Return the dtype of the gates beside q, k, v of this one."""
        return self.gate_dtype or dtype

    def returns(self, dtype: str) -> str:
        """Return the dtype of the output."""
        return self.output_dtype or dtype

    def without_gradients(self) -> FusedContract:
        """Return the same of a kernel that has none."""
        return replace(self, gradient="none")

    def stated(self) -> dict[str, object]:
        """Return what it reads, and the fields that differ from the strictest default, for reports."""
        return {"reads": self.reads, **{k: v for k, v in super().stated().items() if k != "differentiable"}}

    @property
    def widest_gradient(self) -> str:
        """The scope of gradients, stated or implied."""
        return self.grad_scope or ("rectangle" if self.error_scope == "window" else "suffix")

    @property
    def chunk(self) -> int | None:
        """The chunk size that it states, if it does."""
        sizes = [x for x in (self.error_scope, self.factors) if isinstance(x, int)]
        return max(sizes, default=None)


def _flags(contract: FusedContract) -> None:
    for name in ("igate", "positive", "V_equals_K", "homogeneous", "strided"):
        if not isinstance(getattr(contract, name), bool):
            raise ValueError(f"{name} is {getattr(contract, name)!r}; expected True or False")


def _gates(contract: FusedContract) -> None:
    if (contract.gate == "fixed") != (contract.fixed is not None):
        raise ValueError(
            f"gate is {contract.gate!r} and fixed is {contract.fixed!r}; expected fixed, a function NH -> l "
            'of shape (NH,), with gate="fixed" alone'
        )
    if contract.fixed is not None and not callable(contract.fixed):
        raise ValueError(f"fixed is {contract.fixed!r}; expected a function NH -> l of shape (NH,)")
    if contract.weight is not None:
        one_of(contract.weight, "weight (or None)", ("dt",))
        if contract.gate != "log" or contract.reads != "linear":
            raise ValueError(
                f'weight is "dt" with gate={contract.gate!r}, reads={contract.reads!r}; expected gate="log", '
                'reads="linear": the weight is -l'
            )
    if contract.reads == "softmax" and contract.igate:
        raise ValueError('igate is True with reads="softmax"; expected False: forgetting attention has none')
    if "+inf" in contract.special_values:
        raise ValueError(
            f"special_values is {contract.special_values!r}; expected some of -inf (a reset) and nan"
        )


def _keywords(contract: FusedContract) -> None:
    for name in ("states", "packed"):
        value = getattr(contract, name)
        if value is not None and not (isinstance(value, str) and value.isidentifier()):
            raise ValueError(f"{name} is {value!r}; expected the name of a keyword of the kernel, or None")


def _sizes(contract: FusedContract) -> None:
    for name in ("K", "V"):
        value = getattr(contract, name)
        for size in value if isinstance(value, tuple | list) else (value,):
            positive(size, name)
        if isinstance(value, list):
            contract._set(name, tuple(value))
        if value == ():
            raise ValueError(f"{name} is empty; expected at least one size")
    positive(contract.min_seq, "min_seq")
    if contract.lengths is not None:
        try:
            lengths = tuple(contract.lengths)
        except TypeError:
            raise ValueError(f"lengths is {contract.lengths!r}; expected a collection of lengths") from None
        for length in lengths:
            positive(length, "lengths")
        if not lengths:
            raise ValueError("lengths is empty; expected at least one")
        contract._set("lengths", tuple(sorted(set(lengths))))
    if contract.max_seq is not None and contract.max_seq < contract.min_seq:
        raise ValueError(f"max_seq is {contract.max_seq}; expected at least min_seq = {contract.min_seq}")


def _ranges(contract: FusedContract) -> None:
    try:
        low, high = map(float, contract.i_range)
    except (TypeError, ValueError):
        raise ValueError(f"i_range is {contract.i_range!r}; expected (lowest, highest)") from None
    if not -LARGEST_I <= low <= 0 <= high <= LARGEST_I:
        raise ValueError(
            f"i_range is {contract.i_range!r}; expected {-LARGEST_I:g} <= lowest <= 0 <= highest "
            f"<= {LARGEST_I:g}"
        )
    contract._set("i_range", (low, high))
    if contract.l_min is not None:
        if not isinstance(contract.l_min, int | float) or not -float("inf") < contract.l_min < 0:
            raise ValueError(f"l_min is {contract.l_min!r}; expected a finite negative number, or None")
        contract._set("l_min", float(contract.l_min))
    if (
        isinstance(contract.eps, bool)
        or not isinstance(contract.eps, int | float)
        or not 0 <= contract.eps < 1
    ):
        raise ValueError(f"eps is {contract.eps!r}; expected 0 <= eps < 1")


_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}


def _scale(scale: object) -> Callable[[int], float]:
    """Return the function of K that a scale states; arithmetic in K and numbers alone is evaluated."""
    wanted = f"scale is {scale!r}; expected a positive number, or an expression in K such as 'K**-0.5'"
    if isinstance(scale, str):
        try:
            tree = ast.parse(scale, mode="eval").body
            at_16 = _value(tree, 16)
        except (SyntaxError, KeyError, TypeError, ArithmeticError):
            raise ValueError(wanted) from None
        if not at_16 > 0:
            raise ValueError(wanted)
        return lambda K: float(_value(tree, K))
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < float("inf"):
        raise ValueError(wanted)
    return lambda K: float(scale)


def _value(node: ast.AST, K: int) -> float:
    match node:
        case ast.Constant(int() | float() as number):
            return number
        case ast.Name("K"):
            return K
        case ast.UnaryOp(op, operand):
            return _OPERATORS[type(op)](_value(operand, K))
        case ast.BinOp(left, op, right):
            return _OPERATORS[type(op)](_value(left, K), _value(right, K))
    raise TypeError(node)


def _multiplies(value: object, contract: Contract) -> dict[str, str]:
    """Return the format of the operands of products, by dtype."""
    own = {dtype: contract.accumulator(dtype) for dtype in DTYPES}
    as_input = {dtype: TF32 if dtype == "float32" else dtype for dtype in DTYPES}
    if value is None:
        return own
    if value == "input":
        return as_input
    if isinstance(value, Mapping):
        given = {
            dtype_name(key, "multiplies_in"): TF32 if form == TF32 else dtype_name(form, "multiplies_in")
            for key, form in value.items()
        }
        return own | given
    if value == TF32:
        return own | {"float32": TF32}
    name = dtype_name(value, "multiplies_in")
    return dict.fromkeys(DTYPES, name)


def accepted() -> list[str]:
    """Return the names of the fields that fused() takes."""
    return [f.name for f in fields(FusedContract) if f.init and f.name not in OF_DTILDE_ALONE]
