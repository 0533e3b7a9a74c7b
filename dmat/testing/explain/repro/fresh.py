"""Run scripts, and call functions, in fresh processes that have called no kernel.

Importing torch takes seconds. So one process imports torch, and the module of the kernel, and makes a fork
for each script. Scripts that need a GPU or Triton's interpreter get a new Python each. A worker of
`dmat check` is a daemon, which may start no process of multiprocessing: so these are plain subprocesses.
"""

from __future__ import annotations

import atexit
import importlib
import os
import pickle
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from dmat.testing.errors import Died, OutOfTime
from dmat.testing.processes import end_with_parent

CALL, RESULT = "call.pickle", "result.pickle"
SLOW = "torch.fx.experimental.symbolic_shapes"  # torch.autograd.grad imports it when it is first called
FORKS = hasattr(os, "fork") and sys.platform.startswith("linux")


def exit_code(script: Path, arguments: list[str], seconds: float, module: str | None) -> int:
    """Run a script in a fresh process. Return its exit code, or 1 if it does not end in time.

    module: fork the process that has imported torch and this module, "" for torch alone. None: a new Python.
    """
    if module is not None and FORKS:
        with suppress(OSError, ValueError):  # the process is gone, or a fork hangs
            return _forking(module, os.getcwd()).run([str(script), *arguments], seconds)
    command = [sys.executable, str(script), *arguments]
    try:
        return subprocess.run(command, capture_output=True, timeout=seconds, check=False).returncode
    except subprocess.TimeoutExpired:
        return 1


class _Forking:
    """A process that forks for each line of paths and arguments, and answers with the exit code."""

    def __init__(self, module: str) -> None:
        """Start the process. It ends when its standard input ends, or with this process."""
        command = [sys.executable, "-m", __name__, module]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        atexit.register(self._end)

    def _end(self) -> None:
        self.process.kill()
        self.process.communicate()  # closes the pipes

    def run(self, command: list[str], seconds: float) -> int:
        """Run a script. Return its exit code. Raises ValueError if it does not end in time."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\t".join([str(seconds), *command]) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@cache
def _forking(module: str, folder: str) -> _Forking:
    """Return the process of a module. folder: the current one, from which a TARGET is read."""
    return _Forking(module)


def called(function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
    """Return function(*arguments), called in a new Python.

    Function, arguments and result are pickled. Raises Died, OutOfTime, or RuntimeError if the function
    raises.
    """
    with tempfile.TemporaryDirectory(prefix="dmat-") as folder:
        Path(folder, CALL).write_bytes(pickle.dumps((function, arguments)))
        command = [sys.executable, "-m", __name__, CALL, folder]
        try:
            code = subprocess.run(command, capture_output=True, timeout=seconds, check=False).returncode
        except subprocess.TimeoutExpired:
            raise OutOfTime from None
        result = Path(folder, RESULT)
        if not result.exists():
            raise Died(f"exit code {code}")
        error, returned = pickle.loads(result.read_bytes())
    if error:
        raise RuntimeError(error)
    return returned


# In that process


def main() -> None:
    """Make one call, or fork for each line of standard input."""
    end_with_parent()
    if sys.argv[1] == CALL:
        _call(Path(sys.argv[2]))
    else:
        _fork_for_each(sys.argv[1])


def _call(folder: Path) -> None:
    try:
        function, arguments = pickle.loads((folder / CALL).read_bytes())
        made: tuple[str, Any] = ("", function(*arguments))
    except Exception as error:
        made = (f"{type(error).__name__}: {error}", None)
    (folder / RESULT).write_bytes(pickle.dumps(made))
    os._exit(0)  # a kernel may have left threads


def _fork_for_each(module: str) -> None:
    """Fork for each line: seconds, a script and its arguments, by tabs. Print each exit code."""
    import torch

    torch.set_num_threads(1)
    importlib.import_module(SLOW)
    with suppress(Exception):  # the script will say what is wrong with it
        importlib.import_module(module)
    for line in sys.stdin:
        seconds, *command = line.rstrip("\n").split("\t")
        print(_forked(command, float(seconds)), flush=True)


def _forked(command: list[str], seconds: float) -> str:
    ended, ours = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ended)
        _run(command)
    os.close(ours)
    ready, _, _ = select.select([ended], [], [], seconds)  # the child's end closes the pipe
    os.close(ended)
    if not ready:
        for kill in (os.killpg, os.kill):  # the child may not lead its group yet
            with suppress(ProcessLookupError):
                kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return str(os.waitstatus_to_exitcode(status)) if ready else "not in time"


def _run(command: list[str]) -> None:
    """Run the script as Python does, without output; end this process with its exit code."""
    code: object = 1
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        sys.argv = command
        sys.path[0] = str(Path(command[0]).parent)
        runpy.run_path(command[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = 0 if end.code is None else end.code
    finally:
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    main()
