"""The page of a report: one file with its charts and pictures inside, which needs neither network nor script."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from rft3d_cli.console import clean, duration
from rft3d_cli.show.inspect_look import Pixels
from rft3d_cli.show.inspect_page import STYLE
from rft3d_cli.show.inspect_sheet import prompt_text, target_text
from rft3d_cli.show.plot import COLOURS, Chart, lay_out, svg
from rft3d_cli.show.plot_axes import number
from rft3d_cli.show.plot_paint import DARK, LIGHT
from rft3d_cli.show.report_charts import Section
from rft3d_cli.show.report_runs import Run
from rft3d_cli.show.report_samples import LETTERS, Answer, Sample

QUALITY = 78
"""Of the page's JPEG pictures."""
PICTURES = 1_200_000
"""Letters of all pictures: a page is to be sent by mail and read on a phone."""
MANY = 12
"""Differences of recipes from which on they are folded up."""


def _inks(inks: dict[str, str]) -> str:
    return " ".join(f"--c{i}: {inks[f'c{i}']};" for i in range(COLOURS))


OWN_STYLE = f"""
:root {{ {_inks(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_inks(DARK)} }} }}
{" ".join(f".k-c{i} {{ --ink: var(--c{i}); }}" for i in range(COLOURS))}
.k-text {{ --ink: var(--text); }} .k-faint {{ --ink: var(--faint); }} .k-line {{ --ink: var(--line); }}
svg {{ display: block; width: 100%; height: auto; overflow: visible; font-family: system-ui, sans-serif; }}
svg polyline {{ fill: none; stroke: var(--ink); stroke-linejoin: round; stroke-linecap: round; }}
svg circle {{ fill: var(--ink); stroke: var(--card); }}
svg circle.ring {{ fill: var(--card); stroke: var(--ink); stroke-width: 2; }}
svg text {{ fill: var(--ink); dominant-baseline: central; paint-order: stroke; stroke: var(--card); stroke-width: 3px;
  stroke-linejoin: round; }}
svg .pale {{ opacity: .38; }} svg .bold {{ font-weight: 600; }}
svg .dashed {{ stroke-dasharray: 4 4; stroke-linecap: butt; }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 16px;
  margin: 12px 0 32px; }}
.charts figure {{ background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px 6px; }}
.charts h3 {{ color: var(--text); font-size: .9375rem; margin: 0 0 6px; }}
h2.part {{ font-size: 1.2rem; margin: 28px 0 4px; }}
.toggle {{ position: absolute; opacity: 0; }}
label {{ cursor: pointer; }}
nav.legend {{ position: sticky; top: 0; z-index: 1; max-width: 1200px; margin: 0 auto; padding: 8px 16px;
  background: var(--ground); }}
.runs td {{ padding: 5px 18px 5px 0; }} header details {{ margin: 12px 0 0; }}
.two {{ display: grid; grid-template-columns: 1fr 1fr; gap: 16px; }}
@media (max-width: 700px) {{ .two {{ grid-template-columns: 1fr; }} }}
.two > section {{ min-width: 0; }}
.two figure {{ margin-bottom: 8px; }}
ul.notes {{ list-style: none; padding: 0; margin: 12px 0; }} ul.notes li {{ margin: 4px 0; }}
article h2 {{ font-size: 1rem; }}
"""


