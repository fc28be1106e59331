from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli.benchmarks.captions import NGrams, bleu, bleu_counts, cider, rouge_l

# ---- The definitions of COCO's caption evaluation, from their description: slow, one text after the other.


def grams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def slow_cider(said: list[str], references: list[list[str]], sigma: float | None = 6.0) -> list[float]:
    frequency: Counter[tuple[str, ...]] = Counter()
    for texts in references:
        frequency.update({gram for text in texts for n in (1, 2, 3, 4) for gram in grams(text, n)})

    def weights(text: str, n: int) -> dict[tuple[str, ...], float]:
        found = grams(text, n)
        return {g: c * (math.log(len(references)) - math.log(max(1, frequency[g]))) for g, c in found.items()}

    out = []
    for text, theirs in zip(said, references, strict=True):
        total = 0.0
        for reference in theirs:
            for n in (1, 2, 3, 4):
                ours, right = weights(text, n), weights(reference, n)
                cut = {g: w if sigma is None else min(w, right.get(g, 0.0)) for g, w in ours.items()}
                dot = sum(w * right.get(g, 0.0) for g, w in cut.items())
                norm = math.hypot(*ours.values()) * math.hypot(*right.values())
                value = dot / norm if norm else 0.0
                if sigma is not None:
                    apart = sum(grams(text, 2).values()) - sum(grams(reference, 2).values())
                    value *= math.exp(-(apart**2) / (2 * sigma**2))
                total += value
        out.append(10 * total / 4 / len(theirs))
    return out


def slow_bleu(said: list[str], references: list[list[str]]) -> list[float]:
    right, made = [0] * 4, [0] * 4
    ours = theirs = 0
    for text, texts in zip(said, references, strict=True):
        for n in (1, 2, 3, 4):
            most: Counter[tuple[str, ...]] = Counter()
            for reference in texts:
                most |= grams(reference, n)
            right[n - 1] += sum((grams(text, n) & most).values())
            made[n - 1] += sum(grams(text, n).values())
        length = len(text.split())
        ours += length
        theirs += min((abs(len(t.split()) - length), len(t.split())) for t in texts)[1]
    ratio = (ours + 1e-15) / (theirs + 1e-9)
    out = []
    for n in (1, 2, 3, 4):
        value = math.prod((right[k] + 1e-15) / (made[k] + 1e-9) for k in range(n)) ** (1 / n)
        out.append(value * (math.exp(1 - 1 / ratio) if ratio < 1 else 1.0))
    return out


def longest_common(a: list[str], b: list[str]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def slow_rouge(text: str, references: list[str]) -> float:
    ours = text.split(" ")
    pairs = [(longest_common(ours, t.split(" ")), len(t.split(" "))) for t in references]
    precision, recall = max(c / len(ours) for c, _ in pairs), max(c / n for c, n in pairs)
    if not precision or not recall:
        return 0.0
    return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)


# ---- Texts


WORDS = ["sos", "eos", "a", "the", "red", "chair", "table", ".", ",", "été", "椅子", "x"]
texts = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
items = st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=4)), min_size=1, max_size=6)

ODD = [
    pytest.param("", ["a chair ."], id="nothing"),
    pytest.param("sos  eos", ["sos a chair eos"], id="nothing between marks"),
    pytest.param("a chair .", [""], id="an empty reference"),
    pytest.param("", [""], id="nothing of nothing"),
    pytest.param(". , . ,", ["a chair . , ."], id="only punctuation"),
    pytest.param("une chaise été 椅子 \u00a0 ñ", ["椅子 été", "ñ"], id="other scripts"),
    pytest.param("the " * 3000, ["the the cat", "the"], id="very long and repeated"),
    pytest.param("a  red   chair\tby\nit", ["a red chair by it", "a  red"], id="other white space"),
    pytest.param("<think>a</think><answer>a chair</answer>", ["a chair"], id="tags"),
    pytest.param("a b c", ["a b c", "a b c", "a b c"], id="one reference three times"),
    pytest.param("a b", ["a", "a b c"], id="two references as close"),
    pytest.param("word", ["word"], id="one word"),
]
OTHERS = [("it is a table .", ["this is a table .", "a brown table"]), ("a red chair", ["the red chair ."])]


