from __future__ import annotations

import ast
import gc
import json
import math
import string
import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli.answers import (
    detection_answer,
    grounding_answer,
    option_letters,
    read_boxes,
    read_choice,
    read_grounding,
    read_number,
)
from rft3d_cli.answers.boxes import _boxes, _plain_boxes
from rft3d_cli.answers.literal import read_literal
from rft3d_cli.answers.scan import MAX_CHARS, answer_region, scan_objects

CHAIR = '{"label": "chair", "bbox_3d": [0.1, -0.2, 2.0, 0.5, 0.6, 0.9, 1.2, 0.0, -0.1]}'
BED = '{"label": "bed", "bbox_3d": [1, 2, 3, 2, 1.5, 0.5, 0, 0, 0]}'
PRETTY = json.dumps([json.loads(CHAIR), json.loads(BED)], indent=4)


def box(numbers: str, label: str = '"chair"') -> str:
    return f'[{{"label": {label}, "bbox_3d": [{numbers}]}}]'


NINE = "0, 0, 2, 1, 1, 1, 0, 0, 0"


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        pytest.param(f"[{CHAIR}, {BED}]", ["chair", "bed"], id="one line"),
        pytest.param(f"```json\n[\n\t{CHAIR},\n\t{BED}\n]```", ["chair", "bed"], id="fence as taught"),
        pytest.param(f"```\n[{CHAIR}]\n```", ["chair"], id="bare fence"),
        pytest.param(PRETTY, ["chair", "bed"], id="pretty printed"),
        pytest.param(f"Here they are: [{CHAIR}] I hope it helps.", ["chair"], id="prose around"),
        pytest.param(f'The 5" screen [see below] shows [{CHAIR}]', ["chair"], id="quotes and brackets in prose"),
        pytest.param(CHAIR, ["chair"], id="an object alone"),
        pytest.param(f"{CHAIR}\n{BED}", ["chair", "bed"], id="one object a line, no list"),
        pytest.param(f"[{CHAIR} {BED}]", ["chair", "bed"], id="comma missing between objects"),
        pytest.param(f"[{CHAIR}, {BED},]", ["chair", "bed"], id="trailing comma"),
        pytest.param(f'{{"objects": [{CHAIR}]}}', ["chair"], id="list inside an object"),
        pytest.param(CHAIR.replace('"', "'"), ["chair"], id="single quotes"),
        pytest.param(f"<think>[{BED}]</think>[{CHAIR}]", ["chair"], id="thinking is not the answer"),
        pytest.param(f"<think>a</think>{BED}<answer>[{CHAIR}]</answer>{BED}", ["chair"], id="answer tag"),
        pytest.param(f"<answer>[{BED}]</answer><answer>[{CHAIR}]</answer>", ["chair"], id="last answer tag"),
        pytest.param(f"<answer>[{CHAIR}]", ["chair"], id="answer tag that never closes"),
        pytest.param(box(NINE, '" office chair "'), ["office chair"], id="label is stripped"),
        pytest.param(box(NINE, '"caf\\u00e9 \\ud83d\\ude00"'), ["café 😀"], id="escapes"),
        pytest.param(box(NINE, '"a \\"b\\" {c}"'), ['a "b" {c}'], id="quotes and braces in a label"),
        pytest.param(box("+0, -.5, 2., 1e0, 1E+0, 10e-1, 0, 0, 0"), ["chair"], id="number spellings"),
        pytest.param(
            f'[{{"bbox_3d": [{NINE}], "label": "chair", "score": 0.9}}]', ["chair"], id="other keys and order"
        ),
        pytest.param(f'[{CHAIR}, {{"label": "lamp", "bbox_3d": [1, 2', ["chair"], id="cut inside a box"),
        pytest.param(f"[{CHAIR},", ["chair"], id="cut after a comma"),
        pytest.param(f'[{{"label": "bed}},\n{CHAIR}]', ["chair"], id="an open string ends with its line"),
        pytest.param("[" * 50 + CHAIR, ["chair"], id="under many brackets"),
    ],
)
def test_boxes_are_read_from_every_reasonable_shape(text: str, labels: list[str]) -> None:
    assert list(read_boxes(text).boxes.labels) == labels


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(box("0, 0, 2, 1, 1, 1, 0"), "7 values where a box has 9", id="7 numbers"),
        pytest.param(box(NINE + ", 1"), "10 values where a box has 9", id="10 numbers"),
        pytest.param(box("[0, 0, 2], [1, 1, 1], [0, 0, 0]"), "3 values where a box has 9", id="nested 3 by 3"),
        pytest.param(box(""), "0 values where a box has 9", id="no numbers"),
        pytest.param(box("NaN, 0, 2, 1, 1, 1, 0, 0, 0"), "'NaN' is not a number", id="NaN"),
        pytest.param(box("Infinity, 0, 2, 1, 1, 1, 0, 0, 0"), "'Infinity' is not a number", id="Infinity"),
        pytest.param(box("-inf, 0, 2, 1, 1, 1, 0, 0, 0"), "'-inf' is not a number", id="inf"),
        pytest.param(box("1e999, 0, 2, 1, 1, 1, 0, 0, 0"), "a number out of range", id="1e999"),
        pytest.param(box("0, 0, 2, 1e300, 1, 1, 0, 0, 0"), "a number out of range", id="absurd size"),
        pytest.param(box("null, 0, 2, 1, 1, 1, 0, 0, 0"), "bbox_3d holds something that is not a number", id="null"),
        pytest.param(box("true, 0, 2, 1, 1, 1, 0, 0, 0"), "bbox_3d holds something that is not a number", id="true"),
        pytest.param(box('"0", 0, 2, 1, 1, 1, 0, 0, 0'), "bbox_3d holds something that is not a number", id="string"),
        pytest.param(box("1+1, 0, 2, 1, 1, 1, 0, 0, 0"), "'1+1' is not a number", id="an expression"),
        pytest.param(box("1_0, 0, 2, 1, 1, 1, 0, 0, 0"), "'1_0' is not a number", id="underscore"),
        pytest.param(box("１, 0, 2, 1, 1, 1, 0, 0, 0"), "'１' is not a number", id="full-width digit"),
        pytest.param(box("٣, 0, 2, 1, 1, 1, 0, 0, 0"), "'٣' is not a number", id="Arabic digit"),
        pytest.param(box("0x1, 0, 2, 1, 1, 1, 0, 0, 0"), "'0x1' is not a number", id="hexadecimal"),
        pytest.param(box("9" * 70 + ", 0, 2, 1, 1, 1, 0, 0, 0"), "a number out of range", id="70 digits"),
        pytest.param(box("0 0 2 1 1 1 0 0 0"), "a comma is missing", id="no commas"),
        pytest.param(box("0,, 0, 2, 1, 1, 1, 0, 0, 0"), "a comma too many", id="two commas"),
        pytest.param(box("0, 0, 2, 0, 1, 1, 0, 0, 0"), "a size that is not positive", id="size 0"),
        pytest.param(box("0, 0, 2, 1, -1, 1, 0, 0, 0"), "a size that is not positive", id="negative size"),
        pytest.param(f'[{{"bbox_3d": [{NINE}]}}]', "no label", id="no label"),
        pytest.param('[{"label": "chair"}]', "no bbox_3d", id="no box"),
        pytest.param('[{"label": "chair", "bbox_3d": 5}]', "bbox_3d is not a list", id="box is a number"),
        pytest.param(box(NINE, '["chair"]'), "label is not a name", id="label is a list"),
        pytest.param(box(NINE, '"  "'), "label is not a name", id="label is blank"),
        pytest.param(box(NINE, '"' + "x" * 101 + '"'), "label is not a name", id="label is a novel"),
        pytest.param(box(NINE, '"\\ud800"'), "label is not a name", id="label is a lone surrogate"),
        pytest.param('[{"label": "chair", "bbox_3d": [0, 0, 2, 1}]', "a bracket is missing", id="bracket missing"),
        pytest.param('[{"label": "chair", "bbox_3d": [0, 0', "cut off", id="cut off"),
        pytest.param('[{"label": "cha', "cut off", id="cut off in the label"),
        pytest.param('[{"label" "chair", "bbox_3d": [0]}]', "a value without a key", id="colon missing"),
    ],
)
def test_an_unusable_box_is_dropped_and_says_why(text: str, reason: str) -> None:
    answer = read_boxes(text)
    assert len(answer.boxes) == 0
    assert answer.found
    assert not answer.complete
    assert [item.reason for item in answer.dropped] == [reason]
    assert answer.dropped[0].snippet
    answer.dropped[0].snippet.encode("utf-8")


