"""A row's words taken apart: the question itself, its options as ``A. …``, and what its answer is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rft3d_cli.prepare.conversations import RowError, Shown, letter_of, number_of, shown_options
from rft3d_cli.prepare.qa.forms import Asked
from rft3d_cli.prepare.qa.kinds import NUMBERS, SAME, unit_of, vsibench_type
from rft3d_cli.prompts import FORBIDDEN, IMAGE, VSI_CHOICE, VSI_HEAD, VSI_NUMBER, thinking_prompt, vsibench_prompt
from rft3d_cli.rewards.reasoning import UNITS

VIDEO = "<video>"
_MARK = rf"(?:{IMAGE}|{VIDEO})"
_BEFORE = re.compile(rf"\A(?:{_MARK}[ \t]*\n?)+")
_AFTER = re.compile(rf"(?:\s*{_MARK})+\s*\Z")
_ONE = re.compile(rf"{_MARK}[ \t]*\n?")

_ASKS = (
    VSI_CHOICE,
    VSI_NUMBER,
    "Answer briefly and directly in one float number.",
    "Do not response anything other than a single number!",
)
"""How harnesses of VSI-Bench end a prompt: the one of these that a question ends with is no part of it."""
_HEADING = re.compile(r"\s*(?:Options|Choices)\s*:?\s*\Z", re.IGNORECASE)
_REQUEST = re.compile(r"\b(?:answer|options?|letters?|choices?|choose|select|respon[ds]e?|output)\b", re.IGNORECASE)
"""Words of a line after the options that asks for the form of the answer; any other line is part of the question."""
_OWN_MARK = re.compile(r"[(\[]?[A-Za-z][.):\]]\s*")
_LONE = re.compile(r"[(\[]?([A-Za-z])[)\].:]?")
_NOT_FINITE = re.compile(r"[-+]?(?:nan|inf(?:inity)?)", re.IGNORECASE)
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_REFERS = re.compile(
    r"\b[A-Z] (?:and|or|&) [A-Z]\b|\b(?:all|none|both|neither|either|any) of (?:the|these|them|above)\b|\bthe above\b"
    r"|\boptions? [A-Z]\b",
    re.IGNORECASE,
)
"""Options about other options: moving them would change what they say."""


@dataclass(frozen=True)
class Question:
    """A question whose answer is known.

    Args:
        task: ``choice``, ``number`` or ``text``.
        stored: The stored text, without the marks that stand at its ends.
        text: The question without its options and without what harnesses put around it.
        options: ``A. …`` in order; empty where the row shows none that could be found.
        apart: Whether ``text`` and ``options`` are all of it; else the options stand within ``text``.
        answer: The right letter, the number as stored, or the text.
        unit: Of a number, where the question names one.
        vsibench: VSI-Bench's name for this kind of question, where it means the same.
    """

    task: str
    stored: str
    text: str
    options: tuple[str, ...]
    apart: bool
    answer: str
    unit: str | None = None
    vsibench: str | None = None

    @property
    def can_move(self) -> bool:
        """Whether its options can change places."""
        words = [option.partition(". ")[2] for option in self.options]
        # A mark is the next image, wherever its option goes.
        about = any(not word or IMAGE in word or _LONE.fullmatch(word) or _REFERS.search(word) for word in words)
        return self.task == "choice" and self.apart and bool(words) and not about


def parse_question(asked: Asked) -> Question:
    """A row's question and what its answer is.

    Raises:
        RowError: Where question and answer do not belong together, or one of them is none.
    """
    stored = without_marks(asked)
    if found := next((token for token in FORBIDDEN if token in stored), None):
        raise RowError("wrong prompt", f"it holds {found}, which stands for pixels")
    body = _bare(stored)
    if not body:
        raise RowError("empty question")
    if not asked.answer.strip():
        raise RowError("no answer")
    if asked.options is not None:
        shown, apart = Shown(body, list(asked.options)), True
    else:
        shown = shown_options(body)
        apart = bool(shown.options) and (not shown.inline or shown.stem.rstrip()[-1:] in tuple("?.:!"))
    options = lettered(shown.options)
    if asked.kind == "text":
        return Question("text", stored, body, (), False, asked.answer)
    letter = _letter(asked.answer, options)
    if letter is not None:
        text, apart = (_stem(shown), apart) if apart else (body, False)
        if not text:
            raise RowError("empty question", "only options")
        words = [option.partition(". ")[2] for option in options]
        right = words[ord(letter) - ord("A")]
        if words.count(right) > 1 and IMAGE not in right:
            raise RowError("wrong options", f"{right[:60]!r} is right, and stands there twice")
        kind = vsibench_type(asked.type, text, options, "choice", asked.detail)
        return Question("choice", stored, text, tuple(options), apart, letter, vsibench=kind)
    lone = _LONE.fullmatch(asked.answer.strip())
    value = _number(asked.answer, asked.kind)
    if asked.kind == "choice" or (options and (lone or value is not None or _wants_letter(asked.type, stored))):
        reason = "answer is no option" if options else "no options"
        raise RowError(reason, f"{asked.answer.strip()[:60]!r} of {len(options)}")
    if value is not None:
        unit = unit_of(body)
        _check_unit(asked.type, unit)
        kind = vsibench_type(asked.type, body, None, "number", asked.detail)
        return Question("number", stored, body, (), True, value, unit, kind)
    if asked.kind == "number" or (asked.type or "").startswith("absolute_"):
        raise RowError("no plain number", asked.answer.strip()[:60], bad=False)
    if lone and lone.group(1).isupper():
        # Letters that name the images, as SenseNova-SI has them, are no list of options in the text.
        return Question("choice", stored, body, (), False, lone.group(1))
    return Question("text", stored, body, (), False, asked.answer)


def without_marks(asked: Asked) -> str:
    """The stored text without marks for media where frames come first anyway.

    Marks within a text about images stay, one an image; a video's one mark goes wherever it stands.

    Raises:
        RowError: Where marks and media differ in number.
    """
    marks = len(re.findall(_MARK, asked.text))
    if asked.clip:
        if marks > 1:
            raise RowError("wrong prompt", f"{marks} marks for one video")
        return _ONE.sub("", asked.text)
    if marks not in (0, 1, len(asked.media)):
        raise RowError("wrong prompt", f"{marks} {IMAGE} marks for {len(asked.media)} images")
    bare = _AFTER.sub("", _BEFORE.sub("", asked.text))
    if not re.search(_MARK, bare):
        return bare
    if marks == len(asked.media):
        return re.sub(_MARK, IMAGE, asked.text)
    return asked.text.replace(VIDEO, IMAGE).replace(IMAGE, IMAGE * len(asked.media))


def lettered(options: Sequence[str]) -> list[str]:
    """Options with a letter each, as VSI-Bench writes them.

    >>> lettered(["(A) bed", "(B) lamp"]), lettered(["bed", "I am a lamp"])
    (['A. bed', 'B. lamp'], ['A. bed', 'B. I am a lamp'])
    """
    marked = [_OWN_MARK.match(option) for option in options]
    own = [match.group(0).strip(" ()[].:").upper() if match else "" for match in marked]
    if own == [chr(ord("A") + i) for i in range(len(options))]:
        options = [option[match.end() :].strip() for option, match in zip(options, marked, strict=True) if match]
    return [f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(options)]


def moved(question: Question, place: int) -> Question:
    """The question with its right option at a place, the others in their order around it.

    Args:
        question: A choice whose options can move.
        place: From 0.

    >>> q = Question("choice", "", "Which?", ("A. bed", "B. lamp", "C. rug"), True, "A")
    >>> moved(q, 2).options, moved(q, 2).answer
    (('A. lamp', 'B. rug', 'C. bed'), 'C')
    """
    words = [option.partition(". ")[2] for option in question.options]
    words.insert(place, words.pop(ord(question.answer) - ord("A")))
    options = tuple(f"{chr(ord('A') + i)}. {word}" for i, word in enumerate(words))
    return replace(question, options=options, answer=chr(ord("A") + place))


def prompt_of(question: Question, style: str, answer_style: str, options: Sequence[str] | None) -> str:
    """The prompt of a record.

    Args:
        question: The question.
        style: ``vsibench`` for the benchmark's words around a choice or a number, ``stored`` for the row's own. Texts
            are always as stored.
        answer_style: ``think`` asks for a chain of thought before a letter or number.
        options: Those of a field of their own, which a stored prompt gets after its question.
    """
    choice = question.task == "choice"
    if question.task == "text" or style == "stored":
        prompt = question.stored if options is None else "\n".join((question.stored, "Options:", *question.options))
    elif choice and not question.apart:
        prompt = "\n".join((VSI_HEAD, question.text, VSI_CHOICE))
    else:
        prompt = vsibench_prompt(question.text, question.options if choice else None)
    if answer_style == "think" and question.task != "text":
        prompt = thinking_prompt(prompt, choice=choice)
    return prompt


def _bare(text: str) -> str:
    """A question without what harnesses of VSI-Bench put around it."""
    text = text.strip()
    if text.startswith(VSI_HEAD):
        text = text.removeprefix(VSI_HEAD).strip()
    for ask in _ASKS:
        if text.endswith(ask):
            return text.removesuffix(ask).strip()
    return text


def _stem(shown: Shown) -> str:
    stem = _HEADING.sub("", shown.stem).strip()
    rest = shown.rest.strip()
    return stem if not rest or _REQUEST.search(rest) else f"{stem}\n{rest}".strip()


def _letter(answer: str, options: Sequence[str]) -> str | None:
    """The letter of the option that an answer names by its letter, its words, or both."""
    if not options:
        return None
    bare = answer.strip()
    letter = letter_of(bare.upper() if len(bare) == 1 else bare, options)
    if letter is not None:
        return letter
    words = [option.partition(". ")[2].rstrip(".").casefold() for option in options]
    said = bare.rstrip(".").casefold()
    return chr(ord("A") + words.index(said)) if words.count(said) == 1 else None


def _number(answer: str, kind: str | None) -> str | None:
    """The number that is all of an answer, as it is written."""
    bare = answer.strip()
    if _NOT_FINITE.fullmatch(bare):
        raise RowError("number is not finite", bare)
    if kind == "number" and _GROUPED.fullmatch(bare):
        bare = bare.replace(",", "")
    return bare if number_of(bare) is not None else None


def _wants_letter(kind: str | None, stored: str) -> bool:
    """Whether a question with options asks for one of them, by its kind or its words."""
    return SAME.get(kind or "") not in (None, *NUMBERS) or stored.rstrip().endswith(VSI_CHOICE)


def _check_unit(own: str | None, unit: str | None) -> None:
    """Refuse a number under VSI-Bench's own name in another unit: rewards read that name as its unit."""
    if own in NUMBERS and unit is not None and own in UNITS and unit != UNITS[own]:
        raise RowError("another unit", f"{own} in {unit}, where VSI-Bench's is {UNITS[own]}", bad=False)
