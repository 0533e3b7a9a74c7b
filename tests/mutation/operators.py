"""The operators of mutation: each takes a node of a syntax tree and gives what may stand in its place."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

Operator = Callable[[ast.AST, ast.AST, str], Iterator[ast.AST]]  # (node, its parent, the field it is in)

BINARY: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div, ast.Add),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mod, ast.Mult),
    ast.Mod: (ast.FloorDiv, ast.Mult),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
}
COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
KIN: dict[str, tuple[str, ...]] = {
    "tril": ("triu",),
    "triu": ("tril",),
    "cumsum": ("cumprod", "logcumsumexp"),
    "sum": ("amax", "mean"),
    "log1p": ("log", "expm1"),
    "exp": ("exp2", "expm1"),
    "sigmoid": ("tanh",),
    "logsigmoid": ("softplus",),
    "minimum": ("maximum",),
    "min": ("max",),
    "max": ("min",),
    "ones": ("zeros",),
    "zeros": ("ones",),
    "ones_like": ("zeros_like",),
    "zeros_like": ("ones_like",),
    "new_zeros": ("new_ones",),
    "double": ("float",),
    "float": ("double", "half"),
    "float64": ("float32",),
    "float32": ("float64",),
    "bfloat16": ("float16",),
    "float16": ("bfloat16",),
    "squeeze": ("unsqueeze",),
    "unsqueeze": ("squeeze",),
    "start": ("stop",),
    "stop": ("start",),
    "TypeError": ("ValueError",),
    "ValueError": ("TypeError",),
}
COUNTS = {"B", "NH", "S", "C", "n", "r", "t", "s", "k", "step", "start", "stop", "CHUNK"}
MODULES = {"torch", "math", "os"}
COMPILED_AWAY = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass)


def arithmetic(node: ast.AST, parent: ast.AST, field: str) -> Iterator[ast.AST]:
    """+ for -, and so on; one operand alone; a minus dropped."""
    if isinstance(node, ast.BinOp):
        for other in BINARY.get(type(node.op), ()):
            yield ast.BinOp(node.left, other(), node.right)
        yield node.left
        yield node.right
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.AugAssign):
        for other in BINARY.get(type(node.op), ()):
            yield ast.AugAssign(node.target, other(), node.value)
        yield ast.Assign([node.target], node.value)


def comparison(node: ast.AST, parent: ast.AST, field: str) -> Iterator[ast.AST]:
    """< for <=, == for !=, and so on."""
    if isinstance(node, ast.Compare):
        for place, op in enumerate(node.ops):
            for other in COMPARED[type(op)]:
                ops = [*node.ops[:place], other(), *node.ops[place + 1 :]]
                yield ast.Compare(node.left, ops, node.comparators)


def constant(node: ast.AST, parent: ast.AST, field: str) -> Iterator[ast.AST]:
    """A number more, one less; True for False; another float; another string."""
    if not isinstance(node, ast.Constant):
        return
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int):
        yield from (ast.Constant(value + 1), ast.Constant(value - 1))
    elif isinstance(value, float):
        yield from (ast.Constant(value + 1), ast.Constant(-value if value else -1.0))
    elif isinstance(value, str):
        literal = {"ignored": "summed", "summed": "ignored"}  # the members of the one Literal there is
        yield ast.Constant(literal.get(value, value + "_"))


def infinity(node: ast.AST, parent: ast.AST, field: str) -> Iterator[ast.AST]:
    """0, or NaN, for inf."""
    if isinstance(node, ast.Attribute) and node.attr == "inf":
        yield ast.Constant(0.0)
        yield ast.Attribute(node.value, "nan", ast.Load())


def condition(node: ast.AST, parent: ast.AST, field: str) -> Iterator[ast.AST]:
    """A condition that is always True, always False, or its contrary; `and` for `or`; a part of it alone."""
    if field in ("test", "ifs"):
        yield from (ast.Constant(True), ast.Constant(False), ast.UnaryOp(ast.Not(), _expr(node)))
    if isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        yield from node.values
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(node.test, node.orelse, node.body)


def statement(node: ast.AST, parent: ast.AST, field: str) -> Iterator[ast.AST]:
    """Nothing in place of a statement."""
    if isinstance(node, ast.stmt) and not isinstance(node, COMPILED_AWAY):
        yield ast.Pass()


def kin(node: ast.AST, parent: ast.AST, field: str) -> Iterator[ast.AST]:
    """A name for another of its family."""
    if isinstance(node, ast.Attribute):
        for attr in KIN.get(node.attr, ()):
            yield ast.Attribute(node.value, attr, ast.Load())
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        for name in KIN.get(node.id, ()):
            yield ast.Name(name, ast.Load())


def dropped_call(node: ast.AST, parent: ast.AST, field: str) -> Iterator[ast.AST]:
    """The receiver for its method's result, the first argument for a function's; a matrix for its .mT."""
    if isinstance(node, ast.Attribute) and node.attr == "mT":
        yield node.value
    if not isinstance(node, ast.Call):
        return
    if isinstance(node.func, ast.Attribute) and not _is_module(node.func.value):
        yield node.func.value
    elif node.args and not isinstance(node.args[0], ast.Starred):
        yield node.args[0]


def arguments(node: ast.AST, parent: ast.AST, field: str) -> Iterator[ast.AST]:
    """Two neighbours exchanged, of a call's arguments or a tuple; a keyword argument left out."""
    if isinstance(node, ast.Call):
        for args in _exchanged(node.args):
            yield ast.Call(node.func, args, node.keywords)
        for keyword in node.keywords:
            yield ast.Call(node.func, node.args, [k for k in node.keywords if k is not keyword])
    elif isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Load):
        for elements in _exchanged(node.elts):
            yield ast.Tuple(elements, ast.Load())


