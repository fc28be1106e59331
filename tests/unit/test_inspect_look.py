from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inspect_records import (
    ALIGN,
    BEHIND,
    BOX,
    EYE,
    GREY,
    HEIGHT,
    INTRINSIC,
    POSES,
    WIDTH,
    camera,
    grey_frames,
    pixels_in,
    pose,
    record,
    source,
)
from PIL import Image

from rft3d_cli.answers.target import target_answer
from rft3d_cli.errors import UsageError
from rft3d_cli.geometry.boxes import Boxes3D, transform_boxes
from rft3d_cli.geometry.camera import projected_bounds
from rft3d_cli.records import MAX_NUMBER, RecordFile
from rft3d_cli.show import inspect_look
from rft3d_cli.show.draw import draw_boxes
from rft3d_cli.show.inspect_boxes import Views, frames_text, sight, views_of, world_overlap
from rft3d_cli.show.inspect_look import PICTURE, Look, choose, chosen_frames, drawn, look_at
from rft3d_cli.show.inspect_said import read_said
from rft3d_cli.video import write_mp4


def without_captions(look: Look, number: int, monkeypatch: pytest.MonkeyPatch, width: int = PICTURE) -> np.ndarray:
    monkeypatch.setattr(inspect_look, "caption", lambda *_: "")
    frame = next(frame for frame in look.frames if frame.number == number)
    picture = drawn(frame, width)
    assert picture is not None
    return picture


def painted(picture: np.ndarray) -> np.ndarray:
    """Rows and columns of pixels that are no longer grey."""
    return np.argwhere((picture != GREY).any(axis=2))


# ---- Boxes lie where exact projection puts them


@pytest.mark.parametrize("frame", [0, 1, 2])
@pytest.mark.parametrize(("task", "own"), [("detection", 0), ("grounding", 1)])
@pytest.mark.parametrize("width", [PICTURE, 200])
def test_a_box_is_drawn_in_every_frame_where_exact_projection_puts_it(tmp_path, monkeypatch, frame, task, own, width):
    look = look_at(record(task), source(grey_frames(tmp_path)))
    picture = without_captions(look, frame, monkeypatch, width)
    assert picture.shape == (round(width * HEIGHT / WIDTH), width, 3)
    found = painted(picture)
    expected = pixels_in(frame, BOX, own, POSES, width / WIDTH)
    # The outline of what is drawn is that of the corners, to the width of a line.
    assert found.min(axis=0)[::-1] == pytest.approx(expected.min(axis=0), abs=5.5)
    assert found.max(axis=0)[::-1] == pytest.approx(expected.max(axis=0), abs=5.5)
    for corner in expected:
        assert np.hypot(*(found[:, ::-1] - corner).T).min() < 2


def test_the_frames_disagree_about_where_it_is():
    places = [pixels_in(frame, BOX, 0, POSES, 1.0).mean(axis=0) for frame in range(3)]
    assert min(np.hypot(*(a - b)) for a, b in pairwise(places)) > 20


def test_a_box_in_the_wrong_convention_is_said_to_lie_in_no_frame(tmp_path):
    # OpenGL's camera looks along -z: a box that is right there lies behind OpenCV's camera.
    opengl = [BOX[0], -BOX[1], -BOX[2], *BOX[3:]]
    boxes = [{"label": "chair", "bbox_3d": opengl}, {"label": "bed", "bbox_3d": [30, 0, 3, 1, 1, 1, 0, 0, 0]}]
    look = look_at(record(target={"boxes": boxes}), source(grey_frames(tmp_path)))
    assert [look.sight.trouble(index) for index in (0, 1)] == ["behind every camera", "outside every picture"]
    assert all(len(frame.boxes) == 0 for frame in look.frames)
    for frame in look.frames:
        assert (drawn(frame, 100) == GREY).all()


