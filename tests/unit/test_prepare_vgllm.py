from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_rooms import SMALL, build_rooms
from vgllm_files import (
    DETECT,
    INTRINSIC,
    SIZE,
    Room,
    add_images,
    cameras,
    corners,
    detection_answer,
    detection_row,
    grounding_row,
    in_camera,
    names,
    save,
    talk,
    two,
)
from vgllm_runs import ERAS, IMAGES, LETTERS, RIGHT, ask, boxes_of, card, one, records, run

from rft3d_cli.answers import read_boxes, read_grounding
from rft3d_cli.errors import DataError, Rft3dError
from rft3d_cli.geometry.boxes import box_corners
from rft3d_cli.geometry.iou import paired_iou
from rft3d_cli.prepare._vgllm_video import loader_frames
from rft3d_cli.prepare.conversations import letter_of, number_of, options_of
from rft3d_cli.prepare.pictures import Places
from rft3d_cli.prepare.pipeline import Policy, Store
from rft3d_cli.prepare.scannet import prepare_detection
from rft3d_cli.prepare.scanrefer import GroundingSpec, prepare_grounding
from rft3d_cli.prepare.splits import Split
from rft3d_cli.records import Record
from rft3d_cli.rewards import RewardSet
from rft3d_cli.video import write_mp4

# ---- Detection


@pytest.mark.parametrize("with_cameras", [False, True], ids=["train", "val"])
@pytest.mark.parametrize("era", ERAS)
def test_detection_boxes_are_where_the_furniture_is(tmp_path: Path, era: str, with_cameras: bool) -> None:
    rooms = [Room(seed) for seed in range(4)]
    report = run(tmp_path, [room.detection(era, with_cameras) for room in rooms])
    for room, record in zip(rooms, records(report), strict=True):
        expected = np.array([corners(box) for box in room.boxes("intrinsic")])
        assert box_corners(boxes_of(record)) == pytest.approx(expected, abs=1e-6)
        assert [box.label for box in record.target.boxes] == room.labels
        assert record.prompt == "<image>\n" * 4 + DETECT
        assert record.video.frames == [f"media/{name}" for name in room.images]
        assert (record.camera is not None) is with_cameras
        assert (record.meta.dataset, record.meta.scene, record.meta.split) == ("scannet", room.scene, "train")
        if record.camera is not None:
            assert record.camera.image_size == SIZE
            assert record.camera.intrinsic == [row[:3] for row in INTRINSIC[:3]]
            placed = np.array(record.camera.axis_align) @ np.array(record.camera.cam_to_world)
            assert placed == pytest.approx(room.placed)
    assert report.counts["detection"] == 4
    assert report.counts["boxes"] == 28


@pytest.mark.parametrize("era", ERAS)
def test_the_answer_says_what_the_target_is(tmp_path: Path, era: str) -> None:
    room = Room(2)
    row = room.detection(era)
    record = one(tmp_path, row)
    answer = read_boxes(record.answer)
    assert answer.complete
    assert answer.boxes.labels == tuple(room.labels)
    assert np.abs(answer.boxes.boxes - boxes_of(record)).max() <= 0.005 + 1e-9
    stored = row["conversations"][1]["value"]
    if era == "intrinsic":
        assert record.answer == stored
        assert boxes_of(record).tolist() == [box["bbox_3d"] for box in row["boxes"]]
    else:
        assert record.answer != stored
        # Only numbers differ: the layout is VG-LLM's own.
        assert record.answer == detection_answer(room.labels, boxes_of(record).tolist()).replace("-0.0,", "0.0,")


def test_an_empty_clip_is_a_record_without_boxes(tmp_path: Path) -> None:
    empty = detection_row(IMAGES, [], [])
    assert empty["conversations"][1]["value"] == "```json\n[\n\t\n]```"
    report = run(tmp_path, [empty, RIGHT])
    first = records(report)[0]
    assert first.target.boxes == []
    assert first.answer == empty["conversations"][1]["value"]


def test_a_row_without_boxes_has_those_of_its_answer(tmp_path: Path) -> None:
    row = {key: value for key, value in Room(5).detection("extrinsic").items() if key != "boxes"}
    expected = np.array([corners(box) for box in Room(5).boxes("intrinsic")])
    assert np.abs(box_corners(boxes_of(one(tmp_path, row))) - expected).max() < 0.04


