"""docs/third-party.md: what became of each adapter, as rows of a table and sections of words."""

from __future__ import annotations

import re
import textwrap
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jinja2

TEMPLATE = Path(__file__).with_name("page.md.jinja")
PACKAGES = {  # files that are not named like what they adapt
    "fla": "fla-core",
    "mamba_ssm": "mamba-ssm",
    "mingru_pytorch": "minGRU-pytorch",
    "mingru_scans": "mingru-scans",
    "yet_another_retnet": "yet-another-retnet",
}
VARIANTS = re.compile(
    r"_(wide|float16|as_defined|layer|\d+)$"
)  # one function held to another contract, or with other sizes
VERDICTS = {"sound": "keeps all", "broken": "**breaks**", "error": "not to the end"}
BESIDE = ("torch", "triton", "einops", "numpy", "dmat")
SCOPES = {"window": "errors of the window", "prefix": "errors of the whole prefix"}
WIDTH = 112


class Page:
    """The page of these results: (adapter, what became of it)."""

    def __init__(
        self, results: list[tuple[Any, dict]], notes: dict, versions: dict[str, str], cores: int
    ) -> None:
        """Take everything that it tells."""
        self.results, self.notes, self.versions, self.cores = results, notes["note"], versions, cores
        self.excused = notes.get("uncheckable", {})

    def text(self) -> str:
        """Return the page."""
        template = template_of(TEMPLATE.read_text(encoding="utf-8"))
        verdicts = [verdict(result) for _, result in self.results]
        dates = sorted(result["date"] for _, result in self.results)
        answers = [answer for _, result in self.results for answer in result["confirmed"].values()]
        return template.render(
            functions=len({self.function(adapter) for adapter, _ in self.results}),
            packages=len({self.package(adapter) for adapter, _ in self.results}),
            triton=len({self.function(adapter) for adapter, _ in self.results if adapter.options}),
            adapters=len(verdicts),
            sound=verdicts.count("sound"),
            broken=verdicts.count("broken"),
            other=verdicts.count("error"),
            accusations=len(answers),
            confirmed=answers.count("yes"),
            first=dates[0],
            last=dates[-1],
            cores=self.cores,
            torch=self.version("torch"),
            triton_version=self.version("triton"),
            rows=[self.row(adapter, result) for adapter, result in self.results],
            notes=[self.section(note) for note in self.notes if self.accused(note)],
            uncheckable=self.uncheckable(),
            cases=self.cases(),
            interpreted=" and ".join(self.interpreted()),
            versions=wrapped(", ".join(f"{name} {self.version(name)}" for name in self.told)),
        )

    def doubts(self) -> list[str]:
        """Return the accusations that no note explains, or no plain call confirms."""
        found = []
        for adapter, result in self.results:
            noted = [note for note in self.notes if fnmatch_any(adapter.result.stem, note["accuses"])]
            for record in failed(result):
                if result["confirmed"][record["folder"]] != "yes":
                    found.append(f"not confirmed: {adapter.target}, {record['law']}, {record['dtype']}")
                if not any(speaks_of(note, record) for note in noted):
                    found.append(f"not explained: {adapter.target}, {record['law']}, {record['dtype']}")
        return found

    @property
    def told(self) -> list[str]:
        """Return the packages that the page names with their versions, in order."""
        return [*sorted({self.package(adapter) for adapter, _ in self.results}, key=str.lower), *BESIDE]

    def version(self, package: str) -> str:
        """Return what is installed of a package, whichever way its name is written."""
        known = {canonical(name): version for name, version in self.versions.items()}
        return known.get(canonical(package), "")

    def cases(self) -> str:
        """Return how many random cases a law and dtype got, in words."""
        counts = [random_cases(result) for adapter, result in self.results if not adapter.options]
        return " to ".join(str(n) for n in dict.fromkeys((min(counts), max(counts)))) if counts else "no"

    def interpreted(self) -> list[str]:
        """Return the dtypes that interpreted kernels were tried in."""
        some = {r["dtype"] for adapter, result in self.results if adapter.options for r in laws(result)}
        return sorted(some, reverse=True)

    # Rows

    def package(self, adapter: Any) -> str:
        """Return the package that a file adapts, as it is installed."""
        stem = adapter.file.removesuffix(".py").removesuffix("_triton")
        return PACKAGES.get(stem, stem)

    def function(self, adapter: Any) -> tuple[str, str]:
        """Return the function itself, whatever it is held to."""
        return adapter.file, VARIANTS.sub("", adapter.name)

    def row(self, adapter: Any, result: dict) -> dict[str, str]:
        """Return a line of the table."""
        package = self.package(adapter)
        answers = set(result["confirmed"].values())
        worst = max((r["worst"] for r in laws(result) if r["worst"] is not None), default=None)
        return {
            "package": f"{package} {self.version(package)}",
            "name": f"{adapter.file}:{adapter.name}",
            "promise": promise((result["report"] or {}).get("contract", {})),
            "verdict": VERDICTS[verdict(result)],
            "grade": grade(result.get("grades")),
            "worst": "" if worst is None else f"{worst:.2f}",
            "laws": "; ".join([*by_length(result), *wider(result)]),
            "seconds": str(result["seconds"]),
            "confirmed": ("yes" if answers == {"yes"} else ", ".join(sorted(answers))) if answers else "",
        }

    def uncheckable(self) -> list[str]:
        """Return what was not run to the end, with the reason."""
        lines = []
        for adapter, result in self.results:
            if verdict(result) == "error":
                why = self.excused.get(adapter.result.stem) or unfinished(result)
                lines.append(f"`{adapter.target}`: {why}")
        return lines

    # Sections

    def accused(self, note: dict) -> list[tuple[Any, dict, list[dict]]]:
        """Return the adapters that a note is about, with the records that it explains."""
        found = []
        for adapter, result in self.results:
            if fnmatch_any(adapter.result.stem, note["accuses"]):
                records = [record for record in failed(result) if speaks_of(note, record)]
                found += [(adapter, result, records)] if records else []
        return found

    def section(self, note: dict) -> dict[str, Any]:
        """Return the words of a note, with the smallest case of each function."""
        accused = self.accused(note)
        adapter, _, records = accused[0]
        names = [f"`{adapter.name}`" for adapter, *_ in accused]
        options = " ".join([*adapter.options, "--dtype", records[0]["dtype"]])
        return {
            "title": note["title"],
            "functions": wrapped(", ".join(names)),
            "promised": wrapped("*Promised.* " + note["promised"]),
            "seen": wrapped("*Seen.* " + note["seen"]),
            "lines": [f"`{adapter.name}`: {seen(records)}" for adapter, _, records in accused],
            "call": note.get("call", "").strip(),
            "again": f"dmat check {options} {adapter.target}",
            "by_design": wrapped("*By design?* " + note["by_design"]),
        }


