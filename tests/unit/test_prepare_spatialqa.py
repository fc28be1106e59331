from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distance_reference import solved_distance as gap
from hypothesis import given, settings
from hypothesis import strategies as st
from small_rooms import build_rooms, infos, write_infos

from rft3d_cli.errors import DataError, ProblemList, UsageError
from rft3d_cli.prepare.pictures import Places
from rft3d_cli.prepare.pipeline import Policy, Quarantine, Report, Store
from rft3d_cli.prepare.questions.recompute import recompute
from rft3d_cli.prepare.questions.wording import WORDING
from rft3d_cli.prepare.rooms.build import RoomsSpec, draw_scene
from rft3d_cli.prepare.rooms.render import FIRST_ITEM
from rft3d_cli.prepare.rooms.scene import Scene
from rft3d_cli.prepare.spatialqa import (
    MAKERS,
    QuestionSpec,
    find_video,
    letter_position,
    prepare_questions,
    question_types,
)
from rft3d_cli.prepare.splits import Split
from rft3d_cli.prompts import IMAGE, vsibench_prompt
from rft3d_cli.records import Clip, FrameList, Record, read_records

ROOMS = RoomsSpec(scenes=6, seed=10, objects=(9, 12), seconds=8, fps=5, size=(64, 48), antialias=1, val=0)
MANY = QuestionSpec(per_type=30, frames=40)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_rooms(ROOMS, tmp_path_factory.mktemp("spatialqa") / "rooms")


@pytest.fixture(scope="module")
def scenes() -> dict[str, tuple[Scene, list[Any]]]:
    drawn = [draw_scene(ROOMS, i) for i in range(ROOMS.scenes)]
    return {scene.name: (scene, images) for scene, _, images in drawn}


def run(rooms: Path, out: Path, spec: QuestionSpec = MANY, **options: Any) -> Report:
    fields: dict[str, Any] = {
        "scans": rooms / "scans",
        "annotations": rooms / "embodiedscan_infos_train.json",
        "videos": None,
        "places": Places(rooms / "scans", None, Store(out.parent / "media", "media")),
        "split": Split("train"),
        "out": out,
        "media_root": out.parent,
        "spec": spec,
        "policy": Policy(),
        **options,
    }
    return prepare_questions(**fields)


