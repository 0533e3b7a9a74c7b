"""Large outputs ask for large pages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmat.pages import LARGE, on_large_pages

SMAPS = Path("/proc/self/smaps")


def asked_for_large_pages(x: Tensor) -> bool:
    """Whether the mapping that holds the middle of x is flagged `hg`, as madvise leaves it."""
    middle, inside = x.data_ptr() + x.numel() * x.element_size() // 2, False
    for line in SMAPS.read_text().splitlines():
        head = line.split(maxsplit=1)[0]
        if "-" in head and not head.endswith(":"):
            start, end = (int(address, 16) for address in head.split("-"))
            inside = start <= middle < end
        elif inside and head == "VmFlags:":
            return "hg" in line.split()
    raise AssertionError("no mapping holds the tensor")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes the advice")
def test_a_large_output_is_on_large_pages() -> None:
    """Far above LARGE the advice is given, and the tensor is the same."""
    if not SMAPS.exists() or "VmFlags:" not in SMAPS.read_text():
        pytest.skip("this kernel does not tell what was advised")
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this kernel has no transparent huge pages")
    large, small = torch.empty(16 * LARGE, dtype=torch.uint8), torch.empty(LARGE - 1, dtype=torch.uint8)
    assert on_large_pages(large) is large
    assert on_large_pages(small) is small
    assert asked_for_large_pages(large)


def test_what_has_no_memory_is_left_alone() -> None:
    """A tensor on another device has no pages here."""
    x = torch.empty(LARGE, device="meta")
    assert on_large_pages(x) is x
