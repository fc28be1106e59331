from __future__ import annotations

import json
import string
import sys
import types
import unicodedata
from importlib.machinery import ModuleSpec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from rft3d_cli.errors import SetupError, UsageError
from rft3d_cli.geometry.boxes import Boxes3D, rotation_from_angles
from rft3d_cli.prompts import VSI_CHOICE, VSI_HEAD, VSI_NUMBER
from rft3d_cli.show.answer import Answer, document, read_answer
from rft3d_cli.show.infer_draw import LEGIBLE, MOST_FRAMES, Drawing, kept_size, paced
from rft3d_cli.show.infer_files import appearing, find_videos, folder_names, own_name
from rft3d_cli.show.infer_questions import asked_unit, guess_task, lettered, split_options, understand
from rft3d_cli.show.rerun import write_rrd
from rft3d_cli.show.viewer import Said, Scene

BOX = [0.1, 0.1, 2.0, 0.6, 0.6, 0.6, 0.3, 0.0, 0.0]
BOXES = f'[{{"label": "chair", "bbox_3d": {BOX}}}, {{"label": "table", "bbox_3d": {BOX}}}]'


@pytest.mark.parametrize(
    ("question", "task"),
    [
        ("find every chair", "detection"),
        ("Detect all objects in the room.", "detection"),
        ("please list all the chairs", "detection"),
        ("show every table", "detection"),
        ("where is the chair", "grounding"),
        ("Where's the red chair?", "grounding"),
        ("find the chair that stands by the window", "grounding"),
        ("point to the lamp", "grounding"),
        ("how many chairs are there", "number"),
        ("How many chair(s) are in this room?", "number"),
        ("what is the number of tables", "number"),
        ("count the chairs", "number"),
        ("number of chairs", "number"),
        ("describe the counter", "text"),
        ("how far is the bed from the desk", "number"),
        ("How large is the table?", "number"),
        ("how tall is the door", "number"),
        ("how wide is it", "number"),
        ("how long is the sofa", "number"),
        ("what is the size of this room?", "number"),
        ("What is the length of the longest dimension of the bed, measured in centimeters?", "number"),
        ("Measuring from the closest point of each object, what is the distance between the a and the b?", "number"),
        ("Which is larger? A. bed B. desk", "choice"),
        ("How far is it? A. 2 m B. 3 m", "choice"),
        ("Which one?\nOptions:\nA. bed\nB. desk\nC. lamp", "choice"),
        ("what is this room used for", "text"),
        ("describe the room", "text"),
        ("how is the weather", "text"),
        ("does everything look tidy", "text"),
        ("is vitamin A. healthy", "text"),
        ("", "text"),
    ],
)
def test_the_task_is_told_from_the_words(question, task):
    assert guess_task(question) == task


@pytest.mark.parametrize(
    ("text", "stem", "options"),
    [
        pytest.param("Which? A. bed B. desk", "Which?", ("A. bed", "B. desk"), id="points"),
        pytest.param("Which? (A) bed (B) desk", "Which?", ("A. bed", "B. desk"), id="parentheses"),
        pytest.param("Which? A) bed, B) desk, C) a lamp", "Which?", ("A. bed", "B. desk", "C. a lamp"), id="commas"),
        pytest.param("Which?\nOptions:\nA. bed\nB. desk", "Which?", ("A. bed", "B. desk"), id="VSI-Bench's lines"),
        pytest.param("Is it A. or so? A. yes B. no", "Is it A. or so?", ("A. yes", "B. no"), id="a letter before"),
        pytest.param("Which? A. bed C. desk", "Which? A. bed C. desk", (), id="a letter left out"),
        pytest.param("Which? B. bed C. desk", "Which? B. bed C. desk", (), id="not from A"),
        pytest.param("Which? A. bed", "Which? A. bed", (), id="one option"),
        pytest.param("A. bed B. desk", "A. bed B. desk", (), id="no question"),
        pytest.param("Which? A. B. desk", "Which? A. B. desk", (), id="an empty option"),
        pytest.param("Is room3B. large", "Is room3B. large", (), id="inside a word"),
    ],
)
def test_options_are_told_from_the_question(text, stem, options):
    assert split_options(text) == (stem, options)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=string.printable + "éΩ椅", max_size=80))
