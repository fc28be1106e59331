from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_fixtures import Loaded, picture
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from rft3d_cli.models import tiny
from rft3d_cli.models.loader import load_processor
from rft3d_cli.models.processor import KEY, FrameProcessor, size_frame
from rft3d_cli.models.sizing import frame_size

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])
"""OpenAI CLIP's, which Qwen uses."""


@pytest.fixture(scope="module")
def processor(plain: Loaded) -> FrameProcessor:
    return plain.processor


@pytest.fixture(scope="module")
def qwen(processor: FrameProcessor) -> FrameProcessor:
    """Qwen2.5-VL's own patches, as the public checkpoints have them."""
    images = Qwen2VLImageProcessorPil(patch_size=14, temporal_patch_size=2, merge_size=2, min_pixels=256 * 28 * 28)
    return FrameProcessor(images, processor.tokenizer)


def test_it_works_where_torchvision_is_not(elsewhere: tuple[Path, CompletedProcess[str]]) -> None:
    assert (elsewhere[1].returncode, elsewhere[1].stderr) == (0, "")


# Sizes


@pytest.mark.parametrize(
    ("source", "cut", "tokens"),
    [
        pytest.param((1296, 968), (504, 392), 252, id="ScanNet colour"),
        pytest.param((640, 480), (504, 392), 252, id="ScanNet depth size"),
        pytest.param((1920, 1080), (504, 280), 180, id="16:9"),
        pytest.param((1752, 1168), (504, 336), 216, id="ScanNet++"),
        pytest.param((800, 800), (504, 504), 324, id="square"),
        pytest.param((1080, 1920), (504, 504), 324, id="portrait"),
    ],
)
def test_public_sizes_are_those_of_the_public_checkpoints(
    source: tuple[int, int], cut: tuple[int, int], tokens: int, qwen: FrameProcessor
) -> None:
    # min_pixels is larger than some of these frames: it must not enlarge them.
    assert qwen.frame_tokens(*source) == tokens
    values, grid = qwen.patches(Image.new("RGB", source))
    assert tuple(grid) == (1, cut[1] // 14, cut[0] // 14)
    assert len(values) == 4 * tokens


@given(width=st.integers(1, 3000), height=st.integers(1, 3000), tiny_sized=st.booleans())
@settings(max_examples=200, deadline=None)
@example(width=3000, height=1, tiny_sized=True)
@example(width=1, height=3000, tiny_sized=False)
def test_a_frame_keeps_its_aspect_is_whole_tokens_and_is_sized_once(width: int, height: int, tiny_sized: bool) -> None:
    wide, patch, merge = (64, 8, 2) if tiny_sized else (518, 14, 2)
    resized, cut = frame_size(width, height, wide, patch, merge)
    assert resized[0] == wide
    # Aspect to within half a patch, but never less than one token.
    assert resized[1] == patch * merge or abs(resized[1] - height * wide / width) <= patch / 2
    assert all(side % (patch * merge) == 0 and side > 0 for side in cut)
    assert all(0 <= whole - part < patch * merge for whole, part in zip(resized, cut, strict=True)) or height > width
    assert max(cut) <= wide
    # Stores size frames on reading and the processor sizes what it is given: the second time must change nothing.
    assert frame_size(*cut, wide, patch, merge)[1] == cut


@pytest.mark.parametrize("size", [(96, 72), (64, 48), (50, 80), (64, 128), (200, 20)], ids=str)
def test_sizing_twice_changes_nothing(size: tuple[int, int], processor: FrameProcessor) -> None:
    once = processor.size(picture(1, *size))
    assert processor.size(once).tobytes() == once.tobytes()
    assert processor.frame_tokens(*size) == once.width * once.height // 256


@pytest.mark.parametrize("width", [64, 65, 128], ids=lambda w: f"{w} wide")
def test_a_tall_frame_keeps_its_middle(width: int) -> None:
    image = Image.new("RGB", (width, 2 * width), (255, 0, 0))
    image.paste((0, 0, 255), (0, width // 2, width, width + width // 2))
    middle = np.asarray(size_frame(image, 64, 8, 2))
    assert middle.shape == (64, 64, 3)
    # The seam is blurred where the frame is resized.
    assert (middle[4:-4] == (0, 0, 255)).all()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "I;16"])
def test_pictures_of_any_mode_become_rgb(mode: str, processor: FrameProcessor) -> None:
    image = Image.new(mode, (32, 24))
    sized = processor.size(image)
    assert (sized.mode, sized.size) == ("RGB", (64, 48))


# Patches


def test_patches_are_the_pixels_normalised_and_cut_up(processor: FrameProcessor) -> None:
    image = picture(4)
    values, grid = processor.patches(image)
    assert values.dtype == np.float32
    assert grid.tolist() == [1, 6, 8]
    pixels = (np.asarray(image) / 255 - MEAN) / STD
    # Rows of tokens, tokens, the 2 x 2 patches of a token, then channel, two equal moments, and the patch's pixels.
    row = 0
    for token_y in range(3):
        for token_x in range(4):
            for y in (2 * token_y, 2 * token_y + 1):
                for x in (2 * token_x, 2 * token_x + 1):
                    patch = pixels[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].transpose(2, 0, 1)
                    expected = np.repeat(patch[:, None], 2, axis=1).reshape(-1)
                    np.testing.assert_allclose(values[row], expected, atol=1e-5)
                    row += 1
    assert row == len(values)


def test_several_frames_are_their_patches_in_order(processor: FrameProcessor) -> None:
    images = [picture(1), picture(2, 64, 64), picture(3, 64, 16)]
    text = "a<|image_pad|>b<|image_pad|><|image_pad|>c"
    out = processor(images=[images], text=[text], return_tensors="np")
    grids = out["image_grid_thw"]
    assert grids.tolist() == [[1, 6, 8], [1, 8, 8], [1, 2, 8]]
    assert len(out["pixel_values"]) == grids.prod(axis=1).sum()
    alone = np.concatenate([processor.patches(image)[0] for image in images])
    assert out["pixel_values"].tobytes() == alone.tobytes()
    ids, kinds = out["input_ids"][0], out["mm_token_type_ids"][0]
    assert (ids == processor.image_token_id).sum() == grids.prod(axis=1).sum() // 4 == 12 + 16 + 4
    assert np.array_equal(kinds, (ids == processor.image_token_id).astype(int))


def test_a_named_frame_is_computed_once_and_an_unnamed_one_each_time(
    processor: FrameProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    images = processor.image_processor

    def count(frames: Any, **options: Any) -> Any:
        calls.append(frames)
        return images(frames, **options)

    monkeypatch.setattr(processor, "image_processor", _Counting(images, count))
    named, unnamed = picture(1), picture(2)
    named.info[KEY] = "test_processor/named"
    first = processor.patches(named)
    assert processor.patches(named)[0] is first[0]
    assert len(calls) == 1
    assert processor.patches(unnamed)[0].tobytes() == processor.patches(unnamed)[0].tobytes()
    assert len(calls) == 3


class _Counting:
    def __init__(self, inner: Any, call: Any) -> None:
        self._inner, self._call = inner, call

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._call(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_a_frame_keeps_its_name_when_it_is_sized(processor: FrameProcessor) -> None:
    image = picture(1, 100, 80)
    image.info[KEY] = "a name"
    assert processor.size(image).info == {KEY: "a name"}
    assert processor.size(picture(1, 100, 80)).info == {}


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        pytest.param("<|image_pad|>", 2, id="fewer places"),
        pytest.param("<|image_pad|><|image_pad|>", 1, id="more places"),
        pytest.param("", 1, id="no place"),
    ],
)
def test_places_and_frames_must_be_as_many(text: str, frames: int, processor: FrameProcessor) -> None:
    with pytest.raises(ValueError, match="images"):
        processor(images=[[picture(i) for i in range(frames)]], text=[text], return_tensors="np")


# Files


def test_saved_and_loaded_it_makes_equal_bits(processor: FrameProcessor, tmp_path: Path) -> None:
    written = tiny.build_processor()
    tiny.build_config(written.tokenizer).save_pretrained(tmp_path)
    written.save_pretrained(tmp_path)
    read = load_processor(tmp_path)
    assert (read.frame_width, read.chat_template) == (written.frame_width, written.chat_template)
    assert read.max_length == 4096
    call = {"images": [[picture(1, 96, 72)]], "text": ["see <|image_pad|> there"], "return_tensors": "np"}
    a, b = written(**call), read(**call)
    assert a.keys() == b.keys() >= {"input_ids", "mm_token_type_ids", "pixel_values", "image_grid_thw"}
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_without_a_stated_width_frames_are_37_patches_wide(plain_dir: Path, tmp_path: Path) -> None:
    for path in plain_dir.iterdir():
        if path.name != "processor_config.json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    read = load_processor(tmp_path)
    assert read.frame_width == 37 * 8


def test_transformers_finds_a_known_processor_class_in_the_folder(plain_dir: Path) -> None:
    config = json.loads((plain_dir / "processor_config.json").read_text())
    assert config == {"processor_class": "Qwen2_5_VLProcessor", "frame_width": 64}