def test_a_dropped_box_keeps_its_label_and_a_short_snippet() -> None:
    dropped = read_boxes('[{"label": "chair", "note": "' + "x" * 500 + '"}]').dropped[0]
    assert dropped.label == "chair"
    assert dropped.snippet.startswith('{"label": "chair"')
    assert len(dropped.snippet) <= 120


@pytest.mark.parametrize(
    ("text", "found", "truncated"),
    [
        pytest.param("[]", True, False, id="empty list"),
        pytest.param("```json\n[\n\t\n]```", True, False, id="empty list as taught"),
        pytest.param('{"objects": []}', True, False, id="empty list inside an object"),
        pytest.param("<answer>[]</answer>", True, False, id="empty list in a tag"),
        pytest.param("", False, False, id="no text"),
        pytest.param("There is nothing.", False, False, id="prose"),
        pytest.param("[", False, True, id="an opening bracket"),
        pytest.param("[1, 2]", False, False, id="a list of something else"),
        pytest.param("[[]]", False, False, id="a list in a list"),
        pytest.param("{}", False, False, id="an empty object"),
        pytest.param("<think>[]", False, False, id="thinking that never ends"),
        pytest.param("[]<think>hm</think>", False, False, id="nothing after the thinking"),
        pytest.param("<answer></answer>", False, False, id="empty answer tag"),
    ],
)
def test_an_explicit_empty_list_differs_from_nothing(text: str, found: bool, truncated: bool) -> None:
    answer = read_boxes(text)
    assert len(answer.boxes) == 0
    assert (answer.found, answer.truncated, answer.dropped) == (found, truncated, ())
    assert bool(answer.why) is not found


