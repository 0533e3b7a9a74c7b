"""`python -m benchmarks first-gpu`: what a first GPU is asked, in at most eight minutes, most telling first.

Each part is a process with a limit of its own. The page is written again as each part ends, so that an abort
keeps what is done. A part that raises or does not end is a line, and the next part goes on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path

from dmat.testing import devices

from . import write

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 480.0  # of all parts together
MOST_SHOWN = 4000  # characters of a part's output: its end
OPERATOR = "dmat.operator:dtilde"
DMAT = (sys.executable, "-m", "dmat.testing.cli")


@dataclass(frozen=True)
class Part:
    """A part of the page. seconds: its limit. needs: a package without which it is not run."""

    title: str
    seconds: float
    command: tuple[str, ...]
    needs: str = ""


def parts(device: str) -> list[Part]:
    """Return the parts for this device, most telling first."""
    check, place = (*DMAT, "check"), ("--device", device)
    pytest = (sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider")
    laws = ("--pyargs", "dmat.properties.test_law_cuda", "--dmat-impl", OPERATOR, "--dmat-device", device)
    published = (*check, *place, "--dtype", "float32", "--examples", "5")
    fla = str(ROOT / "examples" / "third_party" / "fla_triton.py")
    return [
        Part("Driver and versions", 20, _code(f"versions({device!r})")),
        Part("The operator's laws", 110, (*check, OPERATOR, *place, "--examples", "20", "--verbose")),
        Part("The laws of accelerators", 70, (*pytest, *laws, "--dmat-examples", "5")),
        Part("Against fill bandwidth", 80, _code(f"bandwidth({device!r})")),
        Part("The same bits, and past 2^31 entries", 25, _code("bits()")),
        Part("compute-sanitizer", 50, _code("sanitizer()")),
        Part("fla: chunk_gla under its contract", 40, (*published, f"{fla}:chunk_gla"), "fla"),
        Part("fla: the gated delta rule", 40, (*published, f"{fla}:chunk_gated_delta_rule"), "fla"),
        Part("The interpreter against the device", 45, _code(f"interpreter({device!r})"), "triton"),
    ]


def _code(call: str) -> tuple[str, ...]:
    return sys.executable, "-c", f"from benchmarks import on_first_gpu; on_first_gpu.{call}"


def outcome(part: Part, seconds: float) -> str:
    """Run a part for at most so many seconds. Return what it printed, after a line on how it ended."""
    if part.needs and find_spec(part.needs) is None:
        return f"not run: {part.needs} is not installed\n"
    if seconds <= 0:
        return "not run: the time of all parts is over\n"
    began = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            part.command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            ended = f"exit {process.wait(seconds)}"
        except subprocess.TimeoutExpired:
            ended = f"ended at its limit of {seconds:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        text = output.read()
    shown = text.strip()[-MOST_SHOWN:]
    return f"{ended}, {time.monotonic() - began:.1f} s\n\n```\n{shown}\n```\n"


def measure(device: str, every: Iterable[Part], page: Path, seconds: float = SECONDS) -> None:
    """Run the parts one after the other, and write the page as each of them ends."""
    text, end = f"{write.heading(device)}\n", time.monotonic() + seconds
    for part in every:
        print(f"{part.title} ...", flush=True)
        text += f"## {part.title}\n\n{outcome(part, min(part.seconds, end - time.monotonic()))}\n"
        page.write_text(text)


def main(out: Path) -> int:
    """Measure the accelerator of this machine. Return 2 if there is none."""
    device = devices.accelerator()
    if device is None:
        print("first-gpu: torch finds no accelerator on this machine", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    page = out / f"{date.today()}-{device}-first-gpu.md"
    measure(device, parts(device), page)
    print(page)
    return 0