@pytest.fixture(scope="module")
def report(rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return run(rooms, tmp_path_factory.mktemp("out") / "qa.jsonl")


@pytest.fixture(scope="module")
def records(report: Report) -> list[Record]:
    return read_records(report.out).records


def kind(record: Record) -> str:
    assert record.meta.question_type is not None
    return record.meta.question_type


def told(record: Record) -> list[dict[str, Any]]:
    return (record.meta.model_extra or {})["objects"]


def labels(record: Record, role: str | None = None) -> list[str]:
    return [thing["label"] for thing in told(record) if role in (None, thing["role"])]


def chosen_option(record: Record) -> str:
    (text,) = (option[3:] for option in record.target.options if option[0] == record.answer)
    return text


# ---- Answers


def test_every_type_is_asked_and_every_answer_is_what_its_record_says(records: list[Record]) -> None:
    assert {kind(record) for record in records} == set(MAKERS)
    for record in records:
        assert recompute(record) == record.answer, record.id
        if record.task == "number":
            assert record.target.value == float(record.answer)
        else:
            assert record.target.letter == record.answer


def test_an_answer_follows_the_metadata_and_not_the_record(records: list[Record]) -> None:
    for name in MAKERS:
        changed = 0
        for record in (record for record in records if kind(record) == name):
            data = json.loads(record.to_json())
            meta = data["meta"]
            if name == "room_size_estimation":
                meta["floor"]["polygon"] = [[2 * x, y] for x, y in meta["floor"]["polygon"]]
            elif name == "object_counting":
                meta["objects"] *= 2
            elif name == "obj_appearance_order":
                continue
            else:
                for thing in meta["objects"]:
                    thing["box"] = [-2 * thing["box"][0], *(3 * x for x in thing["box"][1:6]), *thing["box"][6:]]
            try:
                changed += recompute(Record.model_validate(data)) != record.answer
            except ValueError:  # none of the route's options is right any more
                changed += 1
        assert changed or name in ("obj_appearance_order", "object_rel_distance"), name


def place(box: np.ndarray) -> complex:
    return complex(box[0], box[1])


def degrees(ahead: complex, there: complex) -> float:
    return float(np.degrees(np.angle(there / ahead)))


def test_answers_are_those_of_the_rooms_themselves(
    records: list[Record], scenes: dict[str, tuple[Scene, list[Any]]]
) -> None:
    least = max(1, round(0.003 * math.prod(ROOMS.size)))
    for record in records:
        scene, images = scenes[record.meta.scene]
        of = {label: [item.box for item in scene.items if item.label == label] for label in labels(record)}

        def the(role: str, of: dict = of, record: Record = record) -> list[np.ndarray]:
            names = labels(record, role)
            assert all(len(of[name]) == 1 for name in names)
            return [of[name][0] for name in names]

        name = kind(record)
        if name == "object_counting":
            (label,) = set(labels(record))
            assert record.target.value == len(of[label])
        elif name == "object_abs_distance":
            assert record.target.value == pytest.approx(gap(*the("from"), *the("to")), abs=0.0501)
        elif name == "object_size_estimation":
            assert record.target.value == pytest.approx(100 * max(the("measured")[0][3:6]), abs=0.501)
        elif name == "room_size_estimation":
            assert record.target.value == pytest.approx(scene.size[0] * scene.size[1], abs=0.0501)
        elif name == "object_rel_distance":
            (anchor,) = the("anchor")
            near = {label: min(gap(anchor, box) for box in of[label]) for label in labels(record, "candidate")}
            first, second = sorted(near.values())[:2]
            assert chosen_option(record) == min(near, key=near.__getitem__)
            assert second - first > max(0.15, 0.1 * second) - 1e-9
            assert sorted(near) == sorted(option[3:] for option in record.target.options)
        elif name.startswith("object_rel_direction"):
            (at,), (facing,), (asked,) = the("at"), the("facing"), the("asked")
            angle = degrees(place(facing) - place(at), place(asked) - place(at))
            side, size = "left" if angle > 0 else "right", abs(angle)
            expected, bounds = {
                "easy": (side, (0, 180)),
                "medium": ("back" if size > 135 else side, (0, 135)),
                "hard": (f"{'front' if size < 90 else 'back'}-{side}", (0, 90, 180)),
            }[name.rpartition("_")[2]]
            assert chosen_option(record) == expected
            assert min(abs(size - bound) for bound in bounds) > 15 - 1e-9
        elif name == "route_planning":
            stops = [place(box) for box in the("stop")]
            turns = []
            for (a, b), (_, c) in pairwise(pairwise(stops)):
                angle = degrees(b - a, c - b)
                assert 60 <= abs(angle) <= 120 or abs(angle) >= 150
                turns.append("back" if abs(angle) > 135 else "left" if angle > 0 else "right")
            assert chosen_option(record) == ", then ".join(f"turn {turn}" for turn in turns)
        else:
            numbers = [int(Path(frame).stem) for frame in record.video.frames]

            def first_seen(label: str, scene: Scene = scene, images: list = images, numbers: list = numbers) -> int:
                mine = [FIRST_ITEM + i for i, item in enumerate(scene.items) if item.label == label]
                return next(
                    k for k, n in enumerate(numbers) if any((images[n].instance == i).sum() >= least for i in mine)
                )

            order = sorted(labels(record), key=first_seen)
            assert chosen_option(record) == ", ".join(order)
            assert all(first_seen(b) - first_seen(a) >= 2 for a, b in pairwise(order))


def test_answers_agree_with_the_questions_that_rooms_bring(rooms: Path, records: list[Record]) -> None:
    patterns = {
        "object_counting": r"How many (\w+)\(s\)",
        "object_abs_distance": r"How far apart are the (\w+) and the (\w+),",
        "object_size_estimation": r"longest side of the (\w+),",
        "room_size_estimation": r"How large is the floor()",
    }
    mine = {
        (record.meta.scene, kind(record), frozenset(labels(record) or [""])): record.answer
        for record in records
        if kind(record) in patterns
    }
    met: Counter[str] = Counter()
    for line in (rooms / "vsibench" / "train.jsonl").read_text().splitlines():
        row = json.loads(line)
        name = row["question_type"]
        if name in patterns:
            about = frozenset(re.search(patterns[name], row["question"]).groups())
            if (row["scene_name"], name, about) in mine:
                met[name] += 1
                assert mine[row["scene_name"], name, about] == row["ground_truth"]
    assert set(met) == set(patterns)
    assert met["object_abs_distance"] >= 5


# ---- The records


def test_prompts_are_in_the_benchmarks_form(records: list[Record]) -> None:
    for record in records:
        lines = record.prompt.split("\n")
        options = None if record.task == "number" else record.target.options
        assert record.prompt == vsibench_prompt(lines[1], options)
        assert IMAGE not in record.prompt
        assert "{" not in record.prompt
        if options is not None:
            assert [option[:3] for option in options] == [f"{letter}. " for letter in "ABCD"[: len(options)]]
            assert len({option[3:] for option in options}) == len(options)


def test_frames_are_evenly_spaced_and_there(report: Report, records: list[Record]) -> None:
    file = read_records(report.out)
    for record in records:
        assert isinstance(record.video, FrameList)
        assert [int(Path(frame).stem) for frame in record.video.frames] == list(range(ROOMS.frames))
    assert all(file.media(frame).exists() for frame in records[0].video.frames)


def test_several_sentences_say_the_same(records: list[Record]) -> None:
    for name, templates in WORDING.items():
        # What stands before the first name tells the sentences of a type apart.
        starts = [template.partition("{")[0] for template in templates]
        assert len(templates) >= 3
        asked = [record.prompt.split("\n")[1] for record in records if kind(record) == name]
        used = {start for start in starts for text in asked if text.startswith(start)}
        assert len(used) > 1, name


def test_no_question_is_asked_twice(records: list[Record]) -> None:
    told_of = Counter((record.meta.scene, kind(record), tuple(sorted(labels(record)))) for record in records)
    for name in ("object_counting", "object_abs_distance", "object_size_estimation", "obj_appearance_order"):
        assert {count for (_, of, _), count in told_of.items() if of == name} == {1}


def test_letters_are_right_about_as_often_as_each_other(rooms: Path, tmp_path: Path) -> None:
    run(rooms, tmp_path / "a.jsonl", QuestionSpec(per_type=6, frames=40))
    found: dict[tuple[str, int], Counter[str]] = {}
    for record in read_records(tmp_path / "a.jsonl").records:
        if record.task == "choice":
            options = len(record.target.options)
            counts = found.setdefault((kind(record), options), Counter(dict.fromkeys("ABCD"[:options], 0)))
            counts[record.answer] += 1
    for name, counts in found.items():
        assert max(counts.values()) - min(counts.values()) <= 4, (name, counts)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 4), st.integers(1, 7), st.integers(1, 40), st.integers(0, 9))
