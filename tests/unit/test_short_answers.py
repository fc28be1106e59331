from __future__ import annotations

import pytest

from rft3d_cli.answers import read_choice, read_number

OPTIONS = ("A. chair", "B. table", "C. left", "D. right")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        pytest.param("A", "A", id="letter"),
        pytest.param("b", "B", id="lower case"),
        pytest.param(" A ", "A", id="spaces"),
        pytest.param("A.", "A", id="dot"),
        pytest.param("(A)", "A", id="parentheses"),
        pytest.param("A)", "A", id="one parenthesis"),
        pytest.param("[A]", "A", id="brackets"),
        pytest.param("**A**", "A", id="bold"),
        pytest.param("`A`", "A", id="code"),
        pytest.param("A: chair", "A", id="colon and text"),
        pytest.param("A. chair", "A", id="dot and text"),
        pytest.param("A chair", "A", id="letter and its own option"),
        pytest.param("A\nbecause", "A", id="newline"),
        pytest.param("table", "B", id="the option's text"),
        pytest.param("Table.", "B", id="the option's text, capital and dot"),
        pytest.param("Option C", "C", id="option"),
        pytest.param("The answer is (D).", "D", id="sentence"),
        pytest.param("The answer is d.", "D", id="sentence, lower case"),
        pytest.param("I think it's B", "B", id="last word"),
        pytest.param("I think (B) is right", "B", id="only letter in parentheses"),
        pytest.param("A is wrong. The answer is C", "C", id="a statement beats a mention"),
        pytest.param("<think>B?</think><answer>D</answer>", "D", id="tags"),
        pytest.param("<think>B?</think> D", "D", id="after thinking"),
        pytest.param("so $\\boxed{C}$", "C", id="boxed"),
        pytest.param('"B"', "B", id="quoted"),
        pytest.param("\u2018b\u2019", "B", id="quoted by curls"),
        pytest.param("C!", "C", id="exclaimed"),
        pytest.param("a.", "A", id="lower case and a dot"),
        pytest.param("b) table", "B", id="lower case, parenthesis and text"),
        pytest.param('{"answer": "B"}', "B", id="JSON"),
        pytest.param("{'answer':'B'}", "B", id="a Python dict"),
        pytest.param("Answer\uff1aB", "B", id="a full-width colon"),
        pytest.param("answer = C", "C", id="an equals sign"),
        pytest.param("the table", "B", id="the option's text with an article"),
        pytest.param("The left.", "C", id="the option's text with an article, capital and dot"),
        pytest.param("$\\text{B}$", "B", id="LaTeX text"),
        pytest.param("B\nA table is near", "B", id="a letter, then an article"),
        pytest.param("the table and the chair", None, id="two options' texts"),
        pytest.param("the answer's unclear", None, id="an answer with an apostrophe"),
        pytest.param("A or B", None, id="two letters"),
        pytest.param("A or maybe B", None, id="a letter and a maybe"),
        pytest.param("B, or maybe A", None, id="a letter, comma and a maybe"),
        pytest.param("A (or B)", None, id="a letter and one in parentheses"),
        pytest.param("A: chair\nB: table", None, id="options repeated"),
        pytest.param("B\nA", None, id="a letter a line"),
        pytest.param("(A), (B)", None, id="two in parentheses"),
        pytest.param("The answer is A. No, the answer is B.", None, id="two statements"),
        pytest.param("A table", None, id="an article and another option"),
        pytest.param("A chair is in front", None, id="an article"),
        pytest.param("not A", None, id="negated"),
        pytest.param("E", None, id="no such option"),
        pytest.param("Ａ", None, id="full-width letter"),
        pytest.param("maybe", None, id="prose"),
        pytest.param("", None, id="no text"),
        pytest.param("<think>A", None, id="thinking that never ends"),
        pytest.param("either A or B", None, id="either of two"),
        pytest.param("Neither A nor B", None, id="neither of two"),
        pytest.param("not (A)", None, id="a denial"),
        pytest.param("The answer is not (A), it is B", None, id="a denial, then another"),
        pytest.param("(A) (B)", None, id="two in parentheses"),
        pytest.param("A; B", None, id="two, semicolon"),
        pytest.param("A B C D", None, id="all of them"),
        pytest.param("A. chair or B. table", None, id="two options with their texts"),
        pytest.param("The answer is A and also (B)", None, id="one, and also another"),
        pytest.param("B. A chair stands there", "B", id="an article is no letter"),
        pytest.param("It is not a table: (A)", "A", id="a small article is not denied"),
    ],
)
def test_choice_answers(text: str, letter: str | None) -> None:
    answer = read_choice(text, OPTIONS)
    assert answer.letter == letter
    assert bool(answer.why) == (letter is None)