def test_what_the_released_files_add_to_a_box_is_ignored(tmp_path: Path) -> None:
    row = Room(0).detection("intrinsic")
    row["boxes"] = [{**box, "in_reference": True} for box in row["boxes"]]
    assert len(one(tmp_path, row).target.boxes) == 7


# ---- Rooms, there and back


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_rooms(SMALL, tmp_path_factory.mktemp("rooms"))


@pytest.fixture(scope="module")
def detections(rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    media = tmp_path_factory.mktemp("det")
    report = prepare_detection(
        scans=rooms / "scans",
        annotations=rooms / "embodiedscan_infos_train.json",
        places=Places(rooms / "scans", None, Store(media)),
        split=Split("train"),
        out=media / "det.jsonl",
        media_root=media,
        policy=Policy(),
    )
    return media, records(report)


@pytest.fixture(scope="module")
def groundings(rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    media = tmp_path_factory.mktemp("ref")
    report = prepare_grounding(
        scans=rooms / "scans",
        descriptions=rooms / "ScanRefer_filtered_train.json",
        annotations=rooms / "embodiedscan_infos_train.json",
        labels=None,
        places=Places(rooms / "scans", None, Store(media)),
        split=Split("train"),
        out=media / "ref.jsonl",
        media_root=media,
        spec=GroundingSpec(frames=6),
        policy=Policy(),
    )
    return media, records(report)


def placed_in(record: Record, frame: int = 0) -> np.ndarray:
    return np.array(record.camera.axis_align) @ np.array(record.camera.cam_to_world[frame])


def as_written(box: Any, era: str) -> list[float]:
    """A record's box as VG-LLM's files of that era have it: by way of its corners' frame, with SciPy's angles."""
    at = corners(box)
    axes = np.column_stack([at[4] - at[0], at[2] - at[0], at[1] - at[0]])
    return in_camera(box[:3], box[3:6], axes / np.linalg.norm(axes, axis=0), np.eye(4), era)


def camera_fields(record: Record) -> dict[str, Any]:
    intrinsic = np.eye(4)
    intrinsic[:3, :3] = record.camera.intrinsic
    return cameras(record.camera.cam_to_world, record.camera.axis_align, intrinsic.tolist())


@pytest.mark.parametrize("with_cameras", [False, True], ids=["train", "val"])
@pytest.mark.parametrize("era", ERAS)
def test_detection_records_of_rooms_survive_vgllms_format(
    detections: tuple[Path, list[Record]], tmp_path: Path, era: str, with_cameras: bool
) -> None:
    media, ours = detections
    rows = []
    for record in ours:
        labels = [box.label for box in record.target.boxes]
        boxes = [as_written(box.bbox_3d, era) for box in record.target.boxes]
        more = camera_fields(record) if with_cameras else {}
        rows.append(detection_row(record.video.frames, labels, boxes, **more))
    report = run(tmp_path, save(tmp_path / "scannet_det.json", rows), media=media)
    assert card(report)["options"]["angles"]["era"] == era
    for before, after in zip(ours, records(report), strict=True):
        assert paired_iou(boxes_of(before), boxes_of(after)).min() > 0.999
        assert (after.prompt, after.video.frames, after.meta.scene) == (
            before.prompt,
            before.video.frames,
            before.meta.scene,
        )
        assert after.camera is None or after.camera.model_dump() == before.camera.model_dump()
        assert RewardSet({"det_iou": 1.0}).score(after.answer, before)["det_iou"].value > 0.85


@pytest.mark.parametrize("era", ERAS)
def test_grounding_records_of_rooms_survive_vgllms_format(
    groundings: tuple[Path, list[Record]], tmp_path: Path, era: str
) -> None:
    media, ours = groundings
    rows = [
        grounding_row(
            record.video.frames,
            record.meta.model_extra["description"],
            record.target.bbox_world,
            (record.target.frame, as_written(record.target.bbox_3d, era)),
            **camera_fields(record),
        )
        for record in ours
    ]
    report = run(tmp_path, save(tmp_path / "scanrefer.jsonl", rows), media=media)
    assert card(report)["options"]["angles"]["era"] == era
    for before, after in zip(ours, records(report), strict=True):
        assert after.prompt == before.prompt
        assert after.target.frame == before.target.frame
        assert paired_iou([before.target.bbox_3d], [after.target.bbox_3d])[0] > 0.999
        assert paired_iou([before.target.bbox_world], [after.target.bbox_world])[0] > 0.999
        exact = json.dumps({"frame": after.target.frame, "bbox_3d": after.target.bbox_3d})
        scores = RewardSet({"ground_iou": 1.0, "ground_frame": 1.0}).score(exact, after)
        assert [score.value for score in scores.values()] == [1.0, 1.0]


def test_test_rows_of_rooms_get_a_frame_that_shows_the_object(
    groundings: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    media, ours = groundings
    rows = [grounding_row(r.video.frames, "the bed", r.target.bbox_world, None, **camera_fields(r)) for r in ours]
    report = run(tmp_path, save(tmp_path / "scanrefer_val.json", rows), media=media, split=Split("val"))
    assert {row["reason"] for row in report.rejects} <= {"no frame shows the box"}
    found = {int(record.id.rpartition("/")[2]): record for record in records(report)}
    assert len(found) > 0.8 * len(ours)
    for number, after in found.items():
        assert after.answer is None
        pixel = np.array(after.camera.intrinsic) @ after.target.bbox_3d[:3]
        assert pixel[2] > 0
        back = np.linalg.inv(placed_in(after, after.target.frame))
        assert after.target.bbox_3d[:3] == pytest.approx(
            back[:3, :3] @ ours[number].target.bbox_world[:3] + back[:3, 3]
        )
    assert card(report)["options"]["angles"]["told_by"] == "no turned box"


# ---- Grounding


@pytest.mark.parametrize("era", ERAS)
def test_a_train_row_keeps_its_frame_and_gets_the_exact_box(tmp_path: Path, era: str) -> None:
    room = Room(6)
    record = one(tmp_path, room.grounding(era, piece=2, frame=3))
    assert record.target.frame == 3
    assert list(record.target.bbox_world) == room.world(2)
    expected = in_camera(room.centres[2], room.sizes[2], np.eye(3), room.placed[3], "intrinsic")
    assert box_corners(record.target.bbox_3d) == pytest.approx(corners(expected), abs=1e-6)
    said = read_grounding(record.answer)
    assert said.frame == 3
    assert np.abs(np.array(said.box) - record.target.bbox_3d).max() <= 0.005 + 1e-9
    assert record.answer.startswith('```json\n\t{"frame": 3, "bbox_3d": [')
    assert "Text: The red chair by the door.\n" in record.prompt
    assert (record.meta.subset, record.meta.question_type, record.meta.dataset) == ("unique", None, "scanrefer")
    assert record.meta.model_extra["object_id"] == "11"


@pytest.mark.parametrize("era", ERAS)
def test_train_rows_without_cameras_show_their_era_in_pairs(tmp_path: Path, era: str) -> None:
    rooms = [Room(seed) for seed in range(6)]
    rows = [room.grounding(era, piece=piece, with_cameras=False) for room in rooms for piece in (1, 2, 3)]
    report = run(tmp_path, rows)
    votes = card(report)["options"]["angles"]["rows"]["two objects of one frame"]
    assert votes[era] >= 6
    assert sum(votes.values()) == 18
    for room, record in zip([room for room in rooms for _ in range(3)], records(report), strict=True):
        assert record.camera is None
        box = corners(record.target.bbox_3d) @ room.placed[1][:3, :3].T + room.placed[1][:3, 3]
        assert box == pytest.approx(corners(record.target.bbox_world), abs=1e-6)


def test_a_train_row_without_a_world_box_gets_it_from_the_cameras(tmp_path: Path) -> None:
    room = Room(8)
    row = room.grounding("intrinsic")
    del row["gt_bbox"]
    record = one(tmp_path, row, angles="intrinsic")
    assert paired_iou([record.target.bbox_world], [room.world(1)])[0] > 0.999


def test_the_largest_view_becomes_a_test_rows_frame(tmp_path: Path) -> None:
    room = Room(3, frames=3)
    world = room.world(1)
    towards = np.array(world[:3])
    for frame, share in enumerate((0.2, 0.6, 0.4)):
        # Nearer to the object on one line, the view is larger.
        far = room.placed[0].copy()
        far[:3, 3] = towards + (room.placed[0][:3, 3] - towards) * (1.2 - share) * 2
        room.poses[frame] = np.linalg.inv(room.align) @ far
    record = one(tmp_path, room.grounding("intrinsic", frame=None))
    assert record.target.frame == 1
    assert record.meta.model_extra["target_rule"] == "largest projected area"
    assert record.meta.subset == "unique"


def test_a_prompt_without_marks_gets_the_line_of_frames(tmp_path: Path) -> None:
    row = Room(1).grounding("intrinsic", frame=None)
    stored = row["conversations"][0]["value"]
    for change in ({"conversations": None}, {"conversations": talk("\n" + row["prompt"], "")}):
        assert one(tmp_path, {**row, **change}).prompt == stored


def test_an_old_prompt_stays_as_it_is(tmp_path: Path) -> None:
    row = Room(1).grounding("extrinsic")
    row["conversations"][0]["value"] = row["conversations"][0]["value"].replace("bbox_3d", "box_3d")
    assert one(tmp_path, row).prompt == row["conversations"][0]["value"]


# ---- Texts, letters, numbers


@pytest.mark.parametrize(
    ("row", "task", "target", "meta"),
    [
        pytest.param(
            ask(LETTERS, "B", data_source="scannet", scene_name="x", question_type="object_rel_distance"),
            "choice",
            {"letter": "B", "options": ["A. chair", "B. table", "C. lamp"]},
            {"dataset": "scannet", "question_type": "object_rel_distance", "scene": "scene0001_00"},
            id="letter",
        ),
        pytest.param(
            ask(LETTERS, "C. lamp"), "choice", {"letter": "C", "options": ["A. chair", "B. table", "C. lamp"]}, {},
            id="letter with its words",
        ),
        pytest.param(
            ask("Is it (A) left or (B) right?", "(A)"), "choice",
            {"letter": "A", "options": ["(A) left or", "(B) right?"]}, {}, id="options in the line",
        ),
        pytest.param(ask("Which letter is on the wall?", "B"), "text", {"references": ["B"]}, {}, id="letter alone"),
        pytest.param(ask(LETTERS, "F"), "text", {"references": ["F"]}, {}, id="letter of no option"),
        pytest.param(ask("How far?", "2.5"), "number", {"value": 2.5}, {}, id="number"),
        pytest.param(ask("How many?", "4", id="q7"), "number", {"value": 4.0}, {"source_id": "q7"}, id="count"),
        pytest.param(ask("How far?", "2.5 m"), "text", {"references": ["2.5 m"]}, {}, id="number with a unit"),
        pytest.param(ask("What?", "A chair."), "text", {"references": ["A chair."]}, {}, id="words"),
        pytest.param(
            ask("Describe what is at [0.1, 0.2, 1.5].", "A red chair."), "text", {"references": ["A red chair."]}, {},
            id="caption of train",
        ),
        pytest.param(
            ask("Describe it.", "", annotations=["a.", "b."], iou=0.61, input_box=[0] * 6, gt_box=[0] * 6,
                metadata={"dataset": "scan2cap", "object_id": 4}),
            "text", {"references": ["a.", "b."]}, {"dataset": "scan2cap", "iou": 0.61, "object_id": 4},
            id="caption of val",
        ),
        pytest.param(
            ask("I sit. How many?", "3", qid=220602, situation="I sit.", question="How many?", answer="3",
                question_type="how"),
            "text", {"references": ["3"]}, {"dataset": "sqa3d", "question_type": "how", "source_id": 220602},
            id="sqa3d",
        ),
        pytest.param(
            ask("How many chairs?", "4", spar_info=json.dumps({"type": "obj_count"})),
            "number", {"value": 4.0}, {"dataset": "spar", "question_type": "obj_count"}, id="spar without marks",
        ),
    ],
)  # fmt: skip
def test_other_rows_by_what_they_answer(tmp_path: Path, row: dict, task: str, target: dict, meta: dict) -> None:
    record = one(tmp_path, row)
    assert record.task == task
    assert record.target.model_dump() == target
    assert record.prompt == row["conversations"][0]["value"]
    assert record.answer == (row["conversations"][1]["value"] or None)
    found = record.meta.model_dump()
    assert {key: found[key] for key in meta} == meta


def test_marks_are_never_left_unpainted_in_silence(tmp_path: Path) -> None:
    painted = ["depth_prediction_oo", "position_matching", "obj_frame_locate", "new_type_of_next_year"]
    rows = [ask("How deep is the red point?", "2", spar_info=json.dumps({"type": kind})) for kind in painted]
    report = run(tmp_path, [*rows, ask("How many?", "2")], policy=Policy(max_bad=0))
    assert report.records == 1
    assert [(row["reason"], row["why"]) for row in report.rejects] == [
        ("needs painted marks", kind) for kind in painted
    ]
    assert card(report)["rejects"] == {"needs painted marks": 4}


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        pytest.param("A. a\nB. b", ["A. a", "B. b"], id="lines"),
        pytest.param("x\n (A) a\n (B) b \n", ["(A) a", "(B) b"], id="brackets"),
        pytest.param("A. one\nthen\nA. a\nB. b\nC. c", ["A. a", "B. b", "C. c"], id="the longest run"),
        pytest.param("A) a B) b", ["A) a", "B) b"], id="one line"),
        pytest.param("A. alone", [], id="one option"),
        pytest.param("B. b\nC. c", [], id="no A"),
        pytest.param("The U.S.A. is far. B. B. King", [], id="initials"),
        pytest.param("", [], id="nothing"),
    ],
)
def test_options_are_found(prompt: str, options: list[str]) -> None:
    assert options_of(prompt) == options


@pytest.mark.parametrize(
    ("text", "letter", "number"),
    [("A", "A", None), (" B. ", "B", None), ("(C)", None, None), ("b", None, None), ("B. two", "B", None),
     ("2", None, 2.0), ("-1.5", None, -1.5), ("1e3", None, None), ("nan", None, None), ("٣", None, None),
     ("9" * 400, None, None)],
)  # fmt: skip
def test_letters_and_numbers_are_all_of_an_answer(text: str, letter: str | None, number: float | None) -> None:
    assert letter_of(text, ["A. one", "B. two"]) == letter
    assert number_of(text) == number


def test_long_prompts_take_linear_time() -> None:
    for hostile in ("A. " + " " * 300_000 + "x", "A. " * 100_000, "(" * 300_000, "\n" * 300_000 + "A. a"):
        options_of(hostile)
        letter_of(hostile, ["A. a"])
        number_of(hostile)


# ---- Videos


@pytest.mark.parametrize(
    ("count", "seconds", "frames"),
    [
        pytest.param(30, 30.0, [0, 4, 8, 12, 16, 20, 24, 29], id="a folder of 30"),
        pytest.param(10, 10.0, [0, 2, 4, 6, 9], id="a folder of 10"),
        pytest.param(3, 3.0, [0, 1, 2], id="fewer than asked"),
        pytest.param(1, 1.0, [0], id="one"),
        pytest.param(300, 10.0, [0, 74, 149, 224, 299], id="ten seconds at 30"),
    ],
)
def test_the_loaders_frames(count: int, seconds: float, frames: list[int]) -> None:
    assert loader_frames(count, seconds) == frames


def folder_of_frames(media: Path, count: int) -> str:
    folder = media / "llava_hound/clip7"
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (8, 8)).save(folder / f"{number:03d}.jpg")
    (folder / "notes.txt").touch()
    return "llava_hound/clip7"


