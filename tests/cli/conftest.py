"""Commands run in an empty folder, and the small world that they are asked about; see ``command_line``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import RATE, TEACH, Shown, World, clip_pictures, inside, records, run

from rft3d_cli.records import write_records
from rft3d_cli.video import write_mp4


@pytest.fixture
def rft3d(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Shown]:
    """Runs commands in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RFT3D_DEBUG", "")
    return run


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The clip, its records and a fresh model."""
    folder = tmp_path_factory.mktemp("world")
    write_mp4(folder / "clip.mp4", clip_pictures(), RATE, crf=5)
    write_records(folder / "all.jsonl", records())
    assert run("models", "create-tiny", folder / "fresh").code == 0
    return World(folder, folder / "clip.mp4", folder / "all.jsonl", folder / "fresh")


@pytest.fixture(scope="session")
def taught(world: World) -> Path:
    """A run folder: a tiny model that has learnt the answers of the world's records by heart."""
    (world.folder / "teach.yaml").write_text(TEACH, encoding="utf-8")
    with inside(world.folder):
        shown = run("sft", "--recipe", "teach.yaml", "--out", "taught")
    assert shown.code == 0, shown.err
    return world.folder / "taught"
