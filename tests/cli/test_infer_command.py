from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import (
    BOX,
    DETECTION_ANSWER,
    FRAMES,
    GROUNDING_ANSWER,
    HEIGHT,
    IDENTITY,
    INTRINSIC,
    RATE,
    WIDTH,
    Shown,
    World,
    clip_pictures,
    run,
)
from PIL import Image

from rft3d_cli.prepare.rooms.build import RoomsSpec, build
from rft3d_cli.video import probe, read_frames, write_mp4

BEHIND = [[-1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
SHEARED = [[4.0, 0.0, 0.0, 0.0], [0.0, 0.25, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
CAMERA = {"intrinsic": INTRINSIC, "image_size": [WIDTH, HEIGHT]}

BOTH = ["scene.html", "video.mp4"]

Ask = Callable[..., Shown]


@pytest.fixture
def ask(rft3d, world: World, taught: Path) -> Ask:
    """Asks the model that knows about the clip ``my.mp4``, of which nothing lies beside it."""
    Path("my.mp4").write_bytes(world.clip.read_bytes())

    def infer(question: str, *options: object, video: object = "my.mp4") -> Shown:
        return run("infer", video, question, "--model", taught, "--max-tokens", 40, *options)

    return infer


def focal(degrees: float, width: int = WIDTH) -> float:
    return float(width / 2 / np.tan(np.radians(degrees) / 2))


LARGER = 5
"""How many times a frame of the clip is enlarged, so that what is drawn on it can be read."""


def enlarged(image: np.ndarray) -> np.ndarray:
    size = (LARGER * image.shape[1], LARGER * image.shape[0])
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def drawn(picture: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Where a picture differs from what it was drawn on by more than an encoder's noise."""
    return np.abs(picture.astype(int) - original.astype(int)).max(axis=2) > 60


# ---- What is answered


def test_a_box_is_answered_in_words_a_picture_a_video_and_a_file(ask, tmp_path):
    shown = ask("where is the chair?")
    words = (
        "chair, from the camera in frame 7 (1.75 s): 0.10 m right, 0.10 m down, 2.00 m ahead; "
        "size 0.60 x 0.60 x 0.60 m, turned 0 degrees\n"
    )
    assert (shown.code, shown.out) == (0, words)
    assert sorted(path.name for path in Path("look/my").iterdir()) == ["answer.json", "frame07.png", *BOTH]
    answer = json.loads(Path("look/my/answer.json").read_text(encoding="utf-8"))
    assert (answer["task"], answer["text"], answer["frame"], answer["unreadable"]) == (
        "grounding",
        GROUNDING_ANSWER,
        1,
        None,
    )
    assert answer["boxes"] == [{"label": "chair", "bbox_3d": BOX}]
    assert answer["question"] == "where is the chair?"
    assert answer["files"] == ["look/my/frame07.png", "look/my/video.mp4", "look/my/scene.html"]
    # Words and pictures name frames by their number in the video, as the lists do; `frame` counts in the list.
    assert answer["video"]["frames"] == answer["answers"][0]["frames"] == [0, FRAMES - 1]
    assert answer["video"]["times"] == [0.0, (FRAMES - 1) / RATE]
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_picture_is_the_answered_frame_enlarged_with_the_box_on_it(ask):
    assert ask("where is the chair").code == 0
    picture = np.asarray(Image.open("look/my/frame07.png"))
    frame = enlarged(read_frames("my.mp4", FRAMES).images[-1])
    assert picture.shape == frame.shape
    rows, columns = np.nonzero(drawn(picture, frame))
    # The near face of the box is 1.7 m away, and the assumed camera sees 58 degrees.
    width, height = LARGER * WIDTH, LARGER * HEIGHT
    left = (width - 1) / 2 + focal(58, width) * (0.1 - 0.3) / 1.7
    right = (width - 1) / 2 + focal(58, width) * (0.1 + 0.3) / 1.7
    bottom = (height - 1) / 2 + focal(58, width) * (0.1 + 0.3) / 1.7
    assert abs(columns.min() - left) < 4
    assert abs(rows.max() - bottom) < 4
    assert columns.max() >= right - 4


def test_without_a_camera_path_the_video_holds_the_answered_frame(ask):
    assert ask("where is the chair").code == 0
    movie = read_frames("look/my/video.mp4", 5)
    assert (movie.info.frames, movie.info.rate) == (5, pytest.approx(2))
    first, *rest = movie.images
    shown = np.asarray(Image.open("look/my/frame07.png"))
    assert np.abs(first.astype(int) - enlarged(read_frames("my.mp4", 1).images[0])).mean() < 6
    assert all(np.abs(image.astype(int) - shown).mean() < 6 for image in rest)


@pytest.mark.parametrize(
    ("question", "task", "value", "boxes"),
    [
        pytest.param("where is the chair", "grounding", None, 1, id="where"),
        pytest.param("Find the chair.", "grounding", None, 1, id="find"),
        pytest.param("find every chair", "detection", None, 1, id="every"),
        pytest.param("how many chairs are there", "number", 1.0, 0, id="how many"),
    ],
)
def test_the_kind_of_a_question_is_told_from_its_words(ask, question, task, value, boxes):
    document = ask(question, "--json").document
    assert (document["task"], document["value"], len(document["boxes"])) == (task, value, boxes)
    # As many frames as the model was trained on for this kind.
    assert len(document["video"]["frames"]) == 2
    assert {Path(file).suffix for file in document["files"]} == {".html", *([".png", ".mp4"] if boxes else [])}


def test_the_kind_can_be_said(ask):
    assert ask("the chair", "--task", "grounding", "--json").document["boxes"][0]["bbox_3d"] == BOX
    assert ask("where is the chair", "--task", "text", "--json").document["boxes"] == []
    assert ask("where is the chair", "--task", "sculpture").code == 2


def test_a_box_is_labelled_by_its_answer_or_else_by_the_question(ask, monkeypatch):
    monkeypatch.setattr("rft3d_cli.models.predict.generate", lambda *args: [GROUNDING_ANSWER])
    assert ask("Where is the big red chair?", "--json").document["boxes"][0]["label"] == "big red chair"
    monkeypatch.setattr("rft3d_cli.models.predict.generate", lambda *args: [DETECTION_ANSWER])
    assert ask("find every object", "--json").document["boxes"][0]["label"] == "chair"


@pytest.mark.parametrize(
    ("question", "text", "boxes", "words"),
    [
        pytest.param("find every chair", DETECTION_ANSWER, 1, "chair, from", id="the class that is there"),
        pytest.param("find all chairs and shelves", DETECTION_ANSWER, 1, "chair, from", id="in the plural"),
        pytest.param("find every table", DETECTION_ANSWER, 0, "nothing of the kind", id="another class"),
        pytest.param("find every object", "```json\n[\n\t\n]```", 0, "nothing of the kind", id="an empty list"),
        pytest.param("find every object", "I see nothing", 0, "no box could be read", id="no list"),
    ],
)
def test_a_question_for_all_of_a_class_is_answered_with_that_class(ask, monkeypatch, question, text, boxes, words):
    monkeypatch.setattr("rft3d_cli.models.predict.generate", lambda *args: [text])
    shown = ask(question)
    assert (shown.code, shown.out.startswith(words)) == (0, True)
    answer = json.loads(Path("look/my/answer.json").read_text(encoding="utf-8"))
    assert (len(answer["boxes"]), bool(answer["unreadable"])) == (boxes, words.startswith("no box"))


def test_json_is_what_the_file_holds_and_quiet_is_the_answer_alone(ask):
    document = ask("where is the chair", "--json", "--out", "o").document
    assert document == json.loads(Path("o/answer.json").read_text(encoding="utf-8"))
    shown = ask("how many chairs are there", "--quiet")
    assert (shown.code, shown.out, shown.err) == (0, "1\n", "")
    assert ask("where is the chair", "--json", "--quiet").code == 2


def test_facts_go_to_stderr(ask):
    shown = ask("where is the chair", "--out", "o")
    for words in ("my.mp4  96x64  4 fps  2.0 s -> 2 frames", "wrote   o/frame07.png  o/video.mp4  o/scene.html"):
        assert words in shown.err
        assert words not in shown.out


def test_an_answer_that_cannot_be_read_is_told_as_it_is(rft3d, world):
    shown = rft3d("infer", world.clip, "where is the chair", "--model", world.fresh, "--max-tokens", 4)
    assert shown.code == 0
    assert shown.out.startswith("no box could be read: ")
    answer = json.loads(Path("look/clip/answer.json").read_text(encoding="utf-8"))
    assert answer["unreadable"]
    assert (answer["boxes"], answer["frame"], answer["files"]) == ([], None, ["look/clip/scene.html"])
    assert sorted(path.name for path in Path("look/clip").iterdir()) == ["answer.json", "scene.html"]


def test_control_characters_of_a_model_do_not_reach_the_terminal(ask, monkeypatch):
    monkeypatch.setattr("rft3d_cli.models.predict.generate", lambda *args: ["\x1b[2Jgone\x07"])
    shown = ask("what is this")
    assert shown.out == " [2Jgone \n"
    assert json.loads(Path("look/my/answer.json").read_text(encoding="utf-8"))["text"] == "\x1b[2Jgone\x07"


# ---- Cameras


def test_an_unknown_camera_is_assumed_and_said_to_be(ask):
    shown = ask("where is the chair", "--json")
    camera = shown.document["camera"]
    assert (camera["source"], camera["fov_assumed"]) == ("assumed", 58.0)
    assert camera["intrinsic"][0][0] == pytest.approx(focal(58))
    assert "field of view of 58 degrees is assumed (give yours with --fov)" in shown.err


def test_a_given_field_of_view_is_not_an_assumption(ask):
    shown = ask("where is the chair", "--fov", 70, "--json")
    camera = shown.document["camera"]
    assert (camera["source"], camera["fov_assumed"]) == ("fov", None)
    assert camera["intrinsic"][0][0] == pytest.approx(focal(70))
    assert "assumed" not in shown.err


@pytest.mark.parametrize("place", ["my.camera.json", "elsewhere.json"])
def test_a_camera_file_is_taken_for_the_video_s_size(ask, place):
    twice = {"intrinsic": [[160, 0, 95.5], [0, 160, 63.5], [0, 0, 1]], "image_size": [2 * WIDTH, 2 * HEIGHT]}
    Path(place).write_text(json.dumps(twice), encoding="utf-8")
    shown = ask("where is the chair", *(() if place.startswith("my.") else ("--camera", place)), "--json")
    camera = shown.document["camera"]
    assert (camera["source"], camera["fov_assumed"]) == ("file", None)
    assert np.allclose(camera["intrinsic"], INTRINSIC)
    assert "from its camera file" in shown.err
    assert "assumed" not in shown.err


def test_with_a_camera_path_the_box_stays_where_it_is(ask):
    # The camera turns round after half of the clip: the box is behind it, and is drawn in no later frame.
    half = FRAMES // 2
    poses = [BEHIND] * half + [IDENTITY] * half
    Path("my.camera.json").write_text(json.dumps({**CAMERA, "cam_to_world": poses}), encoding="utf-8")
    assert ask("where is the chair").code == 0
    movie = read_frames("look/my/video.mp4", FRAMES)
    assert (movie.info.frames, movie.info.rate) == (FRAMES, pytest.approx(RATE))
    counts = [drawn(new, enlarged(old)).sum() for new, old in zip(movie.images, clip_pictures(), strict=True)]
    # Two ways of enlarging differ along the block's outline.
    assert 3 * max(counts[:half]) < min(counts[half:])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("{", "is wrong", id="no JSON"),
        pytest.param("[]", "is wrong", id="a list"),
        pytest.param('{"intrinsic": [[1]]}', "is wrong", id="a number"),
        pytest.param(json.dumps({**CAMERA, "image_size": [0, 0]}), "image_size [0, 0] is empty", id="no size"),
        pytest.param(json.dumps({"image_size": [96, 64]}), "'intrinsic' is missing", id="no intrinsic"),
        pytest.param(json.dumps({**CAMERA, "image_size": [64, 96]}), "another shape", id="an upright picture's"),
        pytest.param(json.dumps({**CAMERA, "intrinsic": [[0] * 3] * 3}), "not positive", id="no focal length"),
        pytest.param("[" * 100_000, "is wrong", id="deep"),
        pytest.param(
            json.dumps({**CAMERA, "intrinsic": [[float("nan")] * 3] * 3}), "numbers that are not finite", id="NaN"
        ),
        pytest.param(json.dumps({**CAMERA, "cam_to_world": IDENTITY}), "holds 4 × 4 matrices", id="one pose"),
        pytest.param(json.dumps({**CAMERA, "cam_to_world": [SHEARED] * 8}), "is not a rotation", id="sheared poses"),
        pytest.param(json.dumps({**CAMERA, "cam_to_world": [[*IDENTITY[:3], [0, 0, 0, 5]]] * 8}),
                     "last row is not 0, 0, 0, 1", id="scaled poses"),
        pytest.param(json.dumps({**CAMERA, "cam_to_world": [IDENTITY] * 9}), "8 frames, and its camera file 9 poses",
                     id="a pose too many"),
        pytest.param(json.dumps({**CAMERA, "cam_to_world": [IDENTITY] * 2}), "8 frames, and its camera file 2 poses",
                     id="poses that lack"),
    ],
)  # fmt: skip
def test_a_wrong_camera_file_stops_before_the_model_is_asked(ask, monkeypatch, text, problem):
    monkeypatch.setattr("rft3d_cli.models.predict.generate", lambda *args: pytest.fail("the model was asked"))
    Path("my.camera.json").write_text(text, encoding="utf-8")
    shown = ask("where is the chair")
    assert shown.code == 3
    assert len(shown.errors) == 1
    assert problem in shown.errors[0]
    assert "camera file" in shown.errors[0]
    assert shown.hint
    assert not Path("look").exists()


# ---- Videos


def test_a_folder_of_frames_is_a_video(ask, monkeypatch):
    Path("frames").mkdir()
    for number, picture in enumerate(clip_pictures()):
        Image.fromarray(picture).save(f"frames/{number}.png")
    document = ask("where is the chair", "--json", video="frames").document
    assert document["video"]["frames"] == [0, FRAMES - 1]
    assert document["files"] == [f"look/frames/{name}" for name in ("frame07.png", "video.mp4", "scene.html")]
    monkeypatch.chdir("frames")
    assert ask("how many chairs are there", "--json", video=".").document["video"]["path"] == "."
    assert Path("look/frames/answer.json").is_file()


def test_a_clip_that_was_cut_off_is_answered_and_said_to_be_damaged(ask):
    long = [picture for picture in clip_pictures() for _ in range(8)]
    write_mp4("whole.mp4", long, RATE)
    data = Path("whole.mp4").read_bytes()
    Path("cut.mp4").write_bytes(data[: len(data) * 3 // 4])
    assert probe("cut.mp4").damaged
    shown = ask("how many chairs are there", "--json", video="cut.mp4")
    assert shown.document["video"]["damaged"] is True
    assert "the file announces 16.0 s" in shown.err


def test_a_short_clip_repeats_frames_and_says_so(ask):
    assert "12 frames asked of a clip of 8: some are repeated" in ask("how many chairs", "--frames", 12).err


@pytest.mark.parametrize("out", [".", "look/.."])
def test_the_annotated_video_never_replaces_the_video(ask, out):
    Path("look").mkdir()
    before = Path("my.mp4").rename("video.mp4").read_bytes()
    shown = ask("where is the chair", "--out", out, video="video.mp4")
    assert shown.code == 2
    assert "would be written over video.mp4" in shown.errors[0]
    assert "--out" in shown.hint
    assert Path("video.mp4").read_bytes() == before


def test_a_folder_of_frames_is_no_place_for_the_answer(ask):
    Path("frames").mkdir()
    Image.fromarray(clip_pictures()[0]).save("frames/frame00.png")
    shown = ask("where is the chair", "--out", "frames", video="frames")
    assert shown.code == 2
    assert [path.name for path in Path("frames").iterdir()] == ["frame00.png"]


MINE = ("scene.html", "answer.json", "video.mp4", "frame01.png", "frame123-4.png")


@pytest.mark.parametrize("name", MINE)
@pytest.mark.parametrize("dry", [False, True], ids=["asked", "dry run"])
def test_files_that_no_answer_wrote_are_not_replaced(ask, monkeypatch, name, dry):
    monkeypatch.setattr("rft3d_cli.models.loader.load_speaker", lambda *args: pytest.fail("the model was loaded"))
    monkeypatch.setattr("rft3d_cli._video_plan.decode_frames", lambda *args: pytest.fail("the video was read"))
    Path("o").mkdir()
    Path("o", name).write_text("mine", encoding="utf-8")
    shown = ask("where is the chair", "--out", "o", *(["--dry-run"] if dry else []))
    assert (shown.code, len(shown.errors)) == (2, 1)
    assert f"o holds {name}, which no earlier answer wrote" in shown.errors[0]
    assert shown.hint == "name another folder: --out"
    assert [(path.name, path.read_text(encoding="utf-8")) for path in Path("o").iterdir()] == [(name, "mine")]


def test_a_file_of_ones_own_among_answers_is_not_replaced_either(ask):
    assert ask("how many chairs are there").code == 0
    assert ask("where is the chair").code == 0
    Path("look/my/frame00.png").write_text("mine", encoding="utf-8")
    assert ask("find every chair").code == 2
    assert Path("look/my/frame00.png").read_text(encoding="utf-8") == "mine"
    Path("look/my/frame00.png").unlink()
    Path("look/my/scene.rrd").write_text("mine", encoding="utf-8")  # not written without --rerun
    assert ask("find every chair").code == 0


def test_an_index_that_is_not_ours_is_not_replaced(ask):
    Path("videos").mkdir()
    Path("videos/a.mp4").write_bytes(Path("my.mp4").read_bytes())
    Path("look/videos").mkdir(parents=True)
    Path("look/videos/answers.json").write_text('["mine"]', encoding="utf-8")
    assert ask("where is the chair", video="videos").code == 2
    assert Path("look/videos/answers.json").read_text(encoding="utf-8") == '["mine"]'
    Path("look/videos/answers.json").unlink()
    assert [ask("where is the chair", "--no-video", video="videos").code for _ in range(2)] == [0, 0]


def test_a_video_whose_name_is_dots_is_answered_in_a_folder_of_its_own(ask):
    Path("my.mp4").rename("...mp4")
    Path("scene.html").write_text("mine", encoding="utf-8")
    assert ask("how many chairs are there", video="...mp4").code == 0
    assert Path("scene.html").read_text(encoding="utf-8") == "mine"
    assert Path("look/...mp4/answer.json").is_file()


# ---- Several questions, several videos

THREE = ("find every chair", "how many chairs are there", "where is the chair")


def test_several_questions_are_one_document_and_files_that_do_not_meet(ask):
    shown = ask(*THREE)
    lines = shown.out.splitlines()
    assert lines[0::2] == list(THREE)
    assert [line[:9] for line in lines[1::2]] == ["  chair, ", "  1", "  chair, "]
    document = json.loads(Path("look/my/answer.json").read_text(encoding="utf-8"))
    names = ["frame00-1.png", "frame07-3.png", "video.mp4", "scene.html"]
    assert document["files"] == [f"look/my/{name}" for name in names]
    assert sorted(path.name for path in Path("look/my").iterdir()) == sorted([*names, "answer.json"])
    assert [answer["task"] for answer in document["answers"]] == ["detection", "number", "grounding"]
    assert [answer["question"] for answer in document["answers"]] == list(THREE)
    assert not {"question", "task", "boxes", "value"} & set(document)
    page = Path("look/my/scene.html").read_text(encoding="utf-8")
    assert all(question in page for question in THREE)


def test_questions_of_different_frames_name_them_alike_in_words_pictures_and_page(ask, monkeypatch):
    # The choice is asked with more frames than the others: the page shows frames of both.
    def generate(model, processor, prompts, *rest):
        return ["A" if len(prompt) == max(map(len, prompts)) else GROUNDING_ANSWER for prompt in prompts]

    monkeypatch.setattr("rft3d_cli.models.predict.generate", generate)
    shown = ask("where is the chair", "which is larger? A. bed B. desk")
    assert "in frame 7 (1.75 s)" in shown.out
    assert Path("look/my/frame07-1.png").is_file()
    page = Path("look/my/scene.html").read_text(encoding="utf-8")
    data = json.loads(page.split('id="scene">')[1].split("</script>")[0])
    assert [frame["name"] for frame in data["frames"]] == [f"frame {number}" for number in range(FRAMES)]
    assert data["frames"][data["answered"][0]] | {"camera": 0, "frustum": 0} == {
        "name": "frame 7", "time": "1.75 s", "camera": 0, "frustum": 0,
    }  # fmt: skip
    assert "frame 7 (1.75 s)" in page


def test_the_model_sees_whole_frames_where_smaller_ones_are_kept(ask, monkeypatch):
    from rft3d_cli.models import inputs

    seen: list[bytes] = []
    encode = inputs.encode_prompt

    def spy(processor, text, frames, **options):
        seen.append(b"".join(frame.tobytes() for frame in frames))
        return encode(processor, text, frames, **options)

    monkeypatch.setattr(inputs, "encode_prompt", spy)
    Path("my.camera.json").write_text(json.dumps(CAMERA), encoding="utf-8")
    whole = ask("where is the chair", "--json").document
    picture = np.asarray(Image.open("look/my/frame07.png"))
    monkeypatch.setattr("rft3d_cli.show.infer_draw.ROOM", 2 * 3 * 48 * 32)
    small = ask("where is the chair", "--json").document
    assert seen[0] == seen[1]
    assert small["answers"] == whole["answers"]
    assert small["camera"] == whole["camera"]
    page = Path("look/my/scene.html").read_text(encoding="utf-8")
    data = json.loads(page.split('id="scene">')[1].split("</script>")[0])
    assert data["size"] == [WIDTH // 2, HEIGHT // 2]
    assert data["intrinsic"][0][0] == pytest.approx(INTRINSIC[0][0] / 2)
    # The picture has the same size, its boxes stand in the same place.
    again = np.asarray(Image.open("look/my/frame07.png"))
    assert again.shape == picture.shape
    assert np.abs(again.astype(int) - picture).mean() < 8


def test_answers_always_hold_the_list_and_a_single_answer_also_stands_at_the_top(ask):
    document = ask("where is the chair", "--json").document
    (answer,) = document["answers"]
    top = {key: document[key] for key in answer if key not in ("frames", "times")}
    assert top == {key: answer[key] for key in top}
    assert (answer["frames"], answer["times"]) == (document["video"]["frames"], document["video"]["times"])


def test_together_questions_are_answered_as_alone(ask):
    alone = [ask(question, "--json", "--no-video").document["answers"][0] for question in THREE]
    assert ask(*THREE, "--json", "--no-video").document["answers"] == alone


def test_the_model_is_loaded_once_and_every_video_decoded_once(ask, monkeypatch):
    from rft3d_cli import _video_plan
    from rft3d_cli.models import loader

    calls: list[str] = []
    load, decode = loader.load_speaker, _video_plan.decode_frames
    monkeypatch.setattr(loader, "load_speaker", lambda name: calls.append("load") or load(name))
    monkeypatch.setattr(_video_plan, "decode_frames", lambda *a: calls.append("decode") or decode(*a))
    Path("videos").mkdir()
    for name in ("a", "b"):
        Path(f"videos/{name}.mp4").write_bytes(Path("my.mp4").read_bytes())
    assert ask(*THREE, "--no-video", video="videos").code == 0
    assert sorted(calls) == ["decode", "decode", "load"]


def test_questions_come_from_a_file_too(ask):
    Path("q.txt").write_text("\ufeffhow many chairs are there\n\n  where is the chair \n", encoding="utf-8")
    shown = run("infer", "my.mp4", "--questions", "q.txt", "--dry-run", "--json")
    (video,) = shown.document["videos"]
    assert [row["question"] for row in video["asked"]] == ["how many chairs are there", "where is the chair"]
    both = run("infer", "my.mp4", "find every chair", "--questions", "q.txt", "--dry-run", "--json").document
    assert [row["task"] for row in both["videos"][0]["asked"]] == ["detection", "number", "grounding"]


def test_a_folder_of_videos_is_answered_one_by_one_and_a_broken_one_stops_none(ask):
    Path("videos").mkdir()
    for name in ("10.mp4", "9.mp4"):
        Path(f"videos/{name}").write_bytes(Path("my.mp4").read_bytes())
    Path("videos/11.mp4").write_bytes(b"no video")
    Path("videos/notes.txt").write_text("not one", encoding="utf-8")
    shown = ask("where is the chair", "--no-video", video="videos")
    assert shown.code == 3
    assert [line.split(",")[0].strip() for line in shown.out.splitlines()] == [
        "videos/9.mp4", "chair", "videos/10.mp4", "chair",
    ]  # fmt: skip
    assert ["videos/11.mp4 is not a video" in error for error in shown.errors] == [True]
    index = json.loads(Path("look/videos/answers.json").read_text(encoding="utf-8"))
    assert [Path(row["video"]["path"]).name for row in index["videos"]] == ["9.mp4", "10.mp4", "11.mp4"]
    assert (index["failed"], "is not a video" in index["videos"][2]["error"]) == (1, True)
    assert index["videos"][0] == json.loads(Path("look/videos/9/answer.json").read_text(encoding="utf-8"))
    assert sorted(path.name for path in Path("look/videos").iterdir()) == ["10", "9", "answers.json"]


def test_the_page_comes_with_every_answer(ask):
    for question in ("where is the chair", "how many chairs are there"):
        assert ask(question, "--no-video").code == 0
        page = Path("look/my/scene.html").read_text(encoding="utf-8")
        assert page.startswith("<!doctype html>")
        assert question in page
        assert not list(Path("look/my").glob("*.mp4"))


def test_a_second_answer_leaves_none_of_the_first_one_s_pictures(ask):
    assert ask("where is the chair").code == 0
    Path("look/my/mine.txt").write_text("kept", encoding="utf-8")
    assert ask("how many chairs are there").code == 0
    assert sorted(path.name for path in Path("look/my").iterdir()) == ["answer.json", "mine.txt", "scene.html"]


def test_a_stop_while_pictures_are_written_leaves_the_earlier_answer_whole(ask, monkeypatch):
    assert ask("where is the chair").code == 0
    before = {path.name: path.read_bytes() for path in Path("look/my").iterdir()}

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("rft3d_cli.show.infer_draw.write_still_video", stop)
    assert ask("find every chair").code == 130
    assert {path.name: path.read_bytes() for path in Path("look/my").iterdir()} == before
    assert ask("find every chair", "--out", "fresh/one").code == 130
    assert not Path("fresh/one").exists()


def test_a_dry_run_says_what_would_be_asked_and_loads_and_writes_nothing(ask, monkeypatch):
    monkeypatch.setattr("rft3d_cli.models.loader.load_speaker", lambda *args: pytest.fail("the model was loaded"))
    shown = ask("how far is the bed from the desk?", "which is larger? A. bed B. desk", "--dry-run")
    assert shown.out.splitlines() == [
        "my.mp4 -> look/my",
        "  number in m, 2 frames: how far is the bed from the desk?",
        "  choice, 32 frames: which is larger? A. bed B. desk",
    ]
    assert not Path("look").exists()


# ---- What cannot be done

FILM = ("infer", "my.mp4")


@pytest.mark.parametrize(
    ("words", "code", "problems"),
    [
        pytest.param([*FILM], 2, ["ask something, or name a file"], id="no question"),
        pytest.param([*FILM, " "], 2, ["the question is empty"], id="empty question"),
        pytest.param([*FILM, "a", "", "<image>"], 2, ["question 2 is empty", "question 3 holds <im"], id="two of 3"),
        pytest.param([*FILM, "caf\udce9"], 2, ["not UTF-8 text"], id="surrogate"),
        pytest.param([*FILM, "which", "--task", "choice"], 2, ["a choice without options"], id="no options"),
        pytest.param([*FILM, "which", "--options", "bed"], 2, ["--options holds 1 options"], id="one option"),
        pytest.param([*FILM, "which", "--options", "a,,b"], 2, ["has an empty option"], id="empty option"),
        pytest.param([*FILM, "which", "--options", "bed,Bed"], 2, ["names an option twice"], id="option twice"),
        pytest.param([*FILM, "? A. x B. y", "--options", "a,b"], 2, ["--options gives others"], id="options twice"),
        pytest.param([*FILM, "a", "--fov", "60", "--camera", "c.json"], 2, ["--camera and --fov"], id="two cameras"),
        pytest.param([*FILM, "a", "--camera", "c.json"], 3, ["camera file c.json cannot be read"], id="no camera"),
        pytest.param([*FILM, "a", "--camera", "."], 3, ["camera file . cannot be read"], id="camera is a folder"),
        pytest.param([*FILM, "a", "--camera", "my.mp4"], 3, ["camera file my.mp4 is wrong"], id="camera is a video"),
        pytest.param([*FILM, "--questions", "q.txt"], 3, ["q.txt cannot be read"], id="no question file"),
        pytest.param([*FILM, "--questions", "void.txt"], 3, ["void.txt holds no question"], id="empty question file"),
        pytest.param([*FILM, "--questions", "my.mp4"], 3, ["my.mp4 is not UTF-8 text"], id="questions are a video"),
        pytest.param(["infer", "note.txt", "a"], 3, ["note.txt is not a video"], id="text for a video"),
        pytest.param(["infer", "none.mp4", "a"], 3, ["none.mp4 does not exist"], id="no video"),
        pytest.param(["infer", "empty", "a"], 3, ["empty holds neither frames nor videos"], id="folder of neither"),
        pytest.param([*FILM, "a", "--out", "note.txt"], 3, ["note.txt is a file"], id="out is a file"),
        pytest.param([*FILM, "a", "--out", "note.txt/x"], 3, ["cannot be written"], id="out in a file"),
        pytest.param([*FILM, "a", "--out", "/proc/x"], 3, ["/proc/x cannot be written"], id="read-only out"),
        pytest.param([*FILM, "a", "--frames", "0"], 2, ["--frames"], id="no frames"),
        pytest.param(["infer", "none.mp4", "", "--model", "./none", "--out", "note.txt"], 2,
                     ["the question is empty", "none.mp4 does not exist", "model ./none"], id="all at once"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_before_the_model_is_loaded(rft3d, world, monkeypatch, words, code, problems):
    monkeypatch.setattr("rft3d_cli.models.loader.load_speaker", lambda *args: pytest.fail("the model was loaded"))
    Path("my.mp4").write_bytes(world.clip.read_bytes())
    Path("note.txt").write_text("hello\n" * 9, encoding="utf-8")
    Path("void.txt").write_text("\n \n", encoding="utf-8")
    Path("empty").mkdir()
    shown = rft3d(*words)
    assert shown.code == code
    assert len(shown.errors) == len(problems), shown.err
    assert all(any(problem in error for error in shown.errors) for problem in problems), shown.err
    assert shown.hint
    assert not Path("look").exists()


def test_a_camera_file_wins_over_a_field_of_view_and_says_so(ask):
    Path("my.camera.json").write_text(json.dumps(CAMERA), encoding="utf-8")
    shown = ask("where is the chair", "--fov", 70, "--dry-run")
    assert "from its camera file; --fov 70 is not used" in shown.err


def test_rerun_is_missing_before_the_model_is_loaded(ask, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("rft3d_cli.models.loader.load_speaker", lambda *args: pytest.fail("the model was loaded"))
    shown = ask("where is the chair", "--rerun")
    assert shown.code == 4
    assert "rerun-sdk" in shown.errors[0]
    assert shown.hint == 'pip install "rft3d[rerun]"'


# ---- The shipped model


def test_the_shipped_model_answers_about_a_room(rft3d):
    room = RoomsSpec(1, 9, objects=(2, 3), seconds=4, fps=2, size=(96, 72), antialias=1, val=0)
    build(room, Path("rooms"), workers=1)
    (clip,) = Path("rooms/vsibench/rooms").glob("*.mp4")
    shown = rft3d("infer", clip, "where is the table", "--json")
    document = shown.document
    assert document["model"]["name"] == "tiny"
    assert "only knows rft3d's synthetic rooms" in shown.err
    assert document["camera"]["source"] == "file"
    (box,) = document["boxes"]
    assert 0.2 < np.linalg.norm(box["bbox_3d"][:3]) < 10
    assert probe(f"look/{clip.stem}/video.mp4").frames == probe(clip).frames
