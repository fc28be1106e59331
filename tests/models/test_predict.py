from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_fixtures import Loaded, picture, record
from torch import Tensor

from rft3d_cli.errors import DataError
from rft3d_cli.models.inputs import FrameStore
from rft3d_cli.models.loader import load_model
from rft3d_cli.models.predict import Decoding, answers, forbidden_ids, generate
from rft3d_cli.prompts import FORBIDDEN
from rft3d_cli.records import Record


class Recorder:
    """A model of its own whose logits can be bent, and that keeps the ids it generates."""

    def __init__(self, folder: Path) -> None:
        self.loaded = Loaded.of(load_model(folder))
        self.rows: list[list[int]] = []
        self.settings: Any = None
        inner = self.loaded.model.generate

        def kept(**inputs: Any) -> Tensor:
            out: Tensor = inner(**inputs)
            self.settings = inputs["generation_config"]
            self.rows += out[:, inputs["input_ids"].shape[1] :].tolist()
            return out

        self.loaded.model.generate = kept

    def bend(self, ids: list[int], amount: float) -> None:
        """Add to the logits of some tokens, for good."""

        def add(module: Any, inputs: Any, output: Tensor) -> Tensor:
            output[..., ids] += amount
            return output

        self.loaded.model.lm_head.register_forward_hook(add)

    def ask(self, records: list[Record], store: FrameStore, **decoding: Any) -> list[str]:
        self.rows.clear()
        model, processor = self.loaded.model, self.loaded.processor
        return [text for _, text in answers(model, processor, records, store, Decoding(**decoding))]


@pytest.fixture
def recorder(plain_dir: Path) -> Recorder:
    return Recorder(plain_dir)


@pytest.fixture(scope="module")
def four(records: dict[str, Record]) -> list[Record]:
    return [records[name] for name in ("grounding", "number", "choice", "detection")]


def ask(loaded: Loaded, records: list[Record], store: FrameStore, **decoding: Any) -> list[tuple[str, str]]:
    found = answers(loaded.model, loaded.processor, records, store, Decoding(**decoding))
    return [(record.id, text) for record, text in found]


@pytest.fixture
def _noisy() -> Iterator[None]:
    """The process's generator stands elsewhere than in any other test."""
    torch.seed()
    yield
    torch.manual_seed(0)


# Greedy


@pytest.mark.usefixtures("_noisy")
@pytest.mark.parametrize("name", ["plain", "fused"])
def test_greedy_answers_depend_on_nothing_but_the_record(
    name: str, store: FrameStore, four: list[Record], request: pytest.FixtureRequest
) -> None:
    loaded: Loaded = request.getfixturevalue(name)
    together = ask(loaded, four, store, max_tokens=12)
    assert [who for who, _ in together] == [record.id for record in four]
    assert len({text for _, text in together}) > 1
    for batch in (1, 3):
        assert ask(loaded, four, store, max_tokens=12, batch=batch, seed=batch) == together
    assert ask(loaded, four[::-1], store, max_tokens=12, batch=2) == together[::-1]


def test_no_records_give_no_answers(plain: Loaded, store: FrameStore) -> None:
    assert ask(plain, [], store) == []


# Length


@pytest.mark.parametrize("limit", [1, 5])
def test_answers_end_at_the_token_limit(limit: int, recorder: Recorder, store: FrameStore, four: list[Record]) -> None:
    recorder.bend([recorder.loaded.processor.tokenizer.eos_token_id], -1e4)
    recorder.ask(four, store, max_tokens=limit)
    assert [len(row) for row in recorder.rows] == [limit] * 4


def test_answers_end_with_the_turn(recorder: Recorder, store: FrameStore, four: list[Record]) -> None:
    end = recorder.loaded.processor.tokenizer.eos_token_id
    recorder.bend([end], 1e4)
    assert recorder.ask(four, store, max_tokens=50) == [""] * 4
    assert recorder.rows == [[end]] * 4


def test_an_answer_that_ends_early_is_not_padded_into(
    recorder: Recorder, store: FrameStore, four: list[Record]
) -> None:
    tokenizer = recorder.loaded.processor.tokenizer
    recorder.bend([tokenizer.eos_token_id], 5.0)  # rows end at different lengths
    texts = recorder.ask(four, store, max_tokens=30, sample=True, seed=1)
    ends = [row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row) for row in recorder.rows]
    assert len(set(ends)) > 1
    for row, end, text in zip(recorder.rows, ends, texts, strict=True):
        assert set(row[end + 1 :]) <= {tokenizer.pad_token_id}
        assert text == tokenizer.decode(row[:end], skip_special_tokens=True)


# Tokens that stand for pixels


@pytest.mark.parametrize(
    "decoding",
    [pytest.param({}, id="greedy"), pytest.param({"sample": True, "temperature": 5.0}, id="at temperature 5")],
)
def test_tokens_that_stand_for_pixels_are_never_said(
    decoding: dict[str, Any], recorder: Recorder, store: FrameStore, four: list[Record]
) -> None:
    processor = recorder.loaded.processor
    ids = forbidden_ids(processor)
    assert [processor.tokenizer.convert_ids_to_tokens(i) for i in ids] == list(FORBIDDEN)
    # A model that wants nothing else, and does not want to stop.
    recorder.bend(ids, 50.0)
    recorder.bend([processor.tokenizer.eos_token_id], -1e4)
    recorder.ask(four, store, max_tokens=60, **decoding)
    said = {token for row in recorder.rows for token in row}
    assert not said & set(ids)
    assert sum(len(row) for row in recorder.rows) == 240
    if decoding:
        assert len(said) > 100