def test_a_folder_of_frames_becomes_its_sampled_frames(tmp_path: Path) -> None:
    name = folder_of_frames(tmp_path / "media", 20)
    record = one(tmp_path, {"video": name, "conversations": talk("See <video>\nWhat happens?", "A walk.")})
    chosen = [int(i) for i in np.linspace(0, 19, 8)]
    assert record.video.frames == [f"media/{name}/{i:03d}.jpg" for i in chosen]
    assert record.video.times == chosen
    assert record.prompt == "See " + "<image>" * 8 + "\nWhat happens?"
    assert record.task == "text"


@pytest.mark.parametrize("mark", ["<video>\n", "<video>", "<image>\n", ""])
def test_a_leading_mark_of_a_video_goes(tmp_path: Path, mark: str) -> None:
    name = folder_of_frames(tmp_path / "media", 2)
    record = one(tmp_path, {"video": name, "conversations": talk(f"{mark}What happens?", "A walk.")})
    assert record.prompt == "What happens?"


def test_a_clip_is_sampled_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    write_mp4(tmp_path / "media/a.mp4", [np.zeros((16, 16, 3), np.uint8)] * 24, 2)
    record = one(tmp_path, {"video": "a.mp4", "conversations": talk("<video>\nWhat?", "Black.")})
    assert (record.video.path, record.video.frames, record.video.sampler) == ("media/a.mp4", 6, "linspace-floor")


