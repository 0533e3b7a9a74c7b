"""`python -m benchmarks`: time, memory and error of the operator, or of the framework itself."""

from __future__ import annotations

import argparse
import os
from datetime import date
from pathlib import Path
from statistics import median

import torch

from dmat.testing import devices

from . import accuracy, first_gpu, framework, on_cuda, rivals, speed, write


def main(arguments: list[str] | None = None) -> int:
    """Measure the parts that are named, print them, and write them to --out."""
    options = _parsed(arguments)
    if options.parts == [FIRST_GPU]:
        return first_gpu.main(options.out)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    for part in options.parts or PARTS:
        text = f"{write.heading(options.device)}\n{PARTS[part](options)}"
        _path(options, part, "md").write_text(text)
        print(text)
    return 0


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}, default: all; or {FIRST_GPU} alone")
    add("--device", default="cpu", help="cpu, cuda, xpu, ...; default: cpu")
    add("--threads", type=int, default=os.cpu_count() or 1, help="of torch; default: all cores")
    add("--lengths", type=int, nargs="+", metavar="S", help="default: 64 to 4096, on CUDA to 32768")
    add("--dtypes", nargs="+", choices=speed.DTYPES, default=list(speed.DTYPES))
    add("--seconds", type=float, default=2.0, help="for a length, dtype and direction; default: 2")
    add("--cases", type=int, default=10_000, help="random cases a dtype; default: 10,000")
    add("--compile", action="store_true", help="the formulas compiled by inductor too, in float32")
    add("--out", type=Path, default=Path("docs/measured"), metavar="DIR", help="default: docs/measured")
    options = parser.parse_args(arguments)
    if options.parts == [FIRST_GPU]:
        return options
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"PART is {', '.join(sorted(unknown))}; expected one of {', '.join(PARTS)}")
    if not devices.is_there(options.device):
        parser.error(f"--device is {options.device}; expected a machine whose torch sees one")
    return options


def _path(options: argparse.Namespace, part: str, suffix: str) -> Path:
    threads = "" if options.device != "cpu" else f"-{options.threads}"
    path: Path = options.out / f"{date.today()}-{options.device}{threads}-{part}.{suffix}"
    return path


def _speed(options: argparse.Namespace) -> str:
    lengths, dtypes = tuple(options.lengths or speed.lengths(options.device)), tuple(options.dtypes)
    cells = speed.cells(options.device, lengths, dtypes, options.seconds, compiled=options.compile)
    ratios = speed.ratios(cells, options.device)
    if options.device == "cpu" and 256 in lengths:
        ratios.append(speed.over_double_loop(256))
    write.as_json(cells, _path(options, "speed", "json"))
    write.plot_times(cells, _path(options, "speed", "svg"))
    only = "\n".join(on_cuda.all_of_it()) + "\n\n" if options.device == "cuda" else ""
    return write.of_ratios(ratios) + "\n" + only + write.of_cells(cells)


def _accuracy(options: argparse.Namespace) -> str:
    rows = [["dtype", "cases", "worst error over bound", "its case", "S"]]
    for dtype in options.dtypes:
        found = accuracy.worst(dtype, options.cases)
        rows.append([dtype, f"{found.cases:,}", f"{found.ratio:.5f}", str(found.case), str(found.S)])
    kinds = {"mild gates": 0.0, "a first forget gate of -1e4": -1e4}
    lengths = options.lengths or (16, 64, 256, 1024, 4096)
    errors = {kind: {S: accuracy.relative_errors(S, f) for S in lengths} for kind, f in kinds.items()}
    write.plot_errors(errors, _path(options, "accuracy", "svg"))
    names = list(next(iter(errors["mild gates"].values())))
    relative = [["gates", "S", *names]]
    for kind, by_length in errors.items():
        relative += [[kind, str(S), *(f"{e[name]:.1e}" for name in names)] for S, e in by_length.items()]
    return f"{write.table(rows)}\nWorst relative error in float32:\n\n{write.table(relative)}"


def _framework(options: argparse.Namespace) -> str:
    seconds, laws = framework.check()
    first = framework.first()
    total, busy = sum(law.examples for law in laws), sum(law.seconds for law in laws)
    middle, worst = median(first.values()), max(first.values())
    rows = [["law", "examples", "s", "examples/s"]]
    for law in laws:
        rate = law.examples / law.seconds if law.seconds else 0.0
        rows.append([law.name, str(law.examples), f"{law.seconds:.1f}", f"{rate:.0f}"])
    wrong = [["wrong kernel", "s"], *([target, f"{s:.1f}"] for target, s in first.items())]
    return (
        f"`dmat check`: {seconds:.1f} s, {total:,} examples, {busy:.1f} s in its laws over all workers.\n\n"
        f"`dmat check --first`: median {middle:.1f} s, worst {worst:.1f} s.\n\n"
        f"{write.table(wrong)}\n{write.table(rows)}"
    )


def _rivals(options: argparse.Namespace) -> str:
    rows = [["what draws the gates", "S at most", "examples/s", "least and most of five"]]
    for rival in rivals.rates(options.seconds):
        rows.append([rival.name, str(rival.longest), f"{rival.rate:.0f}", rival.spread])
    return f"The law of values, float32, one process, interleaved.\n\n{write.table(rows)}"


FIRST_GPU = "first-gpu"
PARTS = {"speed": _speed, "accuracy": _accuracy, "framework": _framework, "rivals": _rivals}


if __name__ == "__main__":
    raise SystemExit(main())
