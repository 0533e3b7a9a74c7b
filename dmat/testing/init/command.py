"""The command `dmat init`: calls a function, writes its adapter, and checks it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dmat.testing.check.command import command as check
from dmat.testing.contract.names import parted
from dmat.testing.devices import accelerator
from dmat.testing.errors import CannotRun
from dmat.testing.init import written
from dmat.testing.init.facts import confirmed, facts
from dmat.testing.init.gates import of_gates
from dmat.testing.init.search import FAR, Fit, Outcome, search
from dmat.testing.init.signature import SUMS, Signature
from dmat.testing.interpret.choice import config_index
from dmat.testing.kernel.load import load
from dmat.testing.output import output_path
from dmat.testing.output import written as written_file

ASKS = BROKEN = 1


def command(options: argparse.Namespace) -> int:
    """Write the adapter, check it, and return the exit code: 0 if nothing is asked and every law held."""
    name = parted(options.target)[1].split(".")[-1]
    file: Path = options.output or Path(f"{name}_dmat.py")
    if file.exists():
        raise CannotRun(f"{file} is there already; dmat init overwrites nothing (--output FILE)")
    if not file.resolve().parent.is_dir():
        raise CannotRun(f"--output is {str(file)!r}; there is no folder to write it in")
    text, questions, chunk = declaration(options.target, name)
    with file.open("x", encoding="utf-8") as there:
        there.write(_page(options.target, file, text, questions))
    print(f"wrote {output_path(file)}")
    asked = questions + [line.strip().removeprefix("# ? ") for line in text.splitlines() if "# ? " in line]
    for question in asked:
        print(f"? {question}")
    if not text:
        return ASKS
    options.targets = [f"{file}:{name}"]
    code = _checked(options)
    if code == BROKEN and chunk:
        print(f"\nwith bounds for chunks of {chunk}, the chunk size that it takes:")
        wider = text.removesuffix(")") + written.of_chunks(chunk) + "\n)"
        written_file(_page(options.target, file, wider, questions).rstrip("\n"), file)
        code = _checked(options)
        text = wider
    if code == BROKEN:
        _ask_for_bounds(options.target, file, text, options.targets[0])
    return code or (ASKS if asked else 0)


def _ask_for_bounds(target: str, file: Path, text: str, adapter: str) -> None:
    """Add the question that a broken law leaves to the file, and print it."""
    question = (
        "error_scope, factors, grad_scope: a law is broken under these bounds. Does it sum otherwise, or is "
        f"it a bug? dmat check {adapter} looks for a wider contract"
    )
    written_file(_page(target, file, text, [question]).rstrip("\n"), file)
    print(f"? {question}")


def _checked(options: argparse.Namespace) -> int:
    """Check the adapter in processes of its own, print the verdict, and return the exit code."""
    sys.stdout.flush()
    return check(options)


def _page(target: str, file: Path, text: str, questions: list[str]) -> str:
    return f"{written.head(target, file, text)}\n# fmt: off\n\n{_questions(questions)}{text}\n"


def _questions(questions: list[str]) -> str:
    return "".join(f"# ? {question}\n" for question in questions)


def declaration(target: str, name: str) -> tuple[str, list[str], int | None]:
    """Return the declaration, or "" and questions; and the chunk size that is passed to the function."""
    fn = load(target).function
    signature = Signature.of(fn)
    if signature is None:
        return "", ["which tensors does it take? Its signature cannot be read"], None
    found, seen = of_gates(fn, signature, "cpu")
    if len(found) == 1:
        return written.of_gates(found[0], name), [], None
    if len(found) > 1:
        return "", [f"two ways to call it agree: kernel({found[0].call}) and kernel({found[1].call})"], None
    outcome = search(fn, signature, "cpu")
    device = accelerator()
    if not outcome.fits and not outcome.shapes and device is not None:
        outcome = search(fn, signature, device)
    _require_runnable(outcome, target)
    fit = only(outcome.fits)
    if fit is None:
        return "", [_which(outcome, signature, seen)], None
    wrong = confirmed(fit)
    if wrong:
        return (
            "",
            [f'reads="{fit.contract.reads}", {fit.contract.stated()} fits one call, but {wrong}: why?'],
            None,
        )
    chunk = fit.binding.knobs.get(fit.binding.chunk or "")
    return written.of_fit(fit, facts(fit, signature), name), [], chunk


def only(fits: list[Fit]) -> Fit | None:
    """Return the reading that alone agrees, all others being far; a gate a channel is the wider one."""
    each = {
        (str(fit.contract.stated()), fit.binding.layout, str(fit.binding.roles)): fit for fit in fits[::-1]
    }
    fits = list(
        each.values()
    )  # a last axis of 1 that a function takes, and does without, is no other reading
    wide = [fit for fit in fits if fit.by_channel]
    if wide and all(_narrower(fit, wide[0]) for fit in fits):
        fits = wide
    if len(fits) != 1 or fits[0].rival <= FAR:
        return None
    return fits[0]


def _narrower(fit: Fit, wide: Fit) -> bool:
    """Whether a reading is the wide one, or its case of one gate for all channels."""
    same = fit.binding.roles == wide.binding.roles and fit.binding.layout == wide.binding.layout
    return fit is wide or (not fit.by_channel and fit.binding.column and same)


def _which(outcome: Outcome, signature: Signature, seen: str) -> str:
    """Return the question of a function for which no one reading was found."""
    if len(outcome.fits) > 1 or outcome.fits:
        ways = sorted({f"{fit.contract.stated()}, {dict(fit.binding.roles)}" for fit in outcome.fits})
        return "which of these is it? " + " or ".join(ways)
    if not signature.tensors:
        return "which tensors does it take? Its signature names none"
    if not SUMS <= {role for roles in signature.tensors.values() for role in roles}:
        return f"which of {', '.join(signature.tensors)} are q, k and v? None of these names says it ({seen})"
    what = outcome.close or (f"it returned {outcome.shapes}" if outcome.shapes else outcome.error)
    return f"what does it compute? No reading agrees with its calls: {what}"


def _require_runnable(outcome: Outcome, target: str) -> None:
    """Raise CannotRun if no call returned because Triton has no GPU here."""
    if outcome.fits or outcome.shapes or config_index() is not None or accelerator() is not None:
        return
    if "riton" in outcome.error or "driver" in outcome.error:
        raise CannotRun(f"{target} raised {outcome.error}; without a GPU a Triton kernel needs --interpret")
