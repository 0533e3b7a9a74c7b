"""Marks the tests that `make test` leaves to `make night` (night.py)."""

from __future__ import annotations

from collections import Counter

import pytest

from .night import at_night


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark with `night` what night.py names. pytest's own -m then selects."""
    numbers: Counter[str] = Counter()
    for item in items:
        function = f"{item.path.name}::{getattr(item, 'originalname', item.name)}"
        if at_night(function, numbers[function]):
            item.add_marker("night")
        numbers[function] += 1
