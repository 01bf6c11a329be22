"""One self-contained page a run: everything inlined, nothing fetched, readable without scripts and on paper.

The page's own policy (`Content-Security-Policy: default-src 'none'`) forbids requests, so it can be opened
from a mail or an archive without telling anybody.
"""

import base64
import functools
import hashlib
import html
import importlib.resources
import json
from collections.abc import Iterable, Mapping
from typing import Any

from flatmin._core import UsageError, checked_anywhere
from flatmin._core.text import printable
from flatmin.experiments.certificates import Certificate
from flatmin.experiments.claims import Claim
from flatmin.experiments.figures import Figure, ImagePanel, Panel, has_missing
from flatmin.experiments.numbers import format_number
from flatmin.experiments.runs import Run
from flatmin.experiments.specs import Setting
from flatmin.report import style
from flatmin.report.pixels import is_large, pixel_png
from flatmin.report.plotly_renderer import panel_to_plotly
from flatmin.report.tables import ValueTable, value_tables

_BADGES = {"holds": ("✓", "good"), "does not hold": ("✗", "bad"), "not measured": ("–", "open")}


@checked_anywhere()
def render_page(run: Run, figures: Mapping[str, Figure], images: Mapping[str, bytes]) -> str:
    """The page of a run.

    Args:
        run: the run.
        figures: figure by the name of its dataset, in order.
        images: PNG by figure key, for print and for readers without JavaScript.

    Returns:
        HTML that loads nothing.

    Raises:
        UsageError: if a figure has no image.
    """
    if missing := [figure.key for figure in figures.values() if figure.key not in images]:
        raise UsageError(f"images: got none for the figure {missing[0]!r}, expected a PNG for each figure by its key")
    sections = {
        "answer": ("What came out", _answer(run)),
        "figures": (
            "Figures",
            "".join(_figure(i, n, f, images) for i, (n, f) in enumerate(figures.items(), 1)),
        ),
        "claims": ("Claims", _claims(run.claims)),
        "settings": ("What was run", _settings(run.settings)),
        "certificates": ("Certificates", _certificates(run.certificates)),
        "environment": ("Environment", _environment(run)),
        "citation": ("Citation", _citation(run)),
    }
    sections = {key: part for key, part in sections.items() if part[1]}
    links = "".join(f'<li><a href="#{key}">{heading}</a></li>' for key, (heading, _) in sections.items())
    body = "".join(
        f'<section id="{key}" aria-labelledby="{key}-heading"><h2 id="{key}-heading">{heading}</h2>{text}</section>'
        for key, (heading, text) in sections.items()
    )
    title = _text(run.experiment.title)
    scripts = (_plotly_js(), _resource("page.js")) if figures else ()
    script = "".join(f"<script>{text}</script>" for text in scripts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{_resource("page.css")}{_dark_css()}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header>
<p class="kind">flatmin report</p>
<h1>{title}</h1>
{_summary(run)}
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main id="main" tabindex="-1">{body}</main>
<footer><p>Run <code>{_text(run.experiment.name)}-{_text(run.id)}</code>, written by flatmin \
{_text(_versions(run).get("flatmin", ""))}. Rebuild this page from its data with \
<code>flatmin report</code> and the run's folder.</p></footer>
{_json_script("theme", style.DARK)}
{script}
</body>
</html>
"""


def _policy(scripts: Iterable[str]) -> str:
    """What the page may do: run the scripts whose hashes are listed, and draw; no handler in a tag, no request."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "form-action 'none'; base-uri 'none'"
    )


def _text(value: object) -> str:
    """Any value of a run, which may be foreign, as text of the page; control characters are shown."""
    return html.escape("\n".join(printable(line) for line in str(value).split("\n")))


def _summary(run: Run) -> str:
    date = str(run.provenance.get("date", "")).replace("T", " ").replace("+00:00", " UTC")
    seconds = run.provenance.get("seconds")
    facts = [f"version {_text(run.experiment.version)}", f"id <code>{_text(run.id)}</code>", _text(date)]
    facts += [f"computed in {_duration(float(seconds))}"] if seconds is not None else []
    text = f'<p class="facts">{" · ".join(f for f in facts if f)}</p>'
    if run.experiment.summary:
        text = f'<p class="lead">{_text(run.experiment.summary)}</p>' + text
    return text