def test_full_hands_are_balanced_to_one(options: int, per_type: int, scenes: int, seed: int) -> None:
    spec = QuestionSpec(per_type=per_type, seed=seed)
    dealt = [letter_position(spec, "t", s, q, options) for s in range(scenes) for q in range(per_type)]
    counts = [dealt.count(i) for i in range(options)]
    assert sum(counts) == scenes * per_type
    assert max(counts) - min(counts) <= 1


# ---- Determinism


def test_any_number_of_workers_and_any_shares_give_the_same_bytes(rooms: Path, tmp_path: Path) -> None:
    spec = QuestionSpec(per_type=2, frames=8)
    run(rooms, tmp_path / "one.jsonl", spec)
    run(rooms, tmp_path / "two.jsonl", spec, policy=Policy(workers=2))
    whole = (tmp_path / "one.jsonl").read_bytes()
    assert (tmp_path / "two.jsonl").read_bytes() == whole
    shares = []
    for number in (1, 2, 3):
        out = tmp_path / f"share{number}.jsonl"
        run(rooms, out, spec, policy=Policy(shard=(number, 3)))
        shares.append(out.read_bytes())
    assert b"".join(shares) == whole


def test_leaving_types_out_changes_nothing_in_the_others(rooms: Path, tmp_path: Path) -> None:
    spec = QuestionSpec(per_type=2, frames=8)
    run(rooms, tmp_path / "all.jsonl", spec)
    some = replace(spec, types=("object_counting", "object_rel_direction_hard"))
    run(rooms, tmp_path / "some.jsonl", some)
    expected = [r for r in read_records(tmp_path / "all.jsonl").records if kind(r) in some.types]
    assert read_records(tmp_path / "some.jsonl").records == expected


