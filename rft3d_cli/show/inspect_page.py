"""The page: records one below the other, in one file that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from rft3d_cli.answers import option_letters
from rft3d_cli.console import clean
from rft3d_cli.records import ChoiceTarget, NumberTarget, TextTarget
from rft3d_cli.show.draw import label_colour
from rft3d_cli.show.inspect_look import PICTURE, Look, Pixels, Shown, drawn
from rft3d_cli.show.inspect_sheet import place_text
from rft3d_cli.show.inspect_stats import Table, tables

QUALITY = 88
"""Of the page's JPEG pictures."""

STYLE = """
:root { color-scheme: light dark; --ground: #f6f6f4; --card: #fff; --text: #1c1c20; --faint: #66666e;
  --line: #dedee2; --good: #12783a; --warn: #8a5a00; --warn-ground: #fff3d6; --code: #f3f3f1; }
@media (prefers-color-scheme: dark) { :root { --ground: #18181c; --card: #222228; --text: #ececf0; --faint: #a0a0aa;
  --line: #3a3a42; --good: #3cdc5a; --warn: #ffcf6b; --warn-ground: #3a2f16; --code: #1c1c21; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main, header { max-width: 1200px; margin: 0 auto; padding: 0 16px; }
header { padding-top: 16px; }
h1 { font-size: 1.4rem; margin: 8px 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 0; overflow-wrap: anywhere; }
h3 { font-size: .85rem; margin: 16px 0 4px; color: var(--faint); font-weight: 600; }
p { margin: 4px 0; overflow-wrap: anywhere; }
.faint { color: var(--faint); font-size: .875rem; }
.task { color: var(--good); font-weight: 600; margin-right: .5em; }
article, details { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 16px;
  margin: 0 0 16px; }
summary { cursor: pointer; font-weight: 600; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 8px 0 16px; font-size: .875rem; }
nav a { color: inherit; overflow-wrap: anywhere; }
.note { color: var(--warn); background: var(--warn-ground); border-radius: 4px; padding: 4px 8px; font-size: .875rem; }
.frames { display: grid; grid-template-columns: repeat(3, 1fr); gap: 8px; margin: 12px 0; }
.frames.two { grid-template-columns: repeat(2, 1fr); }
@media (max-width: 700px) { .frames, .frames.two { grid-template-columns: 1fr; } }
figure { margin: 0; min-width: 0; }
figure img, .none { display: block; width: 100%; height: auto; border-radius: 4px; }
figure.own img { outline: 3px solid #3cdc5a; outline-offset: -3px; }
figcaption { font-size: .8125rem; color: var(--faint); }
figure.own figcaption { color: var(--good); font-weight: 600; }
.none { background: #48484e; color: #c0c0c6; display: grid; place-items: center; font-size: .875rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; overflow-y: auto; max-height: 20rem; margin: 0;
  background: var(--code); border-radius: 4px; padding: 8px; font: .8125rem/1.5 ui-monospace, monospace; }
.wide { overflow-x: auto; }
.numbers { columns: 26rem; column-gap: 32px; }
.numbers section { break-inside: avoid; padding-bottom: 4px; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 3px 16px 3px 0; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--faint); font-weight: 600; }
.wide td, .wide th { white-space: nowrap; }
.swatch { display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin-right: .4em;
  border: 1px solid rgba(0, 0, 0, .35); }
ol.options { list-style: none; margin: 0; padding: 0; }
ol.options li { padding: 2px 0; overflow-wrap: anywhere; }
.right { color: var(--good); font-weight: 600; }
.bad { color: var(--warn); font-weight: 600; }
"""


