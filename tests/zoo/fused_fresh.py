"""Fresh cases for all sound fused kernels: `python -m tests.zoo.fused_fresh --runs N`.

A run tries every law on every kernel in float32, bfloat16 and float16: so many random examples each, after
the ladder in the first run. Of each law, kernel and dtype one accusation is printed whole, and the exit is
1. At the end, of each law, the largest error over bound that was let pass.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.registry import laws

from .fresh import Accusation, accusations, ladder_accusations
from .fused_sound import Kernel
from .right import FUSED_RIGHT

DTYPES = ("float32", "bfloat16", "float16")


def subjects(kernel: Kernel, dtypes: tuple[str, ...] = DTYPES) -> list[Subject]:
    """Return the kernel as a subject in each of these dtypes that it promises."""
    implementation = Implementation.of(kernel.__name__, kernel)
    return [subject_of(implementation, d) for d in dtypes if d in implementation.contract.dtypes]


def tried(entry: Law, subject: Subject, examples: int, ladder: bool) -> list[Accusation]:
    """Try the law on its ladder, if `ladder`, and on this number of random cases. Return the accusations."""
    found = ladder_accusations(entry, [subject]) if ladder else []
    return found + accusations(entry, [subject], examples)


def main() -> int:
    """Run, and print each accusation when it is found. Return 1 if there is one, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo.fused_fresh", description=__doc__)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--examples", type=int, default=60, help="a law, a kernel and a dtype, in each run")
    parser.add_argument("--kernel", action="append", help="names of kernels; all by default")
    parser.add_argument("--law", action="append", help="names of laws; all by default")
    parser.add_argument("--dtype", action="append", help="names of dtypes")
    parser.add_argument("--no-ladder", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    accused, begun = 0, time.monotonic()
    kernels = [x for x in FUSED_RIGHT if not options.kernel or x.__name__ in options.kernel]
    entries = [x for x in laws("fused") if not options.law or x.name in options.law]
    worst: dict[tuple[str, str], float] = {}
    for run in range(1, options.runs + 1):
        for kernel in kernels:
            for subject in subjects(kernel, tuple(options.dtype or DTYPES)):
                for entry in entries:
                    subject.worst = None
                    found = tried(entry, subject, options.examples, run == 1 and not options.no_ladder)
                    for _, case, broken in found[:1]:
                        accused += 1
                        what = f"{entry.name} accuses {kernel.__name__}, {subject.dtype}"
                        print(f"{what}: {case}\n{broken}", flush=True)
                    if subject.worst is not None:
                        place = entry.name, subject.dtype
                        worst[place] = max(worst.get(place, 0.0), subject.worst)
        print(f"run {run}: {accused} accusations, {time.monotonic() - begun:.0f} s", flush=True)
    for (law, dtype), ratio in worst.items():
        print(f"  {law:24} {dtype:9} {ratio:.3g}")
    return 1 if accused else 0


if __name__ == "__main__":
    sys.exit(main())
