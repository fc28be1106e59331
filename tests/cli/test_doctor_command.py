from __future__ import annotations

import sys

import pytest

from rft3d_cli import doctor
from rft3d_cli.errors import SetupError
from rft3d_cli.recipe import shipped_recipes
from rft3d_cli.train.devices import Gpu


def broken(monkeypatch: pytest.MonkeyPatch, *messages: str) -> None:
    real = doctor.examine

    def examine() -> doctor.Report:
        report = real()
        report.problems += [SetupError(message, f"mend {message}") for message in messages]
        return report

    monkeypatch.setattr(doctor, "examine", examine)


def test_the_report_names_packages_codecs_weights_and_recipes(rft3d):
    shown = rft3d("doctor")
    assert (shown.code, shown.err) == (0, "")
    for part in ("Packages", "GPU", "Video", "Optional packages", "Weights from the hub", "Recipes"):
        assert f"\n{part}\n" in shown.out
    for word in ("torch", ">=1.16,<1.17", "hevc", "flash_attn", "facebook/VGGT-1B", *shipped_recipes()):
        assert word in shown.out
    assert "rft3d prepare rooms --out data/rooms" in shown.out


def test_the_report_as_json(rft3d):
    document = rft3d("doctor", "--json").document
    assert document["ok"] is True
    assert document["problems"] == []
    assert {recipe["name"] for recipe in document["recipes"]} == set(shipped_recipes())
    det = next(recipe for recipe in document["recipes"] if recipe["name"] == "det")
    assert det["ok"] is False
    assert det["budget"]["peak_bytes"] > 60 * 2**30
    assert all(set(problem) == {"message", "hint"} for problem in det["problems"])
    assert next(package for package in document["packages"] if package["name"] == "trl")["ok"] is True


@pytest.mark.parametrize("messages", [("one",), ("one", "two")], ids=["one", "two"])
def test_what_keeps_the_tiny_recipes_from_running_is_exit_code_4(rft3d, monkeypatch, messages):
    broken(monkeypatch, *messages)
    shown = rft3d("doctor")
    assert shown.code == 4
    assert shown.errors == list(messages)
    assert all(f"mend {message}" in shown.hint for message in messages)
    assert "Recipes" in shown.out


def test_exit_code_4_comes_with_the_document_too(rft3d, monkeypatch):
    import json

    broken(monkeypatch, "one")
    shown = rft3d("doctor", "--json")
    assert shown.code == 4
    document = json.loads(shown.out)
    assert document["ok"] is False
    assert document["problems"] == [{"message": "one", "hint": "mend one"}]


def test_a_doctor_that_cannot_start_says_what_to_install(rft3d, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    for name in ("rft3d_cli.doctor", "rft3d_cli.recipe", "rft3d_cli.recipe_overrides", "rft3d_cli.recipe_yaml"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    shown = rft3d("doctor")
    assert (shown.code, shown.errors, shown.hint) == (4, ["yaml cannot be imported"], "pip install yaml")


def test_a_gpu_is_shown_with_its_memory(rft3d, monkeypatch):
    monkeypatch.setattr(doctor, "gpus", lambda: [Gpu("NVIDIA H200", 141 * 2**30, True), Gpu("old", 2**30, False)])
    shown = rft3d("doctor")
    assert "NVIDIA H200, 141.0 GiB, bfloat16" in shown.out
    assert "old, 1.0 GiB, no bfloat16: set model.dtype=float32" in shown.out


def test_help_stands_in_a_panel_of_its_own(rft3d):
    assert "Help" in rft3d("--help").out
