from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_rooms import SMALL, build_rooms, infos, write_infos

from rft3d_cli.errors import UsageError
from rft3d_cli.prepare._scanrefer_frames import REDRAWS, draws, evenly, showing_sample, wrapped, wrapped_sample
from rft3d_cli.prepare.embodiedscan import Frame
from rft3d_cli.prepare.pictures import Places
from rft3d_cli.prepare.pipeline import Policy, Report, Store
from rft3d_cli.prepare.scanrefer import GroundingSpec, prepare_grounding
from rft3d_cli.prepare.splits import Split
from rft3d_cli.records import Record, read_records

FRAMES = 6
WRAP = GroundingSpec(frames=FRAMES, sampler="wrap-around")


# ---- The sampler by itself


def reference(length: int, count: int, start: int) -> list[int]:
    """Positions by the clock: from the start on in equal steps, over the end to the beginning."""
    if length < count:
        return [(start + i) % length for i in range(length)]
    return [(start + i * (length // count)) % length for i in range(count)]


@settings(deadline=None, max_examples=200)
@given(length=st.integers(1, 300), count=st.integers(1, 64), data=st.data())
def test_a_wrapped_sample_goes_round(length: int, count: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, length - 1))
    found = wrapped(range(length), count, start)
    assert found == reference(length, count, start)
    assert len(set(found)) == len(found) == min(length, count)


@pytest.mark.parametrize(
    ("length", "count", "start", "positions"),
    [
        pytest.param(10, 5, 0, [0, 2, 4, 6, 8], id="from the beginning"),
        pytest.param(10, 5, 7, [7, 9, 1, 3, 5], id="over the end, not put in order"),
        pytest.param(11, 5, 7, [7, 9, 0, 2, 4], id="what is left over stays out"),
        pytest.param(5, 5, 3, [3, 4, 0, 1, 2], id="as many as there are"),
        pytest.param(3, 5, 1, [1, 2, 0], id="fewer than asked for"),
        pytest.param(1, 4, 0, [0], id="a single frame"),
    ],
)
def test_where_a_wrapped_sample_falls(length: int, count: int, start: int, positions: list[int]) -> None:
    assert wrapped(range(length), count, start) == positions


def scan_of(length: int, seen: Sequence[int]) -> list[Frame]:
    return [Frame(10 * i, np.eye(4), (5,) if i in seen else (1, 2)) for i in range(length)]


def positions(frames: Sequence[Frame]) -> list[int]:
    return [frame.number // 10 for frame in frames]


class Counted:
    """Starts in a row, counted."""

    def __init__(self, starts: list[int]) -> None:
        self.starts, self.used = starts, 0

    def integers(self, end: int) -> int:
        self.used += 1
        return self.starts[(self.used - 1) % len(self.starts)] % end


@pytest.mark.parametrize(
    ("seen", "starts", "found", "used"),
    [
        pytest.param([4], [4], [4, 6, 8, 0, 2], 1, id="shown at once"),
        pytest.param([9], [3], [3, 5, 7, 9, 1], 1, id="shown in the middle"),
        pytest.param([4], [1, 3, 8], [8, 0, 2, 4, 6], 3, id="shown by the third"),
        pytest.param([4], [1] * REDRAWS + [0], [0, 2, 4, 6, 8], 1 + REDRAWS, id="shown by the last redraw"),
        pytest.param([4, 6], [3], [3, 4, 5, 7, 9], 1 + REDRAWS, id="the first to show it takes the last one's place"),
        pytest.param([], [3], [1, 3, 5, 7, 9], 1 + REDRAWS, id="nowhere: in order, as it is"),
    ],
)
def test_a_sample_is_drawn_until_it_shows_the_object(
    seen: list[int], starts: list[int], found: list[int], used: int
) -> None:
    rng: Any = Counted(starts)
    assert (positions(showing_sample(scan_of(10, seen), 5, 5, rng)), rng.used) == (found, used)


@settings(deadline=None, max_examples=80)
@given(length=st.integers(1, 120), count=st.integers(1, 40), seed=st.integers(0, 999), data=st.data())
def test_whatever_shows_the_object_is_in_the_sample(length: int, count: int, seed: int, data: st.DataObject) -> None:
    seen = data.draw(st.sets(st.integers(0, length - 1), min_size=1, max_size=3))
    sample = positions(showing_sample(scan_of(length, [*seen]), count, 5, draws(seed, "x")))
    assert seen & {*sample}
    assert len(set(sample)) == len(sample) == min(length, count)
    step = max(1, length // count)
    wrapping = all((b - a) % length == step % length for a, b in pairwise(sample))
    assert wrapping or (sample == sorted(sample) and min(seen) in sample)


def test_starts_are_spread_over_the_scan() -> None:
    frames = scan_of(50, [])
    starts = [positions(wrapped_sample(frames, 5, draws(0, f"scene/ref/0/{i}")))[0] for i in range(2000)]
    counts = np.bincount(starts, minlength=50)
    # 40 each on average; eight standard deviations off would be a flaw.
    assert counts.min() > 0
    assert np.abs(counts - 40).max() < 50


def test_draws_depend_on_seed_name_and_sampling_alone() -> None:
    def first(*key: Any) -> list[float]:
        return draws(*key).random(4).tolist()

    assert first(0, "a", 0) == first(0, "a", 0)
    assert len({tuple(first(*key)) for key in [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)]}) == 4


def test_chronological_frames_are_in_order() -> None:
    assert evenly(range(100), 4) == np.linspace(0, 99, 4).astype(int).tolist()
    assert evenly(range(3), 8) == [0, 1, 2]


# ---- Records


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_rooms(SMALL, tmp_path_factory.mktemp("frames") / "rooms")


def run(rooms: Path, out: Path, spec: GroundingSpec, **options: Any) -> Report:
    fields: dict[str, Any] = {
        "scans": rooms / "scans",
        "descriptions": rooms / "ScanRefer_filtered_train.json",
        "annotations": rooms / "embodiedscan_infos_train.json",
        "labels": None,
        "places": Places(rooms / "scans", None, Store(out.parent / "media", "media")),
        "split": Split("train"),
        "out": out,
        "media_root": out.parent,
        "spec": spec,
        "policy": Policy(),
        **options,
    }
    return prepare_grounding(**fields)


def numbers(record: Record) -> list[int]:
    return [int(Path(frame).stem) for frame in record.video.frames]


def by_id(path: Path) -> dict[str, str]:
    return {json.loads(line)["id"]: line for line in path.read_text().splitlines()}


@pytest.fixture(scope="module")
def twice(rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("twice") / "ref.jsonl"
    run(rooms, out, GroundingSpec(frames=FRAMES, sampler="wrap-around", samplings=2))
    return out


def test_records_name_the_sampler_and_show_the_object(rooms: Path, twice: Path) -> None:
    annotated = {entry["sample_idx"].split("/")[1]: entry["images"] for entry in infos(rooms)["data_list"]}
    records = read_records(twice).records
    step, turned = SMALL.frames // FRAMES, 0
    for record in records:
        images, chosen = annotated[record.meta.scene], numbers(record)
        assert record.meta.sampler == "wrap-around"
        assert record.camera.cam_to_world == [images[n]["cam2global"] for n in chosen]
        assert record.video.times == pytest.approx([n / SMALL.fps for n in chosen])
        shown = [record.meta.model_extra["object_id"] in images[n]["visible_instance_ids"] for n in chosen]
        assert shown[record.target.frame]
        assert chosen == sorted(chosen) or {(b - a) % SMALL.frames for a, b in pairwise(chosen)} == {step}
        turned += chosen != sorted(chosen)
    assert turned > len(records) / 3


def test_each_description_gets_its_samplings_under_ids_of_their_own(rooms: Path, twice: Path, tmp_path: Path) -> None:
    run(rooms, tmp_path / "once.jsonl", WRAP)
    once, both = by_id(tmp_path / "once.jsonl"), by_id(twice)
    assert len(both) == len(twice.read_text().splitlines()) == 2 * len(once)
    assert {key: line for key, line in both.items() if key in once} == once
    other = {key.replace("/ref-2/", "/ref/"): numbers(record) for key, record in _records(both).items()}
    assert other.keys() == once.keys()
    assert sum(numbers(record) != other[key] for key, record in _records(once).items()) > len(once) / 2


def _records(lines: dict[str, str]) -> dict[str, Record]:
    found = {key: Record.model_validate_json(line) for key, line in lines.items()}
    return {**{k: r for k, r in found.items() if "/ref/" in k}, **{k: r for k, r in found.items() if "/ref-2/" in k}}


def test_frames_depend_on_the_description_and_the_seed_alone(rooms: Path, tmp_path: Path) -> None:
    run(rooms, tmp_path / "a.jsonl", WRAP)
    whole = by_id(tmp_path / "a.jsonl")
    some = tmp_path / "some.json"
    rows = json.loads((rooms / "ScanRefer_filtered_train.json").read_text())
    some.write_text(json.dumps(rows[::-2]))
    run(rooms, tmp_path / "b.jsonl", WRAP, descriptions=some)
    part = by_id(tmp_path / "b.jsonl")
    assert len(part) > 3
    assert part.items() <= whole.items()
    run(rooms, tmp_path / "c.jsonl", GroundingSpec(frames=FRAMES, sampler="wrap-around", seed=1))
    assert sum(by_id(tmp_path / "c.jsonl")[key] != line for key, line in whole.items()) > len(whole) / 2


@pytest.mark.parametrize("count", [2, 3])
def test_shares_join_to_the_whole(rooms: Path, twice: Path, tmp_path: Path, count: int) -> None:
    spec = GroundingSpec(frames=FRAMES, sampler="wrap-around", samplings=2)
    for i in range(count):
        run(rooms, tmp_path / f"{i}.jsonl", spec, policy=Policy(shard=(i + 1, count)))
    assert b"".join((tmp_path / f"{i}.jsonl").read_bytes() for i in range(count)) == twice.read_bytes()


def test_workers_give_the_same_bytes(rooms: Path, tmp_path: Path) -> None:
    # Four scenes, from which on processes are spawned.
    data = infos(rooms)
    rows = json.loads((rooms / "ScanRefer_filtered_train.json").read_text())
    twin = {entry["sample_idx"].split("/")[1]: f"scene{i:04d}_01" for i, entry in enumerate(data["data_list"])}
    copies = json.loads(json.dumps(data["data_list"]))
    for entry in copies:
        entry["sample_idx"] = f"scannet/{twin[entry['sample_idx'].split('/')[1]]}"
    data["data_list"] += copies
    scans = tmp_path / "scans"
    for scene in (rooms / "scans").iterdir():
        for name in (scene.name, twin.get(scene.name)):
            if name is not None:
                (scans / name).mkdir(parents=True)
                for file in scene.iterdir():
                    (scans / name / file.name.replace(scene.name, name)).symlink_to(file)
    annotations = write_infos(tmp_path / "infos.json", data)
    descriptions = tmp_path / "d.json"
    descriptions.write_text(json.dumps([*rows, *({**row, "scene_id": twin[row["scene_id"]]} for row in rows)]))
    for workers in (1, 2):
        run(
            rooms, tmp_path / f"{workers}.jsonl", WRAP, scans=scans, annotations=annotations, descriptions=descriptions,
            places=Places(scans, None, Store(tmp_path / "media", "media")), policy=Policy(workers=workers),
        )  # fmt: skip
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()


def test_an_object_in_one_frame_alone_is_always_shown(rooms: Path, tmp_path: Path) -> None:
    data = infos(rooms)
    only = {}
    for entry in data["data_list"]:
        shown = [i for i, frame in enumerate(entry["images"]) if 0 in frame["visible_instance_ids"]]
        middle = shown[len(shown) // 2] if shown else None
        only[entry["sample_idx"].rpartition("/")[2]] = middle
        for i, frame in enumerate(entry["images"]):
            frame["visible_instance_ids"] = [0] if i == middle else []
    path = write_infos(tmp_path / "infos.json", data)
    run(rooms, tmp_path / "a.jsonl", GroundingSpec(frames=2, sampler="wrap-around", samplings=20), annotations=path)
    found = read_records(tmp_path / "a.jsonl").records
    assert len(found) >= 20
    for record in found:
        assert numbers(record)[record.target.frame] == only[record.meta.scene]


def test_fewer_frames_than_asked_for_are_all_kept(rooms: Path, tmp_path: Path) -> None:
    run(rooms, tmp_path / "a.jsonl", GroundingSpec(frames=64, sampler="wrap-around"))
    for record in read_records(tmp_path / "a.jsonl").records:
        chosen = numbers(record)
        assert [(n - chosen[0]) % SMALL.frames for n in chosen] == list(range(SMALL.frames))


def test_more_samplings_need_a_sampler_that_differs() -> None:
    with pytest.raises(UsageError, match="2 samplings of chronological frames") as error:
        GroundingSpec(samplings=2)
    assert "--sampler wrap-around" in error.value.hint
