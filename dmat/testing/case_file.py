"""The format of case.json, the file of a counterexample, and a reader that does not trust the file.

The format mirrors the recipes: each recipe is a JSON object with its class name under "type". Infinities and
NaN are the strings "inf", "-inf", "nan". Random numbers of a recipe are stored in tensors.safetensors in the
same folder, because a random generator may change between versions. The reader validates the whole file,
evaluates nothing, and imports nothing that the file names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import msgspec
import numpy as np
from msgspec import Meta, Struct

from dmat.strategies.recipes.backgrounds import Background, Normal, Palette, Stored
from dmat.strategies.recipes.cotangents import Cotangent
from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.layouts import COTANGENT_LAYOUTS, GATE_LAYOUTS
from dmat.strategies.recipes.qkv import QKV, DeltaQKV
from dmat.strategies.recipes.recipe import Case, Recipe
from dmat.testing.errors import CaseError
from dmat.testing.record import Device, Ended, What

FILE, TENSORS = "case.json", "tensors.safetensors"


LARGEST_FILE = 2**24  # bytes


MOST_ENTRIES = 2**28  # of D~ for the gates of a case; a shape that a law itself sets is not limited


BACKGROUNDS = tuple(Background.__subclasses__())


OLD_NAMES = {"again": "reproducible", "probe": "qkv"}  # names in older files


# The format

Number = Union[float, Literal["inf", "-inf", "nan"]]  # noqa: UP007  # JSON has no infinities


Integer = Annotated[int, Meta(ge=-(2**40), le=2**40)]


Length = Annotated[int, Meta(ge=0, le=2**32)]


Name = Annotated[str, Meta(max_length=500, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]


Text = Annotated[str, Meta(max_length=20_000, pattern=r"^[^\x00-\x09\x0b-\x1f\x7f-\x9f]*$")]


Dtype = Literal["float32", "bfloat16", "float64", "float16"]


_OF_FIELD = {
    "dtype": Dtype,
    "igate_layout": Literal[tuple(GATE_LAYOUTS)],
    "fgate_layout": Literal[tuple(GATE_LAYOUTS)],
    "layout": Literal[tuple(COTANGENT_LAYOUTS)],
}


_OF_TYPE = {
    "float": Number,
    "int": Integer,
    "str": Name,
    "tuple[float, ...]": Annotated[tuple[Number, ...], Meta(min_length=1, max_length=1000)],
    "tuple[int, int, int]": tuple[Length, Length, Length],
    "tuple[tuple[tuple[int, ...], float], ...]": Annotated[
        tuple[tuple[Annotated[tuple[Integer, ...], Meta(max_length=4)], Number], ...],
        Meta(max_length=100_000),
    ],
    "Background": "AnyBackground",
    "tuple[Background, ...]": Annotated[
        tuple["AnyBackground", ...],  # type: ignore[valid-type]
        Meta(min_length=1, max_length=1000),
    ],
}


def _form(recipe: type[Recipe]) -> Any:
    """Make the struct of a recipe class: its fields, tagged with the class name under "type"."""
    return msgspec.defstruct(
        f"{recipe.__name__}Form",
        [_field(f) for f in fields(recipe)],  # type: ignore[arg-type]
        module=__name__,
        tag=recipe.__name__,
        frozen=True,
        forbid_unknown_fields=True,
    )


def _field(f: Field[Any]) -> tuple[str, Any] | tuple[str, Any, Any]:
    wanted = _OF_FIELD.get(f.name) or _OF_TYPE[str(f.type)]
    if f.default is MISSING:
        return f.name, wanted
    return f.name, wanted, msgspec.field(default_factory=lambda: as_plain(f.default))


def as_plain(value: Any) -> Any:
    """Return a value of a case in the format: a recipe becomes its struct, a non-finite float a string."""
    if isinstance(value, Recipe):
        form = FORMS[type(value)]
        return form(**{name: as_plain(getattr(value, name)) for name in form.__struct_fields__})
    if isinstance(value, tuple):
        return tuple(as_plain(item) for item in value)
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value


def as_recipe(value: Any, folder: Path | None) -> Any:
    """Return the value that `as_plain` converted: a struct becomes its recipe.

    folder: folder of tensors.safetensors. None: each `Stored` background keeps its own path.
    """
    if isinstance(value, Struct):
        kind = KINDS[type(value)]
        with_stored_randoms = {
            name: as_recipe(getattr(value, name), folder) for name in value.__struct_fields__
        }
        if kind is Stored and folder is not None:
            with_stored_randoms["file"] = str(_beside(folder, with_stored_randoms["file"]))
        return kind(**with_stored_randoms)
    if isinstance(value, tuple):
        return tuple(as_recipe(item, folder) for item in value)
    return float(value) if value in ("inf", "-inf", "nan") else value


def _beside(folder: Path, file: str) -> Path:
    if not re.fullmatch(r"[\w.-]+\.safetensors", file):
        raise CaseError(f"the case asks for values of {file}; expected {TENSORS}, beside it")
    return folder / file


FORMS: dict[type[Recipe], Any] = {kind: _form(kind) for kind in BACKGROUNDS}


AnyBackground = Union[tuple(FORMS.values())]  # type: ignore[valid-type]  # noqa: UP007


FORMS |= {kind: _form(kind) for kind in (Gates, Cotangent, QKV, DeltaQKV)}


KINDS = {form: kind for kind, form in FORMS.items()}


GatesForm, CotangentForm, QKVForm = FORMS[Gates], FORMS[Cotangent], FORMS[QKV] | FORMS[DeltaQKV]


class Parts(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The arguments of a law, those that it takes."""

    gates: GatesForm | None = None  # type: ignore[valid-type]
    rival: GatesForm | None = None  # type: ignore[valid-type]
    direction: GatesForm | None = None  # type: ignore[valid-type]
    cotangent: CotangentForm | None = None  # type: ignore[valid-type]
    qkv: QKVForm | None = None  # type: ignore[valid-type]
    noise: Length | None = None
    head: tuple[Length, Length] | None = None
    t: Length | None = None
    s: Length | None = None
    cut: Length | None = None
    shape: tuple[Length, Length, Length] | None = None


