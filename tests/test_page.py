"""docs/laws.md says what the laws and the zoo say."""

from __future__ import annotations

from .zoo.page import FILE, page


def test_page_is_not_stale() -> None:
    """The page in docs/ is the one that `make docs` would write now."""
    assert FILE.read_text() == page()
