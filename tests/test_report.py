"""Both renderers draw every number, the arrays survive storage, and the page works in a real browser."""

import dataclasses
import html.parser
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest

from flatmin import UsageError
from flatmin.experiments import Claim, Experiment, RunContent, load_run, obtain_run, rewrite_derived
from flatmin.report import (
    Axis,
    Figure,
    HeatmapPanel,
    ImagePanel,
    Panel,
    ReferenceLine,
    Series,
    figure_data,
    figures_of,
    from_dataset,
    matplotlib_bytes,
    render_run,
    style,
    to_dataset,
    to_matplotlib,
    to_plotly,
    value_tables,
)
from flatmin.storage.netcdf import read_netcdf, write_netcdf
from report_example import (
    EXPERIMENT,
    ExampleSpec,
    content,
    figures,
    heatmap_figure,
    image_figure,
    points_figure,
    training_figure,
)

PLAIN = Axis("x")


def one_panel(*series, x=PLAIN, y=PLAIN, lines=(), **fields):
    return Figure("one", "One", "Caption.", (Panel("panel", x, y, series, lines),), **fields)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return obtain_run(EXPERIMENT, ExampleSpec(), content, out=out, render=render_run)[0]


@pytest.fixture(scope="module")
def page(run):
    return (run.path / "report.html").read_text(encoding="utf-8")


# every series is drawn, with its values ------------------------------------------------------------------


def test_matplotlib_draws_every_curve_and_reference():
    figure = training_figure()
    axes = to_matplotlib(figure).axes
    assert len(axes) == 4
    for ax, panel in zip(axes, figure.panels, strict=True):
        assert ax.get_yscale() == "log"
        assert ax.get_xlabel() == "step"
        lines = {line.get_label(): line for line in ax.lines}
        assert set(lines) == {s.label for s in panel.series} | {r.label for r in panel.lines}
        for series in panel.series:
            np.testing.assert_array_equal(lines[series.label].get_xdata(), series.x)
            np.testing.assert_array_equal(lines[series.label].get_ydata(), series.y)
        for reference in panel.lines:
            assert set(lines[reference.label].get_ydata()) == {reference.value}
        bands = [c.get_paths()[0].vertices for c in ax.collections]
        for series, corners in zip(panel.series, bands, strict=True):
            assert corners[:, 1].min() == np.min(series.low)
            assert corners[:, 1].max() == np.max(series.high)


def test_matplotlib_draws_points_bars_steps_and_bands():
    figure = points_figure()
    ax = to_matplotlib(figure).axes[0]
    closed, estimated, annealed, guaranteed = figure.panels[0].series
    container = ax.containers[0]
    np.testing.assert_array_equal(container.lines[0].get_ydata(), estimated.y)
    bars = np.array(container.lines[2][0].get_segments())
    np.testing.assert_allclose(bars[:, :, 1], np.stack([estimated.low, estimated.high], axis=1))
    lines = {line.get_label(): line for line in ax.lines}
    assert lines["annealed"].get_drawstyle() == "steps-post"
    np.testing.assert_array_equal(lines["annealed"].get_ydata(), annealed.y)
    assert lines["closed form"].get_color() == style.INK
    assert set(lines["largest depth proved"].get_xdata()) == {7.0}
    assert "guaranteed range" not in lines
    band = ax.collections[-1].get_paths()[0].vertices
    assert band[:, 1].max() == np.max(guaranteed.high)
    assert ax.get_ylabel() == "trace of the Hessian (loss / weight²)"
    assert len(closed.x) == len(lines["closed form"].get_xdata())


