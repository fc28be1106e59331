from __future__ import annotations

import hashlib
from pathlib import Path

import av
import numpy as np
import pytest
from video_clips import number_in, picture

from rft3d_cli.errors import DataError, SetupError, UsageError
from rft3d_cli.video import open_video_sets, probe, read_frames, stream_frames, write_mp4, write_timed_mp4


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


def test_frames_keep_their_own_times(tmp_path: Path) -> None:
    times = [5.0, 5.1, 5.15, 5.9, 6.0, 7.3, 7.31]
    frames = ((seconds, picture(number)) for number, seconds in enumerate(times))
    write_timed_mp4(tmp_path / "a.mp4", frames, 10, preset="veryfast")
    back = read_frames(tmp_path / "a.mp4", len(times))
    assert back.times == pytest.approx([seconds - 5 for seconds in times], abs=1e-4)
    assert back.info.duration == pytest.approx(7.31 - 5 + 0.1, abs=1e-3)
    assert [number_in(image) for image in back.images] == list(range(len(times)))


@pytest.mark.parametrize("times", [[0, 0], [1, 0.5], [0, 0.1, 0.1]])
def test_times_that_do_not_ascend_are_refused(times: list[float], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not after the one before"):
        write_timed_mp4(tmp_path / "a.mp4", ((seconds, GOOD) for seconds in times), 10)
    assert list(tmp_path.iterdir()) == []


def test_frames_are_streamed_one_by_one_and_those_that_are_wanted(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", (picture(number) for number in range(40)), 10)
    seen: list[list[float]] = []

    def odd(times: list[float]) -> list[int]:
        seen.append(list(times))
        return list(range(1, 40, 2))

    stream = stream_frames(tmp_path / "a.mp4", odd, size=(192, 128))
    number, seconds, image = next(stream)
    assert (number, seconds, image.shape) == (1, pytest.approx(0.1), (128, 192, 3))
    assert seen == [pytest.approx([n / 10 for n in range(40)])]
    assert [number for number, *_ in stream] == list(range(3, 40, 2))
    whole = read_frames(tmp_path / "a.mp4", 40).images
    streamed = list(stream_frames(tmp_path / "a.mp4", lambda times: range(len(times))))
    assert all(np.array_equal(image, whole[number]) for number, _, image in streamed)


def test_memory_does_not_grow_with_a_streamed_clip(tmp_path: Path) -> None:
    import tracemalloc

    write_mp4(tmp_path / "a.mp4", (picture(number % 50, 320, 240) for number in range(200)), 30)
    tracemalloc.start()
    for number, _, _ in stream_frames(tmp_path / "a.mp4", lambda times: range(len(times))):
        if number == 20:
            early = tracemalloc.get_traced_memory()[0]
    late, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    one = 320 * 240 * 3
    assert late < early + 5 * one
    assert peak < 20 * one


def test_a_streamed_folder_brings_images_to_the_first_one_s_size(tmp_path: Path) -> None:
    from PIL import Image

    for name, size in (("0.png", (8, 6)), ("1.png", (16, 12)), ("2.png", (8, 6))):
        Image.new("RGB", size, (9, 9, 9)).save(tmp_path / name)
    found = list(stream_frames(tmp_path, lambda times: [0, 1, 2]))
    assert [(number, seconds, image.shape) for number, seconds, image in found] == [
        (0, 0.0, (6, 8, 3)), (1, 1.0, (6, 8, 3)), (2, 2.0, (6, 8, 3)),
    ]  # fmt: skip


def test_several_samplings_are_each_what_they_are_alone(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", (picture(number) for number in range(40)), 10)
    sets = open_video_sets(tmp_path / "a.mp4", [3, 7, 50])
    for frames, found in zip([3, 7, 50], sets, strict=True):
        alone = read_frames(tmp_path / "a.mp4", frames)
        assert (found.indices, found.times, found.notes) == (alone.indices, alone.times, alone.notes)
        assert all(np.array_equal(a, b) for a, b in zip(found.images, alone.images, strict=True))
    assert sets[0].images[0] is sets[1].images[0]


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
