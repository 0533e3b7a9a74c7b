"""Records: the result of one law for one implementation, dtype and device.

A worker sends records to the controller, and the report of `dmat check` holds them.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from dmat.testing.contract.names import DEVICE, DTYPES
from dmat.testing.interpret.choice import Interpreter

FORMAT: Final = 2  # version of every JSON document that dmat writes


Format = Literal[2]


Dtype = Annotated[str, Meta(extra_json_schema={"enum": list(DTYPES)})]


Device = Annotated[str, Meta(pattern=f"^{DEVICE}$", max_length=100)]


Status = Literal["passed", "failed", "known", "not run"]


Ended = Literal["broken", "died", "did not end"]


What = Literal[
    "value", "class", "raised", "shape", "memory", "died"
]  # the field `what` of dmat.testing.verdict.finding.Finding


Count = Annotated[int, Meta(ge=0)]


Seconds = Annotated[float, Meta(ge=0)]


Target = Annotated[str, Meta(description="TARGET as given, or a built-in name")]


Promises = Annotated[dict[str, Any], Meta(description="promises that differ from the strictest default")]


Interpreted = Annotated[
    Interpreter | None,
    Meta(description="of Triton, that the kernels ran in, and the number of the autotune config; else null"),
]


class Tried(Struct, forbid_unknown_fields=True):
    """The inputs tried: lengths S, heads (B, NH), sizes K and V, kinds of q, k, v, and layouts by input.

    remarks: what laws have seen of the results that breaks no promise. refused: (K, V) for which
    the kernel raised, though no contract states others; 0 stands for any.
    """

    lengths: set[int] = set()
    heads: set[tuple[int, int]] = set()
    K: set[int] = set()
    V: set[int] = set()
    products: set[str] = set()
    layouts: dict[str, set[str]] = {}
    remarks: set[str] = set()
    refused: set[tuple[int, int]] = set()

    def add(self, other: Tried) -> None:
        """Add what another one has."""
        for name in ("lengths", "heads", "K", "V", "products", "remarks", "refused"):
            getattr(self, name).update(getattr(other, name))
        for name, layouts in other.layouts.items():
            self.layouts.setdefault(name, set()).update(layouts)


class LawRecord(Struct, forbid_unknown_fields=True):
    """What became of one law for one implementation, dtype and device."""

    law: str
    implementation: str
    dtype: Dtype
    device: Device
    status: Status = "not run"  # until the law has ended
    reason: Annotated[
        str,
        Meta(
            description="failed: the whole message; not run: why; known: the reason and link told; else empty"
        ),
    ] = "interrupted"
    promised: Annotated[bool, Meta(description="whether the contract implies that the law is run")] = True
    uncallable: Annotated[bool, Meta(description="not run: whether the plainest call raised")] = False
    examples: Annotated[int, Meta(ge=0, description="calls")] = 0
    sequences: Annotated[
        int, Meta(ge=0, description="gate sequences of these calls: batches times heads")
    ] = 0
    worst: Annotated[
        float | None, Meta(description="largest error over its bound; null for laws without a bound")
    ] = None
    case: Annotated[
        str | None, Meta(description="failed: the smallest case found, as Python, a line an argument")
    ] = None
    recipe: Annotated[str | None, Meta(description="failed: the same case, as a line of JSON")] = None
    folder: Annotated[str | None, Meta(description="failed: where the counterexample is kept")] = None
    ended: Annotated[
        Ended | None, Meta(description="failed: a wrong result, or what became of the process")
    ] = None
    gates: Annotated[
        str | None, Meta(description="failed: with which gates, where that was searched for this law alone")
    ] = None
    seconds: Seconds = 0.0


class Unreached(LawRecord):
    """The record of a law that the run did not reach."""


class Record(LawRecord, tag="record", tag_field="line"):
    """The LawRecord of a law, or of a part of a law, while the law runs.

    refused: number of examples that the implementation refused with an error that its contract allows.
    drawn: number of different gate sequences by regime and class of lengths: keys "REGIME, LENGTHS".
    part: "all", "ladder" or "search". tried: the inputs of these examples. traceback: the error that the law
    itself raised, else "".
    """

    refused: int = 0
    drawn: dict[str, int] = {}
    part: str = "all"
    tried: Tried = msgspec.field(default_factory=Tried)
    traceback: str = ""

    def count(self, shape: tuple[int, ...], kinds: list[str]) -> None:
        """Count an example. shape: (B, NH, ..). kinds: "REGIME, LENGTHS" of its different heads."""
        self.examples += 1
        self.sequences += shape[0] * shape[1]
        for kind in kinds:
            self.drawn[kind] = self.drawn.get(kind, 0) + 1


def text_of(document: Any, indent: int | None = None) -> str:
    """Return structs as JSON. Unpaired surrogates in strings are escaped; msgspec's encoder would raise."""
    return json.dumps(msgspec.to_builtins(document, order="deterministic"), indent=indent)


