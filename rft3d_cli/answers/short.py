"""Short answers in model text: an option's letter, a number.

Both readers take a plain answer, an answer with the usual decoration, and a sentence that states one answer. Where a
text states two, it states none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from string import ascii_uppercase

from rft3d_cli.answers.scan import Region, answer_region, read_float

_CACHED = 4096
_MAX_SHORT = 4096
"""Characters of a short answer that are read, from its end: that is where a long text states its answer."""

_TEXT = re.compile(r"\\(?:text|mathrm|mbox)\{([^{}]{0,50})\}")
_BOXED = re.compile(r"\\boxed\s?\{([^{}]{0,200})\}")
_MARKUP = re.compile(r"(?<![0-9*`$])[*`$]++|[*`$]++(?![0-9*`$])")
_POWER = re.compile(r"\^\s?\{\s?([23])\s?\}")
_SPACES = re.compile(r"[^\S\n]+")
_DECORATED = re.compile(r"[\\*`${\u2212]|[^\S\n]{2}|[^\S\n ]")
"""What :func:`_plain` takes away; most answers have none of it."""
_STATED = re.compile(
    r"\banswer\b[\"']?(?:\s(?:is|would be|should be)\b)?\s?[:=\uff1a]?\s?[\"']?", re.IGNORECASE | re.ASCII
)


@dataclass(frozen=True, slots=True)
class ChoiceAnswer:
    """The letter that a text chooses, upper case, or None and why."""

    letter: str | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class NumberAnswer:
    """The number that a text states, or None and why."""

    value: float | None = None
    why: str = ""


def read_choice(text: str, options: Sequence[str] = ()) -> ChoiceAnswer:
    """Read the letter of a multiple-choice answer.

    Args:
        text: Anything a model wrote. Never raises; takes time linear in the text.
        options: The options as they were shown, with or without their letters; they say which letters exist, and an
            answer may repeat one option's text instead of its letter. Without options any letter is one.

    Returns:
        The letter in upper case, or None and why.

    >>> read_choice("The answer is (B).", ["A. left", "B. right"]).letter
    'B'
    >>> read_choice("right", ["A. left", "B. right"]).letter
    'B'
    >>> read_choice("A or B", ["A. left", "B. right"]).why
    'names A and B'
    """
    return _choice(_short(answer_region(text)), tuple(options))


@lru_cache(maxsize=_CACHED)
def _choice(region: Region, options: tuple[str, ...]) -> ChoiceAnswer:
    text = _plain(region.text).strip(_QUOTES).rstrip("!?")
    if not text:
        return ChoiceAnswer(None, region.why or "no letter")
    texts = _option_texts(options)
    if text.upper() in texts:
        # A letter alone is a letter, even where another option's text is that letter.
        return ChoiceAnswer(text.upper())
    words = _THE.sub("", text)
    by_text = [letter for letter, option in texts.items() if option and (_same(text, option) or _same(words, option))]
    if len(by_text) == 1:
        return ChoiceAnswer(by_text[0])
    denied = set(_DENIED.findall(text))
    letters = sorted(set(_letters(text, texts)))
    if len(text.split()) <= _WORDY and not _STATED.search(text):
        # In a few words every letter is put forward.
        letters = sorted({*letters, *(letter for letter in _ALONE.findall(text) if letter in texts or not texts)})
    if not letters:
        return ChoiceAnswer(None, "no letter")
    if denied.issuperset(letters):
        return ChoiceAnswer(None, f"says not {letters[0]}")
    if len(letters) > 1:
        return ChoiceAnswer(None, "names " + " and ".join(letters[:4]))
    if texts and letters[0] not in texts:
        return ChoiceAnswer(None, f"{letters[0]} is not one of {', '.join(texts)}")
    return ChoiceAnswer(letters[0])


_THE = re.compile(r"\Athe\s", re.IGNORECASE | re.ASCII)
_QUOTES = "\"'“”‘’ "
_LEAD = re.compile(r"(?:(?:option|choice)\s)?[(\[]?([A-Za-z])(?:[)\].:,;\n]|$)", re.IGNORECASE | re.ASCII)
_LEAD_TEXT = re.compile(r"[(\[]?([A-Z])[)\].:]?\s(.*)", re.DOTALL)
_AFTER = re.compile(r"(?:[Oo]ption\s)?[(\[]?([A-Z](?![A-Za-z0-9]|'[A-Za-z])|[a-z](?=[)\].:]|$))")
_OTHER = re.compile(
    r"[)\]]?,?\s?\(?(?:or|and|/|,|;|&)\s?(?:also\s|maybe\s|perhaps\s|possibly\s)?(?:option\s)?[(\[]?([A-Z])"
    r"(?![A-Za-z0-9'])"
)
_LISTED = re.compile(r"\n\s*[(\[]?([A-Z])(?:[)\].:,;]|\s*(?:\n|$))")
"""A line that puts a letter forward: after another one, the text lists options and chooses none."""
_PARENTHESES = re.compile(r"\(([A-Z])\)")
_LAST_WORD = re.compile(r"\s[(\[]?([A-Z])[)\]]?\.?$")
_DENIED = re.compile(r"\b(?i:not|neither|nor|never|isn't|except)\s(?:[Oo]ption\s)?[(\[]?([A-Z])(?![A-Za-z0-9'])")
_ALONE = re.compile(r"(?<![A-Za-z0-9'])(?![AI]\s(?!(?:or|and|nor|but)\b)[a-z])([A-Z])(?![A-Za-z0-9'])")
"""A letter by itself; "A chair" has an article, "I think" a person."""


def _letters(text: str, texts: dict[str, str]) -> list[str]:
    """Every letter that the text puts forward as its answer, by the plainest way that it does."""
    stated: list[str] = []
    for statement in _STATED.finditer(text):
        if match := _AFTER.match(text, statement.end()):
            stated += [match.group(1).upper(), *_others(text, match.end(1))]
    if stated:
        return stated
    if match := _LEAD.match(text):
        return [match.group(1).upper(), *_others(text, match.end(1)), *_LISTED.findall(text, match.end(1))]
    if match := _LEAD_TEXT.match(text):
        # "A chair" may be an article and a noun: the letter counts where its own option follows, or another letter.
        letter, rest = match.groups()
        others = _others(text, match.end(1))
        if others or _same(rest, texts.get(letter, "")):
            return [letter, *others]
    return _PARENTHESES.findall(text) or _LAST_WORD.findall(text)


def _others(text: str, position: int) -> list[str]:
    """The letters of "A or B", "(A), (B) and C", from after the first."""
    out = []
    while match := _OTHER.match(text, position):
        out.append(match.group(1))
        position = match.end(1)
    return out


def option_letters(options: Sequence[str]) -> list[str]:
    """The letters that options have, as :func:`read_choice` reads them.

    Args:
        options: The options as they were shown; those without a letter get theirs by position. At most 26 are read.

    Returns:
        The letters in upper case, each once, in the order of the options.

    >>> option_letters(["B. left", "C. right"]), option_letters(["left", "right"])
    (['B', 'C'], ['A', 'B'])
    """
    return list(_option_texts(tuple(options)))


_MARK = re.compile(r"\s?[(\[]?([A-Za-z])[.):\]]\s?(.*)", re.DOTALL)


def _option_texts(options: tuple[str, ...]) -> dict[str, str]:
    """Letter → text. Options that carry letters keep them, unless two would have the same; others go by position."""
    options = options[:26]
    marked = [_MARK.match(option) for option in options]
    pairs = [
        (match.group(1).upper(), match.group(2)) if match else (letter, option)
        for letter, match, option in zip(ascii_uppercase, marked, options, strict=False)
    ]
    if len(dict(pairs)) < len(pairs):
        return dict(zip(ascii_uppercase, options, strict=False))
    return dict(pairs)


def _same(one: str, other: str) -> bool:
    return one.strip().rstrip(".").casefold() == other.strip().rstrip(".").casefold()


def _square(*names: str) -> list[str]:
    return [f"{square} {name}" for square in ("square", "sq", "sq.") for name in names]


_LENGTHS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "km": 1000.0, "ft": 0.3048, "in": 0.0254, "yd": 0.9144}
_AREAS = {"m2": 1.0, "cm2": 1e-4, "ft2": 0.09290304}
_SCALES = {
    unit: {other: size / own for other, size in sizes.items()}
    for sizes in (_LENGTHS, _AREAS)
    for unit, own in sizes.items()
}
_UNITS = {
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), "m"),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), "cm"),
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), "mm"),
    **dict.fromkeys(("km", "kilometer", "kilometers", "kilometre", "kilometres"), "km"),
    **dict.fromkeys(("ft", "foot", "feet"), "ft"),
    **dict.fromkeys(("yd", "yard", "yards"), "yd"),
    **dict.fromkeys(("inch", "inches"), "in"),
    **dict.fromkeys(("m2", "m^2", "m²", "sqm", *_square("m", "meter", "meters", "metre", "metres")), "m2"),
    **dict.fromkeys(("cm2", "cm^2", "cm²"), "cm2"),
    **dict.fromkeys(("ft2", "ft^2", "ft²", "sqft", *_square("ft", "foot", "feet")), "ft2"),
}
_UNIT = re.compile(
    r"[ -]?(" + "|".join(re.escape(name) for name in sorted(_UNITS, key=len, reverse=True)) + r")(?![A-Za-z0-9^²])",
    re.IGNORECASE,
)
_INCHES = re.compile(r"[ -]?in\.?$", re.IGNORECASE)
"""At the end of an answer; before more words it is the preposition."""
_MORE = re.compile(
    r"[ -]?(?:(?:and |& )?(?:a |one )?(?:hal(?:f|ves)|thirds?|quarters?|tenths?)"
    r"|(?:hundred|thousand|million|billion)(?:th)?s?|dozens?)\b",
    re.IGNORECASE,
)
"""Words that make another number of the one before them."""
_DIGITS = re.compile(r"[-+]?(?:[0-9]++(?:[.,_][0-9]++)*+|\.[0-9]++)(?:[eE][-+]?[0-9]++)?")
_ALONE_NUMBER = re.compile(r"-?[0-9]{1,300}(?:\.[0-9]{1,300})?")
_GROUPED = re.compile(r"[-+]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_RANGE = re.compile(r"\s?(?:-|–|—|~|to|or|/|x|×|\+|\*\*?|\^|÷)\s?(?=[0-9.])|\s(?=[0-9.])", re.IGNORECASE)
"""Between two numbers that are then no one number: a range, a sum, groups of digits."""
_BETWEEN = re.compile(r"\b(?:between|from)\s$", re.IGNORECASE)
_MINUS = re.compile(r"\b(?:minus|negative)\s$", re.IGNORECASE)
_SMALL_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: value for value, word in enumerate(_SMALL_WORDS.split())}
_TENS = {word: 10 * value for value, word in enumerate(_TENS_WORDS.split(), start=2)}
_WORDS_BEYOND = frozenset(
    {
        *("minus", "negative", "point", "half", "halve", "third", "quarter", "tenth", "hundredth", "thousandth"),
        *("thousand", "million", "billion", "dozen"),
    }
)
"""Words of numbers that are not read, and that change the one beside them."""
_POINTING = frozenset({"the", "this", "that", "no", "any", "each", "which"})
_WORDY = 8
"""Number words count in answers of at most this many words: "the one by the door" is no 1."""


def read_number(text: str, unit: str | None = None) -> NumberAnswer:
    """Read the number of a numeric answer.

    Digits are ASCII; thousands may be grouped by commas; a sentence may surround the number; number words count in
    short answers. Ranges, decimal commas and texts that state several numbers are refused.

    Args:
        text: Anything a model wrote. Never raises; takes time linear in the text.
        unit: The unit that the question asks for, ``m``, ``cm``, ``m2``, ``ft`` …: an answer that states another one is
            converted. None leaves the number as it is.

    Returns:
        The number, in ``unit`` where the answer states another one; or None and why.

    >>> read_number("about 1,200 chairs").value, read_number("four").value, read_number("2-3").why
    (1200.0, 4.0, 'a range')
    >>> read_number("350cm", unit="m").value
    3.5
    """
    return _number(_short(answer_region(text)), unit)


@dataclass(frozen=True, slots=True)
class _Quantity:
    value: float
    start: int
    end: int
    unit: str | None


@lru_cache(maxsize=_CACHED)
def _number(region: Region, unit: str | None) -> NumberAnswer:
    text = _plain(region.text)
    if not text:
        return NumberAnswer(None, region.why or "no number")
    if _ALONE_NUMBER.fullmatch(text) and math.isfinite(value := float(text)):
        return NumberAnswer(value)
    stated = [match.end() for match in _STATED.finditer(text)]
    found = _quantities(text)
    if isinstance(found, str) and stated and (after := _quantities(text[stated[-1] :])):
        # What was weighed before a statement does not blur it.
        text, stated, found = text[stated[-1] :], [0], after
    if isinstance(found, str):
        return NumberAnswer(None, found)
    if stated and (later := [quantity for quantity in found if quantity.start >= stated[-1]]):
        found = later[:1] if later[0].start - stated[-1] <= 20 else later
    if not found:
        return _number_words(text)
    values = {_in_unit(quantity, unit) for quantity in found}
    if not stated and (worded := _number_words(text).value) is not None:
        values.add(worded)
    if len(values) > 1:
        return NumberAnswer(None, f"{len(values)} different numbers")
    value = values.pop()
    return NumberAnswer(value) if math.isfinite(value) else NumberAnswer(None, "a number beyond all bounds")


def _quantities(text: str) -> list[_Quantity] | str:
    """The numbers of a text with their units, or why they cannot be told."""
    out: list[_Quantity] = []
    end = -1
    for match in _DIGITS.finditer(text):
        token, start = match.group(), match.start()
        before = text[start - 1 : start]
        if out and (token[0] in "+-" or text[end:start] in ("^", "**")) and not text[end:start].strip("^*"):
            return "a range"
        if before and (before in "_^.+-" or before.isalnum()) and start != end:
            continue
        if _BETWEEN.search(text, max(start - 10, 0), start) or (
            out and (joint := _RANGE.match(text, end)) and joint.end() == start
        ):
            return "a range"
        value = read_float(token.replace(",", "") if _GROUPED.fullmatch(token) else token)
        if value is None:
            return f"{token[:20]!r} is not one number"
        after = text[match.end() : match.end() + 1]
        if _MORE.match(text, match.end()) or _MINUS.search(text, max(start - 10, 0), start):
            return "a number that goes on in words"
        if after.isnumeric() and not after.isascii():
            return "a number that goes on in other digits"
        measure = _UNIT.match(text, match.end())
        inches = None if measure else _INCHES.match(text, match.end())
        end = measure.end() if measure else match.end()
        if not measure and not inches and text[end : end + 1].isalpha():
            continue
        kind = _UNITS[measure.group(1).lower()] if measure else "in" if inches else None
        out.append(_Quantity(value, start, end, kind))
    return out


def _in_unit(quantity: _Quantity, unit: str | None) -> float:
    scale = _SCALES.get(unit or "", {}).get(quantity.unit or "", 1.0)
    return quantity.value if scale == 1.0 else round(quantity.value * scale, 9)


_WORD = re.compile(r"[a-z]++")


def _number_words(text: str) -> NumberAnswer:
    words = _WORD.findall(text.lower())
    if len(words) > _WORDY:
        return NumberAnswer(None, "no number")
    if _WORDS_BEYOND.intersection([*words, *(word.removesuffix("s") for word in words)]):
        return NumberAnswer(None, "a number that goes on in words")
    values = _word_values(words)
    if len(set(values)) > 1:
        return NumberAnswer(None, f"{len(set(values))} different numbers")
    return NumberAnswer(float(values[0])) if values else NumberAnswer(None, "no number")


def _word_values(words: Sequence[str]) -> list[int]:
    """The numbers that words say: "two hundred and four" is one, "two or four" are two."""
    values: list[int] = []
    room = 0  # What the last one leaves open: below 10 after tens, below 100 after hundreds.
    for index, word in enumerate(words):
        number = _TENS.get(word)
        if number is None and not (index and words[index - 1] in _POINTING):
            number = _SMALL.get(word)
        if number is not None:
            if 0 < number < room:
                values[-1] += number
            else:
                values.append(number)
            room = 10 if word in _TENS else 0
        elif word == "hundred" and values:
            if values[-1] < 100:
                values[-1] *= 100
            else:
                values.append(100)
            room = 100
        elif not (word == "and" and room == 100):
            room = 0
    return values


def _short(region: Region) -> Region:
    """The end of a region from a whole word on, so that what is cached and searched is small."""
    text = region.text
    if len(text) > _MAX_SHORT:
        whole = text[-_MAX_SHORT - 1].isspace()
        text = text[-_MAX_SHORT:]
        text = text if whole else re.sub(r"^\S+", "", text)
    return Region(text, region.truncated, region.why)


def _plain(text: str) -> str:
    r"""The text without markup; the content of the last ``\boxed{…}`` where there is one."""
    if not _DECORATED.search(text):
        return text.strip()
    text = _POWER.sub(r"^\1", _TEXT.sub(r"\1", text).replace("\u2212", "-"))
    boxed = _BOXED.findall(text)
    plain = _MARKUP.sub("", boxed[-1] if boxed else text)
    return _SPACES.sub(" ", plain).strip()
