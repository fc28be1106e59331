"""Rewards for the form of an answer: its structure, and its length."""

from __future__ import annotations

from rft3d_cli.answers import read_boxes, read_choice, read_grounding, read_number
from rft3d_cli.errors import UsageError
from rft3d_cli.records import ChoiceTarget, DetectionTarget, GroundingTarget, NumberTarget, Record
from rft3d_cli.rewards.reasoning import asked_unit
from rft3d_cli.rewards.registry import Score, reward

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@reward("format")
def format_reward(text: str, record: Record, *, answer_style: str = "think") -> Score | None:
    """1 where the answer has its task's structure and parses, else 0.

    Detection: a list that ends, every object of it with a label and nine finite numbers, sizes above zero.
    Grounding: one object with a frame and such a box. A think block may come first; it is not required, as in the
    3D-RFT paper, whose perception models were trained without chains of thought. Choice and number:
    ``<think>…</think><answer>…</answer>`` and nothing else, with an answer that reads.

    Args:
        text: The completion.
        record: Its record.
        answer_style: ``think``, or ``direct`` for prompts that ask for the answer of a choice or a number alone.

    Returns:
        The score, or None for free text.

    Raises:
        UsageError: On another ``answer_style``.

    >>> from rft3d_cli.examples import example_record
    >>> format_reward("B", example_record("choice")).why
    'no <think>'
    >>> format_reward("B", example_record("choice"), answer_style="direct").value
    1.0
    """
    if answer_style not in ("think", "direct"):
        raise UsageError(f"answer_style is {answer_style!r}", "it is think or direct")
    problem = _problem(text, record, answer_style)
    return None if problem is None else Score(float(not problem), {}, problem)


def _problem(text: str, record: Record, answer_style: str) -> str | None:
    """What is wrong with the form, empty where nothing is, None where the task has no form."""
    if isinstance(record.target, DetectionTarget):
        boxes = read_boxes(text)
        if not boxes.found:
            return boxes.why
        if boxes.dropped:
            return f"{len(boxes.dropped)} unusable: {boxes.dropped[0].reason}"
        return "the text is cut off" if boxes.truncated else ""
    if isinstance(record.target, GroundingTarget):
        grounding = read_grounding(text)
        return grounding.why or ("the text is cut off" if grounding.truncated else "")
    if isinstance(record.target, ChoiceTarget):
        return _style_problem(text, answer_style) or read_choice(text, record.target.options).why
    if isinstance(record.target, NumberTarget):
        return _style_problem(text, answer_style) or read_number(text, asked_unit(record)).why
    return None


def _style_problem(text: str, answer_style: str) -> str:
    return think_answer_problem(text) if answer_style == "think" else ""


def think_answer_problem(text: str) -> str:
    """What keeps a text from being ``<think>…</think><answer>…</answer>``, or nothing.

    >>> think_answer_problem("<think>one, two</think> <answer>2</answer>"), think_answer_problem("2")
    ('', 'no <think>')
    """
    body = text.strip()
    for tag in _TAGS:
        if (count := body.count(tag)) != 1:
            return f"{count} times {tag}" if count else f"no {tag}"
    places = [body.index(tag) for tag in _TAGS]
    if places != sorted(places):
        return "the tags are out of order"
    if places[0] or not body.endswith(_TAGS[3]) or body[places[1] + len(_TAGS[1]) : places[2]].strip():
        return "text outside the tags"
    return ""


@reward("length")
def length(text: str, record: Record, *, full: int = 2048, zero: int = 4096) -> Score | None:
    """1 for a readable answer of up to ``full`` characters, falling to 0 at ``zero`` (soft overlong penalty).

    An unreadable answer scores 0 however short it is: brevity alone is worth nothing.

    Args:
        text: The completion.
        record: Its record.
        full: Characters up to which it scores 1.
        zero: Characters from which it scores 0; linear between.

    Returns:
        The score, or None for free text.

    >>> from rft3d_cli.examples import example_record
    >>> length("B" + " " * 19, example_record("choice"), full=10, zero=30).value
    0.5
    """
    readable = _readable(text, record)
    if readable is None:
        return None
    span = max(zero - full, 1)
    value = min(max((zero - len(text)) / span, 0.0), 1.0) if readable else 0.0
    return Score(value, {"characters": float(len(text))}, "" if readable else "no readable answer")


def _readable(text: str, record: Record) -> bool | None:
    target = record.target
    if isinstance(target, DetectionTarget):
        boxes = read_boxes(text)
        return len(boxes.boxes) > 0 or (boxes.found and not boxes.dropped)
    if isinstance(target, GroundingTarget):
        return read_grounding(text).frame is not None
    if isinstance(target, ChoiceTarget):
        return read_choice(text, target.options).letter is not None
    if isinstance(target, NumberTarget):
        return read_number(text, asked_unit(record)).value is not None
    return None
