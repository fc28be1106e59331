"""What rft3d knows of models by name, and what it says where their weights are not here."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from rft3d_cli.errors import Rft3dError
from rft3d_cli.models import loader
from rft3d_cli.models.known import KNOWN, fetch_command
from rft3d_cli.models.loader import FRESH, SHIPPED, VGGT, load_model, model_problems
from rft3d_cli.models.shelf import Row, shelf
from rft3d_cli.recipe import load_recipe, shipped_recipes
from rft3d_cli.recipe_schema import Model

HUB = [name for name, known in KNOWN.items() if known.home == "hub"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.file_download.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def fetched(hub: Path, name: str, source: Path) -> Path:
    """A folder put where `hf download` puts a model."""
    home = hub / f"models--{name.replace('/', '--')}"
    shutil.copytree(source, home / "snapshots" / "abc")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    return home / "snapshots" / "abc"


def section(name: str, **keys: Any) -> Model:
    return Model.model_validate({"name": name, "freeze": [], **keys})


def problem(spec: Model) -> Rft3dError:
    (found,) = model_problems(spec)
    assert found.exit_code == 4
    with pytest.raises(Rft3dError) as caught:
        load_model(spec)
    assert (caught.value.message, caught.value.hint) == (found.message, found.hint)
    return found


def row(name: str) -> Row:
    (found,) = [row for row in shelf() if row.name == name]
    return found


def test_every_model_that_a_shipped_recipe_names_is_known() -> None:
    named = {load_recipe(name).config.model.name for name in shipped_recipes()}
    assert {name for name in named if not name.startswith("runs/")} <= KNOWN.keys()
    assert VGGT in KNOWN
    assert {*SHIPPED, *FRESH} == KNOWN.keys() - {*HUB}


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_said_of_a_model_is_one_line_each(name: str) -> None:
    known = KNOWN[name]
    for text in (known.text, known.note):
        assert "\n" not in text
        assert not text.endswith(".")
    assert known.text
    assert known.home != "hub" or name.count("/") == 1


def test_boxes_have_an_order_of_angles_and_answers_to_questions_have_none() -> None:
    era = {name: known.angles for name, known in KNOWN.items()}
    assert era["zd11024/vgllm-3d-vggt-4b"] == era["zd11024/vgllm-3d-vggt-8b"] == "intrinsic"
    assert "28 November 2025" in KNOWN["zd11024/vgllm-3d-vggt-4b"].note
    assert era["zd11024/VGLLM_for_3D_Scene_Understanding_4B"] == "extrinsic"
    assert {era[name] for name in HUB if "qa" in name or name.startswith(("Qwen/", "facebook/"))} == {None}


@pytest.mark.parametrize("name", HUB)
def test_a_known_model_that_is_not_here_says_the_command_that_fetches_it(name: str, hub: Path) -> None:
    error = problem(section(name))
    assert error.message == f"weights of {name} are not on this machine"
    assert error.hint == f"fetch them first: {fetch_command(name)}"
    assert shlex.split(fetch_command(name))[:3] == ["hf", "download", name]


@pytest.mark.parametrize(
    ("name", "keys", "also"),
    [
        pytest.param("Qwen/Qwen2.5-VL-3B-Instruct", {"geometry": "vggt"}, VGGT, id="a branch to add"),
        pytest.param("Qwen/Qwen2.5-VL-3B-Instruct", {"geometry": "none"}, None, id="none to add"),
        pytest.param("zd11024/vgllm-3d-vggt-4b", {"geometry": "vggt"}, None, id="it comes with one"),
        pytest.param("Qwen/Qwen3-VL-4B-Instruct", {"geometry": "vggt"}, None, id="it cannot have one"),
        pytest.param("someone/else", {"geometry": "vggt"}, None, id="nobody knows"),
        pytest.param(
            "Qwen/Qwen2.5-VL-7B-Instruct", {"geometry": "vggt", "geometry_weights": "me/vggt"}, "me/vggt", id="another"
        ),
    ],
)
def test_vggt_is_fetched_along_where_it_is_needed_and_not_here(
    name: str, keys: dict[str, Any], also: str | None, hub: Path
) -> None:
    commands = [fetch_command(name), *([fetch_command(also)] if also else [])]
    assert problem(section(name, **keys)).hint == "fetch them first: " + " && ".join(commands)


def test_vggt_that_is_here_is_not_fetched_again(hub: Path, plain_dir: Path) -> None:
    fetched(hub, VGGT, plain_dir)
    error = problem(section("Qwen/Qwen2.5-VL-3B-Instruct", geometry="vggt"))
    assert VGGT not in (error.hint or "")


# What is here


def test_the_shelf_has_every_known_model_once(hub: Path) -> None:
    rows = shelf()
    assert [row.name for row in rows] == list(KNOWN)
    for found in rows:
        assert found.here == (found.known.home != "hub")
        assert (found.command is not None) == (found.known.home == "hub")
        assert json.loads(json.dumps(found.document()))["name"] == found.name
        assert bool(found.parameters) or found.name in {*FRESH, "EricLHK/3D-RFT"}


def test_a_model_that_was_fetched_is_here(hub: Path, plain_dir: Path) -> None:
    folder = fetched(hub, "EricLHK/3D-RFT", plain_dir)
    found = row("EricLHK/3D-RFT")
    assert found.here
    assert found.folder == folder
    assert found.parameters == 685_344  # counted in the files: nothing is known of it beforehand
    assert not row(VGGT).here


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(lambda f: (f / "model.safetensors").unlink(), "no weights", id="nothing but the configuration"),
        pytest.param(lambda f: (f / "model.safetensors").write_bytes(b"{"), "damaged", id="half a file"),
        pytest.param(
            lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "one.safetensors"}}'),
            "1 of 1 weight files are missing",
            id="an index of what is missing",
        ),
    ],
)
def test_a_model_that_was_fetched_in_part_is_not_here_and_says_so(
    spoil: Any, said: str, hub: Path, plain_dir: Path
) -> None:
    spoil(fetched(hub, "Qwen/Qwen2.5-VL-3B-Instruct", plain_dir))
    found = row("Qwen/Qwen2.5-VL-3B-Instruct")
    assert not found.here
    assert said in found.incomplete


def test_a_shipped_model_that_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loader, "assets_dir", lambda: tmp_path)
    assert not {*SHIPPED} & {row.name for row in shelf()}