def check(said: list[str], references: list[list[str]]) -> None:
    ngrams = NGrams(said, references)
    assert cider(ngrams) == pytest.approx(slow_cider(said, references), abs=1e-9)
    assert cider(ngrams, sigma=None) == pytest.approx(slow_cider(said, references, None), abs=1e-9)
    counts = bleu_counts(ngrams)
    assert bleu(counts.sum(axis=0)) == pytest.approx(slow_bleu(said, references), rel=1e-9, abs=1e-15)
    for index, (text, some) in enumerate(zip(said, references, strict=True)):
        assert bleu(counts[index]) == pytest.approx(slow_bleu([text], [some]), rel=1e-9, abs=1e-15)
    assert rouge_l(said, references) == pytest.approx([slow_rouge(t, r) for t, r in zip(said, references, strict=True)])


@pytest.mark.parametrize(("text", "references"), ODD)
def test_odd_texts_score_as_defined(text: str, references: list[str]) -> None:
    check([text, *(said for said, _ in OTHERS)], [references, *(right for _, right in OTHERS)])
    check([text], [references])


@settings(max_examples=40, deadline=None)
@given(items)
def test_any_texts_score_as_defined(cases: list[tuple[str, list[str]]]) -> None:
    check([said for said, _ in cases], [right for _, right in cases])


# ---- By hand


def test_bleu_by_hand() -> None:
    # 2 of 3 words and 1 of 2 pairs are right; the reference of 4 words makes the penalty exp(1 - 4/3).
    counts = bleu_counts(NGrams(["a red bed"], [["a red chair ."]]))
    assert counts.tolist() == [[2, 1, 0, 0, 3, 2, 1, 0, 3, 4]]
    short = math.exp(1 - 4 / 3)
    assert bleu(counts)[0, :2] == pytest.approx([short * 2 / 3, short * math.sqrt(2 / 3 * 1 / 2)])


def test_a_word_counts_no_more_often_than_in_one_reference() -> None:
    counts = bleu_counts(NGrams(["the the the the"], [["the cat the", "the"]]))
    assert counts[0, 0] == 2


def test_the_closest_reference_counts_and_of_two_the_shorter() -> None:
    assert bleu_counts(NGrams(["a b c d"], [["a b", "a b c", "a b c d e"]]))[0, -2:].tolist() == [4, 3]


def test_rouge_by_hand() -> None:
    # In common: "a chair", 2 of 3 words said, 2 of 4 wanted.
    p, r = 2 / 3, 2 / 4
    assert rouge_l(["a blue chair"], [["a red red chair"]])[0] == pytest.approx(2.44 * p * r / (r + 1.44 * p))


def test_rouge_takes_precision_and_recall_from_different_references() -> None:
    found = rouge_l(["a b c d"], [["a", "a b c d e f"]])[0]
    assert found == pytest.approx(2.44 * 1 * 1 / (1 + 1.44 * 1))


def test_cider_by_hand() -> None:
    # Of two items, "chair" is said of one and weighs log 2; "a" is said of both and weighs nothing.
    found = cider(NGrams(["chair", "a table"], [["a chair"], ["a table"]]))
    # Words: cosine 1; pairs and longer: none said. A text of one word has no pair, the reference one.
    assert found[0] == pytest.approx(10 / 4 * math.exp(-1 / 72))
    # "table" and "a table" are as wanted; nobody wants three words.
    assert found[1] == pytest.approx(10 / 4 * 2)