def page(
    runs: Sequence[Run],
    summaries: Sequence[dict[str, Any]],
    sections: Sequence[Section],
    samples: Sequence[tuple[Run, Sequence[Sample]]],
    differences: Sequence[tuple[str, Sequence[str]]],
) -> str:
    """The page.

    Args:
        runs: Their names and colours are those of the charts.
        summaries: :func:`rft3d_cli.show.report_numbers.summary` of each.
        sections: Charts.
        samples: Answers of each run.
        differences: Recipe keys in which runs differ, with each run's value.

    Returns:
        HTML with everything inside; nothing is loaded from anywhere, and no script runs.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    title = " · ".join(run.name for run in runs[:4]) + (f" and {len(runs) - 4} more" if len(runs) > 4 else "")
    many = len(runs) > 1
    hiding = "".join(
        f"#t{i}:not(:checked) ~ main .g{i} {{ display: none; }} "
        f"#t{i}:not(:checked) ~ nav label[for=t{i}] {{ opacity: .4; text-decoration: line-through; }} "
        f"#t{i}:focus-visible ~ nav label[for=t{i}] {{ outline: 2px solid; }}\n"
        for i in range(len(runs) if many else 0)
    )
    pictures = _Pictures(PICTURES)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(title)}</title><style>{STYLE}{OWN_STYLE}{hiding}</style></head><body>",
        *(f'<input type="checkbox" class="toggle" id="t{i}" checked>' for i in range(len(runs) if many else 0)),
        f"<header><h1>{_text(title)}</h1>",
        f'<p class="faint">{_text(_origin(runs[0], summaries[0]))}</p>' if not many else "",
        _runs_table(summaries, many),
        _notes(summaries, many),
        _differences(differences, runs) if many else "",
        "</header>",
        _legend(runs) if many else "",
        "<main>",
        *(_section(section, many) for section in sections),
        *_samples(samples, many, pictures),
        *(_numbers(one, many) for one in summaries),
        "</main></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _text(text: str) -> str:
    return escape(clean(text))


def _origin(run: Run, one: dict[str, Any]) -> str:
    """Which recipe, model and data a run began with, as far as its folder says."""
    data = run.recipe.get("data.train")
    known = {
        "recipe": one["recipe"],
        "model": run.recipe.get("model.name"),
        "records": ", ".join(map(str, data)) if isinstance(data, list) else data,
        "started": run.about.get("started"),
    }
    return " · ".join(f"{name} {value}" for name, value in known.items() if value)


def _legend(runs: Sequence[Run]) -> str:
    """The runs' colours, which stay in sight; the name of a run hides it and shows it again."""
    labels = (f'<label for="t{at}">{_swatch(at)}{_text(run.name)}</label>' for at, run in enumerate(runs))
    return f'<nav class="legend">{"".join(labels)}<span class="faint">choose a name to hide it</span></nav>'


def _swatch(at: int) -> str:
    return f'<span class="swatch" style="background: var(--c{at % COLOURS})"></span>'


def _runs_table(summaries: Sequence[dict[str, Any]], many: bool) -> str:
    rows = []
    for at, one in enumerate(summaries):
        name = _text(one["name"])
        if many:
            name = _swatch(at) + name
        rows.append(f"<tr><td>{name}</td>{''.join(f'<td>{_text(cell)}</td>' for cell in cells(one))}</tr>")
    head = "".join(f"<th>{_text(cell)}</th>" for cell in ("run", *HEAD))
    return f'<div class="wide"><table class="runs"><tr>{head}</tr>{"".join(rows)}</table></div>'


HEAD = ("stage", "steps", "reward or loss", "best held out", "last held out", "a step")


def cells(one: dict[str, Any]) -> tuple[str, ...]:
    """A run's main numbers in words, under :data:`HEAD`.

    Args:
        one: Its summary.
    """
    planned = f" of {one['planned']:,}" if one["planned"] else ""
    state = ", ended itself" if one["stopped"] else "" if one["finished"] else ", not finished"
    main = next((key for key in ("reward", "loss") if key in one["metrics"]), None)
    figures = one["metrics"].get(main, {})
    best = one["best"]
    last = one["held_out"].get(best["metric"], {}).get("end") if best else None
    return (
        one["stage"],
        f"{one['steps']:,}{planned}{state}",
        f"{main} {number(figures['start'])} → {number(figures['end'])}" if main else "–",
        f"{best['metric']} {number(best['value'])} at {best['step']:,}" if best else "–",
        number(last) if last is not None else "–",
        duration(one["step_seconds"]) if one["step_seconds"] is not None else "–",
    )


def _notes(summaries: Sequence[dict[str, Any]], many: bool) -> str:
    lines = [
        f'<li class="note">{_text((one["name"] + ": " if many else "") + words)}</li>'
        for one in summaries
        for words in [*one["observations"], *one["notes"]]
    ]
    return f'<ul class="notes">{"".join(lines)}</ul>' if lines else ""


def _differences(found: Sequence[tuple[str, Sequence[str]]], runs: Sequence[Run]) -> str:
    if not found:
        return ""
    table = _table([("recipe key", *(run.name for run in runs)), *((key, *values) for key, values in found)])
    state = " open" if len(found) <= MANY else ""
    return f"<details{state}><summary>What their recipes differ in</summary>{table}</details>"


def _table(rows: Sequence[Iterable[str]]) -> str:
    head, *body = (list(row) for row in rows)
    out = [f"<tr>{''.join(f'<th>{_text(cell)}</th>' for cell in head)}</tr>"]
    out += [f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in body]
    return f'<div class="wide"><table>{"".join(out)}</table></div>'


