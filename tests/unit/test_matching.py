from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft3d_cli.geometry.matching import Counts, Match, optimal_matches, output_order_matches


def pairs(matches: list[Match]) -> list[tuple[int, int]]:
    return [(match.prediction, match.target) for match in matches]


@pytest.mark.parametrize(
    ("iou", "predicted", "targets", "threshold", "expected"),
    [
        pytest.param([[0.9]], "a", "a", 0.25, [(0, 0)], id="a hit"),
        pytest.param([[0.9]], "a", "b", 0.25, [], id="another label"),
        pytest.param([[0.9]], "a", "A", 0.25, [], id="labels are compared exactly"),
        pytest.param([[0.25]], "a", "a", 0.25, [], id="on the threshold"),
        pytest.param([[0.25 + 1e-14]], "a", "a", 0.25, [], id="on the threshold but for rounding"),
        pytest.param([[0.25 + 1e-11]], "a", "a", 0.25, [(0, 0)], id="just above the threshold"),
        pytest.param([[0.0]], "a", "a", None, [], id="no overlap"),
        pytest.param([[1e-17]], "a", "a", None, [], id="an overlap of rounding error"),
        pytest.param([[0.01]], "a", "a", None, [(0, 0)], id="a slight overlap"),
        pytest.param([[math.nan, 0.5]], "a", "aa", None, [(0, 1)], id="NaN is no overlap"),
        pytest.param([[0.6, 0.5], [0.5, 0.0]], "aa", "aa", 0.25, [(0, 1), (1, 0)], id="two pairs before one better"),
        pytest.param([[0.9, 0.3], [0.3, 0.0]], "aa", "aa", 0.25, [(0, 1), (1, 0)], id="count before sum"),
        pytest.param([[0.9, 0.3], [0.3, 0.0]], "aa", "aa", None, [(0, 0)], id="sum alone"),
        pytest.param([[0.9, 0.3], [0.3, 0.2]], "aa", "aa", 0.25, [(0, 1), (1, 0)], id="below the threshold is nothing"),
        pytest.param([[0.9, 0.8], [0.8, 0.9]], "ab", "ba", 0.25, [(0, 1), (1, 0)], id="labels decide"),
        pytest.param([[0.5], [0.7], [0.6]], "aaa", "a", 0.25, [(1, 0)], id="duplicates"),
        pytest.param([[0.5, 0.7, 0.6]], "a", "aaa", 0.25, [(0, 1)], id="one for many targets"),
        pytest.param([[0.3, 0.9]], "a", "ab", 0.25, [(0, 0)], id="the better box has another label"),
        pytest.param([], "", "", 0.25, [], id="nothing"),
        pytest.param([], "", "ab", 0.25, [], id="no predictions"),
        pytest.param(np.zeros((2, 0)), "ab", "", None, [], id="no targets"),
    ],
)
def test_optimal_matching(
    iou: list[list[float]], predicted: str, targets: str, threshold: float | None, expected: list[tuple[int, int]]
) -> None:
    assert pairs(optimal_matches(iou, list(predicted), list(targets), threshold)) == expected


@pytest.mark.parametrize(
    ("iou", "predicted", "targets", "expected"),
    [
        pytest.param([[0.3, 0.9]], "a", "aa", [(0, 1)], id="the best target"),
        pytest.param([[0.6, 0.5], [0.9, 0.0]], "aa", "aa", [(0, 0)], id="the first takes it"),
        pytest.param([[0.9, 0.0], [0.6, 0.5]], "aa", "aa", [(0, 0), (1, 1)], id="another order, another score"),
        pytest.param([[0.9], [0.9]], "aa", "a", [(0, 0)], id="a target is used once"),
        pytest.param([[0.2], [0.9]], "aa", "a", [(1, 0)], id="a miss uses no target"),
        pytest.param([[0.25]], "a", "a", [], id="on the threshold"),
        pytest.param([[0.5, 0.5], [0.5, 0.0]], "aa", "aa", [(0, 0)], id="the first of equal targets"),
        pytest.param([[0.9, 0.4]], "a", "ba", [(0, 1)], id="only targets of its label"),
        pytest.param([], "", "ab", [], id="no predictions"),
        pytest.param(np.zeros((2, 0)), "ab", "", [], id="no targets"),
    ],
)
def test_matching_in_output_order(
    iou: list[list[float]], predicted: str, targets: str, expected: list[tuple[int, int]]
) -> None:
    assert pairs(output_order_matches(iou, list(predicted), list(targets), 0.25)) == expected


@pytest.mark.parametrize("shape", [(2, 3), (3, 3), (6,), (1, 2, 3)])
def test_overlaps_must_fit_the_labels(shape: tuple[int, ...]) -> None:
    for match in (optimal_matches, output_order_matches):
        with pytest.raises(ValueError, match="for 3 predictions and 2 targets"):
            match(np.zeros(shape), ["a"] * 3, ["a"] * 2, 0.25)


