from __future__ import annotations

from pathlib import Path

import pytest

from rft3d_cli.benchmarks.registry import BENCHMARKS, narrowed, select
from rft3d_cli.errors import DataError
from rft3d_cli.examples import example_record
from rft3d_cli.records import Record


def question(name: str, kind: str, *, pruned: bool | None = None, subset: str | None = None) -> Record:
    base = example_record("number")
    extra = {} if pruned is None else {"pruned": pruned}
    meta = {"question_type": kind, "subset": subset, **extra}
    return Record.model_validate(base.model_dump(by_alias=True) | {"id": name, "meta": meta})


RECORDS = [
    question("a", "object_counting", pruned=True),
    question("b", "object_counting", pruned=False, subset="unique"),
    question("c", "room_size_estimation", pruned=False, subset="multiple"),
    question("d", "object_counting"),
]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, "abcd", id="all"),
        pytest.param({"types": ["object_counting"]}, "abd", id="one type"),
        pytest.param({"subset": "debiased"}, "bc", id="debiased"),
        pytest.param({"subset": "pruned"}, "a", id="pruned"),
        pytest.param({"subset": "unique"}, "b", id="unique"),
        pytest.param({"ids": dict.fromkeys("da")}, "ad", id="ids, in the data's order"),
        pytest.param({"limit": 2}, "ab", id="the first two"),
        pytest.param({"types": ["object_counting"], "limit": 2}, "ab", id="a limit comes last"),
        pytest.param({"per_type": 5}, "abcd", id="more of each type than there are"),
    ],
)
def test_records_are_narrowed(options: dict, expected: str) -> None:
    assert "".join(record.id for record in narrowed(RECORDS, **options)) == expected


def test_so_many_of_each_type_are_drawn_by_the_seed() -> None:
    records = [question(f"{kind[:8]}{i}", kind) for i in range(20) for kind in ("object_counting", "route_planning")]
    first = narrowed(records, per_type=3, seed=1)
    assert first == narrowed(records, per_type=3, seed=1)
    assert first != narrowed(records, per_type=3, seed=2)
    assert [record.meta.question_type for record in first].count("route_planning") == 3
    # What is drawn of one type does not hang on the others.
    alone = narrowed(records, per_type=3, seed=1, types=["route_planning"])
    assert alone == [record for record in first if record.meta.question_type == "route_planning"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        pytest.param({"types": ["counting"]}, "no record has question type counting", id="an unknown type"),
        pytest.param({"ids": {"a": None, "z": None}}, "1 of 2 ids are not in the data, first z", id="an unknown id"),
        pytest.param({"subset": "large"}, "no record is left in subset large", id="an unknown subset"),
    ],
)
def test_what_leaves_nothing_is_refused(options: dict, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        narrowed(RECORDS, **options)


def test_every_benchmark_has_a_scorer_and_a_number_it_is_quoted_by(tmp_path: Path) -> None:
    from rft3d_cli.benchmarks.metrics import lookup

    texts = {name: example_record("text") for name in ("sqa3d", "scan2cap")}
    for name, benchmark in BENCHMARKS.items():
        record = texts.get(name, example_record(benchmark.tasks[0]))
        record = record.model_copy(update={"meta": record.meta.model_copy(update={"dataset": benchmark.written})})
        assert select(name, [record], tmp_path / "x.jsonl") == [record]
        for scorer in ("official", "robust"):
            result = benchmark.score([record], {record.id: "4"}, scorer=scorer, intervals=False)
            assert lookup(result.document, benchmark.headline) is not None, (name, scorer)
            assert [detail["id"] for detail in result.details] == [record.id]


def test_text_records_belong_to_their_own_benchmark(tmp_path: Path) -> None:
    record = example_record("text")
    with pytest.raises(DataError, match="holds no text records of sqa3d, only text"):
        select("sqa3d", [record], tmp_path / "x.jsonl")
