"""dmat's operators as citizens of torch: opcheck, compiled transforms, export, meta, autocast, out=."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from dmat import dtilde, rectangle_sum, segment_sum

S = 70  # longer than one square of the CPU path

# Torch's own: on the first use of forward mode in a process, and inside dynamo.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace:UserWarning"),
]


@pytest.fixture(autouse=True)
def own_randomness(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give each test random numbers that depend on its name alone, and forget what it compiled."""
    with torch.random.fork_rng():
        torch.manual_seed(zlib.crc32(request.node.name.encode()))
        yield
    torch._dynamo.reset()


def gates(S: int = S, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    i, f = (torch.randn(2, 3, S, 1, dtype=torch.float64).to(dtype) for _ in "if")
    return i, f


def causal(i: Tensor, f: Tensor) -> Tensor:
    """D~ with 0 for its future."""
    D = dtilde(i, f)
    return torch.where(torch.ones_like(D, dtype=torch.bool).tril(), D, 0.0)


def loss(i: Tensor, f: Tensor) -> Tensor:
    """Something whose second derivatives are not 0."""
    return causal(i, f).square().sum()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Traced whole, differentiated by torch's tracer, run without a C++ compiler."""
    result: Callable[..., Any] = torch.compile(function, fullgraph=True, backend="aot_eager")
    return result


def same(a: Any, b: Any) -> bool:
    """Equal bits, in any nest of tuples."""
    return torch.utils._pytree.tree_all(
        lambda equal: equal, torch.utils._pytree.tree_map(lambda x, y: bool(torch.equal(x, y)), a, b)
    )


OPERATORS: dict[str, Callable[[], tuple[Any, tuple[Any, ...]]]] = {
    "window_sums": lambda: (torch.ops.dmat.window_sums, (*vectors(), -torch.inf, False, torch.float32)),
    "window_sums, linear": lambda: (torch.ops.dmat.window_sums, (*vectors(), None, True, torch.float64)),
    "rectangle_sums": lambda: (torch.ops.dmat.rectangle_sums, (leaf(2, S, S), False)),
    "rectangle_sums, summed": lambda: (torch.ops.dmat.rectangle_sums, (leaf(2, S, S), True)),
    "window_sums_out": lambda: (
        torch.ops.dmat.window_sums_out,
        (*(x.detach() for x in vectors()), -torch.inf, torch.empty(2, S, S)),
    ),
}


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def vectors() -> tuple[Tensor, Tensor]:
    return leaf(2, S), leaf(2, S)


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name: str) -> None:
    """torch.library.opcheck finds schema, fake kernel, autograd and tracing right."""
    op, args = OPERATORS[name]()
    assert set(torch.library.opcheck(op, args).values()) == {"SUCCESS"}


TRANSFORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "forward": causal,
    "grad": lambda i, f: grad(loss, (0, 1))(i, f),
    "vjp": lambda i, f: vjp(causal, i, f)[1](i.mT * f),
    "jvp": lambda i, f: jvp(causal, (i, f), (f, i)),
    "vmap": lambda i, f: vmap(dtilde, in_dims=2, out_dims=2)(i.unsqueeze(2), f.unsqueeze(2)),
    "vmap of grad": lambda i, f: vmap(grad(loss, (0, 1)), in_dims=1)(i.unsqueeze(1), f.unsqueeze(1)),
    "grad of grad": lambda i, f: grad(lambda f: grad(loss, 1)(i, f).square().sum())(f),
    "grad of jvp": lambda i, f: grad(lambda f: jvp(causal, (i, f), (f, i))[1].square().sum())(f),
    "jvp of jvp": lambda i, f: jvp(lambda f: jvp(causal, (i, f), (f, i))[1], (f,), (i,)),
    "jvp of grad": lambda i, f: jvp(lambda f: grad(loss, 1)(i, f), (f,), (i,)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_compiled_transform_is_the_transform(name: str) -> None:
    """torch.compile(fullgraph=True) of each transform of torch.func, nested ones too, gives the same bits."""
    transform, (i, f) = TRANSFORMS[name], gates()
    assert same(compiled(transform)(i, f), transform(i, f))


@pytest.mark.parametrize("mode", [jacrev, jacfwd, hessian])
def test_a_compiled_jacobian_is_the_jacobian(mode: Callable[..., Any]) -> None:
    """The same of whole Jacobians and Hessians, which batch their cotangents and tangents by vmap."""
    i, f = (x[:1, :1] for x in gates(6))
    assert same(compiled(mode(loss, 1))(i, f), mode(loss, 1)(i, f))


def test_a_compiled_operator_carries_tangents() -> None:
    """A dual number through a compiled D~ has the tangent of the plain call."""
    (i, f), traced = gates(), compiled(causal)
    with dual_level():
        duals = make_dual(i, f), make_dual(f, i)  # type: ignore[no-untyped-call]
        out, plain = unpack_dual(traced(*duals)), unpack_dual(causal(*duals))  # type: ignore[no-untyped-call]
        assert same(tuple(out), tuple(plain))


def test_the_jacobian_in_one_batch() -> None:
    """is_grads_batched=True gives what one call for each cotangent gives."""
    i, f = (x.requires_grad_() for x in gates())
    out, G = causal(i, f), torch.randn(3, 2, 3, S, S, dtype=torch.float64)
    at_once = torch.autograd.grad(out, (i, f), G, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(out, (i, f), g, retain_graph=True) for g in G]
    assert same(at_once, tuple(torch.stack(x) for x in zip(*each, strict=True)))


def test_one_graph_serves_all_lengths() -> None:
    """A second length recompiles once, for any length; a third does not."""
    graphs = torch._dynamo.testing.CompileCounter()
    traced = torch.compile(dtilde, fullgraph=True, backend=graphs)
    for length in (5, 70, 131):
        i, f = gates(length)
        assert same(traced(i, f), dtilde(i, f))
    assert graphs.frame_count == 2


def test_export() -> None:
    """torch.export of D~ with a dynamic length gives the same bits at another length."""

    class Module(torch.nn.Module):
        def forward(self, i: Tensor, f: Tensor) -> Tensor:
            return dtilde(i, f)

    length = torch.export.Dim("S", min=2, max=512)
    shapes = {"i": {2: length}, "f": {2: length}}
    program = torch.export.export(Module(), gates(16), dynamic_shapes=shapes)
    i, f = gates(S)
    assert same(program.module()(i, f), dtilde(i, f))


def test_meta_tensors() -> None:
    """On meta tensors shapes and dtypes come out, and nothing is computed."""
    i, f = (x.to("meta") for x in gates(S, torch.bfloat16))
    D = dtilde(i, f)
    assert (D.shape, D.dtype, D.device.type) == ((2, 3, S, S), torch.bfloat16, "meta")
    assert rectangle_sum(segment_sum(i.squeeze(-1))).shape == (2, 3, S)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    """Under autocast D~ and its gradients have the dtype of the gates and the same bits."""
    i, f = (x.float().requires_grad_() for x in gates())
    plain = torch.autograd.grad(loss(i, f), (i, f))
    with torch.autocast("cpu", dtype=dtype):
        D = dtilde(i, f)
        assert D.dtype == torch.float32
        assert same(torch.autograd.grad(loss(i, f), (i, f)), plain)


# out=


def as_it_was(S: int, dtype: torch.dtype) -> Tensor:
    return torch.full((2, 3, S, S), 7.0, dtype=dtype)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.mT.contiguous().mT,
    "heads last": lambda x: x.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1),
    "batch in the middle": lambda x: x.permute(1, 2, 0, 3).contiguous().permute(2, 0, 1, 3),
    "every other": lambda x: torch.full((2, 3, 2 * x.shape[2], 2 * x.shape[3]), 7.0, dtype=x.dtype)[
        ..., 1::2, ::2
    ],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("S", [0, 1, 16, 64, 65, 200])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_out_holds_what_a_new_tensor_would(layout: str, S: int, dtype: torch.dtype) -> None:
    """dtilde(.., out=x) is x, and has the bits of dtilde(..), whatever the strides of x."""
    out = LAYOUTS[layout](as_it_was(S, dtype))
    i, f = gates(S, dtype)
    assert dtilde(i, f, out=out) is out
    assert same(out, dtilde(i, f))