@pytest.mark.parametrize(
    ("stray", "count"),
    [
        pytest.param(f"[{NINE}]", 1, id="nine numbers"),
        pytest.param(f"[[{NINE}], [{NINE}]]", 2, id="a list of boxes"),
        pytest.param(f'{{"chair": [{NINE}]}}', 1, id="the label as the key"),
        pytest.param(f'{{\n"chair": [{NINE}],\n"bed": [{NINE}]}}', 2, id="labels as keys, printed prettily"),
        pytest.param("[1, 2, 3]", 0, id="three numbers"),
        pytest.param('{"note": "fine"}', 0, id="another object"),
    ],
)
def test_boxes_that_nobody_can_use_are_counted_wherever_they_stand(stray: str, count: int) -> None:
    for text in (f"[{CHAIR}]\n{stray}", f"{stray} [{CHAIR}]", f"[]{stray}"):
        answer = read_boxes(text)
        assert [item.reason for item in answer.dropped] == ["a box without a label"] * count, text
        assert answer.found


def test_a_cut_list_keeps_its_complete_part_and_is_marked() -> None:
    answer = read_boxes(f"[{CHAIR}, {BED}, {CHAIR[:40]}")
    assert answer.boxes.labels == ("chair", "bed")
    assert answer.truncated
    assert [item.reason for item in answer.dropped] == ["cut off"]


@pytest.mark.parametrize(
    ("stray", "reason"),
    [
        pytest.param('{"lable": "bed", "box": [1, 2]}', "no label", id="misspelt keys"),
        pytest.param("{}", "no label", id="empty object"),
        pytest.param('"bed"', "a list element is not an object", id="text"),
        pytest.param("5", "a list element is not an object", id="number"),
        pytest.param(f"[{NINE}]", "a list element is not an object", id="a box without an object"),
        pytest.param("oops", "a list element is not an object", id="a bare word"),
        pytest.param("{'label': 'bed' 'bbox_3d': [1]}", "a comma is missing", id="comma missing"),
    ],
)
def test_a_stray_list_element_is_reported(stray: str, reason: str) -> None:
    for text in (f"[{CHAIR}, {stray}]", f"[{stray}, {CHAIR}]", f"[{stray}, {CHAIR}"):
        answer = read_boxes(text)
        assert answer.boxes.labels == ("chair",)
        assert [item.reason for item in answer.dropped] == [reason]


def test_one_bad_box_does_not_take_its_neighbours_with_it() -> None:
    answer = read_boxes(f"[{CHAIR}, {{'label': 'x', 'bbox_3d': [1,,2}}, {BED}]")
    assert answer.boxes.labels == ("chair", "bed")
    assert len(answer.dropped) == 1


