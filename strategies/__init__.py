"""The inputs of the laws: recipes for gates, cotangents and q, k, v, and strategies that draw them.

A recipe is a frozen dataclass. Its repr, evaluated with this module's names, gives an equal recipe.
"""

from dmat.strategies.drawing import exact_gates, gates
from dmat.strategies.recipes.backgrounds import (
    Constant,
    Cycle,
    Diagonal,
    Edited,
    Heads,
    Normal,
    Palette,
    Ramp,
    Row,
    Stored,
    Sum,
    Within,
    inf,
    nan,
)
from dmat.strategies.recipes.cotangents import Cotangent, cotangents, exact_cotangents
from dmat.strategies.recipes.gates import Gates, MinusWindow
from dmat.strategies.recipes.layouts import COTANGENT_LAYOUTS, GATE_LAYOUTS, lay_out
from dmat.strategies.recipes.qkv import QKV, DeltaQKV
from dmat.strategies.shapes import shapes

__all__ = [
    "COTANGENT_LAYOUTS",
    "GATE_LAYOUTS",
    "QKV",
    "Constant",
    "Cotangent",
    "Cycle",
    "DeltaQKV",
    "Diagonal",
    "Edited",
    "Gates",
    "Heads",
    "MinusWindow",
    "Normal",
    "Palette",
    "Ramp",
    "Row",
    "Stored",
    "Sum",
    "Within",
    "cotangents",
    "exact_cotangents",
    "exact_gates",
    "gates",
    "inf",
    "lay_out",
    "nan",
    "shapes",
]