def test_matplotlib_draws_grids_and_images():
    figure = heatmap_figure()
    drawn = to_matplotlib(figure)
    assert len(drawn.axes) == 4  # with two colour bars
    image = drawn.axes[1].images[0]
    np.testing.assert_array_equal(image.get_array().filled(np.nan), figure.panels[1].values)
    assert image.get_cmap()(0.0)[:3] == (0, 0, 0)
    assert image.get_clim() == (0.0, 1.0)
    assert len(drawn.axes[1].collections[0].get_paths()) == 4  # the cells that were not measured
    assert drawn.axes[2].get_ylabel() == "probability of recovery"
    # the curve m = 8 d in cell numbers: row m / 50 - 1, column d / 5 - 2
    (curve,) = drawn.axes[0].lines
    columns, rows = curve.get_data()
    np.testing.assert_allclose(rows, 8 * (5 * columns + 10) / 50 - 1)
    (overlay,) = [t for t in to_plotly(figure).data if t.meta == "half recovered"]
    np.testing.assert_allclose(overlay.y, rows)
    assert [e.label for e in style.legend_of(figure)] == ["half recovered"]
    pictures = image_figure()
    for ax, panel in zip(to_matplotlib(pictures).axes, pictures.panels, strict=True):
        np.testing.assert_array_equal(np.ma.filled(ax.images[0].get_array(), np.nan), panel.image)


def traces_by_label(figure):
    found = {}
    for trace in to_plotly(figure).data:
        found.setdefault((trace.xaxis, trace.meta), []).append(trace)
    return found


def test_plotly_draws_every_curve_and_reference():
    figure = training_figure()
    found = traces_by_label(figure)
    for index, panel in enumerate(figure.panels):
        name = "x" if index == 0 else f"x{index + 1}"
        for series in panel.series:
            band, line = found.pop((name, series.label))
            np.testing.assert_array_equal(line.x, series.x)
            np.testing.assert_array_equal(line.y, series.y)
            np.testing.assert_array_equal(line.customdata, np.stack([series.low, series.high], -1))
            assert np.nanmin(band.y) == np.min(series.low)
            assert np.nanmax(band.y) == np.max(series.high)
        for reference in panel.lines:
            (line,) = found.pop((name, reference.label))
            assert set(line.y) == {reference.value}
    assert found == {}
    layout = to_plotly(figure).layout
    assert (layout.yaxis.type, layout.yaxis4.type, layout.xaxis.type) == ("log", "log", "linear")
    assert layout.yaxis3.title.text == "trace of the Hessian"
    shown = [t.name for t in to_plotly(figure).data if t.showlegend]
    assert sorted(shown) == sorted(style.styles_of(figure))  # each label once


def test_plotly_draws_points_bars_steps_and_bands():
    figure = points_figure()
    found = {label: traces for (_, label), traces in traces_by_label(figure).items()}
    estimated = figure.panels[0].series[1]
    points = found["estimated"][0]
    assert points.mode == "markers"
    np.testing.assert_allclose(points.y + points.error_y.array, estimated.high)
    np.testing.assert_allclose(points.y - points.error_y.arrayminus, estimated.low)
    assert found["annealed"][0].line.shape == "hv"
    assert found["guaranteed range"][0].fill == "toself"
    assert set(found["largest depth proved"][0].x) == {7.0}
    assert to_plotly(figure).layout.yaxis.title.text == "trace of the Hessian (loss / weight²)"


def test_plotly_draws_grids_and_images():
    figure = heatmap_figure()
    grids = [t for t in to_plotly(figure).data if t.type == "heatmap"]
    np.testing.assert_array_equal(grids[0].z, figure.panels[0].values)
    np.testing.assert_array_equal(grids[1].z, figure.panels[1].values)
    np.testing.assert_array_equal(np.isfinite(grids[2].z), np.isnan(figure.panels[1].values))
    assert (grids[0].zmin, grids[0].zmax, grids[0].colorbar.title.text) == (0, 1, "probability of recovery")
    pictures = image_figure()
    shown = [t for t in to_plotly(pictures).data if t.showscale is False and t.zmin == -1]
    assert len(shown) == 3
    np.testing.assert_array_equal(shown[1].z, pictures.panels[1].image)
    assert to_plotly(pictures).layout.yaxis.autorange == "reversed"