def _answer(run: Run) -> str:
    """The answer in words, what failed, and the files that hold it."""
    text = f'<p class="answer">{_text(run.answer)}</p>' if run.answer else ""
    failed = tuple(c for c in run.claims if c.verdict != "holds")
    if run.claims:
        verdicts = [c.verdict for c in run.claims]
        counts = [f"{verdicts.count('holds')} of {len(verdicts)} claims hold"]
        counts += [f"{n} {word}" for word, n in ((v, verdicts.count(v)) for v in list(_BADGES)[1:]) if n]
        text += f'<p><a href="#claims">{"; ".join(counts)}</a>.</p>'
        text += _claims_table("Claims that do not hold", failed) if failed else ""
    results = [name for name in run.files or () if not name.startswith("data/")]
    links = " ".join(f'<a href="{_text(name)}">{_text(name)}</a>' for name in results)
    return text + (f'<p class="files"><span>Results:</span> {links}</p>' if links else "")


def _claims(claims: tuple[Claim, ...]) -> str:
    if not claims:
        return ""
    note = (
        "A claim is judged by its worst measured value. The margin is the distance to its bound, in "
        "the units of the measurement; it is negative where the claim does not hold."
    )
    return f"{_claims_table('Claims', claims)}<p class='note'>{note}</p>"


def _claims_table(title: str, claims: tuple[Claim, ...]) -> str:
    rows = []
    for claim in claims:
        sub = "; ".join(_text(t) for t in (claim.source, claim.note) if t)
        statement = f"<strong>{_text(claim.name)}</strong><br>{_text(claim.statement)}"
        statement += f"<br><small>{sub}</small>" if sub else ""
        margin = "" if claim.margin != claim.margin else format_number(claim.margin, 3)
        cells = (
            _badge(claim.verdict),
            statement,
            *map(_text, (claim.predicted, claim.measured_text, margin)),
        )
        rows.append(cells)
    header = ("Verdict", "Claim", "Predicted", "Measured [interval]", "Margin")
    return _table(title, header, rows, stack=True)


def _badge(verdict: str) -> str:
    mark, kind = _BADGES[verdict]
    return f'<span class="badge {kind}"><span aria-hidden="true">{mark}</span> {verdict}</span>'


def _settings(settings: tuple[Setting, ...]) -> str:
    if not settings:
        return ""
    rows = []
    ours = sum(s.origin == "ours" for s in settings)
    for s in settings:
        origin = f'<span class="origin {_text(s.origin)}">{"the paper’s" if s.origin == "paper" else "ours"}</span>'
        value = format_number(s.value, 8) if isinstance(s.value, float) else json.dumps(s.value, ensure_ascii=False)
        rows.append((f"<code>{_text(s.name)}</code>", _text(value.strip('"')), origin, _text(s.description)))
    if ours == len(settings):  # no paper is reproduced: whose they are is no question
        rows = [(name, value, meaning) for name, value, _, meaning in rows]
        return _table("Settings", ("Setting", "Value", "Meaning"), rows, stack=True)
    text = f"<p>{len(settings) - ours} of {len(settings)} settings are the paper’s; {ours} are ours.</p>"
    return f"{text}{_table('Settings', ('Setting', 'Value', 'Origin', 'Meaning'), rows, stack=True)}"