@pytest.mark.parametrize(
    ("text", "frame", "why"),
    [
        pytest.param(f'{{"frame": 3, "bbox_3d": [{NINE}]}}', 3, "", id="plain"),
        pytest.param(f'```json\n\t{{"frame": 0, "bbox_3d": [{NINE}]}}\n```', 0, "", id="as taught"),
        pytest.param(f'[{{"frame": 3, "bbox_3d": [{NINE}]}}],', 3, "", id="in a list"),
        pytest.param(f'{{\n "frame": 3.0,\n "bbox_3d": [\n{NINE}\n]\n}}', 3, "", id="pretty printed, 3.0"),
        pytest.param(f'{{"frame": 3, "bbox_3d": [{NINE}]}} ' * 2, 3, "", id="the same twice"),
        pytest.param(
            f'{{"frame": 3, "bbox_3d": [{NINE}]}} {{"frame": 4, "bbox_3d": [{NINE}]}}',
            None,
            "2 objects where one was asked for",
            id="two different",
        ),
        pytest.param(f'{{"bbox_3d": [{NINE}]}}', None, "no frame", id="no frame"),
        pytest.param('{"frame": 3}', None, "no bbox_3d", id="no box"),
        pytest.param(f'{{"frame": "3", "bbox_3d": [{NINE}]}}', None, "frame is not a whole number from 0", id="text"),
        pytest.param(f'{{"frame": 3.5, "bbox_3d": [{NINE}]}}', None, "frame is not a whole number from 0", id="3.5"),
        pytest.param(f'{{"frame": -1, "bbox_3d": [{NINE}]}}', None, "frame is not a whole number from 0", id="-1"),
        pytest.param(f'{{"frame": true, "bbox_3d": [{NINE}]}}', None, "frame is not a whole number from 0", id="true"),
        pytest.param(f'{{"frame": 1e999, "bbox_3d": [{NINE}]}}', None, "frame is not a whole number from 0", id="inf"),
        pytest.param('{"frame": 3, "bbox_3d": [1, 2]}', None, "2 values where a box has 9", id="two numbers"),
        pytest.param(f'{{"frame": 3, "bbox_3d": [{NINE}]', None, "cut off", id="cut off"),
        pytest.param("frame 3", None, "no object with frame and bbox_3d", id="prose"),
        pytest.param("", None, "no text", id="no text"),
    ],
)
def test_grounding_answers(text: str, frame: int | None, why: str) -> None:
    answer = read_grounding(text)
    assert (answer.frame, answer.why) == (frame, why)
    assert (answer.box is None) == (frame is None)
    if answer.box is not None:
        assert answer.box == (0, 0, 2, 1, 1, 1, 0, 0, 0)


OPTIONS = ("A. chair", "B. table", "C. left", "D. right")
labels = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20).filter(
    lambda s: s == s.strip() and s and "<" not in s  # a tag in a name is a tag
)
centres = st.floats(-20, 20)
sizes = st.floats(0.001, 8)
angles = st.floats(-math.pi, math.pi)
Items = list[tuple[str, tuple[float, ...]]]
boxes = st.tuples(*[centres] * 3, *[sizes] * 3, *[angles] * 3)


@given(st.lists(st.tuples(labels, boxes), max_size=12), st.sampled_from([None, 1, 2, 3, 6]))
@settings(max_examples=60, deadline=None)
def test_the_reader_reads_what_the_writer_wrote(
    items: list[tuple[str, tuple[float, ...]]], decimals: int | None
) -> None:
    names = [name for name, _ in items]
    text = detection_answer(names, [values for _, values in items], decimals)
    answer = read_boxes(text)
    assert answer.complete
    assert list(answer.boxes.labels) == names
    for got, (_, values) in zip(answer.boxes.boxes, items, strict=True):
        if decimals is None:
            assert tuple(got) == values
        else:
            smallest = 10.0**-decimals
            want = [
                max(round(v, decimals), smallest) if 3 <= i < 6 else round(v, decimals) for i, v in enumerate(values)
            ]
            assert got == pytest.approx(want, abs=1e-12)
            assert (got[3:6] >= smallest * (1 - 1e-9)).all()