def test_gaps_part_the_band_and_log_axes_keep_it_above_the_floor():
    x = np.arange(6.0)
    y = np.array([1, 2, np.nan, 3, 4, 5.0])
    low = np.array([-1, 1, np.nan, 2, 3, 4.0])
    figure = one_panel(Series("a", x, y, low=low, high=y + 1), y=Axis("y", log=True), intervals="all")
    band = to_plotly(figure).data[0]
    assert np.isnan(np.asarray(band.y)).sum() == 2  # two polygons
    assert np.nanmin(band.y) > 0
    floor = style.axis_range(figure.panels[0], "y")[0]
    assert np.nanmin(band.y) == pytest.approx(floor)
    assert to_matplotlib(figure).axes[0].get_ylim()[0] == pytest.approx(floor)


def test_stepped_bands_keep_their_steps():
    figure = one_panel(Series("a", [0, 1, 2], [1, 2, 3], low=[0, 1, 2], high=[2, 3, 4], kind="steps"), intervals="all")
    band = to_plotly(figure).data[0]
    np.testing.assert_array_equal(band.x[:5], [0, 1, 1, 2, 2])
    np.testing.assert_array_equal(band.y[:5], [2, 2, 3, 3, 4])


# look ----------------------------------------------------------------------------------------------------


def test_styles_differ_by_more_than_colour_and_agree_between_panels():
    labels = [f"s{i}" for i in range(12)]
    figure = one_panel(*(Series(label, [0, 1], [i, i + 1]) for i, label in enumerate(labels)))
    styles = style.styles_of(figure)
    assert len({(s.color, s.dash) for s in styles.values()}) == 12
    first = [styles[label] for label in labels[:6]]
    assert len({s.dash for s in first}) == len({s.marker for s in first}) == len({s.color for s in first}) == 6
    training = training_figure()
    drawn = to_matplotlib(training).axes
    colors = {(line.get_label(), line.get_color()) for ax in drawn for line in ax.lines}
    assert len(colors) == 4


def test_the_legend_does_not_cover_a_panel():
    for figure in (training_figure(), points_figure(), heatmap_figure(), image_figure()):
        drawn = to_matplotlib(figure)
        drawn.draw_without_rendering()
        legend = drawn.legends[0].get_window_extent()
        width, height = drawn.get_size_inches() * drawn.dpi
        assert legend.x0 >= 0
        assert legend.x1 <= width
        for ax in drawn.axes:
            box = ax.get_tightbbox()
            assert not box.overlaps(legend), figure.key
            assert box.x0 >= -1, figure.key
            assert box.x1 <= width + 1, figure.key
            assert box.y1 <= height + 1, figure.key


def test_print_size_and_fonts():
    drawn = to_matplotlib(training_figure())
    assert drawn.get_size_inches()[0] == 6.5
    texts = [t for ax in drawn.axes for t in (*ax.get_xticklabels(), ax.xaxis.label, ax.yaxis.label, ax.title)]
    assert all(7.5 <= t.get_fontsize() <= 9 for t in texts)
    pdf = matplotlib_bytes(points_figure(), "pdf")
    assert pdf.startswith(b"%PDF")
    assert b"/Type3" not in pdf  # fonttype 42
    assert b"/FontFile2" in pdf
    assert pdf == matplotlib_bytes(points_figure(), "pdf")
    png = matplotlib_bytes(points_figure(), "png")
    assert int.from_bytes(png[16:20], "big") == 1300  # 6.5 inches at 200 dpi
    with pytest.raises(UsageError, match="did you mean 'png'"):
        matplotlib_bytes(training_figure(), "pnk")


def test_the_users_matplotlib_stays_as_it_is():
    before = dict(mpl.rcParams)
    matplotlib_bytes(points_figure(), "png")
    assert dict(mpl.rcParams) == before
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1] / "src")}
    code = "import flatmin.report, sys;print([m for m in ('matplotlib', 'plotly', 'xarray') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("value", "axis", "limits", "text"),
    [
        (1e-8, Axis("y", log=True), (1e-9, 1.0), "10⁻⁸"),
        (1.0, Axis("y", log=True), (1e-9, 1.0), "10⁰"),
        (0.1, Axis("y", log=True), (0.05, 30.0), "0.1"),
        (2e5, Axis("y", log=True), (1e5, 9e5), "2×10⁵"),
        (200_000, PLAIN, (0, 600_000), "200k"),
        (2000, PLAIN, (0, 5000), "2000"),
        (1.5e6, PLAIN, (0, 3e6), "1.5M"),
        (-0.5, PLAIN, (-1, 1), "−0.5"),
        (2e-5, PLAIN, (0, 6e-5), "2×10⁻⁵"),
    ],
)
def test_ticks(value, axis, limits, text):
    assert style.tick_text(value, axis, limits) == text