def page(looks: Sequence[Look], name: str, overview: dict[str, Any]) -> str:
    """The page of some records.

    Args:
        looks: The records.
        name: Of the file.
        overview: :func:`rft3d_cli.show.inspect_stats.statistics` of all records.

    Returns:
        HTML with its pictures inside; nothing is loaded from anywhere, and no script runs.
    """
    # The policy holds even if some text were not escaped: nothing but inline pictures and this style is loaded.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    missing = sum(look.missing for look in looks)
    lead = f"{len(looks):,} of {overview['records']:,} records"
    nowhere = sum(bool(look.sight.trouble(i)) for look in looks for i in range(len(look.views.boxes)))
    boxes = sum(len(look.views.boxes) for look in looks)
    legend = [
        "Boxes are the targets, placed in each frame by its pose. They should sit on their objects in every frame; "
        "what stands before an object does not hide its box."
    ]
    if any(look.said is not None for look in looks):
        legend.append(
            "Where an answer is shown, green is the target and the dashed boxes are the answer's, with their "
            "IoU with the best target of their label."
        )
    if missing:
        lead += f"; {missing:,} of their frames could not be read"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(name)}</title><style>{STYLE}</style></head><body>",
        f"<header><h1>{_text(name)}</h1><p>{_text(lead)}</p>",
        f'<p class="faint">{_text(" ".join(legend))}</p>',
        f'<p class="note">{nowhere:,} of the {boxes:,} boxes shown lie in no frame.</p>' if nowhere else "",
        "<nav>",
        *(f'<a href="#r{n}">{_text(look.record.id)}</a>' for n, look in enumerate(looks, start=1)),
        "</nav></header><main>",
        _overview(overview),
        *(_article(n, look) for n, look in enumerate(looks, start=1)),
        "</main></body></html>\n",
    ]
    return "\n".join(parts)


def _text(text: str) -> str:
    return escape(clean(text))


def _overview(found: dict[str, Any]) -> str:
    parts = ['<details><summary>All records in numbers</summary><div class="numbers">']
    for title, table in tables(found):
        parts.append(f"<section><h3>{_text(title)}</h3>{_table(table)}</section>")
    return "\n".join([*parts, "</div></details>"])


def _table(rows: Table) -> str:
    head, body = rows[0], rows[1:]
    parts = ['<div class="wide"><table>']
    if any(head):
        parts.append(_row(head, "th"))
    return "".join([*parts, *(_row(row, "td") for row in body), "</table></div>"])


