"""The promises of a contract: one row each, with its default, its check, and its line of help.

To add a promise, add one row: in Rounding, Inputs or Conduct for both kinds of kernel; in Masked, Derivatives
or Call for D~ only; in Fused, or States (states.py), for fused kernels only. Contract and FusedContract
inherit these classes. If a promise of both kinds differs for fused kernels, Fused overrides its row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dmat.testing.contract import checks
from dmat.testing.contract.checks import flag, one_of, optional, subset
from dmat.testing.contract.names import (
    DTYPES,
    GATE_LAYOUTS,
    GATES,
    OF_GATES,
    READS,
    SPECIAL_VALUES,
    TRANSFORMS,
)
from dmat.testing.contract.rows import NOT_STATED, row
from dmat.testing.contract.states import States

GAVE_UP = (True, False)
HALVES = {"bfloat16": "bfloat16", "float16": "float16"}
MASKED_COTANGENTS = ("ignored", "summed")
GRAD_SCOPES = ("rectangle", "suffix", "prefix")  # "suffix" and "prefix": neither is stricter than the other

WITHOUT = "contract: {name} without {wanted!r}"
QUOTED = 'contract: {name}="{value}"'

# Both kinds


@dataclass(frozen=True)
class Rounding:
    """How far it rounds, and where it runs."""

    error_scope: str | int = row(
        "window",
        checks.error_scope,
        'whose magnitudes the error may grow with: "window", an integer C (chunks of C), '
        '"prefix" (differences of cumulative sums), "sequence"',
        relaxations=("window", 16, 32, 64, 128, "prefix", "sequence"),
    )
    accumulates_in: Any = row(
        None,
        checks.accumulates_in,
        'the format summed in, a floor: "float32" means promote(dtype, float32) or better; a mapping holds a '
        "dtype to just that format; None: float32, float64 for float64",
        relaxations={
            "float64": ("float64", "float32"),
            "bfloat16": ("float32", "bfloat16"),
            "float16": ("float32", "float16"),
        },
    )
    dtypes: tuple[str, ...] = row(
        DTYPES, checks.dtypes, "the dtypes that it takes", reason="contract: {name} without {wanted}"
    )
    devices: tuple[str, ...] | None = row(
        None,
        optional(checks.devices),
        "the devices that it takes; None: the CPU, and the accelerator that torch finds",
        reason=WITHOUT,
    )

    def accumulator(self, dtype: str) -> str:
        """Return the name of the format in which sums of this dtype are accumulated."""
        return checks.accumulators(self.accumulates_in)[dtype]


@dataclass(frozen=True)
class Inputs:
    """Which gates it takes."""

    special_values: tuple[str, ...] = row(
        SPECIAL_VALUES,
        subset(*SPECIAL_VALUES),
        'which of "-inf", "+inf", "nan" its gates may hold',
        relaxations=dict.fromkeys(SPECIAL_VALUES, GAVE_UP),
        reason=WITHOUT,
    )
    zero_length: bool = row(True, flag, "B, NH, S may be 0", relaxations=GAVE_UP)
    seq_multiple_of: int = row(1, checks.positive, "S is a multiple of it")
    max_seq: int | None = row(None, optional(checks.positive), "the longest S; None: any")

    def _require_consistent(self) -> None:
        if self.max_seq is not None and self.max_seq < self.seq_multiple_of:
            raise ValueError(
                f"max_seq is {self.max_seq}; expected at least seq_multiple_of = {self.seq_multiple_of}"
            )


@dataclass(frozen=True)
class Conduct:
    """What holds of its sums and its bits."""

    exact_sums: bool = row(
        True, flag, "sums of integers are exact (not so when rescaled to base 2)", relaxations=GAVE_UP
    )
    deterministic: bool = row(True, flag, "the same call gives the same bits", relaxations=GAVE_UP)
    gates: str = row(
        "relative",
        one_of("relative", "absolute"),
        '"relative", or "absolute" where log sigmoid keeps an absolute error only (log(1 + exp))',
        relaxations=("relative", "absolute"),
    )


# D~ alone


@dataclass(frozen=True)
class Masked:
    """What it does with cotangents above the diagonal."""

    masked_cotangent: str = row(
        "ignored",
        one_of(*MASKED_COTANGENTS),
        '"ignored", or "summed" where the input gate\'s gradient sums all rows of G',
    )


@dataclass(frozen=True)
class Derivatives:
    """Which derivatives it has."""

    differentiable: bool = row(True, flag, "it has gradients", off=False)
    forward_mode: bool = row(
        True, flag, "forward mode is right, or refused with an error", relaxations=GAVE_UP
    )
    second_order: bool = row(
        True, flag, "second derivatives are right, or refused with an error", relaxations=GAVE_UP
    )


@dataclass(frozen=True)
class Call:
    """How it is called, and what it claims beyond the strictest default."""

    gate_layout: str = row(
        "B NH S 1", one_of(*GATE_LAYOUTS), 'the axes of its gates: "B NH S 1", "B NH S" or "B S NH"'
    )
    transforms: tuple[str, ...] = row(
        (),
        subset(*TRANSFORMS),
        'which of "compile", "vmap", "export", "autocast" it promises the same answer under',
        reason=WITHOUT,
    )
    peak_memory: float | None = row(
        None,
        optional(checks.number),
        "memory of the accelerator at the peak of a call and its backward, beyond inputs and output, at most "
        "so many times the output's own; None: not stated",
        off=None,
        reason=NOT_STATED,
    )


# Fused kernels alone


@dataclass(frozen=True)
class Delta:
    """The promises that delta rules alone have: docs/fused.md section 5."""

    beta_max: float = row(
        1.0,
        checks.beta_max,
        "the largest beta: 1.0, or 2.0 (transitions with eigenvalues down to -1)",
    )
    beta_in: str = row(
        "value",
        one_of("value", "logit"),
        '"value", or "logit": it takes b, and beta = beta_max sigmoid(b)',
    )
    l2norm: float | bool = row(
        False,
        checks.l2norm,
        "what the kernel adds to |k|^2 and |q|^2 before it divides k and q by the root; False: it does not",
    )
    state_layout: str | None = row(
        None,
        optional(one_of("BHKV", "BHVK", "opaque", label="{name} (or None)")),
        'the axes of a state: "BHKV" or "BHVK"; "opaque": only handed on; None: found by writing one token',
    )
    doubling: int | None = row(
        None,
        optional(checks.positive),
        "powers of A are multiplied within blocks of so many rows (Neumann); None: substitution",
        relaxations=(None, 8, 16, 32, 64),
    )
    inverse_in: Any = row(
        None,
        checks.multiplies_in,
        "what operands inside the inversion of I + A are rounded to, as multiplies_in; None: the "
        "accumulator's format",
        relaxations=(None, HALVES, "input"),
    )


@dataclass(frozen=True)
class Fused(States, Delta, Conduct, Inputs, Rounding):
    """How D~ stands in a fused kernel, its arguments, and how far it rounds."""

    error_scope: str | int = row(
        "window",
        checks.fused_error_scope,
        'as for D~: "window", a chunk size or "prefix"; chunks are counted from the start of each call, and '
        "of each packed sequence",
        relaxations=("window", 4, 8, 16, 32, 64, 128, "prefix"),
    )
    accumulates_in: Any = row(
        None,
        checks.accumulates_in,
        "the format summed in, as for D~: a floor, or a mapping from dtype to format",
        relaxations=(None, HALVES),
    )
    dtypes: tuple[str, ...] = row(
        ("float32", "bfloat16", "float16"), checks.dtypes, "the dtypes of q, k, v that it takes"
    )
    special_values: tuple[str, ...] = row(
        (), checks.resets, 'which of "-inf" (a reset), "nan" its gates may hold', reason=WITHOUT
    )
    zero_length: bool = row(False, flag, "B, NH, S may be 0")

    reads: str = row(
        "linear",
        one_of(*READS),
        "; ".join(f'"{name}", {form.formula}' for name, form in READS.items()),
    )
    gate: str = row(
        "log",
        one_of(*GATES),
        "; ".join(f'"{name}", {form.formula}' for name, form in GATES.items()),
        off="fixed",
        reason=QUOTED,
    )
    gate_parameters: tuple[str, ...] = row(
        ("A_log", "dt_bias"),
        subset(*OF_GATES),
        'which of "A_log", "dt_bias" it takes, with gate="dt" and "bounded": (NH,), dt_bias (NH, K) where '
        'each channel has a gate; what it does not take is 0; with gate="dt" it may take "A" < 0 for A_log',
    )
    dt_softplus: bool = row(True, flag, 'False where d = dt + dt_bias >= 0 without softplus, with gate="dt"')
    dt_limit: tuple[float, float] | None = row(
        None,
        optional(checks.dt_limit),
        '(lowest, highest): d is clamped to it, with gate="dt"; None: it is not',
    )
    lower_bound: float | None = row(None, optional(checks.below_zero), 'the least l, with gate="bounded"')
    gates_by: str = row(
        "head",
        one_of("head", "channel"),
        '"head", or "channel" where each channel of k has a gate of its own: (B, NH, S, K)',
    )
    igate: bool = row(False, flag, "it takes an input gate", off=False)
    fixed: Callable[[int], Any] | None = row(
        None, checks.anything, 'a function NH -> l, a number a head, with gate="fixed"'
    )
    weight: str | None = row(
        None,
        optional(one_of("dt", label="{name} (or None)")),
        '"dt" where the source is weighted by dt: by d with gate="dt" (Mamba-2), by -l with gate="log" '
        "(Mamba with A = -1)",
    )
    skip: str | None = row(
        None,
        optional(one_of("head", "channel", label="{name} (or None)")),
        'it takes D, and o += D v: "head", D is (NH,); "channel", (NH, V)',
    )
    z: bool = row(False, flag, "it takes z, shaped as v, last of all, and o *= silu(z)")
    scale: float | str = row(1.0, checks.scale, "a number, or an expression in K")
    group: int = row(
        1,
        checks.positive,
        "value heads that share a head of q and k; v and gates have a head for each of them",
    )
    group_order: str = row(
        "consecutive",
        one_of("consecutive", "modulo"),
        'which value heads h share a key head: "consecutive", h // group; "modulo", h modulo the key heads',
    )
    layout: str = row("BHSD", one_of("BHSD", "BSHD"), 'the axes of q, k, v: "BHSD" or "BSHD"')
    states: str | None = row(
        None,
        optional(checks.keyword),
        "the name of the keyword that takes a state; fn then returns (o, state)",
        off=None,
        reason=NOT_STATED,
    )
    packed: str | None = row(
        None,
        optional(checks.keyword),
        "the name of the keyword that takes the ends of packed sequences",
        off=None,
        reason=NOT_STATED,
    )
    mask: str | None = row(
        None,
        optional(checks.keyword),
        "the name of the keyword that takes a padding mask, (B, S) of bool, True for real tokens: what "
        "stands in other places changes no output, state or gradient of real ones",
        off=None,
        reason=NOT_STATED,
    )
    positive: bool = row(False, flag, "values must be above 0 (log-space scans)")
    K: int | tuple[int, ...] | None = row(
        None,
        optional(checks.sizes),
        "the sizes of q, k that it takes: a tuple, or an int: it and 4 times it; None: any that it does not "
        "refuse",
    )
    V: int | tuple[int, ...] = row(
        1, checks.sizes, "the sizes of v that it takes: a tuple, or an int: any multiples of it"
    )
    V_equals_K: bool = row(False, flag, "v must have the size of q and k")
    lengths: tuple[int, ...] | None = row(
        None,
        optional(checks.lengths),
        "the only S to try; None: see seq_multiple_of, min_seq, max_seq, zero_length",
    )
    min_seq: int = row(1, checks.positive, "the shortest S")
    i_range: tuple[float, float] = row((-8.0, 8.0), checks.i_range, "(lowest, highest) of the input gate")
    l_min: float | None = row(
        None,
        optional(checks.l_min),
        "the least log gate; None: any",
        relaxations=(None, -88.0, -20.0, -5.0, -1.0, -0.1),  # kernels that sum in an exponent need a bound
    )
    gate_dtype: Any = row(None, optional(checks.dtype_name), "the dtype of the gates; None: that of q, k, v")
    output_dtype: Any = row(
        None, optional(checks.dtype_name), "the dtype of the output; None: that of q, k, v"
    )
    multiplies_in: Any = row(
        None,
        checks.multiplies_in,
        'what operands of products are rounded to: a format, "input" (that of q, k, v; tf32 for float32), '
        '"tf32", "tf32x3" or "bf16x3" as of tl.dot, or one by dtype; None: the accumulator\'s format',
        relaxations=(None, HALVES, "input"),
    )
    factors: str | int = row(
        "steps",
        checks.factors,
        'how many exponentials are multiplied into one E: "one", a chunk size, or "steps"',
    )
    grad_scope: str | None = row(
        None,
        optional(one_of(*GRAD_SCOPES)),
        '"rectangle"; "suffix" where gradients are reverse cumulative sums of row minus column sums; '
        '"prefix" where they are cumulative sums of column minus row sums; None: "rectangle" for '
        'error_scope="window", else "suffix"',
        relaxations=GRAD_SCOPES[:2],
    )
    gradient: str = row(
        "full",
        one_of("full", "truncated", "none"),
        '"full", "truncated" (mLSTM: the normaliser held constant), "none"',
        relaxations=("full", "truncated"),
        off="none",
        reason=QUOTED,
    )
    eps: float = row(
        0.0,
        checks.eps,
        'what is added to the normaliser: after the stabiliser; with reads="normalised" to n itself, exactly',
        reason="contract: {name}={value:g}",
    )
    homogeneous: bool = row(True, flag, "2 v gives 2 o, bit for bit", relaxations=GAVE_UP)
    causal: str = row(
        "bits",
        one_of("bits", "bound"),
        '"bits", or "bound" where rounding may depend on later rows',
        relaxations=("bits", "bound"),
        reason=QUOTED,
    )
    strided: bool = row(True, flag, "q, k, v and a state may have any strides", relaxations=GAVE_UP)