def test_repeating_a_rare_word_pays_in_the_first_cider_only() -> None:
    references = [["a red chair by the door"], ["a table"], ["the door"]]
    plain = ["a red chair by the door", "", ""]
    said = ["a red red red chair by the door", "", ""]
    cut, first = (cider(NGrams(said, references), sigma)[0] for sigma in (6.0, None))
    assert cut < first < cider(NGrams(plain, references), None)[0]


def test_a_set_of_one_scores_no_cider() -> None:
    assert cider(NGrams(["a chair"], [["a chair"]])).tolist() == [0.0]


# ---- Properties


@settings(max_examples=40, deadline=None)
@given(items)
def test_scores_are_in_range_and_the_same_in_any_order(cases: list[tuple[str, list[str]]]) -> None:
    said, references = [said for said, _ in cases], [right for _, right in cases]
    ngrams = NGrams(said, references)
    scores = np.column_stack([cider(ngrams), bleu(bleu_counts(ngrams))[:, 3], rouge_l(said, references)])
    assert (scores >= 0).all()
    assert (scores <= np.array([10, 1, 1]) * (1 + 1e-9)).all()
    back = NGrams(said[::-1], [texts[::-1] for texts in references[::-1]])
    assert cider(back)[::-1] == pytest.approx(scores[:, 0], abs=1e-9)
    assert bleu_counts(back)[::-1].tolist() == bleu_counts(ngrams).tolist()
    assert rouge_l(said[::-1], references[::-1])[::-1] == pytest.approx(scores[:, 2])


@settings(max_examples=40, deadline=None)
@given(items)
def test_a_reference_itself_is_the_best_answer(cases: list[tuple[str, list[str]]]) -> None:
    references = [right[:1] for _, right in cases]
    same = [right[0] for right in references]
    assert rouge_l(same, references) == pytest.approx(np.ones(len(same)))
    long = [i for i, text in enumerate(same) if len(text.split()) >= 4]
    counts = bleu_counts(NGrams(same, references))
    assert bleu(counts[long])[:, 3] == pytest.approx(np.ones(len(long)), abs=1e-6)
    said = cider(NGrams([text for text, _ in cases], references))
    assert (cider(NGrams(same, references)) >= said - 1e-9).all()


def test_several_candidates_share_an_items_references() -> None:
    said, references = ["a red chair", "a table .", "a chair"], [["a red chair ."], ["a table"]]
    ngrams = NGrams(said, references, [0, 1, 0])
    apart = [NGrams([said[i], said[1]], references) for i in (0, 2)]
    assert cider(ngrams)[[0, 2]] == pytest.approx([cider(one)[0] for one in apart])
    assert bleu_counts(ngrams)[[0, 2]].tolist() == [bleu_counts(one)[0].tolist() for one in apart]
    assert rouge_l(said, references, [0, 1, 0])[2] == rouge_l(["a chair"], references[:1])[0]


@pytest.mark.parametrize(
    ("said", "references", "items", "words"),
    [
        pytest.param(["a"], [[]], None, "item 0 has no references", id="no references"),
        pytest.param(["a", "b"], [["a"]], None, "each candidate needs an item", id="more texts than items"),
        pytest.param(["a"], [["a"], ["b"]], None, "1 candidates for 2 items", id="fewer texts than items"),
        pytest.param(["a"], [["a"]], [1], "each candidate needs an item", id="an item that is not there"),
        pytest.param(["a"], [["a"]], [0, 0], "each candidate needs an item", id="more items than texts"),
    ],
)
def test_what_cannot_be_compared_is_refused(said: list[str], references: Any, items: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NGrams(said, references, items)


def test_rouge_needs_references() -> None:
    with pytest.raises(ValueError, match="item 0 has no references"):
        rouge_l(["a"], [[]])


def test_nothing_at_all_gives_no_scores() -> None:
    ngrams = NGrams([], [])
    assert cider(ngrams).shape == (0,)
    assert bleu_counts(ngrams).shape == (0, 10)
    assert rouge_l([], []).shape == (0,)
