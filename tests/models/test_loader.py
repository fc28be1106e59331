from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_fixtures import Loaded, picture

from rft3d_cli.errors import Rft3dError, SetupError
from rft3d_cli.models import loader
from rft3d_cli.models.defaults import Defaults, read_defaults, trained_defaults
from rft3d_cli.models.freeze import freeze
from rft3d_cli.models.inputs import EncodedPrompt
from rft3d_cli.models.loader import find_model, load_model, load_processor, load_speaker, model_problems
from rft3d_cli.recipe_schema import Model


@pytest.fixture(scope="module")
def prompt(plain: Loaded) -> EncodedPrompt:
    return plain.prompt("where is the chair?", picture(1), picture(2))


def section(name: str | Path, **keys: Any) -> Model:
    return Model.model_validate({"name": str(name), "freeze": [], **keys})


def refused(call: Callable[[], object]) -> SetupError:
    """The error of a call: for people, one line, with a hint, and of the class for what a machine lacks."""
    with pytest.raises(Rft3dError) as caught:
        call()
    error = caught.value
    assert isinstance(error, SetupError)
    assert error.exit_code == 4
    assert error.message
    assert "\n" not in error.message
    assert not error.message.endswith(".")
    assert error.hint
    assert "\n" not in error.hint
    return error


# Names


@pytest.mark.parametrize("kind", [str, Path, section], ids=["text", "path", "recipe section"])
def test_every_way_to_name_a_folder_loads_equal_bits(
    kind: Any, plain: Loaded, plain_dir: Path, prompt: EncodedPrompt
) -> None:
    again = Loaded.of(load_model(kind(plain_dir)))
    assert torch.equal(again.logits(prompt), plain.logits(prompt))
    assert not again.model.training


def test_a_fresh_model_follows_its_seed(prompt: EncodedPrompt, plain: Loaded) -> None:
    zero, same, other = (Loaded.of(load_model("tiny-random", seed=seed)).logits(prompt) for seed in (0, 0, 1))
    assert torch.equal(zero, same)
    assert torch.equal(zero, plain.logits(prompt))  # as tiny.create makes it
    assert not torch.equal(zero, other)


def test_a_fresh_model_has_the_branch_that_is_asked_for() -> None:
    model, _ = load_model(section("tiny-random", geometry="tiny"))
    assert hasattr(model.model, "geometry_encoder")
    # The trainer loads the reference model from here.
    assert (Path(model.config._name_or_path) / "model.safetensors").is_file()