def test_any_text_is_understood_or_refused(text):
    try:
        question = understand(text)
    except UsageError:
        return
    assert question.prompt(2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.from_regex(r"[a-z]{2,8}( [a-z]{2,8})?", fullmatch=True), min_size=2, max_size=6))
def test_options_written_into_a_question_come_back(names):
    options = lettered(names)
    assert split_options(f"Which one is it? {' '.join(options)}") == ("Which one is it?", options)


@pytest.mark.parametrize(
    ("question", "unit", "asked"),
    [
        ("how many chairs are there?", None, "how many chairs are there?"),
        ("how far is the bed from the desk?", "m", "how far is the bed from the desk (in meters)?"),
        ("how far is the bed from the desk", "m", "how far is the bed from the desk (in meters)"),
        ("how far is the bed from the desk, in feet?", "ft", "how far is the bed from the desk, in feet?"),
        ("how wide is the desk in cm", "cm", "how wide is the desk in cm"),
        ("how large is the table?", "cm", "how large is the table (in centimeters)?"),
        ("how large is this room?", "m2", "how large is this room (in square meters)?"),
        (
            "What is the size of this room (in square meters)?",
            "m2",
            "What is the size of this room (in square meters)?",
        ),
        ("what is the area of the floor", "m2", "what is the area of the floor (in square meters)"),
    ],
)
def test_a_measure_is_asked_with_a_unit(question, unit, asked):
    found = understand(question)
    assert (found.task, found.unit, asked_unit(question)) == ("number", unit, unit)
    assert found.prompt(2) == "\n".join((VSI_HEAD, asked, VSI_NUMBER))


def test_a_choice_is_asked_in_vsi_bench_s_words():
    lines = [VSI_HEAD, "which is larger", "Options:", "A. bed", "B. desk", VSI_CHOICE]
    assert understand("which is larger", options=("bed", "desk")).prompt(4).splitlines() == lines
    assert understand("which is larger A. bed B. desk").prompt(4).splitlines() == lines


@pytest.mark.parametrize(
    ("question", "text", "value", "words"),
    [
        pytest.param("how many chairs", "3", 3.0, "3", id="count"),
        pytest.param("how many chairs", "There are three.", 3.0, "3", id="in a word"),
        pytest.param("how far is a from b", "2.4", 2.4, "2.4 m", id="in the unit asked for"),
        pytest.param("how far is a from b", "240 cm", 2.4, "2.4 m", id="in another unit"),
        pytest.param("how wide is a", "1.2 m", 120.0, "120 cm", id="metres for centimetres"),
        pytest.param("how large is this room", "21.5", 21.5, "21.5 m²", id="area"),
        pytest.param("how many chairs", "2-3", None, "no number could be read: a range", id="range"),
        pytest.param("how many chairs", "", None, "no number could be read: ", id="nothing"),
        pytest.param("how many chairs", "-1", None, "no number could be read: -1 is less than nothing", id="negative"),
        pytest.param("how many chairs", BOXES, None, "no number could be read: the model wrote boxes", id="boxes"),
        pytest.param("? A. bed B. desk", "B", "B", "B. desk", id="letter"),
        pytest.param("? A. bed B. desk", "bed", "A", "A. bed", id="option's text"),
        pytest.param("? A. bed B. desk", "C", None, "no letter could be read: C is not one of A, B", id="no option"),
        pytest.param("what is it", " a room\n", None, "a room", id="words"),
        pytest.param("what is it", " ", None, "no answer could be read: the model wrote nothing", id="no words"),
        pytest.param("find every sofa", BOXES, None, "nothing of the kind is in sight", id="none of the class"),
        pytest.param("find every table", "[]", None, "nothing of the kind is in sight", id="empty list"),
        pytest.param("find every table", "none", None, "no box could be read: ", id="no list"),
    ],
)
def test_answers_are_read_and_said(question, text, value, words):
    answer = read_answer(understand(question), text, [0, 5], [0.0, 1.0])
    assert answer.value == value
    assert answer.words()[0].startswith(words) if words.endswith(": ") else answer.words()[0] == words
    assert bool(answer.why) == words.startswith("no ")
    row = answer.document()
    assert (row["text"], row["frames"], row["times"]) == (text, [0, 5], [0.0, 1.0])
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_long_unreadable_text_is_shown_short_and_kept_whole():
    answer = read_answer(understand("how many"), "x\n" * 5000, [0], [0.0])
    assert len(answer.words()[1]) < 250
    assert len(answer.document()["text"]) == 10_000