def number_of(text):
    """What a tick's label says."""
    plain = text.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹−", "-0123456789-"))
    factor, _, power = plain.rpartition("×") if "×" in plain else ("1", "", plain)
    return float(factor) * 10.0 ** int(power[2:]) if text[-1] >= "⁰" or text[-1] in "¹²³" else float(plain)


@pytest.mark.parametrize("low", [3e-14, 0.8, 2.2, 3.0, 9.7e3])
@pytest.mark.parametrize("ratio", [1.02, 1.25, 1.5, 3, 4, 10, 40, 1e3, 1e9, 1e25])
def test_a_logarithmic_axis_has_two_labels_that_say_where_they_stand(low, ratio):
    ticks = style.log_ticks(low, low * ratio)
    assert 2 <= len(ticks) <= 9
    assert all(low * (1 - 1e-8) <= tick <= low * ratio * (1 + 1e-8) for tick in ticks)
    axis = Axis("y", log=True)
    np.testing.assert_allclose(
        [number_of(style.tick_text(tick, axis, (low, low * ratio))) for tick in ticks], ticks, rtol=5e-3
    )
    panel = Panel("p", Axis("x"), axis, (Series("s", np.arange(2.0), [low, low * ratio]),))
    figure = Figure("f", "t", "c", (panel,))
    shown = to_plotly(figure).layout.yaxis
    (drawn,) = to_matplotlib(figure).axes
    inside = [tick for tick in drawn.get_yticks() if drawn.get_ylim()[0] <= tick <= drawn.get_ylim()[1]]
    np.testing.assert_allclose(inside, shown.tickvals, rtol=1e-12)


def test_floors_and_dodges_are_drawn_and_not_stored():
    values = np.array([1.0, 1e-30])
    series = tuple(Series(name, [2, 3], values, kind="points") for name in ("a", "b"))
    panel = Panel("p", Axis("x"), Axis("y", log=True, floor=1e-6), series, dodge=0.1)
    (stored,) = from_dataset(to_dataset(Figure("f", "t", "c", (panel,)))).panels
    np.testing.assert_array_equal(stored.series[1].y, values)
    np.testing.assert_array_equal(stored.series[1].x, [2, 3])
    drawn = style.drawn(stored)
    np.testing.assert_allclose(drawn.series[0].x, [1.95, 2.95])
    np.testing.assert_allclose(drawn.series[1].x, [2.05, 3.05])
    np.testing.assert_allclose(drawn.series[0].y, [1.0, 1e-6])
    trace = to_plotly(Figure("f", "t", "c", (stored,))).data[1]
    np.testing.assert_allclose(trace.y, [1.0, 1e-6])
    assert trace.text[1] == "x: 3<br>y: 1e-30"


def test_no_two_curves_of_a_figure_have_one_colour():
    series = tuple(Series(str(i), [0.0, 1.0], [0.0, i]) for i in range(40))
    styles = style.styles_of(Figure("f", "t", "c", (Panel("p", Axis("x"), Axis("y"), series),)))
    assert len({look.color for look in styles.values()}) == 40
    assert {style.INK, style.GREY}.isdisjoint(look.color for look in styles.values())


def test_grid_ticks_are_round_numbers():
    values = np.arange(50, 1001, 50)
    chosen = values[style.grid_ticks(values)]
    assert len(chosen) <= 7
    assert all(v % 100 == 0 for v in chosen)
    assert style.grid_ticks(np.arange(5)) == [0, 1, 2, 3, 4]


# mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Series("a", [1, 2], [1]), "y: got 1 numbers in series 'a', expected 2 as x has"),
        (lambda: Series("a", [], []), "x: got 0 numbers in series 'a', expected at least 1"),
        (lambda: Series("a", [1], [1], low=[0]), "expected low and high for bands and error bars; pass both"),
        (lambda: Series("a", [1], [1], kind="band"), "expected low and high for bands and error bars; pass both"),
        (lambda: Series("a", [1], [1], low=[2], high=[1]), "got low > high"),
        (lambda: Series("a", [1], ["x"]), r"y: got a list of 1, expected an array of real numbers of shape \(n,\)"),
        (lambda: Series("a", [1], [1], kind="lines"), "did you mean 'line'"),
        (lambda: one_panel(Series("a", [1], [1], low=[0], high=[2])), "does not say what they are"),
        (
            lambda: one_panel(Series("a", [1], [0]), y=Axis("y", log=True)),
            "no y is positive, but the axis 'y'",
        ),
        (lambda: Figure("k", "t", "c", ()), "panels: got none"),
        (lambda: Figure("../k", "t", "c", (ImagePanel("i", [[1]]),)), "expected lower-case words"),
        (lambda: HeatmapPanel("h", PLAIN, PLAIN, [1, 2], [1], [[1]], PLAIN), r"expected \(1, 2\)"),
        (lambda: figure_data([image_figure(), image_figure()]), "expected different ones"),
    ],
)
def test_mistakes_get_a_sentence(make, sentence):
    with pytest.raises(UsageError, match=sentence):
        make()


# data ----------------------------------------------------------------------------------------------------


def assert_same(one, other):
    assert type(one) is type(other)
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)  # NaN equals NaN here
        elif isinstance(a, tuple) and a and dataclasses.is_dataclass(a[0]):
            assert len(a) == len(b)
            for x, y in zip(a, b, strict=True):
                assert_same(x, y)
        elif dataclasses.is_dataclass(a):
            assert_same(a, b)
        else:
            assert a == b


def odd_figure():
    values = [1e-300, np.nan, np.inf, -0.0, 0.1 + 0.2]
    series = Series("ü <b> $x$", np.arange(5, dtype=np.int64) + 2**53, values, low=values, high=values, kind="points")
    panels = (
        Panel("", Axis("time", "seconds since 2000-01-01"), Axis("", limits=(0.0, 1.0)), (series, series)),
        ImagePanel("flags", np.array([[True, False]])),
        ImagePanel("small", np.array([[1, 2]], dtype=np.int16), limits=(0.0, 3.0)),
    )
    return Figure("odd", "Odd", "", panels, columns=2, intervals="all")


@pytest.mark.parametrize("figure", [*figures(), odd_figure()], ids=lambda f: f.key)
def test_figures_survive_storage(figure, tmp_path):
    assert_same(from_dataset(to_dataset(figure)), figure)
    write_netcdf(to_dataset(figure), tmp_path / "f.nc")
    assert_same(from_dataset(read_netcdf(tmp_path / "f.nc")), figure)


def test_datasets_are_labelled():
    data = to_dataset(training_figure())
    assert data["c0_y"].dims == ("c0_x",)
    assert data["c0_y"].attrs == {
        "long_name": "trace of the Hessian", "series": "SGD with label noise", "panel": "Trace of the Hessian"
    }  # fmt: skip
    assert "minimum to maximum over 3 seeds" in data.attrs["caption"]
    with pytest.raises(UsageError, match="without a figure"):
        from_dataset(data.drop_vars("figure"))


def test_a_page_is_rebuilt_from_data_alone(run, page):
    stored = load_run(run.path)
    assert [f.key for f in figures_of(stored).values()] == ["training", "depth", "recovery", "images"]
    pdf = (run.path / "figures" / "training.pdf").read_bytes()
    rewrite_derived(stored, render_run)
    assert (run.path / "figures" / "training.pdf").read_bytes() == pdf
    assert (run.path / "report.html").read_text(encoding="utf-8") == page


