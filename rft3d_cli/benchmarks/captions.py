"""Metrics of captions: CIDEr, BLEU-1 to BLEU-4 and ROUGE-L, as COCO's caption evaluation defines them.

Texts come tokenised: tokens with spaces between. What COCO's code calls CIDEr is CIDEr-D: counts are clipped, and texts
of other lengths are penalised by a Gaussian of 6 tokens. METEOR is not here: it needs Java and its own data.

Everything is counted in arrays: ten thousand candidates of twenty words take about a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from rft3d_cli.benchmarks.result import ratio
from rft3d_cli.geometry.boxes import Floats

N = 4
"""Longest n-gram."""
SIGMA = 6.0
"""Standard deviation of CIDEr-D's penalty, in tokens."""
BETA = 1.2
"""How many times as much recall counts as precision, in ROUGE-L."""

_TINY, _SMALL = 1e-15, 1e-9

Ints = NDArray[np.int64]


class _Counts:
    """How often places have n-grams, as a table of sorted keys; a place is a sentence, a candidate or an item.

    Args:
        keys: ``(E,)`` each place times :attr:`size` plus the n-gram, ascending, none twice.
        counts: ``(E,)``.
        size: More than the largest n-gram.
    """

    def __init__(self, keys: Ints, counts: Ints, size: int) -> None:
        self.keys, self.counts, self.size = keys, counts, size
        self.place, self.gram = np.divmod(keys, size)

    def of(self, place: Ints, gram: Ints) -> Ints:
        """How often places have n-grams, 0 where they do not; the two have the same shape."""
        if not len(self.keys):
            return np.zeros(len(place), dtype=np.int64)
        wanted = place * self.size + gram
        found = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[found] == wanted, self.counts[found], 0)


@dataclass(frozen=True)
class _Order:
    """The n-grams of one length.

    Args:
        references: By reference.
        candidates: By candidate.
        items: By item: how often the one of its references that has it most has it.
        frequency: In how many items each n-gram is.
    """

    references: _Counts
    candidates: _Counts
    items: _Counts
    frequency: Ints


class NGrams:
    """N-grams of candidates and of the references that each is compared with.

    Args:
        candidates: ``M`` texts.
        references: The reference texts of each of ``N`` items, at least one each.
        items: ``(M,)`` the item of each candidate; by default one candidate an item, in order. Document frequencies are
            those of the references, whatever the candidates.

    Raises:
        ValueError: Where an item has no references, or a candidate has no item.

    >>> NGrams(["a red chair"], [["a chair", "a red chair ."]]).references.tolist()
    [0, 1]
    """

    def __init__(
        self, candidates: Sequence[str], references: Sequence[Sequence[str]], items: Sequence[int] | None = None
    ) -> None:
        per_item = np.array([len(texts) for texts in references], dtype=np.int64)
        self.items = np.arange(len(candidates)) if items is None else np.asarray(items, dtype=np.int64)
        if not per_item.all():
            raise ValueError(f"item {int(per_item.argmin())} has no references")
        if len(self.items) != len(candidates) or not np.isin(self.items, np.arange(len(per_item))).all():
            raise ValueError("each candidate needs an item")
        if items is None and len(candidates) != len(references):
            raise ValueError(f"{len(candidates)} candidates for {len(references)} items")
        self.documents = len(per_item)
        self.owner = np.repeat(np.arange(len(per_item)), per_item)
        """The item of each reference."""
        self.first = len(self.owner)
        """Sentences are the references, then from here on the candidates."""
        texts = [text.split() for some in references for text in some] + [text.split() for text in candidates]
        self.lengths = np.array([len(words) for words in texts], dtype=np.int64)
        spoken = list(chain.from_iterable(texts))
        known = {word: number for number, word in enumerate(dict.fromkeys(spoken))}
        self._tokens = np.fromiter(map(known.__getitem__, spoken), dtype=np.int64, count=len(spoken))
        self._words = len(known)
        # Pairs of a candidate and one of its references, candidate by candidate.
        self.pairs = per_item[self.items]
        self.candidate = np.repeat(np.arange(len(candidates)), self.pairs)
        self.references = _ranges((np.cumsum(per_item) - per_item)[self.items], self.pairs)

    @cached_property
    def orders(self) -> list[_Order]:
        """The n-grams of one, two … words."""
        return list(self._orders())

    def _orders(self) -> Iterator[_Order]:
        sentence = np.repeat(np.arange(len(self.lengths)), self.lengths)
        left = np.repeat(np.cumsum(self.lengths), self.lengths) - np.arange(len(sentence))
        size, names, starts = max(self._words, 1), self._tokens, np.arange(len(sentence))
        for n in range(1, N + 1):
            if n > 1:
                # An n-gram is the one that is a word shorter, and the word after it.
                kept = left[starts] >= n
                starts = starts[kept]
                found, names = np.unique(names[kept] * self._words + self._tokens[starts + n - 1], return_inverse=True)
                size = max(len(found), 1)
            keys = np.sort(sentence[starts] * size + names, kind="stable")
            begins = _begins(keys)
            counts = np.diff(begins, append=len(keys))
            keys = keys[begins]
            split = int(np.searchsorted(keys, self.first * size))
            theirs = _Counts(keys[:split], counts[:split], size)
            items = self._by_item(theirs)
            yield _Order(
                theirs,
                _Counts(keys[split:] - self.first * size, counts[split:], size),
                items,
                np.bincount(items.gram, minlength=size),
            )

    def _by_item(self, references: _Counts) -> _Counts:
        keys = self.owner[references.place] * references.size + references.gram
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        begins = _begins(keys)
        most = np.maximum.reduceat(references.counts[order], begins) if len(begins) else begins
        return _Counts(keys[begins], most, references.size)


