"""Questions of people: what kind of answer each wants, in which unit, among which options, and how a model is asked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

from rft3d_cli import prompts
from rft3d_cli.errors import DataError, Rft3dError, UsageError

ASK = 'ask something: "where is the chair"'
NUMBERED = 26
"""Most options of a choice: there are as many letters."""

_FIND_ALL = re.compile(r"\b(every|all|each|detect|list)\b", re.IGNORECASE)
_ORDERS_ALL = re.compile(r"^\s*(?:please\s+)?(?:find|detect|list|show|locate|localize|mark|box)\b", re.IGNORECASE)
_FIND_ONE = re.compile(
    r"^\s*(?:please\s+)?(?:where(?:['’]s| is| are)|find|locate|localize|show me|point to)\s+(.*?)\s*[?.!]*\s*$",
    re.IGNORECASE | re.DOTALL,
)
_SCALE = "far|large|big|tall|wide|long|high|deep|small|thick"
_MEASURE = "size|distance|length|width|height|depth|area|diameter"
_COUNT = re.compile(
    r"\bhow many\b|\b(?:what is|what's|give|count) the (?:total )?(?:number|count) of\b"
    r"|^\s*(?:please\s+)?count\b|^\s*(?:the\s+)?number of\b",
    re.IGNORECASE,
)
_HOW = re.compile(rf"\bhow (?:{_SCALE})\b|\bhow much space\b", re.IGNORECASE)
_WHAT = re.compile(
    rf"\b(?:what(?:['’]s| is| are)|estimate|measure|give) the (?:[\w-]+ ){{0,2}}?(?:{_MEASURE})s?\b", re.IGNORECASE
)
_APART = re.compile(r"\bhow far\b|\bdistance\b|\bapart\b", re.IGNORECASE)
_FLOOR = re.compile(
    rf"\bareas?\b|\bhow (?:large|big|small) is (?:the|this|that|your) (?:\w+ )?(?:room|flat|apartment|space|floor)\b"
    rf"|\b(?:{_MEASURE}) of (?:the|this|that) (?:\w+ )?(?:room|flat|apartment|space|floor)\b",
    re.IGNORECASE,
)
_UNIT_WORDS = {
    "m2": r"square met(?:er|re)s?|sq\.? ?m|m2|m²|m\^2",
    "ft2": r"square feet|square foot|sq\.? ?ft|ft2|ft²",
    "cm": r"centimet(?:er|re)s?|cm",
    "mm": r"millimet(?:er|re)s?|mm",
    "ft": r"feet|foot|ft",
    "in": r"inch(?:es)?",
    "m": r"met(?:er|re)s?|m",
}
_UNITS = {unit: re.compile(rf"(?<![\w²])(?:{words})(?![\w²])", re.IGNORECASE) for unit, words in _UNIT_WORDS.items()}
_SPELLED = {"m": "meters", "cm": "centimeters", "m2": "square meters"}
_MARKER = re.compile(r"(?:(?<=\s)|(?<=^))\(?([A-Z])[.):]\s+(?=\S)")
_OPTIONS_WORD = re.compile(r"\s*\b(?:options|choices)\s*:?\s*$", re.IGNORECASE)

_ANYTHING = frozenset(["object", "thing", "everything", "item", "furniture", "piece", "box", "bounding", "3d"])
"""Words that name no class."""
_FILLER_WORDS = "every all each of the a an and or in on at to this that room video picture scene you see"
_FILLERS = frozenset(_FILLER_WORDS.split())


@dataclass(frozen=True)
class Question:
    """One question, understood.

    Args:
        text: As it was asked.
        task: ``detection``, ``grounding``, ``choice``, ``number`` or ``text``.
        options: Of a choice, with their letters: ``A. chair``.
        unit: In which a number is read: ``m``, ``cm``, ``m2``, ``ft`` …; None for counts and what has none.
        stem: The question as the model gets it: without its options, and with the unit where it named none.
    """

    text: str
    task: str
    options: tuple[str, ...] = ()
    unit: str | None = None
    stem: str = ""

    def prompt(self, frames: int) -> str:
        """What the model is asked about a clip of so many frames, in the words that it was trained on."""
        if self.task == "detection":
            return prompts.detection_prompt(frames)
        if self.task == "grounding":
            return prompts.grounding_prompt(described_object(self.text), frames)
        return prompts.vsibench_prompt(self.stem, self.options or None)


def understand(text: str, task: str = "auto", options: Sequence[str] = ()) -> Question:
    """Tell what a question wants.

    Args:
        text: The question.
        task: ``auto``, or the task that was asked for.
        options: Of a choice, where they do not stand in the question.

    Raises:
        UsageError: For a question that cannot be asked: empty, of no text, a choice without options.

    >>> understand("how far is the bed from the desk?").prompt(2).splitlines()[1]
    'how far is the bed from the desk (in meters)?'
    >>> understand("What is closer? A. bed B. desk").options
    ('A. bed', 'B. desk')
    """
    if not text.strip():
        raise UsageError("the question is empty", ASK)
    mark = next((mark for mark in (prompts.IMAGE, *prompts.FORBIDDEN) if mark in text), None)
    if mark is not None:
        raise UsageError(f"the question holds {mark}, which stands for a frame", "ask in plain words")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UsageError("the question is not UTF-8 text", "type it in a terminal that is set to UTF-8")
    stem, own = split_options(text)
    if own and options:
        raise UsageError(
            f"the question {_short(text)} has options, and --options gives others", "leave out one of them"
        )
    kind = task if task != "auto" else "choice" if own or options else guess_task(text)
    if kind != "choice":
        unit = asked_unit(text) if kind == "number" else None
        return Question(text, kind, (), unit, _with_unit(text, unit))
    chosen = own or lettered(options)
    if len(chosen) < 2:
        raise UsageError(
            f"the question {_short(text)} is a choice without options",
            'write them into the question ("… A. chair B. table"), or give --options "chair,table"',
        )
    return Question(text, kind, chosen, None, stem if own else text)


def understand_all(texts: Sequence[str], task: str, options: Sequence[str]) -> tuple[list[Question], list[Rft3dError]]:
    """Every question, and what is wrong with those that cannot be asked, each named by its place."""
    found: list[Question] = []
    problems: list[Rft3dError] = []
    for number, text in enumerate(texts, 1):
        try:
            found.append(understand(text, task, options))
        except UsageError as error:
            message = error.message
            if len(texts) > 1:
                message = message.replace("the question", f"question {number}", 1)
            problems.append(UsageError(message, error.hint))
    return found, problems


def read_questions(path: Path) -> list[str]:
    """The questions of a file, one a line; empty lines are passed over.

    Raises:
        DataError: Where the file cannot be read, is not UTF-8 text or holds no question.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text", "questions stand in a text file, one a line") from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}", "name a text file with one question a line"
        ) from None
    if not (found := [line.strip() for line in text.splitlines() if line.strip()]):
        raise DataError(f"{path} holds no question", "write one question a line")
    return found