def test_out_writes_nothing_else() -> None:
    """What lies between the elements of out is not written."""
    whole = torch.full((2, 3, 2 * S, 2 * S), 7.0, dtype=torch.float64)
    dtilde(*gates(), out=whole[..., 1::2, ::2])
    whole[..., 1::2, ::2] = 7.0
    assert bool((whole == 7.0).all())


def test_out_over_the_gates() -> None:
    """Out may lie over the gates: these are read first."""
    memory = torch.randn(2, 3, 128, 128, dtype=torch.float64)  # a length for which nothing is padded
    i, f = memory[..., :1], memory[..., 1:2]
    expected = dtilde(i, f)
    assert same(dtilde(i, f, out=memory), expected)


def test_out_compiled() -> None:
    """Compiled, out= is written too."""
    i, f = gates()
    out = torch.empty(2, 3, S, S, dtype=torch.float64)
    compiled(lambda i, f, out: dtilde(i, f, out=out))(i, f, out)
    assert same(out, dtilde(i, f))


def wrong_out() -> dict[str, tuple[Callable[[], Tensor], type[Exception], str]]:
    return {
        "dtype": (
            lambda: torch.empty(2, 3, S, S),
            TypeError,
            "out has dtype torch.float32; expected torch.float64",
        ),
        "shape": (
            lambda: torch.empty(2, 3, S, 1, dtype=torch.float64),
            ValueError,
            r"out has shape \(2, 3, 70, 1\); expected \(2, 3, 70, 70\)",
        ),
        "device": (
            lambda: torch.empty(2, 3, S, S, dtype=torch.float64, device="meta"),
            ValueError,
            "out has device meta; expected cpu",
        ),
        "expanded": (
            lambda: torch.empty(3, S, S, dtype=torch.float64).expand(2, -1, -1, -1),
            ValueError,
            "elements share memory",
        ),
        "overlapping": (
            lambda: torch.empty(50000, dtype=torch.float64).as_strided((2, 3, S, S), (14700, 4900, 69, 1)),
            ValueError,
            "elements share memory",
        ),
    }


@pytest.mark.parametrize("what", wrong_out())
def test_a_wrong_out_is_refused_and_left_alone(what: str) -> None:
    """The error names out, what it is and what was expected."""
    make, error, message = wrong_out()[what]
    with pytest.raises(error, match=message):
        dtilde(*gates(), out=make())


@pytest.mark.parametrize("which", ["igate_preact", "fgate_preact", "out"])
def test_out_refuses_to_lose_a_derivative(which: str) -> None:
    """With out= there is no derivative: a gate or an out that needs one is an error, and out is unwritten."""
    i, f = gates()
    out = as_it_was(S, torch.float64)
    {"igate_preact": i, "fgate_preact": f, "out": out}[which].requires_grad_()
    with pytest.raises(RuntimeError, match=f"out is given and {which} needs a derivative"):
        dtilde(i, f, out=out)
    assert bool((out == 7.0).all())
    with torch.no_grad():
        dtilde(i, f, out=out)


def test_out_refuses_to_lose_a_tangent() -> None:
    """The same in forward mode."""
    i, f = gates()
    with pytest.raises(RuntimeError, match="igate_preact needs a derivative"):
        jvp(lambda i: dtilde(i, f, out=as_it_was(S, torch.float64)), (i,), (f,))