# ---- Eras


def test_the_card_tells_how_the_era_was_told(tmp_path: Path) -> None:
    rows = [Room(seed).detection("extrinsic", with_cameras=bool(seed % 2)) for seed in range(6)]
    single = Room(9, pieces=2, free=0).detection("extrinsic")
    one_box = detection_row(single["images"], ["bed"], [single["boxes"][0]["bbox_3d"]])
    angles = card(run(tmp_path, [*rows, one_box]))["options"]["angles"]
    assert angles == {
        "option": None,
        "era": "extrinsic",
        "told_by": "rows",
        "rows": {
            "common vertical": {"intrinsic": 0, "extrinsic": 3, "undetermined": 1},
            "upright in the world": {"intrinsic": 0, "extrinsic": 3, "undetermined": 0},
        },
    }


def test_a_file_of_both_eras_is_refused(tmp_path: Path) -> None:
    rows = [Room(seed).detection(ERAS[seed % 2]) for seed in range(6)]
    with pytest.raises(DataError, match="3 rows intrinsic, 3 extrinsic") as caught:
        run(tmp_path, rows)
    assert "--angles" in caught.value.hint
    assert not (tmp_path / "out.jsonl").exists()


def test_a_file_that_cannot_tell_needs_the_option(tmp_path: Path) -> None:
    room = Room(4, pieces=1, free=0)
    row = room.detection("extrinsic")
    with pytest.raises(DataError, match="none of 1 rows") as caught:
        run(tmp_path, [row])
    assert "--angles extrinsic" in caught.value.hint
    record = one(tmp_path, row, angles="extrinsic")
    assert corners(boxes_of(record)[0]) == pytest.approx(corners(room.boxes("intrinsic")[0]), abs=1e-6)