@pytest.mark.parametrize("threshold", [-0.1, math.nan])
def test_a_threshold_is_a_number_from_zero(threshold: float) -> None:
    for match in (optimal_matches, output_order_matches):
        with pytest.raises(ValueError, match="must not be negative"):
            match([[0.5]], ["a"], ["a"], threshold)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, list[str], list[str]]:
    n, m = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    values = draw(st.lists(st.sampled_from([0, 0, 0.1, 0.25, 0.3, 0.31, 0.5, 0.9]), min_size=n * m, max_size=n * m))
    labels = st.sampled_from(["chair", "bed"])
    predicted = draw(st.lists(labels, min_size=n, max_size=n))
    targets = draw(st.lists(labels, min_size=m, max_size=m))
    return np.reshape(np.array(values, dtype=float), (n, m)), predicted, targets


def value_of(found: list[float]) -> tuple[int, float]:
    return len(found), round(sum(found), 9)


def best_by_trying_all(
    iou: np.ndarray, predicted: list[str], targets: list[str], threshold: float | None
) -> tuple[int, float]:
    """Every assignment of targets, or of none, to predictions."""
    slots = [*range(len(targets)), *([None] * len(predicted))]
    results = set()
    for order in set(permutations(slots, len(predicted))):
        chosen = [(i, j) for i, j in enumerate(order) if j is not None and predicted[i] == targets[j]]
        results.add(value_of([iou[i, j] for i, j in chosen if iou[i, j] > (threshold or 0)]))
    return max(results, key=lambda result: result if threshold is not None else result[1])


@settings(max_examples=60, deadline=None)
@given(scenes(), st.sampled_from([None, 0.0, 0.25]))
def test_no_other_matching_is_better(scene: tuple[np.ndarray, list[str], list[str]], threshold: float | None) -> None:
    iou, predicted, targets = scene
    iou, predicted = iou[:3], predicted[:3]
    matches = optimal_matches(iou, predicted, targets, threshold)
    count, total = best_by_trying_all(iou, predicted, targets, threshold)
    assert round(sum(match.iou for match in matches), 9) == total
    assert threshold is None or len(matches) == count


@settings(max_examples=100, deadline=None)
@given(scenes(), st.sampled_from([None, 0.25]), st.randoms(use_true_random=False))
def test_the_optimum_ignores_order(
    scene: tuple[np.ndarray, list[str], list[str]], threshold: float | None, random: object
) -> None:
    iou, predicted, targets = scene
    rows, columns = list(range(len(predicted))), list(range(len(targets)))
    random.shuffle(rows)
    random.shuffle(columns)
    shuffled = optimal_matches(
        iou[rows][:, columns], [predicted[i] for i in rows], [targets[j] for j in columns], threshold
    )
    straight = optimal_matches(iou, predicted, targets, threshold)
    total = pytest.approx(sum(match.iou for match in straight))
    assert sum(match.iou for match in shuffled) == total
    assert threshold is None or len(shuffled) == len(straight)


@settings(max_examples=100, deadline=None)
@given(scenes())
def test_matches_are_one_to_one_of_one_label_and_above_the_threshold(
    scene: tuple[np.ndarray, list[str], list[str]],
) -> None:
    iou, predicted, targets = scene
    optimal, greedy = (match(iou, predicted, targets, 0.25) for match in (optimal_matches, output_order_matches))
    assert len(greedy) <= len(optimal)
    for matches in (optimal, greedy):
        assert pairs(matches) == sorted(pairs(matches))
        assert len({match.prediction for match in matches}) == len({match.target for match in matches}) == len(matches)
        for prediction, target, value in matches:
            assert predicted[prediction] == targets[target]
            assert value == iou[prediction, target] > 0.25


@pytest.mark.parametrize(
    ("counts", "precision", "recall", "f1"),
    [
        pytest.param(Counts(3, 1, 2), 3 / 4, 3 / 5, 6 / 9, id="some of each"),
        pytest.param(Counts(4, 0, 0), 1, 1, 1, id="all right"),
        pytest.param(Counts(0, 2, 3), 0, 0, 0, id="all wrong"),
        pytest.param(Counts(0, 0, 3), 0, 0, 0, id="no predictions"),
        pytest.param(Counts(0, 3, 0), 0, 0, 0, id="no targets"),
        pytest.param(Counts(), 0, 0, 0, id="nothing at all"),
    ],
)
def test_quotients_of_counts(counts: Counts, precision: float, recall: float, f1: float) -> None:
    assert (counts.precision, counts.recall, counts.f1) == pytest.approx((precision, recall, f1))


def test_counts_add_up() -> None:
    assert sum([Counts(1, 2, 3), Counts(10, 20, 30)], Counts()) == Counts(11, 22, 33)
