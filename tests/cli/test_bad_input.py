from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import RATE, TEACH, World, clip_pictures, record, records

from rft3d_cli.prepare.rooms.build import RoomsSpec, build
from rft3d_cli.records import write_records
from rft3d_cli.video import write_mp4

ROOMS = RoomsSpec(2, 3, objects=(2, 3), seconds=2, fps=2, size=(48, 36), antialias=1, val=0, clips=False)
SCANNET = (
    "prepare scannet --scans rooms/scans --annotations rooms/embodiedscan_infos_train.json "
    "--frames 2 --stride 1 --workers 1 -o out.jsonl"
)
SCANREFER = (
    "prepare scanrefer --scans rooms/scans --annotations rooms/embodiedscan_infos_train.json "
    "--descriptions rooms/ScanRefer_filtered_train.json --workers 1 -o out.jsonl"
)
SCORE = "evaluate detection --data all.jsonl --predictions said.jsonl"
ASK = "infer clip.mp4 where --model tiny-random"


@dataclass(frozen=True)
class Bad:
    """A command that cannot work.

    Args:
        line: What is typed.
        code: The exit code.
        where: What the error must name.
        what: What it must say about it.
        spoil: Makes the input bad.
    """

    line: str
    code: int
    where: str
    what: str
    spoil: Callable[[], object] = lambda: None