def guess_task(question: str) -> str:
    """``detection``, ``grounding``, ``choice``, ``number`` or ``text``, from the words of a question.

    >>> [guess_task(text) for text in ("where is the chair", "find every chair", "how many chairs are there")]
    ['grounding', 'detection', 'number']
    >>> guess_task("Which is larger? A. bed B. desk"), guess_task("what is this room used for")
    ('choice', 'text')
    """
    if split_options(question)[1]:
        return "choice"
    if _ORDERS_ALL.match(question) and _FIND_ALL.search(question):
        return "detection"
    if _COUNT.search(question) or _HOW.search(question) or _WHAT.search(question):
        return "number"
    return "grounding" if _FIND_ONE.match(question) else "text"


def split_options(text: str) -> tuple[str, tuple[str, ...]]:
    """A question and the lettered options that stand at its end: two at least, from A on and in order.

    >>> split_options("Which one? (A) the red chair (B) the table")
    ('Which one?', ('A. the red chair', 'B. the table'))
    >>> split_options("Is vitamin A. good?")
    ('Is vitamin A. good?', ())
    """
    marks = list(_MARKER.finditer(text))
    for start in reversed([i for i, mark in enumerate(marks) if mark.group(1) == "A"]):
        run = marks[start:]
        if len(run) < 2 or [mark.group(1) for mark in run] != list(ascii_uppercase[: len(run)]):
            continue
        ends = [mark.start() for mark in run[1:]] + [len(text)]
        parts = [text[mark.end() : end].strip(" \t\n,;") for mark, end in zip(run, ends, strict=True)]
        stem = _OPTIONS_WORD.sub("", text[: run[0].start()]).strip()
        if stem and all(parts):
            return stem, tuple(f"{mark.group(1)}. {part}" for mark, part in zip(run, parts, strict=True))
    return text, ()


