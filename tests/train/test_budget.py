from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import World, grpo_tree, known_warnings_off, policy_trainer, recipe, sft_tree, stage_of, warmup_trainer
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, TrainerCallback

from rft3d_cli.models.attention import batch_vision_attention
from rft3d_cli.models.freeze import rest_where_frozen
from rft3d_cli.models.fusion import GeometryMerger
from rft3d_cli.models.vggt import VGGTEncoder
from rft3d_cli.recipe import Recipe, load_recipe, shipped_recipes
from rft3d_cli.recipe_schema import Model
from rft3d_cli.resources import TINY_RECIPES
from rft3d_cli.train import budget as counted
from rft3d_cli.train.budget import GIB, Budget, Row, assumed_row, budget, held, trained
from rft3d_cli.train.setup import trainable_model
from rft3d_cli.train.shape import Layers, shape_of, vggt

FACTOR = 1.5
"""How far an estimate of activations may be from what is measured."""
MIXED = ["model.dtype=bfloat16", "model.freeze=[vision, vision_merger, geometry]"]
LORA = [*MIXED, "model.lora.rank=4", "model.lora.targets=[q_proj, v_proj, down_proj]"]

Make = Callable[..., Recipe]


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


def peak(watch: profile) -> int:
    """The most bytes that were allocated at once."""
    events = [event for event in watch.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in events))


def measured(work: Callable[[], Any]) -> int:
    """The most bytes that ``work`` had allocated at once, beside what was there before."""
    work()  # what is allocated once and kept
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watch:
        work()
    return peak(watch)


def assert_near(estimate: int, found: int) -> None:
    assert found / FACTOR < estimate < found * FACTOR, f"{estimate:,} is {estimate / found:.2f} times {found:,}"


# ---- Weights, gradients, optimiser, reference


def bytes_of(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def sum_of(terms: Any, *names: str) -> int:
    return sum(term.bytes for term in terms if any(name in term.name for name in names))


STARTS = [
    pytest.param("plain", ["model.dtype=float32"], id="all, float32"),
    pytest.param("plain", MIXED, id="mixed"),
    pytest.param("fused", MIXED, id="mixed, with geometry"),
    pytest.param("vggt", MIXED, id="mixed, with VGGT"),
    pytest.param("fused", ["model.dtype=bfloat16", "model.freeze=[vision]"], id="one part frozen"),
    pytest.param("vggt", ["model.dtype=bfloat16", "model.freeze=[]"], id="mixed, VGGT trained"),
    pytest.param("vggt", ["model.dtype=float32", "model.freeze=[]"], id="float32, VGGT trained"),
    pytest.param("plain", LORA, id="adapters"),
    pytest.param("fused", LORA, id="adapters, with geometry"),
    pytest.param("vggt", [*LORA, "model.dtype=float32"], id="adapters, float32"),
]


@pytest.mark.parametrize(("kind", "overrides"), STARTS)
def test_weights_are_those_of_the_model_that_is_trained(
    kind: str, overrides: list[str], sft_recipe: Make, world: World
) -> None:
    config = sft_recipe(*overrides, model=getattr(world, kind)).config
    terms = list(held(config, shape_of(config.model)))
    model, _ = trainable_model(config)
    assert sum_of(terms, "weights", "adapters") - sum_of(terms, "copies") == bytes_of(model.parameters())
    learnt = [p for p in model.parameters() if p.requires_grad]
    assert sum(trained(config, shape_of(config.model)).values()) == sum(p.numel() for p in learnt)
    optimiser = torch.optim.AdamW(learnt)
    for p in learnt:
        p.grad = torch.zeros_like(p)
    assert sum_of(terms, "gradients") == bytes_of(p.grad for p in learnt)
    optimiser.step()
    moments = [v for state in optimiser.state.values() for k, v in state.items() if k != "step"]
    assert sum_of(terms, "AdamW") == bytes_of(moments)


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        pytest.param("plain", MIXED, id="mixed"),
        pytest.param("fused", [*MIXED, "model.geometry=tiny"], id="with geometry"),
    ],
)
def test_the_reference_is_held_as_the_policy_is(
    kind: str, overrides: list[str], grpo_recipe: Make, world: World, tmp_path: Path
) -> None:
    made = grpo_recipe(*overrides, "train.kl=0.1", model=getattr(world, kind))
    terms = list(held(made.config, shape_of(made.config.model)))
    trainer = policy_trainer(made, tmp_path / "run")
    assert sum_of(terms, "reference") == bytes_of(trainer.ref_model.parameters())
    free = held(grpo_recipe(*overrides, "train.kl=0", model=getattr(world, kind)).config, shape_of(made.config.model))
    assert sum_of(free, "reference") == 0