def _row(cells: Iterable[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{_text(cell)}</{tag}>' for cell in cells)}</tr>"


def _article(number: int, look: Look) -> str:
    record = look.record
    meta = {
        "data set": record.meta.dataset,
        "scene": record.meta.scene,
        "split": record.meta.split,
        "question type": record.meta.question_type,
        "subset": record.meta.subset,
        "sampler": record.meta.sampler,
        **(record.meta.model_extra or {}),
    }
    where = " · ".join(f"{key} {value}" for key, value in meta.items() if value is not None)
    shown = f"{len(look.frames):,} of {look.views.frames:,} frames" if len(look.frames) < look.views.frames else ""
    parts = [
        f'<article id="r{number}"><h2><span class="task">{_text(record.task)}</span>{_text(record.id)}</h2>',
        f'<p class="faint">{_text(where)}</p>',
        *(f'<p class="note">{_text(note)}</p>' for note in look.notes),
        '<div class="frames two">' if len(look.frames) in (1, 2, 4) else '<div class="frames">',
        *(_figure(frame, look) for frame in look.frames),
        "</div>",
        f'<p class="faint">{_text(shown)}</p>' if shown else "",
        f"<h3>Prompt</h3><pre>{_text(record.prompt)}</pre>",
        f"<h3>Target</h3>{_target(look)}",
        "<h3>Answer, as taught</h3>",
        '<p class="faint">none: supervised training cannot use this record</p>'
        if look.answer is None
        else f"<pre>{_text(look.answer)}</pre>",
        *_said(look),
        "</article>",
    ]
    return "\n".join(part for part in parts if part)


def _figure(frame: Shown, look: Look) -> str:
    marked = frame.own and look.record.task == "grounding"
    words = f"frame {frame.number}, the target's" if marked else f"frame {frame.number}"
    if frame.boxes is None and len(look.views.boxes):
        words += "; its boxes are not known" if frame.picture is not None else ""
    elif len(look.views.boxes) and frame.picture is not None:
        words += f"; shows {len(frame.names)} of {len(look.views.boxes)} boxes"
    pixels = drawn(frame, PICTURE)
    if pixels is None:
        width, height = look.views.size or (4, 3)
        picture = f'<div class="none" style="aspect-ratio: {width} / {height}">no picture</div>'
    else:
        height, width = pixels.shape[:2]
        source = f"data:image/jpeg;base64,{_jpeg(pixels)}"
        picture = f'<img src="{source}" alt="{_text(words)}" width="{width}" height="{height}">'
    return f'<figure class="{"own" if marked else "other"}">{picture}<figcaption>{_text(words)}</figcaption></figure>'


def _jpeg(pixels: Pixels) -> str:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=QUALITY, subsampling=0)
    return base64.b64encode(data.getvalue()).decode("ascii")


def _target(look: Look) -> str:
    target = look.record.target
    if isinstance(target, ChoiceTarget):
        return _options(target)
    if isinstance(target, NumberTarget):
        return f'<p class="right">{target.value:.12g}</p>'
    if isinstance(target, TextTarget):
        return "".join(f"<pre>{_text(text)}</pre>" for text in target.references) or "<p>no references</p>"
    if target is None:
        return "<p>none</p>"
    return _boxes(look)


def _options(target: ChoiceTarget) -> str:
    letter = target.letter.upper()
    rows = []
    for known, option in zip(option_letters(target.options), target.options, strict=False):
        words = option if option.lstrip(" ([")[:1].upper() == known and len(option) > 1 else f"{known}. {option}"
        rows.append(f'<li class="right">✓ {_text(words)}</li>' if known == letter else f"<li>{_text(words)}</li>")
    return f'<ol class="options">{"".join(rows)}</ol>' if rows else f'<p class="right">{_text(letter)}</p>'


def _boxes(look: Look) -> str:
    if not len(look.views.boxes):
        return "<p>no boxes: there is nothing to find</p>"
    head = ("", "label", "centre x, y, z (m)", "size x, y, z (m)", "angles a, b, c (°)", "where")
    parts = [f'<div class="wide"><table>{_row(head, "th")}']
    for index, (label, box) in enumerate(look.views.boxes):
        colour = "#{:02x}{:02x}{:02x}".format(*label_colour(label))
        degrees = [float(value) * 57.29577951308232 for value in box[6:9]]
        bad = ' class="bad"' if look.sight.trouble(index) else ""
        parts.append(
            f"<tr><td>{index + 1}</td>"
            f'<td><span class="swatch" style="background: {colour}"></span>{_text(label)}</td>'
            f"<td>{_numbers(box[:3], 2)}</td><td>{_numbers(box[3:6], 2)}</td>"
            f"<td>{_numbers(degrees, 0)}</td><td{bad}>{_text(place_text(look, index))}</td></tr>"
        )
    own = f"in the camera of frame {look.views.own}: x right, y down, z ahead"
    return f'{"".join(parts)}</table></div><p class="faint">{own}</p>'


def _said(look: Look) -> list[str]:
    said = look.said
    if said is None:
        return []
    parts = ["<h3>A saved answer</h3>", f"<pre>{_text(said.text)}</pre>"]
    if said.why:
        parts.append(f'<p class="bad">{_text(said.why)}</p>')
    if said.value:
        parts.append(f"<p>{_text(said.value)}</p>")
    if len(said.views.boxes):
        rows: Table = [("", "label", "frame", "centre x, y, z (m)", "size x, y, z (m)", "best IoU")]
        for index, (label, box) in enumerate(said.views.boxes):
            overlap = said.overlaps[index]
            score = "not known" if overlap is None else f"{overlap:.3f}"
            numbers = (_numbers(box[:3], 2), _numbers(box[3:6], 2))
            rows.append((f"{index + 1}", label, f"{said.views.own}", *numbers, score))
        parts.append(_table(rows))
    return parts


def _numbers(values: Iterable[float], decimals: int) -> str:
    return ", ".join(_number(float(value), decimals) for value in values)


def _number(value: float, decimals: int) -> str:
    """A number of fixed decimals, without hundreds of digits and without a minus before zero.

    >>> _number(-0.001, 2), _number(1e9, 2)
    ('0.00', '1e+09')
    """
    return f"{round(value, decimals) + 0.0:.{decimals}f}" if abs(value) < 1e6 else f"{value:.3g}"
