"""The causes of a broken kernel: promises that it does not keep, and bugs; each is shown by a mild case."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from msgspec.structs import replace
from torch import Tensor

from dmat.reference import masked_cumulative_sum
from dmat.strategies import Constant, Cotangent, Cycle, Edited, Gates
from dmat.strategies.recipes.backgrounds import Background, Normal, Ramp, inf, nan
from dmat.strategies.recipes.gates import MinusWindow
from dmat.strategies.recipes.recipe import Case
from dmat.testing import plugin
from dmat.testing.case_file import decoded, encoded
from dmat.testing.causes import search
from dmat.testing.causes.failure import Clock
from dmat.testing.causes.group import covered
from dmat.testing.causes.keep import HELD, with_folders
from dmat.testing.causes.known import breaks_of, entry_of, unsorted
from dmat.testing.causes.length import at_length
from dmat.testing.causes.mildest import (
    EXTREME,
    INFINITE,
    NOT_A_NUMBER,
    ORDINARY,
    SATURATED,
    SUBNORMAL,
    milder,
    severity,
)
from dmat.testing.causes.relaxable import Relaxable
from dmat.testing.causes.search import Causes, causes_of, with_causes
from dmat.testing.causes.show import milder_failure
from dmat.testing.causes.words import PROMISES, SCOPED, of_bug, of_promises
from dmat.testing.contract import Contract, FusedContract
from dmat.testing.contract.rows import BaseContract
from dmat.testing.counterexample.attempt import in_dtype
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.kernel.load import load
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.record import LawRecord, Record, Refuting, Report, Wider
from dmat.testing.registry import law_named
from dmat.testing.relax.dtilde import options
from dmat.testing.run.run import run
from dmat.testing.run.session import Session

from .zoo.named import ALL

Kernel = Callable[[Tensor, Tensor], Tensor]
Cases = Sequence[tuple[str, Case]]
ZERO, CLOSED = Constant(0.0), Constant(-inf)
QUICK = settings(max_examples=40, database=None)


def named(kernel: Kernel, contract: Contract | None = None) -> Implementation:
    """Return a kernel with a contract, the strictest if none is given."""
    return Implementation("k.py:f", kernel, contract or Contract())


def gates(S: int, fgate: Background = ZERO, dtype: str = "float32") -> Gates:
    """Return gates of one head."""
    return Gates(dtype, (1, 1, S), fgate=fgate)


def report(own: Implementation, fell: Cases, dtypes: Iterable[str] = ("float32",)) -> Report:
    """Return the report of a kernel that fell on these cases, (law, case), in each dtype."""
    records = [
        LawRecord(
            law, own.name, dtype, "cpu", "failed", law, recipe=encoded(in_dtype(case, dtype)), ended="broken"
        )
        for law, case in fell
        for dtype in dtypes
    ]
    return Report.of(own.name, own.contract.stated(), records)


def causes(kernel: Kernel, fell: Cases, found: Mapping[str, Any] | None = None, *dtypes: str) -> Causes:
    """Return the causes of a kernel's failures. found: the fields of the wider contract that admits it."""
    own = named(kernel)
    wider = Wider("none") if found is None else Wider("found", dict(found), "@...")
    fallen = report(own, fell, dtypes or ("float32",))
    return causes_of(own, replace(fallen, stands_under=wider), seconds=60)


def difference(i: Tensor, f: Tensor) -> Tensor:
    """Return D~ by a difference of cumulative sums."""
    sums = torch.nn.functional.logsigmoid(f.float()).cumsum(2)
    causal = torch.ones(i.shape[2], i.shape[2], dtype=torch.bool).tril()
    return (sums - sums.mT + i.float().mT).masked_fill(~causal, -torch.inf).to(i.dtype)


# Which cause

BACKWARD: Case = {"gates": gates(17), "cotangent": Cotangent()}


def test_a_difference_of_sums_has_one_cause() -> None:
    """All laws that cumulative sums break, with and without -inf, have one promise as their cause.

    Laws of bits too: beside a large cotangent what is left of 1 - 1 is far from the 0 that they ask for.
    """
    large = Cotangent(Edited(Constant(1.0), (((0, 0, 0, 0), 2e7),)))
    fell: Cases = [
        ("values", {"gates": gates(1, CLOSED)}),
        ("closed_gates", {"gates": gates(1), "head": (0, 0), "t": 0}),
        ("forget_gradient", {"gates": gates(64), "cotangent": Cotangent(Normal(1))}),
        *(
            (law, {"gates": gates(2), "cotangent": large})
            for law in ("first_forget_gradient", "gradient_locality")
        ),
    ]
    [cause] = causes(difference, fell, {"error_scope": "prefix"}).entries
    assert (cause.kind, cause.promises) == ("promise", {"error_scope": "prefix"})
    assert cause.decorator == '@dmat.testing.implementation(error_scope="prefix")'
    assert len(cause.breaks) == 5
    assert cause.gates == "at ordinary gates"