def test_a_run_folder_is_its_best_model_then_its_last(plain_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(plain_dir, tmp_path / "run" / "final")
    assert find_model(str(tmp_path / "run")) == tmp_path / "run" / "final"
    shutil.copytree(plain_dir, tmp_path / "run" / "best")
    assert find_model(str(tmp_path / "run")) == tmp_path / "run" / "best"
    shutil.copytree(plain_dir, tmp_path / "run", dirs_exist_ok=True)
    assert find_model(str(tmp_path / "run")) == tmp_path / "run"


def test_a_shipped_model_is_found_by_name_from_anywhere(
    plain_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(plain_dir, tmp_path / "assets" / "models" / "tiny")
    monkeypatch.setattr(loader, "assets_dir", lambda: tmp_path / "assets")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()  # a folder of the same name does not get in the way
    assert find_model("tiny") == tmp_path / "assets" / "models" / "tiny"
    assert "install rft3d again" in (refused(lambda: load_model("tiny-sft")).hint or "")


def test_a_folder_without_a_tokenizer_is_refused_by_all(plain_dir: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        shutil.copy(plain_dir / name, tmp_path / name)
    assert load_model(tmp_path)[1] is None
    for load in (load_speaker, load_processor):
        assert refused(lambda load=load: load(tmp_path)).message == f"model {tmp_path} has no tokenizer files"


# The hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.file_download.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("offline", [False, True], ids=["online", "offline"])
def test_a_hub_model_that_is_not_here_says_how_to_fetch_it_and_asks_nobody(
    offline: bool, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    error = refused(lambda: load_model("someone/vlm-3b"))
    assert error.message == "weights of someone/vlm-3b are not on this machine"
    assert error.hint == "fetch them first: hf download someone/vlm-3b"
    assert refused(lambda: load_processor("someone/vlm-3b")).message == error.message
    assert [problem.message for problem in model_problems(section("someone/vlm-3b"))] == [error.message]


def test_a_hub_model_that_was_fetched_loads_from_its_cache_and_asks_nobody(
    hub: Path, plain_dir: Path, plain: Loaded, prompt: EncodedPrompt
) -> None:
    home = hub / "models--someone--vlm-3b"
    shutil.copytree(plain_dir, home / "snapshots" / "abc123")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc123")
    assert find_model("someone/vlm-3b") is None
    assert model_problems(section("someone/vlm-3b")) == []
    again = Loaded.of(load_model("someone/vlm-3b"))
    assert torch.equal(again.logits(prompt), plain.logits(prompt))
    assert again.processor.frame_width == 64  # what is beside the weights is read too


def test_a_hub_model_that_was_fetched_in_part_is_named(hub: Path, plain_dir: Path) -> None:
    home = hub / "models--someone--half"
    shutil.copytree(plain_dir, home / "snapshots" / "abc123")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc123")
    (home / "snapshots" / "abc123" / "model.safetensors").unlink()
    assert "someone/half" in refused(lambda: load_model("someone/half")).message


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("nothing", id="one word"),
        pytest.param("./nothing", id="relative"),
        pytest.param("/nothing/here", id="absolute"),
        pytest.param("a/b/c", id="deep"),
        pytest.param("tests/nothing", id="in a folder that is here"),
        pytest.param("org/na me", id="a space"),
        pytest.param("org/two--dashes", id="two dashes"),
        pytest.param("org/..up", id="two dots"),
        pytest.param("-org/model", id="a dash first"),
        pytest.param("org/" + "m" * 200, id="too long"),
        pytest.param("C:\\models\\x/y", id="another system's path"),
        pytest.param("nul\0l", id="a null character"),
    ],
)
def test_what_is_neither_here_nor_a_hub_name_does_not_exist(
    name: str, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "does not exist" in refused(lambda: load_model(name)).message
    assert [type(problem) for problem in model_problems(section(name))] == [SetupError]


# Folders that are not right


def test_an_empty_folder_holds_no_model(tmp_path: Path) -> None:
    assert "holds no model" in refused(lambda: load_model(tmp_path)).message


class Marker:
    """A pickle that leaves a mark where it is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def edit(folder: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads((folder / name).read_text())
    change(document)
    (folder / name).write_text(json.dumps(document))


def drop(folder: Path, part: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if part not in name}
    assert 0 < len(kept) < len(tensors)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def cut(path: Path, part: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])


def config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "config.json", lambda document: document.update(values))


def text_config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "config.json", lambda document: document["text_config"].update(values))


DAMAGE: list[Any] = [
    pytest.param(lambda f: cut(f / "model.safetensors", 0.5), id="half the weights file"),
    pytest.param(lambda f: cut(f / "model.safetensors", 0), id="an empty weights file"),
    pytest.param(lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), id="noise for weights"),
    pytest.param(lambda f: (f / "model.safetensors").unlink(), id="no weights"),
    pytest.param(lambda f: drop(f, "layers.1.input_layernorm"), id="one weight missing"),
    pytest.param(lambda f: drop(f, "embed_tokens"), id="the tied embeddings missing"),
    pytest.param(text_config(intermediate_size=64), id="weights of another size"),
    pytest.param(text_config(num_hidden_layers=4, layer_types=["full_attention"] * 4), id="a layer too many"),
    pytest.param(text_config(hidden_size=-1), id="a negative size"),
    pytest.param(text_config(hidden_size="many"), id="a size in words"),
    pytest.param(lambda f: (f / "config.json").write_text("{"), id="a configuration that is not JSON"),
    pytest.param(lambda f: (f / "config.json").write_text("[1]"), id="a configuration that is a list"),
    pytest.param(lambda f: (f / "config.json").write_bytes(b"\xff\xfe{}"), id="a configuration that is not text"),
    pytest.param(lambda f: (f / "config.json").write_text("{}"), id="an empty configuration"),
    pytest.param(config(model_type="nonesuch"), id="an unknown architecture"),
    pytest.param(lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), id="a model without eyes"),
    pytest.param(lambda f: (f / "tokenizer.json").write_text("{"), id="a tokenizer that is not JSON"),
    pytest.param(lambda f: (f / "tokenizer.json").unlink(), id="half a tokenizer"),
    pytest.param(lambda f: (f / "preprocessor_config.json").unlink(), id="no image processor"),
    pytest.param(lambda f: (f / "processor_config.json").write_text("{"), id="a processor that is not JSON"),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_one_line(damage: Callable[[Path], object], plain_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(plain_dir, folder)
    damage(folder)
    assert str(folder) in refused(lambda: load_model(folder)).message


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda f: drop(f, "geometry"), id="the branch's weights missing"),
        pytest.param(config(geometry_encoder_type="os"), id="an unknown encoder"),
        pytest.param(config(geometry_encoder_config={"colour": 1}), id="an unknown encoder option"),
        pytest.param(config(geometry_merger_hidden_dim=7), id="a merger of another size"),
    ],
)
def test_a_damaged_geometry_branch_is_one_line(
    damage: Callable[[Path], object], fused_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(fused_dir, folder)
    damage(folder)
    assert str(folder) in refused(lambda: load_model(folder)).message


def test_missing_weights_are_counted_and_named(plain_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(plain_dir, tmp_path / "m")
    drop(tmp_path / "m", "layers.1.mlp")
    message = refused(lambda: load_model(tmp_path / "m")).message
    assert "3 weights are missing" in message
    assert "model.language_model.layers.1.mlp.down_proj.weight" in message


def test_pickled_weights_do_not_run(plain_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(plain_dir, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(pickle.dumps(Marker(tmp_path / "ran"), protocol=2))
    message = refused(lambda: load_model(tmp_path / "m")).message
    assert not (tmp_path / "ran").exists()
    assert "no file named model.safetensors" in message


@pytest.mark.parametrize(
    ("file", "values"),
    [
        pytest.param("config.json", {"model_type": "other", "auto_map": {"AutoConfig": "code.C"}}, id="model"),
        pytest.param(
            "tokenizer_config.json",
            {"tokenizer_class": "Other", "auto_map": {"AutoTokenizer": ["code.C", None]}},
            id="tokenizer",
        ),
    ],
)
def test_code_beside_the_weights_does_not_run_and_nobody_is_asked(
    file: str, values: dict[str, Any], fused_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(fused_dir, folder)
    (folder / "code.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})\nclass C: pass\n")
    edit(folder, file, lambda document: document.update(values))
    asked: list[object] = []
    monkeypatch.setattr("builtins.input", lambda *prompt: asked.append(prompt) or "n")
    message = refused(lambda: load_model(folder)).message
    assert "custom code" in message
    assert asked == []
    assert not (tmp_path / "ran").exists()


# What a checkpoint brings


def test_a_checkpoint_does_not_decide_how_answers_are_decoded(plain_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(plain_dir, tmp_path / "m")
    habits = {"repetition_penalty": 1.05, "do_sample": True, "top_k": 3, "top_p": 0.2, "temperature": 0.1}
    edit(tmp_path / "m", "generation_config.json", lambda document: document.update(habits))
    ours = load_model(tmp_path / "m")[0].generation_config
    stated = load_model(plain_dir)[0].generation_config
    assert ours.to_diff_dict() == stated.to_diff_dict()
    assert ours.eos_token_id is not None
    assert ours.pad_token_id is not None
    assert not habits.keys() & ours.to_diff_dict().keys()


def test_loading_leaves_progress_bars_as_they_were(plain_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    load_model(plain_dir)
    assert logging.is_progress_bar_enabled() is shown
    assert capfd.readouterr() == ("", "")


# Parts


@pytest.mark.parametrize(
    ("geometry", "message"),
    [pytest.param("tiny", "no geometry branch", id="tiny"), pytest.param("vggt", "VGGT", id="vggt")],
)
def test_a_branch_that_is_not_there_is_said(geometry: str, message: str, plain_dir: Path) -> None:
    assert message in refused(lambda: load_model(section(plain_dir, geometry=geometry))).message


def test_an_attention_kernel_that_is_not_here_is_said(plain_dir: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("flash-attention may be here")
    error = refused(lambda: load_model(section(plain_dir, attention="flash_attention_2")))
    assert "sdpa" in (error.hint or "")


PARTS = {
    "vision": lambda name: "visual" in name and "visual.merger" not in name,
    "vision_merger": lambda name: "visual.merger" in name,
    "geometry": lambda name: "geometry_encoder" in name,
}


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([], id="nothing"),
        pytest.param(["vision"], id="vision"),
        pytest.param(["vision_merger"], id="its merger"),
        pytest.param(["geometry"], id="geometry"),
        pytest.param(["vision", "vision_merger", "geometry"], id="all"),
    ],
)
def test_exactly_the_named_parts_are_frozen(parts: list[str], fused_dir: Path, plain_dir: Path) -> None:
    for folder in (fused_dir, plain_dir):
        model, _ = load_model(Model.model_validate({"name": str(folder), "freeze": parts}))
        frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
        assert frozen == {n for n, _ in model.named_parameters() if any(PARTS[part](n) for part in parts)}
    assert set(PARTS) == set(Model(name="x").freeze)


def test_freezing_reaches_through_adapters(fused_dir: Path) -> None:
    model, _ = load_model(section(fused_dir, lora={"rank": 2}))
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    freeze(model, ["vision", "vision_merger", "geometry"])
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in model.named_parameters() if any(test(n) for test in PARTS.values())}
    assert frozen


# How a model likes to be asked


def test_defaults_come_back_and_fill_in_what_is_not_said(tmp_path: Path) -> None:
    assert read_defaults(None) == read_defaults(tmp_path) == Defaults()
    Defaults({"detection": 2}, ["rooms"], "é", "chunk-center", True).write(tmp_path)
    known = Defaults({**Defaults().frames, "detection": 2}, ["rooms"], "é", "chunk-center", True)
    assert read_defaults(tmp_path) == known


def test_training_leaves_the_commonest_frame_count(tmp_path: Path) -> None:
    from collections import Counter

    base = Defaults(datasets=["a"], note="n")
    seen = {"detection": Counter({2: 5, 4: 3})}
    out = trained_defaults(seen, Counter({"rooms": 8}), base, sampler="linspace-round", tags=True)
    assert out == Defaults({**base.frames, "detection": 2}, ["a", "rooms"], "n", "linspace-round", True)


def test_a_fresh_model_says_what_it_knows(plain_dir: Path) -> None:
    assert "rooms" in read_defaults(plain_dir).note


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{", id="not JSON"),
        pytest.param("[1]", id="a list"),
        pytest.param('{"frames": 4}', id="one number for all tasks"),
        pytest.param('{"frames": {"detection": "some"}}', id="a count in words"),
        pytest.param('{"frames": {"detection": 0}}', id="no frames"),
        pytest.param('{"datasets": 3}', id="no data set names"),
        pytest.param('{"note": ["a"]}', id="a note that is no line"),
        pytest.param('{"sampler": "random"}', id="a sampler that there is none of"),
    ],
)
def test_a_damaged_rft3d_json_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "rft3d.json").write_text(text)
    assert str(tmp_path / "rft3d.json") in refused(lambda: read_defaults(tmp_path)).message
