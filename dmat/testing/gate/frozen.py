"""A contract frozen in a file, with its digest: CONTRACT.json. Loads no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from dmat.testing.contract import FUSED, AnyContract, Contract, FusedContract
from dmat.testing.errors import CannotRun


class Frozen(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of the file. promises: fields of the contract; the others are the strictest.

    shapes: sizes (B, NH, S) or (B, NH, S, K, V) that are tried too. digest: sha256 of the rest as JSON, its
    names in order and without spaces.
    """

    format: Literal[1] = 1
    kind: Literal["D~", "fused"]
    promises: dict[str, Any]
    shapes: list[list[int]] = []
    digest: str = ""

    def true_digest(self) -> str:
        """Return the digest of everything but the digest."""
        rest = {name: x for name, x in msgspec.to_builtins(self).items() if name != "digest"}
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def contract(self) -> AnyContract:
        """The contract. Raises TypeError or ValueError for what no contract promises."""
        promises = {name: _as_tuples(value) for name, value in self.promises.items()}
        return FusedContract(**promises) if self.kind == FUSED else Contract(**promises)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def parsed(text: str, file: str = "CONTRACT") -> Frozen:
    """Return the frozen contract of a file's text. Raises CannotRun, one line, for what is none.

    file: the name of the file, for the message.
    """
    try:
        frozen = msgspec.json.decode(text, type=Frozen)
    except msgspec.MsgspecError as error:
        raise CannotRun(f"{file} is no frozen contract: {error}") from None
    if frozen.digest != frozen.true_digest():
        raise CannotRun(f"{file} was changed after it was frozen: its digest is not that of its content")
    if any(len(sizes) not in (3, 5) or min(sizes) < 1 for sizes in frozen.shapes):
        raise CannotRun(f"{file} has shapes {frozen.shapes}; expected [B, NH, S] or [B, NH, S, K, V] each")
    try:
        frozen.contract  # noqa: B018
    except (TypeError, ValueError) as error:
        raise CannotRun(f"{file} has no contract: {error}") from None
    return frozen


def read(file: Path) -> str:
    """Return the text of the file. Raises CannotRun if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CannotRun(f"{file} cannot be read: {error}") from None


def frozen_of(contract: AnyContract, shapes: Sequence[Sequence[int]]) -> str:
    """Return a contract as the text of a file. Raises CannotRun for a promise that JSON cannot hold."""
    stated = {"dtypes": contract.dtypes, "devices": contract.devices, **contract.stated()}
    try:
        promises = json.loads(json.dumps(stated))
    except TypeError:
        names = ", ".join(name for name, value in stated.items() if callable(value))
        raise CannotRun(f"the contract states {names}, a function, which no file can hold") from None
    kind: Any = contract.kind
    made = Frozen(kind=kind, promises=promises, shapes=[list(sizes) for sizes in shapes])
    if made.contract != contract:
        raise CannotRun("the contract states a value that no file can hold")
    whole = msgspec.structs.replace(made, digest=made.true_digest())
    return json.dumps(msgspec.to_builtins(whole), indent=2)