def test_a_frame_shows_only_the_boxes_that_lie_in_it(tmp_path):
    far_left = transform_boxes([0.2, 0.1, 2, 0.3, 0.3, 0.3, 0, 0, 0], np.linalg.inv(POSES[0]) @ BEHIND).tolist()
    boxes = [{"label": "chair", "bbox_3d": BOX}, {"label": "bed", "bbox_3d": far_left}]
    look = look_at(
        record(target={"boxes": boxes}, camera=camera([POSES[0], BEHIND, POSES[2]])), source(grey_frames(tmp_path))
    )
    assert [frame.names for frame in look.frames] == [(1,), (2,), (1,)]
    assert [look.sight.frames_of(box) for box in (0, 1)] == [[0, 2], [1]]


finite = {"allow_nan": False, "allow_infinity": False}


@settings(max_examples=80, deadline=None)
@given(
    centre=st.tuples(*[st.floats(-4, 4, **finite)] * 3),
    size=st.tuples(*[st.floats(0.01, 4, **finite)] * 3),
    angles=st.tuples(*[st.floats(-3.2, 3.2, **finite)] * 3),
    own=st.integers(0, 3),
)
def test_sight_of_all_at_once_says_what_projection_says_of_each(centre, size, angles, own):
    poses = np.array([*POSES, BEHIND])
    boxes = Boxes3D([[*centre, *size, *angles], BOX], ["a", "b"])
    views = Views(boxes, own, poses, np.ones(4, bool), np.array(INTRINSIC), (WIDTH, HEIGHT))
    found = sight(views)
    assert found.known.all()
    for frame in range(4):
        moved = boxes.transform(np.linalg.inv(poses[frame]) @ poses[own])
        for index, (_, box) in enumerate(moved):
            grown = ([*box[:3], *(box[3:6] * (1 + change)), *box[6:]] for change in (-1e-6, 0, 1e-6))
            answers = {projected_bounds(item, INTRINSIC, (WIDTH, HEIGHT)) is not None for item in grown}
            # Where a hair decides, rounding does.
            assert found.seen[frame, index] in answers


# ---- Cameras that cannot be believed


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(np.diag([1, 1, -1, 1.0]), id="a mirror"),
        pytest.param(np.diag([2, 2, 2, 1.0]), id="a scale"),
        pytest.param(np.zeros((4, 4)), id="zeros"),
        pytest.param(POSES[0].T, id="transposed"),
        pytest.param(np.full((4, 4), MAX_NUMBER), id="huge"),
    ],
)
def test_what_is_no_pose_is_said_and_its_frame_gets_no_boxes(tmp_path, wrong):
    changed = record(camera=camera([POSES[0], wrong, POSES[2]], axis_align=EYE))
    look = look_at(changed, source(grey_frames(tmp_path)))
    assert "no rotation and shift, so no pose: frame 1" in look.notes
    assert [frame.boxes is None for frame in look.frames] == [False, True, False]
    assert [len(frame.boxes or ()) for frame in look.frames] == [1, 0, 1]


def test_too_few_poses_for_a_clip_leave_the_boxes_in_their_own_frame(tmp_path):
    write_mp4(tmp_path / "clip.mp4", [np.full((HEIGHT, WIDTH, 3), GREY, np.uint8)] * 8, 4)
    target = {"frame": 1, "bbox_3d": BOX, "bbox_world": BOX}
    look = look_at(record("grounding", video={"path": "clip.mp4", "frames": 4}, target=target), source(tmp_path))
    assert look.notes == ("3 poses for 4 frames: boxes are drawn in their own frame only",)
    assert [frame.names for frame in look.frames] == [(), (1,), (), ()]
    assert look.sight.frames_of(0) == [1]


def test_a_target_frame_that_the_clip_does_not_have_is_told(tmp_path):
    write_mp4(tmp_path / "clip.mp4", [np.full((HEIGHT, WIDTH, 3), GREY, np.uint8)] * 8, 4)
    target = {"frame": 2, "bbox_3d": BOX, "bbox_world": BOX}
    look = look_at(record("grounding", video={"path": "clip.mp4", "frames": 2}, target=target), source(tmp_path))
    assert "the target's frame 2 is none of its 2 frames" in look.notes
    assert not any(frame.own or frame.names for frame in look.frames)


