from __future__ import annotations

import hashlib
from pathlib import Path

import av
import numpy as np
import pytest
from video_clips import number_in, picture

from rft3d_cli.errors import DataError, SetupError, UsageError
from rft3d_cli.video import probe, read_frames, write_mp4


def test_a_written_clip_reads_back(tmp_path: Path) -> None:
    clip = tmp_path / "new" / "out.mp4"
    write_mp4(clip, (picture(number) for number in range(40)), 10)
    read = read_frames(clip, 40)
    assert [number_in(image) for image in read.images] == list(range(40))
    assert read.times == pytest.approx([n / 10 for n in range(40)])
    assert [path.name for path in clip.parent.iterdir()] == ["out.mp4"]
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
    data = clip.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_colours_survive(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (40, 120, 200)]
    image = np.concatenate([np.full((32, 16, 3), colour, np.uint8) for colour in colours], axis=1)
    write_mp4(tmp_path / "a.mp4", [image], 5, crf=1)
    (back,) = read_frames(tmp_path / "a.mp4", 1).images
    for place, colour in enumerate(colours):
        assert np.abs(back[16, 16 * place + 8].astype(int) - colour).max() <= 4


def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    # This size and length bring out encoder settings that are not repeatable.
    pictures = [picture(number, 226, 130) for number in range(60)]
    sums = set()
    for name in ("a.mp4", "b.other", "c", "d", "e", "f"):
        write_mp4(tmp_path / name, pictures, 29.97)
        sums.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(sums) == 1


@pytest.mark.parametrize(("height", "width"), [(63, 96), (64, 95), (63, 95), (1, 1)])
def test_odd_sizes_grow_by_a_copy_of_the_edge(height: int, width: int, tmp_path: Path) -> None:
    image = picture(5)[-height:, :width]
    write_mp4(tmp_path / "a.mp4", [image], 5, crf=1)
    (back,) = read_frames(tmp_path / "a.mp4", 1).images
    assert back.shape == (height + height % 2, width + width % 2, 3)
    grown = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    assert np.abs(back.astype(int) - grown).mean() < 6


@pytest.mark.parametrize("fps", [0.5, 1, 7.3, 29.97, 30000 / 1001, 240])
def test_rates_are_kept(fps: float, tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", [picture(0)] * 3, fps)
    info = probe(tmp_path / "a.mp4")
    assert info.frames == 3
    assert info.rate == pytest.approx(fps, rel=1e-4)


GOOD = picture(0)


@pytest.mark.parametrize(
    ("pictures", "options", "error", "words"),
    [
        pytest.param([], {}, DataError, "at least one image", id="nothing"),
        pytest.param([GOOD, GOOD[:8]], {}, DataError, "image 1 has the shape", id="two sizes"),
        pytest.param([GOOD / 255], {}, DataError, "float64", id="floats"),
        pytest.param([GOOD[..., 0]], {}, DataError, "image 0", id="grey"),
        pytest.param([GOOD[:0]], {}, DataError, "image 0", id="empty"),
        pytest.param([np.zeros((2, 20_000, 3), np.uint8)], {}, DataError, "20000 × 2", id="too wide"),
        pytest.param([GOOD], {"fps": 0}, UsageError, "0 frames a second", id="no rate"),
        pytest.param([GOOD], {"fps": float("inf")}, UsageError, "inf", id="endless rate"),
        pytest.param([GOOD], {"crf": 52}, UsageError, "crf 52", id="quality out of range"),
    ],
)
def test_what_cannot_be_written_leaves_the_old_file(pictures, options, error, words, tmp_path: Path) -> None:
    clip = tmp_path / "out.mp4"
    clip.write_text("old")
    with pytest.raises(error, match=words):
        write_mp4(clip, pictures, **{"fps": 5, **options})
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert clip.read_text() == "old"


def test_a_failing_source_of_images_leaves_nothing(tmp_path: Path) -> None:
    def failing():
        yield GOOD
        raise RuntimeError("the model stopped")

    with pytest.raises(RuntimeError, match="the model stopped"):
        write_mp4(tmp_path / "out.mp4", failing(), 5)
    assert list(tmp_path.iterdir()) == []


def test_a_build_without_h264_is_a_setup_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    with pytest.raises(SetupError, match=r"H\.264"):
        write_mp4(tmp_path / "out.mp4", [GOOD], 5)
