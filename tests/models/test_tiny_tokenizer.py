from __future__ import annotations

import json
import re
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rft3d_cli import prompts
from rft3d_cli.answers.boxes import detection_answer, grounding_answer
from rft3d_cli.models import tiny
from rft3d_cli.models.inputs import chat
from rft3d_cli.models.loader import load_processor
from rft3d_cli.prepare.rooms.build import RoomsSpec, build
from rft3d_cli.prepare.rooms.describe import descriptions
from rft3d_cli.prepare.rooms.kinds import plain_room
from rft3d_cli.prepare.rooms.questions import questions


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.build_tokenizer()


@pytest.fixture(scope="module")
def saved(plain_dir: Path) -> Any:
    processor = load_processor(plain_dir)
    return processor.tokenizer


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def spelled(tokenizer: Any, text: str) -> set[str]:
    """The words of a text that take a token a letter."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert tokenizer.decode(encoded["input_ids"]) == text
    single = {start for start, end in encoded["offset_mapping"] if end - start == 1}
    return {
        word.group()
        for word in re.finditer(r"[A-Za-z\-]+", text)
        if len(word.group()) > 1 and single.issuperset(range(word.start(), word.end()))
    }


def shown(prompt: str, frames: int) -> list[str]:
    """The texts of a prompt between its frames, as the chat lays them out."""
    return [part["text"] for part in chat(prompt, frames)[0]["content"] if part["type"] == "text"]


@pytest.fixture(scope="module")
def room_texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Descriptions, questions, options and answers of rendered rooms, and of many that are only drawn."""
    out = tmp_path_factory.mktemp("rooms") / "rooms"
    build(RoomsSpec(1, seed=3, objects=(4, 6), seconds=3, fps=2, size=(48, 36), antialias=1, val=0), out)
    described = json.loads((out / "ScanRefer_filtered_train.json").read_text())
    asked = [json.loads(line) for line in (out / "vsibench" / "train.jsonl").read_text().splitlines()]
    spec = RoomsSpec(1, seconds=1, objects=(6, 10))
    for seed in range(16):
        rng = np.random.default_rng([3, seed])
        scene = plain_room(rng, "scene0000_00", spec.times, spec.objects)
        seen = {i: i / 2 for i in range(len(scene.items))}
        described += descriptions(rng, scene, set(seen))
        asked += questions(rng, scene, seen)
    assert len(described) > 60
    assert len({row["question_type"] for row in asked}) == 10
    texts = [text for row in described for text in shown(prompts.grounding_prompt(row["description"], 4), 4)]
    for row in asked:
        texts += [*shown(prompts.vsibench_prompt(row["question"], row["options"]), 4), row["ground_truth"]]
    return sorted(set(texts))


def test_no_word_that_rooms_say_is_spelled_and_all_decode_exactly(tokenizer: Any, room_texts: list[str]) -> None:
    letters: set[str] = set()
    for text in room_texts:
        letters |= spelled(tokenizer, text)
    assert letters == set()


@pytest.mark.parametrize("frames", [1, 2, 8, 32])
def test_the_detection_prompt_is_one_token(tokenizer: Any, frames: int) -> None:
    (text,) = shown(prompts.detection_prompt(frames), frames)
    assert len(ids(tokenizer, text)) == 1


@pytest.mark.parametrize("frames", [1, 8])
def test_frame_tags_and_the_grounding_words_are_one_token_each(tokenizer: Any, frames: int) -> None:
    *tags, rest = shown(prompts.grounding_prompt("the chair.", frames), frames)
    assert [len(ids(tokenizer, tag)) for tag in tags] == [1] * frames
    assert len(ids(tokenizer, rest)) == len(["head", "the", " chair", ".", "tail"])


@pytest.mark.parametrize("label", tiny.CLASSES)
def test_a_counted_class_is_its_word_and_its_plural_mark(tokenizer: Any, label: str) -> None:
    words = [" many", f" {label}", "(s)", " does"]
    assert [tokenizer.decode([i]) for i in ids(tokenizer, f"How many {label}(s) does")][1:] == words


@pytest.mark.parametrize("label", tiny.LABELS)
def test_answers_about_any_class_are_never_spelled(tokenizer: Any, label: str) -> None:
    box = [-1.2, 0.0, 9.9, 0.5, 1.0, 2.1, -3.1, 0.1, 0.0]
    one, two = (detection_answer([label] * n, [box] * n, decimals=1) for n in (1, 2))
    place = grounding_answer(3, box, decimals=1)
    assert not any(spelled(tokenizer, text) for text in (one, two, place))
    # Open, label, nine numbers, and what continues or closes the list.
    assert len(ids(tokenizer, one)) == 12
    assert len(ids(tokenizer, two)) == 23
    assert len(ids(tokenizer, place)) == 13


def test_closing_a_list_and_continuing_it_are_tokens_of_their_own(tokenizer: Any) -> None:
    one, two = (ids(tokenizer, detection_answer(["chair"] * n, [[1.0] * 9] * n, 1)) for n in (1, 2))
    (more,), (close,) = ids(tokenizer, tiny.ANSWER_MORE), ids(tokenizer, tiny.ANSWER_CLOSE)
    assert one[-1] == two[-1] == close
    assert two.count(more) == 1
    assert one[:-1] == two[: len(one) - 1]
    assert len(ids(tokenizer, detection_answer([], []))) == 1