def test_special_values_alone_are_the_cause() -> None:
    """A kernel that is wrong only with -inf is told so, and shown no other cause."""

    def kernel(i: Tensor, f: Tensor) -> Tensor:
        return masked_cumulative_sum(i, f) + 0 * f.mT.where(f.mT == -torch.inf, 0.0)

    found = {"special_values": ("+inf", "nan")}
    [cause] = causes(kernel, [("values", {"gates": gates(2, CLOSED)})], found).entries
    assert list(cause.promises) == ["-inf"]
    assert cause.gates == "only with -inf gates"


ONE_BUG: dict[str, Cases] = {
    "mask_of_1e9": [("future", {"gates": gates(2)}), ("values", {"gates": gates(3)})],
    "tail_gradient_dropped": [
        ("forget_gradient", BACKWARD),
        ("gradient_exact", {"gates": gates(17, Constant(-64.0)), "cotangent": Cotangent()}),
        ("second_order", {**BACKWARD, "direction": gates(17, Constant(1.0))}),
    ],
    "carry_forgotten": [
        ("values", {"gates": gates(17)}),
        ("forget_gradient", {"gates": gates(18), "cotangent": Cotangent()}),
    ],
}


@pytest.mark.parametrize("name", ONE_BUG)
def test_one_bug_is_one_cause(name: str) -> None:
    """A mutant has one bug in two dtypes, a half type among them, whose wide bound would hide it."""
    [cause] = causes(ALL[name], ONE_BUG[name], None, "float32", "bfloat16").entries
    assert cause.kind == "bug"
    assert {one.law for one in cause.breaks} == {law for law, _ in ONE_BUG[name]}
    assert {one.dtype for one in cause.breaks} == {"float32", "bfloat16"}


def test_a_bug_is_shown_by_a_case_of_its_own() -> None:
    """A failure that joins a bug, but vanishes under a wider contract, is not the case that is shown."""

    def kernel(i: Tensor, f: Tensor) -> Tensor:
        if i.shape[2] == 0:
            raise RuntimeError("empty")
        return i + f.mT

    fell: Cases = [("values", {"gates": gates(0)}), ("future", {"gates": gates(3)})]
    cause = causes(kernel, fell).entries[0]
    assert (cause.kind, cause.law) == ("bug", "future")
    assert "raised" not in cause.sentence


def test_what_refutes_every_contract_is_the_bug() -> None:
    """Where no contract was found, the case that refuted the widest is the bug of all that it explains."""
    fell: Cases = [
        ("values", {"gates": gates(2, Constant(8.0))}),
        ("replay", {"gates": gates(2, Constant(8.0)), "rival": gates(2)}),
    ]
    own = named(ALL["epsilon_in_log"])
    case = encoded({"gates": Gates("float32", (1, 2, 17), MinusWindow(), Ramp(2.0, 1 / 136, 0.5))})
    known = Wider("none", refuted_by=[Refuting("values", "float32", "cpu", case)])
    [cause] = causes_of(own, replace(report(own, fell), stands_under=known), seconds=60).entries
    assert cause.kind == "bug"
    assert [one.law for one in cause.breaks] == ["values", "replay"]


def test_a_wrong_mask_and_a_wrong_gradient_are_two_bugs() -> None:
    """A kernel that masks by -1e9, and whose gradient drops the tail, has two causes."""

    def both(i: Tensor, f: Tensor) -> Tensor:
        output: Tensor = ALL["tail_gradient_dropped"](i, f)
        return output.nan_to_num(neginf=-1e9)

    found = causes(both, [("future", {"gates": gates(2)}), ("forget_gradient", BACKWARD)]).entries
    assert [(cause.kind, cause.law) for cause in found] == [("bug", "future"), ("bug", "forget_gradient")]


