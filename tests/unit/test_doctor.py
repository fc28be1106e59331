from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from safetensors.numpy import save_file

from rft3d_cli import doctor
from rft3d_cli.doctor import DECODERS, examine, packages, within
from rft3d_cli.errors import SetupError
from rft3d_cli.recipe import shipped_recipes
from rft3d_cli.train.devices import Gpu

WEIGHTS = "zd11024/vgllm-3d-vggt-4b"


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and an empty folder to work in."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "hub"


def fetch(hub: Path, name: str, config: dict[str, Any], tensors: dict[str, tuple[int, ...]]) -> Path:
    """A model in the hub's cache, as the hub's client lays it out."""
    repository = hub / f"models--{name.replace('/', '--')}"
    folder = repository / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (folder / "config.json").write_text(json.dumps(config))
    if tensors:
        save_file({key: np.zeros(shape, np.float16) for key, shape in tensors.items()}, folder / "model.safetensors")
    return folder


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    """Other versions than those that are there; None for a package that is not."""
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: versions[name] if name in versions else real(name))


# ---- Versions


@pytest.mark.parametrize(
    ("version", "window", "fits"),
    [
        pytest.param("2.13.0", ">=2.9,<2.14", True, id="inside"),
        pytest.param("2.13.0+cpu", ">=2.9,<2.14", True, id="a build"),
        pytest.param("2.9", ">=2.9.0", True, id="zeros at the end"),
        pytest.param("2.14", ">=2.9,<2.14", False, id="the upper bound"),
        pytest.param("2.8.9", ">=2.9,<2.14", False, id="below"),
        pytest.param("2.10.1", ">=2.9,<2.14", True, id="ten is above nine"),
        pytest.param("0.17.5", "==0.17.5", True, id="exactly"),
        pytest.param("0.17.6", "==0.17.5", False, id="not exactly"),
        pytest.param("5", "", True, id="any"),
        pytest.param("5", ">= 4, != 5", False, id="spaces, and one left out"),
    ],
)
def test_a_window(version: str, window: str, fits: bool) -> None:
    assert within(version, window) is fits


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.integers(0, 30), st.integers(0, 30))
def test_windows_are_those_of_pip(numbers: list[int], low: int, high: int) -> None:
    version, window = ".".join(map(str, numbers)), f">={low}.2,<{high}.7"
    assert within(version, window) == (Version(version) in SpecifierSet(window))


def test_the_window_is_the_projects() -> None:
    found = {package.name: package for package in packages()}
    assert {"torch", "transformers", "trl", "peft", "accelerate", "datasets", "av", "numpy", "scipy"} <= set(found)
    assert found["trl"].window == ">=1.16,<1.17"
    assert all(package.version and package.ok for package in found.values())
    assert "pytest" not in found


def test_the_lower_limit_comes_first_in_whatever_order_it_was_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda name: ["trl<1.17,>=1.16", "pyyaml>=6.0", "numpy"])
    assert [package.window for package in doctor.packages()] == [">=1.16,<1.17", ">=6.0", ""]


def test_a_package_that_is_missing_is_a_problem_and_another_version_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, trl=None, peft="0.99.0")
    report = examine()
    assert [(p.message, p.hint) for p in report.problems] == [("trl is not installed", "pip install 'trl>=1.16,<1.17'")]
    assert len(report.warnings) == 1
    assert "peft 0.99.0 is outside of >=0.20,<0.22" in report.warnings[0]


# ---- What is here


def test_nothing_is_wrong_where_the_tests_run() -> None:
    report = examine()
    assert report.problems == []
    assert report.machine["cores"] >= 1
    assert report.machine["memory"] > 2**30
    assert set(report.codecs) == {*DECODERS, "h264 encoder"}
    assert all(report.codecs.values())
    assert {ready.recipe.name for ready in report.recipes} == set(shipped_recipes())


def test_codecs_that_ffmpeg_lacks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    monkeypatch.setattr(av, "codecs_available", {"h264", "vp9", "av1", "mpeg4", "mjpeg", "libx264"})
    report = examine()
    # FFmpeg's own decoder of AV1 needs hardware.
    assert [name for name, there in report.codecs.items() if not there] == ["hevc", "av1"]
    assert any("hevc, av1" in text for text in report.warnings)


def test_an_av_that_cannot_be_imported_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    report = examine()
    assert any("av cannot be imported" in problem.message for problem in report.problems)


