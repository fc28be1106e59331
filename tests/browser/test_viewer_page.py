from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from viewer_scenes import CHAIR, TABLE, answer, hostile, images, pixels_in, pose, questions, scene

from rft3d_cli.geometry.boxes import Boxes3D
from rft3d_cli.show.viewer import Said, Scene, page

pytestmark = pytest.mark.browser

Open = Callable[..., Any]

# How many pixels of a canvas have a colour, about, and their extent. They are read from a copy: the page is left alone.
INK = """((id, colour) => {
  const wanted = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  const canvas = document.getElementById(id);
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  const places = [];
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] > 200 && wanted.every((value, k) => Math.abs(data[at + k] - value) < 24)) {
      places.push([(at / 4) % canvas.width, Math.floor(at / 4 / canvas.width)]);
    }
  }
  const [xs, ys] = [places.map((p) => p[0]), places.map((p) => p[1])];
  const least = (v) => v.reduce((a, b) => Math.min(a, b), 1e9);
  const ends = [xs, ys].flatMap((v) => [least(v), -least(v.map((one) => -one))]);
  return { count: places.length, ends, width: canvas.width };
})"""


class View:
    """The page in the browser, by its hook and its canvases."""

    def __init__(self, tab) -> None:
        self.tab = tab

    def state(self) -> dict[str, Any]:
        return self.tab.evaluate("rft3dViewer.state()")

    def boxes(self) -> list[dict[str, Any]]:
        return self.tab.evaluate("rft3dViewer.boxes()")

    def corners(self) -> np.ndarray:
        """``(boxes, 8, 2)`` in the 3D view."""
        return np.array([box["view"] for box in self.boxes()])

    def ink(self, canvas: str, colour: str) -> int:
        """How many pixels of a canvas have a colour, about."""
        return self.tab.evaluate(f"{INK}({canvas!r}, {colour!r})")["count"]

    def inked(self) -> list[int]:
        """Pixels of the boxes' colours in the 3D view."""
        return [self.ink("view", box["colour"]) for box in self.boxes()]

    def pressed(self, selector: str) -> list[bool]:
        script = f"[...document.querySelectorAll({selector!r})].map((e) => e.getAttribute('aria-pressed') === 'true')"
        return self.tab.evaluate(script)

    def place(self, canvas: str) -> list[float]:
        """A canvas's left, top and width on the screen."""
        script = f"((r) => [r.left, r.top, r.width])(document.getElementById({canvas!r}).getBoundingClientRect())"
        return self.tab.evaluate(script)

    def at(self, box: int, canvas: str = "view") -> tuple[float, float]:
        """Where the middle of a box is on the screen."""
        left, top, width = self.place(canvas)
        x, y = np.mean(self.boxes()[box][canvas], axis=0)
        scale = width / 320 if canvas == "frame" else 1.0
        return left + x * scale, top + y * scale


@pytest.fixture
def show(tab, tmp_path: Path) -> Open:
    def show(made: Scene) -> View:
        (tmp_path / "page.html").write_text(page(made), encoding="utf-8")
        tab.open(tmp_path / "page.html")
        return View(tab)

    return show


def test_the_page_opens_and_shows_the_boxes(show, tab):
    view = show(scene())
    assert [box["name"] for box in view.boxes()] == ["chair", "table"]
    assert min(view.inked()) > 100
    for box, colour in zip(view.boxes(), tab.evaluate("scene.boxes.map((b) => b.colour)"), strict=True):
        assert view.ink("frame", colour) > 100
        assert box["colour"] != colour, "on white the colours are darker"
    width, height = tab.evaluate("((e) => [e.clientWidth, e.clientHeight])(document.getElementById('view'))")
    assert (view.corners() > 0).all()
    assert (view.corners() < [width, height]).all(), "everything is in sight at the start"
    tab.clean()


def test_corners_fall_where_the_cameras_saw_them(show, tab):
    view = show(scene())
    for frame in range(4):
        tab.evaluate(f"document.querySelectorAll('.thumb')[{frame}].click()")
        for box, numbers in zip(view.boxes(), (CHAIR, TABLE), strict=True):
            assert np.array(box["frame"]) == pytest.approx(pixels_in(frame, numbers, own=1), abs=0.5), frame


