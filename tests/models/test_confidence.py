from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_fixtures import Loaded, picture

from rft3d_cli.answers import detection_answer
from rft3d_cli.benchmarks import detection
from rft3d_cli.models import confidence
from rft3d_cli.models.confidence import box_confidence
from rft3d_cli.models.inputs import EncodedPrompt, FrameStore, collate
from rft3d_cli.records import Record

BED = '{"label": "bed", "bbox_3d": [1.0, 2.0]}'
TEXTS = [
    pytest.param(detection_answer(["chair", "bed"], np.full((2, 9), 0.5), decimals=1), 2, id="as taught"),
    pytest.param(f"[{BED}, {BED}]", 2, id="one line"),
    pytest.param(BED, 1, id="nothing but a box"),
    pytest.param('{"label": "椅子 é 😀", "bbox_3d": [1.0]} ' + BED, 2, id="letters of several bytes"),
    pytest.param("e\u0301 cafe\u0301 " + BED, 1, id="letters that a tokenizer may join"),
    pytest.param("\ud800" + BED, 1, id="half a surrogate pair"),
    pytest.param("{}" + BED + "{}", 3, id="empty objects"),
    pytest.param("<|im_end|><|image_pad|>" + BED + "<|endoftext|>", 1, id="names of special tokens"),
    pytest.param('{"label": "<|image_pad|>"}', 1, id="one within a box"),
    pytest.param(BED + '\n{"label": "ch', 1, id="cut off"),
    pytest.param("\n\t  \r\n" + BED + "   ", 1, id="white space"),
    pytest.param("}{" + BED + "}{", 1, id="loose braces"),
]


def scored_alone(one: Loaded, prompt: EncodedPrompt, text: str) -> list[tuple[float, bytes]]:
    """Log-probability and bytes of each token of an answer, with the whole sequence's logits."""
    plain = text.encode("utf-8", "replace").decode()
    ids = one.processor.tokenizer(plain, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    with torch.inference_mode():
        inputs = collate([prompt], one.pad, [np.array(ids)])
        inputs.pop("labels")
        logp = one.model(**inputs).logits[0].double().log_softmax(-1)
    values = [float(logp[len(prompt) + place - 1, token]) for place, token in enumerate(ids)]
    alphabet = {letter: byte for byte, letter in byte_letters().items()}
    names = one.processor.tokenizer.convert_ids_to_tokens(ids)
    return [(value, bytes(alphabet[c] for c in name)) for value, name in zip(values, names, strict=True)]


def byte_letters() -> dict[int, str]:
    """GPT-2's letters for bytes, by their rule: printable ones stand for themselves, the others follow from 256."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(rest)}


def by_bytes(tokens: list[tuple[float, bytes]]) -> list[float]:
    """The mean of each innermost box, from the bytes of the tokens alone."""
    text = b"".join(part for _, part in tokens)
    ends = np.cumsum([len(part) for _, part in tokens])
    out, start = [], -1
    for place, byte in enumerate(text):
        if byte == ord("{"):
            start = place
        elif byte == ord("}") and start >= 0:
            mine = [v for (v, _), end in zip(tokens, ends, strict=True) if start < end <= place + 1]
            out.append(float(np.mean(mine)))
            start = -1
    return out


@pytest.fixture(scope="module")
def prompts(plain: Loaded) -> list[EncodedPrompt]:
    return [
        plain.prompt("Find chairs.", picture(1)),
        plain.prompt("Find every object in the room, however small it is.", picture(2), picture(3)),
        plain.prompt("?", picture(4)),
    ]


@pytest.mark.parametrize(("text", "boxes"), TEXTS)
def test_a_box_is_as_sure_as_its_tokens(plain: Loaded, prompts: list[EncodedPrompt], text: str, boxes: int) -> None:
    (found,) = box_confidence(plain.model, plain.processor, prompts[:1], [text])
    assert found.text == text
    assert len(found.boxes) == len(found.confidence) == boxes
    assert found.confidence == pytest.approx(by_bytes(scored_alone(plain, prompts[0], text)), abs=1e-4)
    assert all(value < 0 for value in found.confidence)


def test_neighbours_do_not_matter(plain: Loaded, prompts: list[EncodedPrompt]) -> None:
    texts = ["none", TEXTS[0].values[0], "", BED, "x" * 200 + BED, "{}"]
    asked = [prompts[i % 3] for i in range(len(texts))]
    together = box_confidence(plain.model, plain.processor, asked, texts)
    assert [one.text for one in together] == texts
    assert [len(one.boxes) for one in together] == [0, 2, 0, 1, 1, 1]
    for prompt, text, one in zip(asked, texts, together, strict=True):
        (alone,) = box_confidence(plain.model, plain.processor, [prompt], [text])
        assert one.boxes == alone.boxes
        assert one.confidence == pytest.approx(alone.confidence, abs=1e-4)


@pytest.mark.parametrize("most", [1, 40_000, 200_000])
def test_a_batch_that_is_too_large_is_computed_in_parts(
    plain: Loaded, prompts: list[EncodedPrompt], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [BED, "no", "x" * 60 + BED, "{}", BED + BED]
    asked = [prompts[i % 3] for i in range(len(texts))]
    whole = box_confidence(plain.model, plain.processor, asked, texts)
    passes = []
    forward = plain.model.forward

    def counted(*args: Any, **more: Any) -> Any:
        passes.append(len(more["input_ids"]))
        return forward(*args, **more)

    monkeypatch.setattr(confidence, "LOGITS", most)
    monkeypatch.setattr(plain.model, "forward", counted)
    parts = box_confidence(plain.model, plain.processor, asked, texts)
    assert sum(passes) == 4
    if most == 1:
        assert passes == [1] * 4
    for one, other in zip(whole, parts, strict=True):
        assert one.confidence == pytest.approx(other.confidence, abs=1e-4)


def test_answers_without_boxes_cost_nothing(
    plain: Loaded, prompts: list[EncodedPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain.model, "forward", None)
    assert box_confidence(plain.model, plain.processor, [], []) == []
    found = box_confidence(plain.model, plain.processor, prompts, ["", "no boxes", "[\ud800]"])
    assert [(one.boxes, one.confidence) for one in found] == [([], [])] * 3


def test_as_many_texts_as_prompts(plain: Loaded, prompts: list[EncodedPrompt]) -> None:
    with pytest.raises(ValueError, match="shorter"):
        box_confidence(plain.model, plain.processor, prompts, [BED])


def test_confidences_go_with_the_scorer(plain: Loaded, store: FrameStore, records: dict[str, Record]) -> None:
    record = next(one for one in records.values() if one.task == "detection")
    text = detection_answer(["chair", "bed"], np.full((2, 9), 0.5), decimals=1)
    (found,) = box_confidence(plain.model, plain.processor, [store.encode(record)], [text])
    for scorer in ("official", "robust"):
        result = detection.score([record], {record.id: text}, scorer=scorer, confidence={record.id: found.confidence})
        assert [box["confidence"] for box in result.details[0]["answer"]] == found.confidence