# Sampling


def test_sampled_answers_follow_the_seed_and_leave_the_generator_alone(
    plain: Loaded, store: FrameStore, four: list[Record]
) -> None:
    options = {"max_tokens": 8, "sample": True, "batch": 2}
    torch.manual_seed(1)
    first = ask(plain, four, store, seed=7, **options)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    torch.manual_seed(2)
    assert ask(plain, four, store, seed=7, **options) == first
    assert ask(plain, four, store, seed=8, **options) != first


def test_batches_of_one_run_do_not_repeat_their_draws(
    plain: Loaded, store: FrameStore, records: dict[str, Record]
) -> None:
    same = [records["number"]] * 4
    texts = [text for _, text in ask(plain, same, store, max_tokens=8, sample=True, batch=2)]
    assert len(set(texts)) == 4


def test_the_smallest_nucleus_is_greedy(plain: Loaded, store: FrameStore, four: list[Record]) -> None:
    greedy = ask(plain, four, store, max_tokens=8)
    assert ask(plain, four, store, max_tokens=8, sample=True, top_p=1e-6) == greedy


@pytest.mark.parametrize(
    ("decoding", "expected"),
    [
        pytest.param({}, {"do_sample": False}, id="greedy"),
        pytest.param({"temperature": 2.0, "top_p": 0.5}, {"do_sample": False}, id="greedy whatever else is said"),
        pytest.param(
            {"sample": True, "temperature": 0.7, "top_p": 0.9},
            {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0},
            id="sampled from the whole distribution",
        ),
        pytest.param(
            {"repetition_penalty": 1.05}, {"do_sample": False, "repetition_penalty": 1.05}, id="a stated penalty"
        ),
    ],
)
def test_no_setting_but_the_stated_shapes_the_answers(
    decoding: dict[str, Any], expected: dict[str, Any], recorder: Recorder, store: FrameStore, four: list[Record]
) -> None:
    recorder.ask(four[:1], store, max_tokens=2, **decoding)
    found = recorder.settings.to_diff_dict()
    shaping = {key: value for key, value in found.items() if key not in ("eos_token_id", "pad_token_id")}
    shaping.pop("transformers_version", None)
    assert shaping.pop("max_new_tokens") == 2
    assert shaping.pop("suppress_tokens") == forbidden_ids(recorder.loaded.processor)
    assert {"do_sample": False, **shaping} == expected
    assert recorder.settings.repetition_penalty in (None, decoding.get("repetition_penalty", 1.0))


def test_the_settings_that_are_written_down_are_those_that_matter() -> None:
    greedy = {"greedy": True, "max_tokens": 9, "repetition_penalty": 1.0}
    assert Decoding(max_tokens=9, seed=3, batch=2).document() == greedy
    sampled = Decoding(max_tokens=9, sample=True, temperature=0.5, top_p=0.9, seed=3, batch=2).document()
    assert sampled == {
        "greedy": False, "max_tokens": 9, "repetition_penalty": 1.0, "temperature": 0.5, "top_p": 0.9, "seed": 3,
        "batch": 2,
    }  # fmt: skip


# The model's state


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
def test_a_model_answers_in_evaluation_mode_and_is_left_as_it_was(
    training: bool, recorder: Recorder, store: FrameStore, four: list[Record]
) -> None:
    model = recorder.loaded.model
    model.train(training)
    modes = []
    model.lm_head.register_forward_pre_hook(lambda *_: modes.append(model.training))
    recorder.ask(four[:1], store, max_tokens=2)
    assert modes
    assert not any(modes)
    assert model.training is training
    stopped = answers(model, recorder.loaded.processor, four, store, Decoding(max_tokens=1, batch=1))
    next(stopped)
    stopped.close()
    assert model.training is training


def test_a_record_that_cannot_be_read_stops_where_it_stands(
    recorder: Recorder, store: FrameStore, four: list[Record]
) -> None:
    bad = record("text", ["gone.png"], "what?", {"references": ["x"]}, name="bad")
    found: list[str] = []
    recorder.loaded.model.train()

    def run() -> None:
        model, processor = recorder.loaded.model, recorder.loaded.processor
        for who, _ in answers(model, processor, [four[0], bad, four[1]], store, Decoding(max_tokens=2, batch=1)):
            found.append(who.id)

    with pytest.raises(DataError, match="record text/bad"):
        run()
    assert found == [four[0].id]
    assert recorder.loaded.model.training


def test_one_call_answers_prompts_of_different_lengths_in_order(plain: Loaded) -> None:
    prompts = [plain.prompt("a" * n, picture(n)) for n in (3, 40, 1)]
    together = generate(plain.model, plain.processor, prompts, Decoding(max_tokens=6))
    assert together == [generate(plain.model, plain.processor, [p], Decoding(max_tokens=6))[0] for p in prompts]


def test_answers_without_frames_do_not_hang_on_their_batch(
    plain: Loaded, store: FrameStore, four: list[Record]
) -> None:
    blind = FrameStore(store.media_root, plain.processor, blind=True)
    together = ask(plain, four, blind, max_tokens=6)
    assert together == ask(plain, four, blind, max_tokens=6, batch=1)
    assert [blind.prompt_length(record) for record in four] == [len(blind.encode(record)) for record in four]
    assert together != ask(plain, four, store, max_tokens=6)