def test_without_a_camera_nothing_is_drawn_and_that_is_said(tmp_path):
    look = look_at(record(camera=None), source(grey_frames(tmp_path)))
    assert look.notes == ("no camera: its boxes cannot be drawn",)
    assert look.sight.trouble(0) == ""
    assert (drawn(look.frames[0], 100) == GREY).all()


def test_a_picture_of_another_size_than_the_camera_says_is_told(tmp_path):
    look = look_at(record(), source(grey_frames(tmp_path, size=(640, 300))))
    assert "frames are 640×300 pixels, and the camera is for 320×240" in look.notes


def test_two_boxes_of_a_grounding_target_that_are_not_one_are_told(tmp_path):
    world = transform_boxes(BOX, ALIGN @ POSES[1]).tolist()
    good = record("grounding", target={"frame": 1, "bbox_3d": BOX, "bbox_world": world})
    assert world_overlap(good, views_of(good)) == pytest.approx(1)
    assert not look_at(good, source(grey_frames(tmp_path))).notes
    unaligned = transform_boxes(BOX, POSES[1]).tolist()
    wrong = record("grounding", target={"frame": 1, "bbox_3d": BOX, "bbox_world": unaligned})
    (note,) = look_at(wrong, source(grey_frames(tmp_path))).notes
    assert re.fullmatch(r"bbox_3d placed in the world is not bbox_world: their IoU is 0\.\d\d", note)


@pytest.mark.parametrize("value", [MAX_NUMBER, -MAX_NUMBER])
@pytest.mark.parametrize("place", range(9))
def test_the_largest_numbers_do_no_harm(tmp_path, value, place):
    box = list(BOX)
    box[place] = abs(value) if 3 <= place < 6 else value
    grey_frames(tmp_path)
    for task in ("detection", "grounding"):
        target = {"frame": 1, "bbox_3d": box, "bbox_world": box}
        asked = record(task, target={"boxes": [{"label": "x", "bbox_3d": box}]} if task == "detection" else target)
        look = look_at(asked, source(tmp_path, asked), target_answer(asked, None))
        for frame in look.frames:
            assert drawn(frame, 100) is not None


# ---- Which records, which frames


def test_records_are_chosen_evenly_over_the_file_and_its_tasks():
    many = [record("detection", id=f"d{i}") for i in range(100)] + [record("number", id=f"n{i}") for i in range(3)]
    chosen = [item.id for item in choose(many, 8)]
    assert chosen == ["d10", "d30", "d50", "d70", "d90", "n0", "n1", "n2"]
    assert [item.id for item in choose(many, 1)] == ["d50"]
    assert [item.id for item in choose(many[:5], 8)] == ["d0", "d1", "d2", "d3", "d4"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["detection", "number", "text"]), min_size=1, max_size=30), st.integers(1, 40))
def test_as_many_records_are_chosen_as_asked_for_and_there_are(tasks, count):
    many = [record(task, id=str(place)) for place, task in enumerate(tasks)]
    chosen = choose(many, count)
    assert len({item.id for item in chosen}) == len(chosen) == min(count, len(many))
    assert [item.id for item in chosen] == sorted((item.id for item in chosen), key=int)
    assert {item.task for item in chosen} == set(tasks) or count < len(set(tasks))


def test_named_records_are_shown_in_the_order_they_are_named():
    many = [record(id=name) for name in ("a", "b", "scene7/det/3")]
    assert [item.id for item in choose(many, 1, ["b", "a", "b"])] == ["b", "a"]
    with pytest.raises(UsageError) as raised:
        choose(many, 1, ["scene7/det/4"])
    assert (raised.value.message, raised.value.hint) == (
        "no record has the id 'scene7/det/4'",
        "did you mean scene7/det/3?",
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(0, 220))
def test_frames_are_spread_from_first_to_last_with_the_target_s_among_them(count, own):
    frames = chosen_frames(count, own)
    assert frames == sorted(set(frames))
    assert len(frames) == min(count, 6)
    assert {0, count - 1} <= set(frames)
    assert own in frames or own >= count