def test_boxes_of_an_old_model_are_turned_as_it_meant_them():
    angles = [0.4, 0.5, 0.6]
    text = f'{{"frame": 0, "bbox_3d": {[0, 0, 2, 1, 2, 3, *angles]}}}'
    new, old = (read_answer(understand("where is it"), text, [0], [0.0], era) for era in ("intrinsic", "extrinsic"))
    assert np.allclose(new.boxes.rotations()[0], Rotation.from_euler("ZXY", angles).as_matrix())
    assert np.allclose(old.boxes.rotations()[0], Rotation.from_euler("zxy", angles).as_matrix())


def test_a_document_of_several_answers_has_none_at_its_top():
    answers = [read_answer(understand(text), "3", [0], [0.0]) for text in ("how many beds", "how many desks")]
    one, two = document(answers[:1], files=[]), document(answers, files=[])
    assert (one["value"], len(one["answers"])) == (3.0, 1)
    assert set(one) - set(two) == set(answers[0].document()) - {"frames", "times"}


# ---- Pictures


def drawing(width: int, height: int, *texts: str) -> Drawing:
    answers = [read_answer(understand(text), BOXES, [0], [0.0]) for text in texts]
    intrinsic = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    return Drawing.of(answers, intrinsic, (width, height))


@pytest.mark.parametrize(
    ("size", "new"),
    [((96, 72), (480, 360)), ((72, 96), (360, 480)), ((479, 100), (958, 200)), ((480, 360), (480, 360)),
     ((1280, 720), (1280, 720)), ((3840, 2160), (1920, 1080)), ((1, 1), (480, 480))],
)  # fmt: skip
def test_small_frames_are_enlarged_by_a_whole_factor_and_huge_ones_reduced(size, new):
    found = drawing(*size, "find every chair")
    assert found.size == new
    assert max(found.size) >= LEGIBLE
    assert found.intrinsic[0, 0] == pytest.approx(size[0] * new[0] / size[0])
    picture = found.picture(np.zeros((size[1], size[0], 3), np.uint8), [(0, found.answers[0].boxes)])
    assert picture.shape == (new[1], new[0], 3)


@pytest.mark.parametrize("size", [(96, 64), (1920, 1080), (3840, 2160), (1080, 1920), (16_384, 1)])
@pytest.mark.parametrize("frames", [1, 32, 128, 512])
def test_frames_kept_for_pictures_fit_into_a_quarter_of_a_gigabyte(size, frames):
    width, height = kept_size(size, frames)
    assert 3 * width * height * frames < 1.01 * 2**28
    assert max(width, height) <= 1920
    assert width / height == pytest.approx(size[0] / size[1], rel=0.01) or min(size) == 1
    if 3 * size[0] * size[1] * frames < 2**28 and max(size) <= 1920:
        assert (width, height) == size


def test_several_questions_have_a_colour_each_and_a_legend():
    one, two = drawing(640, 480, "find every chair"), drawing(640, 480, "find every chair", "find every table")
    grey = np.full((480, 640, 3), 90, np.uint8)
    assert len({two.colour(number, "chair") for number in (0, 1)}) == 2
    assert one.colour(0, "chair") == one.colour(5, "chair")
    corner = (slice(400, 480), slice(0, 200))
    assert (one.picture(grey, [])[corner] == 90).all()
    legend = two.picture(grey, [])[corner]
    for number in (0, 1):
        assert (legend == two.colour(number, "")).all(axis=2).any()
    assert (two.picture(grey, [], legend=False)[corner] == 90).all()


def test_a_legend_of_many_long_questions_stays_in_the_picture():
    many = drawing(160, 90, *[f"where is {'the very long name of a thing ' * 9} {n}" for n in range(40)])
    empty = drawing(160, 90, *["find every sofa"] * 3)
    for found in (many, empty):
        assert found.picture(np.zeros((90, 160, 3), np.uint8), []).shape == (270, 480, 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.001, 0.5), min_size=1, max_size=60))
