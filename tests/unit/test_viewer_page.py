from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from viewer_scenes import (
    CHAIR,
    FOCAL,
    HEIGHT,
    HOSTILE,
    INTRINSIC,
    POSES,
    TABLE,
    WIDTH,
    answer,
    corners,
    hostile,
    images,
    pixels_in,
    pose,
    questions,
    scene,
)

from rft3d_cli.geometry.boxes import Boxes3D
from rft3d_cli.show import viewer_pictures
from rft3d_cli.show.draw import label_colour
from rft3d_cli.show.viewer import Said, Scene, page
from rft3d_cli.show.viewer_pictures import MOST_FRAMES, pictures, thinned
from rft3d_cli.show.viewer_world import FACES, lay_out, spread, upwards

VOID = {"meta", "img", "input"}


class Page(HTMLParser):
    """Tags with their attributes, texts, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" in self.open:
            self.scripts[-1] += data
        elif "style" not in self.open:
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def classed(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.tags if name in (attributes.get("class") or "").split()]

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])


def test_the_page_needs_nothing_else():
    text = page(scene())
    found = Page(text)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in found.tags}
    for _, attributes in found.tags:
        assert (attributes.get("src") or "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"https?:|\burl\(|@import|\bfetch\(|XMLHttpRequest|import\(", text)


def test_the_policy_lets_this_script_run_and_nothing_load():
    found = Page(page(scene()))
    policy = next(meta["content"] for meta in found.named("meta") if "http-equiv" in meta)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    digest = base64.b64encode(hashlib.sha256(found.scripts[1].encode()).digest()).decode()
    assert rules == {
        "default-src": "'none'",
        "script-src": f"'sha256-{digest}'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_the_frames_are_pictures_inside_the_page():
    found = Page(page(scene()))
    shown = [img["src"] for img in found.named("img")]
    assert len(shown) == 4
    for number, source in enumerate(shown):
        picture = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
        assert picture.size == (WIDTH, HEIGHT)
        assert np.abs(np.asarray(picture).astype(int) - (60 + 2 * number)).max() <= 2


def test_frames_are_called_by_their_numbers_in_the_video():
    found = Page(page(scene(numbers=[0, 9, 30, 1200])))
    names = ["frame 0", "frame 9", "frame 30", "frame 1200"]
    assert [frame["name"] for frame in found.data["frames"]] == names
    labels = [str(button["aria-label"]).split(",")[0] for button in found.classed("thumb")]
    assert labels == names
    with pytest.raises(ValueError, match="4 frames have 2 numbers"):
        page(scene(numbers=[0, 9]))


@pytest.mark.parametrize("frame", range(4))
def test_boxes_and_cameras_project_as_the_cameras_saw_them(frame):
    data = Page(page(scene())).data
    camera, intrinsic = np.array(data["frames"][frame]["camera"]), np.array(data["intrinsic"])
    for box, numbers in zip(data["boxes"], (CHAIR, TABLE), strict=True):
        points = np.concatenate([np.array(box["corners"]), np.ones((8, 1))], axis=1)
        x, y, z = intrinsic @ camera @ points.T
        assert np.stack([x / z, y / z], axis=1) == pytest.approx(pixels_in(frame, numbers, own=1), abs=0.02)


def test_a_world_whose_z_is_up_keeps_its_coordinates():
    data = Page(page(scene())).data
    world = (POSES[1] @ np.concatenate([corners(CHAIR), np.ones((8, 1))], axis=1).T)[:3].T
    assert np.array(data["boxes"][0]["corners"]) == pytest.approx(world, abs=1e-4)
    assert data["axes"] == np.eye(3).tolist()
    assert [frame["frustum"][0] for frame in data["frames"]] == [pytest.approx(p[:3, 3], abs=1e-3) for p in POSES]


@pytest.mark.parametrize("turn", [(0, 0, 0), (90, 0, 0), (37, 80, -25), (180, 0, 10)])
def test_the_camera_path_keeps_its_shape_however_the_world_is_turned(turn):
    """Boxes, cameras and floor stand to each other as they did; the display's z is up."""
    turned = pose(turn, (3.0, -1.0, 7.0)) @ POSES
    laid = lay_out(4, turned, turned, [(1, answer().boxes)])
    plain = lay_out(4, POSES, POSES, [(1, answer().boxes)])
    eyes, expected = laid.poses[:, :3, 3], plain.poses[:, :3, 3]
    apart = np.linalg.norm(laid.corners[0].reshape(-1, 1, 3) - eyes, axis=2)
    assert apart == pytest.approx(np.linalg.norm(plain.corners[0].reshape(-1, 1, 3) - expected, axis=2))
    assert np.allclose(laid.turn @ laid.turn.T, np.eye(3))
    assert np.linalg.det(laid.turn) == pytest.approx(1)
    # Held upright: the pictures' up has most of it along the display's z.
    assert (-laid.poses[:, 2, 1] > 0.9).all()