def test_corners_of_scaled_pictures_too(show):
    large = scene(images=images(4, (1280, 960)), intrinsic=np.array([[1040, 0, 639.5], [0, 1040, 479.5], [0, 0, 1.0]]))
    for box, numbers in zip(show(large).boxes(), (CHAIR, TABLE), strict=True):
        assert np.array(box["frame"]) == pytest.approx(pixels_in(1, numbers, own=1, scale=2.0), abs=0.5)


def test_the_frame_is_painted_where_the_projection_says(show, tab):
    """The ink itself, not only the numbers: a box's colour lies within its projected corners, and reaches them."""
    tab.size(1280, 900, scale=2.0)
    view = show(scene(said=[answer(boxes=Boxes3D([CHAIR], ["chair"]), words=["it"])]))
    found = tab.evaluate(f"{INK}('frame', scene.boxes[0].colour)")
    left, right, _, bottom = (end / found["width"] * 320 for end in found["ends"])
    corners = np.array(view.boxes()[0]["frame"])
    # The name stands above the box, so its top is not measured.
    assert [left, right, bottom] == pytest.approx(
        [corners[:, 0].min(), corners[:, 0].max(), corners[:, 1].max()], abs=3
    )


def test_dragging_turns_the_view_and_boxes_stay_drawn(show, tab):
    view = show(scene())
    before = view.corners()
    tab.drag("#view", 120, -30)
    after = view.corners()
    assert np.abs(after - before).max() > 20
    assert min(view.inked()) > 100
    state = view.state()["view"]
    tab.drag("#view", -120, 30)
    assert view.corners() == pytest.approx(before, abs=1e-6), "and back again"
    assert state["target"] == pytest.approx(view.state()["view"]["target"])
    tab.evaluate("rft3dViewer.rotate(120, -30)")
    assert view.corners() == pytest.approx(after, abs=1e-6), "the hook turns as hands do"
    tab.clean()


@pytest.mark.parametrize(("button", "shift"), [("right", False), ("left", True)])
def test_right_and_shift_drag_move_the_view(show, tab, button, shift):
    view = show(scene())
    before, turned = view.corners(), view.state()["view"]
    tab.drag("#view", 40, 25, button=button, shift=shift)
    moved = view.corners() - before
    assert moved.mean(axis=(0, 1)) == pytest.approx([40, 25], rel=0.3), "what is held goes with the hand"
    assert view.state()["view"]["azimuth"] == turned["azimuth"]


def spread(corners: np.ndarray) -> float:
    return float(np.ptp(corners.reshape(-1, 2), axis=0).max())


def test_the_wheel_zooms(show, tab):
    view = show(scene())
    before = spread(view.corners())
    tab.wheel("#view", -240)
    near = spread(view.corners())
    tab.wheel("#view", 300)
    tab.wheel("#view", 300)
    assert near > 1.2 * before > 1.2 * spread(view.corners()) * 1.2


def test_keys_turn_zoom_look_and_reset(show, tab):
    view = show(scene())
    start = view.corners()
    tab.evaluate("document.getElementById('view').focus()")
    for key, change in (("ArrowLeft", "azimuth"), ("ArrowUp", "elevation"), ("+", "distance"), ("-", "distance")):
        before = view.state()["view"][change]
        tab.key(key)
        assert view.state()["view"][change] != before, key
    before = view.state()["view"]
    tab.key("ArrowRight", shift=True)
    assert view.state()["view"]["target"] != before["target"]
    assert view.state()["view"]["azimuth"] == before["azimuth"]
    tab.key("t")
    assert view.state()["view"]["elevation"] == pytest.approx(np.pi / 2)
    tab.key("s")
    assert view.state()["view"]["elevation"] == 0
    tab.key("r")
    assert view.corners() == pytest.approx(start)
    tab.clean()


def test_buttons_look_from_the_top_and_the_side(show, tab):
    view = show(scene())
    tab.click("[data-look=top]")
    assert view.state()["view"]["elevation"] == pytest.approx(np.pi / 2)
    tab.click("[data-look=side]")
    assert view.state()["view"]["elevation"] == 0
    assert min(view.inked()) > 50
    tab.click("[data-look=in]")
    tab.click("[data-look=reset]")
    assert view.state()["view"]["elevation"] > 0


def test_through_the_camera_the_view_is_the_frame(show, tab):
    """Seen from its place, boxes lie to each other as in the picture: one scale, one shift."""
    view = show(scene(poses=np.stack([pose((-95, 0, 40), (1.0, 2.0, 1.5))] * 4)))
    tab.click("[data-look=camera]")
    frame = np.array([box["frame"] for box in view.boxes()]).reshape(-1, 2)
    seen = view.corners().reshape(-1, 2)
    design = np.concatenate([frame, np.ones((len(frame), 1))], axis=1)
    fit = design @ np.linalg.lstsq(design, seen, rcond=None)[0]
    assert np.abs(fit - seen).max() < 0.06 * spread(seen)


