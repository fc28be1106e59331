"""Models written for others: the same model under other names, or not written at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import qwen3
import torch
from published import ARCHITECTURES, FLAGS, publish
from published import flat as old_configuration
from published import renamed as published_name
from safetensors.torch import load_file
from tiny_fixtures import Loaded, picture
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from rft3d_cli.errors import DataError, Rft3dError, SetupError, UsageError
from rft3d_cli.models import export as exporting
from rft3d_cli.models.check import check_model
from rft3d_cli.models.checkpoint import read_checkpoint, renamed, tensor_table
from rft3d_cli.models.defaults import Defaults, read_defaults
from rft3d_cli.models.export import export, merge, published, write_shards
from rft3d_cli.models.inputs import EncodedPrompt
from rft3d_cli.models.loader import load_model
from rft3d_cli.recipe_schema import Model


@pytest.fixture(scope="module")
def prompt(vggt: Loaded) -> EncodedPrompt:
    return vggt.prompt("where is the chair?", picture(1), picture(2))


def section(name: Path, **keys: Any) -> Model:
    return Model.model_validate({"name": str(name), "freeze": [], **keys})


def trained(folder: Path, to: Path, **keys: Any) -> Loaded:
    """A run's adapters, with other values than they start with, as training leaves them."""
    loaded = Loaded.of(load_model(section(folder, lora={"rank": 4, "alpha": 8, "dropout": 0.1}, **keys)))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    loaded.model.save_pretrained(to)
    loaded.processor.save_pretrained(to)
    Defaults({"detection": 2}, ["rooms"], "n").write(to)
    return loaded


