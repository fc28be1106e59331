from __future__ import annotations

import random
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image
from video_clips import COUNT, HEIGHT, WIDTH, copy_stream, decoded, hum, make, number_in, picture

from rft3d_cli import _video_plan as plan
from rft3d_cli.errors import DataError, UsageError
from rft3d_cli.video import open_video, probe, read_folder, read_frames

X264 = {"closed": "keyint=12", "long": "keyint=250", "open": "open-gop=1:keyint=12", "plain": "keyint=12:bframes=0"}
VARIABLE = list(np.cumsum([0] + [20 + 37 * (number % 5) for number in range(COUNT - 1)]).tolist())


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    made = {
        name: make(
            folder / f"{name}.mp4", options={"x264-params": f"{params}:bframes=3" if "b" not in params else params}
        )
        for name, params in X264.items()
    }
    refresh = {"x264-params": "intra-refresh=1:keyint=15:bframes=0"}
    made |= {
        "variable": make(folder / "variable.mp4", times=VARIABLE),
        "refresh": make(folder / "refresh.ts", options=refresh),
        "avi": make(folder / "b.avi"),
        "mpeg4": make(folder / "mpeg4.avi", codec="mpeg4"),
        "hevc": make(folder / "hevc.mp4", codec="libx265", options={"x265-params": "keyint=12:log-level=none"}),
        "vp9": make(
            folder / "vp9.webm", codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8", "g": "12"}
        ),
        "raw": make(folder / "raw.h264"),
        "sound": make(folder / "sound.mp4", sound=True),
        "front": make(folder / "front.mp4", container={"movflags": "faststart"}),
        "mkv": copy_stream(made["closed"], folder / "closed.mkv"),
        "late": copy_stream(made["closed"], folder / "late.mkv", shift=90),
        "ts": copy_stream(made["closed"], folder / "closed.ts"),
        "fragments": copy_stream(
            made["closed"], folder / "fragments.mp4", container={"movflags": "frag_keyframe+empty_moov"}
        ),
        "cut": copy_stream(made["closed"], folder / "cut.mp4", shift=-17),
    }
    return made


EXACT = [
    *X264,
    "variable",
    "refresh",
    "avi",
    "mpeg4",
    "hevc",
    "vp9",
    "raw",
    "sound",
    "front",
    "mkv",
    "late",
    "ts",
    "fragments",
]