def _figure(number: int, name: str, figure: Figure, images: Mapping[str, bytes]) -> str:
    styles = style.styles_of(figure)
    count = len(figure.panels)
    panels = []
    for index, panel in enumerate(figure.panels):
        heading = _text(style.panel_heading(index, panel.title, count))
        ident = f"plot-{number}-{index}"
        label = _text(f"{panel.title}. {figure.title}. Values in the table below.")
        top = f"<h4>{heading}</h4>" if count > 1 else ""
        if isinstance(panel, ImagePanel) and is_large(panel):
            data = base64.b64encode(pixel_png(panel)).decode()
            panels.append(
                f'<div class="panel">{top}<img class="pixels" alt="{label}" src="data:image/png;base64,{data}"></div>'
            )
            continue
        plain = json.loads(str(panel_to_plotly(panel, styles).to_json()))
        height = plain["layout"]["height"]
        panels.append(
            f'<div class="panel">{top}<div class="plot" id="{ident}" role="img" '
            f'aria-label="{label}" style="height:{height}px"></div></div>'
            f"{_json_script(f'{ident}-data', plain)}"
        )
    picture = images.get(figure.key)
    static = ""
    if picture is not None:
        data = base64.b64encode(picture).decode()
        text = _text(figure.full_caption)
        static = f'<img class="static" alt="{text}" src="data:image/png;base64,{data}">'
    key = figure.key
    files = {"PDF": f"figures/{key}.pdf", "PNG": f"figures/{key}.png", "data (NetCDF)": f"data/{name}.nc"}
    links = " ".join(f'<a href="{_text(path)}">{text}</a>' for text, path in files.items())
    tables = "".join(_value_table(t) for t in value_tables(figure))
    return (
        f'<figure id="figure-{_text(key)}" class="figure columns-{figure.columns_or_default}">'
        f"<h3>{_text(figure.title)}</h3>"
        f'<div class="panels">{"".join(panels)}</div>{_legend(figure)}{static}'
        f"<figcaption><strong>Figure {number}.</strong> {_text(figure.full_caption)}</figcaption>"
        f'<p class="files"><span>Files:</span> {links}</p>'
        f"<details><summary>Values of figure {number} as text</summary>{tables}</details></figure>"
    )


def _legend(figure: Figure) -> str:
    entries = style.legend_of(figure)
    single = not any(isinstance(p, Panel) for p in figure.panels)
    items = [
        f'<button type="button" aria-pressed="true" data-label="{html.escape(e.label)}">{_swatch(e)}'
        f"<span>{_text(e.label)}</span></button>"
        for e in entries
    ]
    if any(has_missing(p) for p in figure.panels):
        items.append(f'<span class="key">{_missing_swatch(figure)}<span>not measured</span></span>')
    if not items:
        return ""
    label = "Legend" if single else "Legend: press to hide or show a series"
    return f'<div class="legend" role="group" aria-label="{label}">{"".join(items)}</div>'


def _swatch(entry: style.LegendEntry) -> str:
    look = entry.style
    color = _color(look.color)
    dash = "" if look.css_dash == "solid" else f' stroke-dasharray="{look.css_dash.replace("px", "")}"'
    shapes = []
    if entry.interval and entry.mark != "points":
        shapes.append(f'<rect x="0" y="2" width="34" height="10" fill="{color}" opacity="0.2"/>')
    if entry.mark == "line":
        shapes.append(f'<line x1="0" y1="7" x2="34" y2="7" stroke="{color}" stroke-width="2"{dash}/>')
    if entry.mark == "points":
        outline = f'fill="none" stroke="{color}" stroke-width="1.6"'
        paths = {
            "circle": "M13 7a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
            "square": "M13 3h8v8h-8z",
            "triangle-up": "M17 2l5 9h-10z",
            "diamond": "M17 2l5 5l-5 5l-5 -5z",
            "triangle-down": "M17 12l5 -9h-10z",
        }
        shapes.append(f'<path d="{paths.get(look.symbol, "M13 3l8 8m0 -8l-8 8")}" {outline}/>')
    return f'<svg width="34" height="14" aria-hidden="true">{"".join(shapes)}</svg>'


def _missing_swatch(figure: Figure) -> str:
    box = f'<rect x="10" y="0" width="14" height="14" fill="{_color(style.MISSING)}"/>'
    crossed = any(not isinstance(p, Panel) and style.crosses_missing(p) for p in figure.panels if has_missing(p))
    cross = f'<path d="M14 4l6 6m0 -6l-6 6" stroke="{_color(style.MISSING_CROSS)}"/>' if crossed else ""
    return f'<svg width="34" height="14" aria-hidden="true">{box}{cross}</svg>'


def _value_table(table: ValueTable) -> str:
    rows = [tuple(map(_text, row)) for row in table.rows]
    return _table(table.title, tuple(map(_text, table.header)), rows, show_title=True, numeric=True)