@given(
    st.lists(st.tuples(st.sampled_from(["bed", "a {b}", "c, d]", "é", 'say "x"', "tick`"]), boxes), max_size=4),
    st.sampled_from(["{}", "```json{}```", " [{}]", "{} ", "so: {}", "{}{}"]),
    st.integers(0, 400),
    st.sampled_from(
        ["", "", "]", "[", ",", '"', "}", "NaN", "9" * 80, "1e999", "\n", "-", '{"label": "bed"},', "\\u0041"]
    ),
)
@settings(max_examples=200, deadline=None)
def test_the_usual_answer_is_read_in_one_step_and_to_the_same_effect(
    items: Items, frame: str, place: int, more: str
) -> None:
    names = [name for name, _ in items]
    clean = detection_answer(names, [values for _, values in items])
    assert (_plain_boxes(clean) is None) == any(mark in clean for mark in ("`b", "k`", "\\"))
    body = clean.removeprefix("```json\n").removesuffix("```")
    text = frame.format(*[body[:place] + more + body[place:]] * 2)
    quick = _plain_boxes(text)
    if quick is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rft3d_cli.answers.boxes._plain_boxes", lambda _: None)
            slow = _boxes.__wrapped__(answer_region(text))
        assert (quick.boxes, quick.found, quick.truncated) == (slow.boxes, slow.found, slow.truncated)
        assert not slow.dropped


@given(st.integers(0, 63), boxes)
@settings(max_examples=40, deadline=None)
def test_the_grounding_reader_reads_what_the_writer_wrote(frame: int, values: tuple[float, ...]) -> None:
    answer = read_grounding(grounding_answer(frame, values, None))
    assert (answer.frame, answer.box) == (frame, values)


def test_target_texts_to_the_byte() -> None:
    chair = [0.421, -0.0049, 2.185, 0.55, 0.93, 0.001, 1.2, -3.14159, 0]
    line = '{"label": "chair", "bbox_3d": [0.42, 0.0, 2.19, 0.55, 0.93, 0.01, 1.2, -3.14, 0.0]}'
    assert round(2.185, 2) == 2.19
    assert detection_answer(["chair"], [chair]) == f"```json\n[\n\t{line}\n]```"
    assert detection_answer(["chair", "chair"], [chair, chair]) == f"```json\n[\n\t{line},\n\t{line}\n]```"
    assert detection_answer([], np.zeros((0, 9))) == "```json\n[\n\t\n]```"
    assert grounding_answer(7, chair) == "```json\n\t" + line.replace('"label": "chair"', '"frame": 7') + "\n```"


def test_writers_refuse_what_they_cannot_write() -> None:
    with pytest.raises(ValueError, match="not finite"):
        detection_answer(["chair"], [[math.nan] * 9])
    with pytest.raises(ValueError, match="argument 2 is longer"):
        detection_answer(["chair"], np.ones((2, 9)))