def test_worlds_of_other_conventions_have_their_own_axis_as_up():
    y_up = np.diag([1.0, -1.0, -1.0, 1.0])
    assert upwards(y_up[None]).tolist() == [0, 1, 0]
    assert upwards(np.eye(4)[None]).tolist() == pytest.approx([0, -1, 0])
    # A person who looks down all the time still stands upright in a z-up world.
    down = pose((-135, 0, 0), (0, 0, 1.6))
    assert upwards(np.stack([down, down])).tolist() == [0, 0, 1]


def test_the_floor_is_where_boxes_stand_and_below_the_cameras():
    at = [[x, 0.0, 0.4 + 0.5, 0.5, 0.5, 1.0, 0, 0, 0] for x in range(9)]
    deep = [4.0, 1.0, -3.0, 0.5, 0.5, 1.0, 0, 0, 0]
    world = Boxes3D([*at, *at, deep])
    seen = world.transform(np.linalg.inv(POSES[0]))
    laid = lay_out(4, POSES, None, [(0, seen)])
    assert laid.floor == pytest.approx(0.4, abs=1e-6), "one box below the floor does not move it"
    low = lay_out(4, POSES, None, [(0, Boxes3D([[4, 4, 0.08, 1, 1, 0.1, 0, 0, 0]]).transform(np.linalg.inv(POSES[0])))])
    assert low.floor == 0.0, "next to nought it is nought"
    none = lay_out(4, POSES, None, [(0, Boxes3D([]))])
    assert none.floor == pytest.approx(1.45 - 1.5)
    high = lay_out(4, POSES, None, [(0, Boxes3D([[4, 4, 9, 1, 1, 1, 0, 0, 0]]).transform(np.linalg.inv(POSES[0])))])
    assert high.floor < POSES[:, 2, 3].min()