class FindingForm(Struct, frozen=True, forbid_unknown_fields=True):
    """The broken entry: dmat.testing.verdict.finding.Finding. error and allowed are absolute.

    what: as of a Finding; a case.json of format 1 does not say it.
    """

    quantity: Name
    index: tuple[Length, ...]
    computed: Text
    exact: Text
    error: Number | None = None
    allowed: Number | None = None
    note: Text = ""
    what: What | None = None


class CaseFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A counterexample.

    implementation: the TARGET as it was named. It is shown, never imported. ended: "broken"; "died" or
    "did not end" if the case ended its process. reproducible: the case broke the law at every try.
    seed: the seed of torch's generator. versions: the versions of the packages. machine: the device in words.
    format: 2. An older file has 1 or no format, and its finding has no `what`.
    """

    law: Name
    implementation: Name
    dtype: Dtype
    device: Device
    case: Parts
    ended: Ended = "broken"
    reproducible: bool = True
    finding: FindingForm | None = None
    versions: dict[Name, Name] = {}
    machine: Text = ""
    seed: int = 0
    format: Literal[1, 2] = 1


# Reading and writing


def parts_of(case: Case) -> Parts:
    """Return the case in the format."""
    return Parts(**{name: as_plain(part) for name, part in case.items()})


def case_of(parts: Parts, folder: Path | None) -> Case:
    """Return the case that the parts describe. Raises CaseError if it cannot be built.

    folder: folder of tensors.safetensors. None: each `Stored` background keeps its own path, which is safe
    only for a case that this run itself has written.
    """
    with_stored_randoms = {name: getattr(parts, name) for name in parts.__struct_fields__}
    try:
        case = {
            name: as_recipe(part, folder) for name, part in with_stored_randoms.items() if part is not None
        }
        _build(case)
    except CaseError:
        raise
    except Exception as error:  # numpy and torch raise their own errors for values that fit no tensor
        text = str(error).splitlines()
        raise CaseError(f"the case cannot be built: {text[0] if text else type(error).__name__}") from None
    return case


def _build(case: Case) -> None:
    """Check the sizes of the case, then build its gates and cotangents. Raises CaseError if too large."""
    for name, part in case.items():
        if isinstance(part, Gates):
            entries = math.prod(part.shape) * max(part.shape[-1], 1)
            if entries > MOST_ENTRIES:
                raise CaseError(f"the case asks for D~ of {entries} entries; expected at most {MOST_ENTRIES}")
            if part.shape != case["gates"].shape:
                raise CaseError(f"{name} is {part.shape}; expected the shape of gates, {case['gates'].shape}")
    for part in case.values():
        if isinstance(part, Gates):
            part.dense()
        if isinstance(part, Cotangent):
            part.build(case["gates"])


def encoded(case: Case) -> str:
    """Return a case as one line of JSON."""
    return msgspec.json.encode(parts_of(case)).decode()


def decoded(line: str) -> Case:
    """Return the case from a line that `encoded` wrote."""
    return case_of(msgspec.json.decode(line, type=Parts), None)


def read(file: Path) -> CaseFile:
    """Read a case.json. Raises CaseError, which says in one line what is wrong with the file and where."""
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise CaseError(f"{file} has {file.stat().st_size} bytes; expected at most {LARGEST_FILE}")
        return msgspec.convert(_renamed(msgspec.json.decode(file.read_bytes())), CaseFile)
    except OSError as error:
        raise CaseError(f"{file} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise CaseError(f"{file} is no case: it is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise CaseError(f"{file} is no case: {error}") from None


def _renamed(content: Any) -> Any:
    """Return the content of a case.json with the names of today: older files say Probe, probe and again."""
    if not isinstance(content, dict):
        return content
    for old, new in OLD_NAMES.items():
        for names in (content, content.get("case")):
            if isinstance(names, dict) and old in names and new not in names:
                names[new] = names.pop(old)
    qkv = content["case"].get("qkv") if isinstance(content.get("case"), dict) else None
    if isinstance(qkv, dict) and qkv.get("type") == "Probe":
        qkv["type"] = "QKV"
    return content


def text_of(file: CaseFile) -> str:
    """Return the content of case.json as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(file), indent=2).decode() + "\n"


def with_stored_randoms(case: Case) -> tuple[Case, Mapping[str, Any]]:
    """Replace the random backgrounds of a case by stored ones. Return the new case and the tensors to store.

    The tensors are float64, one for each replaced field, named like "gates.fgate".
    """
    stored: dict[str, Any] = {}
    kept = {
        name: _with_stored_randoms(part, name, case, stored) if isinstance(part, (Gates, Cotangent)) else part
        for name, part in case.items()
    }
    return kept, stored


def _with_stored_randoms(part: Any, name: str, case: Case, stored: dict[str, Any]) -> Any:
    shape = case["gates"].shape
    full = shape if isinstance(part, Gates) else (*shape, shape[-1])
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Background) and random(value):
            key = f"{name}.{field.name}"
            stored[key] = np.ascontiguousarray(value.fill(full))
            part = replace(part, **{field.name: Stored(TENSORS, key)})
    return part


def random(background: Background) -> bool:
    """Whether a background contains numbers from a random generator or from another file."""
    inner = (getattr(background, f.name) for f in fields(background))  # type: ignore[arg-type]
    drawn = isinstance(background, (Normal, Palette, Stored))
    return drawn or any(random(x) for x in inner if isinstance(x, Background))