def element(node: ast.AST, parent: ast.AST, field: str) -> Iterator[ast.AST]:
    """A constant tuple without one of its elements."""
    if isinstance(node, ast.Tuple) and isinstance(parent, ast.Assign) and field == "value":
        for left_out in node.elts:
            yield ast.Tuple([x for x in node.elts if x is not left_out], ast.Load())


def bound(node: ast.AST, parent: ast.AST, field: str) -> Iterator[ast.AST]:
    """A count, an index or a slice's end moved by one."""
    if isinstance(node, ast.Slice):
        yield ast.Slice(ast.Constant(1) if node.lower is None else None, node.upper)
        yield ast.Slice(node.lower, ast.Constant(-1) if node.upper is None else None)
    elif isinstance(node, ast.expr) and _counts(node) and not isinstance(parent, ast.keyword):
        yield ast.BinOp(node, ast.Add(), ast.Constant(1))
        yield ast.BinOp(node, ast.Sub(), ast.Constant(1))


def result(node: ast.AST, parent: ast.AST, field: str) -> Iterator[ast.AST]:
    """What is returned or assigned negated; None returned."""
    if _is_result(node, parent, field):
        yield ast.UnaryOp(ast.USub(), _expr(node))
    if isinstance(parent, ast.Return):
        yield ast.Constant(None)


def detached(node: ast.AST, parent: ast.AST, field: str) -> Iterator[ast.AST]:
    """What is returned or assigned detached."""
    if _is_result(node, parent, field):
        yield ast.Call(ast.Attribute(_expr(node), "detach", ast.Load()), [], [])


OPERATORS: tuple[Operator, ...] = (
    arithmetic, comparison, constant, infinity, condition, statement,
    kin, dropped_call, arguments, element, bound, result, detached,
)  # fmt: skip


def _expr(node: ast.AST) -> ast.expr:
    assert isinstance(node, ast.expr)
    return node


def _is_result(node: ast.AST, parent: ast.AST, field: str) -> bool:
    """Whether a value is returned or assigned, alone or in a tuple, and may be a tensor."""
    values = (ast.Call, ast.BinOp, ast.Name, ast.Subscript, ast.IfExp)
    tupled = isinstance(parent, ast.Tuple) and isinstance(parent.ctx, ast.Load)
    placed = isinstance(parent, ast.Return | ast.Assign | ast.AugAssign) and not field.startswith("target")
    return isinstance(node, values) and (placed or tupled) and not _counts(node)


def _is_module(node: ast.expr) -> bool:
    """torch, or torch.compiler, or math: no value."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id in MODULES


def _exchanged(items: list[ast.expr]) -> Iterator[list[ast.expr]]:
    for n in range(len(items) - 1):
        yield [*items[:n], items[n + 1], items[n], *items[n + 2 :]]


def _counts(node: ast.AST) -> bool:
    """Whether it looks like an integer: a length, an index, an end of a slice."""
    if isinstance(node, ast.Name):
        return node.id in COUNTS and isinstance(node.ctx, ast.Load)
    if isinstance(node, ast.Attribute):
        return node.attr in COUNTS and isinstance(node.value, ast.Name)
    if isinstance(node, ast.Subscript):
        whole = isinstance(node.slice, ast.Slice | ast.Tuple)
        return isinstance(node.value, ast.Attribute) and node.value.attr == "shape" and not whole
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ("len", "min", "max")
    return isinstance(node, ast.BinOp) and (_counts(node.left) or _counts(node.right))