def stated(contract: dict[str, object]) -> dict[str, Any]:
    """Return the stated promises of a contract as JSON values. Other values, like functions, become str."""
    said: dict[str, Any] = json.loads(json.dumps(contract, default=str))
    return said


class Refuting(Struct, frozen=True, forbid_unknown_fields=True):
    """A case that breaks its law under every contract."""

    law: str
    dtype: Dtype
    device: Device
    recipe: Annotated[str, Meta(description="the case, as a line of JSON")]


class Wider(Struct, frozen=True, forbid_unknown_fields=True):
    """Whether a wider contract admits an implementation that falls."""

    outcome: Annotated[
        Literal["found", "none", "unfinished"],
        Meta(description="none: no contract admits it; unfinished: not searched to the end"),
    ]
    contract: Annotated[
        dict[str, Any] | None,
        Meta(description="found: its promises that differ from the strictest default"),
    ] = None
    decorator: Annotated[str | None, Meta(description="found: the same, as Python to paste")] = None
    wrong_in: Annotated[
        list[Dtype], Meta(description="found: the dtypes in which no contract admits it")
    ] = []
    refuted_by: Annotated[
        list[Refuting], Meta(description="cases that show a bug: none, or found but wrong_in a dtype")
    ] = []


class Broken(Struct, frozen=True, forbid_unknown_fields=True):
    """A law that is broken in a dtype on a device."""

    law: str
    dtype: Dtype
    device: Device


class CauseEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A cause of failures, and the mildest case that shows it."""

    kind: Annotated[
        Literal["bug", "operator", "promise", "unsorted"],
        Meta(
            description="promise: its failures vanish under a wider contract; bug: under none that was tried;"
            " operator: under none, and no kind of operator of dmat gives the output of the plainest calls;"
            " unsorted: failures for which the time was too short"
        ),
    ]
    sentence: Annotated[str, Meta(description="the cause in words")]
    promises: Annotated[
        dict[str, Any],
        Meta(description="promise: the fewest to relax, each with its weaker value"),
    ] = {}
    decorator: Annotated[
        str | None, Meta(description="promise: Python to paste, which says that these are not promised")
    ] = None
    tried: Annotated[
        str, Meta(description="promise: on what the decorator was tried: all laws, or the known cases")
    ] = ""
    gates: Annotated[str, Meta(description="with which gates it was seen: ordinary ones, or from where on")]
    law: Annotated[str, Meta(description="of the case that is shown")]
    dtype: Dtype
    device: Device
    ended: Ended
    message: str
    case: Annotated[str | None, Meta(description="the mildest case found, as Python, a line an argument")]
    recipe: Annotated[str | None, Meta(description="the same case, as a line of JSON")]
    folder: Annotated[str | None, Meta(description="where the counterexample is kept")]
    breaks: Annotated[list[Broken], Meta(description="all laws that it breaks")]


class AtLength(Struct, frozen=True, forbid_unknown_fields=True):
    """How far off the output is at ordinary gates of a model's length: one head, normal gates around +3."""

    dtype: Dtype
    S: Annotated[int, Meta(ge=1, description="the length")]
    worst: Annotated[float | None, Meta(description="largest error over its bound; null: a class is wrong")]
    ulps: Annotated[
        float | None, Meta(description="largest error in units in the last place; null: a class is wrong")
    ]