def test_without_poses_each_answer_stands_in_its_own_camera():
    found = Page(page(scene(poses=None, path=None, said=questions())))
    data = found.data
    assert data["posed"] is False
    assert data["path"] == []
    assert "Where the camera was in the other frames is unknown." in found.text
    # x right, y down, z ahead become x right, y ahead, z up.
    expected = corners(CHAIR)[:, [0, 2, 1]] * [1, 1, -1]
    assert np.array(data["boxes"][0]["corners"]) == pytest.approx(expected, abs=1e-4)
    assert data["axes"] == [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
    assert data["answered"] == [1, 2, None]


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_lost_pose_leaves_a_gap(value):
    poses = POSES.copy()
    poses[2] = value
    path = np.concatenate([POSES, poses, POSES])
    data = Page(page(scene(poses=poses, path=path))).data
    assert [frame["camera"] is None for frame in data["frames"]] == [False, False, True, False]
    assert data["frames"][2]["frustum"] is None
    assert [len(piece) for piece in data["path"]] == [6, 5]


def test_an_answered_frame_without_a_pose_leaves_the_path_out():
    poses = POSES.copy()
    poses[1] = np.nan
    found = Page(page(scene(poses=poses)))
    assert found.data["posed"] is False
    assert "An answered frame has no pose, so the camera's path is left out." in found.text


def test_an_assumed_camera_is_said_plainly():
    guess = "unknown: a field of view of 58 degrees is assumed"
    assumed = Page(page(scene(camera=guess, assumed=True)))
    known = Page(page(scene()))
    assert f"Camera {guess}. Every distance and size on this page rests on that guess." in assumed.text
    assert len(assumed.classed("note")) == len(known.classed("note")) + 1
    degrees = np.degrees(2 * np.arctan(WIDTH / 2 / FOCAL))
    assert f"Camera from its camera file; field of view {degrees:.0f}°." in known.text


def test_words_and_boxes_are_listed():
    found = Page(page(scene(said=questions(), note="only a toy")))
    for text in (
        "4 frames, 0.0 to 1.5 s",
        "only a toy",
        "find every object",
        "how many doors are there?",
        "0.50 × 0.90 × 0.60 m · 2.55 m away",
        "from the camera in frame 1: near",
    ):
        assert text in found.text
    assert [row["data-box"] for row in found.classed("box")] == ["0", "1", "2"]
    assert [box["question"] for box in found.data["boxes"]] == [0, 0, 1]


def test_words_that_do_not_name_one_box_each_stand_above_them():
    found = Page(page(scene(said=[answer(words=["two things:\nlook"])])))
    assert "two things:\nlook" in found.text
    assert not found.classed("words")


def test_boxes_of_one_name_are_numbered():
    said = answer(boxes=Boxes3D([CHAIR, TABLE, CHAIR], ["chair", "table", "chair"]), words=["three"])
    assert [box["name"] for box in Page(page(scene(said=[said]))).data["boxes"]] == ["chair 1", "table", "chair 2"]


def test_one_question_has_a_colour_a_class_and_several_have_one_each():
    one = [box["colour"] for box in Page(page(scene())).data["boxes"]]
    assert one == ["#{:02x}{:02x}{:02x}".format(*label_colour(name)) for name in ("chair", "table")]
    many = [box["colour"] for box in Page(page(scene(said=questions()))).data["boxes"]]
    assert many[0] == many[1] != many[2]


def test_hostile_text_stays_text():
    plain, attacked = Page(page(replace(hostile(), title="a", note="b"))), Page(page(hostile()))
    assert [tag for tag, _ in attacked.tags] == [tag for tag, _ in plain.tags]
    assert len(attacked.scripts) == 2
    assert HOSTILE[0] in attacked.text
    raw = page(hostile())
    data = re.search(r'<script type="application/json" id="scene">(.*?)</script>', raw, re.DOTALL)[1]
    assert data.isascii()
    assert not set("<>&\x00\x1b") & set(data)
    assert not {"\u2028", "\u202e", "\x00", "\x1b"} & set(raw)


@settings(max_examples=25, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_gives_a_well_formed_page(text):
    found = Page(page(scene(title=text, note=text, images=images(4, (8, 6)), said=[answer(question=text)])))
    assert len(found.scripts) == 2
    assert len(found.classed("box")) == 2


def test_long_clips_are_thinned_out_but_keep_answered_frames():
    count = 200
    long = scene(
        images=images(count, (16, 12)), times=list(range(count)), poses=None, path=None, said=[answer(frame=77)]
    )
    found = Page(page(long))
    assert f"200 frames, 0.0 to 199.0 s; {MOST_FRAMES + 1} of them are shown here" in found.text
    names = [frame["name"] for frame in found.data["frames"]]
    assert names[0] == "frame 0"
    assert names[-1] == "frame 199"
    assert names[found.data["boxes"][0]["frame"]] == "frame 77"


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 500), data=st.data())
def test_thinning_keeps_order_ends_and_what_it_must(count, data):
    keep = data.draw(st.lists(st.integers(0, count - 1), max_size=5))
    kept = thinned(count, keep)
    assert kept == sorted(set(kept))
    assert {0, count - 1, *keep} <= set(kept)
    assert len(kept) <= min(count, MOST_FRAMES + len(keep))