def write(name: str, content: str | bytes) -> Callable[[], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda: Path(name).write_bytes(data)


def cut(name: str, share: float) -> Callable[[], object]:
    return lambda: Path(name).write_bytes(Path(name).read_bytes()[: int(Path(name).stat().st_size * share)])


def folder(name: str) -> Callable[[], object]:
    def make() -> None:
        Path(name).unlink(missing_ok=True)
        Path(name).mkdir()

    return make


def field(**changes: object) -> Callable[[], object]:
    """Records, of which the second has wrong fields."""
    good = json.loads(records()[1].to_json())
    lines = [{**good, "id": "first"}, {**good, "id": "second", **changes}]
    return write("all.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def scan(name: str) -> str:
    return f"rooms/scans/scene0000_00/scene0000_00{name}"


BAD = {
    # ---- evaluate
    "data that is missing": Bad("evaluate detection --data no.jsonl", 3, "no.jsonl", "does not exist"),
    "data that is a folder": Bad(SCORE, 3, "all.jsonl", "is a folder", folder("all.jsonl")),
    "data that is empty": Bad(SCORE, 3, "all.jsonl", "holds no records", write("all.jsonl", "\n\n")),
    "data that is not JSON": Bad(SCORE, 3, "all.jsonl line 1", "not JSON", write("all.jsonl", "hello\n")),
    "data that is not text": Bad(SCORE, 3, "all.jsonl", "is not UTF-8 text", write("all.jsonl", b"\xff\xfe{}")),
    "data that is a list": Bad(SCORE, 3, "all.jsonl line 1", "not a JSON object", write("all.jsonl", "[1]\n")),
    "nested data": Bad(SCORE, 3, "all.jsonl line 1", "nested too deeply", write("all.jsonl", "[" * 200_000 + "\n")),
    "a record with an unknown field": Bad(SCORE, 3, "all.jsonl line 2", "unknown field colour", field(colour="red")),
    "a record of an unknown task": Bad(SCORE, 3, "all.jsonl line 2", "task: input should be", field(task="dance")),
    "a record without a prompt": Bad(SCORE, 3, "all.jsonl line 2", "prompt", field(prompt="")),
    "a record with a short box": Bad(
        SCORE, 3, "all.jsonl line 2", "target", field(target={"boxes": [{"label": "chair", "bbox_3d": [1, 2]}]})
    ),
    "a record with a flat camera": Bad(SCORE, 3, "all.jsonl line 2", "camera", field(camera={"intrinsic": [1]})),
    "an id twice": Bad(SCORE, 3, "all.jsonl line 2", "id 'first' repeats line 1", field(id="first")),
    "a record that leaves its folder": Bad(
        "evaluate detection --data all.jsonl --model tiny-random", 3, "'../clip.mp4'", "leaves the media root",
        field(video={"path": "../clip.mp4"}),
    ),
    "records of another task": Bad(
        SCORE.replace("detection", "scanrefer"), 3, "all.jsonl", "holds no grounding records, only detection", field()
    ),
    "predictions that are missing": Bad(SCORE.replace("said", "no"), 3, "no.jsonl", "does not exist"),
    "predictions that are a folder": Bad(SCORE, 3, "said.jsonl", "holds no predictions.jsonl", folder("said.jsonl")),
    "predictions that are not JSON": Bad(SCORE, 3, "said.jsonl line 1", "Expecting value", write("said.jsonl", "x\n")),
    "predictions that are records": Bad(
        SCORE.replace("said", "all"), 3, "all.jsonl line 1", "no prediction among schema"
    ),
    "a prediction that is a number": Bad(
        SCORE, 3, "said.jsonl line 1", "prediction must be text", write("said.jsonl", '{"id": "a", "prediction": 4}\n')
    ),
    "a result folder that is a file": Bad(f"{SCORE} --out clip.mp4", 2, "clip.mp4", "is a file, not a folder"),
    "details that are a folder": Bad(f"{SCORE} --details rooms", 2, "rooms", "is a folder"),
    "a model that is missing": Bad("evaluate detection -d all.jsonl -m nonsense", 4, "nonsense", "does not exist"),
    "a model that is a folder of scans": Bad("evaluate detection -d all.jsonl -m rooms", 4, "rooms", "holds no model"),
    "a model that was not fetched": Bad(
        "evaluate detection -d all.jsonl -m no/model", 4, "no/model", "not on this machine"
    ),
    "a model of something else": Bad(
        "evaluate detection -d all.jsonl -m rooms", 4, "rooms", "cannot be loaded",
        write("rooms/config.json", '{"model_type": "banana"}'),
    ),
    "a model that is cut off": Bad(
        "evaluate detection -d all.jsonl -m model", 4, "model", "cannot be loaded", cut("model/model.safetensors", 0.5)
    ),
    # ---- infer
    "a video that is missing": Bad(ASK.replace("clip", "no"), 3, "no.mp4", "does not exist"),
    "a video that is empty": Bad(ASK, 3, "clip.mp4", "is empty", write("clip.mp4", "")),
    "a video that is text": Bad(ASK, 3, "clip.mp4", "is not a video", write("clip.mp4", "hello")),
    "a video that is noise": Bad(ASK, 3, "clip.mp4", "is not a video", write("clip.mp4", bytes(range(256)) * 64)),
    "a video without its index": Bad(ASK, 3, "clip.mp4", "", cut("clip.mp4", 0.02)),
    "a folder without pictures": Bad(ASK.replace("clip.mp4", "rooms"), 3, "rooms", "holds neither frames nor videos"),
    "a picture that is text": Bad(
        ASK.replace("clip.mp4", "frames"), 3, "frames/1.png", "cannot be read as an image",
        lambda: (Path("frames").mkdir(), Path("frames/1.png").write_text("hello")),
    ),
    "a model without a name": Bad("infer clip.mp4 where --model \u00a0", 2, "model's name", "is empty"),
    "a frame's mark in a question": Bad(
        "infer clip.mp4 where-is-<image> --model tiny-random", 2, "holds <image>", "stands for a frame"
    ),
    "an empty question": Bad("infer clip.mp4 \u00a0 --model tiny-random", 2, "question", "is empty"),
    "a question of broken bytes": Bad(ASK.replace("where", "ch\udce9"), 2, "question", "is not UTF-8"),
    "no such camera": Bad(f"{ASK} --camera no.json", 3, "no.json", "cannot be read"),
    "a camera that is not JSON": Bad(
        ASK, 3, "clip.camera.json", "is wrong", write("clip.camera.json", "focal length: 500")
    ),
    "a camera whose pose is no pose": Bad(
        ASK, 3, "clip.camera.json", "is no pose",
        write("clip.camera.json", json.dumps({
            "intrinsic": [[9, 0, 4], [0, 9, 3], [0, 0, 1]], "image_size": [8, 6], "cam_to_world": [[[0] * 4] * 4],
        })),
    ),
    "a camera of no size": Bad(
        ASK, 3, "clip.camera.json", "is wrong",
        write("clip.camera.json", '{"intrinsic": [[9, 0, 4], [0, 9, 3], [0, 0, 1]], "image_size": [1e999, 4]}'),
    ),
    "answers into a file": Bad(f"{ASK} --max-tokens 1 --out all.jsonl", 3, "all.jsonl", "is a file, where"),
    # ---- sft and grpo
    "an unknown recipe": Bad("grpo --recipe dett", 2, "`dett`", "no recipe"),
    "a recipe that is empty": Bad("sft --recipe sft.yaml", 2, "sft.yaml", "holds no keys", write("sft.yaml", "")),
    "a recipe that is no YAML": Bad("sft --recipe sft.yaml", 2, "sft.yaml line 1", "", write("sft.yaml", "a: [1")),
    "a recipe that is not text": Bad("sft --recipe sft.yaml", 2, "sft.yaml", "not UTF-8", write("sft.yaml", b"\xff")),
    "a recipe that runs code": Bad(
        "sft --recipe sft.yaml", 2, "sft.yaml line 1", "", write("sft.yaml", "!!python/object/apply:os.mkdir [pwned]")
    ),
    "an unknown key": Bad("sft --recipe sft.yaml rollout.grup=8", 2, "`rollout.grup`", "unknown key"),
    "a value of the wrong type": Bad("sft --recipe sft.yaml lr=fast", 2, "`train.lr`", "should be a number"),
    "training data that is missing": Bad("sft --recipe sft.yaml data.train=no.jsonl", 3, "no.jsonl", "does not exist"),
    "training data with a wrong line": Bad("sft --recipe sft.yaml", 3, "all.jsonl line 2", "unknown field", field(a=1)),
    "training on a video that is missing": Bad(
        "sft --recipe sft.yaml", 3, "clip.mp4", "media files are missing", lambda: Path("clip.mp4").unlink()
    ),
    "training a model that is missing": Bad("sft --recipe sft.yaml model.name=nonsense", 4, "nonsense", "not exist"),
    "a run in a folder of something else": Bad("sft --recipe sft.yaml --out rooms", 2, "rooms", "not a run's folder"),
    # ---- prepare
    "scans that are missing": Bad(SCANNET.replace("rooms/scans", "no"), 3, "no", "there is no folder"),
    "annotations that are missing": Bad(SCANNET.replace("_train", "_test"), 3, "infos_test.json", "there is no file"),
    "annotations that are not JSON": Bad(
        SCANNET, 3, "embodiedscan_infos_train.json", "not JSON", write("rooms/embodiedscan_infos_train.json", "x")
    ),
    "annotations that run code": Bad(
        SCANNET.replace("_train.json", ".pkl"), 3, "embodiedscan_infos.pkl", "",
        write("rooms/embodiedscan_infos.pkl", b"cos\nmkdir\n(S'pwned'\ntR."),
    ),
    "descriptions that are not JSON": Bad(
        SCANREFER, 3, "ScanRefer_filtered_train.json", "not JSON", write("rooms/ScanRefer_filtered_train.json", "x")
    ),
    "a .sens that is cut off": Bad(SCANNET, 3, "scene0000_00", "damaged .sens", cut(scan(".sens"), 0.6)),
    "a .sens that is text": Bad(SCANNET, 3, "scene0000_00", ".sens", write(scan(".sens"), "hello")),
    "a .sens that is empty": Bad(SCANNET, 3, "scene0000_00", ".sens", write(scan(".sens"), "")),
    "questions that are missing": Bad("prepare vsibench --questions no.jsonl -o out.jsonl", 3, "no.jsonl", ""),
    "records into a folder": Bad(SCANNET.replace("out.jsonl", "rooms"), 2, "rooms", ""),
    "rooms where something is": Bad("prepare rooms --scenes 1 --out rooms", 3, "rooms", ""),
    # ---- recipes and models
    "a recipe copied over another": Bad("recipes copy det sft.yaml", 2, "sft.yaml", "exists already"),
    "a recipe copied into a file": Bad("recipes copy det clip.mp4/det.yaml", 3, "clip.mp4", "cannot be written"),
    "a model where something is": Bad("models create-tiny model", 2, "model", "exists"),
    "a model inside a file": Bad("models create-tiny clip.mp4/m", 3, "clip.mp4/m", "cannot be written"),
    "a demo where something is": Bad("demo --quick --out rooms", 2, "rooms", "was not made by the demo"),
}  # fmt: skip


@pytest.fixture(scope="session")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bad") / "rooms"
    build(ROOMS, out, workers=1)
    return out


@pytest.fixture
def workplace(rft3d, world: World, rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which every command would work."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path.parent / "no hub"))
    write_mp4("clip.mp4", clip_pictures(), RATE)
    first = records()[1]
    write_records("all.jsonl", [first, record("detection", first.prompt, "", {"boxes": []}, name="second")])
    Path("said.jsonl").write_text('{"id": "detection", "prediction": "[]"}\n', encoding="utf-8")
    Path("sft.yaml").write_text(TEACH, encoding="utf-8")
    copy(rooms, Path("rooms"))
    copy(world.fresh, Path("model"))
    return tmp_path


def copy(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())


def contents(place: Path) -> dict[str, bytes | None]:
    found = {str(path.relative_to(place)): path for path in place.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else None for name, path in found.items()}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_error_and_leaves_nothing_behind(rft3d, workplace, bad):
    bad.spoil()
    before = contents(workplace)
    shown = rft3d(*bad.line.split(" "))
    assert shown.code == bad.code, shown.err
    assert "Traceback" not in shown.out + shown.err
    assert any(bad.where in error and bad.what in error for error in shown.errors), shown.err
    assert shown.hint
    assert "did not foresee" not in shown.hint
    after = contents(workplace)
    # What could be prepared before the problem was met may stay; a target, half a file or a change may not.
    assert {name: after.get(name) for name in before} == before
    written = {name for name in after.keys() - before.keys() if not name.startswith("media")}
    allowed = {"out.rejects.jsonl", "eval", "eval/detection"}
    if "--resume" in shown.hint:  # what is finished is kept for that, under a name of its own
        allowed |= {"out.unfinished", "out.unfinished/records.jsonl", "out.unfinished/parts.jsonl"}
    assert written <= allowed, written
    assert not [name for name in after if name.endswith(".tmp")]


@pytest.mark.parametrize("line", [SCORE, SCANNET, "recipes copy det new.yaml"], ids=["score", "scannet", "copy"])
def test_the_commands_of_the_table_work_where_nothing_is_bad(rft3d, workplace, line):
    shown = rft3d(*line.split(" "))
    assert (shown.code, shown.errors) == (0, [])


def test_a_folder_that_cannot_be_written_is_said(rft3d, workplace, monkeypatch):
    # By a fault in place of permissions: a test may run as root, whom nothing stops.
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    for line, where in ((f"{SCORE} --out scores", "scores"), ("recipes copy det new.yaml", ".")):
        shown = rft3d(*line.split(" "))
        assert shown.code == 3
        assert shown.errors == [f"{where} cannot be written: Permission denied"]


def test_a_file_that_may_not_be_read_is_said(rft3d, workplace, monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", "locked/infos.json")

    monkeypatch.setattr("rft3d_cli.prepare.scannet.read_infos", refuse)
    shown = rft3d(*SCANNET.split(" "))
    assert shown.code == 3
    assert shown.errors == ["locked/infos.json cannot be read or written: Permission denied"]
    assert "give yourself the right" in shown.hint


def test_a_full_disk_leaves_no_half_result(rft3d, workplace, monkeypatch):
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    shown = rft3d(*f"{SCORE} --out scores".split(" "))
    assert shown.code == 1
    assert "No space left on device" in shown.errors[0]
    assert shown.hint == "free some space, then repeat the command"
    assert not any(Path("scores").iterdir())