def test_the_option_goes_first_and_rows_that_disagree_are_warned_of(tmp_path: Path) -> None:
    rows = [Room(seed).detection("extrinsic") for seed in range(3)]
    report = run(tmp_path, rows, angles="intrinsic")
    assert boxes_of(records(report)[0]).tolist() == [box["bbox_3d"] for box in rows[0]["boxes"]]
    assert list(report.warnings) == ["3 rows speak against --angles intrinsic"]
    told = card(report)["options"]["angles"]
    assert (told["option"], told["era"], told["told_by"]) == ("intrinsic", "intrinsic", "option")


def test_a_lone_row_of_the_other_era_is_left_out(tmp_path: Path) -> None:
    rows = [Room(seed, pieces=4, frames=1).detection("intrinsic") for seed in range(1000, 1110)]
    rows[50] = Room(1050, pieces=4, frames=1).detection("extrinsic")
    report = run(tmp_path, rows)
    assert report.records == 109
    assert [(row["row"], row["reason"]) for row in report.rejects] == [(50, "angles of the other era")]


# ---- Media


def test_missing_media_are_counted_and_named(tmp_path: Path) -> None:
    rows = [ask("How many?", "2"), ask("How many?", "3", images=names("scene0002_00", (0, 30)))]
    add_images(tmp_path / "media", rows[:1])
    with pytest.raises(DataError, match=r"2 of 4 media files are missing.*scene0002_00/00000.jpg") as caught:
        run(tmp_path, rows, images=False)
    assert "--allow-missing" in caught.value.hint
    report = run(tmp_path, rows, images=False, allow_missing=True, policy=Policy(max_bad=0))
    assert (report.records, report.counts["missing_media"]) == (1, 2)
    assert [row["reason"] for row in report.rejects] == ["missing media"]


