from __future__ import annotations

import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from inspect_records import BOX, GREY, HEIGHT, WIDTH, grey_frames, record, source
from PIL import Image

from rft3d_cli.errors import DataError
from rft3d_cli.show import inspect_look, inspect_page
from rft3d_cli.show.draw import TARGET
from rft3d_cli.show.inspect import document, inspect, write_looks
from rft3d_cli.show.inspect_look import drawn
from rft3d_cli.show.inspect_sheet import MOST, hidden_text, prompt_text, sheet, target_text
from rft3d_cli.show.inspect_stats import statistics

VOID = {"meta", "img", "br"}
SMALL = 160
"""Width of the pages' pictures here, which keeps the tests quick."""


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (inspect_look, inspect_page):
        monkeypatch.setattr(module, "PICTURE", SMALL)


class Page(HTMLParser):
    """Tags with their attributes, the text of each element, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def shown(folder: Path, *records, predictions=None, count: int = 50, width: int = 400, out: str = "look"):
    """The page, the sheet and the looks of records in a folder."""
    found = source(folder, *records)
    looks = inspect(found, count=count, ids=(), predictions=predictions)
    files = write_looks(looks, found, statistics(list(records)), folder / out, width=width)
    assert [path.name for path in files] == ["sheet.png", "index.html"]
    text = files[1].read_text(encoding="utf-8")
    with Image.open(files[0]) as image:
        return Page(text), text, np.array(image), looks


TASKS = ("detection", "grounding", "choice", "number", "text")


# ---- The page


def test_there_is_a_section_a_record_with_all_that_it_says(tmp_path):
    records = [record(task, prompt=f"<image>Ask\n{task} & more?") for task in TASKS]
    page, _, _, _ = shown(grey_frames(tmp_path), *records)
    assert len(page.named("article")) == len(TASKS)
    assert len(page.named("img")) == 3 * len(TASKS)
    for task in TASKS:
        assert f"{task}{task}" in page.texts["h2"]
        assert f"<image>Ask\n{task} & more?" in page.texts["pre"]
    assert "✓ B. table" in page.texts["li"]
    assert "A. chair" in page.texts["li"]
    assert "2.5" in page.texts["p"]
    assert "A room." in page.texts["pre"]
    assert any('"bbox_3d": [0.1, 0.05, 3.0' in taught for taught in page.texts["pre"])
    for cell in ("chair", "0.10, 0.05, 3.00", "0.80, 0.50, 0.60", "29, -17, 11", "in frames 0–2"):
        assert cell in page.texts["td"]
    assert "data set greys · scene grey0 · split val" in page.texts["p"]


def test_the_page_loads_nothing_and_runs_nothing(tmp_path):
    page, text, _, _ = shown(grey_frames(tmp_path), *map(record, TASKS))
    allowed = {"html", "head", "meta", "title", "style", "body", "header", "main", "nav", "a", "h1", "h2", "h3", "p"}
    allowed |= {"details", "summary", "article", "section", "div", "figure", "img", "figcaption", "pre", "span"}
    allowed |= {"table", "tr", "th", "td", "ol", "li"}
    assert {tag for tag, _ in page.tags} <= allowed
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("srcset", "action", "background")]
        if "src" in attributes:
            assert (tag, attributes["src"][:23]) == ("img", "data:image/jpeg;base64,")
        if "href" in attributes:
            assert attributes["href"].startswith("#r")
    assert "url(" not in text
    assert "@import" not in text
    (policy,) = (m["content"] for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_links_lead_to_sections(tmp_path):
    page, _, _, _ = shown(grey_frames(tmp_path), *map(record, TASKS))
    targets = {attributes["id"] for attributes in page.named("article")}
    assert {attributes["href"].removeprefix("#") for attributes in page.named("a")} == targets


EVIL = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)> javascript:alert(1)',
    "'><svg/onload=alert(1)> </pre></article></style><b>bold</b>",
    "&lt;b&gt; &amp; &#60; -->]]><!--",
)


@pytest.mark.parametrize("evil", EVIL)
def test_text_of_records_and_answers_is_never_markup(tmp_path, evil):
    camera = record().camera.model_dump()
    evil_meta = dict.fromkeys(("dataset", "scene", "split", "question_type", "subset", "sampler", "other"), evil)
    evil_meta[evil] = evil
    records = [
        record(id=f"a{evil}", prompt=evil, answer=evil, meta=evil_meta, camera=camera,
               target={"boxes": [{"label": evil, "bbox_3d": BOX}]}),
        record("grounding", id=f"b{evil}", prompt=evil, meta={**evil_meta, "object_name": evil}),
        record("choice", id=f"c{evil}", target={"letter": "A", "options": [evil, f"B. {evil}"]}),
        record("text", id=f"d{evil}", target={"references": [evil, evil]}),
        record("number", id=f"e{evil}", video={"frames": [evil]}, camera=None),
    ]  # fmt: skip
    said = {item.id: evil for item in records}
    said[f"a{evil}"] = json.dumps([{"label": evil, "bbox_3d": BOX}])
    page, _, _, _ = shown(grey_frames(tmp_path), *records, predictions=said)
    plain, _, _, _ = shown(grey_frames(tmp_path), *map(record, TASKS), out="plain")
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags} | {"div"}
    assert {name for _, attributes in page.tags for name in attributes} <= {
        *("charset", "http-equiv", "content", "name", "lang", "class", "id", "href", "src", "alt", "width", "height"),
        "style",
    }
    assert evil in page.texts["pre"]
    assert evil in page.texts["td"]
    assert any(evil in heading for heading in page.texts["h2"])
    assert any(evil in line for line in page.texts["li"])


def test_control_characters_do_not_reach_the_page(tmp_path):
    evil = "a\x00b\x1b[31m\u202ec"
    asked = record(prompt=evil, answer=evil, target={"boxes": [{"label": evil, "bbox_3d": BOX}]})
    page, text, _, _ = shown(grey_frames(tmp_path), asked, predictions={asked.id: evil})
    assert not {"\x00", "\x1b", "\u202e"} & set(text)
    assert "a b [31m c" in page.texts["pre"]


def test_the_pictures_of_the_page_are_the_frames_with_their_boxes(tmp_path):
    page, _, _, (look,) = shown(grey_frames(tmp_path), record())
    for image, frame in zip(page.named("img"), look.frames, strict=True):
        data = base64.b64decode(image["src"].partition(",")[2])
        with Image.open(io.BytesIO(data)) as opened:
            pixels = np.array(opened)
        expected = drawn(frame, SMALL)
        assert pixels.shape == (SMALL * HEIGHT // WIDTH, SMALL, 3)
        assert (expected != GREY).any()
        assert np.abs(pixels.astype(int) - expected).mean() < 2
        assert (image["width"], image["height"]) == (str(SMALL), str(pixels.shape[0]))


def test_boxes_in_no_frame_are_said_at_the_top_and_in_the_table(tmp_path):
    boxes = [{"label": "chair", "bbox_3d": BOX}, {"label": "bed", "bbox_3d": [0, 0, -3, 1, 1, 1, 0, 0, 0]}]
    page, _, _, _ = shown(grey_frames(tmp_path), record(target={"boxes": boxes}))
    assert "1 of the 2 boxes shown lie in no frame." in page.texts["p"]
    assert "in no frame: behind every camera" in page.texts["td"]
    assert "frame 0; shows 1 of 2 boxes" in page.texts["figcaption"]


def test_a_record_that_cannot_be_taught_says_so(tmp_path):
    page, _, _, _ = shown(grey_frames(tmp_path), record("text", target=None))
    assert "none: supervised training cannot use this record" in page.texts["p"]


def test_an_answer_stands_beside_its_target_with_its_overlap(tmp_path):
    text = json.dumps([{"label": "chair", "bbox_3d": BOX}, {"label": "bed"}])
    page, _, _, looks = shown(grey_frames(tmp_path), record(), predictions={"detection": text})
    assert text in page.texts["pre"]
    assert "1.000" in page.texts["td"]
    assert "no bbox_3d" in page.texts["p"]
    assert document(looks)[0]["prediction"] == {
        "boxes": [{"label": "chair", "iou": pytest.approx(1)}],
        "value": None,
        "unreadable": "no bbox_3d",
    }


# ---- The sheet


def test_the_sheet_fits_its_width_and_shows_every_frame(tmp_path):
    for width in (640, 900, 3000):
        _, _, pixels, looks = shown(grey_frames(tmp_path), record(), record("grounding"), record("number"), width=width)
        assert pixels.shape[1] <= width
        # Grey frames are the only grey of that kind.
        assert (pixels == GREY).all(axis=2).sum() > 0.15 * pixels.shape[0] * min(pixels.shape[1], 1200)
    assert len(looks) == 3


@pytest.mark.parametrize("frames", [1, 2, 4, 9])
def test_the_narrowest_sheet_holds_any_number_of_frames(tmp_path, frames):
    names = [f"{number}.png" for number in range(frames)]
    grey_frames(tmp_path, frames, (32, 24))
    records = [record("number", id=name, video={"frames": names}, camera=None) for name in "abc"]
    assert shown(tmp_path, *records, width=640)[2].shape[1] <= 640


def test_the_target_s_frame_is_marked_on_the_sheet(tmp_path):
    without = shown(grey_frames(tmp_path), record("number"))[2]
    marked = shown(grey_frames(tmp_path), record("grounding"), out="two")[2]
    green = [(pixels == TARGET).all(axis=2).sum() for pixels in (without, marked)]
    tile = 2 * (120 + 90)
    assert green[1] > green[0] + 1.5 * tile


def test_a_sheet_of_many_records_keeps_to_a_number_that_can_be_looked_at(tmp_path):
    grey_frames(tmp_path, 1, (32, 24))
    records = [record("number", id=str(i), video={"frames": ["0.png"]}, camera=None) for i in range(MOST + 9)]
    found = source(tmp_path, *records)
    looks = inspect(found, count=len(records), ids=())
    few = sheet(looks[:MOST], "r", len(records), 1600)
    assert sheet(looks, "r", len(records), 1600).shape == few.shape
    text = (write_looks(looks, found, statistics(records), tmp_path / "look", width=1600)[1]).read_text()
    assert len(Page(text).named("article")) == MOST + 9


@pytest.mark.parametrize("text", ["", " ", "x" * 100_000, "größer 椅子 🪑", "\x00\x1b\n\n", "a – b"])
def test_any_text_fits_on_the_sheet(tmp_path, text):
    asked = record("text", id=f"i{text}"[:3000], prompt=f"{text}?", target={"references": [text]}, meta={"scene": text})
    pixels = shown(grey_frames(tmp_path), asked)[2]
    assert pixels.shape[1] <= 1600


def test_frames_of_any_shape_fit_on_the_sheet(tmp_path):
    for number, size in enumerate([(1, 1), (2, 300), (300, 2), (32, 24)]):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    names = [f"{number}.png" for number in range(4)]
    pixels = shown(tmp_path, record("number", video={"frames": names}, camera=None))[2]
    assert max(pixels.shape) < 4000


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("<image>\n<image>\nDetect.", "Detect."),
        ("Frame-0: <image>Frame-1: <image>\nWhere?\n", "Where?"),
        ("Look at <image> and <image>.", "Look at   and  ."),
        ("No marks", "No marks"),
    ],
)
def test_a_prompt_is_shown_without_the_marks_of_its_frames(prompt, words):
    assert prompt_text(prompt) == words


def test_targets_in_words(tmp_path):
    grey_frames(tmp_path)
    behind = [{"label": "chair", "bbox_3d": BOX}, {"label": "bed", "bbox_3d": [0, 0, -3, 1, 1, 1, 0, 0, 0]}]
    rows = [
        (record(target={"boxes": behind}), "target: 2 boxes: 1 chair, 2 bed"),
        (record(target={"boxes": []}), "target: no boxes"),
        (record("choice"), "target: B. table"),
        (record("choice", target={"letter": "b", "options": ["chair", "table"]}), "target: B. table"),
        (record("number"), "target: 2.5"),
        (record("text", target=None), "no target"),
    ]
    for asked, words in rows:
        (look,) = inspect(source(tmp_path, asked), count=1, ids=())
        assert target_text(look) == words
    (look,) = inspect(source(tmp_path, record("grounding")), count=1, ids=())
    assert target_text(look).startswith("target: frame 1, 0.10 m right, 0.05 m down, 3.00 m ahead; size ")
    assert target_text(look).endswith("in frames 0–2")
    assert hidden_text(look) == ""


def test_the_sheet_says_which_boxes_lie_in_no_frame_and_why(tmp_path):
    places = {"seen": BOX, "back": [0, 0, -3, *BOX[3:]], "side": [50, 0, 3, *BOX[3:]], "rear": [1, 0, -9, *BOX[3:]]}
    boxes = [{"label": label, "bbox_3d": box} for label, box in places.items()]
    (look,) = inspect(source(grey_frames(tmp_path), record(target={"boxes": boxes})), count=1, ids=())
    assert hidden_text(look) == "in no frame: 2 back, 4 rear (behind every camera); 3 side (outside every picture)"


# ---- What is missing, and what is repeated


def test_frames_that_cannot_be_read_are_grey_places_and_counted(tmp_path):
    (grey_frames(tmp_path) / "2.png").unlink()
    page, _, _, looks = shown(tmp_path, record())
    assert len(page.named("img")) == 2
    assert any("no picture" in text for text in page.texts["div"])
    assert any("1 of their frames could not be read" in text for text in page.texts["p"])
    assert any(text.endswith("2.png does not exist") for text in page.texts["p"])
    assert document(looks)[0]["missing"] == 1


def test_where_nothing_can_be_shown_nothing_is_written(tmp_path):
    with pytest.raises(DataError, match=r"nothing can be shown: .*0\.png does not exist") as raised:
        shown(tmp_path, record())
    assert "--media-root" in raised.value.hint
    assert not (tmp_path / "look").exists()


def test_the_same_records_give_the_same_bytes(tmp_path):
    records = [*map(record, TASKS)]
    grey_frames(tmp_path)
    for out in ("one", "two"):
        shown(tmp_path, *records, predictions={"detection": "[]", "number": "3"}, out=out)
    for name in ("sheet.png", "index.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
