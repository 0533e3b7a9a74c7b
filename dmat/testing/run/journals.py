"""The folder of the journals of a pytest run's processes. It is deleted when the run ends."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

JOURNALS = pytest.StashKey[Path]()


def journals_of(config: pytest.Config) -> Path:
    """Return the folder in which every process of this run keeps its journal; it goes when the run ends."""
    if JOURNALS not in config.stash:
        folder = config.stash[JOURNALS] = Path(tempfile.mkdtemp(prefix="dmat-journals-"))
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    return config.stash[JOURNALS]
