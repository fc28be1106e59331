from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from small_rooms import SMALL, build_rooms
from sqa3d_files import FIRST_ID, annotation_row, asked_of, question_row, save, save_rows

from rft3d_cli.benchmarks.sqa3d import score
from rft3d_cli.errors import DataError, ProblemList, UsageError
from rft3d_cli.prepare.pictures import Places
from rft3d_cli.prepare.pipeline import Policy, Report, Store
from rft3d_cli.prepare.splits import Split
from rft3d_cli.prepare.sqa3d import SituatedSpec, prepare_situated
from rft3d_cli.prepare.sqa3d_file import question_type, read_situated
from rft3d_cli.records import Record, read_records

FRAMES = 5


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_rooms(SMALL, tmp_path_factory.mktemp("sqa3d") / "rooms")


@pytest.fixture(scope="module")
def asked(rooms: Path) -> list[dict[str, Any]]:
    return asked_of(rooms)


@pytest.fixture(scope="module")
def files(asked: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save(tmp_path_factory.mktemp("files"), asked)


def clips(folder: Path, rooms: Path, prefix: str = "") -> Path:
    for path in (rooms / "scans").iterdir():
        clip = folder / f"{prefix}{path.name}.mp4"
        clip.parent.mkdir(parents=True, exist_ok=True)
        clip.write_bytes(f"video of {path.name}".encode())
    return folder


def run(files: tuple[Path, Path], out: Path, split: str | Split = "test", **options: Any) -> Report:
    fields: dict[str, Any] = {
        "questions": files[0],
        "annotations": files[1],
        "videos": None,
        "places": None,
        "media": out.parent / "media",
        "split": Split(split) if isinstance(split, str) else split,
        "out": out,
        "media_root": None,
        "spec": SituatedSpec(frames=FRAMES),
        "policy": Policy(),
        **options,
    }
    return prepare_situated(**fields)


def of_scans(rooms: Path, files: tuple[Path, Path], out: Path, split: str = "test", **options: Any) -> Report:
    writes = not options.get("policy", Policy()).dry_run
    places = Places(rooms / "scans", None, Store(out.parent / "media", "media", write=writes))
    return run(files, out, split, **{"places": places, "media_root": out.parent, **options})


def records(report: Report) -> list[Record]:
    return read_records(report.out).records


def rejects(report: Report) -> list[dict[str, Any]]:
    return [json.loads(line) for line in report.rejects_file.read_text().splitlines()]


# ---- Records


def test_each_question_is_a_record(rooms: Path, asked: list[dict], files: tuple[Path, Path], tmp_path: Path) -> None:
    found = {record.id: record for record in records(run(files, tmp_path / "a.jsonl", videos=clips(tmp_path, rooms)))}
    assert {*found} == {str(one["question_id"]) for one in asked}
    for one in asked:
        record = found[str(one["question_id"])]
        assert record.task == "text"
        assert record.prompt == (
            "Carefully watch the video and answer the question.\n"
            f"{one['situation']} {one['question']}\n"
            "Please answer the question using a single word or phrase."
        )
        assert (record.answer, record.target.references) == (one["answer"], [one["answer"]])
        assert record.meta.model_dump(exclude_none=True) == {
            "dataset": "sqa3d",
            "scene": one["scene_id"],
            "split": "test",
            "question_type": one["question"].split()[0].lower(),
            "sampler": "linspace-floor",
            "situation": one["situation"],
            "question": one["question"],
        }
        assert (record.video.path, record.video.frames) == (f"{one['scene_id']}.mp4", FRAMES)


def test_for_training_each_wording_of_the_situation_is_a_record(
    rooms: Path, asked: list[dict], files: tuple[Path, Path], tmp_path: Path
) -> None:
    found = {r.id: r for r in records(run(files, tmp_path / "a.jsonl", "train", videos=clips(tmp_path, rooms)))}
    assert len(found) == sum(1 + len(one["alternative_situation"]) for one in asked)
    for one in asked:
        for number, said in enumerate([one["situation"], *one["alternative_situation"]]):
            record = found[f"{one['question_id']}/{number}" if number else str(one["question_id"])]
            assert record.prompt.splitlines()[1] == f"{said} {one['question']}"
            assert record.meta.model_extra["situation"] == said


def test_the_right_answers_score_full_marks(rooms: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    made = records(run(files, tmp_path / "a.jsonl", videos=clips(tmp_path, rooms)))
    document = score(made, {record.id: record.answer for record in made}).document
    assert document["overall"] == {"n": len(made), "em": 100.0, "em_refined": 100.0}
    assert {name: part["n"] for name, part in document["types"].items() if part["n"]} == dict.fromkeys(
        ("what", "is", "how"), len(made) // 3
    )


def test_frames_come_out_of_the_scans(rooms: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    report = of_scans(rooms, files, tmp_path / "a.jsonl")
    file = read_records(report.out)
    by_scene = {record.meta.scene: record for record in file.records}
    assert len(by_scene) == SMALL.scenes
    count = SMALL.seconds * SMALL.fps
    wanted = [int(i * (count - 1) / (FRAMES - 1)) for i in range(FRAMES)]
    for record in by_scene.values():
        assert [int(Path(name).stem) for name in record.video.frames] == wanted
        assert all(file.media(name).is_file() for name in record.video.frames)
        assert record.video.times == pytest.approx([number / SMALL.fps for number in wanted], abs=0.01)
    assert report.counts["frames"] == FRAMES * SMALL.scenes


def test_exported_frames_are_taken_as_they_lie(rooms: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    first = records(of_scans(rooms, files, tmp_path / "first" / "a.jsonl"))
    posed = tmp_path / "first" / "media" / "posed_images"
    (posed / first[0].meta.scene / "notes.txt").touch()
    places = Places(None, posed, Store(posed, "posed_images"))
    again = records(run(files, tmp_path / "again.jsonl", places=places, media_root=posed.parent))
    assert [[Path(n).name for n in r.video.frames] for r in again] == [
        [Path(n).name for n in r.video.frames] for r in first
    ]
    assert [r.prompt for r in again] == [r.prompt for r in first]


# ---- Where clips lie


@pytest.mark.parametrize("prefix", ["", "scannet/"])
def test_clips_lie_flat_or_as_in_vsibench(rooms: Path, files: tuple[Path, Path], tmp_path: Path, prefix: str) -> None:
    clips(tmp_path / "videos", rooms, prefix)
    report = run(files, tmp_path / "a.jsonl", videos=tmp_path / "videos")
    assert records(report)[0].video.path == f"videos/{prefix}{records(report)[0].meta.scene}.mp4"
    elsewhere = run(files, tmp_path / "b" / "a.jsonl", videos=tmp_path / "videos")
    assert elsewhere.media_root == tmp_path / "videos"
    assert f"videos/{records(elsewhere)[0].video.path}" == records(report)[0].video.path


def test_packed_clips_are_unpacked(rooms: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    scenes = sorted(path.name for path in (rooms / "scans").iterdir())
    (tmp_path / "videos").mkdir()
    with zipfile.ZipFile(tmp_path / "videos" / "scannet.zip", "w") as archive:
        for name in [*scenes, "scene9999_00"]:
            archive.writestr(f"scannet/{name}.mp4", name)
    dry = run(files, tmp_path / "a.jsonl", videos=tmp_path / "videos", policy=Policy(dry_run=True))
    assert not (tmp_path / "media").exists()
    report = run(files, tmp_path / "a.jsonl", videos=tmp_path / "videos")
    assert (dry.records, dry.counts) == (report.records, report.counts)
    file = read_records(report.out)
    assert {file.media(r.video.path).read_text() for r in file.records} == {*scenes}
    assert sorted(p.stem for p in (tmp_path / "media").rglob("*.mp4")) == scenes


def test_loose_and_packed_clips_need_one_folder(rooms: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    videos = clips(tmp_path / "videos", rooms)
    last = sorted(videos.iterdir())[-1]
    with zipfile.ZipFile(videos / "scannet.zip", "w") as archive:
        archive.write(last, f"scannet/{last.name}")
    last.unlink()
    with pytest.raises(UsageError, match="no one folder") as error:
        run(files, tmp_path / "out" / "a.jsonl", videos=videos)
    assert f"--media {videos}" in error.value.hint
    assert run(files, tmp_path / "out" / "a.jsonl", videos=videos, media=videos).counts["bad"] == 0


# ---- What is missing or wrong


def test_scenes_without_a_clip_are_named(rooms: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    videos = clips(tmp_path / "videos", rooms)
    gone = sorted(videos.iterdir())[0]
    gone.unlink()
    with pytest.raises(ProblemList, match="1 of 3 scenes cannot be used") as error:
        run(files, tmp_path / "a.jsonl", videos=videos)
    assert f"{videos} has no {gone.name}" in str(error.value.problems[1])
    report = run(files, tmp_path / "a.jsonl", videos=videos, policy=Policy(max_bad=0.5))
    assert gone.stem not in {record.meta.scene for record in records(report)}
    assert rejects(report)[0]["reason"] == "missing video"


def test_scenes_without_a_scan_are_named(rooms: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    scans = shutil.copytree(rooms / "scans", tmp_path / "scans")
    gone = sorted(scans.iterdir())[0]
    (gone / f"{gone.name}.sens").unlink()
    places = Places(scans, None, Store(tmp_path / "media", "media"))
    options = {"places": places, "media_root": tmp_path, "policy": Policy(max_bad=0.5)}
    assert rejects(run(files, tmp_path / "a.jsonl", **options))[0]["reason"] == "missing .sens"
    options["places"] = Places(None, tmp_path / "posed", Store(tmp_path / "posed", "posed"))
    (tmp_path / "posed").mkdir()
    with pytest.raises(ProblemList, match="nothing to write from 3 scenes: 3 × no frames"):
        run(files, tmp_path / "b.jsonl", **options)


def changed(row: dict[str, Any], **change: Any) -> dict[str, Any]:
    return {key: value for key, value in {**row, **change}.items() if value != "-"}


@pytest.mark.parametrize(
    ("question", "annotation", "words"),
    [
        pytest.param({"question": "-"}, {}, "question 2 has no question", id="no question"),
        pytest.param({"question": " "}, {}, "question 2 has no question", id="an empty question"),
        pytest.param({"question": 5}, {}, "question 2 has no question", id="a number for a question"),
        pytest.param({"situation": None}, {}, "question 2 has no situation", id="no situation"),
        pytest.param({"scene_id": "../../etc"}, {}, "scene_id '../../etc', which is no name", id="a scene that climbs"),
        pytest.param({"scene_id": "a\0b"}, {}, "which is no name", id="a zero byte"),
        pytest.param({"question_id": None}, {}, "question 2 has no question_id", id="no id"),
        pytest.param({"question_id": True}, {}, "question 2 has no question_id", id="an id that is true"),
        pytest.param({"question": "a \ud83d chair?"}, {}, "half of a surrogate pair in its question", id="half a pair"),
        pytest.param({"alternative_situation": ["\ud83d"]}, {}, "half of a surrogate pair in its situation", id="half"),
        pytest.param({"question": "<image>?"}, {}, "has <image> in its question", id="a mark of a frame"),
        pytest.param(
            {"question_id": "<|video_pad|>"}, {}, "has <|video_pad|> in its question_id", id="a mark in the id"
        ),
        pytest.param({"question_id": FIRST_ID}, {}, f"question 2 repeats question_id {FIRST_ID}", id="an id twice"),
        pytest.param({"alternative_situation": "x"}, {}, "no list of alternative_situation", id="text for a list"),
        pytest.param({}, {"answers": []}, "annotation 2 has no answer", id="no answers"),
        pytest.param({}, {"answers": [{"answer": ""}]}, "annotation 2 has no answer", id="an empty answer"),
        pytest.param({}, {"answers": ["yes"]}, "annotation 2 has no answer", id="an answer that is no object"),
        pytest.param({}, {"answers": "-"}, "annotation 2 has no list of answers", id="no list of answers"),
        pytest.param({}, {"question_id": 7}, "question 2 has no annotation", id="no annotation"),
        pytest.param({}, {"question_id": FIRST_ID}, "annotation 2 repeats question_id", id="an annotation twice"),
        pytest.param({}, {"scene_id": "scene7"}, "its annotation about scene7", id="another scene"),
    ],
)
def test_wrong_entries_are_left_out_and_said(
    asked: list[dict], tmp_path: Path, question: dict, annotation: dict, words: str
) -> None:
    questions = [question_row(one) for one in asked]
    annotations = [annotation_row(one) for one in asked]
    questions[1] = changed(questions[1], **question)
    annotations[1] = changed(annotations[1], **annotation)
    found, wrong = read_situated(*save_rows(tmp_path, questions, annotations))
    assert [one.id for one in found] == [str(one["question_id"]) for one in (asked[0], *asked[2:])]
    assert any(words in problem for problem in wrong)


def test_wrong_entries_are_in_the_rejects(rooms: Path, asked: list[dict], tmp_path: Path) -> None:
    files = save_rows(tmp_path, [*map(question_row, asked), ["x"]], [*map(annotation_row, asked), None])
    report = run(files, tmp_path / "a.jsonl", videos=clips(tmp_path, rooms))
    assert len(records(report)) == len(asked)
    assert [(row["reason"], row["entry"]) for row in rejects(report)] == [
        ("wrong entry", f"annotation {len(asked) + 1} is no JSON object"),
        ("wrong entry", f"question {len(asked) + 1} is no JSON object"),
    ]


def test_wordings_that_are_no_text_or_repeat_are_passed_over(asked: list[dict], tmp_path: Path) -> None:
    one = {**asked[0], "alternative_situation": [None, 3, " ", asked[0]["situation"], "Another. ", "Another."]}
    found, wrong = read_situated(*save(tmp_path, [one]))
    assert (found[0].situations, wrong) == ((one["situation"], "Another."), [])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"{", "is not JSON", id="torn"),
        pytest.param(b"[]", "has no list of questions", id="a list"),
        pytest.param(b'{"questions": {}}', "has no list of questions", id="an object for the list"),
        pytest.param(b'{"annotations": []}', "holds SQA3D's annotations, not its questions", id="the other file"),
        pytest.param(b'{"questions": []}', "hold no question with an answer", id="empty"),
        pytest.param(b"\xff\xfe", "is not JSON", id="no text"),
    ],
)
def test_files_that_are_not_sqa3ds_are_refused(
    files: tuple[Path, Path], tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "questions.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        run((path, files[1]), tmp_path / "a.jsonl", videos=tmp_path)
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("What is it?", "what"), (" what's up?", "what"), ("Is it?", "is"), ("Isn't it?", "is"), ("How many?", "how"),
        ("Can I?", "can"), ("Cannot I?", "can"), ("Which one?", "which"), ("Where?", "others"), ("", "others"),
        ("Am I facing it?", "others"), ("WHAT?", "what"),
    ],
)  # fmt: skip
def test_questions_are_typed_by_how_they_begin(text: str, kind: str) -> None:
    assert question_type(text) == kind


# ---- The house's ways


def test_scenes_that_are_evaluated_on_leave_the_train_split(tmp_path: Path) -> None:
    base = {"situation": "I sit.", "alternative_situation": [], "question": "What?", "answer": "it"}
    scenes = ("scene0011_00", "scene0000_00")  # Of ScanNet's val and train split.
    files = save(tmp_path, [{**base, "scene_id": s, "question_id": i} for i, s in enumerate(scenes)], "train")
    for scene in scenes:
        (tmp_path / f"{scene}.mp4").write_bytes(b"video")
    report = run(files, tmp_path / "a.jsonl", "train", videos=tmp_path)
    assert [record.meta.scene for record in records(report)] == ["scene0000_00"]
    assert rejects(report)[0]["reason"].startswith("evaluation scene: ")
    assert len(records(run(files, tmp_path / "b.jsonl", "test", videos=tmp_path))) == 2


def test_a_dry_run_says_what_a_real_one_writes(rooms: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    dry = of_scans(rooms, files, tmp_path / "a.jsonl", policy=Policy(dry_run=True))
    assert not [*tmp_path.iterdir()]
    real = of_scans(rooms, files, tmp_path / "a.jsonl")
    assert (dry.records, dry.counts, dry.rejects) == (real.records, real.counts, real.rejects)


def test_any_number_of_workers_and_shares_give_the_same_records(
    rooms: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    one = of_scans(rooms, files, tmp_path / "one" / "a.jsonl")
    two = of_scans(rooms, files, tmp_path / "two" / "a.jsonl", policy=Policy(workers=2))
    assert one.out.read_bytes() == two.out.read_bytes()
    parts = [
        of_scans(rooms, files, tmp_path / "one" / f"{i}.jsonl", policy=Policy(shard=(i, 2))).out.read_bytes()
        for i in (1, 2)
    ]
    assert b"".join(parts) == one.out.read_bytes()
    first = of_scans(rooms, files, tmp_path / "one" / "first.jsonl", policy=Policy(limit=1))
    assert one.out.read_bytes().startswith(first.out.read_bytes())
    assert {r.meta.scene for r in records(first)} == {records(one)[0].meta.scene}


def test_the_card_tells_what_was_asked_for(rooms: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    report = run(files, tmp_path / "a.jsonl", videos=clips(tmp_path, rooms), split="val")
    card = json.loads(report.card.read_text())
    assert card["command"] == "prepare sqa3d"
    assert {key: card["options"][key] for key in ("frames", "split", "sampler")} == {
        "frames": FRAMES, "split": "val", "sampler": "linspace-floor",
    }  # fmt: skip
    assert {Path(source["file"]).name for source in card["sources"]} == {path.name for path in files}
    assert (report.counts["scenes"], report.counts["questions"], report.counts["types"]) == (3, 9, 3)


def test_scenes_may_be_chosen(rooms: Path, asked: list[dict], files: tuple[Path, Path], tmp_path: Path) -> None:
    one = asked[1]["scene_id"]
    report = run(files, tmp_path / "a.jsonl", videos=clips(tmp_path, rooms), split="val")
    chosen = run(files, tmp_path / "b.jsonl", videos=tmp_path, split=Split("val", (one,)))
    assert records(chosen) == [record for record in records(report) if record.meta.scene == one]