def _certificates(certificates: tuple[Certificate, ...]) -> str:
    if not certificates:
        return ""
    rows = []
    for c in certificates:
        numbers = (format_number(v, 8) for v in (c.primal_value, c.dual_value))
        small = (format_number(v, 2) for v in (c.gap, c.residual))
        mark = (
            '<span class="badge good"><span aria-hidden="true">✓</span> '
            if c.success
            else '<span class="badge bad"><span aria-hidden="true">✗</span> '
        )
        outcome = f"{mark}{_text(c.outcome.replace('_', ' '))}</span>"
        rows.append((_text(c.name), _text(c.method), *numbers, *small, f"{c.iterations:,}", outcome))
    header = (
        "Solved",
        "Method",
        "Primal value",
        "Dual bound",
        "Relative gap",
        "Residual",
        "Iterations",
        "Outcome",
    )
    note = "The optimum lies between the dual bound and the primal value."
    return f"{_table('Certificates', header, rows, stack=True)}<p class='note'>{note}</p>"


def _environment(run: Run) -> str:
    plain = run.provenance
    git = {f"git commit ({k})": v for k, v in (plain.get("git") or {}).items() if v}
    rows: dict[str, Any] = {
        "command": plain.get("command"),
        "date": plain.get("date"),
        "platform": plain.get("platform"),
        "device": plain.get("device"),
        "precision": None if plain.get("float64") is None else "float64" if plain["float64"] else "float32",
        "versions": ", ".join(f"{k} {v}" for k, v in _versions(run).items()),
        **git,
    }
    lines = [(_text(k), f"<code>{_text(v)}</code>") for k, v in rows.items() if v]
    return _table("Environment", ("What", "Value"), lines)


def _citation(run: Run) -> str:
    version = _versions(run).get("flatmin", "")
    title = "flatmin: flat minima of factorised models"
    own = f"@software{{flatmin,\n  title   = {{{title}}},\n  version = {{{version}}}\n}}"
    entries = "\n\n".join(t for t in (run.experiment.bibtex.strip(), own) if t)
    paper = any(setting.origin == "paper" for setting in run.settings)
    lead = f"<p>Cite {'the paper whose experiment this is, and ' if paper else ''}the software.</p>"
    return f'{lead}<pre tabindex="0">{_text(entries)}</pre>'


def _table(
    title: str,
    header: tuple[str, ...],
    rows: Iterable[tuple[str, ...]],
    *,
    stack: bool = False,
    show_title: bool = False,
    numeric: bool = False,
) -> str:
    """A table of ready HTML cells; `stack` turns rows into cards on narrow screens, others scroll."""
    head = "".join(f'<th scope="col">{h}</th>' for h in header)
    body = ""
    for first, *rest in rows:
        cells = "".join(f'<td data-name="{h}">{c}</td>' for h, c in zip(header[1:], rest, strict=True))
        body += f'<tr><th scope="row" data-name="{header[0]}">{first}</th>{cells}</tr>'
    kinds = " ".join(k for k, wanted in (("stack", stack), ("numeric", numeric)) if wanted)
    hidden = "" if show_title else ' class="hidden"'
    caption = f"<caption{hidden}>{_text(title)}</caption>"
    region = f'class="scroll" role="region" aria-label="{_text(title)}" tabindex="0"'
    inner = f"{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div {region}><table class="{kinds}">{inner}</table></div>'


def _json_script(ident: str, value: Any) -> str:
    text = (
        json.dumps(value, ensure_ascii=False)
        .replace("<", "\\u003c")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )
    return f'<script type="application/json" id="{ident}">{text}</script>'


def _color(light: str) -> str:
    return f"var(--c{light[1:].lower()}, {light})"


def _dark_css() -> str:
    rules = "".join(f"--c{light[1:].lower()}:{dark};" for light, dark in style.DARK.items())
    rules += f"--ink:{style.DARK[style.INK]};"
    return f":root{{--ink:{style.INK};}}@media screen and (prefers-color-scheme: dark){{:root{{{rules}}}}}"


def _versions(run: Run) -> dict[str, str]:
    return {str(k): str(v) for k, v in (run.provenance.get("versions") or {}).items()}


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{format_number(seconds, 3)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


@functools.cache
def _resource(name: str) -> str:
    return importlib.resources.files("flatmin.report").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _plotly_js() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("</script", "<\\/script")
