from __future__ import annotations

import json
from pathlib import Path

import pytest
from vgllm_files import Room, add_images, save
from vgllm_runs import card, records, run

from rft3d_cli.errors import DataError
from rft3d_cli.prepare import rowfile
from rft3d_cli.prepare.merge import merge
from rft3d_cli.prepare.pipeline import Policy


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("limit", [1, 3, 5, 12, 99])
def test_a_limit_takes_so_many_rows_whatever_is_read_together(
    name: str, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowfile, "BATCH", 3)
    path = save(tmp_path / name, [Room(1000 + seed, frames=2).detection("intrinsic") for seed in range(12)])
    add_images(tmp_path / "media", json.loads((save(tmp_path / "b.json", rows_of(path))).read_text())[:limit])
    # Media of rows beyond the limit are not asked for.
    report = run(tmp_path, path, policy=Policy(limit=limit))
    assert [record.id for record in records(report)] == [f"a/{i}" for i in range(min(limit, 12))]
    assert card(report)["options"]["limit"] == limit
    assert card(report)["counts"]["rows"] == min(limit, 12)
    parts = [
        run(tmp_path, path, out=tmp_path / f"{i}.jsonl", policy=Policy(limit=limit, shard=(i, 3))).out
        for i in (1, 2, 3)
    ]
    merge(parts, tmp_path / "all.jsonl")
    assert (tmp_path / "all.jsonl").read_bytes() == report.out.read_bytes()
    if limit < 12:
        with pytest.raises(DataError, match="media files are missing"):
            run(tmp_path, path)


def rows_of(path: Path) -> list[dict]:
    text = path.read_text()
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