def test_the_seed_changes_questions_and_words(rooms: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        run(rooms, tmp_path / f"{seed}.jsonl", QuestionSpec(per_type=2, frames=8, seed=seed))
    prompts = [{r.prompt for r in read_records(tmp_path / f"{seed}.jsonl").records} for seed in (0, 1)]
    assert len(prompts[0] & prompts[1]) < len(prompts[0]) / 2


def test_no_type_has_more_questions_than_wanted(rooms: Path, tmp_path: Path) -> None:
    run(rooms, tmp_path / "a.jsonl", QuestionSpec(per_type=2, frames=8))
    counts = Counter((r.meta.scene, kind(r)) for r in read_records(tmp_path / "a.jsonl").records)
    assert max(counts.values()) == 2


# ---- Floors, and what is no object


AREA = QuestionSpec(types=("room_size_estimation",))


def with_instance(rooms: Path, path: Path, label: str, box: list[float]) -> Path:
    data = infos(rooms)
    for entry in data["data_list"]:
        entry["instances"].append({"bbox_3d": box, "bbox_label_3d": data["metainfo"]["categories"][label]})
        for frame in entry["images"]:
            frame["visible_instance_ids"].append(len(entry["instances"]) - 1)
    return write_infos(path, data)


def test_without_a_mesh_the_annotated_floor_counts(rooms: Path, tmp_path: Path) -> None:
    videos = {"scans": None, "videos": rooms / "vsibench", "media_root": rooms}
    report = run(rooms, tmp_path / "qa.jsonl", QuestionSpec(per_type=1), **videos)
    refused = [row for row in report.rejects if row["reason"] == "no floor is known"]
    assert [row["question_type"] for row in refused] == ["room_size_estimation"] * ROOMS.scenes
    floor = with_instance(rooms, tmp_path / "infos.json", "floor", [2, 2, 0, 5, 4, 0.1, 0.4, 0, 0])
    run(rooms, tmp_path / "qa.jsonl", AREA, annotations=floor, **videos)
    found = read_records(tmp_path / "qa.jsonl").records
    assert {record.answer for record in found} == {"20"}
    assert {record.meta.model_extra["floor"]["source"] for record in found} == {"box"}


def linked_scans(rooms: Path, folder: Path) -> list[Path]:
    """Scans of which single files can be replaced."""
    scans = []
    for scan in sorted((rooms / "scans").iterdir()):
        mine = folder / "scans" / scan.name
        mine.mkdir(parents=True)
        for file in scan.iterdir():
            (mine / file.name).symlink_to(file)
        scans.append(mine)
    return scans


def test_only_what_the_mesh_calls_floor_counts(
    rooms: Path, tmp_path: Path, scenes: dict[str, tuple[Scene, list[Any]]]
) -> None:
    # The piece with the largest footprint takes the floor's name.
    for scan in linked_scans(rooms, tmp_path):
        items = scenes[scan.name][0].items
        largest = max(range(len(items)), key=lambda i: items[i].box[3] * items[i].box[4])
        path = scan / f"{scan.name}.aggregation.json"
        data = json.loads(path.read_text())
        for group in data["segGroups"]:
            if group["objectId"] == largest:
                group["label"] = "floor"
            elif group["label"] == "floor":
                group["label"] = "mat"
        path.unlink()
        path.write_text(json.dumps(data))
    places = Places(tmp_path / "scans", None, Store(tmp_path / "media", "media"))
    run(rooms, tmp_path / "qa.jsonl", replace(AREA, frames=2), scans=tmp_path / "scans", places=places)
    found = read_records(tmp_path / "qa.jsonl").records
    assert len(found) >= 2
    for record in found:
        expected = max(item.box[3] * item.box[4] for item in scenes[record.meta.scene][0].items)
        assert record.target.value == pytest.approx(expected, abs=0.0501)


@pytest.mark.parametrize("ending", ["_vh_clean_2.ply", "_vh_clean_2.0.010000.segs.json", ".aggregation.json"])
def test_a_damaged_mesh_is_told_and_leaves_the_room_s_size_out(rooms: Path, tmp_path: Path, ending: str) -> None:
    scans = linked_scans(rooms, tmp_path)
    for scan in scans:
        (scan / f"{scan.name}{ending}").unlink()
        (scan / f"{scan.name}{ending}").write_bytes(b"{")
    spec = QuestionSpec(types=("room_size_estimation", "object_size_estimation"), frames=4)
    places = Places(tmp_path / "scans", None, Store(tmp_path / "media", "media"))
    report = run(rooms, tmp_path / "qa.jsonl", spec, scans=tmp_path / "scans", places=places)
    assert report.warnings == {
        "the mesh cannot be read, so the size of the room is not asked": [scan.name for scan in scans]
    }
    assert {kind(record) for record in read_records(report.out).records} == {"object_size_estimation"}


def test_rooms_surfaces_and_nameless_objects_are_never_asked_about(rooms: Path, tmp_path: Path) -> None:
    for label in ("wall", "ceiling", "object"):
        path = with_instance(rooms, tmp_path / "infos.json", label, [2, 2, 2, 0.5, 0.4, 0.1, 0, 0, 0])
        run(rooms, tmp_path / "qa.jsonl", QuestionSpec(frames=8), annotations=path)
        for record in read_records(tmp_path / "qa.jsonl").records:
            assert label not in labels(record)


# ---- Sources


def test_clips_can_take_the_place_of_frames(rooms: Path, tmp_path: Path, records: list[Record]) -> None:
    run(rooms, tmp_path / "qa.jsonl", videos=rooms / "vsibench", media_root=rooms)
    found = read_records(tmp_path / "qa.jsonl", media_root=rooms)
    assert [record.id for record in found.records] == [record.id for record in records]
    for record, with_frames in zip(found.records, records, strict=True):
        assert record.video == Clip(path=f"vsibench/rooms/{record.meta.scene}.mp4", frames=40, sampler="linspace-floor")
        assert found.media(record.video.path).exists()
        assert (record.prompt, record.target, record.meta) == (
            with_frames.prompt,
            with_frames.target,
            with_frames.meta,
        )
    assert not (tmp_path / "media").exists()


def test_scenes_without_one_clip_are_quarantined(rooms: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "s.mp4").touch()
    assert find_video(tmp_path, "s") == tmp_path / "s.mp4"
    (tmp_path / "b" / "s.mp4").touch()
    (tmp_path / "b" / "t.mp4").touch()
    assert find_video(tmp_path, "t") == tmp_path / "b" / "t.mp4"
    for scene, reason in (("s", "several videos"), ("u", "missing video")):
        with pytest.raises(Quarantine) as error:
            find_video(tmp_path, scene)
        assert error.value.reason == reason
    with pytest.raises(ProblemList, match="6 × missing video"):
        run(rooms, tmp_path / "qa.jsonl", videos=tmp_path)


def test_boxes_can_come_from_the_scans_alone(rooms: Path, tmp_path: Path) -> None:
    run(rooms, tmp_path / "qa.jsonl", annotations=None)
    found = read_records(tmp_path / "qa.jsonl").records
    assert {"object_abs_distance", "object_rel_distance", "room_size_estimation"} <= {kind(r) for r in found}
    assert all(recompute(record) == record.answer for record in found)
    assert all(thing["box"][6:] == [0, 0, 0] for record in found for thing in told(record))
    posed = Places(None, tmp_path, Store(tmp_path))
    with pytest.raises(UsageError, match="no boxes of their own"):
        run(rooms, tmp_path / "qa.jsonl", annotations=None, places=posed)


# ---- Wrong input


def test_scans_without_a_pose_or_anything_to_ask_are_counted(rooms: Path, tmp_path: Path) -> None:
    data = infos(rooms)
    for frame in data["data_list"][0]["images"]:
        frame["cam2global"] = [[-math.inf] * 4] * 4
    data["data_list"][1]["instances"] = []
    for frame in data["data_list"][1]["images"]:
        frame["visible_instance_ids"] = []
    data["data_list"][2]["axis_align_matrix"] = 3
    spec = QuestionSpec(types=("object_size_estimation",), frames=4)
    path = write_infos(tmp_path / "infos.json", data)
    report = run(rooms, tmp_path / "qa.jsonl", spec, annotations=path, policy=Policy(max_bad=0.5))
    assert [(row["scene"], row["reason"]) for row in report.rejects if row["what"] == "scene"] == [
        ("scene0000_00", "no tracked frame"),
        ("scene0001_00", "no question"),
        ("scene0002_00", "wrong annotations"),
    ]


def test_where_nothing_can_be_asked_that_is_said(rooms: Path, tmp_path: Path) -> None:
    data = infos(rooms)
    for entry in data["data_list"]:
        for frame in entry["images"]:
            frame["visible_instance_ids"] = []
    with pytest.raises(ProblemList, match="no frame of the record shows it") as error:
        run(
            rooms,
            tmp_path / "qa.jsonl",
            QuestionSpec(types=("route_planning",), frames=2),
            annotations=write_infos(tmp_path / "infos.json", data),
        )
    assert "--types" in error.value.hint
    assert not (tmp_path / "qa.jsonl").exists()


def test_every_refusal_is_counted_with_what_it_was_about(report: Report) -> None:
    rows = [row for row in report.rejects if row["what"] == "question"]
    assert {"first appearances too close", "something stands in the way", "between two directions"} <= {
        row["reason"] for row in rows
    }
    assert all(row["question_type"] in MAKERS for row in rows)
    assert len(json.loads(report.card.read_text())["options"]["types"]) == 10


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param([], list(MAKERS), id="all"),
        pytest.param(["object_counting"], ["object_counting"], id="one"),
        pytest.param(["route_planning, object_counting"], ["object_counting", "route_planning"], id="a list"),
        pytest.param(["route_planning", "object_counting"], ["object_counting", "route_planning"], id="repeated"),
        pytest.param(
            ["object_rel_direction"], [f"object_rel_direction_{x}" for x in ("easy", "medium", "hard")], id="levels"
        ),
    ],
)
def test_types_are_named_as_in_the_benchmark(names: list[str], expected: list[str]) -> None:
    assert list(question_types(names)) == expected


@pytest.mark.parametrize("names", [["objects"], ["object_counting,"], ["route_planning,x"]])
def test_other_types_are_refused(names: list[str]) -> None:
    with pytest.raises(UsageError, match="no question type"):
        question_types(names)


def test_other_records_cannot_be_computed_again(records: list[Record]) -> None:
    data = json.loads(next(r for r in records if kind(r) == "object_rel_distance").to_json())
    for meta in (
        {},
        {"question_type": "object_counting"},
        {"question_type": "object_abs_distance", "objects": []},
        {"question_type": "dance", "objects": []},
        {**data["meta"], "question_type": "obj_appearance_order"},
    ):
        with pytest.raises(ValueError, match=r"not a |options of"):
            recompute(Record.model_validate({**data, "meta": meta}))


def test_a_scene_named_in_a_split_must_be_there(rooms: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="scene0099_00"):
        run(rooms, tmp_path / "qa.jsonl", split=Split("train", ("scene0099_00",), tmp_path / "split.txt"))
