"""Contract fields as text for messages, and the error scopes, strictest first."""

from __future__ import annotations

from collections.abc import Mapping

from dmat.testing.contract import FusedContract, relaxations


def fields_written(stated: Mapping[str, object]) -> str:
    """Return fields as Python keyword arguments."""
    return ", ".join(f"{name}={_written(value)}" for name, value in stated.items())


def _written(value: object) -> str:
    """Return a field's value as Python. A tuple is written as a set, because its order does not matter."""
    if isinstance(value, tuple):
        members = ", ".join(_written(member) for member in value)
        return f"{{{members}}}" if members else "()"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_written(k)}: {_written(v)}" for k, v in value.items()) + "}"
    return f'"{value}"' if isinstance(value, str) else repr(value)


SCOPES = relaxations(FusedContract, "error_scope")
