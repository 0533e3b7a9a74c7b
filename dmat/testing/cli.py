"""The command line `dmat`: check, init, grade, compare, inspect, replay, fuzz, schema and skill.

`dmat check` tests whether a kernel keeps the laws. `dmat grade` tests how accurate it is, `dmat compare`
whether it is worse than another. Exit code 0: every law held, every kernel was graded, none is worse, every
case is fixed. 1: a law is broken, a kernel is worse. 2: the command could not do its work.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dmat import __version__
from dmat.testing.check.skill import PAGE
from dmat.testing.contract.names import FORMS
from dmat.testing.errors import CannotRun
from dmat.testing.interpret.choice import TIME_LIMIT, asking
from dmat.testing.options import (
    SECONDS,
    add_arch,
    add_corpus,
    add_interpret,
    add_json,
    add_places,
    add_selection,
    add_time_limit,
)
from dmat.testing.schemas import NAMES, text_of
from dmat.testing.values import to_count, to_minutes, to_seed, to_sizes

COULD_NOT = 2
BUILTIN = "the built-in implementations"


class Parser(argparse.ArgumentParser):
    """An argparse parser that reports a bad option in one line with exit code 2, without the usage text."""

    def error(self, message: str) -> NoReturn:
        """Raise CannotRun; main() prints its message."""
        raise CannotRun(f"{message} ({self.prog} --help lists the options)")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = Parser(prog="dmat", description="Laws for kernels of the log-gate decay matrix D~.")
    top.add_argument("--version", action="version", version=f"dmat {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_check(commands)
    _add_init(commands)
    _add_grade(commands)
    _add_compare(commands)
    _add_inspect(commands)
    _add_replay(commands)
    _add_fuzz(commands)
    _add_schema(commands)
    _add_skill(commands)
    return top


def _add_check(commands: argparse._SubParsersAction[Parser]) -> None:
    check = commands.add_parser(
        "check",
        help="try every law on an implementation",
        description="Try every law on each TARGET. Exit 0: every law held; 1: a law is broken; 2: could"
        " not be checked.",
    )
    add_selection(check, BUILTIN)
    add_json(check)
    check.add_argument("--junit", type=Path, metavar="FILE", help="write the report as JUnit XML too")
    on_github = "print annotations for GitHub, and add the page to $GITHUB_STEP_SUMMARY"
    check.add_argument("--github", action="store_true", help=on_github)
    check.add_argument("--first", action="store_true", help="stop at the first broken law, fastest first")
    check.add_argument(
        "-n",
        type=to_count,
        metavar="N",
        help="processes; default: one a core, with --first one alone, so that its order holds",
    )
    count = "random cases a law and dtype, beside its ladder; default: 200, interpreted 5"
    check.add_argument("--examples", type=to_count, metavar="N", help=count)
    check.add_argument("--seed", type=to_seed, metavar="N", help="of the random cases; default: a new one")
    check.add_argument(
        "--shape",
        type=to_sizes,
        action="append",
        default=[],
        metavar="B,NH,S[,K,V]",
        help="sizes at which values and gradients are tried too; more than once for several",
    )
    check.add_argument("--verbose", action="store_true", help="show every law in every dtype")
    check.add_argument(
        "--freeze",
        type=Path,
        metavar="FILE",
        help="write TARGET's contract and --shape into FILE",
    )
    check.add_argument(
        "--gate",
        type=Path,
        metavar="FILE",
        help="check under the contract in FILE, TARGET in a process of its own; the last line is JSON",
    )
    add_corpus(check)
    check.add_argument(
        "--counterexamples",
        metavar="DIR",
        default="counterexamples",
        help="where each failure is kept; default: counterexamples; '' for nowhere",
    )
    add_time_limit(check)
    add_interpret(check)
    add_arch(check, "interpreted: sm_80,sm_90, formats alone")
    check.set_defaults(run=_check)


def _add_init(commands: argparse._SubParsersAction[Parser]) -> None:
    init = commands.add_parser(
        "init",
        help="write the adapter of a function, and check it",
        description="Call the function, write an adapter with the contract that its calls show, and check it."
        " Exit 0: nothing is asked, and every law held; 1: a question is left, or a law is broken; 2: no file"
        " was written, or it could not be checked.",
    )
    init.add_argument("target", metavar="TARGET", help=f"{FORMS}")
    init.add_argument("--output", type=Path, metavar="FILE", help="default: FUNCTION_dmat.py, here")
    init.add_argument(
        "--examples", type=to_count, default=20, metavar="N", help="of the check: cases a law; default: 20"
    )
    init.add_argument("--seed", type=to_seed, metavar="N", help="of the check's cases; default: a new one")
    add_time_limit(init)
    add_interpret(init)
    init.set_defaults(run=_init)


def _add_replay(commands: argparse._SubParsersAction[Parser]) -> None:
    replay = commands.add_parser(
        "replay",
        help="try counterexamples again",
        description="Try each case of PATH again: STILL BROKEN, FIXED or COULD NOT RUN. Exit 1 if one is"
        " broken, else 2 if one could not be run, else 0.",
    )
    replay.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a case, its folder, a corpus")
    replay.add_argument("--impl", metavar="TARGET", help="what to try them on; a case imports nothing itself")
    replay.add_argument("--device", metavar="DEVICE", help="default: the case's own")
    replay.add_argument("--dtype", metavar="DTYPE", help="default: the case's own")
    add_time_limit(replay)
    add_interpret(replay)
    replay.add_argument("--keep", action="store_true", help="add the cases to the corpus")
    replay.add_argument("--corpus", type=Path, default=Path("corpus"), metavar="DIR", help="default: corpus")
    replay.set_defaults(run=_replay, json=None)


def _add_grade(commands: argparse._SubParsersAction[Parser]) -> None:
    grade = commands.add_parser(
        "grade",
        help="find the strictest accuracy class that an implementation survives",
        description="Find the strictest accuracy class that each TARGET survives, a dtype at a time, and"
        " whether a part gives the same bits alone. Exit 0: graded; 2: could not be graded.",
    )
    add_selection(grade, "the operator and the two ways that the formula is written, to compare")
    add_json(grade)
    grade.add_argument("--examples", type=to_count, metavar="N", help="random cases a dtype; default: 150")
    add_interpret(grade)
    grade.set_defaults(run=_grade)


def _add_compare(commands: argparse._SubParsersAction[Parser]) -> None:
    compare = commands.add_parser(
        "compare",
        help="compare two implementations on the same cases",
        description="Compare the results of OLD and NEW on the same cases. Exit 0: all of NEW is within its"
        " contract, and nothing is worse than OLD; 1: not; 2: could not be compared.",
    )
    target = "package.module:function or path/to/file.py:function"
    compare.add_argument("old", metavar="OLD", help=target)
    compare.add_argument("new", metavar="NEW", help=target)
    add_places(compare)
    compare.add_argument(
        "--old-python", metavar="PATH", help="the Python in which OLD runs; it must be able to import dmat"
    )
    add_json(compare)
    compare.add_argument("--examples", type=to_count, metavar="N", help="random cases a dtype; default: 100")
    add_time_limit(compare)
    add_interpret(compare)
    compare.set_defaults(run=_compare)


def _add_inspect(commands: argparse._SubParsersAction[Parser]) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="read what a device will do with Triton kernels, without the device",
        description="Compile each launch of a Triton kernel for GPUs that are not here, and read the code."
        " Exit 0: nothing contradicts the contract; 1: something does; 2: nothing could be inspected.",
    )
    inspect.add_argument("target", metavar="TARGET", help=FORMS)
    add_arch(inspect, "sm_80,sm_90,gfx942")
    inspect.add_argument("--dtype", action="append", default=[], help="e.g. float32; default: all promised")
    inspect.add_argument(
        "--config",
        dest="configs",
        choices=("first", "all"),
        default="first",
        help="autotune configurations: the first that compiles, or all; default: first",
    )
    inspect.add_argument(
        "--shape",
        type=to_sizes,
        action="append",
        default=[],
        metavar="B,NH,S[,K,V]",
        help="sizes of the calls; more than once for several; default: two small ones",
    )
    add_json(inspect)
    inspect.set_defaults(run=_inspect)


def _add_fuzz(commands: argparse._SubParsersAction[Parser]) -> None:
    fuzz = commands.add_parser(
        "fuzz",
        help="try every law on new cases, for as long as it is given",
        description="Try every law on new cases until the time is over. Exit 0: nothing found; 1: found;"
        " 2: it did not really fuzz.",
    )
    add_selection(fuzz, BUILTIN)
    fuzz.add_argument(
        "--minutes", type=to_minutes, metavar="M", help="all sittings together; default: 10, or as before"
    )
    fuzz.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the run and its report")
    fuzz.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    fuzz.add_argument("-n", type=to_count, metavar="N", help="processes; default: one a core, or a GPU")
    fuzz.add_argument("--ray", metavar="ADDRESS", help="a Ray cluster, or auto; needs dmat[cluster]")
    fuzz.add_argument(
        "--shared", type=Path, metavar="DIR", help="of findings, for several machines; default: --out"
    )
    add_corpus(fuzz)
    add_time_limit(fuzz)
    add_interpret(fuzz)
    fuzz.set_defaults(run=_fuzz, json=None)


def _add_schema(commands: argparse._SubParsersAction[Parser]) -> None:
    schema = commands.add_parser(
        "schema",
        help="print the JSON schema of a report, or of case.json",
        description="Print the JSON schema of what `dmat check`, `dmat grade`, `dmat compare` or `dmat"
        " inspect --json`, or `dmat fuzz` writes, or of a counterexample's case.json.",
    )
    schema.add_argument("name", choices=NAMES, metavar="|".join(NAMES), help="of which file")
    schema.set_defaults(run=_schema, json=None)


def _add_skill(commands: argparse._SubParsersAction[Parser]) -> None:
    skill = commands.add_parser(
        "skill",
        help="print a page for programs that write kernels",
        description="Print a page for programs that write kernels: when to run what, how to read a verdict.",
    )
    skill.set_defaults(run=_skill, json=None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    try:
        return _run(parser().parse_args(arguments))
    except CannotRun as error:
        print(f"dmat: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("dmat: interrupted", file=sys.stderr)
    except Exception:  # a bug of dmat; Python's exit code 1 would accuse the kernel
        traceback.print_exc()
    return COULD_NOT


def _run(options: argparse.Namespace) -> int:
    for name in ("json", "junit"):
        file = getattr(options, name, None)
        if file is not None and not file.resolve().parent.is_dir():
            raise CannotRun(f"--{name} is {str(file)!r}; there is no folder to write it in")
    interpreted = getattr(options, "interpret", False)
    if getattr(options, "time_limit", 0.0) is None:
        options.time_limit = TIME_LIMIT if interpreted else SECONDS
    if not interpreted and getattr(options, "config", None) is not None:
        raise CannotRun("--config is of --interpret, which is not there")
    if options.command == "check" and options.arch and not interpreted:
        raise CannotRun("--arch is of --interpret, which is not there; see dmat inspect")
    if interpreted:
        _onto_the_cpu(options)
    with asking((options.config or 0) if interpreted else None):
        code: int = options.run(options)
    return code


def _onto_the_cpu(options: argparse.Namespace) -> None:
    """Set the device to the CPU. Raises CannotRun if there is no TARGET, for another device, or for Ray."""
    if not getattr(options, "targets", True) and not getattr(options, "resume", False):
        raise CannotRun("--interpret needs a TARGET: the built-in implementations run no Triton on a CPU")
    named = options.device or ()
    for device in (named,) if isinstance(named, str) else named:
        if device != "cpu":
            raise CannotRun(f"--interpret runs kernels on the CPU; --device is {device!r}")
    if getattr(options, "ray", None) is not None:
        raise CannotRun("--interpret runs kernels on this machine; --ray sends them to others")
    options.device = "cpu" if options.command == "replay" else ["cpu"]


def _check(options: argparse.Namespace) -> int:
    from dmat.testing.check.command import command

    return command(options)


def _init(options: argparse.Namespace) -> int:
    from dmat.testing.init.command import command

    for name, value in vars(parser().parse_args(["check"])).items():  # its last step is a check
        if not hasattr(options, name):
            setattr(options, name, value)
    options.first, options.counterexamples = True, ""
    return command(options)


def _grade(options: argparse.Namespace) -> int:
    from dmat.testing.grade.command import command

    return command(options)


def _compare(options: argparse.Namespace) -> int:
    from dmat.testing.compare.command import command

    return command(options)


def _inspect(options: argparse.Namespace) -> int:
    from dmat.testing.inspect.command import command

    return command(options)


def _replay(options: argparse.Namespace) -> int:
    from dmat.testing.counterexample.replay import command

    return command(options)


def _fuzz(options: argparse.Namespace) -> int:
    from dmat.testing.fuzzing.run import fuzz

    return fuzz(options)


def _schema(options: argparse.Namespace) -> int:
    """Print the JSON schema."""
    print(text_of(options.name), end="")
    return 0


def _skill(options: argparse.Namespace) -> int:
    """Print the page for programs."""
    print(PAGE, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