def test_a_stated_promise_is_not_relaxed() -> None:
    """What a contract states stays in every contract that a cause is looked for in."""
    own = named(difference, Contract(error_scope=16, accumulates_in="float64", special_values=("nan",)))
    relaxable = Relaxable.of(own, None)
    assert not {"error_scope", "float64", "bfloat16", "-inf"} & set(relaxable.names)
    for given_up in relaxable.widest:
        contract = relaxable.contract(given_up)
        for name, value in own.contract.stated().items():
            assert getattr(contract, name) == value
    assert relaxable.contract(frozenset()) is own.contract


def test_the_fewest_promises_explain_all() -> None:
    """Of sets that take a failure away the one that explains most others is its cause."""
    failures: list[Any] = ["one", "two", "three"]
    scope, inf_, half = (frozenset({name}) for name in ("error_scope", "-inf", "bfloat16"))
    sets = [(failures[0], [inf_, scope]), (failures[1], [scope]), (failures[2], [half])]
    groups = covered(sets, ["error_scope", "bfloat16", "-inf"])
    assert [group.given_up for group in groups] == [scope, half]
    assert [group.failures for group in groups] == [failures[:2], failures[2:]]


def test_nan_is_named() -> None:
    """A bug that gives NaN where a number is due is told so."""

    def kernel(i: Tensor, f: Tensor) -> Tensor:
        return masked_cumulative_sum(i, f) * torch.nan

    [cause] = causes(kernel, [("values", {"gates": gates(2)})]).entries
    assert (cause.kind, cause.sentence) == ("bug", "D~ has NaN for a number on the diagonal.")


def test_a_process_that_dies_is_a_bug() -> None:
    """A case that ended its process is not tried again, and is a bug of its own."""
    own = named(difference)
    died = LawRecord("future", own.name, "float32", "cpu", "failed", "died", recipe="{}", ended="died")
    found = causes_of(own, Report.of(own.name, {}, [died]), seconds=5).entries
    assert [(cause.kind, cause.ended, cause.sentence) for cause in found] == [
        ("bug", "died", "The process dies in the call.")
    ]


def test_a_case_that_ends_the_search_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that dies on a known case while its causes are searched has its other causes found."""
    monkeypatch.chdir(tmp_path)
    Path("k.py").write_text(
        "import os\ndef f(i, f):\n    if i.shape[2] == 3:\n        os._exit(7)\n    return i + f.mT\n"
    )
    fell: Cases = [("values", {"gates": gates(3)}), ("future", {"gates": gates(2)})]
    found = with_causes(report(named(difference), fell), None, seconds=60).causes
    assert {(cause.kind, cause.law, cause.ended) for cause in found} == {
        ("bug", "values", "died"),
        ("bug", "future", "broken"),
    }


def test_an_error_of_the_search_is_told() -> None:
    """A search that raises does not pass for one that had too little time."""

    def raises(*_: object, **__: object) -> None:
        raise RuntimeError("ValueError: of dmat's own")

    fallen = report(named(difference), [("values", {"gates": gates(1, CLOSED)})])
    [cause] = with_causes(fallen, None, run=raises).causes
    assert cause.kind == "unsorted"
    assert cause.sentence.endswith("the search for causes raised ValueError: of dmat's own")


def test_without_time_the_failures_are_told_unsorted() -> None:
    """What could not be sorted is named as such, and accused of nothing."""
    own = named(difference)
    fallen = report(own, [("values", {"gates": gates(1, CLOSED)})])
    [cause] = causes_of(own, fallen, seconds=0.0).entries
    assert (cause.kind, [one.law for one in cause.breaks]) == ("unsorted", ["values"])
    assert cause == unsorted(fallen.broken())


def test_a_cause_has_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder has the case that is shown, other laws in also/, and the words of the cause in report.md."""
    monkeypatch.chdir(tmp_path)
    Path("k.py").write_text(
        "from dmat.reference import masked_cumulative_sum as m\ndef f(i, f):\n    return m(i, f) + 1\n"
    )
    own, found = load("k.py:f"), tmp_path / "counterexamples"
    session = Session(folder=found, seed=1)
    laws = [law_named("values"), law_named("open_gates")]
    every = run(own, laws, ["float32"], ["cpu"], profile=QUICK, session=session)
    names = LawRecord.__struct_fields__
    records = [LawRecord(**{name: getattr(record, name) for name in names}) for record in every]
    assert len(list(found.iterdir())) == 2
    fallen = Report.of("k.py:f", {}, records)
    fallen = replace(fallen, causes=causes_of(own, fallen, found, seconds=30).entries)
    kept = with_folders(fallen)
    [home] = found.iterdir()
    assert {record.folder for record in kept.laws} == {str(home)}
    assert home.name.startswith(f"{kept.causes[0].law}-float32-")
    assert len([*home.glob("case.json"), *home.glob("also/*.json")]) == 2
    assert (home / "report.md").read_text().splitlines()[2].startswith("**Cause.** A bug: D~ is wrong")


