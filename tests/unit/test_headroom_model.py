from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rft3d_cli.answers import detection_answer
from rft3d_cli.benchmarks.headroom import ask
from rft3d_cli.models.confidence import box_confidence
from rft3d_cli.models.inputs import FrameStore, collate, encode_answer
from rft3d_cli.models.loader import load_speaker
from rft3d_cli.models.predict import Answer, Decoding, answers, generate_answers, grouped_answers, sample_group
from rft3d_cli.prompts import detection_prompt, vsibench_prompt
from rft3d_cli.records import Record

CLIPS = Path(__file__).resolve().parents[2] / "assets" / "clips"
SHORT = Decoding(max_tokens=12, sample=True, seed=5, batch=8)
COLD = replace(SHORT, max_tokens=160)


def record(name: str, prompt: str, task: str, target: dict[str, Any]) -> Record:
    video = {"path": "room.mp4", "frames": 2}
    return Record.model_validate({"id": name, "task": task, "video": video, "prompt": prompt, "target": target})


RECORDS = [
    record("boxes", detection_prompt(2), "detection", {"boxes": []}),
    record("count", vsibench_prompt("How many chairs are there?", None), "number", {"value": 2}),
    record("far", vsibench_prompt("How far is the chair from the table, in meters?", None), "number", {"value": 2}),
]


@pytest.fixture(scope="module")
def speaker() -> tuple[Any, Any, FrameStore]:
    model, processor = load_speaker("tiny-sft")
    return model, processor, FrameStore(CLIPS, processor)


def texts(groups: list[list[Answer]]) -> list[list[str]]:
    return [[answer.text for answer in group] for group in groups]


# ---- Groups


def test_each_prompt_gets_its_group_and_the_seed_decides(speaker: tuple[Any, Any, FrameStore]) -> None:
    model, processor, store = speaker
    prompts = [store.encode(one) for one in RECORDS]
    torch.manual_seed(1)
    found = texts(sample_group(model, processor, prompts, SHORT, 4))
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    assert [len(group) for group in found] == [4, 4, 4]
    assert all(len(set(group)) > 1 for group in found)
    torch.manual_seed(2)
    assert texts(sample_group(model, processor, prompts, SHORT, 4)) == found
    assert texts(sample_group(model, processor, prompts, replace(SHORT, seed=6), 4)) != found


def test_groups_of_one_greedy_answer_are_the_answers(speaker: tuple[Any, Any, FrameStore]) -> None:
    model, processor, store = speaker
    greedy = replace(SHORT, sample=False)
    plain = [text for _, text in answers(model, processor, RECORDS, store, greedy)]
    found = list(grouped_answers(model, processor, RECORDS, store, greedy, 1))
    assert [one.id for one, _ in found] == [one.id for one in RECORDS]
    assert texts([group for _, group in found]) == [[text] for text in plain]


def test_batches_of_one_run_draw_differently_and_go_on_where_they_were(speaker: tuple[Any, Any, FrameStore]) -> None:
    model, processor, store = speaker
    same, one_group = [RECORDS[1]] * 3, replace(SHORT, batch=4)
    whole = texts([group for _, group in grouped_answers(model, processor, same, store, one_group, 4)])
    assert len({tuple(group) for group in whole}) == 3
    rest = texts([group for _, group in grouped_answers(model, processor, same[1:], store, one_group, 4, first=1)])
    assert rest == whole[1:]


def test_an_answer_that_the_limit_ends_says_so(speaker: tuple[Any, Any, FrameStore]) -> None:
    model, processor, store = speaker
    prompts = [store.encode(RECORDS[0])]
    greedy = replace(COLD, sample=False)
    (whole,) = generate_answers(model, processor, prompts, greedy)
    tokens = len(processor.tokenizer(whole.text, add_special_tokens=False)["input_ids"])
    assert not whole.cut
    # The token that ends the answer is one of the tokens of the limit.
    for limit, cut in ((tokens + 1, False), (tokens, True), (3, True)):
        (found,) = generate_answers(model, processor, prompts, replace(greedy, max_tokens=limit))
        assert found.cut is cut
        assert whole.text.startswith(found.text)


def test_asking_leaves_nothing_out(speaker: tuple[Any, Any, FrameStore]) -> None:
    model, processor, store = speaker
    found = list(ask(model, processor, RECORDS, store, replace(COLD, batch=2), 3))
    assert [one.record.id for one in found] == [one.id for one in RECORDS]
    assert [len(one.samples) for one in found] == [3, 3, 3]
    assert [one.confident is None for one in found] == [False, True, True]
    assert found[0].confident is not None
    assert found[0].confident.text == found[0].greedy.text
    plain = list(ask(model, processor, RECORDS, store, COLD, 0))
    assert [one.greedy for one in plain] == [one.greedy for one in found]
    assert [one.samples for one in plain] == [[], [], []]


# ---- Confidence


def one_by_one(model: Any, processor: Any, prompt: Any, text: str) -> list[float]:
    """Mean log-probability of the tokens that end within each line's box, one answer at a time."""
    ids = encode_answer(processor, text)
    inputs = collate([prompt], processor.tokenizer.pad_token_id, [ids])
    inputs.pop("labels")
    with torch.inference_mode():
        logp = model(**inputs).logits[0].double().log_softmax(-1)
    values: list[list[float]] = [[] for line in text.splitlines() if "{" in line]
    for place, token in enumerate(ids):
        said = processor.tokenizer.decode(ids[: place + 1])
        box = said.count("{")
        if box and (said.count("}") < box or said.endswith("}")):
            values[box - 1].append(float(logp[len(prompt) + place - 1, token]))
    return [float(np.mean(line)) for line in values]


def test_the_confidence_of_a_box_is_the_mean_of_its_tokens_whatever_stands_beside_it(
    speaker: tuple[Any, Any, FrameStore],
) -> None:
    model, processor, store = speaker
    rng = np.random.default_rng(0)
    lists = [detection_answer(["chair"] * n, np.abs(rng.uniform(0.3, 3, (n, 9))), decimals=1) for n in (3, 1)]
    prompts = [store.encode(RECORDS[0]), store.encode(RECORDS[1])]
    found = box_confidence(model, processor, prompts, lists)
    assert [len(one.boxes) for one in found] == [3, 1]
    for one, prompt, text in zip(found, prompts, lists, strict=True):
        assert one.text == text
        assert all(box in text for box in one.boxes)
        assert one.confidence == pytest.approx(one_by_one(model, processor, prompt, text), abs=1e-4)
        assert one.confidence == pytest.approx(
            box_confidence(model, processor, [prompt], [text])[0].confidence, abs=1e-4
        )


def test_an_answer_without_boxes_has_no_confidence(speaker: tuple[Any, Any, FrameStore]) -> None:
    model, processor, store = speaker
    for text in ("", "nothing", "[]"):
        (found,) = box_confidence(model, processor, [store.encode(RECORDS[0])], [text])
        assert (found.boxes, found.confidence) == ([], [])


def test_a_moved_box_is_less_sure_than_the_one_that_the_model_chose(speaker: tuple[Any, Any, FrameStore]) -> None:
    model, processor, store = speaker
    prompt = store.encode(RECORDS[0])
    (greedy,) = generate_answers(model, processor, [prompt], replace(COLD, sample=False))
    (own,) = box_confidence(model, processor, [prompt], [greedy.text])
    other = detection_answer(["bed"], [[9, 9, 9, 9, 9, 9, 1, 1, 1]], decimals=1)
    (odd,) = box_confidence(model, processor, [prompt], [other])
    assert min(own.confidence) > odd.confidence[0]
