from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embodied_rooms import SAMPLES, START, World, build_world, utterances
from PIL import Image
from scipy.spatial.transform import Rotation
from small_rooms import build_rooms, write_infos

from rft3d_cli.answers import read_boxes, read_grounding
from rft3d_cli.errors import DataError, ProblemList, UsageError
from rft3d_cli.prepare._view_filter import ViewRule
from rft3d_cli.prepare.embodied_detection import DATASETS, Source, chosen_datasets, prepare_embodiedscan
from rft3d_cli.prepare.embodied_grounding import DESCRIBED, UtteranceSpec, prepare_utterances
from rft3d_cli.prepare.pipeline import Policy, Report, Store
from rft3d_cli.prepare.rooms.build import RoomsSpec
from rft3d_cli.prepare.splits import Split
from rft3d_cli.records import Record, read_records

ROOMS = RoomsSpec(scenes=3, seed=5, objects=(4, 6), seconds=5, fps=4, size=(96, 72), antialias=1, val=0, clips=False)
FRAMES = 20
SIZES = {"3rscan": (72, 96), "matterport3d": (94, 68), "arkitscenes": (96, 72)}
SCENES = {
    "3rscan": "0cac7578-8d6f-2d13-8c2d-bfa7a04f8af3", "matterport3d": "17DRP5sb8fy/region0", "arkitscenes": "40753679",
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("embodied")
    return build_world(build_rooms(ROOMS, folder / "rooms"), folder / "data")


def source(world: World, out: Path, infos: dict[str, Any] | None = None, **fields: Any) -> Source:
    path = write_infos(out.parent / "embodiedscan_infos_train.json", infos or world.infos)
    data = fields.pop("data", world.data)
    return Source(**{
        "data": data, "annotations": path, "datasets": DATASETS, "split": Split("train"), "store": Store(data, ""),
        **fields,
    })  # fmt: skip


def run(world: World, out: Path, infos: dict[str, Any] | None = None, **options: Any) -> Report:
    given = {key: options.pop(key) for key in ("data", "datasets", "split", "store") if key in options}
    made = source(world, out, infos, **given)
    settings: dict[str, Any] = {"source": made, "out": out, "media_root": made.data, "policy": Policy(), **options}
    return prepare_embodiedscan(**settings)


@pytest.fixture(scope="module")
def prepared(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, list[Record]]:
    report = run(world, tmp_path_factory.mktemp("out") / "det.jsonl")
    return report, read_records(report.out, media_root=world.data).records


def of(records: list[Record], dataset: str) -> list[Record]:
    return [record for record in records if record.meta.dataset == dataset]


def matrix(box: Any) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = Rotation.from_euler("ZXY", box[6:]).as_matrix(), box[:3]
    return out


# ---- Records


@pytest.mark.parametrize("dataset", DATASETS)
def test_records_name_the_pictures_where_they_lie(dataset: str, world: World, prepared: Any) -> None:
    entry = world.entry(dataset)
    records = of(prepared[1], dataset)
    assert [record.id for record in records] == [f"{SAMPLES[dataset]}/det/{n:05d}" for n in range(FRAMES - 9)]
    for n, record in enumerate(records):
        places = [n, n + 3, n + 6, n + 9]
        assert record.video.frames == [entry["images"][i]["img_path"] for i in places]
        assert all((world.data / frame).is_file() for frame in record.video.frames)
        assert record.camera.image_size == SIZES[dataset]
        assert record.camera.cam_to_world == [entry["images"][i]["cam2global"] for i in places]
        assert record.camera.axis_align == entry["axis_align_matrix"]
        own = entry["images"][n].get("cam2img", entry.get("cam2img"))
        assert record.camera.intrinsic == [row[:3] for row in own[:3]]
        assert record.prompt.count("<image>\n") == 4
        assert (record.meta.split, record.meta.scene) == ("train", SCENES[dataset])
        assert record.meta.sampler == "list-stride-3"
        assert [*read_boxes(record.answer).boxes.labels] == [box.label for box in record.target.boxes]


def test_times_are_those_of_the_names_where_names_have_times(prepared: Any) -> None:
    assert all(record.video.times is None for d in ("3rscan", "matterport3d") for record in of(prepared[1], d))
    for n, record in enumerate(of(prepared[1], "arkitscenes")):
        assert record.video.times == pytest.approx([START + (n + k) / 10 for k in (0, 3, 6, 9)], abs=1e-3)


@pytest.mark.parametrize("dataset", DATASETS)
def test_boxes_lie_where_the_room_has_them(dataset: str, world: World, prepared: Any) -> None:
    entry = world.rooms[dataset]
    names = {number: name for name, number in world.infos["metainfo"]["categories"].items()}
    for n, record in enumerate(of(prepared[1], dataset)):
        order: list[int] = []
        for i in (n, n + 3, n + 6, n + 9):
            order += [k for k in entry["images"][i]["visible_instance_ids"] if k not in order]
        assert len(record.target.boxes) == len(order) > 0
        pose = np.array(record.camera.axis_align) @ np.array(record.camera.cam_to_world[0])
        for box, index in zip(record.target.boxes, order, strict=True):
            known = entry["instances"][index]
            assert box.label == names[known["bbox_label_3d"]]
            np.testing.assert_allclose(pose @ matrix(box.bbox_3d), matrix(known["bbox_3d"]), atol=5e-6)
            assert box.bbox_3d[3:6] == tuple(known["bbox_3d"][3:6])


@pytest.mark.parametrize("dataset", DATASETS)
def test_boxes_fall_on_the_same_spots_as_in_the_room_s_own_pictures(dataset: str, world: World, prepared: Any) -> None:
    # So pictures, cameras and boxes fit each other, also where pictures lie on their side or are cropped.
    room, gaps = world.rooms[dataset], []
    for n, record in enumerate(of(prepared[1], dataset)):
        with Image.open(world.data / record.video.frames[0]) as image:
            found = np.asarray(image.convert("RGB"), dtype=float)
        with Image.open(io.BytesIO(world.colours[dataset][n])) as image:
            known = np.asarray(image.convert("RGB"), dtype=float)
        pose = np.array(record.camera.cam_to_world[0])
        back = np.linalg.inv(np.array(room["images"][n]["cam2global"]))
        for box in record.target.boxes:
            seen = np.array([*box.bbox_3d[:3], 1])
            spots = []
            for k, at, pixels in (
                (np.array(record.camera.intrinsic), seen, found),
                (np.array(room["cam2img"])[:3, :3], back @ pose @ seen, known),
            ):
                u, v = np.round((k @ at[:3])[:2] / at[2]).astype(int) if at[2] > 0.3 else (-9, -9)
                if 2 <= u < pixels.shape[1] - 2 and 2 <= v < pixels.shape[0] - 2:
                    spots.append(pixels[v - 1 : v + 2, u - 1 : u + 2].mean(axis=(0, 1)))
            if len(spots) == 2:
                gaps.append(np.abs(spots[0] - spots[1]).max())
    assert len(gaps) >= 3
    # JPEG written twice, and rounding to whole pixels.
    assert np.mean(np.array(gaps) < 12) > 0.85


def test_the_card_says_what_was_made_from_what(prepared: Any) -> None:
    report, records = prepared
    card = json.loads(report.card.read_text())
    assert card["command"] == "prepare embodiedscan"
    assert card["options"]["datasets"] == [*DATASETS]
    assert (card["options"]["frames"], card["options"]["stride"]) == (4, 3)
    assert "step" not in card["options"]
    assert card["counts"]["records"] == len(records) == 3 * (FRAMES - 9)
    assert card["counts"]["scans"] == [{"scene": SAMPLES[d], "pictures": FRAMES, "size": [*SIZES[d]]} for d in DATASETS]
    assert not report.rejects


def test_a_pickle_of_numpy_arrays_gives_the_same(world: World, prepared: Any, tmp_path: Path) -> None:
    data = world.copy()
    for entry in data["data_list"]:
        entry["axis_align_matrix"] = np.array(entry["axis_align_matrix"])
        for image in entry["images"]:
            image["visible_instance_ids"] = np.array(image["visible_instance_ids"], dtype=np.int64)
            image |= {key: np.array(image[key]) for key in ("cam2global", "cam2img") if key in image}
    made = source(world, tmp_path / "a.jsonl")
    path = tmp_path / "embodiedscan_infos_train.pkl"
    path.write_bytes(pickle.dumps(data))
    made = Source(made.data, path, made.datasets, made.split, made.store)
    report = prepare_embodiedscan(source=made, out=tmp_path / "a.jsonl", media_root=world.data, policy=Policy())
    assert report.out.read_bytes() == prepared[0].out.read_bytes()


# ---- Choices


@pytest.mark.parametrize("dataset", DATASETS)
def test_data_sets_are_chosen(dataset: str, world: World, prepared: Any, tmp_path: Path) -> None:
    report = run(world, tmp_path / "a.jsonl", datasets=(dataset,))
    assert read_records(report.out).records == of(prepared[1], dataset)


@pytest.mark.parametrize(
    ("text", "known", "expected"),
    [
        pytest.param(None, DATASETS, DATASETS, id="all"),
        pytest.param("3rscan", DATASETS, ("3rscan",), id="one"),
        pytest.param(" ARKitScenes , 3rscan,", DATASETS, ("3rscan", "arkitscenes"), id="in any order and case"),
        pytest.param("scannet", DESCRIBED, ("scannet",), id="ScanNet's, for descriptions"),
        pytest.param("scannet", DATASETS, None, id="ScanNet's, for detection"),
        pytest.param("3rscan,hm3d", DATASETS, None, id="an unknown one"),
        pytest.param(",", DATASETS, None, id="none"),
    ],
)
def test_names_of_data_sets(text: str | None, known: Any, expected: Any) -> None:
    if expected is not None:
        assert chosen_datasets(text, known) == expected
        return
    with pytest.raises(UsageError) as error:
        chosen_datasets(text, known)
    assert ("prepare scannet" in (error.value.hint or "")) == (text == "scannet")


def test_a_list_stride_counts_entries_whatever_the_frame_numbers(world: World, tmp_path: Path) -> None:
    report = run(world, tmp_path / "a.jsonl", datasets=("3rscan",), frames=2, stride=5)
    found = [[Path(f).name for f in record.video.frames] for record in read_records(report.out).records]
    # The list goes on after a lost frame as if nothing were missing.
    assert found[8] == ["frame-000080.color.jpg", "frame-000140.color.jpg"]
    assert len(found) == FRAMES - 5


def test_val_scans_give_ten_clips_and_files_choose_scans(world: World, prepared: Any, tmp_path: Path) -> None:
    split = Split("val", (SAMPLES["matterport3d"],), tmp_path / "val.txt")
    split.file.write_text(SAMPLES["matterport3d"])
    records = read_records(run(world, tmp_path / "a.jsonl", split=split).out).records
    assert len(records) == 10
    every = {record.id: record for record in of(prepared[1], "matterport3d")}
    assert all(record.target == every[record.id].target for record in records)
    with pytest.raises(DataError, match="3rscan/none"):
        run(world, tmp_path / "b.jsonl", split=Split("val", ("3rscan/none",), split.file))


def test_the_view_rules_hold_with_each_pictures_own_camera(world: World, prepared: Any, tmp_path: Path) -> None:
    kept = {r.id: r for r in read_records(run(world, tmp_path / "a.jsonl", view=ViewRule(in_view=0.7)).out).records}
    gone = 0
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (3000, 3))
    for record in prepared[1]:
        dataset, first = record.meta.dataset, int(record.id[-5:])
        entry, room = world.entry(dataset), world.rooms[dataset]
        stayed = [] if record.id not in kept else kept[record.id].target.boxes
        for box in record.target.boxes:
            pose = np.array(record.camera.cam_to_world[0])
            world_points = (pose @ matrix(box.bbox_3d))[:3, :3] @ (points * box.bbox_3d[3:6]).T
            world_points += (pose @ matrix(box.bbox_3d))[:3, 3:]
            best = 0.0
            centre = np.array(entry["axis_align_matrix"]) @ pose @ np.array([*box.bbox_3d[:3], 1])
            gaps = [np.linalg.norm(np.array(i["bbox_3d"][:3]) - centre[:3]) for i in room["instances"]]
            for i in (first, first + 3, first + 6, first + 9):
                if int(np.argmin(gaps)) not in room["images"][i]["visible_instance_ids"]:
                    continue
                k = np.array(entry["images"][i].get("cam2img", entry.get("cam2img")))[:3, :3]
                back = np.linalg.inv(np.array(entry["images"][i]["cam2global"]))
                seen = back[:3, :3] @ world_points + back[:3, 3:]
                pixel = (k @ seen)[:2, seen[2] > 0] / seen[2, seen[2] > 0]
                inside = (pixel > -0.5).all(axis=0) & (pixel.T - np.array(SIZES[dataset]) < -0.5).all(axis=1)
                best = max(best, inside.sum() / len(points))
            if abs(best - 0.7) > 0.05:
                assert (box in stayed) == (best > 0.7), (record.id, box.label, best)
                gone += best < 0.7
    assert gone > 5


