"""docs/notebook.ipynb, executed. `python -m tests.notebook` stores the outputs of its cells."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nbclient
import nbformat

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "notebook.ipynb"


def stored() -> Any:
    """Return the notebook as it is stored."""
    return nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]


def executed(folder: str | Path) -> Any:
    """Return the notebook with the outputs of a new process. folder: where it keeps a counterexample."""
    notebook = stored()
    where = {"metadata": {"path": str(folder)}}
    return nbclient.NotebookClient(notebook, timeout=300, record_timing=False, resources=where).execute()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(executed(folder), NOTEBOOK)  # type: ignore[no-untyped-call]
