"""Read Triton's own intermediate language (TTIR): the products of a kernel, their formats, and their lines.

TTIR says what a product must be: `input_precision`, the formats of operands and accumulator. Opcodes alone do
not: `tf32x3`, which is as exact as float32, is made of TF32 instructions too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FORMATS = {"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16"}
DIGITS = {"float64": 53, "float32": 24, "tf32": 11, "float16": 11, "bfloat16": 8}  # of a significand
# Of a contract that states how float32 operands are split. A split that TTIR has is never called too narrow.
STATED_DIGITS = DIGITS | {"tf32x3": 22, "bf16x3": 16}
PRECISIONS = {"ieee": "float32", "tf32": "tf32"}  # others, as tf32x3, split operands: they keep their names

OP = re.compile(r'^\s*(%[\w.$-]+)(?::\d+)? = "?([\w.]+)"?(.*)$')
DOT = re.compile(
    r"(%[\w.$#-]+), (%[\w.$#-]+), %[\w.$#-]+(?:, inputPrecision = (\w+))?.*?"
    r" : tensor<([^>]*)> \* tensor<([^>]*)> -> tensor<([^>]*)>"
)
LOC = re.compile(r"^(#loc\d*) = loc\((.*)\)$")
PLACE = re.compile(r'^"(.*)":(\d+):\d+$')
NAME = re.compile(r"%[\w.$-]+")
SHAPES = ("tt.trans", "tt.reshape", "tt.broadcast", "tt.splat", "tt.expand_dims", "arith.negf")
NARROWING = ("arith.truncf", "tt.fp_to_fp")
CUTS = (*NARROWING, "tt.bitcast", "arith.bitcast", "tt.elementwise_inline_asm")


@dataclass(frozen=True)
class Product:
    """A product of matrices (tl.dot). line: "file.py:12".

    operands: the format in which they stand. multiplied: what they are multiplied in: a format, or a split
    like "tf32x3". accumulated: the format of the sum. rounded: whether `multiplied` rounds them, as far as
    TTIR shows: not where they are 0, 1 or widened from a narrower format, nor where a split by hand also
    multiplies what the rounding cuts off.
    """

    line: str
    operands: str
    multiplied: str
    accumulated: str
    rounded: bool


@dataclass(frozen=True)
class Read:
    """What the TTIR of a launch says. atomics: the lines of atomic sums of floats."""

    products: tuple[Product, ...]
    atomics: tuple[str, ...]
    exponentials: int


@dataclass
class _Op:
    name: str
    rest: str

    @property
    def operands(self) -> list[str]:
        return NAME.findall(self.rest.partition(" : ")[0])


@dataclass
class _Function:
    """The operations of one function, by the name of their result, and its products."""

    ops: dict[str, _Op] = field(default_factory=dict)
    dots: list[tuple[Sequence[_End], Product]] = field(default_factory=list)
    residuals: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _End:
    """Where an operand comes from. cut: the value that a rounding or a cut made. rounded: whether it may
    have lost digits. residual: whether it is a difference between a value and its cut."""

    cut: str
    rounded: bool
    residual: bool


def read(ttir: str) -> Read:
    """Read the TTIR of a kernel."""
    lines = ttir.splitlines()
    places = {found[1]: found[2] for line in lines if (found := LOC.match(line))}
    function, products, atomics, exponentials = _Function(), list[Product](), dict[str, None](), 0
    for line in lines:
        if "tt.func" in line:
            products += _products(function)
            function = _Function()
        for argument in _arguments(line):
            function.ops.pop(argument, None)
        found = OP.match(line)
        if not found:
            continue
        name, op = found[1], _Op(found[2], found[3])
        function.ops[name] = op
        if op.name == "tt.dot" and (dot := DOT.search(op.rest)):
            function.dots.append(_dot(function, dot, _line(line, places)))
        elif op.name == "arith.subf":
            function.residuals |= {_cut_of(function.ops, other) for other in op.operands[1:2]} - {""}
        elif op.name == "tt.atomic_rmw" and op.rest.lstrip().startswith("fadd"):
            atomics[_line(line, places)] = None
        exponentials += op.name in ("math.exp", "math.exp2")
    return Read((*products, *_products(function)), tuple(atomics), exponentials)


def _arguments(line: str) -> Iterator[str]:
    """Yield the values that a line binds anew: arguments of a loop or of a block."""
    if "scf.for" in line or "iter_args" in line or "scf.while" in line:
        yield from re.findall(r"(%[\w.$-]+) = %", line)
    elif line.lstrip().startswith("^bb"):
        yield from re.findall(r"(%[\w.$-]+):", line)


def _dot(function: _Function, dot: re.Match[str], line: str) -> tuple[Sequence[_End], Product]:
    left, right, precision, *types = dot.groups()
    operands, _, accumulated = (_format(kind) for kind in types)
    multiplied = PRECISIONS.get(precision or "ieee", precision) if operands == "float32" else operands
    ends = [_end(function.ops, name, multiplied) for name in (left, right)]
    return ends, Product(line, operands, multiplied, accumulated, False)


def _products(function: _Function) -> Iterator[Product]:
    """Yield the products of a whole function: only now is known which cuts have a residual."""
    for ends, product in function.dots:
        lost = [end for end in ends if end.rounded and not end.residual and end.cut not in function.residuals]
        yield Product(
            product.line, product.operands, product.multiplied, product.accumulated, rounded=bool(lost)
        )


def _format(tensor: str) -> str:
    """Return the format of "64x64xf32"."""
    kind = tensor.split(",")[0].rsplit("x", 1)[-1]
    return FORMATS.get(kind, kind)


# Where operands come from


def _source(ops: Mapping[str, _Op], name: str, through: Sequence[str] = SHAPES) -> tuple[str, _Op | None]:
    """Return the value that this one is, but for its shape, and the operation that made it."""
    for _ in range(len(ops)):
        op = ops.get(name)
        if op is None or op.name not in through or not op.operands:
            return name, op
        name = op.operands[0]
    return name, None


def _cut_of(ops: Mapping[str, _Op], name: str) -> str:
    """Return the rounded or cut value that this one is, but for its shape and a widening; else ""."""
    found, op = _source(ops, name, (*SHAPES, "arith.extf"))
    return found if op is not None and op.name in CUTS else ""


def _end(ops: Mapping[str, _Op], name: str, multiplied: str) -> _End:
    """Return where an operand comes from, that is multiplied in this format."""
    found, op = _source(ops, name)
    if multiplied == "tf32":
        rounded = not _is_exact(ops, found, DIGITS["tf32"])
    else:
        rounded = _was_rounded(ops, found, DIGITS.get(multiplied, 24))
    inner = op.operands[0] if op is not None and op.name in NARROWING else found
    before, difference = _source(ops, inner)
    is_difference = difference is not None and difference.name == "arith.subf"
    residual = is_difference and any(_cut_of(ops, other) for other in ops[before].operands[1:2])
    return _End(found if op is not None and op.name in CUTS else "", rounded, residual)


def _was_rounded(ops: Mapping[str, _Op], name: str, digits: int) -> bool:
    """Whether a value of few digits was made by a rounding that may have lost some."""
    _, op = _source(ops, name)
    if op is not None and op.name in NARROWING and "f32" in op.rest.split(" : ")[-1].split(" to ")[0]:
        return not _is_exact(ops, op.operands[0], digits)
    if op is not None and op.name == "arith.select":
        return any(_was_rounded(ops, one, digits) for one in op.operands[1:3])
    return False


def _is_exact(ops: Mapping[str, _Op], name: str, digits: int) -> bool:
    """Whether a value is known to have at most so many digits."""
    _, op = _source(ops, name)
    if op is None:
        return False
    if op.name == "arith.extf":
        return DIGITS.get(_format(op.rest.split(" : ")[1].split(" to ")[0].strip("tensor<>")), 4) <= digits
    if op.name in ("arith.sitofp", "arith.uitofp"):
        return bool(re.search(r" : (?:tensor<[\dx]*)?i[18]>? ", op.rest))
    if op.name == "arith.constant":
        return _constant_is_exact(op.rest, digits)
    if op.name == "arith.select":
        return all(_is_exact(ops, one, digits) for one in op.operands[1:3])
    return False


def _constant_is_exact(rest: str, digits: int) -> bool:
    found = re.search(r"(?:dense<)?(-?\d+\.\d+E?[+-]?\d*)>? : ", rest, re.IGNORECASE)
    if not found:
        return False
    numerator, denominator = float(found[1]).as_integer_ratio()
    odd = abs(numerator) // (abs(numerator) & -abs(numerator)) if numerator else 0
    return odd.bit_length() <= digits and denominator & (denominator - 1) == 0


# Lines


def _line(line: str, places: Mapping[str, str]) -> str:
    """Return "file.py:12" of an operation: the innermost line that is not Triton's own."""
    found = re.search(r" loc\((.*)\)$", line)
    every = list(_within(found[1] if found else "", places, 0))
    own = [place for place in every if "/triton/language/" not in place]
    return next(iter(own or every), "an unknown line").rpartition("/")[2]


def _within(text: str, places: Mapping[str, str], depth: int) -> Iterator[str]:
    """Yield the places that a location names, innermost first."""
    if depth > 20:
        return
    if found := PLACE.match(text):
        yield f"{Path(found[1]).as_posix()}:{found[2]}"
        return
    for name in re.findall(r"#loc\d*", text):
        yield from _within(places.get(name, ""), places, depth + 1)