@pytest.mark.parametrize(
    ("frames", "words"),
    [([0], "frame 0"), ([0, 1], "frames 0–1"), ([0, 2, 3, 4, 9], "frames 0, 2–4, 9"), ([], "no frame")],
)
def test_frame_numbers_in_words(frames, words):
    assert frames_text(frames) == words


# ---- Media


def test_frames_of_a_clip_are_those_that_training_takes(tmp_path):
    pytest.importorskip("av")
    shades = [np.full((48, 64, 3), 20 * number, np.uint8) for number in range(12)]
    write_mp4(tmp_path / "clip.mp4", shades, 4, crf=5)
    asked = record("number", video={"path": "clip.mp4", "frames": 4, "sampler": "chunk-center"}, camera=None)
    look = look_at(asked, source(tmp_path))
    means = [float(frame.picture.mean()) for frame in look.frames]
    assert means == pytest.approx([20 * number for number in (1, 4, 7, 10)], abs=4)


def test_an_orientation_in_the_file_is_applied(tmp_path):
    picture = Image.new("RGB", (60, 40))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "0.jpg", exif=exif)
    look = look_at(record("number", video={"frames": ["0.jpg"]}, camera=None), source(tmp_path))
    height, width = look.frames[0].picture.shape[:2]
    assert height / width == pytest.approx(60 / 40)


def broken(data: bytes):
    return lambda path: path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        pytest.param(lambda path: path.unlink(), "does not exist", id="missing"),
        pytest.param(broken(b""), "cannot be read as an image", id="empty"),
        pytest.param(broken(b"<svg/>"), "cannot be read as an image", id="no picture"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:60]), "cannot be read as an image", id="cut"),
        pytest.param(lambda path: (path.unlink(), path.mkdir()), "cannot be read", id="a folder"),
    ],
)
def test_a_frame_that_cannot_be_read_is_noted_and_the_others_are_shown(tmp_path, spoil, what):
    spoil(grey_frames(tmp_path) / "1.png")
    look = look_at(record(), source(tmp_path))
    assert [frame.picture is None for frame in look.frames] == [False, True, False]
    assert look.missing == 1
    assert what in look.lost
    assert look.lost in look.notes
    assert look.sight.frames_of(0) == [0, 1, 2]  # where the box lies does not depend on the file


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a\x00b.png", "x" * 5000])
def test_a_path_that_leaves_the_media_root_is_not_read(tmp_path, name):
    inner = tmp_path / "inner"
    inner.mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    look = look_at(record("number", video={"frames": [name]}, camera=None), RecordFile(inner / "r", inner, []))
    assert look.missing == 1
    assert look.notes


# ---- Answers beside targets


def test_boxes_of_an_answer_are_scored_by_their_own_label_and_drawn_broken(tmp_path, monkeypatch):
    asked = record()
    shifted = [BOX[0] + 0.2, *BOX[1:]]
    text = str([{"label": "chair", "bbox_3d": shifted}, {"label": "bed", "bbox_3d": BOX}]).replace("'", '"')
    said = read_said(text, asked, views_of(asked))
    assert said.overlaps[0] == pytest.approx(0.6, abs=0.15)
    assert said.overlaps[1] == 0
    folder = grey_frames(tmp_path)
    with_answer = look_at(asked, source(folder), text)
    assert [len(frame.said) for frame in with_answer.frames] == [2, 2, 2]
    solid = painted(
        without_captions(replace(with_answer, frames=look_at(asked, source(folder)).frames), 0, monkeypatch)
    )
    both = painted(drawn(replace(with_answer.frames[0], said_captions=("", "")), PICTURE))
    assert len(solid) < len(both) < 3 * len(solid)