@pytest.mark.parametrize("kl", [0, 0.1], ids=["no KL", "KL"])
def test_adapters_that_are_the_reference_are_held_once_more(
    kl: float, grpo_recipe: Make, world: World, tmp_path: Path
) -> None:
    made = grpo_recipe(*LORA, f"train.kl={kl}", model=world.fused)
    terms = [term for term in held(made.config, shape_of(made.config.model)) if "copies" not in term.name]
    trainer = policy_trainer(made, tmp_path / "run")
    assert sum_of(terms, "weights", "adapters", "reference") == bytes_of(trainer.model.parameters())
    assert (sum_of(terms, "reference") > 0) == (kl > 0)


def test_ddp_holds_the_gradients_always(sft_recipe: Make, grpo_recipe: Make) -> None:
    for made, shared, when in ((sft_recipe, False, "always"), (grpo_recipe, True, "update")):
        config = made(*MIXED).config
        shape = shape_of(config.model)
        one, eight = (list(held(config, shape, processes=n, shared=shared)) for n in (1, 8))
        assert sum_of(eight, "gradients") == sum_of(one, "gradients")
        assert {term.when for term in one if term.name == "gradients"} == {"update"}
        assert {term.when for term in eight if term.name == "gradients"} == {when}


# ---- Activations


def small() -> tuple[Any, Layers, Layers]:
    """A Qwen2.5-VL of shapes that have nothing in common, its language model's layers and its vision tower's."""
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 5, "num_attention_heads": 8,
            "num_key_value_heads": 2, "vocab_size": 512, "bos_token_id": None, "eos_token_id": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 4, "hidden_size": 96, "intermediate_size": 256, "num_heads": 4, "patch_size": 8,
            "window_size": 64, "fullatt_block_indexes": [1, 3], "out_hidden_size": 128,
        },
        tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(config).train()
    batch_vision_attention(model)
    rest_where_frozen(model.model.visual)
    return model, Layers(5, 128, 8, 128, 32, 384), Layers(4, 96, 4, 96, 96, 256, float_rotary=True)


def kept_and_back(layers: Layers, tokens: int, residual: int, compute: int, light: bool) -> int:
    return sum(
        f(layers, tokens, residual, compute, checkpointing=light) for f in (counted.activations, counted.backward)
    )


GRID = torch.tensor([[1, 12, 16]] * 4)