@pytest.mark.parametrize("tail", ["", ", "], ids=["alone", "in a list"])
def test_every_number_of_one_decimal_is_one_token(tokenizer: Any, tail: str) -> None:
    texts = [f"{n / 10:.1f}{tail}" for n in range(-99, 100)]
    if tail:  # a comma belongs to a number that another one follows
        found = [ids(tokenizer, f"{text}1.0") for text in texts]
        assert {tuple(row[1:]) for row in found} == {tuple(ids(tokenizer, "1.0"))}
    else:
        found = [ids(tokenizer, text) for text in texts]
        assert all(len(row) == 1 for row in found)
    assert len({row[0] for row in found}) == len(texts)


def test_centimetres_and_counts_are_one_token(tokenizer: Any) -> None:
    assert all(len(ids(tokenizer, str(n))) == 1 for n in range(300))
    assert all(len(ids(tokenizer, f"{n / 10:g}")) == 1 for n in range(400) if n % 10)


@given(text=st.text(max_size=60))
@settings(max_examples=150, deadline=None)
@example("12345.678, -0.0, 1,2, 3 ,")
@example("chair(s) front-left--chairchair  CHAIR")
@example("it is n't , one 's . two ! and 'm ?")
@example("é漢字 \U0001f6cb e\u0301 \u200b\x00\r\n\t\u2028")
@example('```json\n[\n\t{"label": "chair", "bbox_3d": [1.0, ')
@example("<|im_end|><|image_pad|> <|im_start")
def test_any_text_comes_back(text: str) -> None:
    tokenizer = _TOKENIZER
    encoded = ids(tokenizer, text)
    assert tokenizer.decode(encoded, skip_special_tokens=False) == text
    assert all(0 <= i < len(tokenizer) for i in encoded)


_TOKENIZER = tiny.build_tokenizer()


@given(parts=st.lists(st.sampled_from(tiny.pieces()), max_size=12))
@settings(max_examples=60, deadline=None)
def test_pieces_in_any_order_come_back(parts: list[str]) -> None:
    text = "".join(parts)
    assert _TOKENIZER.decode(ids(_TOKENIZER, text)) == text


def test_every_piece_is_one_token_and_no_two_are_the_same(tokenizer: Any) -> None:
    pieces = tiny.pieces()
    # A comma after a number is part of the token only where another number follows.
    found = {piece: ids(tokenizer, piece + "0" if piece.endswith(", ") else piece) for piece in pieces}
    many = [piece for piece, row in found.items() if len(row) != 1 + piece.endswith(", ")]
    assert many == []
    assert len({row[0] for row in found.values()}) == len(pieces)


def test_the_vocabulary_is_the_same_in_another_process(
    plain_dir: Path, elsewhere: tuple[Path, CompletedProcess[str]]
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json"):
        assert (elsewhere[0] / name).read_bytes() == (plain_dir / name).read_bytes(), name


def test_a_turn_ends_with_its_own_token(tokenizer: Any) -> None:
    assert tokenizer.eos_token == "<|im_end|>"
    assert ids(tokenizer, "chair<|im_end|>")[-1] == tokenizer.eos_token_id
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.decode(ids(tokenizer, "chair<|im_end|><|endoftext|>"), skip_special_tokens=True) == "chair"


def test_special_tokens_are_one_token_each_and_all_special(tokenizer: Any) -> None:
    rows = [ids(tokenizer, token) for token in tiny.SPECIAL]
    assert [len(row) for row in rows] == [1] * len(tiny.SPECIAL)
    assert {row[0] for row in rows} == set(tokenizer.all_special_ids)


def test_saved_and_loaded_it_is_the_same(tokenizer: Any, saved: Any, room_texts: list[str]) -> None:
    assert saved.get_vocab() == tokenizer.get_vocab()
    assert saved.all_special_ids == tokenizer.all_special_ids
    assert (saved.eos_token, saved.pad_token) == (tokenizer.eos_token, tokenizer.pad_token)
    for text in [*room_texts[::10], "é <|im_end|> 12.3, 4"]:
        assert ids(saved, text) == ids(tokenizer, text)


def test_the_chat_template_is_the_same_after_loading(saved: Any, plain_dir: Path) -> None:
    processor = load_processor(plain_dir)
    assert processor.chat_template == saved.chat_template == tiny.CHAT_TEMPLATE
    assert (plain_dir / "chat_template.jinja").read_text() == tiny.CHAT_TEMPLATE


def test_the_chat_is_laid_out_as_qwen_lays_it_out_without_a_system_turn(saved: Any) -> None:
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]},
        {"role": "assistant", "content": "There."},
    ]
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    assert saved.apply_chat_template(messages, tokenize=False) == (
        f"<|im_start|>user\n{image}Where?<|im_end|>\n<|im_start|>assistant\nThere.<|im_end|>\n"
    )
    asked = saved.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert asked.endswith("<|im_end|>\n<|im_start|>assistant\n")