@pytest.fixture(scope="module")
def run(vggt_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Loaded, Path]:
    """A run folder with adapters on the model with a VGGT branch."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return trained(vggt_dir, folder / "final"), folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for file in folder.glob("model*.safetensors") for name, t in load_file(file).items()}


def only(folder: Path, *names: str) -> None:
    """Nothing but these lies there: no half-written folder either."""
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


# Merging


def test_a_merged_model_answers_as_the_adapted_one(
    run: tuple[Loaded, Path], prompt: EncodedPrompt, tmp_path: Path
) -> None:
    adapted, folder = run
    assert merge(str(folder), tmp_path / "deep" / "merged") == tmp_path / "deep" / "merged"
    only(tmp_path / "deep", "merged")
    held = check_model(str(tmp_path / "deep" / "merged"))
    assert (held.layout, held.adapters, held.problems) == ("fused", None, [])
    whole = Loaded.of(load_model(tmp_path / "deep" / "merged"))
    assert not hasattr(whole.model, "peft_config")
    torch.testing.assert_close(whole.logits(prompt), adapted.logits(prompt), rtol=0, atol=2e-5)
    assert read_defaults(tmp_path / "deep" / "merged").datasets == ["rooms"]
    assert whole.processor.tokenizer.get_vocab() == adapted.processor.tokenizer.get_vocab()


def test_adapters_make_a_difference(run: tuple[Loaded, Path], vggt: Loaded, prompt: EncodedPrompt) -> None:
    # Without it, the test above could not fail.
    assert (run[0].logits(prompt) - vggt.logits(prompt)).abs().max() > 0.1


def test_a_merged_plain_model_is_plain(plain_dir: Path, plain: Loaded, tmp_path: Path) -> None:
    adapted = trained(plain_dir, tmp_path / "run")
    merge(str(tmp_path / "run"), tmp_path / "merged")
    whole = Loaded.of(load_model(tmp_path / "merged"))
    assert type(whole.model) is Qwen2_5_VLForConditionalGeneration
    asked = plain.prompt("where is the chair?", picture(1))
    torch.testing.assert_close(whole.logits(asked), adapted.logits(asked), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("asked", "base", "expected"),
    [("same", "F32", "F32"), ("same", "BF16", "BF16"), ("bfloat16", "F32", "BF16"), ("float32", "BF16", "F32")],
)
def test_the_number_format_is_the_bases_or_the_one_that_is_asked_for(
    asked: Any, base: str, expected: str, plain_dir: Path, tmp_path: Path
) -> None:
    source = plain_dir
    if base == "BF16":
        source = tmp_path / "base"
        model, processor = load_model(section(plain_dir, dtype="bfloat16"))
        assert processor is not None
        model.save_pretrained(source)
        processor.save_pretrained(source)
    trained(source, tmp_path / "run")
    merge(str(tmp_path / "run"), tmp_path / "merged", dtype=asked)
    assert read_checkpoint(tmp_path / "merged").dtypes().keys() == {expected}
    assert load_model(section(tmp_path / "merged"))[0].dtype == torch.float32  # on a CPU


def test_sums_are_rounded_once(plain_dir: Path, tmp_path: Path) -> None:
    model, processor = load_model(section(plain_dir, dtype="bfloat16"))
    assert processor is not None
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    trained(tmp_path / "base", tmp_path / "run")
    for dtype in ("same", "float32"):
        merge(str(tmp_path / "run"), tmp_path / dtype, dtype=dtype)  # type: ignore[arg-type]
    exact = weights(tmp_path / "float32")
    for name, tensor in weights(tmp_path / "same").items():
        assert torch.equal(tensor, exact[name].bfloat16()), name


# Exporting


@pytest.fixture(scope="module", params=["vgllm", "fused"])
def whole(request: pytest.FixtureRequest, vggt_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(str(vggt_dir), folder, request.param)
    return folder


def test_an_exported_model_is_the_same_model(whole: Path, vggt: Loaded, prompt: EncodedPrompt) -> None:
    again = Loaded.of(load_model(whole))
    assert torch.equal(again.logits(prompt), vggt.logits(prompt))
    assert check_model(str(whole)).problems == []
    assert len({file.stat().st_mode for file in whole.iterdir()}) == 1  # whoever may read one file may read all
    assert again.processor.uncut


def test_it_can_be_exported_again(vggt_dir: Path, vggt: Loaded, prompt: EncodedPrompt, tmp_path: Path) -> None:
    for source, layout in ((vggt_dir, "vgllm"), (tmp_path / "vgllm", "fused"), (tmp_path / "fused", "vgllm")):
        target = tmp_path / layout if not (tmp_path / layout).exists() else tmp_path / "last"
        export(str(source), target, layout)  # type: ignore[arg-type]
    assert torch.equal(Loaded.of(load_model(tmp_path / "last")).logits(prompt), vggt.logits(prompt))
    first, last = weights(tmp_path / "vgllm"), weights(tmp_path / "last")
    assert first.keys() == last.keys()
    assert all(torch.equal(first[name], last[name]) for name in first)


def test_vg_llms_layout_has_the_published_names_and_keys(vggt_dir: Path, tmp_path: Path) -> None:
    told = export(str(vggt_dir), tmp_path / "ours", "vgllm")
    theirs = publish(vggt_dir, tmp_path / "theirs", "refactored")
    expected = {published_name(name, "refactored") for name in load_file(vggt_dir / "model.safetensors")}
    found = weights(tmp_path / "ours")
    assert found.keys() == expected | {"lm_head.weight"}
    reference = weights(theirs)
    assert found.keys() == {name for name in reference if "_head." not in name or name == "lm_head.weight"}
    assert all(torch.equal(tensor, reference[name]) for name, tensor in found.items())
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["architectures"] == [ARCHITECTURES["refactored"]]
    assert config.items() >= FLAGS["refactored"].items()
    assert any("heads" in line for line in told)
    assert any("sizes" in line for line in told)


@pytest.mark.parametrize(("layout", "name"), [("vgllm", "refactored"), ("plain", "plain")])
def test_the_configuration_is_that_of_transformers_4_50(layout: Any, name: str, vggt_dir: Path, tmp_path: Path) -> None:
    export(str(vggt_dir), tmp_path / "m", layout)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    old = old_configuration(json.loads((vggt_dir / "config.json").read_text()))
    for key in ("transformers_version", "dtype", "reference_frame", "architectures", "vision_config"):
        old.pop(key, None)
    assert config.items() >= old.items()
    assert config["torch_dtype"] == "float32"
    assert config["architectures"] == [ARCHITECTURES[name]]
    assert str(vggt_dir) not in json.dumps(config)
    assert not {"text_config", "rope_parameters", "dtype", "transformers_version", "layer_types"} & config.keys()
    assert ("use_geometry_encoder" in config) == (layout == "vgllm")


def test_stock_transformers_loads_the_plain_layout_whole(
    vggt_dir: Path, vggt: Loaded, prompt: EncodedPrompt, tmp_path: Path
) -> None:
    (told,) = export(str(vggt_dir), tmp_path / "m", "plain")
    assert "left out" in told
    model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert {key: list(names) for key, names in report.items() if names} == {}
    assert not any("geometry" in name for name in weights(tmp_path / "m"))
    assert "lm_head.weight" not in weights(tmp_path / "m")  # tied: the hub's has none either
    bare = Loaded.of(load_model(section(vggt_dir, geometry="none")))
    asked = bare.prompt("where is the chair?", picture(1), picture(2))
    assert torch.equal(Loaded(model.eval(), bare.processor).logits(asked), bare.logits(asked))
    assert torch.equal(Loaded.of(load_model(tmp_path / "m")).logits(asked), bare.logits(asked))
    assert (bare.logits(asked) - vggt.logits(prompt)).abs().max() > 1e-3


def test_stock_transformers_reads_what_is_beside_the_weights(vggt_dir: Path, vggt: Loaded, tmp_path: Path) -> None:
    export(str(vggt_dir), tmp_path / "m", "plain")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    content = [{"type": "image"}, {"type": "text", "text": "where is the chair?"}]
    messages = [{"role": "user", "content": content}]
    own = vggt.processor.tokenizer
    for template in (
        tokenizer.chat_template,
        json.loads((tmp_path / "m/tokenizer_config.json").read_text())["chat_template"],
    ):
        said = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True
        )
        assert said == own.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert tokenizer(said).input_ids == own(said).input_ids
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (own.eos_token_id, own.pad_token_id)
    pictures = Qwen2VLImageProcessorPil.from_pretrained(tmp_path / "m")
    before = vggt.processor.image_processor
    assert (pictures.patch_size, pictures.size, pictures.image_mean) == (
        before.patch_size,
        before.size,
        before.image_mean,
    )
    # Transformers before 5 knows neither today's class nor a list under this name.
    config = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "<|image_pad|>" in config["additional_special_tokens"]
    assert "extra_special_tokens" not in config
    assert json.loads((tmp_path / "m" / "generation_config.json").read_text())["eos_token_id"] == own.eos_token_id


@pytest.mark.parametrize("layout", ["vgllm", "plain", "fused"])
def test_adapters_are_merged_first(
    layout: Any, run: tuple[Loaded, Path], prompt: EncodedPrompt, tmp_path: Path
) -> None:
    adapted, folder = run
    export(str(folder), tmp_path / "m", layout)
    merge(str(folder), tmp_path / "merged")
    merged = Loaded.of(load_model(section(tmp_path / "merged", geometry="none" if layout == "plain" else "auto")))
    again = Loaded.of(load_model(tmp_path / "m"))
    asked = again.prompt("where is the chair?", picture(1), picture(2))
    assert torch.equal(again.logits(asked), merged.logits(asked))
    if layout != "plain":
        torch.testing.assert_close(again.logits(prompt), adapted.logits(prompt), rtol=0, atol=2e-5)
    assert not list((tmp_path / "m").glob("adapter*"))


def test_a_qwen3_is_exported_as_transformers_writes_it(tmp_path: Path) -> None:
    source = qwen3.create(tmp_path / "source")
    assert export(str(source), tmp_path / "m", "plain") == []
    before, after = weights(source), weights(tmp_path / "m")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert check_model(str(tmp_path / "m")).problems == []


def test_a_model_without_a_tokenizer_is_exported_without(vggt_dir: Path, tmp_path: Path) -> None:
    source = publish(vggt_dir, tmp_path / "source", "first release", tokenizer=False)
    told = export(str(source), tmp_path / "m", "vgllm")
    assert "no tokenizer files" in told[-1]
    assert read_checkpoint(tmp_path / "m").layout == "vgllm"
    assert load_model(tmp_path / "m")[1] is None


# Names, shards, memory


@pytest.mark.parametrize("layout", ["vgllm", "plain"])
def test_names_lead_there_and_back(layout: Any, vggt: Loaded) -> None:
    names = published(vggt.model, layout).keys()
    own = {name for name in vggt.model.state_dict() if layout == "vgllm" or "geometry" not in name}
    assert {renamed(name, layout) for name in names} == own - ({"lm_head.weight"} if layout == "plain" else set())


def test_nothing_is_copied_but_the_language_head(vggt: Loaded) -> None:
    own = {tensor.data_ptr() for tensor in vggt.model.state_dict().values()}
    copied = {name for name, tensor in published(vggt.model, "vgllm").items() if tensor.data_ptr() not in own}
    assert copied == {"lm_head.weight"}
    assert all(tensor.data_ptr() in own for tensor in published(vggt.model, "plain").values())


def test_large_models_are_cut_into_files(vggt_dir: Path, vggt: Loaded, tmp_path: Path, prompt: EncodedPrompt) -> None:
    export(str(vggt_dir), tmp_path / "m", "vgllm")
    (tmp_path / "m" / "model.safetensors").unlink()
    tensors = published(vggt.model, "vgllm")
    write_shards(tmp_path / "m", tensors, limit=700_000)
    files = sorted((tmp_path / "m").glob("model-*.safetensors"))
    assert 3 < len(files) < 10
    assert all(sum(t.nbytes for t in load_file(file).values()) <= 700_000 for file in files)
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    assert {*index["weight_map"].values()} == {file.name for file in files}
    assert tensor_table(tmp_path / "m").keys() == tensors.keys()
    assert torch.equal(Loaded.of(load_model(tmp_path / "m")).logits(prompt), vggt.logits(prompt))


def test_a_tensor_larger_than_a_file_has_one_to_itself(tmp_path: Path) -> None:
    write_shards(tmp_path, {name: torch.zeros(n) for name, n in (("a", 1), ("b", 100), ("c", 1), ("d", 1))}, limit=8)
    assert [set(load_file(f)) for f in sorted(tmp_path.glob("*.safetensors"))] == [{"a"}, {"b"}, {"c", "d"}]


# Refusals


@pytest.mark.parametrize(
    ("source", "layout", "said", "hint"),
    [
        pytest.param("plain", "vgllm", "has no geometry branch", "--layout plain", id="VG-LLM's, without a branch"),
        pytest.param("plain", "fused", "has no geometry branch", "--layout plain", id="ours, without a branch"),
        pytest.param("fused", "vgllm", "has a tiny branch", "--layout fused", id="VG-LLM's, another branch"),
    ],
)
def test_a_layout_that_a_model_cannot_have_is_refused_before_it_is_loaded(
    source: str, layout: Any, said: str, hint: str, plain_dir: Path, fused_dir: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(exporting.loader, "load_model", None)
    with pytest.raises(UsageError, match=said) as caught:
        export(str({"plain": plain_dir, "fused": fused_dir}[source]), tmp_path / "m", layout)
    assert hint in (caught.value.hint or "")
    only(tmp_path)


def test_a_whole_model_has_nothing_to_merge(plain_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no adapters") as caught:
        merge(str(plain_dir), tmp_path / "m")
    assert "whole already" in (caught.value.hint or "")
    only(tmp_path)


@pytest.mark.parametrize(
    "write", [lambda n, o: merge(n, o), lambda n, o: export(n, o, "vgllm")], ids=["merge", "export"]
)
def test_nothing_is_written_over_and_nothing_is_left_half_written(
    write: Callable[[str, Path], object], run: tuple[Loaded, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="mine exists"):
        write(str(run[1]), tmp_path / "mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="cannot be written"):
        write(str(run[1]), tmp_path / "file" / "m")
    only(tmp_path, "mine", "file")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    # The last thing that is written.
    monkeypatch.setattr(exporting, "_beside", full)
    with pytest.raises(DataError, match="No space left on device"):
        write(str(run[1]), tmp_path / "new")
    monkeypatch.setattr(exporting, "_beside", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write(str(run[1]), tmp_path / "new")
    only(tmp_path, "mine", "file")


def test_what_cannot_be_loaded_is_not_written(run: tuple[Loaded, Path], tmp_path: Path) -> None:
    shutil.copytree(run[1] / "final", tmp_path / "run")
    (tmp_path / "run" / "adapter_model.safetensors").unlink()
    for call in (
        lambda: merge(str(tmp_path / "run"), tmp_path / "m"),
        lambda: export("no/where", tmp_path / "m", "plain"),
    ):
        with pytest.raises(Rft3dError) as caught:
            call()
        assert isinstance(caught.value, SetupError)
    only(tmp_path, "run")