def test_an_answer_in_another_frame_is_placed_by_that_frame_s_pose():
    world = transform_boxes(BOX, ALIGN @ POSES[1]).tolist()
    asked = record("grounding", target={"frame": 1, "bbox_3d": BOX, "bbox_world": world})
    in_two = transform_boxes(BOX, np.linalg.inv(POSES[2]) @ POSES[1]).tolist()
    said = read_said(f'{{"frame": 2, "bbox_3d": {in_two}}}', asked, views_of(asked))
    assert said.views.own == 2
    assert said.overlaps == (pytest.approx(1),)
    unmoved = read_said(f'{{"frame": 2, "bbox_3d": {BOX}}}', asked, views_of(asked))
    assert unmoved.overlaps[0] < 0.5


@pytest.mark.parametrize(
    ("task", "text", "value", "why"),
    [
        ("choice", "B", "B, right", ""),
        ("choice", "(A) chair", "A, wrong", ""),
        ("number", "about 3 m", "3, the target is 2.5", ""),
        ("number", "many", "", "no number"),
        ("grounding", '{"frame": 7, "bbox_3d": [0, 0, 2, 1, 1, 1, 0, 0, 0]}', "", "it names frame 7 of 3"),
        ("detection", "nothing", "", "no list"),
        ("text", "anything", "", ""),
    ],
)
def test_an_answer_is_read_as_rewards_read_it(task, text, value, why):
    asked = record(task)
    said = read_said(text, asked, views_of(asked))
    assert said.value == value
    assert why in said.why if why else said.why == ""
    assert len(said.views.boxes) == 0


# ---- Drawing


def draw(*boxes: list[float], **options: object) -> np.ndarray:
    grey = np.full((HEIGHT, WIDTH, 3), GREY, np.uint8)
    return draw_boxes(grey, Boxes3D(boxes, ["chair"] * len(boxes)), INTRINSIC, **options)


def test_broken_lines_lie_on_the_unbroken_ones_and_leave_gaps():
    whole, broken_lines = (
        {tuple(p) for p in painted(draw(BOX, captions=[""], dashed=[dashed]))} for dashed in (False, True)
    )
    assert len(broken_lines - whole) < 0.05 * len(whole)
    assert 0.3 * len(whole) < len(broken_lines) < 0.85 * len(whole)


def test_a_broken_line_that_goes_far_outside_costs_nothing():
    picture = draw(
        [0, 0, 1e4, 2e8, 1, 1, 0, 0, 0], [0, 0, 0.06, 9, 9, 1e-3, 0, 0, 0], captions=["", ""], dashed=[True] * 2
    )
    assert picture.shape == (HEIGHT, WIDTH, 3)


def test_captions_step_aside_for_those_of_nearer_boxes():
    near, far = [0, 0.2, 3.0, 1, 0.8, 0.5, 0, 0, 0], [0.02, 0.22, 3.4, 1.1, 0.9, 0.5, 0, 0, 0]
    alone = draw(near, far, captions=["chair", ""])
    both = draw(near, far, captions=["chair", "chair"])
    only_far = draw(near, far, captions=["", "chair"])
    neither = draw(near, far, captions=["", ""])
    near_tag = (alone != neither).any(axis=2)
    far_tag = (only_far != neither).any(axis=2)
    assert (near_tag & far_tag).any()  # they would lie on each other
    assert np.array_equal(both[near_tag], alone[near_tag])  # the nearer one stays where it is, whole
    moved = (both != neither).any(axis=2) & ~near_tag
    assert moved.sum() > 0.8 * far_tag.sum()


def test_an_unmoved_pose_leaves_the_box_as_it_is():
    asked = record(camera=camera([POSES[0], POSES[0], pose((0, 0, 0), (0, 0, 0))]))
    views = views_of(asked)
    assert np.array_equal(views.in_frame(0).boxes, [BOX])
    assert views.in_frame(1).boxes == pytest.approx(np.array([BOX]), abs=1e-9)