@given(st.lists(st.tuples(labels, boxes), min_size=1, max_size=5), st.sampled_from([None, 0, 2]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_layout_does_not_matter(
    items: list[tuple[str, tuple[float, ...]]], indent: int | None, ascii_only: bool
) -> None:
    data = [{"label": name, "bbox_3d": list(values)} for name, values in items]
    answer = read_boxes(json.dumps(data, indent=indent, ensure_ascii=ascii_only))
    assert answer.complete
    assert list(answer.boxes.labels) == [name for name, _ in items]
    assert answer.boxes.boxes.tolist() == [list(values) for _, values in items]


@given(st.integers(0, 400))
@settings(max_examples=60, deadline=None)
def test_every_prefix_gives_a_prefix_of_the_boxes(length: int) -> None:
    text = detection_answer(["chair", "bed", "lamp"], np.arange(27).reshape(3, 9) + 1.0)
    full, part = read_boxes(text), read_boxes(text[:length])
    count = len(part.boxes)
    assert part.boxes.labels == full.boxes.labels[:count]
    assert (part.boxes.boxes == full.boxes.boxes[:count]).all()
    assert part.complete == (length >= len(text) - 3)


NASTY = [
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    '"',
    "'",
    "\\",
    '\\"',
    "[{",
    "},{",
    "[]",
    "\n",
    "<answer>",
    "<think>",
    "</think>",
]
NASTY += ["\\boxed{", "answer is ", "٣", '{"label":', CHAIR, "1", "-"]
pieces = st.sampled_from(
    [
        *(*NASTY, "\t", " ", "label", "bbox_3d", "frame", "-2.5", "1e999", "NaN", "null", "</answer>", "```json"),
        *("A", "B", "(", ")", "4 m", "two", "\ud800", "\x00", NINE, '{"label": "x", "bbox_3d": ['),
    ]
)
anything = st.one_of(st.text(max_size=200), st.lists(pieces, max_size=40).map("".join))


@pytest.mark.parametrize(
    ("options", "letters"),
    [
        pytest.param(["left", "right"], ["A", "B"], id="none marked"),
        pytest.param(["B. left", "C. right"], ["B", "C"], id="own letters"),
        pytest.param(["A. left", "B. right", "neither"], ["A", "B", "C"], id="one without"),
        pytest.param(["left", "A. right"], ["A", "B"], id="a mark that another has by position"),
        pytest.param(["A. left", "A. right"], ["A", "B"], id="the same mark twice"),
    ],
)
def test_every_option_has_a_letter_of_its_own(options: list[str], letters: list[str]) -> None:
    assert option_letters(options) == letters


@given(anything)
@settings(max_examples=300, deadline=None)
def test_no_text_makes_a_reader_raise_or_invent(text: str) -> None:
    answer = read_boxes(text)
    assert np.isfinite(answer.boxes.boxes).all()
    assert (answer.boxes.sizes > 0).all()
    json.dumps([list(answer.boxes.labels), [[d.reason, d.snippet, d.label] for d in answer.dropped]]).encode("utf-8")
    for label in answer.boxes.labels:
        label.encode("utf-8")
    grounding = read_grounding(text)
    assert (grounding.frame is None) == (grounding.box is None) == bool(grounding.why)
    choice = read_choice(text, OPTIONS)
    assert choice.letter in (None, "A", "B", "C", "D")
    number = read_number(text).value
    assert number is None or math.isfinite(number)
    assert number is None or any(c in string.digits for c in text) or any(c.isalpha() for c in text)


@pytest.mark.parametrize(
    "unit",
    [*NASTY, '{"label":"', '{"bbox_3d":[', "[1,", "<", "```", "9.", "A or ", "2 to ", "{\n", '{"\n', "] ", "[]```"],
    ids=repr,
)
def test_reading_time_is_linear_in_the_text(unit: str) -> None:
    def seconds(characters: int) -> float:
        best = math.inf
        for attempt in range(3):
            text = unit * (characters // len(unit)) + str(attempt)
            start = time.process_time()
            read_boxes(text)
            read_grounding(text)
            read_choice(text, OPTIONS)
            read_number(text)
            best = min(best, time.process_time() - start)
        return best

    gc.disable()  # its full collections cost by the size of the whole test process
    try:
        small, large = seconds(5_000), seconds(50_000)
    finally:
        gc.enable()
    assert large < 30 * max(small, 1e-3), f"{small:.4f} s and {large:.4f} s"


def test_a_megabyte_costs_no_more_than_the_part_that_is_read() -> None:
    def seconds(characters: int) -> float:
        start = time.process_time()
        read_boxes("[" * characters)
        return time.process_time() - start

    small, large = seconds(100_000), seconds(1_000_000)
    assert large < 10 * max(small, 0.02), f"{small:.3f} s and {large:.3f} s"
    assert read_boxes("[" * 1_000_000).truncated


def test_text_beyond_the_cap_is_not_read_and_marked() -> None:
    answer = read_boxes(" " * MAX_CHARS + f"[{CHAIR}]")
    assert len(answer.boxes) == 0
    assert answer.truncated
    far = "x" * (2 * MAX_CHARS) + f"<answer>[{CHAIR}]</answer>"
    assert read_boxes(far).boxes.labels == ("chair",)


@pytest.mark.parametrize(
    ("text", "answer", "truncated"),
    [
        pytest.param("A", "A", False, id="no tags"),
        pytest.param("<think>x</think>\nA", "\nA", False, id="after thinking"),
        pytest.param("x</think>A", "A", False, id="thinking opened in the prompt"),
        pytest.param("<think>a</think>b<think>c</think>d", "d", False, id="thinks twice"),
        pytest.param("<answer>a</answer><answer>b</answer>", "b", False, id="the last answer"),
        pytest.param("<answer>a</answer></answer>b", "a", False, id="closed twice"),
        pytest.param("</answer><answer>a", "a", True, id="a closing tag, then an open answer"),
        pytest.param("<answer>a</answer><answer>b", "a", False, id="the last complete answer"),
        pytest.param("<answer>a", "a", True, id="an open answer"),
        pytest.param("a</answer>b", "a", False, id="a closing tag alone"),
        pytest.param("<think><answer>a</answer>", "a", False, id="an answer in thinking that never ends"),
        pytest.param("<think>a", "", False, id="thinking that never ends"),
        pytest.param("b<think>a", "b", False, id="an answer, then thinking that never ends"),
        pytest.param("<answer>a</answer><think>b", "a", False, id="a tagged answer, then thinking"),
        pytest.param("<answer>a</think>b", "b", False, id="the end of thinking comes last"),
    ],
)
def test_where_the_answer_stands(text: str, answer: str, truncated: bool) -> None:
    region = answer_region(text)
    assert (region.text, region.truncated) == (answer, truncated)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        pytest.param(CHAIR, json.loads(CHAIR), id="JSON"),
        pytest.param("{'a': (1, 2), 'b': [None, True, -1.5]}", {"a": (1, 2), "b": [None, True, -1.5]}, id="Python"),
        pytest.param('{"a": [1, -2.5, 1e3], "b": "x", "c": 4}', {"a": [1, -2.5, 1e3], "b": "x", "c": 4}, id="plain"),
        pytest.param('{"a": [.5, +1], "b": 1.}', {"a": [0.5, 1], "b": 1.0}, id="plain but no JSON"),
        pytest.param('{"a": 1, "a": 2, }', {"a": 2}, id="repeated key, trailing comma"),
        pytest.param("{}", {}, id="empty"),
        pytest.param("[1, 2,]", [1, 2], id="trailing comma"),
        pytest.param("(1)", 1, id="parentheses"),
        pytest.param("(1,)", (1,), id="tuple of one"),
        pytest.param("'a'", "a", id="string"),
    ],
)
def test_the_line_reader_reads_literals(line: str, value: object) -> None:
    assert read_literal(line) == value


escapes = st.sampled_from(
    [r"\x41", r"\u00e9", r"\U0001F600", r"\101", r"\0", r"\n", r"\\", r"\'", r"\q", r"\v", r"\N{DIGIT ONE}", "é"]
)


@given(st.lists(escapes, max_size=6).map("".join), st.sampled_from(["'", '"']))
@settings(max_examples=60, deadline=None)
def test_the_line_reader_reads_strings_as_python_does(body: str, quote: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's own, of an escape that it does not know
        expected = ast.literal_eval(f"{quote}{body}{quote}")
    assert read_literal(f"{quote}{body}{quote}") == expected


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(r"'\x4'", id="an escape without its digits"),
        pytest.param(r"'\N{NO SUCH NAME}'", id="an escape of no name"),
        pytest.param("{'a':\u00a01}", id="a space that is none in Python"),
        pytest.param("'a\0'", id="a null character"),
        pytest.param(r"'\U99999999'", id="an escape of no character"),
        pytest.param("{'a': 1}, {'b': 2}", id="two dicts"),
        pytest.param("{'a': 1},", id="comma after"),
        pytest.param("{'a': NaN}", id="NaN"),
        pytest.param("{'a': null}", id="null"),
        pytest.param("{'a': true}", id="true"),
        pytest.param("{'a': 1 + 1}", id="arithmetic"),
        pytest.param("{'a': __import__('os').system('touch /tmp/x')}", id="a call"),
        pytest.param("{'a': [].__class__}", id="an attribute"),
        pytest.param("{'a': 007}", id="leading zero"),
        pytest.param('{"a": 007}', id="leading zero in a plain object"),
        pytest.param('{"a": 1-1}', id="arithmetic in a plain object"),
        pytest.param("{'a': 1", id="not closed"),
        pytest.param("{'a'}", id="set"),
        pytest.param("{[]: 1}", id="a key that cannot be one"),
        pytest.param("{,}", id="comma alone"),
        pytest.param("[1 2]", id="comma missing"),
        pytest.param('{"a": "b', id="string not closed"),
        pytest.param("[" * 200 + "]" * 200, id="deep"),
        pytest.param("[" + "1," * 10_000 + "]", id="long"),
        pytest.param("", id="nothing"),
    ],
)
def test_the_line_reader_refuses_everything_else(line: str) -> None:
    with pytest.raises(ValueError, match=" "):
        read_literal(line)


def test_objects_close_in_order_and_carry_their_place() -> None:
    text = 'x {"frame": 1} y {"other": 2} {"frame": {"frame": 3}}'
    scan = scan_objects(text, frozenset({"frame"}))
    assert [text[found.start : found.end] for found in scan.objects] == [
        '{"frame": 1}',
        '{"frame": 3}',
        '{"frame": {"frame": 3}}',
    ]
