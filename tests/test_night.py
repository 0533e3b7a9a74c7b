"""night.py names tests that exist."""

from __future__ import annotations

from pathlib import Path

from .night import NIGHT

HERE = Path(__file__).parent
LAWS = HERE.parent / "properties"


def test_every_row_names_a_test() -> None:
    """A row whose test was renamed would put the slow test back into `make test` unseen."""
    for row in NIGHT:
        name, _, function = row.partition("::")
        file = next(folder / name for folder in (HERE, LAWS) if (folder / name).is_file())
        assert f"def {function}(" in file.read_text(), row