def test_frames_are_thinned_to_about_thirty_a_second(gaps):
    times = list(np.cumsum(gaps))
    kept = paced(times)
    assert kept[0] == 0
    chosen = [times[number] for number in kept]
    assert all(later - earlier > 0.0266 for earlier, later in pairwise(chosen))
    # What is left out follows a kept frame closely.
    assert all(times[n] - max(t for t in chosen if t <= times[n]) < 0.0334 for n in range(len(times)))


@pytest.mark.parametrize(("rate", "kept"), [(24, 24), (30, 30), (60, 30), (50, 25), (120, 30)])
def test_usual_rates_keep_an_even_pace_where_their_clock_jitters(rate, kept):
    times = [n / rate + 0.001 * (n % 7) / 6 for n in range(10 * rate)]
    assert set(np.diff(paced(times))) == {rate // kept}


def test_a_video_of_hours_is_thinned_evenly():
    kept = paced([number / 30 for number in range(100_000)])
    assert len(kept) == MOST_FRAMES
    assert set(np.diff(kept)) == {5, 6}


# ---- Folders


def test_a_folder_is_its_frames_or_its_videos(tmp_path: Path):
    for name in ("b10.mp4", "b9.MOV", ".hidden.mp4", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in find_videos(tmp_path)] == ["b9.MOV", "b10.mp4"]
    (tmp_path / "0.jpg").write_bytes(b"")
    assert find_videos(tmp_path) == [tmp_path]


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        pytest.param(["a.mp4", "B.mp4", "b.mov"], ["a", "B.mp4", "b.mov"], id="one stem"),
        pytest.param(["b.mov", "b.mp4", "b.mp4.mkv"], ["b.mov", "b.mp4", "b.mp4.mkv"], id="a name that is a stem"),
        pytest.param(["a.mp4", "a.mov", "a.mov.avi", "a.mov.avi.ts"], ["a.mp4", "a.mov", "a.mov.avi", "a.mov.avi.ts"],
                     id="a chain"),
        pytest.param(["a.mp4", "A.MP4"], ["a.mp4", "A.MP4-2"], id="names that differ by case alone"),
        pytest.param(["a.mp4", "A.MP4", "a.mp4-2.avi"], ["a.mp4", "A.MP4-3", "a.mp4-2"], id="a number that is taken"),
        pytest.param(["answers.json.mp4", "b.mp4"], ["answers.json.mp4", "b"], id="index"),
        pytest.param(["...mp4", "..mov"], ["...mp4", "..mov"], id="dots"),
    ],
)  # fmt: skip
def test_videos_of_one_name_go_to_folders_of_their_own(names, folders):
    videos = [Path("v") / name for name in names]
    assert folder_names(videos) == folders


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("aAb.é́", max_size=3).map(lambda name: f"{name}x.mp4"), unique=True, max_size=8))
def test_no_two_videos_share_a_folder(names):
    folders = [unicodedata.normalize("NFC", name).casefold() for name in folder_names([Path(name) for name in names])]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize(("name", "own"), [
    ("a.b.mp4", "a.b"), ("...mp4", "...mp4"), ("..mp4", "..mp4"), (".mp4", ".mp4"), ("a", "a"), (". .mp4", ". .mp4"),
])  # fmt: skip
def test_a_video_s_folder_is_never_the_one_above(name, own):
    assert own_name(Path("v") / name) == own


