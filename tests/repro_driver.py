"""Runs scripts, each in a fork of a process that has torch and the kernels loaded and has called none.

    python -m tests.repro_driver [TARGET] < lines of paths, or of a path, a tab and a TARGET

prints a line a script: its exit code, a blank, and what it printed last.
"""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import sys
import traceback

import torch

import dmat
from tests.zoo import named


def run(path: str, arguments: list[str]) -> tuple[int, str]:
    """Run a script in a child; return its exit code and the last line that it printed."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        printed, code = io.StringIO(), 70
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                sys.argv = [path, *arguments]
                runpy.run_path(path, run_name="__main__")
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
                code = 1
        os.write(theirs, (printed.getvalue().strip().splitlines() or [""])[-1].encode()[:1000])
        os._exit(code)
    os.close(theirs)
    _, status = os.waitpid(child, 0)
    with os.fdopen(ours, "rb") as pipe:
        return os.waitstatus_to_exitcode(status), pipe.read().decode(errors="replace")


def main() -> None:
    torch.set_num_threads(1)
    assert dmat.dtilde.__name__
    assert named.ALL
    for line in sys.stdin:
        path, *arguments = line.rstrip("\n").split("\t")
        code, last = run(path, sys.argv[1:] + arguments)
        print(code, last, flush=True)


if __name__ == "__main__":
    main()