def test_a_case_that_holds_again_says_why_it_has_no_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that falls once in its life: its folder has the case, and report.md says why no repro.py."""
    monkeypatch.chdir(tmp_path)
    Path("k.py").write_text(
        "from pathlib import Path\n"
        "from dmat.reference import masked_cumulative_sum as m\n"
        "def f(i, f):\n"
        "    return m(i, f) if Path('right').exists() else m(i, f) + 1\n"
    )
    own, session = load("k.py:f"), Session(folder=tmp_path / "counterexamples", brief=True)
    [fell] = run(own, [law_named("values")], ["float32"], ["cpu"], profile=QUICK, session=session)
    Path("right").touch()
    record = LawRecord(**{name: getattr(fell, name) for name in LawRecord.__struct_fields__})
    cause = entry_of(record, kind="bug", sentence="Wrong.", gates="at any", breaks=breaks_of([record]))
    with_folders(replace(Report.of("k.py:f", {}, [record]), causes=[cause]))
    assert fell.folder is not None
    home = Path(fell.folder)
    assert {file.name for file in home.iterdir()} == {"case.json", "report.md"}
    assert HELD in (home / "report.md").read_text()


def test_pytest_tells_the_causes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a pytest run says the causes of a kernel that breaks several laws, and of no other."""
    monkeypatch.chdir(tmp_path)
    Path("k.py").write_text("def f(i, f):\n    return i + f.mT\n")
    case = encoded({"gates": gates(2)})
    records = [
        Record(law, "k.py:f", "float32", "cpu", "failed", law, recipe=case, ended="broken")
        for law in ("values", "future")
    ]
    monkeypatch.setattr(search, "SECONDS", 60.0)
    assert not list(plugin._causes(records[:1]))
    title, first, breaks, *_ = plugin._causes(records)
    assert title == "the causes of 2 broken laws of k.py:f:"
    assert first.startswith("1. a bug. D~ ")
    assert breaks == "   breaks values, future (float32)"


# How mild

MILD = {
    ORDINARY: Cycle((-1.0, 8.0)),
    SATURATED: Constant(-88.0),
    EXTREME: Edited(Constant(0.0), (((0, 0, 1), -1e4),)),
    SUBNORMAL: Constant(1e-40),
    INFINITE: Edited(Constant(0.0), (((0, 0, 0), -inf),)),
    NOT_A_NUMBER: Constant(nan),
}


def test_the_order_of_regimes() -> None:
    """Ordinary gates are milder than saturated, extreme, subnormal, infinite and NaN ones."""
    law, subject = law_named("values"), DtildeSubject(named(difference), "float32")
    found = {
        how: severity(law, subject, {"gates": Gates("float32", (1, 1, 2), fgate=x)})
        for how, x in MILD.items()
    }
    assert found == {how: how for how in MILD}


def test_a_law_that_closes_a_gate_is_not_ordinary() -> None:
    """The gates that a law itself sets count: closed_gates sets -inf."""
    case: Case = {"gates": Gates("float32", (1, 1, 1)), "head": (0, 0), "t": 0}
    assert severity(law_named("closed_gates"), DtildeSubject(named(difference), "float32"), case) == INFINITE


@pytest.mark.parametrize("name", ["values", "forget_gradient", "slices", "locality"])
@pytest.mark.parametrize("limit", [ORDINARY, SATURATED])
def test_milder_cases_are_allowed(name: str, limit: int) -> None:
    """Every milder case lies in the law's domain, and is as mild as was asked for."""
    law = law_named(name)
    subject = DtildeSubject(named(difference, Contract(seq_multiple_of=4, special_values=())), "float32")
    start = law.arguments(law.cases.of_block(b"x", 3, subject.domain))
    found = list(milder(law, subject, start, limit, 30))
    assert len(found) > 20
    for case in found:
        assert law.why_not(subject, case) is None
        assert severity(law, subject, case) <= limit


def falls_from(least: float) -> Kernel:
    """Return a kernel that is wrong where a forget gate is as large as `least`."""

    def kernel(i: Tensor, f: Tensor) -> Tensor:
        return masked_cumulative_sum(i, f) + (f.abs() >= least).any().to(i.dtype)

    return kernel