@pytest.mark.parametrize("low", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("light", [False, True], ids=["kept", "checkpointed"])
def test_activations_of_the_language_model(light: bool, low: bool) -> None:
    model, layers, _ = small()
    if light:
        model.activation_checkpointing_enable()
    rows, tokens = 2, 120
    ids, mask = torch.randint(0, 500, (rows, tokens)), torch.ones((rows, tokens), dtype=torch.long)
    mask[0, :5] = 0  # as rollouts are padded

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            out = model.model.language_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        out.float().square().mean().backward()

    copies = 2 * sum(p.numel() for p in model.model.language_model.layers.parameters()) if low else 0
    compute = 2 if low else 4
    estimate = kept_and_back(layers, rows * tokens, 4, compute, light) + copies
    assert_near(estimate, measured(step))


@pytest.mark.parametrize("light", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_activations_of_the_vision_tower(frozen: bool, light: bool) -> None:
    model, _, layers = small()
    tower = model.model.visual.requires_grad_(not frozen)
    if light:
        model.activation_checkpointing_enable()
    patches = torch.randn(int(GRID.prod(dim=1).sum()), 3 * 2 * 8 * 8)

    def step() -> None:
        out = tower(patches, grid_thw=GRID).pooler_output
        assert out.requires_grad == (not frozen)
        if out.requires_grad:
            out.square().mean().backward()

    if frozen:
        estimate = len(patches) * counted.forward_only(layers, 4, 4)
    else:
        estimate = kept_and_back(layers, len(patches), 4, 4, light)
    assert_near(estimate, measured(step))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_pass_that_nobody_keeps(dtype: torch.dtype) -> None:
    model, text, vision = small()
    model = model.to(dtype)
    size = dtype.itemsize
    ids = torch.randint(0, 500, (4, 200))
    patches = torch.randn(int(GRID.prod(dim=1).sum()), 3 * 2 * 8 * 8, dtype=dtype)
    with torch.no_grad():
        found = measured(lambda: model.model.language_model(input_ids=ids, use_cache=False))
        assert_near(ids.numel() * counted.forward_only(text, size, size), found)
        found = measured(lambda: model.model.visual(patches, grid_thw=GRID))
        assert_near(len(patches) * counted.forward_only(vision, size, size), found)


def test_scores_of_eager_attention() -> None:
    model, layers, _ = small()
    model.set_attn_implementation("eager")
    ids = torch.randint(0, 500, (2, 300))

    def step() -> None:
        model.model.language_model(input_ids=ids, use_cache=False).last_hidden_state.square().mean().backward()

    kept = kept_and_back(layers, 600, 4, 4, False)
    assert_near(kept + counted.scores(layers, 2, 300, 4, checkpointing=False), measured(step))


def test_trls_head(monkeypatch: pytest.MonkeyPatch) -> None:
    from trl.kernels import chunked_logprob

    # On a GPU a kernel folds each tile in place; elsewhere torch does, through copies.
    monkeypatch.setattr(chunked_logprob, "_forward_tile", lambda *_, **__: None)
    monkeypatch.setattr(chunked_logprob, "_backward_tile", lambda *_, **__: None)
    shape = replace(shape_of(Model(name="tiny-sft")), vocabulary=40_000)
    hidden = torch.randn(600, 96, requires_grad=True)
    weight = torch.randn(40_000, 96, requires_grad=True)
    targets = torch.randint(0, 40_000, (600,))

    def step() -> None:
        hidden.grad = weight.grad = None
        head = chunked_logprob.ChunkedLogProbFunction
        head.apply(hidden, weight, None, targets, 1.0, counted.HEAD_WORDS, None, 1.0, ())[0].sum().backward()

    assert_near(counted.head(shape, 600, 4, 4, trains=True), measured(step))


def test_trls_tiles_are_as_large_as_is_said() -> None:
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    assert (counted.HEAD_TOKENS, counted.HEAD_WORDS) == (TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE)


def test_a_frozen_vggt_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rft3d_cli.models.vggt.STRETCH", 400)
    sizes = {"embed_dim": 64, "depth": 4, "num_heads": 4}
    made = VGGTEncoder(img_size=56, patch_size=7, dino=sizes, aggregator=sizes)
    branch = vggt(None, img_size=56, patch_size=7, dino=sizes, aggregator=sizes)
    assert branch.parameters == sum(p.numel() for p in made.parameters())
    clip = torch.rand(24, 3, 42, 56)
    shape = replace(shape_of(Model(name="tiny-sft")), branch=branch, patch=7, frame_width=56)
    row = Row(24, 12, 400, 20)
    with torch.no_grad():
        assert_near(counted.encoder(shape, row, 4), measured(lambda: made(clip)) + clip.numel() * 4)


def test_the_geometry_merger() -> None:
    branch = vggt(192)
    merger = GeometryMerger(2048, 192, 64, 2)
    features = torch.randn(4, 6, 8, 2048)

    def step() -> None:
        merger(features).square().mean().backward()

    shape = replace(shape_of(Model(name="tiny-sft")), branch=branch)
    gradients = 4 * sum(p.numel() for p in merger.parameters())
    assert_near(counted.merger(shape, 4 * 12, 4), measured(step) + 4 * features.numel() - gradients)


def test_keys_and_values_are_those_that_generate_keeps(world: World) -> None:
    from transformers import DynamicCache

    model, layers, _ = small()
    kept = DynamicCache(config=model.config)
    with torch.no_grad():
        model.model.language_model(input_ids=torch.randint(0, 500, (3, 70)), past_key_values=kept, use_cache=True)
    stored = bytes_of(tensor for layer in kept.layers for tensor in (layer.keys, layer.values))
    assert counted.cache(layers, 3, 70, 4) == stored


# ---- The paper's models


def at_full_size(name: str, *overrides: str, processes: int) -> Budget:
    config = load_recipe(name, overrides).config
    shape = shape_of(config.model)
    return budget(config, shape, assumed_row(config, shape), processes=processes)


def test_det_in_full_on_eight_gpus_is_what_its_parts_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rft3d_cli.train.shape._folder", lambda name: None)
    said = at_full_size("det", "rollout.shared_prompt=false", processes=8)
    language, merger, frozen = 3_085_938_688, 41_951_232, 668_684_288 + 909_112_320
    learnt = language + merger
    # float32 trained, bfloat16 frozen; as much for the reference; gradients and two moments in float32; the bfloat16
    # copies of all that is trained but the embeddings.
    certain = 2 * (4 * learnt + 2 * frozen) + 4 * learnt + 8 * learnt
    certain += 2 * (learnt - 151_936 * 2048)
    # 2 rows of 1,272 + 4,096 tokens: 36 inputs of layers of 2,048 float32, and one layer with all it keeps: 2 × 8 of
    # norms, 2 × (5 + 1) of inputs and 2 × 4 of attention a channel, 2 × 4 a channel of the MLP, and gradients.
    tokens = 2 * (1272 + 4096)
    layers = tokens * 36 * 2048 * 4
    one = tokens * (2048 * (16 + 12 + 8) + 11_008 * 8 + 3 * 2 * 11_008 + 2 * 4 * 2048)
    rest = said.peak - certain - layers - one - GIB
    assert 0 < rest < 2 * GIB  # vision, merger and pixels
    assert (certain + layers + one + GIB) / GIB == pytest.approx(75.8, abs=0.5)
    # Plain data parallelism does not fit eight A100 of 80 GB; without the reference it does, barely.
    assert said.peak > 80e9
    assert at_full_size("det", "train.kl=0", "rollout.shared_prompt=false", processes=8).peak < 80e9
    assert at_full_size("det", "rollout.shared_prompt=false", processes=1).peak >= said.peak


def test_adapters_fit_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rft3d_cli.train.shape._folder", lambda name: None)
    said = at_full_size("det", "model.lora.rank=64", "train.kl=0", processes=8)
    adapters = 36 * 64 * (2 * (2048 + 2048) + 2 * (2048 + 256) + 3 * (2048 + 11_008))
    config = load_recipe("det", ["model.lora.rank=64"]).config
    assert trained(config, shape_of(config.model)) == {"adapters": adapters, "geometry merger": 41_951_232}
    # Everything in bfloat16, and 16 bytes for each trained number.
    floor = 2 * 4_705_686_528 + 16 * (adapters + 41_951_232)
    assert floor < said.peak < floor + 12 * GIB
    assert said.peak < 24 * GIB


VARIANTS = [[], ["train.kl=0"], ["model.lora.rank=64"], ["rollout.prompts=2"]]


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if not name.startswith(TINY_RECIPES)])
def test_headers_say_the_memory_that_is_computed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rft3d_cli.train.shape._folder", lambda name: None)
    header = load_recipe(name).path.read_text(encoding="utf-8").split("\n# Memory ")[1].split("\n# Run ")[0]
    said = set(map(int, re.findall(r"(\d+) GiB", header)))
    grpo = load_recipe(name).config.stage == "grpo"
    computed = {
        round(at_full_size(name, *keys, processes=n).peak / GIB)
        for keys in (VARIANTS if grpo else [[]])
        for n in (1, 8)
    }
    assert said
    assert said <= computed