def test_pictures_shrink_until_the_page_is_light(monkeypatch):
    noise = [np.random.default_rng(n).integers(0, 256, (480, 640, 3)).astype(np.uint8) for n in range(3)]
    full = pictures(noise, keep=[])
    assert full.size == (640, 480)
    monkeypatch.setattr(viewer_pictures, "LETTERS", sum(map(len, full.sources)) // 2)
    less = pictures(noise, keep=[])
    assert less.size == (480, 360)
    assert sum(map(len, less.sources)) <= viewer_pictures.LETTERS
    monkeypatch.setattr(viewer_pictures, "LETTERS", 1)
    assert pictures(noise, keep=[]).size == (240, 180), "the smallest is taken whatever it weighs"
    assert pictures([noise[0].transpose(1, 0, 2)], keep=[]).size == (180, 240)


def test_large_frames_are_scaled_with_their_camera():
    scale = 0.5
    large = scene(images=images(4, (1280, 960)), intrinsic=np.diag([4.0, 4.0, 1.0]) @ INTRINSIC + HALF)
    data = Page(page(large)).data
    assert data["size"] == [640, 480]
    camera = np.array(data["frames"][2]["camera"])
    points = np.concatenate([np.array(data["boxes"][1]["corners"]), np.ones((8, 1))], axis=1)
    x, y, z = np.array(data["intrinsic"]) @ camera @ points.T
    assert np.stack([x / z, y / z], axis=1) == pytest.approx(pixels_in(2, TABLE, own=1, scale=4 * scale), abs=0.02)


HALF = np.array([[0, 0, 1.5], [0, 0, 1.5], [0, 0, 0.0]])
"""What the centres of pixels move by in pictures four times as large: 4 (c + ½) - ½ = 4 c + 1½."""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param({"images": []}, "at least one frame", id="no-frames"),
        pytest.param({"times": [0.0]}, "as many times", id="times"),
        pytest.param({"poses": POSES[:2]}, "as many poses", id="poses"),
        pytest.param({"images": [*images(3), images(1, (10, 10))[0]]}, "differ in size", id="sizes"),
        pytest.param({"said": [answer(frame=4)]}, "names a frame", id="frame-after-the-last"),
        pytest.param({"said": [answer(frame=-1)]}, "names a frame", id="negative-frame"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, why):
    with pytest.raises(ValueError, match=why):
        page(scene(**changes))


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda: scene(said=[]), id="no-questions"),
        pytest.param(lambda: scene(said=[Said("?", [], 0, Boxes3D([]))]), id="no-words"),
        pytest.param(lambda: scene(path=None), id="no-path"),
        pytest.param(lambda: scene(images=images(1), times=[0.0], poses=None, path=None, said=[]), id="one-frame"),
        pytest.param(lambda: scene(said=[answer(boxes=Boxes3D([[1e9] * 3 + [1e9] * 3 + [0] * 3]))]), id="huge-box"),
        pytest.param(lambda: scene(said=[answer(boxes=Boxes3D([[0, 0, 1, 0, 0, 0, 0, 0, 0]]))]), id="flat-box"),
        pytest.param(lambda: scene(poses=np.full((4, 4, 4), np.nan), path=np.full((9, 4, 4), np.inf)), id="all-lost"),
        pytest.param(lambda: scene(poses=np.tile(pose((180, 0, 0), (0, 0, 2)), (4, 1, 1))), id="looks-straight-down"),
    ],
)
def test_odd_scenes_have_a_page(made):
    built: Scene = made()
    found = Page(page(built))
    assert len(found.data["frames"]) == len(built.images)


def test_each_face_has_four_corners_around_it():
    unit = corners([0, 0, 0, 1, 1, 1, 0, 0, 0])
    for face in FACES:
        points = unit[list(face)]
        assert sum(np.ptp(points, axis=0) == 0) == 1
        assert [np.abs(points[k] - points[k - 1]).sum() for k in range(4)] == [1, 1, 1, 1]
    assert len({frozenset(face) for face in FACES}) == 6


def test_a_long_path_keeps_its_ends():
    path = np.stack([np.arange(1000.0)] * 3, axis=1)
    (piece,) = spread(path, 300)
    assert len(piece) <= 302
    assert piece[0, 0] == 0
    assert piece[-1, 0] == 999
