"""What dmat says of every kernel of the zoos and the examples, stored, and required again after a rebuild.

    python -m tests.zoo.verdicts store DIR      one DIR/KERNEL.jsonl.xz a kernel
    python -m tests.zoo.verdicts folders DIR    40 counterexample folders of different laws, in DIR/folders
    python -m tests.zoo.verdicts compare DIR    try every stored case and folder again; exit 1 on a difference

A stored line is one case of one law: whether the ladder has it or it was drawn, the case as case.json has it,
and what the law said. No line names a module. Left out are the kernels of UNSTEADY, and the laws whose every
example costs a compilation or a process. Only tests/zoo/adapter.py knows dmat from within.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import torch

from . import adapter
from .adapter import OWN_LAW, kernels, laws_of, said

# How much is stored, and of what

# Of the ladder every n-th case, and so many drawn ones: in float32, and in one half type. Which n-th depends
# on kernel and law, so that the kernels together try the whole ladder. In float32 the law that must reject a
# wrong kernel tries its whole ladder.
AMOUNT = {"right": ((3, 10), (12, 4)), "wrong": ((8, 10), (16, 2))}
# Their answers depend on chance, on what lies in memory, or on addresses.
UNSTEADY = (
    "right.any_order",
    "wrong.atomic_additions",
    "wrong.undeclared_order",
    "wrong.padding_uninitialised",
    "wrong.read_past_the_end",
    "wrong.masked_read_past_the_end",
    "fused_wrong.unlike_calls",
    "fused_wrong.read_past_the_end",
    "fused_wrong.padding_from_empty",
    "fused_wrong.products_kept",
)


def chosen(kernel: str) -> Iterator[tuple[str, int, int]]:
    """Yield the dtypes of a kernel that are tried, float32 and one half type, each with its AMOUNT."""
    amounts = AMOUNT["wrong" if "wrong." in kernel else "right"]
    dtypes = adapter.dtypes(kernel)
    halves = [dtype for dtype in ("bfloat16", "float16") if dtype in dtypes]
    half = halves[crc32(kernel.encode()) % len(halves)] if halves else ""
    for dtype, amount in zip(("float32", half), amounts, strict=True):
        if dtype in dtypes:
            yield dtype, *amount


def lines(kernel: str) -> Iterator[dict[str, Any]]:
    """Yield what is stored of a kernel: of each dtype which laws apply, then each case and its verdict."""
    by_name = laws_of(adapter.kind(kernel))
    for dtype, step, number in chosen(kernel):
        subject = adapter.subject(kernel, dtype)
        applies = [name for name, law in by_name.items() if adapter.applies(law, subject)]
        yield {"dtype": dtype, "applies": applies, "not": [name for name in by_name if name not in applies]}
        for name in applies:
            law, start = by_name[name], crc32(f"{kernel} {name}".encode())
            whole = OWN_LAW.get(kernel) == name and dtype == "float32"
            ladder = adapter.ladder(law, subject)
            cases = [("ladder", case) for case in (ladder if whole else ladder[start % step :: step])]
            cases += [("drawn", case) for case in adapter.drawn(law, subject, start % 2)[:number]]
            for origin, case in cases:
                verdict = said(law, subject, case)
                yield {"law": name, "dtype": dtype, "from": origin, "case": json.loads(case), **verdict}


def stored_at(home: Path, kernel: str) -> Path:
    return home / f"{kernel}.jsonl.xz"


def store(home: Path, names: list[str]) -> None:
    """Write one file a kernel, where there is none yet."""
    home.mkdir(parents=True, exist_ok=True)
    for kernel in sorted(names, key=lambda kernel: crc32(kernel.encode())):  # a part of them is a fair one
        if stored_at(home, kernel).exists():
            continue
        text = "\n".join(json.dumps(line) for line in lines(kernel))
        stored_at(home, kernel).write_bytes(lzma.compress(text.encode()))
        print(f"{kernel}: {len(text.splitlines())} lines, {time.process_time():.0f} CPU-s", flush=True)
    print("left out:", *sorted(UNSTEADY))


def folders(home: Path, most: int = 40) -> None:
    """Keep a counterexample of each of so many laws, no two of one name, and what its replay says."""
    told: dict[str, list[str]] = {}
    done: set[str] = set()
    for kernel in sorted(OWN_LAW, key=lambda kernel: crc32(kernel.encode())):  # both kinds mixed
        law = laws_of(adapter.kind(kernel)).get(OWN_LAW[kernel])
        fits = law is not None and kernel not in UNSTEADY
        if not fits or law is None or law.name in done or len(told) == most:
            continue
        folder = adapter.keep_folder(kernel, law, home)
        if folder is not None:
            done.add(law.name)
            told[folder.name] = [kernel, *adapter.replay_folder(folder, kernel)]
            print(folder.name, told[folder.name], flush=True)
    (home / "replayed.json").write_text(json.dumps(told, indent=1))
    print(f"{len(told)} folders")


class Comparison:
    """What differs, law by law. merged: new names of laws by old ones; of these, outcomes alone count."""

    def __init__(self, merged: dict[str, str]) -> None:
        self.merged = merged
        self.cases, self.gone, self.differing = Counter[str](), set[str](), dict[str, list[str]]()

    def kernel(self, kernel: str, stored: list[dict[str, Any]]) -> None:
        """Try every stored case of a kernel again."""
        by_name, kind = laws_of(adapter.kind(kernel)), adapter.kind(kernel)
        for old in stored:
            if "applies" in old:
                subject = adapter.subject(kernel, old["dtype"])
                names = {name: self.merged.get(name, name) for name in (*old["applies"], *old["not"])}
                for name, new in names.items():
                    applies = new in by_name and adapter.applies(by_name[new], subject)
                    if new in by_name and applies != (name in old["applies"]):
                        text = f"{kernel} {old['dtype']}: it {'applies' if applies else 'does not apply'} now"
                        self.differing.setdefault(f"{kind} {name}", []).append(text)
                continue
            law, name = by_name.get(names[old["law"]]), f"{kind} {old['law']}"
            self.cases[name] += 1
            if law is None:
                self.gone.add(name)
            elif text := self.difference(old, said(law, subject, json.dumps(old["case"]))):
                self.differing.setdefault(name, []).append(f"{kernel} {text}")

    def difference(self, old: dict[str, Any], new: dict[str, Any]) -> str:
        """Return how two verdicts on a case differ, numbers by more than 1e-6, or ""."""
        was = {field: x for field, x in old.items() if field not in ("law", "dtype", "from", "case")}
        fields = ["outcome"] if old["law"] in self.merged else sorted(was.keys() | new.keys())
        if all(alike(was.get(field), new.get(field)) for field in fields):
            return ""
        where = f"{old['dtype']}, {old['from']}"
        return f"{where}:\n      was {was}\n      is  {new}\n      {json.dumps(old['case'])}"

    def report(self) -> None:
        for name in sorted(self.cases.keys() | self.differing.keys()):
            total, differing = self.cases[name], self.differing.get(name, [])
            if name in self.gone:
                print(f"{name}: THERE IS NO SUCH LAW NOW: {total} cases not tried")
                continue
            print(f"{name}: {total} cases, {total - len(differing)} same, {len(differing)} differing")
            for text in differing[:5]:
                print(f"    {text}")


def alike(old: Any, new: Any) -> bool:
    both_floats = isinstance(old, float) and isinstance(new, float)
    return math.isclose(old, new, rel_tol=1e-6) if both_floats else bool(old == new)


def compare(home: Path, names: list[str], merged: dict[str, str]) -> int:
    """Compare every stored kernel and folder; return 1 on any difference."""
    comparison, unlike = Comparison(merged), 0
    for file in sorted(home.glob("*.jsonl.xz")):
        kernel = file.name.removesuffix(".jsonl.xz")
        if kernel not in kernels():
            unlike += 1
            print(f"{kernel}: THERE IS NO SUCH KERNEL NOW")
        elif kernel in names:
            text = lzma.decompress(file.read_bytes()).decode()
            comparison.kernel(kernel, [json.loads(line) for line in text.splitlines()])
    comparison.report()
    listed = home / "folders" / "replayed.json"
    told = json.loads(listed.read_text()) if listed.is_file() else {}
    for folder, (kernel, *was) in told.items():
        now = adapter.replay_folder(listed.parent / folder, kernel)
        if now != was:
            unlike += 1
            print(f"folders/{folder}: was {was}, is {now}")
    missing = [kernel for kernel in names if not stored_at(home, kernel).exists()]
    print(f"{len(told)} folders replayed; {len(missing)} kernels not stored: {' '.join(missing)}")
    return 1 if unlike or comparison.gone or comparison.differing else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.zoo.verdicts", description=__doc__)
    parser.add_argument("action", choices=("store", "folders", "compare"))
    parser.add_argument("home", type=Path, metavar="DIR")
    parser.add_argument("--kernel", action="append", help="e.g. wrong.carry_forgotten; default: all")
    parser.add_argument("--merged", action="append", default=[], metavar="OLD=NEW", help="a law's new name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.kernel or [name for name in kernels() if name not in UNSTEADY]
    if options.action == "compare":
        return compare(options.home, names, dict(pair.split("=") for pair in options.merged))
    store(options.home, names) if options.action == "store" else folders(options.home / "folders")
    return 0


if __name__ == "__main__":
    sys.exit(main())