def cider(ngrams: NGrams, sigma: float | None = SIGMA) -> Floats:
    """CIDEr-D of each candidate, 0 to 10, as COCO's code computes what it calls CIDEr.

    The weight of an n-gram is how often a text has it, times the logarithm of how many items there are by how many of
    them have it among their references (1 where none has). A candidate's score is the cosine with a reference, its
    weights cut down to the reference's, times the penalty for another length; the mean over references and over n = 1
    to 4; times 10. A set of one item scores 0, for all its n-grams are common.

    Args:
        ngrams: Of candidates and references.
        sigma: Of the penalty; None for the first CIDEr, without penalty and without cutting.

    Returns:
        ``(M,)``.

    Source: Vedantam, Zitnick, Parikh, CIDEr, 2015; COCO's length is the number of a text's bigrams.

    >>> said = ["a red chair .", "a blue bed ."]
    >>> cider(NGrams(said, [["a red chair ."], ["a round table ."]])).round(3).tolist()
    [10.0, 0.0]
    """
    total = np.zeros(len(ngrams.items))
    apart = np.maximum(ngrams.lengths - 1, 0)[ngrams.candidate + ngrams.first]
    apart = apart - np.maximum(ngrams.lengths - 1, 0)[ngrams.references]
    penalty = 1.0 if sigma is None else np.exp(-(apart**2) / (2 * sigma**2))
    for order in ngrams.orders:
        idf = np.log(max(ngrams.documents, 1)) - np.log(np.maximum(order.frequency, 1))
        ours, theirs = order.candidates, order.references
        # Each reference's n-grams once for each candidate that is compared with it.
        begins = np.searchsorted(theirs.place, np.arange(ngrams.first + 1))
        many = np.diff(begins)[ngrams.references]
        entries = _ranges(begins[:-1][ngrams.references], many)
        pair = np.repeat(np.arange(len(many)), many)
        gram, count = theirs.gram[entries], theirs.counts[entries]
        said = ours.of(ngrams.candidate[pair], gram)
        shared = count * (said if sigma is None else np.minimum(said, count)) * idf[gram] ** 2
        norms = _norms(theirs, idf, ngrams.first)[ngrams.references]
        norms = norms * _norms(ours, idf, len(total))[ngrams.candidate]
        dot = np.bincount(pair, shared, minlength=len(many)).astype(np.float64)
        cosine = ratio(dot, norms, empty=0.0)
        total += np.bincount(ngrams.candidate, cosine * penalty, minlength=len(total))
    return 10 * total / N / np.maximum(ngrams.pairs, 1)


def _norms(counts: _Counts, idf: Floats, places: int) -> Floats:
    return np.sqrt(np.bincount(counts.place, (counts.counts * idf[counts.gram]) ** 2, minlength=places))


