"""Pictures: one is drawn for every kind of finding, and the figure has all that it must show."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.artist import Artist
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from dmat.strategies import Constant, Cycle, Gates, Normal, Palette, Ramp
from dmat.strategies.recipes.cotangents import Cotangent
from dmat.testing.explain.picture import colours
from dmat.testing.explain.picture.colours import Scale, paint_ratios
from dmat.testing.explain.picture.figure import draw, figure
from dmat.testing.explain.picture.tiles import Tiles
from dmat.testing.explain.picture.view import shown_heads, view_of
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.registry import laws
from dmat.testing.verdict.finding import Evidence, Example, Finding, LawBroken

from .zoo.mutants import MUTANTS


def artists(drawn: Figure, name: str) -> list[Artist]:
    """Return the artists of this name."""
    return drawn.findobj(lambda artist: artist.get_gid() == name)


def texts(drawn: Figure) -> str:
    """Return all that is written."""
    return "\n".join(x.get_text() for x in drawn.findobj(Text) if isinstance(x, Text))


def look(
    shape: tuple[int, ...],
    quantity: str = "D~",
    index: tuple[int, ...] | None = None,
    value: float = 1.0,
    case: dict[str, Any] | None = None,
) -> Example:
    """Return a look at a finding of this shape: `value` at its index, the rest right, the mask -inf."""
    exact = np.zeros(shape)
    if len(shape) == 4 and shape[-1] == shape[-2]:
        exact[..., ~np.tri(shape[-1], dtype=bool)] = -np.inf
    computed, wrong = exact.copy(), np.zeros(shape, dtype=bool)
    place = tuple(n - 1 for n in shape) if index is None else index
    if wrong.size:
        computed[place], wrong[place] = value, True
    evidence = Evidence(computed, exact, np.full(shape, 0.25), wrong, np.ones(shape, dtype=bool))
    B, NH, S = (*shape, 1, 1, 1)[:3]
    gates = Gates("float32", (B, NH, S), Ramp(-1.0, 0.5), Cycle((2.0, -1.0)))
    finding = Finding(quantity, place, str(value), "0.0", 1.0, 0.25, evidence=evidence, what="value")
    return Example({"gates": gates} if case is None else case, finding)


ODD = [np.nan, np.inf, -np.inf, 1e300, -1e300, 5e-324]
PLAIN = Gates("float32", (2, 3, 5), Ramp(-1.0, 0.5), Cycle((2.0, -1.0)))
G = Cotangent(Normal(1))
KINDS: dict[str, Example] = {
    **{f"S={S}": look((1, 2, S, S)) for S in (0, 1, 2, 7, 64, 200)},
    **{f"{value} at one entry": look((1, 1, 4, 4), value=value) for value in ODD},
    "many heads": look((5, 9, 6, 6), index=(3, 8, 4, 1)),
    "no heads": look((0, 3, 4, 4)),
    "one batch of many heads": look((1, 40, 3, 3), index=(0, 39, 2, 0)),
    "df": look((2, 3, 5), "df", case={"gates": PLAIN, "cotangent": G}),
    "di": look((2, 3, 5), "di", case={"gates": PLAIN, "cotangent": replace(G, masked=np.nan)}),
    "df without a cotangent": look((2, 3, 5), "df", case={"gates": PLAIN}),
    "df, S = 0": look((2, 3, 0), "df"),
    "df, S = 200": look((1, 30, 200), "df", index=(0, 29, 199)),
    "df of one gate": look((1, 1, 1), "df", case={"gates": Gates("float32", (1, 1, 1)), "cotangent": G}),
    "diagonal": look((2, 3, 5), "D~ diagonal"),
    "an input": look((2, 3, 5, 1), "fgate_preact"),
    "a tangent": look((2, 3, 5, 5), "J v"),
    "without gates": look((1, 2, 4, 4), case={}),
    "a part of D~": look((1, 2, 3, 7), case={"gates": Gates("float32", (1, 2, 7))}),
    "one head's rows": look((4, 9), case={"shape": (1, 1, 9)}),
    "one head's gradient": look((9,), "di", case={"shape": (1, 1, 9)}),
    "under a transform": look((2, 1, 3, 4, 4), index=(1, 0, 2, 3, 0)),
    "entries picked from anywhere": look((3,), "D~ of the open window"),
    "a shape": Example(
        {"gates": PLAIN}, Finding("D~", (), "shape (2, 3)", "shape (2, 3, 5, 5)", note="$x_1$", what="shape")
    ),
    "an exception": Example(
        {"shape": (1, 1, 5)}, Finding("df", (), "raised RuntimeError: 漢字 $", "a result", what="raised")
    ),
    "no gates at all": Example(
        {"gates": replace(PLAIN, shape=(1, 1, 0))}, Finding("D~", (), "None", "D~", what="shape")
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn(kind: str, tmp_path: Path) -> None:
    """Its picture is a PNG of a size for a screen, and not empty."""
    draw([KINDS[kind]], tmp_path / "look.png")
    picture = imread(tmp_path / "look.png")
    height, width, _ = picture.shape
    assert 1000 <= width <= 1600
    assert 300 <= height <= 900
    assert picture.std() > 0


def test_looks_stand_one_above_another(tmp_path: Path) -> None:
    """Two looks are as high as both alone but for one legend, and either may be of any kind."""
    heights = []
    for kinds in (["S=7"], ["df"], ["S=7", "df", "a shape"], []):
        draw([KINDS[kind] for kind in kinds], tmp_path / "look.png")
        heights.append(imread(tmp_path / "look.png").shape[0])
    assert heights[2] > heights[0] + heights[1]
    assert heights[3] > 0


@pytest.mark.parametrize("value", [*ODD, 0.0, -0.0])
@pytest.mark.parametrize("quantity", ["D~", "df"])
def test_the_same_value_everywhere(value: float, quantity: str, tmp_path: Path) -> None:
    """Whatever stands in all of exact, computed and the gates, it is drawn."""
    shape = (1, 2, 9, 9) if quantity == "D~" else (1, 2, 9)
    some = look(
        shape, quantity, case={"gates": Gates("float64", (1, 2, 9), Constant(value), Constant(value))}
    )
    assert some.finding.evidence is not None
    evidence = replace(some.finding.evidence, exact=np.full(shape, value), computed=np.full(shape, value))
    draw([replace(some, finding=replace(some.finding, evidence=evidence))], tmp_path / "look.png")
    assert (tmp_path / "look.png").stat().st_size > 0


def cell(drawn: Figure, panel: str, some: Example, where: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    """Return the colour in the middle of an entry (tile, t, s) of the panel with this title."""
    view = view_of(some)
    assert view is not None
    axes = next(axes for axes in drawn.axes if axes.get_title().startswith(panel))
    tile, t, s = where
    x, y = Tiles.of(view).at(tile, t + 0.5, s + 0.5)
    return np.asarray(axes.images[0].get_cursor_data(SimpleNamespace(xdata=x, ydata=y)))  # type: ignore[arg-type]


def test_the_mask_is_hatched_where_it_stands_and_nowhere_else() -> None:
    """exact is hatched in all of the future; computed not where a number leaks in, which has its colour."""
    some = look((1, 2, 9, 9), index=(0, 1, 3, 7), value=-1e9)
    drawn = figure([some])
    (exact,), (computed,) = (artists(drawn, f"mask of {name}") for name in ("exact", "computed"))
    inside = Tiles.of(view_of(some)).at(1, 3.5, 7.5)  # type: ignore[arg-type]
    assert exact.get_path().contains_point(inside)  # type: ignore[attr-defined]
    assert not computed.get_path().contains_point(inside)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(cell(drawn, "exact", some, (1, 3, 7)), to_rgba(colours.MASKED))
    np.testing.assert_array_equal(cell(drawn, "computed", some, (1, 3, 7)), to_rgba(colours.BELOW))


@pytest.mark.parametrize(
    ("value", "colour"), [(np.nan, colours.NAN), (np.inf, colours.POS_INF), (-np.inf, colours.NEG_INF)]
)
def test_what_is_no_number_stands_out(value: float, colour: str) -> None:
    """A causal -inf, +inf or NaN has its own colour, and its error over bound the loudest."""
    some = look((2, 2, 9, 9), index=(1, 0, 6, 2), value=value)
    drawn = figure([some])
    np.testing.assert_array_equal(cell(drawn, "computed", some, (2, 6, 2)), to_rgba(colour))
    np.testing.assert_array_equal(cell(drawn, "error", some, (2, 6, 2)), to_rgba(colours.POS_INF))


def test_the_entry_and_its_window_are_marked() -> None:
    """In each panel a frame is around the entry, and a line beside the gates s+1 .. t of its tile."""
    some = look((2, 2, 9, 9), index=(1, 0, 6, 2))
    view = view_of(some)
    assert view is not None
    tiles, drawn = Tiles.of(view), figure([some])
    frames, windows = artists(drawn, "worst"), artists(drawn, "window")
    assert len(frames) == len(windows) == 3
    for frame, window in zip(frames, windows, strict=True):
        assert frame.get_bbox().contains(*tiles.at(2, 6.5, 2.5))  # type: ignore[attr-defined]
        top, bottom = window.get_ydata()  # type: ignore[attr-defined]
        assert (top, bottom) == (tiles.at(2, 3, 0)[1], tiles.at(2, 7, 0)[1])
    assert len(artists(drawn, "allowed")) == 1


def test_only_times_have_a_window_and_gates() -> None:
    """dq, rows t and columns d, has no window, diagonal or gates, not even where it is square."""
    drawn = figure([look((2, 2, 9, 9), "dq", index=(1, 0, 6, 2))])
    assert len(artists(drawn, "worst")) == 3
    assert artists(drawn, "window") == artists(drawn, "mask of exact") == []
    assert "column d" in texts(drawn)
    assert "igate" not in texts(drawn)


@pytest.mark.parametrize(
    ("quantity", "corner", "size"),
    [("df", (0, 3), (3, 2)), ("di", (3, 3), (1, 2)), ("D~ diagonal", None, None)],
)
def test_what_a_gradient_sums_is_framed(quantity: str, corner: Any, size: Any) -> None:
    """In G the rectangle t >= k > s is framed for df[k], the column t >= s for di[s], nothing for others."""
    some = look((2, 3, 5), quantity, (1, 1, 3), case={"gates": PLAIN, "cotangent": G})
    found = artists(figure([some]), "summed")
    if corner is None:
        assert found == []
        return
    (frame,) = found
    assert isinstance(frame, Artist)
    (axes,) = {frame.axes}
    assert axes is not None
    left, top = axes.get_xlim()[0], axes.get_ylim()[1]
    assert (frame.get_x() - left, frame.get_y() - top) == corner  # type: ignore[attr-defined]
    assert (frame.get_width(), frame.get_height()) == size  # type: ignore[attr-defined]


def test_numbers_are_written_into_few_cells() -> None:
    """Of a matrix of six columns each entry is printed in each panel, of a larger one none."""
    assert len(artists(figure([look((1, 1, 6, 6))]), "number")) == 3 * 36
    assert artists(figure([look((1, 1, 7, 7))]), "number") == []


def test_what_is_not_judged_is_not_drawn_as_exact() -> None:
    """Entries of which nothing was required are dotted in exact and in error over bound."""
    some = look((1, 1, 5, 5))
    assert some.finding.evidence is not None
    evidence = replace(some.finding.evidence, judged=np.broadcast_to(np.eye(5, dtype=bool), (1, 1, 5, 5)))
    some = replace(some, finding=replace(some.finding, evidence=evidence))
    drawn = figure([some])
    assert len(artists(drawn, "unjudged")) == len(artists(drawn, "unjudged of exact")) == 1
    np.testing.assert_array_equal(cell(drawn, "exact", some, (0, 3, 1)), to_rgba(colours.UNJUDGED))
    assert len(artists(drawn, "number")) == 25 + 2 * 5


def test_a_finding_without_entries_is_told_in_words() -> None:
    """Its text stands beside its gates, dollar signs and all."""
    drawn = figure([KINDS["a shape"]])
    assert "shape (2, 3, 5, 5)" in texts(drawn)
    assert "$x_1$" in texts(drawn)
    assert len(artists(drawn, "igate")) == len(artists(drawn, "fgate")) == 1


def test_the_words_are_on_the_picture() -> None:
    """Where, computed, exact, the dtype, the shape, and which entries fail."""
    said = texts(figure([look((1, 2, 5, 5), index=(0, 1, 3, 2), value=7.0)]))
    for part in ("D~[b=0, h=1, t=3, s=2]", "computed  7.0", "float32, B=1, NH=2, S=5", "1 of 50 entries"):
        assert " ".join(part.split()) in said


@pytest.mark.parametrize(
    ("heads", "worst", "most", "shown"),
    [
        ((2, 3), 4, 6, [0, 1, 2, 3, 4, 5]),
        ((1, 9), 0, 6, [0, 1, 2, 3, 4, 5]),
        ((1, 9), 8, 6, [3, 4, 5, 6, 7, 8]),
        ((4, 5), 0, 6, [0, 1, 2, 5, 6, 7]),
        ((4, 5), 19, 6, [12, 13, 14, 17, 18, 19]),
        ((3, 3, 3), 13, 6, [10, 11, 12, 13, 14, 15]),
        ((0, 3), 0, 6, []),
    ],
)
def test_neighbours(heads: tuple[int, ...], worst: int, most: int, shown: list[int]) -> None:
    """Of many heads the one that fails is shown, and its neighbours in batch and head."""
    assert shown_heads(heads, worst, most) == shown


def test_one_scale_of_signed_numbers() -> None:
    """Opposite numbers have opposite colours; larger ones stand further out, and all within [0, 1]."""
    values = np.array([-1e300, -4.0, -0.5, 0.0, 0.5, 4.0, 1e300])
    scale = Scale.of(values)
    place = scale.place(values)
    np.testing.assert_array_equal(scale.paint(values), scale.colours.reversed()(place[::-1]))
    assert (np.diff(place) > 0).all()
    assert (place[0], place[3], place[-1]) == (0, 0.5, 1)
    near = values[1:-1]
    assert len({tuple(colour) for colour in Scale.of(near).paint(near)}) == len(near)


@pytest.mark.parametrize("most", [5e-324, 1.0, 1e300])
def test_what_is_far_beyond_the_scale_has_a_colour_of_its_own(most: float) -> None:
    """So have NaN and both infinities, whatever the scale."""
    values = np.array([np.nan, np.inf, -np.inf, 1e301, -1e301, most, -most])
    flat = [colours.NAN, colours.POS_INF, colours.NEG_INF, colours.ABOVE, colours.BELOW]
    expected = [*map(to_rgba, flat), *colours.VALUES([1.0, 0.0])]
    np.testing.assert_array_equal(Scale.of(np.array([most])).paint(values), expected)


def test_errors_beyond_the_bound_are_loud() -> None:
    """Up to 1 the colours are near grey, beyond it far from it, and infinity has one of its own."""
    ratio = np.array([0.0, 1e-4, 0.1, 1.0, np.nextafter(1.0, 2.0), 10.0, 1e9, np.inf])
    saturation = np.ptp(paint_ratios(ratio, np.ones(8, dtype=bool))[..., :3], axis=-1)
    assert saturation[:4].max() < 0.15 < 0.35 < saturation[4:].min()
    assert saturation.argmax() == len(ratio) - 1


PLACES = Gates("float32", (2, 3, 40), Ramp(-1.5, 0.125, 0.75), Normal(3, 2.0, 1.0))
INTEGERS = Gates("float32", (1, 2, 40), Palette(1, (64.0, -128.0)), Palette(2, (-64.0, -128.0)))


@pytest.mark.parametrize(
    ("name", "law", "case"),
    [
        ("mask_of_1e9", "future", {"gates": PLACES}),
        ("carry_forgotten", "exact", {"gates": INTEGERS}),
        ("batch_for_head", "values", {"gates": PLACES}),
        ("half_sums", "half_precision", {"gates": replace(PLACES, dtype="bfloat16")}),
        ("tail_gradient_dropped", "forget_gradient", {"gates": PLACES, "cotangent": G}),
        ("last_axis_lost", "gradient_shape", {"gates": PLACES, "cotangent": G}),
    ],
)
def test_mutants(name: str, law: str, case: dict[str, Any], tmp_path: Path) -> None:
    """A wrong kernel of the zoo has a picture of its own."""
    wrong = next(mutant for mutant in MUTANTS if mutant.name == name)
    check: Callable[..., None] = next(entry.check for entry in laws() if entry.name == law)
    with pytest.raises(LawBroken) as caught:
        check(DtildeSubject(Implementation.of(name, wrong.implementation), case["gates"].dtype), **case)
    draw([Example(case, caught.value.finding)], tmp_path / "mutant.png")
    assert imread(tmp_path / "mutant.png").shape[1] == 1560


# Items as a plain dictionary has them: to read the setting "backend" would choose one, and import pyplot.
CODE = """
import sys, dmat.testing.cli, dmat.testing.counterexample.folder, dmat.testing.plugin
import dmat.testing.fuzzing.turn
assert "matplotlib" not in sys.modules
import matplotlib
before = dict(dict.items(matplotlib.rcParams))
from pathlib import Path
import dmat.testing.explain.picture.figure
from dmat.strategies import Gates
from dmat.testing.verdict.finding import Example
from dmat.testing.verdict.finding import Finding
look = Example({"gates": Gates("float32", (1, 1, 2))}, Finding("D~", (), "None", "D~", what="shape"))
dmat.testing.explain.picture.figure.draw([look], Path(sys.argv[1]))
assert dict(dict.items(matplotlib.rcParams)) == before
assert "matplotlib.pyplot" not in sys.modules
"""


def test_no_global_state(tmp_path: Path) -> None:
    """Only the picture imports matplotlib, without pyplot, and leaves its settings as they were."""
    arguments = [sys.executable, "-c", CODE, str(tmp_path / "look.png")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