def test_media_elsewhere_are_the_media_root(tmp_path: Path) -> None:
    row = ask("How many?", "2")
    media = add_images(tmp_path / "disk/media", [row])
    options = {"media": media, "out": tmp_path / "out/a.jsonl", "images": False}
    assert one(tmp_path, row, **options).video.frames == IMAGES
    named = one(tmp_path, row, **options, media_root=tmp_path / "disk")
    assert named.video.frames == [f"media/{name}" for name in IMAGES]
    with pytest.raises(Rft3dError, match="not inside the media root"):
        run(tmp_path, [row], **options, media_root=tmp_path / "out")


def test_a_missing_media_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder"):
        run(tmp_path, [RIGHT], media=tmp_path / "nowhere")


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    dry = run(tmp_path, [RIGHT], policy=Policy(dry_run=True))
    assert not (tmp_path / "out.jsonl").exists()
    assert not (tmp_path / "out.card.json").exists()
    assert dry.counts == run(tmp_path, [RIGHT]).counts


def test_answers_are_rounded_to_two_decimals_in_old_files(tmp_path: Path) -> None:
    row = Room(6).detection("extrinsic")
    answer = one(tmp_path, row).answer
    numbers = json.loads(answer.removeprefix("```json").removesuffix("```"))
    assert [item["bbox_3d"] for item in numbers] == [two(item["bbox_3d"]) for item in numbers]