def bleu_counts(ngrams: NGrams) -> Floats:
    """What BLEU is computed from, which may be summed over candidates.

    Returns:
        ``(M, 10)``: right n-grams of one to four words, n-grams in all likewise, length, and the length of the
        reference whose length is closest, the shorter of two.

    >>> bleu_counts(NGrams(["a red red chair"], [["a red chair", "it is a chair over there"]])).astype(int).tolist()
    [[3, 2, 0, 0, 4, 3, 2, 1, 4, 3]]
    """
    out = np.zeros((len(ngrams.items), 2 * N + 2))
    lengths = ngrams.lengths[ngrams.first :]
    for n, order in enumerate(ngrams.orders):
        ours = order.candidates
        allowed = order.items.of(ngrams.items[ours.place], ours.gram)
        out[:, n] = np.bincount(ours.place, np.minimum(ours.counts, allowed), minlength=len(out))
        out[:, N + n] = np.maximum(lengths - n, 0)
    out[:, -2] = lengths
    if len(out):
        theirs, big = ngrams.lengths[ngrams.references], int(ngrams.lengths.max()) + 1
        distance = np.abs(theirs - lengths[ngrams.candidate]) * big + theirs
        out[:, -1] = np.minimum.reduceat(distance, np.cumsum(ngrams.pairs) - ngrams.pairs) % big
    return out


def bleu(counts: Floats) -> Floats:
    """BLEU-1 to BLEU-4 from counts, with the constants by which COCO's code avoids dividing by 0.

    Args:
        counts: ``(…, 10)`` from :func:`bleu_counts`: of a candidate, or summed over a set.

    Returns:
        ``(…, 4)``, 0 to 1.

    Source: Papineni et al., BLEU, 2002.

    Three words of a reference of three, and then of six. Nothing of nothing is not quite nothing:

    >>> bleu(np.array([3, 2, 1, 0, 3, 2, 1, 0, 3, 3.0])).round(3).tolist()
    [1.0, 1.0, 1.0, 0.032]
    >>> bleu(np.array([3, 2, 1, 0, 3, 2, 1, 0, 3, 6.0])).round(3).tolist()
    [0.368, 0.368, 0.368, 0.012]
    """
    precisions = (counts[..., :N] + _TINY) / (counts[..., N : 2 * N] + _SMALL)
    means: Floats = np.cumprod(precisions, axis=-1) ** (1 / np.arange(1, N + 1))
    length = np.minimum((counts[..., -2] + _TINY) / (counts[..., -1] + _SMALL), 1)
    return means * np.exp(1 - 1 / length)[..., None]


def rouge_l(
    candidates: Sequence[str], references: Sequence[Sequence[str]], items: Sequence[int] | None = None
) -> Floats:
    """ROUGE-L of each candidate, 0 to 1.

    Precision and recall of the longest common subsequence, each the best over the references, which need not be the
    same one; recall counts 1.2 times as much. Tokens are what stands between single spaces, so that two spaces have an
    empty token between them, as in COCO's code.

    Args:
        candidates: ``M`` texts.
        references: The reference texts of each item, at least one each.
        items: ``(M,)`` the item of each candidate; by default one candidate an item, in order.

    Returns:
        ``(M,)``.

    Raises:
        ValueError: Where an item has no references.

    Source: Lin, ROUGE, 2004.

    >>> rouge_l(["a red chair"], [["a chair", "the red chair"]]).round(3).tolist()
    [0.83]
    """
    split = [[text.split(" ") for text in texts] for texts in references]
    out = np.zeros(len(candidates))
    for index, text in enumerate(candidates):
        words = text.split(" ")
        masks: dict[str, int] = {}
        for place, word in enumerate(words):
            masks[word] = masks.get(word, 0) | 1 << place
        theirs = split[index if items is None else items[index]]
        common = [_common(masks, len(words), other) for other in theirs]
        if not common:
            raise ValueError(f"item {index if items is None else items[index]} has no references")
        precision = max(common) / len(words)
        recall = max(found / len(other) for found, other in zip(common, theirs, strict=True))
        if precision and recall:
            out[index] = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    return out


def _common(masks: dict[str, int], length: int, other: Sequence[str]) -> int:
    """Length of the longest common subsequence, by rows of bits (Hyyrö, 2004).

    Args:
        masks: Bit i of a word's mask is set where the first text has the word at place i.
        length: Of the first text.
        other: The second one.
    """
    full = (1 << length) - 1
    row = full
    for word in other:
        if mask := masks.get(word):
            same = row & mask
            row = ((row + same) | (row - same)) & full
    return length - row.bit_count()


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """``starts[0] … starts[0] + lengths[0] - 1``, and so on, one after the other.

    >>> _ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(int(lengths.sum()))


def _begins(keys: Ints) -> Ints:
    """Where each run of equal keys begins.

    >>> _begins(np.array([3, 3, 5, 7, 7])).tolist()
    [0, 2, 3]
    """
    new = np.ones(len(keys), dtype=bool)
    new[1:] = keys[1:] != keys[:-1]
    return np.flatnonzero(new)