# ---- What cannot be used


def frame(world: World, data: Path, dataset: str, number: int) -> Path:
    return data / world.entry(dataset)["images"][number]["img_path"]


def edit_pose(pose: Any) -> Callable[..., None]:
    def edit(world: World, data: Path, entry: dict[str, Any]) -> None:
        entry["images"][12]["cam2global"] = np.array(pose, dtype=float).tolist()

    return edit


def edit_file(change: Callable[[Path], None]) -> Callable[..., None]:
    def edit(world: World, data: Path, entry: dict[str, Any]) -> None:
        change(data / entry["images"][12]["img_path"])

    return edit


def resave(work: Callable[[Image.Image], Image.Image], **options: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with Image.open(path) as image:
            made = work(image)
        made.save(path, **options)

    return change


def exif(path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    resave(lambda image: image.copy(), exif=tags)(path)


def rename(text: str) -> Callable[..., None]:
    def edit(world: World, data: Path, entry: dict[str, Any]) -> None:
        entry["images"][12]["img_path"] = text

    return edit


FRAME_FAULTS = [
    pytest.param(edit_file(Path.unlink), "missing frame", id="a missing picture"),
    pytest.param(edit_file(lambda p: p.write_bytes(b"")), "damaged frame", id="an empty file"),
    pytest.param(edit_file(lambda p: p.write_bytes(p.read_bytes()[:40])), "damaged frame", id="a torn header"),
    pytest.param(edit_file(lambda p: p.write_bytes(b"GIF89a" + b"\0" * 40)), "damaged frame", id="a GIF"),
    pytest.param(
        edit_file(resave(lambda i: i.resize((48, 64)))), "frame does not fit its camera", id="a picture made smaller"
    ),
    pytest.param(
        edit_file(resave(lambda i: i.rotate(90, expand=True))), "frame does not fit its camera", id="a picture turned"
    ),
    pytest.param(
        edit_file(resave(lambda i: i.crop((0, 0, 70, 94)))), "frame of another size", id="a picture a little cropped"
    ),
    pytest.param(edit_file(exif), "frame turned by EXIF", id="a picture turned by its EXIF tag"),
    pytest.param(edit_pose(np.full((4, 4), np.nan)), "non-finite pose", id="a NaN pose"),
    pytest.param(edit_pose(np.full((4, 4), -np.inf)), "non-finite pose", id="a pose that was lost"),
    pytest.param(edit_pose(np.zeros((4, 4))), "singular pose", id="a pose of zeros"),
    pytest.param(edit_pose(np.diag([2, 2, 2, 1])), "pose not rigid", id="a pose that scales"),
    pytest.param(edit_pose(np.diag([-1, 1, 1, 1])), "pose not rigid", id="a pose that mirrors"),
    pytest.param(rename("../3rscan/x.jpg"), "wrong img_path", id="a path that climbs"),
    pytest.param(rename("/etc/passwd"), "wrong img_path", id="an absolute path"),
    pytest.param(rename("3rscan/a\0b.jpg"), "wrong img_path", id="a path with a NUL"),
    pytest.param(rename("3rscan"), "missing frame", id="a folder"),
]


@pytest.fixture
def damaged(world: World, tmp_path: Path) -> Path:
    """A copy of the 3RScan pictures."""
    return shutil.copytree(world.data / "3rscan", tmp_path / "data" / "3rscan").parent


@pytest.mark.parametrize(("edit", "reason"), FRAME_FAULTS)
def test_a_frame_that_cannot_be_used_takes_its_clips_along(
    edit: Callable[..., None], reason: str, world: World, damaged: Path, prepared: Any, tmp_path: Path
) -> None:
    data = world.copy()
    edit(world, damaged, world.entry("3rscan", data))
    report = run(world, tmp_path / "a.jsonl", data, data=damaged, datasets=("3rscan",), policy=Policy(max_bad=0))
    records = read_records(report.out).records
    # Clips reach over ten entries: those of 0 to 2 end before the twelfth, and none fits behind it.
    assert records == of(prepared[1], "3rscan")[:3]
    (row,) = report.rejects
    assert (row["what"], row["frame"], row["reason"], row["scene"]) == ("frame", 12, reason, SAMPLES["3rscan"])


def test_a_scan_without_pictures_is_bad_and_says_where_they_were_looked_for(world: World, tmp_path: Path) -> None:
    data = shutil.copytree(world.data / "arkitscenes", tmp_path / "data" / "arkitscenes").parent
    with pytest.raises(ProblemList, match="2 of 3 scenes cannot be used") as error:
        run(world, tmp_path / "a.jsonl", data=data)
    detail = str(error.value.problems[1].message)
    assert f"{data}/{world.entry('3rscan')['images'][0]['img_path']} does not exist, and so on: 20 frames" in detail
    report = run(world, tmp_path / "a.jsonl", data=data, policy=Policy(max_bad=0.7))
    assert {record.meta.dataset for record in read_records(report.out).records} == {"arkitscenes"}


def change(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda entry: entry.update(fields)


def image(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda entry: entry["images"][4].update(fields)


def instance(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda entry: entry["instances"][1].update(fields)


def drop_camera(entry: dict[str, Any]) -> None:
    del entry["images"][4]["cam2img"]


SCAN_FAULTS = [
    pytest.param(image(visible_instance_ids=[99]), "not listed", id="an instance that is not there"),
    pytest.param(image(visible_instance_ids=[-1]), "not listed", id="an instance counted from the end"),
    pytest.param(image(img_path=7), "img_path", id="a path that is a number"),
    pytest.param(image(img_path="a\udc80.png"), "img_path", id="a path that is no text"),
    pytest.param(image(cam2img=np.full((4, 4), np.nan).tolist()), "cam2img", id="a NaN camera"),
    pytest.param(image(cam2img=[1, 2]), "cam2img", id="a camera of two numbers"),
    pytest.param(drop_camera, "cam2img", id="one picture without a camera"),
    pytest.param(image(cam2global=[1]), "4×4", id="a pose of one number"),
    pytest.param(instance(bbox_label_3d=999), "class number 999", id="an unknown class"),
    pytest.param(instance(bbox_3d=[0, 0, 0, -1, 1, 1, 0, 0, 0]), "negative", id="a negative size"),
    pytest.param(instance(bbox_3d=[0] * 7), "bbox_3d", id="seven numbers"),
    pytest.param(change(axis_align_matrix=np.diag([2, 2, 2, 1.0]).tolist()), "scales", id="an alignment that scales"),
    pytest.param(change(axis_align_matrix=None), "axis_align_matrix", id="no alignment"),
    pytest.param(change(images=None), "", id="no pictures"),
    pytest.param(lambda e: e["images"].append(e["images"][0]), "twice", id="a picture twice"),
    pytest.param(lambda e: [i.pop("visible_instance_ids") for i in e["images"]], "visible_instance_ids", id="no views"),
    pytest.param(lambda e: [i["bbox_3d"].__setitem__(0, 1e9) for i in e["instances"]], "should be", id="far away"),
]


@pytest.mark.parametrize(("edit", "word"), SCAN_FAULTS)
def test_a_scan_that_is_wrong_is_set_aside_with_the_reason(
    edit: Callable[..., Any], word: str, world: World, prepared: Any, tmp_path: Path
) -> None:
    data = world.copy()
    edit(world.entry("arkitscenes", data))
    report = run(world, tmp_path / "a.jsonl", data, policy=Policy(max_bad=0.5))
    assert read_records(report.out).records == [r for r in prepared[1] if r.meta.dataset != "arkitscenes"]
    (row,) = report.rejects
    assert (row["what"], row["scene"], row["reason"]) == ("scene", SAMPLES["arkitscenes"], "wrong annotations")
    assert word in row["detail"]


@pytest.mark.parametrize("name", ["3rscan/../../etc", "3rscan/", "3rscan/a//b", "3rscan//etc"])
def test_a_sample_idx_that_climbs_is_set_aside(name: str, world: World, tmp_path: Path) -> None:
    data = world.copy()
    world.entry("3rscan", data)["sample_idx"] = name
    report = run(world, tmp_path / "a.jsonl", data, policy=Policy(max_bad=0.5))
    assert [(row["scene"], row["reason"]) for row in report.rejects] == [(name, "wrong annotations")]
    assert "not a scene's name" in report.rejects[0]["detail"]


def test_a_sample_idx_that_repeats_is_set_aside(world: World, tmp_path: Path) -> None:
    data = world.copy()
    data["data_list"].append(world.entry("matterport3d", data))
    report = run(world, tmp_path / "a.jsonl", data, policy=Policy(max_bad=0.5))
    assert [(row["scene"], row["detail"]) for row in report.rejects] == [
        (SAMPLES["matterport3d"], "it is listed twice")
    ]


def test_infos_without_the_data_sets_are_refused(world: World, tmp_path: Path) -> None:
    data = world.copy()
    del data["data_list"][1:]
    with pytest.raises(DataError, match="no scans of 3rscan or matterport3d or arkitscenes"):
        run(world, tmp_path / "a.jsonl", data)


def test_cameras_that_differ_within_a_clip_are_warned_of(world: World, tmp_path: Path) -> None:
    data = world.copy()
    for number, item in enumerate(world.entry("matterport3d", data)["images"]):
        item["cam2img"][0][0] *= 1 + 0.03 * (number % 2)
    report = run(world, tmp_path / "a.jsonl", data)
    assert list(report.warnings.values()) == [[SAMPLES["matterport3d"]]]
    assert "2 %" in next(iter(report.warnings))


def test_scenes_that_benchmarks_evaluate_on_are_left_out_of_train(world: World, tmp_path: Path) -> None:
    data = world.copy()
    world.entry("arkitscenes", data)["sample_idx"] = "arkitscenes/Validation/41069021"
    report = run(world, tmp_path / "a.jsonl", data)
    assert {r.meta.dataset for r in read_records(report.out).records} == {"3rscan", "matterport3d"}
    assert [row["reason"] for row in report.rejects] == ["evaluation scene: ARKitScenes val"]


# ---- The same bytes


def test_workers_shards_and_dry_runs_agree(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = world.copy()
    for number in range(3):
        again = json.loads(json.dumps(world.entry("3rscan", data)))
        again["sample_idx"] += f"-{number}"
        again["images"] = again["images"][: 12 + number]
        data["data_list"].append(again)
    monkeypatch.chdir(tmp_path)
    found = []
    for workers in (1, 2):
        out = Path("out") / "det.jsonl"
        out.parent.mkdir()
        report = run(world, out, data, policy=Policy(workers=workers))
        dry = run(world, out, data, policy=Policy(workers=workers, dry_run=True))
        assert (dry.counts, dry.rejects) == (report.counts, report.rejects)
        found.append({f.name: f.read_bytes() for f in out.parent.iterdir()})
        shutil.rmtree(out.parent)
    # A card holds the time of the infos' file in no form: all of it is the same.
    assert found[0] == found[1]
    Path("out").mkdir()
    shares = [run(world, Path("out") / f"{i}.jsonl", data, policy=Policy(shard=(i, 3))).out for i in (1, 2, 3)]
    assert b"".join(share.read_bytes() for share in shares) == found[0]["det.jsonl"]


# ---- Descriptions


def ground(world: World, out: Path, rows: Any = None, infos: Any = None, **options: Any) -> Report:
    given = {key: options.pop(key) for key in ("data", "datasets", "split") if key in options}
    made = source(world, out, infos, **{"datasets": DATASETS, **given})
    path = out.parent / "embodiedscan_train_vg.json"
    path.write_text(json.dumps(utterances(world) if rows is None else rows))
    settings: dict[str, Any] = {
        "source": made, "descriptions": path, "out": out, "media_root": made.data,
        "spec": UtteranceSpec(frames=6), "policy": Policy(), **options,
    }  # fmt: skip
    return prepare_utterances(**settings)


@pytest.fixture(scope="module")
def grounded(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, list[Record]]:
    report = ground(world, tmp_path_factory.mktemp("ref") / "ref.jsonl")
    return report, read_records(report.out, media_root=world.data).records


def test_a_description_is_about_the_instance_of_its_bbox_id(world: World, grounded: Any) -> None:
    rows = utterances(world)
    assert {record.meta.dataset for record in grounded[1]} == {*DATASETS}
    for record in grounded[1]:
        row = rows[record.meta.row]
        entry = world.entry(record.meta.dataset)
        assert record.id == f"{row['scan_id']}/vg/{row['target_id']}/{record.meta.row}"
        number = next(n for n, item in enumerate(entry["instances"]) if item["bbox_id"] == row["target_id"])
        box = entry["instances"][number]["bbox_3d"]
        assert list(record.target.bbox_world) == pytest.approx(box)
        assert f"Text: {row['text'][0].upper()}{row['text'][1:]}\n" in record.prompt
        assert record.prompt.count("<image>") == len(record.video.frames) == 6
        frames = [next(n for n, i in enumerate(entry["images"]) if i["img_path"] == f) for f in record.video.frames]
        assert frames == sorted(frames)
        shown = frames[record.target.frame]
        assert number in entry["images"][shown]["visible_instance_ids"]
        pose = np.array(entry["axis_align_matrix"]) @ np.array(record.camera.cam_to_world[record.target.frame])
        np.testing.assert_allclose(pose @ matrix(record.target.bbox_3d), matrix(box), atol=5e-6)
        own = entry["images"][shown].get("cam2img", entry.get("cam2img"))
        assert record.camera.intrinsic == [line[:3] for line in own[:3]]
        assert record.meta.subset == ("multiple" if row["distractor_ids"] else "unique")
        assert record.meta.object_name == row["target"]
        answer = read_grounding(record.answer)
        assert answer.frame == record.target.frame


def test_what_has_no_record_is_told(world: World, grounded: Any) -> None:
    report, records = grounded
    rows = utterances(world)
    mine = [n for n, row in enumerate(rows) if not row["scan_id"].startswith("scannet")]
    told = {row["row"]: row["reason"] for row in report.rejects}
    assert sorted([*told, *(record.meta.row for record in records)]) == mine
    assert set(told.values()) <= {"no sampled frame shows the object"}
    assert report.counts["descriptions_of_other_scans"] == len(rows) - len(mine)
    assert report.counts["descriptions"] == len(mine)
    card = json.loads(report.card.read_text())
    assert card["options"]["sampler"] == "linspace-floor"
    assert [s["file"] for s in card["sources"]] == ["embodiedscan_train_vg.json", "embodiedscan_infos_train.json"]


def area(record: Record, index: int, size: tuple[int, int]) -> float:
    """Pixels of a frame whose rays meet the target's box."""
    k = np.array(record.camera.intrinsic)
    pose = np.array(record.camera.axis_align) @ np.array(record.camera.cam_to_world[index])
    box = np.array(record.target.bbox_world)
    turn = Rotation.from_euler("ZXY", box[6:])
    v, u = np.indices(size[::-1]).reshape(2, -1)
    rays = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones(u.shape)], axis=1)
    start, way = turn.inv().apply(pose[:3, 3] - box[:3]), turn.inv().apply(rays @ pose[:3, :3].T)
    ends = [(side * box[3:6] / 2 - start) / way for side in (-1, 1)]
    enter, leave = np.minimum(*ends).max(axis=1), np.maximum(*ends).min(axis=1)
    return float(((leave > enter) & (leave > 0.05)).sum())


def test_the_target_frame_shows_the_box_largest_or_first(world: World, grounded: Any, tmp_path: Path) -> None:
    first = ground(world, tmp_path / "first.jsonl", spec=UtteranceSpec(frames=6, target="first"))
    others = {record.id: record for record in read_records(first.out).records}
    differ = 0
    for record in grounded[1][::2]:
        entry = world.entry(record.meta.dataset)
        number = next(n for n, i in enumerate(entry["instances"]) if i["bbox_id"] == record.meta.object_id)
        images = {item["img_path"]: item for item in entry["images"]}
        seen = [i for i, f in enumerate(record.video.frames) if number in images[f]["visible_instance_ids"]]
        assert others[record.id].target.frame == seen[0]
        if record.meta.dataset != "matterport3d":  # there the other pictures' cameras are not in the record
            areas = {i: area(record, i, SIZES[record.meta.dataset]) for i in seen}
            assert areas[record.target.frame] >= 0.9 * max(areas.values()) - 10
        differ += others[record.id].target.frame != record.target.frame
    assert differ > 3


def test_a_target_frame_has_enough_in_view(world: World, grounded: Any, tmp_path: Path) -> None:
    report = ground(world, tmp_path / "a.jsonl", view=ViewRule(min_area=500))
    kept = {record.id for record in read_records(report.out).records}
    assert 0 < len(kept) < len(grounded[1])
    for record in grounded[1]:
        if record.meta.dataset != "matterport3d":
            size = area(record, record.target.frame, SIZES[record.meta.dataset])
            assert (record.id in kept) == (size > 500) or abs(size - 500) < 60
    assert {row["reason"] for row in report.rejects} >= {"too little in view"}
    assert json.loads(report.card.read_text())["options"]["min_area"] == 500


def test_scannets_objects_too_where_its_frames_are_exported(world: World, tmp_path: Path) -> None:
    data = shutil.copytree(world.data / "arkitscenes", tmp_path / "data" / "arkitscenes").parent
    for item, other in zip(world.infos["data_list"][0]["images"], world.entry("arkitscenes")["images"], strict=True):
        path = data / item["img_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(world.data / other["img_path"]) as picture:
            picture.save(path)
    rows = [row for row in utterances(world) if row["scan_id"].startswith("scannet")]
    short = [{**row, "scan_id": row["scan_id"].split("/")[1]} for row in rows]
    for form in (rows, short):
        report = ground(world, tmp_path / "a.jsonl", form, data=data, datasets=DESCRIBED)
        records = read_records(report.out, media_root=data).records
        assert {(r.meta.dataset, r.meta.scene) for r in records} == {("scannet", "scene0000_00")}
        assert records[0].video.frames[0] == "scannet/posed_images/scene0000_00/00000.jpg"


def wrong(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda row: {**row, **fields}


def without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda row: {k: v for k, v in row.items() if k != key}


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        pytest.param(wrong(target_id=99_999), "no such bbox_id", id="an object that was removed"),
        pytest.param(wrong(target_id=[1, 2]), "not about one object", id="several objects"),
        pytest.param(wrong(target_id=[]), "not about one object", id="no object"),
        pytest.param(wrong(target_id="24"), "wrong entry", id="an id that is text"),
        pytest.param(wrong(target_id=True), "wrong entry", id="an id that is a truth value"),
        pytest.param(wrong(text=""), "wrong entry", id="no words"),
        pytest.param(wrong(text=7), "wrong entry", id="words that are a number"),
        pytest.param(wrong(text="a \udc80 chair"), "wrong entry", id="words that are no text"),
        pytest.param(wrong(text="the <image> chair"), "holds a mark for pictures", id="a mark for pictures"),
        pytest.param(wrong(scan_id=None), "wrong entry", id="no scan"),
        pytest.param(without("target_id"), "wrong entry", id="a test row"),
        pytest.param(lambda row: [row], "wrong entry", id="a list"),
        pytest.param(lambda row: None, "wrong entry", id="null"),
    ],
)
def test_a_wrong_description_is_left_out_with_the_reason(
    edit: Callable[..., Any], reason: str, world: World, grounded: Any, tmp_path: Path
) -> None:
    rows = utterances(world)
    victim = grounded[1][1].meta.row
    rows[victim] = edit(rows[victim])
    report = ground(world, tmp_path / "a.jsonl", rows)
    assert read_records(report.out).records == [r for r in grounded[1] if r.meta.row != victim]
    assert (victim, reason) in {(row["row"], row["reason"]) for row in report.rejects}


def test_one_object_in_a_list_and_rows_without_optional_fields_serve(
    world: World, grounded: Any, tmp_path: Path
) -> None:
    rows = utterances(world)
    keep = ("scan_id", "target_id", "text")
    bare = [{key: row[key] for key in keep} | {"target_id": [row["target_id"]]} for row in rows]
    records = read_records(ground(world, tmp_path / "a.jsonl", bare).out).records
    assert [record.target for record in records] == [record.target for record in grounded[1]]
    assert {record.meta.subset for record in records} == {None}


def test_two_instances_of_one_id_are_not_told_apart(world: World, tmp_path: Path) -> None:
    data = world.copy()
    items = world.entry("3rscan", data)["instances"]
    items[1]["bbox_id"] = items[0]["bbox_id"]
    rows = [row for row in utterances(world) if row["scan_id"] == SAMPLES["3rscan"]]
    report = ground(world, tmp_path / "a.jsonl", rows, data)
    reasons = [row["reason"] for row in report.rejects if row.get("target_id") == items[0]["bbox_id"]]
    assert reasons == ["several instances of one bbox_id"] * 2


def test_left_out_rows_are_told_also_where_the_first_scan_is_bad(world: World, tmp_path: Path) -> None:
    data = world.copy()
    world.entry("3rscan", data)["axis_align_matrix"] = np.diag([2, 2, 2, 1.0]).tolist()
    rows = [*utterances(world), None]
    report = ground(world, tmp_path / "a.jsonl", rows, data, policy=Policy(max_bad=0.5))
    told = [(row["what"], row["reason"]) for row in report.rejects]
    assert ("scene", "wrong annotations") in told
    assert ("description", "wrong entry") in told
    with pytest.raises(DataError, match="axis_align_matrix scales"):
        ground(world, tmp_path / "b.jsonl", rows, data, policy=Policy(max_bad=0.5, stop=True))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        pytest.param("{}", "not a list", id="a dict"),
        pytest.param("[", "not JSON", id="torn"),
        pytest.param("[]", "describes nothing", id="empty"),
        pytest.param('[{"scan_id": "3rscan/x", "target_id": 1, "text": "a"}]', "describes nothing", id="other scans"),
    ],
)
def test_other_files_of_descriptions_are_refused(content: str, word: str, world: World, tmp_path: Path) -> None:
    made = source(world, tmp_path / "a.jsonl")
    path = tmp_path / "vg.json"
    path.write_text(content)
    with pytest.raises(DataError, match=word):
        prepare_utterances(
            source=made, descriptions=path, out=tmp_path / "a.jsonl", media_root=world.data, spec=UtteranceSpec(),
            policy=Policy(),
        )  # fmt: skip