def template_of(text: str) -> jinja2.Template:
    """Return a template that knows `wrapped`, and no missing name."""
    environment = jinja2.Environment(keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    environment.filters["wrapped"] = wrapped
    return environment.from_string(text)


def random_cases(result: dict) -> int:
    """Return how many random cases a law and dtype got: as was told, or as dmat check has it."""
    told = result["told"]
    return int(told[told.index("--examples") + 1]) if "--examples" in told else 200


def laws(result: dict) -> list[dict]:
    """Return the records of a result."""
    return result["report"]["laws"] if result["report"] else []


def failed(result: dict) -> list[dict]:
    """Return those of the laws that do not hold."""
    return [record for record in laws(result) if record["status"] == "failed"]


def verdict(result: dict) -> str:
    """Return "sound", "broken" or "error"."""
    return result["report"]["verdict"] if result["report"] else "error"


def unfinished(result: dict) -> str:
    """Say why a result is none."""
    if result["report"]:
        reasons = {r["reason"] for r in laws(result) if r["status"] == "not run" and r["promised"]}
        return "; ".join(sorted(reasons))
    return (result["said"].strip().splitlines() or [result["ended"]])[-1]


def fnmatch_any(name: str, patterns: list[str]) -> bool:
    """Whether one of the patterns fits."""
    return any(fnmatch(name, pattern) for pattern in patterns)


def speaks_of(note: dict, record: dict) -> bool:
    """Whether a note explains the failure of this law."""
    return "laws" not in note or record["law"] in note["laws"]


def length(record: dict) -> int:
    """Return S of the smallest case."""
    found = re.search(r"Gates\('\w+', \(\d+, \d+, (\d+)\)", record["case"] or "")
    return int(found[1]) if found else 0


def by_length(result: dict) -> list[str]:
    """Return the broken laws by their shortest length, with the dtypes where these are not all."""
    found: dict[str, list[dict]] = {}
    for record in failed(result):
        found.setdefault(record["law"], []).append(record)
    every = {record["dtype"] for record in laws(result)}
    grouped: dict[str, list[str]] = {}
    for law, records in found.items():
        dtypes = dict.fromkeys(record["dtype"] for record in records)
        where = "" if len(every) == len(dtypes) else f" in {', '.join(dtypes)}"
        grouped.setdefault(f"S = {min(map(length, records))}{where}", []).append(law)
    return [f"{', '.join(names)} at {where}" for where, names in grouped.items()]


def wider(result: dict) -> list[str]:
    """Return what the contract would have to say for the function to keep all, where something is known."""
    found = (result["report"] or {}).get("stands_under") or {}
    if found.get("outcome") != "found" or found["wrong_in"]:
        return []
    added = found["decorator"].removeprefix("dmat.testing.fused(..., ").removesuffix(")")
    return [f"holds with `{added}`"]


def grade(grades: list[dict] | None) -> str:
    """Return the strictest classes that stand, of the output and of the gates' gradients."""
    if not grades or grades[0]["reason"]:
        return ""
    forward, gradients = ((grades[0][name] or {}).get("class") for name in ("forward", "gradients"))
    words = [f"{forward['error_scope']}, {forward['accumulates_in']}"] if forward else ["none"]
    if grades[0]["gradients"]:
        rows = gradients and gradients["error_scope"] not in ("window", "rectangle")
        words.append(f"gradients {'rows' if rows else 'rectangle'}" if gradients else "gradients none")
    return "; ".join(words)


def canonical(package: str) -> str:
    """Return a package's name as an index compares it."""
    return re.sub(r"[-_.]+", "-", package).lower()


def seen(records: list[dict]) -> str:
    """Say what the smallest case shows: the entry, what is computed, what is right, on what."""
    record = min(records, key=lambda record: (length(record), len(record["case"] or "")))
    entry = re.search(r"on \w+:\n  (\S.*)", record["reason"])
    told = dict(re.findall(r"^    (computed|exact|before|after)\s+(.+)$", record["reason"], re.M))
    values = ", ".join(f"{word} {value}" for word, value in told.items())
    case = "; ".join(line.strip() for line in (record["case"] or "").splitlines())
    return f"{record['law']}, {record['dtype']}: {entry[1] if entry else ''} {values}, on `{case}`"


def promise(contract: dict) -> str:
    """Say in a line what a contract holds a function to."""
    scope = contract.get("error_scope", "window")
    words = [SCOPES.get(scope, f"errors of chunks of {scope}")]
    if contract.get("reads", "linear") in ("mlstm", "softmax", "delta"):
        words.insert(0, {"mlstm": "mLSTM", "softmax": "softmax", "delta": "delta rule"}[contract["reads"]])
    gradients = {"none": "no gradients", "truncated": "normaliser a constant in gradients"}
    words += [gradients[contract["gradient"]]] if contract.get("gradient") in gradients else []
    words += ["gates by channel"] if contract.get("gates_by") == "channel" else []
    words += [f"{contract['group']} value heads a key head"] if contract.get("group", 1) > 1 else []
    words += ["l2norm"] if contract.get("l2norm") else []
    words += (
        [{"dt": "A_log, dt_bias", "bounded": "A_log, dt_bias, a lower bound"}[contract["gate"]]]
        if contract.get("gate") in ("dt", "bounded")
        else []
    )
    words += ["gradients by suffix sums"] if contract.get("grad_scope") == "suffix" else []
    words += [f"i from {low:g} to {high:g}" for low, high in [contract.get("i_range", (0, 0))] if low or high]
    words += [f"sums in {contract['accumulates_in']}"] if contract.get("accumulates_in") == "float16" else []
    return ", ".join(words)


def wrapped(text: str) -> str:
    """Return text in lines of the page's width."""
    return textwrap.fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)