def option_list(text: str) -> tuple[str, ...]:
    """The options of ``--options``, between commas.

    Raises:
        UsageError: Where they are fewer than two, too many, or one is empty or there twice.

    >>> option_list("chair, table")
    ('chair', 'table')
    """
    parts = [part.strip() for part in text.split(",")]
    example = '--options "chair,table"'
    if not all(parts):
        raise UsageError(f"--options {text!r} has an empty option", example)
    if not 2 <= len(parts) <= NUMBERED:
        raise UsageError(f"--options holds {len(parts)} options; between 2 and {NUMBERED} can be asked", example)
    if len({part.casefold() for part in parts}) < len(parts):
        raise UsageError(f"--options {text!r} names an option twice", example)
    return tuple(parts)


def lettered(options: Sequence[str]) -> tuple[str, ...]:
    """Options with their letters; those that have them keep them.

    >>> lettered(["chair", "table"]), lettered(["A. chair", "B. table"])
    (('A. chair', 'B. table'), ('A. chair', 'B. table'))
    """
    if all(re.match(rf"\(?{letter}[.):]\s", option) for letter, option in zip(ascii_uppercase, options, strict=False)):
        return tuple(f"{option.lstrip('(')[0]}. {option.lstrip('(')[2:].strip()}" for option in options)
    return tuple(f"{letter}. {option}" for letter, option in zip(ascii_uppercase, options, strict=False))


def asked_unit(question: str) -> str | None:
    """The unit of a numeric question: the one it names, else VSI-Bench's for its kind; None for counts.

    >>> [asked_unit(text) for text in ("how far is it in feet", "how wide is the desk", "how large is this room")]
    ['ft', 'cm', 'm2']
    >>> asked_unit("how many chairs are there") is None
    True
    """
    named = next((unit for unit, words in _UNITS.items() if words.search(question)), None)
    if named is not None:
        return named
    if _COUNT.search(question) or not (_HOW.search(question) or _WHAT.search(question)):
        return None
    return "m" if _APART.search(question) else "m2" if _FLOOR.search(question) else "cm"


def _with_unit(question: str, unit: str | None) -> str:
    """A question that names its unit, as VSI-Bench's do."""
    if unit not in _SPELLED or any(words.search(question) for words in _UNITS.values()):
        return question
    kept = question.rstrip()
    body = kept.rstrip("?.! ")
    return f"{body} (in {_SPELLED[unit]}){kept[len(body) :].strip()}"


def described_object(question: str) -> str:
    """The description in a grounding question, as a sentence.

    >>> described_object("Where is the red chair?")
    'The red chair.'
    """
    found = _FIND_ONE.match(question)
    text = " ".join((found.group(1) if found else question).split()).rstrip("?.! ")
    return f"{text[:1].upper()}{text[1:]}."


def object_label(question: str) -> str:
    """What to call the box that answers a grounding question.

    >>> object_label("Where is the red chair?")
    'red chair'
    """
    return re.sub(r"^(the|an?)\s+", "", described_object(question).rstrip("."), flags=re.IGNORECASE)


def asked_classes(question: str) -> frozenset[str]:
    """The words of a question for all objects that may name a class, in the singular; empty where it wants any.

    >>> sorted(asked_classes("find every chair and all tables")), sorted(asked_classes("detect all objects"))
    (['chair', 'table'], [])
    """
    found = _FIND_ALL.search(question)
    words = re.findall(r"\w+", question[found.end() :].casefold() if found else "")
    kept = [singular(word) for word in words if word not in _FILLERS]
    return frozenset() if _ANYTHING.intersection(kept) else frozenset(kept)


def singular(word: str) -> str:
    """An English noun in the singular, as far as its ending tells.

    >>> [singular(word) for word in ("chairs", "benches", "shelves", "glass")]
    ['chair', 'bench', 'shelf', 'glass']
    """
    if word.endswith(("shes", "ches", "xes", "sses")):
        return word[:-2]
    if word.endswith("lves"):
        return f"{word[:-3]}f"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}…")