@pytest.mark.parametrize(("least", "said"), [(2.0, "at ordinary gates"), (100.0, "only from |f| = 10")])
def test_a_case_says_from_where_on(least: float, said: str) -> None:
    """A kernel that is wrong from a magnitude on is shown at no larger one, which the text names."""
    [cause] = causes(falls_from(least), [("values", {"gates": gates(2, Constant(746.0))})]).entries
    assert cause.gates.startswith(said)
    largest = max(np.abs(gate).max() for gate in decoded(cause.recipe or "")["gates"].values())
    assert largest <= max(8.0, 1.5 * least)


def test_an_extreme_case_gives_way_to_an_ordinary_one() -> None:
    """A failure found with -inf is shown with ordinary gates if the kernel falls there too."""
    fell: Cases = [("values", {"gates": gates(1, CLOSED)})]
    [cause] = causes(difference, fell, {"error_scope": "prefix"}).entries
    assert cause.gates == "at ordinary gates"
    assert np.isfinite(decoded(cause.recipe or "")["gates"].values()[1]).all()
    assert cause.message.startswith("values: ")


def test_first_shows_a_milder_case() -> None:
    """With --first too a failure is shown with ordinary gates, if it falls there."""
    law, subject = law_named("values"), DtildeSubject(named(difference), "float32")
    session = Session(milder=milder_failure)
    [record] = run(named(difference), [law], ["float32"], ["cpu"], profile=QUICK, session=session)
    assert record.gates == "at ordinary gates"
    assert severity(law, subject, decoded(record.recipe or "")) == ORDINARY


def test_the_error_at_the_length_of_a_model() -> None:
    """A difference of sums is far off at S = 2048, a right kernel is within its bound, and both are told."""
    far = at_length(named(difference), "float32", "cpu")
    near = at_length(named(masked_cumulative_sum), "float32", "cpu")
    assert far is not None
    assert near is not None
    assert (far.S, near.S) == (2048, 2048)
    assert (far.worst or 0) > 50
    assert (near.worst or 9) <= 1
    short = at_length(named(difference, Contract(max_seq=40)), "float32", "cpu")
    assert short is not None
    assert short.S == 40


# In words


def test_the_words_of_promises() -> None:
    """Each promise that may be given up has words; several make one sentence."""
    for name in Relaxable.of(named(difference), None).names:
        sentence = of_promises({name: "prefix"}, "reverse")
        assert sentence.endswith(".")
        assert f"{name} is" not in sentence.lower() or name in ("float64", "bfloat16", "float16")
    both = of_promises({"error_scope": 16, "-inf": False}, "reverse")
    assert both == "Errors grow with chunks of 16; gates of -inf are not handled."


def test_the_words_of_a_bug() -> None:
    """A bug is told by the quantity that is wrong, and by the class of the value."""
    assert of_bug("D~", "D~ above the diagonal: a number for -inf") == (
        "D~ has a number for -inf above the diagonal."
    )
    shared = of_bug("D~", "D~: shares memory with f for its own memory", "memory")
    assert shared == "D~: shares memory with f; expected its own memory."
    assert of_bug("call", "call: ValueError for a result", "raised") == "The call fails: ValueError."
    assert of_bug("df", "df: a number for a number") == "The gradient of the forget gate is wrong."


# The same again


def test_a_seed_repeats_the_cases() -> None:
    """The same seed draws the same cases in every run, another seed others."""

    def drawn(seed: int) -> list[str]:
        seen: list[str] = []

        def kernel(i: Tensor, f: Tensor) -> Tensor:
            seen.append(f"{i.tolist()} {f.tolist()}")
            return masked_cumulative_sum(i, f)

        one = [law_named("values")]
        list(
            run(
                named(kernel),
                one,
                ["float32"],
                ["cpu"],
                profile=QUICK,
                session=Session(seed=seed),
                part="search",
            )
        )
        return seen

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


@pytest.mark.parametrize("kind", [Contract, FusedContract])
def test_each_promise_that_may_be_relaxed_has_a_sentence(kind: type[BaseContract]) -> None:
    """No cause is told by the name of a field."""
    assert set(options(kind)) <= {*PROMISES, *SCOPED}


def test_the_clock_stops_the_search() -> None:
    """A clock of a part of the time never ends after the whole."""
    whole = Clock(0.0, 0.0)
    assert whole.at_most(100.0) == whole
