from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_fixtures import Loaded, write_media

from rft3d_cli.models import tiny
from rft3d_cli.models.inputs import FrameStore
from rft3d_cli.models.loader import load_model
from rft3d_cli.records import Record


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing in this folder may look outside; a call that is swallowed still fails the test that made it."""
    calls: list[str] = []

    def refuse(*args: Any, **_: Any) -> None:
        calls.append(str(args))
        raise OSError("tests have no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    assert calls == []


@pytest.fixture(scope="session")
def plain_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "plain"
    tiny.create(folder)
    return folder


@pytest.fixture(scope="session")
def fused_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "fused"
    tiny.create(folder, geometry="tiny")
    return folder


@pytest.fixture(scope="session")
def vggt_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "vggt"
    tiny.create(folder, geometry="vggt")
    return folder


@pytest.fixture(scope="session")
def plain(plain_dir: Path) -> Loaded:
    """Shared by all tests: none may change it."""
    return Loaded.of(load_model(plain_dir))


@pytest.fixture(scope="session")
def fused(fused_dir: Path) -> Loaded:
    """Shared by all tests: none may change it."""
    return Loaded.of(load_model(fused_dir))


@pytest.fixture(scope="session")
def vggt(vggt_dir: Path) -> Loaded:
    """Shared by all tests: none may change it."""
    return Loaded.of(load_model(vggt_dir))


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Record]]:
    folder = tmp_path_factory.mktemp("media")
    return folder, write_media(folder)


@pytest.fixture(scope="session")
def records(media: tuple[Path, dict[str, Record]]) -> dict[str, Record]:
    return media[1]


@pytest.fixture(scope="session")
def store(media: tuple[Path, dict[str, Record]], plain: Loaded) -> FrameStore:
    return FrameStore(media[0], plain.processor)


_ELSEWHERE = """
import sys
sys.modules["torchvision"] = None  # an import of it fails
from PIL import Image
from rft3d_cli.models.tiny import build_processor
processor = build_processor()
seen = processor(images=[[Image.new("RGB", (64, 48))]], text=["<|image_pad|>"], return_tensors="np")
assert seen["pixel_values"].shape == (48, 384), seen["pixel_values"].shape
processor.save_pretrained(sys.argv[1])
"""


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """What a process without torchvision, and with another order of sets, writes as tiny's processor."""
    folder = tmp_path_factory.mktemp("elsewhere")
    command = [sys.executable, "-W", "error", "-c", _ELSEWHERE, str(folder)]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    return folder, subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
