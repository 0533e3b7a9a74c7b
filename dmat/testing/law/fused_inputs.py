"""The inputs of a fused kernel's calls: the tensors that laws build of recipes, and their exact values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor

from dmat.strategies.fused_domain import FusedDomain
from dmat.strategies.recipes.backgrounds import rounded
from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.layouts import lay_out
from dmat.strategies.recipes.qkv import QKV, Products
from dmat.testing.contract import FusedContract
from dmat.testing.interpret.choice import is_interpreted
from dmat.testing.kernel.call import NAN
from dmat.testing.kernel.fused import NAMES, Inputs
from dmat.testing.law.subject import Subject
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.fused_inputs import CallInputs
from dmat.testing.oracle.reads import READS, Reads


@dataclass
class FusedInputs(Subject):
    """A fused kernel in a dtype on a device, and the inputs that laws call it on."""

    @property
    def contract(self) -> FusedContract:
        """The implementation's contract."""
        return cast(FusedContract, self.implementation.contract)

    @property
    def reads(self) -> type[Reads]:
        """The kind of operator."""
        return READS[self.contract.reads]

    @property
    def letters(self) -> dict[str, str]:
        """The printed name of each tensor of a call."""
        gate = "f" if self.contract.gate == "preact" else "l"
        return dict(zip(NAMES, ("q", "k", "v", "i", gate, "beta", "S0"), strict=True))

    @cached_property
    def domain(self) -> FusedDomain:
        """The cases that the strategies may draw for this kernel."""
        contract, dtype = self.contract, self.dtype
        formats = {"dtype": contract.gates_in(dtype), "accumulator": contract.accumulator(dtype)}
        more = {"contract": contract, "scaling": self.reads.scaling, "products_dtype": dtype}
        return FusedDomain.of(contract, **more, **formats, slow=is_interpreted())

    def inputs(self, gates: Gates, qkv: QKV, poison: float = NAN) -> Inputs:
        """Build the tensors of a call, each in the memory layout of its recipe."""
        products = qkv.build(gates, self.domain)
        return self.inputs_of(gates, qkv, products, *gates.build(self.device, poison), poison)

    def inputs_of(
        self,
        gates: Gates,
        qkv: QKV,
        products: Products,
        igate: Tensor,
        fgate: Tensor,
        poison: float = NAN,
    ) -> Inputs:
        """Build the tensors of a call with these gates, (B, NH, S, 1)."""
        dtype = getattr(torch, self.dtype)
        q, k, v = (
            lay_out(rounded(x, dtype).to(self.device), layout, poison)
            for x, layout in zip((products.q, products.k, products.v), qkv.layouts, strict=True)
        )
        fixed = self.contract.gate == "fixed"
        return Inputs(
            q, k, v, igate if self.contract.igate else None, None if fixed else fgate, products.column
        )

    def read_inputs(
        self, inputs: Inputs, begins: tuple[int, ...] = (0,), *, packed: bool = False
    ) -> CallInputs:
        """Return the exact values of the inputs of a call. A gate that the kernel does not take is zeros.

        begins, packed: the fields of CallInputs.
        """
        q, k, v = (self.read(x) for x in (inputs.q, inputs.k, inputs.v))
        zeros = np.zeros(q.shape[:3])
        igate = zeros if inputs.i is None else self.read(inputs.i)[..., 0]
        fgate = self._fixed(zeros) if inputs.g is None else self.read(inputs.g)[..., 0]
        return CallInputs(q, k, v, igate, fgate, begins, packed)

    def _fixed(self, zeros: Array) -> Array:
        assert self.contract.fixed is not None
        log = np.asarray(torch.as_tensor(self.contract.fixed(zeros.shape[1])).double(), dtype=np.float64)
        return zeros + log[None, :, None]

    def cotangent(self, inputs: Inputs, qkv: QKV) -> Tensor:
        """Build the recipe's cotangent of the output of these inputs, (B, NH, S, V)."""
        dtype = getattr(torch, self.contract.returns(self.dtype))
        dense = torch.from_numpy(qkv.cotangent(tuple(inputs.v.shape))).to(self.device, dtype)
        return lay_out(dense, qkv.pull_layout) if qkv.pull_layout else dense
