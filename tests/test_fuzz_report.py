"""The report of a fuzzing run: four files that say the same, harmless whatever the names in them are."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import jsonschema
import msgspec
import pytest

from dmat.strategies import Gates
from dmat.testing import fuzzing
from dmat.testing.case_file import encoded
from dmat.testing.causes import search
from dmat.testing.fuzzing.report import files, page
from dmat.testing.fuzzing.report.entries import FuzzReport
from dmat.testing.fuzzing.report.result import with_causes_of_findings

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver
    from selenium.webdriver.remote.webelement import WebElement

Entry = dict[str, Any]
FILES = {"report.json", "report.html", "junit.xml", "summary.md"}
SCHEMA = json.loads(Path(next(iter(fuzzing.__path__)), "report", "report.schema.json").read_text())
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
HOSTILE = (
    "</script><script>hacked=1</script><img src=x onerror=hacked=1>|`&\"'\\|``\n# x\x00\x1b[31m\ud800]]>-->"
)


def cell(law: str, dtype: str = "float32", status: str = "held", **more: object) -> Entry:
    """Return a cell; one that was run has an example of each of two kinds."""
    ran = status in ("held", "broken")
    drawn = {"ordinary, S = 2 .. 5": 30, "special, S > 150": 10} if ran else {}
    told = {
        "turns": int(ran),
        "examples": sum(drawn.values()),
        "refused": 0,
        "out_of_memory": 0,
        "seconds": 1.5,
    }
    worst = {"worst": None, "worst_case": None, "worst_recipe": None}
    place = {"law": law, "implementation": "a.py:f", "dtype": dtype, "device": "cpu"}
    return {**place, "status": status, "reason": "", **told, **worst, "drawn": drawn, **more}


def finding(law: str, dtype: str = "float32", **more: object) -> Entry:
    """Return a finding without a folder."""
    place = {"law": law, "implementation": "a.py:f", "dtype": dtype, "device": "cpu"}
    told = {
        "ended": "broken",
        "reproducible": True,
        "message": f"{law}: it is so.\ndoes not hold",
        "folder": None,
    }
    case = {"case": "gates = Gates('float32', (1, 1, 2))", "recipe": '{"gates": 1}'}
    when = {"replay": "dmat replay x --impl a.py:f", "after_seconds": 12.3, "times": 14, "also": []}
    return {**place, **told, **case, **when, **more}


def worst(ratio: float) -> Entry:
    """Return the worst of a cell: this ratio, and a case that names it."""
    return {"worst": ratio, "worst_case": f"gates = {ratio}", "worst_recipe": f'{{"gates": {ratio}}}'}


CELLS = [
    cell("future"),
    cell("future", "bfloat16", "broken", reason="found"),
    cell("values", "bfloat16", **worst(0.7)),
    cell("values", **worst(0.61)),
    cell("slices", **worst(0.9)),
    cell("slices", "bfloat16", "known", reason="Overflows"),
    cell("adjoint", status="not run", reason="no forward mode"),
    cell("adjoint", "bfloat16", "not reached", reason="the time was up"),
]
CAUSE: Entry = {
    "kind": "promise",
    "sentence": "Errors grow with the whole prefix.",
    "promises": {"error_scope": "prefix"},
    "decorator": '@dmat.testing.implementation(error_scope="prefix")',
    "tried": "its 1 known cases, which then hold",
    "gates": "at ordinary gates",
    "law": "future",
    "dtype": "bfloat16",
    "device": "cpu",
    "ended": "broken",
    "message": "future: ...",
    "case": None,
    "recipe": None,
    "folder": None,
    "breaks": [{"law": "future", "dtype": "bfloat16", "device": "cpu"}],
}
REPORT: Entry = {
    "format": 2,
    "verdict": "found",
    "reason": "",
    "command": "dmat fuzz a.py:f --minutes 3 --out night",
    "started": "2026-11-25T03:00:00+00:00",
    "asked_seconds": 180.0,
    "seconds": 180.4,
    "sittings": 2,
    "seed": 123456789,
    "processes": 2,
    "machine": "x86_64 Linux, 2 cores",
    "versions": {"dmat": "0.1.0", "torch": "2.13.0"},
    "interpreter": {"triton": "3.7.1", "config": 0},
    "examples": 200,
    "per_second": 1.1,
    "implementations": [{"name": "a.py:f", "contract": {"error_scope": "prefix"}}],
    "laws": [
        {"name": name, "statement": f"{name}: it is so."}
        for name in ("future", "values", "slices", "adjoint")
    ],
    "cells": CELLS,
    "findings": [finding("future", "bfloat16")],
    "causes": [CAUSE],
    "events": [{"after_seconds": 31.0, "what": "a worker died (signal 9); another took its place"}],
}
NOTHING = REPORT | {
    "verdict": "did not fuzz",
    "reason": "no such target",
    "cells": [],
    "findings": [],
    "causes": [],
    "laws": [],
}


def poisoned(value: Any, name: str = "") -> Any:
    """Return a report with the hostile text at the end of each text that may be anyone's."""
    if isinstance(value, dict):
        return {k: poisoned(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(entry, name) for entry in value]
    fixed = ("verdict", "kind", "dtype", "device", "status", "ended", "folder", "started")
    return value + HOSTILE if isinstance(value, str) and value and name not in fixed else value


def struct(report: Entry) -> FuzzReport:
    return msgspec.convert(report, FuzzReport)


def write(report: Entry, folder: Path) -> None:
    files.write(struct(report), folder)


def junit(report: Entry) -> str:
    return files.junit(struct(report))


def markdown(report: Entry) -> str:
    return files.markdown(struct(report))


def html(report: Entry, folder: Path) -> str:
    return files.html(struct(report), folder)


class Parsed(HTMLParser):
    """The elements of a page, and what stands in its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["script"]:
            self.scripts.append(data)


# What the files say


@pytest.mark.parametrize("report", [REPORT, NOTHING, poisoned(REPORT)], ids=["found", "nothing", "hostile"])
def test_the_schema_is_kept(report: Entry, tmp_path: Path) -> None:
    """report.json is the report, and as report.schema.json has it."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    write(report, tmp_path)
    read = json.loads((tmp_path / "report.json").read_text())
    assert read == report
    jsonschema.validate(read, SCHEMA)


@pytest.mark.parametrize(
    "wrong",
    [
        {"verdict": "sound"},
        {"more": 1},
        {"cells": [cell("future", status="passed")]},
        {"cells": [cell("future", drawn={"ordinary": 1})]},
        {"findings": [finding("future", also=[{"law": "values"}])]},
    ],
)
def test_the_schema_refuses_what_is_no_report(wrong: Entry) -> None:
    """The schema refuses a verdict, field, status or kind of example that there is not, and half an entry."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(REPORT | wrong, SCHEMA)


def test_files_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where writing ends half way, each older file stands as it was."""
    write(REPORT, tmp_path / "night")
    before = {file.name: file.read_text() for file in (tmp_path / "night").iterdir()}
    assert before.keys() == FILES
    whole = Path.write_text

    def half(file: Path, text: str, **more: Any) -> int:
        if not file.name.startswith(name):
            return whole(file, text, **more)
        whole(file, text[: len(text) // 2], **more)
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", half)
    for name in FILES:
        with pytest.raises(OSError, match="no space left"):
            write(REPORT, tmp_path / "night")
        assert (tmp_path / "night" / name).read_text() == before[name]


def test_junit_says_what_the_cells_say() -> None:
    """A broken cell fails with its finding's message, what was not run is skipped with its reason."""
    [suite] = ElementTree.fromstring(junit(REPORT))
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["8", "1", "0", "3"]
    cases = {case.get("name"): case for case in suite}
    [failure] = cases["future[bfloat16-cpu]"]
    assert failure.get("message") == "future: it is so."
    assert failure.text == "future: it is so.\ndoes not hold\n\ndmat replay x --impl a.py:f"
    assert [x.get("message") for x in cases["slices[bfloat16-cpu]"]] == ["known: Overflows"]
    assert [x.get("message") for x in cases["adjoint[float32-cpu]"]] == ["not run: no forward mode"]
    assert len(cases["future[float32-cpu]"]) == 0


def test_a_finding_stands_for_what_else_it_breaks() -> None:
    """A broken cell has its own finding's message, else that of one that breaks it too, else its reason."""
    cells = [cell("future", status="broken"), cell("values", status="broken", reason="seen")]
    also = [{"law": name, "dtype": "float32", "device": "cpu"} for name in ("future", "slices")]
    findings = [finding("values", "float16", also=also), finding("future")]
    cells.append(cell("slices", status="broken"))
    tree = ElementTree.fromstring(junit(REPORT | {"cells": cells, "findings": findings}))
    assert [x.get("message") for x in tree.iter("failure")] == [
        "future: it is so.",
        "seen",
        "values: it is so.",
    ]


def test_what_was_found_is_never_green() -> None:
    """A finding fails its own cell in junit.xml, whatever the status of that cell."""
    held = REPORT | {"cells": [cell("future", "bfloat16")]}
    assert ElementTree.fromstring(junit(held)).get("failures") == "1"


def test_no_fuzzing_is_an_error() -> None:
    """A run that did not fuzz is an error in junit.xml, and all files say why."""
    tree = ElementTree.fromstring(junit(NOTHING))
    assert [x.get("message") for x in tree.iter("error")] == ["did not fuzz: no such target"]
    assert tree.get("errors") == "1"
    assert "no such target" in markdown(NOTHING)
    assert "no such target" in html(NOTHING, Path())


def test_the_summary_has_findings_and_worst_ratios() -> None:
    """summary.md has a row a finding, and of each law the worst ratio, largest first."""
    lines = markdown(REPORT).splitlines()
    assert lines[0] == "## dmat fuzz: Found 1 distinct cause"
    place = "`future` | `a.py:f` | `bfloat16 cpu` | `gates = Gates('float32', (1, 1, 2))`"
    assert f"| {place} | `dmat replay x --impl a.py:f` |" in lines
    rows = [
        "| `slices` | 0.900 | `a.py:f` | `float32 cpu` |",
        "| `values` | 0.700 | `a.py:f` | `bfloat16 cpu` |",
    ]
    assert lines[-2:] == rows


def test_every_report_says_the_causes() -> None:
    """The page and the summary name each cause, what it breaks, and the contract that does not promise it."""
    for said in (
        "1. Errors grow with the whole prefix. Seen at ordinary gates.",
        "breaks future (bfloat16)",
        "not promised with  @dmat.testing.implementation(error_scope=",
    ):
        assert said in html(REPORT, Path())
        assert " ".join(said.split()) in markdown(REPORT)


def test_findings_are_sorted_by_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two findings of one bug have one cause, which breaks what both break."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search, "SECONDS", 60.0)
    (tmp_path / "a.py").write_text("def f(i, f):\n    return i + f.mT\n")
    recipe = encoded({"gates": Gates("float32", (1, 1, 2))})
    also = [{"law": "exact", "dtype": "float64", "device": "cpu"}]
    findings = [finding("future", recipe=recipe), finding("values", recipe=recipe, also=also)]
    [cause] = with_causes_of_findings(struct(REPORT | {"findings": findings})).causes
    assert cause.kind == "bug"
    assert {one.law for one in cause.breaks} == {"future", "values", "exact"}


def test_pictures_are_in_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture is in the page, or linked where there is no room; where there is none the page says so."""
    (tmp_path / "counterexamples/x y").mkdir(parents=True)
    (tmp_path / "counterexamples/x y/picture.png").write_bytes(PNG)
    with_folder = REPORT | {"findings": [finding("future", folder="counterexamples/x y")]}
    assert f'src="data:image/png;base64,{base64.b64encode(PNG).decode()}"' in html(with_folder, tmp_path)
    monkeypatch.setattr(page, "PICTURES", len(PNG) - 1)
    assert 'href="./counterexamples/x%20y/picture.png"' in html(with_folder, tmp_path)
    for folder in (None, "counterexamples/none"):
        without = html(REPORT | {"findings": [finding("future", folder=folder)]}, tmp_path)
        assert "No picture was drawn." in without


# Hostile texts, and many cells


def test_hostile_texts_are_no_markup() -> None:
    """In the page no text makes an element or an attribute, and its cells are still JSON."""
    honest, hostile = (Parsed(html(report, Path())) for report in (REPORT, poisoned(REPORT)))
    assert hostile.tags == honest.tags
    assert [name for name, _ in hostile.attributes] == [name for name, _ in honest.attributes]
    assert json.loads(hostile.scripts[0])["laws"][0]["name"].startswith("future</script><script>")


def test_hostile_texts_are_legible_xml() -> None:
    """In junit.xml U+FFFD stands for what XML forbids, and all else as it was."""
    tree = ElementTree.fromstring(junit(poisoned(REPORT)))
    shown = HOSTILE.replace("\x00\x1b", "\ufffd\ufffd").replace("\ud800", "\ufffd")
    assert tree[0].get("name") == "a.py:f" + shown
    [failure] = tree.iter("failure")
    assert failure.text is not None
    assert f"does not hold{shown}" in failure.text


def test_hostile_texts_stay_in_their_cells() -> None:
    """In summary.md a hostile text makes no row, no column, no element and no code span but its own."""
    honest, hostile = (markdown(report).splitlines() for report in (REPORT, poisoned(REPORT)))
    assert len(hostile) == len(honest)
    assert [line.count("|") for line in hostile] == [line.count("|") for line in honest]
    for line in hostile:
        bare = re.sub(r"<code>[^<>`]*</code>|`[^`]*`", "", line)
        assert not set(bare) & set("<>`"), line


def many() -> Entry:
    """Return a report of 8,000 cells, each with a case; one law's ratios are far below the others'."""
    names = [f"law_{n}" for n in range(100)]
    cells = []
    for law in names:
        for kernel in range(20):
            for dtype in ("float32", "bfloat16", "float64", "float16"):
                more = worst(kernel / (2000 if law == names[-1] else 20)) | {
                    "worst_recipe": f"{law} {kernel} {dtype} " + "x" * 800
                }
                cells.append(cell(law, dtype, **more) | {"implementation": f"k{kernel}.py:f"})
    laws = [{"name": name, "statement": "It is so."} for name in names]
    return REPORT | {"laws": laws, "cells": cells, "findings": []}


def test_the_page_of_many_cells_is_bounded() -> None:
    """8,000 cells make a page below 4 MB, which has the worst case of every law."""
    text = html(many(), Path())
    assert len(text) < 4_000_000
    data = json.loads(Parsed(text).scripts[0])
    rows = [dict(zip(data["fields"], row, strict=True)) for row in data["rows"]]
    largest = {row["law"]: row["worst"] for row in sorted(rows, key=lambda row: float(row["worst"]))}
    opened = {row["law"] for row in rows if row["worst_recipe"] and row["worst"] == largest[row["law"]]}
    assert opened == set(largest)


def test_many_findings_are_bounded() -> None:
    """1,000 long findings make a page below 20 MB and a summary below 100 kB, which say what was cut."""
    long = {"message": "y" * 50_000, "case": "z" * 5_000}
    report = REPORT | {"findings": [finding("law", **long) for _ in range(1_000)]}
    text, summary = html(report, Path()), markdown(report)
    assert len(text) < 20_000_000
    assert "500 more findings: see report.json." in text
    assert len(summary.encode()) < 100_000
    shown = summary.count("| `law` |")
    assert shown > 50
    assert f"{1_000 - shown} more did not fit" in summary


# In a browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    " --disable-background-networking --disable-component-update --window-size=1280,900"
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    """Yield a headless Chromium that keeps its logs."""
    if CHROMIUM is None or CHROMEDRIVER is None:
        pytest.skip("no chromium and chromedriver are installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    driver.get("about:blank")  # away from the page of a new tab, which has requests of its own
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: WebDriver) -> Iterator[WebDriver]:
    """Yield the browser; afterwards its console must be empty, and no network may have been asked."""
    logs(chromium)
    yield chromium
    console, asked = logs(chromium)
    assert console == []
    assert any(url.startswith("file:") for url in asked)
    assert [url for url in asked if not url.startswith(("file:", "data:", "chrome:"))] == []


def log(driver: WebDriver, name: str) -> list[Entry]:
    entries: list[Entry] = driver.get_log(name)  # type: ignore[no-untyped-call]
    return entries


def logs(driver: WebDriver) -> tuple[list[Entry], list[str]]:
    """Return what the console said and which addresses were asked for, since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in log(driver, "performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return log(driver, "browser"), sent


def opened(driver: WebDriver, report: Entry, folder: Path) -> None:
    """Show the page of a report, when all of it is there."""
    from selenium.webdriver.support.wait import WebDriverWait

    file = folder / "report.html"
    file.write_text(html(report, folder), encoding="utf-8")
    driver.get(file.as_uri())
    ready = "return document.readyState === 'complete' && typeof refill === 'function'"
    WebDriverWait(driver, 60).until(lambda driver: driver.execute_script(ready))


def found(driver: WebDriver, css: str) -> list[WebElement]:
    return driver.find_elements("css selector", css)


def texts(driver: WebDriver, css: str) -> list[str]:
    return [element.text for element in found(driver, css)]


def test_tables_are_sorted_by_their_heads(browser: WebDriver, tmp_path: Path) -> None:
    """A head sorts its table, by click and by key, one way and the other, and says so; no value is last."""
    opened(browser, REPORT, tmp_path)
    assert texts(browser, "#worst tbody th") == ["slices", "values"]
    column, ratios = "#cells thead th:nth-child(11)", "#cells tbody td:nth-child(11)"
    head, button = found(browser, column)[0], found(browser, f"{column} button")[0]
    for press, way, order in (
        (button.click, "descending", ["0.900", "0.700", "0.610"]),
        (lambda: button.send_keys(" "), "ascending", ["0.610", "0.700", "0.900"]),
    ):
        press()
        assert head.get_attribute("aria-sort") == way
        assert texts(browser, ratios) == [*order, *[""] * 5]
    found(browser, "#cells thead th:first-child button")[0].click()
    assert texts(browser, "#cells tbody th") == sorted(c["law"] for c in CELLS)
    assert head.get_attribute("aria-sort") == "none"


def test_filters_reach_every_table(browser: WebDriver, tmp_path: Path) -> None:
    """The text and the choices narrow all tables at once, and clear gives all back."""
    from selenium.webdriver.support.select import Select

    opened(browser, REPORT, tmp_path)
    Select(found(browser, "[name=dtype]")[0]).select_by_value("bfloat16")
    assert texts(browser, "#worst tbody th") == ["values"]
    assert texts(browser, "#unrun td.long") == ["Overflows", "the time was up"]
    found(browser, "[name=text]")[0].send_keys("FUTURE")
    assert texts(browser, "#cells tbody tr") == ["future a.py:f bfloat16 cpu broken 1 40 0 0 1.5 found"]
    assert texts(browser, "#filters output") == ["1 of 8 cells"]
    Select(found(browser, "[name=status]")[0]).select_by_value("known")
    assert texts(browser, "#cells tbody tr") == ["none"]
    found(browser, "[name=text]")[0].clear()
    found(browser, "[name=text]")[0].send_keys("overflows")
    assert texts(browser, "#cells tbody th") == ["slices"]
    found(browser, "[type=reset]")[0].click()
    browser.execute_async_script("setTimeout(arguments[0], 20)")
    assert len(found(browser, "#cells tbody tr")) == len(CELLS)


def test_gaps_are_seen(browser: WebDriver, tmp_path: Path) -> None:
    """A regime and a length without an example of a law that was run is a gap; of one that was not, a dot."""
    opened(browser, REPORT, tmp_path)
    rows = {row.text.split()[0]: row.text.split()[1:] for row in found(browser, "#tried tbody tr")}
    assert " ".join(rows["future"]) == "80 40 40 0 0 20 0 0 0 0 0 60 0 0 60 0 0 20"
    assert rows["adjoint"] == ["0", *"·" * 17]
    assert len(found(browser, "#tried tbody tr:first-child .gap")) == 11
    assert len(found(browser, "#tried .broken:not(.key)")) == 1


def test_cases_are_opened_and_copied(browser: WebDriver, tmp_path: Path) -> None:
    """A worst case opens and closes at its row; the copy button of a finding copies its command."""
    opened(browser, REPORT, tmp_path)
    button = found(browser, "#worst .open")[0]
    button.click()
    assert texts(browser, "#worst .opened pre") == ["gates = 0.9", '{"gates": 0.9}']
    assert button.get_attribute("aria-expanded") == "true"
    button.click()
    assert found(browser, "#worst .opened") == []
    permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.execute_cdp_cmd("Browser.grantPermissions", permissions)
    found(browser, "[aria-label='copy the replay']")[0].click()
    read = "navigator.clipboard.readText().then(arguments[0])"
    assert browser.execute_async_script(read) == "dmat replay x --impl a.py:f"
    found(browser, ".finding > summary")[0].click()
    assert texts(browser, ".finding pre.message") == [""]
    found(browser, "#cells a")[0].click()
    assert texts(browser, ".finding pre.message") == ["future: it is so.\ndoes not hold"]


@pytest.mark.parametrize("report", [REPORT, poisoned(REPORT)], ids=["found", "hostile"])
def test_nothing_runs_over_at_390_pixels(browser: WebDriver, report: Entry, tmp_path: Path) -> None:
    """On a narrow page only boxes scroll sideways, and no hostile name has run or hides."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x/picture.png").write_bytes(PNG)
    report = report | {"findings": [f | {"folder": "x"} for f in report["findings"]]}
    narrow = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    opened(browser, report, tmp_path)
    page_width = (
        "return [innerWidth, document.documentElement.scrollWidth <= document.documentElement.clientWidth]"
    )
    assert browser.execute_script(page_width) == [390, True]
    assert browser.execute_script("return [window.hacked ?? 0, document.images[0].naturalWidth]") == [0, 1]
    law = browser.execute_script("return document.querySelector('#tried tbody th').textContent")
    assert law == report["cells"][0]["law"].replace("\x00\x1b", "\ufffd\ufffd").replace("\ud800", "\ufffd")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_many_cells_are_paged(browser: WebDriver, tmp_path: Path) -> None:
    """Of 8,000 cells a hundred are shown, the next are a click away; a filter takes less than a second."""
    opened(browser, many(), tmp_path)
    assert texts(browser, ".pages span") == ["1 to 100 of 8,000"]
    found(browser, ".pages button:nth-child(2)")[0].click()
    assert texts(browser, ".pages span") == ["101 to 200 of 8,000"]
    assert len(found(browser, "#cells tbody tr")) == 100
    took = "const t = performance.now(); refill(); return performance.now() - t"
    assert browser.execute_script(took) < 1000