def test_tables_hold_the_numbers():
    tables = {t.title: t for f in figures() for t in value_tables(f)}
    loss = tables["Training loss"]
    assert loss.rows[0][0] == "SGD with label noise"
    assert loss.rows[0][1] == "600,000"
    last = np.asarray(training_figure().panels[0].series[0].y)[-1]
    assert float(loss.rows[0][2]) == pytest.approx(last, rel=1e-3)
    assert tables["Nuclear norm"].rows[-1][:3] == ("minimum nuclear norm (convex) (line)", "", "1.72")
    assert len(tables["Trace by depth: estimated"].rows) == 7
    grid = tables["Nuclear norm: probability of recovery"]
    assert grid.rows[0][:3] == ("1,000", "not measured", "not measured")  # largest m on top, as drawn
    assert tables["Observed"].rows[0][0] == "48 × 64"


# page ----------------------------------------------------------------------------------------------------


class Reader(html.parser.HTMLParser):
    """Collects tags with attributes, text outside of scripts, and scripts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.scripts, self.open = [], [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = tag

    def handle_data(self, data):
        (self.scripts if self.open in ("script", "style") else self.text).append(data)

    def handle_endtag(self, tag):
        self.open = None


def test_the_page_loads_nothing(page):
    reader = Reader(page)
    for tag, attributes in reader.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form"), tag
        for name in ("src", "href", "action", "poster", "data", "srcset"):
            target = attributes.get(name) or ""
            assert not re.match(r"(?i)(https?:)?//", target), (tag, target)
    policy = next(a["content"] for t, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "form-action 'none'" in policy
    assert "@import" not in page.split("</style>")[0]
    assert "url(" not in page.split("</style>")[0]
    assert page.count("plotly.js v") == 1  # inlined once


def test_the_page_says_what_matters_as_text(page, run):
    reader = Reader(page)
    text = " ".join("".join(reader.text).split())
    for words in (
        EXPERIMENT.title, "1 of 3 claims hold; 1 does not hold; 1 not measured", "202.3 [188, 216.5]",
        "2 of 4 settings are the paper’s; 2 are ours", "step size of both dynamics", "1.2×10⁻⁸",
        "converged", run.id, "−0.16",
        "minimum to maximum over 3 seeds", "minimum nuclear norm (convex) (line)", "title = {Flat minima}",
        "jax", "Cells tinted blue were not measured",
    ):  # fmt: skip
        assert words in text, words
    for mark in ("✓ holds", "✗ does not hold", "– not measured"):  # not by colour alone
        assert mark in text
    links = {a["href"] for t, a in reader.tags if t == "a"}
    files = {link for link in links if "/" in link}
    assert len(files) == 12
    assert all((run.path / link).is_file() for link in files)
    anchors = {a["id"] for _, a in reader.tags if "id" in a}
    assert all(link[1:] in anchors for link in links if link.startswith("#"))
    assert len(anchors) == len([a for _, a in reader.tags if "id" in a])  # no id twice


HOSTILE = "</script><script>document.title='stolen'</script><img src=x onerror=\"document.title='stolen'\">"


def hostile_content(_spec):
    panel = Panel(HOSTILE, Axis(HOSTILE, HOSTILE), Axis(HOSTILE), (Series(HOSTILE, [1, 2], [1, 2]),),
                  (ReferenceLine(HOSTILE + "2", 1.5),))  # fmt: skip
    grid = HeatmapPanel(HOSTILE, Axis(HOSTILE), Axis(HOSTILE), [1, 2], [1], [[1, np.nan]], Axis(HOSTILE))
    claim = Claim.at_most(
        1.0, name=HOSTILE, statement=HOSTILE, source=HOSTILE, predicted=HOSTILE, measured=0.5, note=HOSTILE
    )
    return RunContent(figure_data([Figure("hostile", HOSTILE, HOSTILE, (panel, grid))]), (claim,))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    experiment = Experiment("hostile", 1, HOSTILE, HOSTILE, HOSTILE)
    out = tmp_path_factory.mktemp("hostile")
    return obtain_run(experiment, ExampleSpec(), hostile_content, out=out, render=render_run)[0]


def test_hostile_texts_are_escaped(hostile):
    page = (hostile.path / "report.html").read_text(encoding="utf-8")
    tags = Reader(page).tags
    assert "<script>document" not in page
    assert not any("onerror" in attributes for _, attributes in tags)
    data = [a["id"] for t, a in tags if t == "script" and a.get("type") == "application/json"]
    assert data == ["plot-1-0-data", "plot-1-1-data", "theme"]
    assert page.count("&lt;/script&gt;") > 5


# a real browser ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        reason = "no chromium to open the page in"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)

    def dump(path, *options):
        profile = tmp_path_factory.mktemp("profile")
        command = [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=2500",
            *options, "--dump-dom", path.as_uri(),
        ]  # fmt: skip
        answer = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        drawn = answer.stdout.split("plotly.js v")[0]  # the library's source has all these words too
        return drawn, [line for line in answer.stderr.splitlines() if "CONSOLE" in line]

    return dump


@pytest.mark.browser
@pytest.mark.parametrize(
    "options",
    [("--window-size=1400,1000",), ("--window-size=500,900", "--blink-settings=preferredColorScheme=0")],
    ids=["wide", "narrow-dark"],
)
def test_the_page_draws_in_a_browser(run, browse, options):
    dom, console = browse(run.path / "report.html", *options)
    assert console == []
    panels = sum(len(f.panels) for f in figures())
    plots = dom.count('class="plot js-plotly-plot"')
    assert plots == panels == 10
    assert len(re.findall(r'<svg class="main-svg"', dom)) >= panels
    assert dom.count('class="trace scatter') >= 4 * 4 + 2  # bands and lines of the first figure, two references
    assert len(re.findall(r'<g class="heatmaplayer mlayer"><g class="hm"', dom)) >= 5
    assert "Share chart" not in dom  # plotly's upload
    ink = style.INK if "1400" in options[0] else "#e8e8ea"
    red, green, blue = (int(ink[i : i + 2], 16) for i in (1, 3, 5))
    assert f"fill: rgb({red}, {green}, {blue})" in dom


@pytest.mark.browser
def test_hostile_texts_do_nothing_in_a_browser(hostile, browse):
    dom, console = browse(hostile.path / "report.html")
    assert console == []
    title = re.search(r"<title>(.*?)</title>", dom).group(1)
    assert title.startswith("&lt;/script&gt;")
    assert '<img src="x"' not in dom
    assert dom.count('class="plot js-plotly-plot"') == 2


@pytest.mark.browser
def test_the_console_is_heard(tmp_path, browse):
    page = tmp_path / "broken.html"
    page.write_text("<script>throw new Error('boom')</script>")
    _, console = browse(page)
    assert any("boom" in line for line in console)  # or the checks above would pass whatever happens


def test_plot_data_is_json_with_all_points(page):
    found = dict(re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', page, flags=re.DOTALL))
    plot = json.loads(found["plot-1-0-data"])
    assert {t["meta"] for t in plot["data"]} == {"SGD with label noise", "plain SGD"}
    assert plot["layout"]["yaxis"]["type"] == "log"


def test_large_images_are_pixels_with_their_values():
    import io

    from PIL import Image

    from flatmin.experiments.figures import ImagePanel
    from flatmin.report.pixels import is_large, pixel_png

    values = np.linspace(0, 1, 200 * 150).reshape(200, 150)
    values[3, 4] = np.nan
    panel = ImagePanel("large", values, limits=(0, 1))
    assert is_large(panel)
    assert not is_large(ImagePanel("small", np.eye(100)))
    pixels = np.asarray(Image.open(io.BytesIO(pixel_png(panel))))
    assert pixels.shape == (200, 150, 3)
    seen = ~np.isnan(values)
    np.testing.assert_array_equal(pixels[seen], np.rint(255 * values[seen]).astype(int)[:, None].repeat(3, axis=1))
    assert len(set(pixels[3, 4])) > 1  # missing cells are not grey