def _section(section: Section, many: bool) -> str:
    charts = "".join(_figure(chart, many) for chart in section.charts)
    return f'<h2 class="part">{_text(section.title)}</h2><p class="faint">{_text(section.text)}</p>' + (
        f'<div class="charts">{charts}</div>'
    )


def _figure(chart: Chart, many: bool) -> str:
    named = [series for series in chart.series if series.name]
    words = [
        f"{s.name or chart.title} {number(float(s.ys[0]))} to {number(float(s.ys[-1]))}" for s in named[:8] if len(s.ys)
    ]
    picture = svg(lay_out(chart, title=False, legend=not many), f"{chart.title}: {', '.join(words)}")
    return f"<figure><h3>{_text(chart.title)}</h3>{picture}</figure>"


def _numbers(one: dict[str, Any], many: bool) -> str:
    rows = [("", "values", "start", "end", "least", "most")]
    listed = {**{f"eval/{key}": value for key, value in one["held_out"].items()}, **one["metrics"]}
    for key, found in listed.items():
        rows.append((key, f"{found['n']:,}", *(number(found[name]) for name in ("start", "end", "min", "max"))))
    words = f"All numbers of {one['name']}" if many else "All numbers"
    text = (
        "Start and end are means over the first and the last tenth, or a few values of short runs; of held-out scores, "
        "the first and the last."
    )
    return (
        f'<details><summary>{_text(words)}</summary><p class="faint">{text} {_text(one["folder"])}</p>'
        f"{_table(rows)}</details>"
    )


# Answers --------------------------------------------------------------------------------------------------------------


class _Pictures:
    """Pictures as they stand in the page, until there are too many."""

    def __init__(self, most: int) -> None:
        self.left = most
        self.dropped = 0

    def figure(self, pixels: Pixels, words: str) -> str:
        from PIL import Image

        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "JPEG", quality=QUALITY)
        text = base64.b64encode(data.getvalue()).decode("ascii")
        if len(text) > self.left:
            self.dropped += 1
            return '<p class="faint">no picture: the page would become too large</p>'
        self.left -= len(text)
        height, width = pixels.shape[:2]
        image = f'<img src="data:image/jpeg;base64,{text}" alt="{_text(words)}" width="{width}" height="{height}">'
        return f"<figure>{image}<figcaption>{_text(words)}</figcaption></figure>"


def _samples(found: Sequence[tuple[Run, Sequence[Sample]]], many: bool, pictures: _Pictures) -> list[str]:
    if not any(samples for _, samples in found):
        return []
    words = "Green: the target. Dashed: the answer's boxes, with their IoU with the best target of their label."
    parts = [f'<h2 class="part">Answers</h2><p class="faint">{words}</p>']
    for run, samples in found:
        parts += [_sample(sample, run.name if many else "", pictures) for sample in samples]
    return parts


def _sample(sample: Sample, name: str, pictures: _Pictures) -> str:
    task = f'<span class="task">{_text(sample.task)}</span>' if sample.task else ""
    parts = [
        f"<article><h2>{task}{_text(sample.id)}</h2>",
        f'<p class="faint">{_text(f"{name}, {sample.about}" if name else sample.about)}</p>',
        *(f'<p class="note">{_text(note)}</p>' for note in sample.notes),
    ]
    if sample.record is not None and sample.look is not None:
        parts.append(f'<p class="faint">{_text(_cut(prompt_text(sample.record.prompt), 600))}</p>')
        parts.append(f"<p>{_text(_cut(target_text(sample.look), 600))}</p>")
    if sample.frames:
        parts.append(f'<div class="frames">{"".join(pictures.figure(*frame) for frame in sample.frames)}</div>')
    parts.append(f'<div class="two">{"".join(_answer(answer, pictures) for answer in sample.answers)}</div></article>')
    return "\n".join(parts)


def _answer(answer: Answer, pictures: _Pictures) -> str:
    scores = " · ".join(f"{name} {number(value)}" for name, value in answer.scores.items())
    return (
        f"<section><h3>{_text(answer.title)}</h3>{''.join(pictures.figure(*frame) for frame in answer.frames)}"
        + (f'<p class="faint">{_text(scores)}</p>' if scores else "")
        + (f'<p class="faint">{_text(answer.why)}</p>' if answer.why else "")
        + f"<pre>{_text(_cut(answer.text, LETTERS)) or '(empty)'}</pre></section>"
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most:,} more characters)"