def test_touch_turns_with_one_finger_and_zooms_with_two(show, tab):
    tab.size(400, 900, mobile=True)
    tab.call("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    view = show(scene())
    x, y = tab.middle("#view")
    turned = view.state()["view"]
    tab.touch("touchStart", (x, y))
    tab.touch("touchMove", (x + 30, y))
    tab.touch("touchMove", (x + 60, y))
    tab.touch("touchEnd")
    tab.drawn()
    assert view.state()["view"]["azimuth"] != turned["azimuth"]
    far = view.state()["view"]["distance"]
    tab.touch("touchStart", (x - 30, y), (x + 30, y))
    tab.touch("touchMove", (x - 50, y), (x + 50, y))
    tab.touch("touchMove", (x - 80, y), (x + 80, y))
    tab.touch("touchEnd")
    tab.drawn()
    assert view.state()["view"]["distance"] < 0.6 * far
    tab.clean()


def test_a_row_of_the_list_picks_its_box_in_both_views(show, tab):
    view = show(scene())
    drawn = [view.ink("frame", colour) for colour in tab.evaluate("scene.boxes.map((box) => box.colour)")]
    plain = view.inked()
    tab.click(".box[data-box='1']")
    tab.mouse("mouseMoved", 1, 1)
    tab.drawn()
    assert view.state()["picked"] == 1
    assert view.pressed(".box") == [False, True]
    chair, table = view.inked()
    assert table > 1.2 * plain[1], "the picked box is bold"
    assert chair < 0.8 * plain[0], "the other is pale"
    assert view.ink("frame", tab.evaluate("scene.boxes[1].colour")) > 1.2 * drawn[1]
    assert "table" in tab.evaluate("document.getElementById('spoken').textContent")
    tab.click(".box[data-box='1']")
    assert view.state()["picked"] is None


@pytest.mark.parametrize("canvas", ["view", "frame"])
def test_a_click_on_a_box_picks_it(show, tab, canvas):
    view = show(scene())
    tab.click_at(*view.at(0, canvas))
    assert view.state()["picked"] == 0
    assert view.pressed(".box") == [True, False]
    tab.key("Escape")
    assert view.state()["picked"] is None


def test_a_box_that_reaches_behind_the_camera_is_cut_off_there(show, tab):
    beside = Boxes3D([[1.0, 0.0, 1.0, 1.0, 1.0, 4.0, 0, 0, 0]], ["wall"])
    view = show(scene(said=[answer(boxes=beside, words=["it"])]))
    found = tab.evaluate(f"{INK}('frame', scene.boxes[0].colour)")
    # Its far end is 0.5 m right and 3 m ahead; what is nearer lies farther right, and nothing is mirrored to the left.
    assert found["ends"][0] / found["width"] * 320 == pytest.approx(260 * 0.5 / 3 + 159.5, abs=4)
    assert found["ends"][1] / found["width"] * 320 > 300
    left, top, width = view.place("frame")
    tab.click_at(left + 306 / 320 * width, top + 120 / 320 * width)
    assert view.state()["picked"] == 0, "its side is there to click on up to the picture's edge"


def test_a_drag_that_starts_on_a_box_does_not_pick_it(show, tab):
    view = show(scene())
    tab.click("[data-look=top]")
    x, y = view.at(0)
    tab.mouse("mousePressed", x, y, "left")
    tab.mouse("mouseMoved", x + 30, y, "left")
    tab.mouse("mouseReleased", x + 30, y, "left")
    assert view.state()["picked"] is None


def test_frames_are_stepped_through(show, tab):
    view = show(scene())
    when = "document.getElementById('when').textContent"
    assert view.state()["frame"] == 1, "the answered frame comes first"
    tab.click("#next")
    assert tab.evaluate(when) == "frame 2, 1.00 s"
    tab.key(".")
    tab.key(".")
    assert view.state()["frame"] == 3, "after the last there is none"
    tab.key(",")
    tab.click(".thumb[data-frame='0']")
    assert view.state()["frame"] == 0
    tab.evaluate("document.getElementById('frame').focus()")
    tab.key("ArrowRight")
    assert view.state()["frame"] == 1
    slider = "document.getElementById('step')"
    tab.evaluate(f"{slider}.value = 3, {slider}.dispatchEvent(new Event('input'))")
    assert tab.evaluate(when) == "frame 3, 1.50 s"
    shown = tab.evaluate("[...document.querySelectorAll('.thumb')].map((t) => t.getAttribute('aria-current'))")
    assert shown == ["false", "false", "false", "true"]


def test_playing_steps_by_itself_and_stops(show, tab):
    view = show(scene())
    tab.click("#play")
    tab.until("rft3dViewer.state().frame !== 1")
    tab.click("#play")
    assert view.pressed("#play") == [False]
    tab.clean()


def test_a_question_shows_its_boxes_alone(show, tab):
    view = show(scene(said=questions()))
    assert [box["question"] for box in view.boxes()] == [0, 0, 1]
    colours = [box["colour"] for box in view.boxes()]
    assert colours[0] == colours[1] != colours[2]
    tab.click(".ask[data-question='1']")
    assert [box["name"] for box in view.boxes()] == ["table"]
    assert view.state()["frame"] == 2, "its frame is shown"
    assert view.pressed(".ask") == [False, True, False]
    assert view.ink("view", colours[0]) == 0
    assert view.ink("view", colours[2]) > 100
    tab.click(".ask[data-question='2']")
    assert view.boxes() == []
    tab.click("#all")
    assert len(view.boxes()) == 3
    tab.click(".ask[data-question='2']")
    tab.click(".box[data-box='0']")
    assert view.state()["question"] == 0, "a box of another question brings that question"
    tab.clean()


def test_without_poses_boxes_stand_in_the_answered_frame_only(show, tab):
    view = show(scene(poses=None, path=None, said=questions()))
    assert view.state()["posed"] is False
    assert [box["name"] for box in view.boxes()] == ["chair", "table"]
    for box, numbers in zip(view.boxes(), (CHAIR, TABLE), strict=True):
        assert np.array(box["frame"]) == pytest.approx(pixels_in(1, numbers, own=1), abs=0.5)
    assert min(view.inked()) > 100
    tab.click(".thumb[data-frame='0']")
    assert {box["frame"] is None for box in view.boxes()} == {True}
    tab.click(".box[data-box='2']")
    assert view.state()["frame"] == 2
    assert [box["question"] for box in view.boxes()] == [1]
    assert np.array(view.boxes()[0]["frame"]) == pytest.approx(pixels_in(2, TABLE, own=2), abs=0.5)
    tab.clean()


def test_hostile_text_is_shown_and_does_nothing(show, tab):
    view = show(hostile())
    tab.click(".box[data-box='0']")
    tab.click(".ask[data-question='1']")
    assert tab.evaluate("document.scripts.length") == 2
    assert tab.evaluate("document.querySelectorAll('svg, img:not(.thumb img), iframe').length") == 0
    assert tab.evaluate("document.title").startswith('</script><script>alert("a")')
    assert "<img src=x onerror" in tab.evaluate("document.body.innerText")
    assert [box["question"] for box in view.boxes()] == [1]
    tab.clean()


def test_the_policy_stops_what_would_load_or_run(show, tab):
    show(scene())
    tab.evaluate(
        """(() => {
          const script = document.createElement('script');
          script.textContent = 'window.broken = true';
          document.body.append(script);
          const image = document.createElement('img');
          image.src = 'https://example.invalid/a.png';
          document.body.append(image);
        })()"""
    )
    tab.drawn()
    assert tab.evaluate("window.broken") is None
    assert len(tab.complaints) == 2
    assert all("Content Security Policy" in text for text in tab.complaints)


def test_dark_and_light_follow_the_reader(show, tab):
    view = show(scene())
    ground = "getComputedStyle(document.getElementById('view')).backgroundColor"
    light = tab.evaluate(ground), [box["colour"] for box in view.boxes()]
    tab.scheme("dark")
    tab.drawn()
    dark = tab.evaluate(ground), [box["colour"] for box in view.boxes()]
    assert light[0] == "rgb(255, 255, 255)"
    assert max(int(v) for v in dark[0][4:-1].split(",")) < 40
    assert set(light[1]).isdisjoint(dark[1])
    assert min(view.inked()) > 100


def test_print_is_light_whatever_the_screen_is(show, tab):
    tab.scheme("dark")
    view = show(scene())
    ink = tab.evaluate("scene.boxes.map((box) => box.ink)")
    pdf = tab.call("Page.printToPDF", printBackground=True)["data"]
    assert len(pdf) > 10_000
    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert [box["colour"] for box in view.boxes()] == ink
    assert min(view.inked()) > 100
    tab.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert [box["colour"] for box in view.boxes()] != ink


def test_no_width_needs_sideways_scrolling(show, tab):
    long = "a-question-without-any-space-" * 8
    said = [*questions(), Said(long, [long], 0, Boxes3D([CHAIR], [long]))]
    view = show(scene(title=long, said=said))
    for width in (320, 400, 768, 1280, 1920):
        tab.size(width, 800)
        tab.drawn()
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        place = "((r) => [r.left, r.top, r.right, r.bottom])"
        frame, space = (
            tab.evaluate(f"{place}(document.getElementById('{name}').getBoundingClientRect())")
            for name in ("frame", "view")
        )
        assert space[2] - space[0] > 250
        if width > 900:
            assert space[0] > frame[2], "side by side"
        else:
            assert space[1] > frame[3], "one below the other"
        assert min(view.inked()) > 50, width


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_canvases_are_as_sharp_as_the_screen(show, tab, scale):
    tab.size(900, 700, scale=scale)
    show(scene())
    for name in ("view", "frame"):
        sharp = f"((c) => c.width / c.getBoundingClientRect().width)(document.getElementById('{name}'))"
        assert tab.evaluate(sharp) == pytest.approx(scale, rel=0.01)


def test_everything_has_a_name_and_the_focus_is_seen(show, tab):
    show(scene(said=questions()))
    nameless = """[...document.querySelectorAll('button, input, canvas, img:not([alt=""])')].filter((element) =>
      !(element.getAttribute('aria-label') || element.textContent.trim())).length"""
    assert tab.evaluate(nameless) == 0
    assert tab.evaluate("document.getElementById('frame').getAttribute('aria-label')").startswith("frame 1, 0.50 s")
    seen = set()
    for _ in range(14):
        tab.key("Tab")
        seen.add(tab.evaluate("document.activeElement.id || document.activeElement.className"))
        assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert {"frame", "prev", "step", "view", "ask"} <= seen


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(scene(said=[]), id="no-questions"),
        pytest.param(scene(images=images(1), times=[0.0], poses=None, path=None, said=[]), id="one-frame"),
        pytest.param(scene(said=[answer(boxes=Boxes3D([[1e6] * 3 + [1e5] * 3 + [0] * 3]), words=[])]), id="huge-box"),
        pytest.param(scene(said=[answer(boxes=Boxes3D([[0, 0, 1] + [0] * 6]), words=[])]), id="flat-box"),
        pytest.param(scene(said=[answer(boxes=Boxes3D([[0, 0, 0, 2, 2, 2, 0, 0, 0]]), words=[])]), id="around"),
        pytest.param(scene(said=[answer(boxes=Boxes3D([[0, 0, -3, 1, 1, 1, 0, 0, 0]]), words=[])]), id="behind"),
        pytest.param(scene(path=np.full((5, 4, 4), np.nan)), id="lost-path"),
        pytest.param(scene(poses=np.stack([pose((-95, 0, 0), (0, 0, 1.5)), *[np.full((4, 4), np.nan)] * 3]), said=[]),
                     id="lost-poses"),
    ],
)  # fmt: skip
def test_odd_scenes_open_and_every_control_works(show, tab, made):
    show(made)
    tab.evaluate("document.querySelectorAll('button').forEach((button) => { button.click(); button.click(); })")
    tab.drag("#view", 50, 20)
    tab.wheel("#view", -100)
    tab.clean()
    values = tab.evaluate("Object.values(rft3dViewer.state().view).flat()")
    assert all(isinstance(value, int | float) for value in values), "no number was lost on the way"


def test_many_boxes_turn_smoothly(show, tab):
    generator = np.random.default_rng(0)
    places = generator.uniform([-2, -1, 2], [2, 1, 6], (60, 3))
    many = np.concatenate([places, np.full((60, 3), 0.4), np.zeros((60, 3))], axis=1)
    show(scene(said=[answer(boxes=Boxes3D(many, ["chair"] * 60), words=["60"])]))
    took = tab.evaluate(
        """Math.min(...[1, 2, 3, 4, 5].map((turn) => {
          const start = performance.now();
          rft3dViewer.rotate(9, turn);
          return performance.now() - start;
        }))"""
    )
    assert took < 250, "milliseconds a picture, by the processor alone"