def test_the_page_on_scaling_says_the_memory_that_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rft3d_cli.train.shape._folder", lambda name: None)
    text = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `(det|grounding|vsi)( [a-z._]+=\w+)?`[^|]*\| (\d+) GiB \| (\d+) GiB \|$", text, re.MULTILINE
    )
    assert len(rows) == 6
    for name, key, one, eight in rows:
        computed = [at_full_size(name, *key.split(), processes=n).peak / GIB for n in (1, 8)]
        assert [round(value) for value in computed] == [int(one), int(eight)]
    (warm,) = re.findall(r"^\| `det-sft`, `grounding-sft`, `vsi-sft` .*$", text, re.MULTILINE)
    names = ("det-sft", "grounding-sft", "vsi-sft")
    computed = [at_full_size(name, processes=n).peak / GIB for n in (1, 8) for name in names]
    assert [*map(int, re.findall(r"(?<= )\d+(?=,| GiB)", warm))] == [round(value) for value in computed]


def test_thirty_two_frames_of_sixty_four_completions_are_the_towers_to_see_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rft3d_cli.train.shape._folder", lambda name: None)
    one, eight = (at_full_size("grounding", "rollout.shared_prompt=false", processes=n) for n in (1, 8))
    assert one.crowded == "rollout"
    assert one.during("rollout") > 6 * eight.during("rollout")
    pixels = next(term for term in one.terms if term.name == "pixels of the rollout")
    assert pixels.bytes == 64 * 32 * (392 // 14) * (504 // 14) * 3 * 2 * 14 * 14 * 4


def test_a_shared_prompt_is_there_once_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rft3d_cli.train.shape._folder", lambda name: None)
    config = load_recipe("grounding").config
    shape = shape_of(config.model)
    row = assumed_row(config, shape)
    shared, apart = (
        {(term.name, term.when): term.bytes for term in budget(config, shape, row, shared_prompt=yes).terms}
        for yes in (True, False)
    )
    assert budget(config, shape, row) == budget(config, shape, row, shared_prompt=True)
    # 36 layers of two keys and values of 128 numbers in bfloat16: 8 prompts and 64 completions, or 64 of both.
    token = 2 * 36 * 2 * 128 * 2
    assert shared["key-value cache", "rollout"] == token * (8 * row.prompt + 64 * 256)
    assert apart["key-value cache", "rollout"] == token * 64 * (row.prompt + 256)
    # Eight clips' pixels instead of sixty-four, and one clip at a time before the tower.
    assert 8 * shared["pixels of the prompts", "rollout"] == apart["pixels of the rollout", "always"]
    assert ("vision tower at work", "rollout") in apart
    assert ("vision tower at work", "rollout") not in shared
    # What frozen towers made stays until the step's end: 8 clips of 8,064 tokens and 32 x 28 x 37 patches in bfloat16.
    kept = 8 * (8064 * 2048 + 32 * 28 * 37 * 2 * 1024) * 2
    assert shared["features of frozen towers", "always"] == kept
    # One whole sequence a micro-batch either way, but the prompt is not repeated for more of them.
    wide = load_recipe("grounding", ["train.micro_batch=8"]).config
    eight, one = (
        {term.name: term.bytes for term in budget(wide, shape, row, shared_prompt=yes).terms} for yes in (True, False)
    )
    inputs = 36 * 2048 * 4
    assert eight["activations of the language model"] == inputs * (row.prompt + 8 * 256)
    assert one["activations of the language model"] == inputs * 8 * (row.prompt + 256)
    assert budget(wide, shape, row, shared_prompt=True).peak < budget(wide, shape, row, shared_prompt=False).peak / 2


# ---- Whole runs


RUNS = [
    pytest.param("sft", "vggt", ["model.freeze=[vision, geometry]", "train.gradient_checkpointing=true"], id="light"),
    pytest.param("grpo", "warm", [*MIXED, "train.kl=0.1"], id="grpo, mixed"),
    pytest.param("grpo", "warm", [*MIXED, "train.kl=0.1", "rollout.shared_prompt=false"], id="grpo, repeated prompts"),
]


@pytest.mark.parametrize(("stage", "kind", "overrides"), RUNS)
def test_a_step_peaks_where_it_is_said_to(
    stage: str, kind: str, overrides: list[str], world: World, tmp_path: Path
) -> None:
    tree = (sft_tree if stage == "sft" else grpo_tree)(world.data, getattr(world, kind), "detection")
    made = recipe(tmp_path / "r.yaml", tree, "train.steps=2", "checkpoint.every=2", *overrides)
    config = made.config
    trainer = (warmup_trainer if stage == "sft" else policy_trainer)(made, tmp_path / "run")
    second = Second()
    trainer.add_callback(second)
    with known_warnings_off():
        trainer.train()
    examples = stage_of(made, tmp_path / "again").examples
    prompts = [examples.prompt(i) for i in range(4)]
    answer = config.rollout.max_tokens if stage == "grpo" else 20
    said = budget(config, shape_of(config.model), Row(2, 12, max(map(len, prompts)), answer))
    # Weights and moments were there before.
    terms = tuple(term for term in said.terms if term.when != "always" or "pixels" in term.name)
    assert_near(Budget(said.row, terms).peak, peak(second.watch))


class Second(TrainerCallback):
    """Watches the second step, by when AdamW has its moments."""

    def __init__(self) -> None:
        self.watch = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 1:
            self.watch.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2:
            self.watch.__exit__(None, None, None)
