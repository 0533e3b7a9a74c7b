"""The journal folder of a pytest run: all its processes share it, and it is deleted when the run ends."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

JOURNALS = pytest.StashKey[Path]()


def journals_of(config: pytest.Config) -> Path:
    """Return the journal folder of this run. The first call makes it; the end of the run deletes it."""
    if JOURNALS not in config.stash:
        folder = config.stash[JOURNALS] = Path(tempfile.mkdtemp(prefix="dmat-journals-"))
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    return config.stash[JOURNALS]