class Contradiction(Struct, frozen=True, forbid_unknown_fields=True):
    """A promise of the contract that the compiled code does not keep."""

    promise: Literal["multiplies_in", "accumulates_in", "deterministic", "compiles"]
    kernel: str
    line: Annotated[str, Meta(description="FILE:LINE of the kernel's source; empty if none is meant")]
    archs: list[str]
    dtypes: list[Dtype]
    message: str


class OnDevices(Struct, frozen=True, forbid_unknown_fields=True):
    """What was read of the launches, compiled for GPUs that are not there."""

    archs: list[str]
    contradictions: list[Contradiction] = []
    notes: Annotated[list[str], Meta(description="what is no contradiction, in words")] = []
    reason: Annotated[str, Meta(description="why nothing could be read; else empty")] = ""


class Report(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What became of one implementation. laws: a record a law, dtype and device."""

    format: Format = FORMAT
    implementation: Target
    verdict: Literal["sound", "broken", "error"]
    contract: Promises
    laws: list[LawRecord]
    stands_under: Annotated[
        Wider | None,
        Meta(
            description="of one that falls and left promises unstated: whether a wider contract admits it;"
            " else null"
        ),
    ] = None
    causes: Annotated[
        list[CauseEntry], Meta(description="broken: the causes of all failures, bugs first; else empty")
    ] = []
    at_length: Annotated[
        AtLength | None, Meta(description="of a broken kernel whose cause was searched; else null")
    ] = None
    regimes: Annotated[
        dict[str, int], Meta(description="different gate sequences that were tried, by regime")
    ] = {}
    seed: Annotated[int | None, Meta(description="of the random cases; --seed repeats them")] = None
    interpreter: Interpreted = None
    tried: Annotated[Tried | None, Meta(description="the inputs of all examples together")] = None
    compiled: Annotated[
        OnDevices | None, Meta(description="interpreted: what the compiled launches say; else null")
    ] = None

    @classmethod
    def of(
        cls,
        implementation: str,
        contract: dict[str, object],
        laws: list[LawRecord],
        tried: Tried | None = None,
    ) -> Report:
        """Make the report of an implementation. The verdict follows from the records."""
        return cls(
            implementation=implementation,
            verdict=_verdict(laws),
            contract=stated(contract),
            laws=laws,
            tried=tried,
        )

    def broken(self) -> list[LawRecord]:
        """Return the records of the broken laws."""
        return [r for r in self.laws if r.status == "failed"]

    def unfinished(self) -> list[LawRecord]:
        """Return the records of laws that the contract implies and that were not run."""
        return [r for r in self.laws if r.status == "not run" and r.promised]

    def uncallable(self) -> dict[tuple[str, str], str]:
        """Return {(dtype, device): reason} where the implementation cannot be called and no law was run."""
        tried = {(r.dtype, r.device) for r in self.laws if r.status in ("passed", "failed")}
        reasons: dict[tuple[str, str], str] = {}
        for r in self.unfinished():
            if r.uncallable and (r.dtype, r.device) not in tried:
                reasons.setdefault((r.dtype, r.device), r.reason)
        return reasons

    def only_callable(self) -> Report:
        """Return the report without the dtypes and devices of `uncallable`."""
        without = self.uncallable()
        return replace(self, laws=[r for r in self.laws if (r.dtype, r.device) not in without])


def _verdict(laws: list[LawRecord]) -> Literal["sound", "broken", "error"]:
    if any(r.status == "failed" for r in laws):
        return "broken"
    unfinished = any(r.status == "not run" and r.promised for r in laws)
    return "error" if unfinished or not laws else "sound"