@pytest.mark.parametrize(
    ("code", "broken"),
    [
        pytest.param("raise RuntimeError('operator torchvision::nms does not exist')", True, id="another build"),
        pytest.param("", False, id="fits"),
    ],
)
def test_a_torchvision_is_tried(code: str, broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    found = [problem for problem in examine().problems if "torchvision" in problem.message]
    assert bool(found) is broken
    if broken:
        assert "nms does not exist" in found[0].message
        assert "pip uninstall torchvision" in str(found[0].hint)


@pytest.mark.parametrize(
    ("cpu", "driver", "said"),
    [
        pytest.param(True, False, "a CPU build", id="CPU build"),
        pytest.param(True, True, "install torch's CUDA build", id="CPU build beside a driver"),
        pytest.param(False, False, "none", id="no driver"),
        pytest.param(False, True, "torch sees no device", id="a driver without a device"),
    ],
)
def test_why_there_is_no_gpu(cpu: bool, driver: bool, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "gpus", list)
    monkeypatch.setattr(doctor, "cpu_build", lambda: cpu)
    monkeypatch.setattr(doctor, "has_driver", lambda: driver)
    assert said in examine().gpu_note


def test_a_torch_that_cannot_be_imported_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[Gpu]:
        raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(doctor, "gpus", fail)
    assert any("torch cannot be imported: libcudart" in problem.message for problem in examine().problems)


# ---- Weights and recipes


def test_weights_that_are_here_are_counted(hub: Path) -> None:
    fetch(hub, WEIGHTS, {"model_type": "qwen2_5_vl"}, {"a": (3, 4), "b": (5,)})
    fetch(hub, "facebook/VGGT-1B", {}, {})
    found = {weights.name: weights for weights in examine().weights}
    assert found[WEIGHTS].parameters == 17
    assert found[WEIGHTS].problem is None
    assert found["facebook/VGGT-1B"].problem == "its configuration is here, its weights are not"
    assert found["zd11024/vgllm-qa-vggt-4b"].folder is None


def test_weights_that_are_half_here_are_broken(hub: Path) -> None:
    folder = fetch(hub, WEIGHTS, {"model_type": "qwen2_5_vl"}, {})
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    found = {weights.name: weights for weights in examine().weights}
    assert "1 of 1 weight files are missing" in str(found[WEIGHTS].problem)


def ready(name: str) -> Any:
    return next(ready for ready in examine().recipes if ready.recipe.name == name)


def test_a_recipe_says_what_it_lacks_and_what_to_do_next() -> None:
    found = {problem.message: problem.hint for problem in ready("det").problems}
    assert "hf download zd11024/vgllm-3d-vggt-4b" in found[f"weights of {WEIGHTS} are not on this machine"]
    assert found["data missing: data/det/train.jsonl and 1 more"].startswith("rft3d prepare scannet --scans scans")


def test_the_next_command_is_the_first_whose_result_is_not_there() -> None:
    (first,) = ready("tiny-det").problems
    assert first.hint == "rft3d prepare rooms --out data/rooms"
    Path("data/rooms").mkdir(parents=True)
    (second,) = ready("tiny-det").problems
    assert second.hint.startswith("rft3d prepare scannet --scans data/rooms/scans")
    assert "\\" not in second.hint
    assert "#" not in second.hint


def test_a_tiny_recipe_is_ready_with_its_data() -> None:
    Path("data/rooms").mkdir(parents=True)
    for name in ("train", "val"):
        record = {"id": "a", "video": {"frames": ["0.jpg", "1.jpg"]}}
        Path(f"data/rooms/{name}.jsonl").write_text(json.dumps(record) + "\n")
    found = ready("tiny-det")
    assert found.problems == []
    assert 2**30 < found.budget.peak < 3 * 2**30


@pytest.mark.parametrize(
    ("memory", "fits"),
    [pytest.param(80, False, id="80 GB"), pytest.param(141, True, id="141 GB")],
)
def test_a_recipe_is_held_against_the_smallest_gpu(memory: int, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    there = [Gpu("big", 10**12, True), Gpu("small", memory * 10**9, True)]
    monkeypatch.setattr(doctor, "gpus", lambda: there)
    said = [problem for problem in ready("det").problems if "it takes about" in problem.message]
    assert (not said) is fits
    if said:
        assert "on its GPU" in said[0].message
        assert "model.lora.rank=64 or train.kl=0" in str(said[0].hint)


def test_tiny_models_that_are_not_shipped_keep_the_tiny_recipes_from_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rft3d_cli.models.loader.assets_dir", lambda: Path("nowhere"))
    assert any(isinstance(problem, SetupError) and "tiny-sft" in problem.message for problem in examine().problems)


@pytest.mark.parametrize("name", ["huggingface_hub", "safetensors"])
def test_a_package_of_a_package_is_missed_too(name: str, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(hub, WEIGHTS, {"model_type": "qwen2_5_vl"}, {"a": (3, 4)})
    monkeypatch.setitem(sys.modules, name, None)
    found = [problem for problem in examine().problems if "cannot be imported" in problem.message]
    assert [problem.hint for problem in found] == [f"pip install {name}"]


# ---- What it costs


def test_nothing_slow_is_imported_and_nothing_outside_is_asked() -> None:
    code = """
import socket, sys
def refuse(*args, **kwargs):
    print("asked", args)
    raise OSError
socket.getaddrinfo = refuse
socket.socket.connect = refuse
from rft3d_cli.doctor import examine
examine()
print([name for name in ("torch", "transformers", "trl", "peft", "datasets") if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