# Reading clips


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        pytest.param({"sampler": "linspace-flor"}, ("linspace-flor", "linspace-floor"), id="near a name"),
        pytest.param({"sampler": "uniform"}, ("uniform", "chunk-center"), id="far from all"),
        pytest.param({"frames": 0}, ("0 frames",), id="no frames"),
        pytest.param({"fps": 0.0, "sampler": "fps"}, ("0.0",), id="no rate"),
        pytest.param({"fps": float("nan"), "sampler": "fps"}, ("nan",), id="rate not a number"),
        pytest.param({"size": (0, 4)}, ("0 × 4",), id="empty size"),
        pytest.param({"size": (4, 99_999)}, ("4 × 99999",), id="huge size"),
        pytest.param({"threads": 0}, ("0 decoding threads",), id="no threads"),
    ],
)
def test_wrong_requests_are_usage_errors_before_any_file_is_touched(request_, words, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        read_frames(tmp_path / "absent.mp4", **{"frames": 4, **request_})
    for word in words:
        assert word in f"{raised.value.message} {raised.value.hint}"


@pytest.mark.parametrize("name", EXACT)
def test_frames_are_the_right_ones_and_equal_a_full_decode(name: str, clips: dict[str, Path]) -> None:
    whole = decoded(clips[name])
    assert len(whole) == COUNT
    for frames in (1, 5, 16, COUNT):
        read = read_frames(clips[name], frames)
        assert read.indices == np.linspace(0, COUNT - 1, frames).astype(int).tolist()
        assert [number_in(image) for image in read.images] == read.indices
        assert all(np.array_equal(image, whole[index]) for image, index in zip(read.images, read.indices, strict=True))
        assert (read.damaged, read.notes) == (False, [])
        assert (read.info.frames, read.info.width, read.info.height) == (COUNT, WIDTH, HEIGHT)


@pytest.mark.parametrize("name", ["closed", "long", "open", "hevc", "ts", "avi"])
def test_threads_change_nothing(name: str, clips: dict[str, Path]) -> None:
    one, two = (read_frames(clips[name], 9, threads=threads) for threads in (1, 2))
    assert one.indices == two.indices
    assert all(np.array_equal(a, b) for a, b in zip(one.images, two.images, strict=True))


def test_large_files_are_read_twice_to_the_same_end(clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    held = read_frames(clips["open"], 7)
    monkeypatch.setattr(plan, "_HOLD_BYTES", 0)
    streamed = read_frames(clips["open"], 7)
    assert plan.read_timeline(clips["open"]).packets is None
    assert all(np.array_equal(a, b) for a, b in zip(held.images, streamed.images, strict=True))


def test_no_frame_costs_more_than_its_group_of_pictures(clips: dict[str, Path], monkeypatch) -> None:
    fed = []
    feed = plan._feed
    monkeypatch.setattr(plan, "_feed", lambda *args: fed.append(args[1]) or feed(*args))
    timeline = plan.read_timeline(clips["closed"])
    for number in range(COUNT):
        ((found, frame, exact),) = plan.decode_frames(clips["closed"], timeline, [number], 1, plan.Faults())
        assert (found, exact, number_in(frame.to_ndarray(format="rgb24"))) == (number, True, number)
        assert sum(packet is not None for packet in fed) <= 12
        fed.clear()


def test_a_clip_cut_by_an_edit_list_shows_only_what_players_show(clips: dict[str, Path]) -> None:
    whole = decoded(clips["cut"])
    numbers = [number_in(image) for image in whole]
    assert numbers == list(range(17, COUNT))
    read = read_frames(clips["cut"], 10)
    assert [number_in(image) for image in read.images] == [numbers[index] for index in read.indices]
    assert all(np.array_equal(image, whole[index]) for image, index in zip(read.images, read.indices, strict=True))
    assert read.info.frames == len(numbers)


def test_times_are_those_of_the_file(clips: dict[str, Path]) -> None:
    assert read_frames(clips["closed"], COUNT).times == pytest.approx([n / 30 for n in range(COUNT)])
    assert read_frames(clips["variable"], COUNT).times == pytest.approx([t / 1000 for t in VARIABLE])
    assert read_frames(clips["avi"], COUNT).times == pytest.approx([n / 30 for n in range(COUNT)])
    assert read_frames(clips["late"], 2).times == pytest.approx([3.0, 3.0 + 59 / 30], abs=1e-3)


def test_the_clock_follows_the_times_of_a_variable_rate(clips: dict[str, Path]) -> None:
    read = read_frames(clips["variable"], 32, "fps", fps=2)
    seconds = np.array(VARIABLE) / 1000
    expected = [int(np.abs(seconds - tick).argmin()) for tick in np.arange(0, seconds[-1], 0.5)]
    assert read.indices == expected
    assert [number_in(image) for image in read.images] == expected


def test_a_size_is_reached_straight_from_the_coded_colours(clips: dict[str, Path]) -> None:
    read = read_frames(clips["closed"], 3, size=(48, 80))
    with av.open(str(clips["closed"])) as container:
        first = next(container.decode(video=0)).reformat(48, 80, "rgb24", interpolation="BICUBIC").to_ndarray()
    assert np.array_equal(read.images[0], first)
    assert (read.info.width, read.info.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize(("stored", "turns"), [(0, 0), (90, 1), (180, 2), (-90, 3)])
def test_rotated_clips_are_turned_upright(stored: int, turns: int, tmp_path: Path) -> None:
    clip = make(tmp_path / "turned.mp4", 5, rotation=stored)
    read = read_frames(clip, 5)
    assert [number_in(np.rot90(image, -turns)) for image in read.images] == read.indices
    assert all(np.array_equal(np.rot90(a, turns), b) for a, b in zip(decoded(clip), read.images, strict=True))
    assert all(image.flags.c_contiguous for image in read.images)
    assert (read.info.height, read.info.width) == read.images[0].shape[:2]
    assert read.info.rotation == turns * 90
    assert read_frames(clip, 1, size=(40, 24)).images[0].shape == (24, 40, 3)
    assert probe(clip) == read.info


@pytest.mark.parametrize("count", [1, 3])
def test_short_clips_repeat_and_say_so(count: int, tmp_path: Path) -> None:
    read = read_frames(make(tmp_path / "short.mp4", count), 8)
    assert read.indices == np.linspace(0, count - 1, 8).astype(int).tolist()
    assert [number_in(image) for image in read.images] == read.indices
    assert read.images[0] is read.images[1]
    assert read.notes == [f"8 frames asked of a clip of {count}: some are repeated"]
    assert not read.damaged


def test_animations_are_clips_too(tmp_path: Path) -> None:
    read = read_frames(make(tmp_path / "a.gif", 6, codec="gif"), 6)
    assert [number_in(image) for image in read.images] == list(range(6))


@pytest.mark.parametrize(
    ("name", "codec", "duration"),
    [
        ("closed", "h264", 2.0),
        ("hevc", "hevc", 2.0),
        ("vp9", "vp9", 2.0),
        ("raw", "h264", 2.4),
        ("mpeg4", "mpeg4", 2.0),
    ],
)
def test_probe_describes(name: str, codec: str, duration: float, clips: dict[str, Path]) -> None:
    info = probe(clips[name])
    assert (info.width, info.height, info.frames, info.codec) == (WIDTH, HEIGHT, COUNT, codec)
    assert info.duration == pytest.approx(duration, abs=2e-3)
    assert info.rate == pytest.approx(COUNT / duration, rel=2e-3)
    assert (info.rotation, info.damaged) == (0, False)


def test_open_video_reads_clips_and_folders(clips: dict[str, Path], images: Path) -> None:
    assert open_video(clips["closed"], 3).info.codec == "h264"
    assert open_video(str(images), 3).info.codec == "images"


# Damaged and foreign files


@pytest.mark.parametrize(
    ("name", "damaged", "note"),
    [
        pytest.param("front", True, "cut off", id="mp4 with its index in front"),
        pytest.param("mkv", False, "may be cut short", id="matroska announces more"),
        pytest.param("ts", False, "", id="a transport stream has no end to miss"),
    ],
)
def test_truncated_clips_give_what_is_left(name, damaged, note, clips: dict[str, Path], tmp_path: Path) -> None:
    data = clips[name].read_bytes()
    torn = tmp_path / f"torn{clips[name].suffix}"
    torn.write_bytes(data[: len(data) * 3 // 4])
    read = read_frames(torn, 8)
    left = read.info.frames
    assert COUNT // 3 < left < COUNT
    assert [number_in(image) for image in read.images[:-1]] == read.indices[:-1]
    assert read.damaged == damaged
    assert note in " ".join(read.notes)
    assert probe(torn).frames == left


def test_a_destroyed_frame_is_replaced_by_the_one_before_it(tmp_path: Path) -> None:
    source = make(tmp_path / "source.mp4", 12, options={"x264-params": "keyint=1"})
    broken = copy_stream(
        source, tmp_path / "broken.mp4", edit=lambda number, data: bytes(40) if number in (0, 7) else None
    )
    read = read_frames(broken, 12)
    assert [number_in(image) for image in read.images] == [1, 1, 2, 3, 4, 5, 6, 6, 8, 9, 10, 11]
    assert read.damaged
    assert read.info.damaged
    assert any("frames 0, 7" in note for note in read.notes)
    assert probe(broken).damaged
    spared = read_frames(broken, 2, "chunk-center")
    assert (spared.indices, spared.damaged) == ([3, 9], False)


def test_pictures_with_flipped_bits_are_told(clips: dict[str, Path], tmp_path: Path) -> None:
    def flip(number: int, data: bytes) -> bytes | None:
        half = len(data) // 2
        return data[:half] + bytes(byte ^ 0xFF for byte in data[half:]) if number == 30 else None

    flipped = copy_stream(clips["plain"], tmp_path / "flipped.mp4", edit=flip)
    read = read_frames(flipped, COUNT)
    assert (read.indices, read.damaged) == (list(range(COUNT)), True)
    assert any("damaged" in note for note in read.notes)
    later = read_frames(flipped, 1, "chunk-center")  # Frame 30 itself.
    assert later.damaged
    assert not read_frames(flipped, 2).damaged


def test_a_clip_of_which_nothing_decodes_is_refused(tmp_path: Path) -> None:
    source = make(tmp_path / "source.mp4", 4, options={"x264-params": "keyint=1"})
    broken = copy_stream(source, tmp_path / "broken.mp4", edit=lambda number, data: bytes(40))
    for read in (probe, lambda path: read_frames(path, 2)):
        with pytest.raises(DataError, match=r"broken\.mp4 is damaged"):
            read(broken)


def foreign(kind: str, folder: Path, clips: dict[str, Path]) -> Path:
    path = folder / "clip.mp4"
    if kind == "folder":
        path.mkdir()
        (path / "notes.txt").write_text("nothing to see")
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("hello\n" * 500)
    elif kind == "terminal":
        path = folder / "notes.txt"
        path.write_text("hello\n" * 500)
    elif kind == "playlist":
        path.write_text(f"ffconcat version 1.0\nfile {clips['closed']}\n")
    elif kind == "image":
        path = folder / "photo.jpg"
        Image.new("RGB", (8, 8)).save(path)
    elif kind == "no index":
        path.write_bytes(clips["closed"].read_bytes()[:2000])
    elif kind == "torn index":
        path.write_bytes(clips["front"].read_bytes()[:200])
    elif kind in ("sound", "cover"):
        with av.open(str(path), "w") as output:
            track = output.add_stream("aac", rate=44100)
            if kind == "cover":
                cover = output.add_stream("mjpeg", rate=1)
                cover.width, cover.height, cover.pix_fmt = 16, 16, "yuvj420p"
                cover.disposition = Disposition.attached_pic
            hum(output, track)
            if kind == "cover":
                output.mux(cover.encode(av.VideoFrame(16, 16, "yuvj420p")))
                output.mux(cover.encode(None))
    elif kind == "no frames":
        with av.open(str(path), "w", format="avi") as output:
            stream = output.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
            output.start_encoding()
    elif kind == "wide":
        path = folder / "wide.mkv"
        with av.open(str(path), "w") as output:
            stream = output.add_stream("mjpeg", rate=1)
            stream.width, stream.height, stream.pix_fmt = 16_400, 16, "yuvj420p"
            output.mux(stream.encode(av.VideoFrame(16_400, 16, "yuvj420p")))
            output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("kind", "message", "hint"),
    [
        ("missing", "does not exist", None),
        ("folder", "is a folder", None),
        ("empty", "is empty", "again"),
        ("text", "is not a video", "mp4"),
        ("terminal", "is not a video", "mp4"),
        ("playlist", "is not a video", "mp4"),
        ("image", "is not a video", "folder"),
        ("no index", "has no index (moov)", "again"),
        ("torn index", "has no index (moov)", "again"),
        ("sound", "has no video stream, only sound", None),
        ("cover", "has no video stream, only a cover picture", None),
        ("no frames", "holds no frames", None),
        ("wide", "has frames of 16400 × 16 pixels", "scale"),
    ],
)
def test_foreign_files_are_refused_in_one_line(kind, message, hint, clips, tmp_path: Path, capfd) -> None:
    path = foreign(kind, tmp_path, clips)
    capfd.readouterr()  # Encoders are not silent.
    for read in (probe, lambda path: read_frames(path, 4)):
        with pytest.raises(DataError) as raised:
            read(path)
        assert raised.value.message.startswith(f"{path} {message}")
        assert "\n" not in raised.value.message
        assert hint is None or hint in raised.value.hint
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["x" * 300, "nul\0.mp4", "absent/clip.mp4"])
def test_impossible_paths_are_data_errors(name: str, tmp_path: Path) -> None:
    for read in (read_frames, read_folder, open_video):
        with pytest.raises(DataError):
            read(tmp_path / name, 4)


@pytest.mark.parametrize("name", ["a:b.mp4", "50%d.mp4", "-.mp4", "http:x.mp4", "naïve clip.mp4"])
def test_names_are_names_and_not_addresses(name: str, clips: dict[str, Path], tmp_path: Path, monkeypatch) -> None:
    (tmp_path / name).write_bytes(clips["closed"].read_bytes())
    monkeypatch.chdir(tmp_path)
    assert read_frames(name, 2).indices == [0, COUNT - 1]


def test_endless_clips_are_refused(clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "MAX_FRAMES", COUNT - 1)
    for name in ("closed", "avi"):
        with pytest.raises(DataError, match=f"more than {COUNT - 1} frames"):
            probe(clips[name])


@pytest.mark.parametrize("name", ["closed", "ts", "mkv", "avi", "fragments"])
def test_mutated_files_never_fail_in_another_way(name: str, clips: dict[str, Path], tmp_path: Path) -> None:
    chance = random.Random(name)
    data = clips[name].read_bytes()
    mutant = tmp_path / "mutant"
    intact = 0
    for _ in range(25):
        changed = bytearray(data)
        for _ in range(chance.choice([1, 4, 30])):
            changed[chance.randrange(len(data))] = chance.randrange(256)
        mutant.write_bytes(changed[: chance.choice([len(data), chance.randrange(len(data))])])
        with suppress(DataError):
            read = read_frames(mutant, 4)
            assert len(read.images) == len(read.times) == 4
            assert all(image.shape == (read.info.height, read.info.width, 3) for image in read.images)
            intact += 1
    assert intact > 0


# Folders


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(picture(number)).save(folder / f"frame_{number}.png")
    Image.fromarray(picture(99)).save(folder / ".frame_0.png")
    (folder / "frame_0.txt").write_text("a note")
    return folder


def test_a_folder_is_a_clip_of_one_frame_a_second_in_order_of_number(images: Path) -> None:
    read = read_folder(images, 12)
    assert [number_in(image) for image in read.images] == list(range(12))
    assert read.times == [float(n) for n in range(12)]
    assert (read.info.frames, read.info.duration, read.info.rate) == (12, 12.0, 1.0)
    assert read_folder(images, 4, "fps", fps=0.5).indices == [0, 2, 6, 10]
    assert read_folder(images, 3, "chunk-center").times == [2.0, 6.0, 10.0]


def test_only_the_chosen_images_are_opened(images: Path) -> None:
    (images / "frame_5.png").write_text("broken")
    assert read_folder(images, 2).indices == [0, 11]
    with pytest.raises(DataError, match=r"frame_5\.png cannot be read as an image"):
        read_folder(images, 12)


def test_a_small_folder_repeats_and_says_so(images: Path) -> None:
    read = read_folder(images, 24)
    assert len(read.images) == 24
    assert read.notes == ["24 frames asked of a clip of 12: some are repeated"]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_images_of_any_kind_come_as_rgb(mode: str, tmp_path: Path) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (6, 4)).save(tmp_path / f"a.{suffix.upper()}", format="JPEG" if mode == "CMYK" else "PNG")
    (image,) = read_folder(tmp_path, 1).images
    assert (image.shape, image.dtype) == ((4, 6, 3), np.uint8)
    assert image.flags.writeable


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was turned a quarter clockwise.
    Image.fromarray(picture(3)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    (image,) = read_folder(tmp_path, 1).images
    assert number_in(np.rot90(image)) == 3


@pytest.mark.parametrize("size", [(20_000, 8), (9000, 9000), (14_000, 14_000)])
def test_huge_images_are_refused_before_they_are_decoded(size: tuple[int, int], tmp_path: Path) -> None:
    head = b"IHDR" + struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 64) + b"IDAT")
    with pytest.raises(DataError, match=r"a\.png has .*pixels"):
        read_folder(tmp_path, 1)


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        open_video(tmp_path, 4)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is not a folder"):
        read_folder(tmp_path / "file", 4)


def test_importing_the_module_loads_neither_pyav_nor_pillow() -> None:
    code = "import sys, rft3d_cli.video; print([m for m in ('av', 'PIL', 'torch', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