def test_only_our_own_pictures_of_an_earlier_answer_are_removed(tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    names = ["frame03.png", "frame1-2.png", "video.mp4", "mine.png", "../other.txt", "/etc/hostname", 7]
    (out / "answer.json").write_text(json.dumps({"schema": 1, "answers": [], "files": names}), encoding="utf-8")
    for name in ("frame03.png", "frame1-2.png", "video.mp4", "mine.png", "frame04.png"):
        (out / name).write_text("old", encoding="utf-8")
    (tmp_path / "other.txt").write_text("kept", encoding="utf-8")
    with appearing(out) as work:
        (work / "video.mp4").write_text("new", encoding="utf-8")
        (work / "answer.json").write_text("{}", encoding="utf-8")
    assert sorted(path.name for path in out.iterdir()) == ["answer.json", "frame04.png", "mine.png", "video.mp4"]
    assert (out / "video.mp4").read_text(encoding="utf-8") == "new"
    assert (tmp_path / "other.txt").is_file()


# ---- Rerun


class Recorded:
    """Stands in for the package rerun: keeps what is logged, and under which time."""

    def __init__(self, path: list[tuple[str, object, object]]) -> None:
        self.rows, self.seconds = path, None

    def save(self, path: str) -> None:
        Path(path).write_bytes(b"RRF2")

    def set_time(self, timeline: str, *, duration: float) -> None:
        self.seconds = duration

    def log(self, entity: str, value: object, *, static: bool = False) -> None:
        self.rows.append((entity, None if static else self.seconds, value))

    def flush(self) -> None: ...

    def disconnect(self) -> None: ...


def fake_rerun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object, object]]:
    rows: list[tuple[str, object, object]] = []

    def keep(*args: object, **fields: object) -> dict[str, object]:
        return {"args": args, **fields}

    names = ("Pinhole", "Transform3D", "EncodedImage", "TextDocument", "Boxes3D", "Quaternion", "LineStrips3D")
    module = types.ModuleType("rerun")
    module.__spec__ = ModuleSpec("rerun", None, origin="here")
    for name in names:
        setattr(module, name, keep)
    module.__dict__.update(
        RecordingStream=lambda name: Recorded(rows), ViewCoordinates=types.SimpleNamespace(RDF="RDF")
    )
    monkeypatch.setitem(sys.modules, "rerun", module)
    return rows


def scene(poses: np.ndarray | None) -> Scene:
    images = [np.zeros((4, 6, 3), np.uint8)] * 3
    said = [Said("find", ["chair"], 1, Boxes3D([BOX], ["chair"])), Said("how many", ["3"], 0, Boxes3D([]))]
    return Scene("t", images, [0.0, 0.5, 1.0], np.eye(3), poses, poses, "", "", said)


def test_a_recording_holds_cameras_frames_and_boxes_where_they_belong(monkeypatch, tmp_path: Path):
    rows = fake_rerun(monkeypatch)
    poses = np.stack([np.eye(4)] * 3)
    poses[:, 0, 3] = [1, 2, 3]
    write_rrd(tmp_path / "s.rrd", scene(poses))
    assert (tmp_path / "s.rrd").is_file()
    assert [when for entity, when, _ in rows if entity == "world/camera"] == [0.0, 0.5, 1.0]
    ((_, when, boxes),) = [row for row in rows if row[0] == "world/boxes/1"]
    assert when is None
    assert boxes["centers"].tolist() == [[2.1, 0.1, 2.0]]  # of the camera of frame 1
    assert boxes["half_sizes"].tolist() == [[0.3, 0.3, 0.3]]
    (turn,) = boxes["quaternions"]
    assert np.allclose(Rotation.from_quat(turn["xyzw"]).as_matrix(), rotation_from_angles(BOX[6:]))
    assert "world/boxes/2" not in {entity for entity, *_ in rows}


def test_without_poses_boxes_are_shown_with_their_frame_only(monkeypatch, tmp_path: Path):
    rows = fake_rerun(monkeypatch)
    write_rrd(tmp_path / "s.rrd", scene(None))
    shown = [(when, len(boxes["centers"])) for entity, when, boxes in rows if entity == "world/boxes/1"]
    assert shown == [(0.0, 0), (0.5, 1), (1.0, 0)]


def test_a_rerun_that_works_otherwise_is_a_setup_error_and_leaves_no_file(monkeypatch, tmp_path: Path):
    fake_rerun(monkeypatch)
    monkeypatch.delattr(sys.modules["rerun"], "Pinhole")
    with pytest.raises(SetupError, match="rerun-sdk"):
        write_rrd(tmp_path / "s.rrd", scene(None))
    assert list(tmp_path.iterdir()) == []


def test_an_answer_names_the_frame_that_its_boxes_are_in():
    text = f'{{"frame": 1, "bbox_3d": {BOX}}}'
    answer = read_answer(understand("where is the chair"), text, [0, 7], [0.0, 3.5])
    assert isinstance(answer, Answer)
    assert (answer.frame, answer.indices[answer.frame]) == (1, 7)
    beyond = read_answer(understand("where is the chair"), text, [0], [0.0])
    assert (len(beyond.boxes), beyond.why) == (0, "it names frame 1 of the 1 shown, counted from 0")
