from __future__ import annotations

import struct
import zlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_fixtures import Loaded, picture, record

from rft3d_cli import prompts
from rft3d_cli.errors import DataError
from rft3d_cli.models import predict
from rft3d_cli.models.inputs import (
    EncodedPrompt,
    FrameStore,
    PlacementError,
    chat,
    collate,
    encode_answer,
    encode_prompt,
)
from rft3d_cli.recipe_schema import Config
from rft3d_cli.records import Record, write_records
from rft3d_cli.train.data import read_examples
from rft3d_cli.video import open_video

KINDS = ["detection", "grounding", "number", "choice", "text"]
MODEL_INPUTS = {"input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw"}


def equal(a: EncodedPrompt, b: EncodedPrompt) -> bool:
    pairs = [(getattr(a, field.name), getattr(b, field.name)) for field in fields(a)]
    given = [(x, y) for x, y in pairs if x is not None or y is not None]
    return all(x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in given)


def text_record(folder: Path, prompt: str, *frames: str) -> tuple[FrameStore, Record]:
    return FrameStore(folder, _processor()), record("text", frames, prompt, {"references": ["x"]})


def _processor() -> Any:
    from rft3d_cli.models.tiny import build_processor

    return build_processor()


# One path


@pytest.mark.parametrize("kind", KINDS)
def test_training_evaluation_and_generation_see_equal_bits(
    kind: str, plain: Loaded, media: tuple[Path, dict[str, Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, records = media
    # Training reads a record file through a recipe.
    write_records(tmp_path / "train.jsonl", [records[kind]])
    config = Config.model_validate(
        {"stage": "sft", "model": {"name": "tiny-random"}, "data": {"media_root": str(folder)}}
    )
    examples = read_examples([str(tmp_path / "train.jsonl")], plain.processor, config)
    trained = examples.prompt(0)
    # Evaluation and generation are caught where they hand inputs to the model.
    given: list[dict[str, torch.Tensor]] = []

    def caught(**inputs: Any) -> torch.Tensor:
        given.append({name: inputs[name] for name in inputs if name != "generation_config"})
        return inputs["input_ids"]

    monkeypatch.setattr(plain.model, "generate", caught)
    store = FrameStore(folder, plain.processor)
    list(predict.answers(plain.model, plain.processor, [records[kind]], store, predict.Decoding(max_tokens=4)))
    batch = examples.supervised_batch([0])
    length = len(trained)
    for inputs in given:
        assert inputs.keys() == MODEL_INPUTS
        for name in ("input_ids", "mm_token_type_ids"):
            assert inputs[name].numpy().tobytes() == getattr(trained, name).tobytes(), name
            assert torch.equal(batch[name][:, :length], inputs[name]), name
        for name in ("pixel_values", "image_grid_thw"):
            assert inputs[name].numpy().tobytes() == getattr(trained, name).tobytes(), name
            assert torch.equal(batch[name], inputs[name]), name
        assert inputs["attention_mask"].all()
    assert len(given) == 1
    assert batch.keys() == MODEL_INPUTS | {"labels"}


def test_inference_on_a_clip_sees_what_a_record_of_the_clip_shows(
    plain: Loaded, media: tuple[Path, dict[str, Record]]
) -> None:
    folder, records = media
    clip = open_video(folder / "clip.mp4", 3, "linspace-floor")
    images = [plain.processor.size(Image.fromarray(image)) for image in clip.images]
    asked = encode_prompt(plain.processor, records["choice"].prompt, images)
    assert equal(asked, FrameStore(folder, plain.processor).encode(records["choice"]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_encodes_the_same_from_memory_and_from_disk(
    kind: str, media: tuple[Path, dict[str, Record]], store: FrameStore
) -> None:
    fresh = FrameStore(media[0], _processor())
    first = fresh.encode(media[1][kind])
    assert equal(first, fresh.encode(media[1][kind]))
    assert equal(first, store.encode(media[1][kind]))


@pytest.mark.parametrize("keep", [0, 13_000, 26_000], ids=["nothing", "one picture", "two pictures"])
def test_a_small_store_forgets_and_reads_again(keep: int, media: tuple[Path, dict[str, Record]]) -> None:
    small, large = FrameStore(media[0], _processor(), keep=keep), FrameStore(media[0], _processor())
    for kind in (*KINDS, *KINDS):
        assert equal(small.encode(media[1][kind]), large.encode(media[1][kind]))
    sizes = [sum(4 * image.width * image.height for image in images) for images in small._kept.values()]
    assert sum(sizes) == small._kept_bytes <= keep
    assert len(large._kept) > len(small._kept)


@pytest.mark.parametrize("kind", KINDS)
def test_image_tokens_patches_and_types_match(kind: str, store: FrameStore, records: dict[str, Record]) -> None:
    prompt = store.encode(records[kind])
    images = prompt.input_ids == store.processor.image_token_id
    assert np.array_equal(prompt.mm_token_type_ids, images.astype(np.int64))
    assert len(prompt.pixel_values) == prompt.image_grid_thw.prod(axis=1).sum() == 4 * images.sum()
    frames = {"detection": 2, "grounding": 4, "number": 1, "choice": 3, "text": 2}[kind]
    assert len(prompt.image_grid_thw) == frames
    arrays = [getattr(prompt, field.name) for field in fields(prompt)]
    assert prompt.nbytes == sum(len(array.tobytes()) for array in arrays if array is not None)
    runs = np.diff(np.concatenate([[0], images.astype(int), [0]]))
    assert (runs == 1).sum() == frames  # each frame stands by itself, between its own marks


@pytest.mark.parametrize("kind", KINDS)
def test_the_length_of_a_prompt_is_known_without_its_pixels(
    kind: str, media: tuple[Path, dict[str, Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FrameStore(media[0], _processor())
    expected = len(store.encode(media[1][kind]))
    fresh = FrameStore(media[0], _processor())
    monkeypatch.setattr(fresh, "load", None)
    assert fresh.prompt_length(media[1][kind]) == expected


def test_frames_of_a_clip_follow_the_store_then_the_record(media: tuple[Path, dict[str, Record]]) -> None:
    folder, records = media
    bare = records["choice"].model_copy(update={"video": records["choice"].video.model_copy(update={"frames": None})})
    counts = [
        len(FrameStore(folder, _processor(), frames=2).load(records["choice"])),
        len(FrameStore(folder, _processor()).load(records["choice"])),
        len(FrameStore(folder, _processor()).load(bare)),
    ]
    assert counts == [2, 3, 32]


def test_clips_sampled_in_two_ways_are_not_mixed_up(media: tuple[Path, dict[str, Record]]) -> None:
    folder, records = media
    store = FrameStore(folder, _processor())
    clip = records["choice"].video
    ways = [clip.model_copy(update={"frames": 2, "sampler": name}) for name in ("linspace-floor", "chunk-center")]
    ways.append(clip.model_copy(update={"frames": 3, "sampler": "chunk-center"}))
    seen = [store.load(records["choice"].model_copy(update={"video": way})) for way in ways]
    assert [len(images) for images in seen] == [2, 2, 3]
    assert seen[0][1].tobytes() != seen[1][1].tobytes()
    forced = FrameStore(folder, _processor(), frames=2, sampler="chunk-center").load(records["choice"])
    assert [image.tobytes() for image in forced] == [image.tobytes() for image in seen[1]]


def test_turned_pictures_are_set_upright(store: FrameStore, records: dict[str, Record]) -> None:
    turned, _ = store.load(records["text"])
    assert turned.size == (64, 48)  # a 72 x 96 picture that says it lies on its side
    upright = store.processor.size(picture(21, 72, 96).transpose(Image.Transpose.ROTATE_270))
    assert np.abs(np.asarray(turned, float) - np.asarray(upright, float)).mean() < 12  # JPEG


# The chat


@pytest.mark.parametrize(
    ("prompt", "frames", "tags", "expected"),
    [
        pytest.param("Where?", 2, False, [0, 1, "Where?"], id="no marks: frames first"),
        pytest.param("Where?", 0, False, ["Where?"], id="no frames"),
        pytest.param("<image>\n<image>\nWhere?", 2, False, [0, 1, "Where?"], id="a mark takes its line break along"),
        pytest.param("<image>\n\nWhere?", 1, False, [0, "\nWhere?"], id="one line break only"),
        pytest.param("a <image> b<image>", 2, False, ["a ", 0, " b", 1], id="in the text"),
        pytest.param("F: <image>G: <image>\nh", 2, False, ["F: ", 0, "G: ", 1, "h"], id="tags of the prompt"),
        pytest.param("Where?", 2, True, ["Frame-0: ", 0, "Frame-1: ", 1, "\nWhere?"], id="tags of ours"),
        pytest.param("<image>Where?", 1, True, [0, "Where?"], id="marks keep our tags away"),
    ],
)
def test_frames_stand_where_the_prompt_puts_them(prompt: str, frames: int, tags: bool, expected: list[Any]) -> None:
    (turn,) = chat(prompt, frames, tags=tags)
    assert turn["role"] == "user"
    places = iter(range(frames))
    assert [part["text"] if part["type"] == "text" else next(places) for part in turn["content"]] == expected


@pytest.mark.parametrize(
    ("prompt", "frames"),
    [
        pytest.param("<image> a", 2, id="one mark for two"),
        pytest.param("<image><image><image>", 2, id="three for two"),
        pytest.param("<image>", 0, id="one for none"),
        pytest.param("what is <|image_pad|>", 1, id="the token for pixels"),
        pytest.param("<|vision_start|>?", 1, id="the token before pixels"),
        pytest.param("<|vision_end|>?", 1, id="the token after pixels"),
        pytest.param("<|video_pad|>?", 1, id="the token for video"),
    ],
)
def test_a_prompt_that_does_not_fit_its_frames_is_refused(prompt: str, frames: int) -> None:
    with pytest.raises(PlacementError) as caught:
        chat(prompt, frames)
    assert "\n" not in caught.value.message


def test_a_record_that_does_not_fit_its_frames_is_named(store: FrameStore, records: dict[str, Record]) -> None:
    wrong = records["detection"].model_copy(update={"prompt": "<image> only one"})
    for use in (store.encode, store.prompt_length):
        with pytest.raises(DataError, match="record detection/0: its prompt has 1 <image> marks for 2 frames"):
            use(wrong)


# Answers and batches


def test_an_answer_ends_its_turn_and_carries_the_whole_loss(
    plain: Loaded, store: FrameStore, records: dict[str, Record]
) -> None:
    rows = [store.encode(records[kind]) for kind in ("number", "choice")]
    texts = ["12.5", '```json\n[\n\t\n]``` and "é"']
    answers = [encode_answer(plain.processor, text) for text in texts]
    batch = collate(rows, plain.pad, answers)
    end = plain.processor.tokenizer.eos_token_id
    for i, (row, answer, text) in enumerate(zip(rows, answers, texts, strict=True)):
        assert answer[-1] == end
        assert (answer == end).sum() == 1
        labels, ids, mask = (batch[name][i].numpy() for name in ("labels", "input_ids", "attention_mask"))
        taught = labels[labels != -100]
        assert plain.processor.tokenizer.decode(taught, skip_special_tokens=True) == text
        total = len(row) + len(answer)
        assert np.array_equal(np.nonzero(labels != -100)[0], np.arange(len(row), total))
        assert np.array_equal(ids[: len(row)], row.input_ids)
        assert mask.tolist() == [1] * total + [0] * (len(ids) - total)
        assert (ids[total:] == plain.pad).all()
        assert batch["mm_token_type_ids"][i, len(row) :].sum() == 0


def test_batches_for_generation_are_padded_on_the_left(
    plain: Loaded, store: FrameStore, records: dict[str, Record]
) -> None:
    rows = [store.encode(records[kind]) for kind in ("number", "grounding")]
    batch = collate(rows, plain.pad)
    width = max(len(row) for row in rows)
    assert batch.keys() == MODEL_INPUTS
    for i, row in enumerate(rows):
        gap = width - len(row)
        assert np.array_equal(batch["input_ids"][i, gap:].numpy(), row.input_ids)
        assert np.array_equal(batch["mm_token_type_ids"][i, gap:].numpy(), row.mm_token_type_ids)
        assert batch["attention_mask"][i].tolist() == [0] * gap + [1] * len(row)
        assert (batch["input_ids"][i, :gap] == plain.pad).all()
    assert batch["pixel_values"].numpy().tobytes() == b"".join(row.pixel_values.tobytes() for row in rows)
    assert batch["image_grid_thw"].tolist() == [grid for row in rows for grid in row.image_grid_thw.tolist()]


def test_a_prompt_without_marks_and_the_same_with_marks_are_one(plain: Loaded) -> None:
    images = [picture(1), picture(2)]
    asked = plain.prompt(prompts.vsibench_prompt("How far?", None), *images)
    marked = plain.prompt("<image>\n" * 2 + prompts.vsibench_prompt("How far?", None), *images)
    assert equal(asked, marked)


# Frames that are not right


def _bomb() -> bytes:
    """A PNG of a few bytes that says it has 10^10 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 99)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _as(kind: str, folder: Path) -> bytes:
    picture(1).save(folder / "other", format=kind)
    return (folder / "other").read_bytes()


def _half(suffix: str, folder: Path) -> bytes:
    picture(1).save(folder / f"whole{suffix}")
    data = (folder / f"whole{suffix}").read_bytes()
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("name", "make"),
    [
        pytest.param("gone.png", None, id="missing"),
        pytest.param("empty.png", lambda _: b"", id="empty"),
        pytest.param("text.jpg", lambda _: b"not a picture at all", id="text"),
        pytest.param("half.png", lambda folder: _half(".png", folder), id="half a PNG"),
        pytest.param("half.jpg", lambda folder: _half(".jpg", folder), id="half a JPEG"),
        pytest.param("gif.png", lambda folder: _as("GIF", folder), id="neither PNG nor JPEG"),
        pytest.param("bomb.png", lambda _: _bomb(), id="ten thousand million pixels"),
    ],
)
def test_a_bad_frame_is_named_with_its_record(name: str, make: Any, tmp_path: Path) -> None:
    if make is not None:
        (tmp_path / name).write_bytes(make(tmp_path))
    store, wrong = text_record(tmp_path, "what?", name)
    with pytest.raises(DataError) as caught:
        store.encode(wrong)
    assert "record text/0" in caught.value.message
    assert name in caught.value.message
    assert "\n" not in caught.value.message
    if name.startswith(("gone", "empty", "text", "gif", "bomb")):
        with pytest.raises(DataError, match="record text/0"):
            store.prompt_length(wrong)


def test_a_missing_frame_says_how_to_name_its_folder(tmp_path: Path) -> None:
    store, wrong = text_record(tmp_path, "what?", "gone.png")
    with pytest.raises(DataError) as caught:
        store.encode(wrong)
    assert caught.value.hint is not None
    assert "--media-root" in caught.value.hint


@pytest.mark.parametrize("name", ["../up.png", "/etc/passwd", "a\\b.png"])
def test_frames_outside_the_media_root_are_refused(name: str, tmp_path: Path) -> None:
    store, wrong = text_record(tmp_path, "what?", name)
    with pytest.raises(DataError, match="media root"):
        store.encode(wrong)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    for suffix in ("png", "jpg"):
        turned = Image.Exif()
        turned[0x0112] = 3
        picture(1, 32, 24).save(folder / f"whole.{suffix}", exif=turned)
    return folder


@given(
    suffix=st.sampled_from(["png", "jpg"]),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    keep=st.one_of(st.just(1.0), st.floats(0, 1)),
)
@settings(max_examples=80, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_pictures_are_read_or_refused_in_one_line(
    suffix: str, edits: list[tuple[float, int]], keep: float, damaged: Path
) -> None:
    data = bytearray((damaged / f"whole.{suffix}").read_bytes())
    for where, value in edits:
        data[int(where * len(data))] = value
    (damaged / f"now.{suffix}").write_bytes(data[: int(keep * len(data))])
    store = FrameStore(damaged, _PROCESSOR)
    messages = []
    for use in (store.load, store.prompt_length):
        try:
            use(record("text", [f"now.{suffix}"], "what?", {"references": ["x"]}))
        except DataError as error:
            messages.append(error.message)
    assert all("record text/0" in message and "\n" not in message for message in messages)


_PROCESSOR = _processor()