def test_a_person_is_no_letter_where_no_options_are_known() -> None:
    assert read_choice("I think B", ()).letter == "B"
    assert read_choice("I would say (C).", ()).letter == "C"


def test_options_without_letters_get_theirs_by_position() -> None:
    assert read_choice("back", ["front", "back"]).letter == "B"
    assert read_choice("C", ["front", "back"]).letter is None
    assert read_choice("C").letter == "C"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("4", 4, id="digits"),
        pytest.param("4 chairs", 4, id="noun"),
        pytest.param("There are 4.", 4, id="sentence"),
        pytest.param("about 4", 4, id="about"),
        pytest.param("-4", -4, id="negative"),
        pytest.param("4m", 4, id="unit"),
        pytest.param("20 m^2", 20, id="square metres"),
        pytest.param("20 m²", 20, id="square metres, superscript"),
        pytest.param(".5", 0.5, id="point first"),
        pytest.param("5.", 5, id="point last"),
        pytest.param("1e3", 1000, id="exponent"),
        pytest.param("35e-1", 3.5, id="negative exponent"),
        pytest.param("1,200", 1200, id="thousands"),
        pytest.param("1,234,567.5", 1234567.5, id="millions"),
        pytest.param("**4**", 4, id="bold"),
        pytest.param("four", 4, id="word"),
        pytest.param("Twenty-five", 25, id="two words"),
        pytest.param("twenty-one", 21, id="tens and ones"),
        pytest.param("one hundred", 100, id="a hundred"),
        pytest.param("one hundred and five", 105, id="a hundred and ones"),
        pytest.param("two hundred fifteen", 215, id="hundreds and teens"),
        pytest.param("three hundred and forty-two chairs", 342, id="hundreds, tens and ones"),
        pytest.param('{"answer": 4}', 4, id="JSON"),
        pytest.param("2 or 3? answer = 4", 4, id="an equals sign"),
        pytest.param("-4.50", -4.5, id="negative with decimals"),
        pytest.param("007", 7, id="zeros first"),
        pytest.param("3, yes 3", 3, id="the same twice"),
        pytest.param("2 m and 3 m: the answer is 5", 5, id="a statement beats a mention"),
        pytest.param("<think>3 or 4</think><answer>5</answer>", 5, id="tags"),
        pytest.param("\\boxed{7} since 3", 7, id="boxed"),
        pytest.param("\u22125", -5, id="a typographic minus"),
        pytest.param("2 million", None, id="millions in words"),
        pytest.param("two thousand", None, id="thousands in words"),
        pytest.param("one hundred and two hundred", None, id="two hundreds"),
        pytest.param("twenty fifteen", None, id="tens and teens"),
        pytest.param("five and six", None, id="two numbers joined by and"),
        pytest.param("2-3 is the answer for one", None, id="a range before a statement without a number"),
        pytest.param("2-3 chairs, so the answer is 2 or 3", None, id="a range in the statement"),
        pytest.param("two dozen", None, id="dozens"),
        pytest.param("1 and a half", None, id="and a half"),
        pytest.param("one and a half meters", None, id="and a half, in words"),
        pytest.param("three-quarters", None, id="quarters"),
        pytest.param("one third", None, id="a third"),
        pytest.param("minus two", None, id="minus in words"),
        pytest.param("2-3", None, id="range"),
        pytest.param("2 to 3", None, id="range in words"),
        pytest.param("2 – 3", None, id="range with a dash"),
        pytest.param("1/2", None, id="fraction"),
        pytest.param("1,5", None, id="decimal comma"),
        pytest.param("1.200,5", None, id="grouped by points"),
        pytest.param("1_200", None, id="underscore"),
        pytest.param("3.5.2", None, id="two points"),
        pytest.param("3 chairs, 2 tables", None, id="two numbers"),
        pytest.param("two or three", None, id="two words that differ"),
        pytest.param("the one by the door", None, id="a pronoun"),
        pytest.param("4th", None, id="ordinal"),
        pytest.param("3D", None, id="part of a word"),
        pytest.param("x4", None, id="suffix of a word"),
        pytest.param("0x10", None, id="hexadecimal"),
        pytest.param("--3", None, id="two signs"),
        pytest.param("1e999", None, id="1e999"),
        pytest.param("9" * 80, 1e80, id="80 digits"),
        pytest.param("**4** chairs", 4, id="bold"),
        pytest.param("2**3", None, id="a power"),
        pytest.param("10^2", None, id="a power with a hat"),
        pytest.param("2 + 2", None, id="a sum"),
        pytest.param("1 001", None, id="grouped by a space"),
        pytest.param("answer is 4 5", None, id="two numbers side by side"),
        pytest.param("the answer is between 4 and 5", None, id="between two"),
        pytest.param("two point two", None, id="a point in words"),
        pytest.param("2½", None, id="a fraction in one sign"),
        pytest.param("1٣", None, id="digits of two scripts"),
        pytest.param("minus 5", None, id="minus in words before a digit"),
        pytest.param("negative five", None, id="negative in words"),
        pytest.param("three hundredths", None, id="hundredths"),
        pytest.param("5 millions", None, id="millions"),
        pytest.param("2 dozens", None, id="dozens"),
        pytest.param("4 or six", None, id="a digit or a word"),
        pytest.param("it is 4 but maybe six", None, id="a digit, then a word"),
        pytest.param("four, that is 4", 4, id="the same in digits and words"),
        pytest.param("9" * 400, None, id="400 digits"),
        pytest.param("nan", None, id="nan"),
        pytest.param("inf", None, id="inf"),
        pytest.param("٤", None, id="Arabic digit"),
        pytest.param("４", None, id="full-width digit"),
        pytest.param("many", None, id="prose"),
        pytest.param("", None, id="no text"),
    ],
)
def test_number_answers(text: str, value: float | None) -> None:
    answer = read_number(text)
    assert answer.value == value
    assert bool(answer.why) == (value is None)


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("350 cm", "m", 3.5),
        ("3.5", "m", 3.5),
        ("3.5 metres", "m", 3.5),
        ("1.2 m", "cm", 120),
        ("45 mm", "cm", 4.5),
        ("10 square feet", "m2", 0.9290304),
        ("10 sq. feet", "m2", 0.9290304),
        ("10 sq ft", "m2", 0.9290304),
        ("12 sq m", "m2", 12),
        ("3 km", "m", 3000),
        ("3 yards", "m", 2.7432),
        ("12 in", "cm", 30.48),
        ("2 in the room", "m", 2),
        (r"\boxed{3.5 \text{ m}}", "cm", 350),
        ("12 m^2", "m2", 12),
        ("12 m^{2}", "m2", 12),
        ("$12\\text{ m}^{2}$", "m2", 12),
        ("350cm", "cm", 350),
        ("350cm", "m", 3.5),
        ("3500mm", "cm", 350),
        ("350 cm", None, 350),
        ("350 cm, that is 3.5 m", "m", 3.5),
    ],
)
def test_a_stated_unit_is_converted_to_the_one_that_was_asked_for(text: str, unit: str | None, value: float) -> None:
    assert read_number(text, unit).value == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("text", ["0", "7", "12.5", "0.001", "9" * 30, "1." + "3" * 40])
def test_a_number_alone_is_what_python_reads(text: str, sign: str) -> None:
    assert read_number(sign + text).value == float(sign + text)
    assert read_number(f"It is {sign}{text}!").value == float(sign + text)


def test_a_long_text_is_read_from_its_end_and_never_in_the_middle_of_a_number() -> None:
    assert read_number("word " * 5000 + "The answer is 12").value == 12
    assert read_number("1" * 5000).value is None
    assert read_number("7" * 4098 + " metres").value is None
    assert read_choice("word " * 5000 + "the answer is B", OPTIONS).letter == "B"
    # The cut falls beside a space: no word is cut there.
    assert read_number("a" * 100 + " 12345" + " b" * 2045).value == 12345
    assert read_choice("a" * 2000 + " " + "  (BAD) is (A)".ljust(4096), OPTIONS).letter == "A"
