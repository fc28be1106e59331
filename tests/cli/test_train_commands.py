from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import RATE, TEACH, Shown, clip_pictures, records

from rft3d_cli.recipe import load_recipe, shipped_recipes
from rft3d_cli.records import write_records
from rft3d_cli.video import write_mp4

GRPO = """\
stage: grpo
model: {name: MODEL, dtype: float32, freeze: []}
data: {train: all.jsonl, workers: 0}
rollout: {group: 4, prompts: 2, max_tokens: 16}
rewards: {format: 1, det_f1: 1, ground_iou: 1, mra: 1}
reward_options: {answer_style: direct}
train: {lr: 1e-4, kl: 0, warmup: 0, micro_batch: 8}
"""
STAGES = {name: load_recipe(path).config.stage for name, path in shipped_recipes().items()}
MODELS = {name: load_recipe(path).config.model.name for name, path in shipped_recipes().items()}


@pytest.fixture
def train(rft3d, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Shown]:
    """Commands in a folder with records, where nothing was ever fetched from the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    write_mp4("clip.mp4", clip_pictures(), RATE)
    write_records("all.jsonl", records())
    Path("sft.yaml").write_text(TEACH, encoding="utf-8")
    Path("grpo.yaml").write_text(GRPO.replace("MODEL", "tiny-random"), encoding="utf-8")
    return rft3d


def names() -> set[str]:
    return {path.name for path in Path().iterdir()}


# ---- Recipes and keys


@pytest.mark.parametrize(
    ("line", "messages", "hint"),
    [
        pytest.param(
            "sft --recipe tiny-stf", ["no recipe `tiny-stf`: neither a file nor one that ships with rft3d"],
            "did you mean tiny-sft", id="unknown recipe",
        ),
        pytest.param(
            "grpo --recipe zzz.yaml", ["no recipe `zzz.yaml`: neither a file nor one that ships with rft3d"],
            "rft3d recipes list", id="missing file",
        ),
        pytest.param(
            "grpo --recipe sft.yaml", ["sft.yaml is a recipe for sft, not for grpo"],
            "rft3d sft --recipe sft.yaml", id="another stage",
        ),
        pytest.param(
            "grpo --recipe det.yaml lr=1e-6 rollout.grup=8", ["unknown key `rollout.grup` (command line)"],
            "did you mean `rollout.group`?", id="unknown key",
        ),
        pytest.param(
            "sft --recipe sft.yaml lr=fast", ["`train.lr` is fast: should be a number (command line)"],
            "rft3d sft --help", id="wrong type",
        ),
        pytest.param(
            "sft --recipe sft.yaml train.steps=1.5", ["`train.steps` is 1.5: should be a whole number (command line)"],
            "rft3d sft --help", id="half a step",
        ),
        pytest.param(
            "sft --recipe sft.yaml schedule=cosin",
            ["`train.schedule` is cosin: should be one of constant, linear, cosine (command line)"],
            "did you mean `cosine`?", id="unknown choice",
        ),
        pytest.param("sft --recipe sft.yaml lr", ["`lr` is not KEY=VALUE"], "train.lr=1e-6", id="no value"),
        pytest.param("sft --recipe sft.yaml lr=", ["`lr=` has no value"], "lr=null", id="empty value"),
        pytest.param(
            "grpo --recipe grpo.yaml rewards.det_f2=1",
            ["unknown reward `det_f2`; there are "], "did you mean `det_f1`?", id="unknown reward",
        ),
        pytest.param(
            "sft --recipe sft.yaml kl=0.1", ["`train.kl` has no effect in the stage sft (command line)"],
            "leave `train.kl` out", id="a key of the other stage",
        ),
        pytest.param(
            "sft --recipe sft.yaml bogus=1 train.steps=x lr=-1",
            ["unknown key `bogus`", "`train.lr` is -1", "`train.steps` is x"],
            "rft3d recipes keys lists every key", id="several",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["run", "dry run"])
def test_a_wrong_recipe_or_key_is_said_before_anything_happens(train, line, messages, hint, dry):
    before = names()
    shown = train(*line.split(), *dry)
    assert (shown.code, shown.out) == (2, "")
    assert len(shown.errors) == len(messages)
    for error, message in zip(sorted(shown.errors), sorted(messages), strict=True):
        assert error.startswith(message)
    assert hint in shown.hint
    assert names() == before


def test_short_keys_are_echoed(train):
    shown = train("sft", "--recipe", "sft.yaml", "lr=1e-4", "steps=3", "--dry-run")
    assert shown.code == 0
    assert "  lr -> train.lr\n  steps -> train.steps\n" in shown.err


# ---- Dry runs


@pytest.mark.parametrize("name", STAGES)
def test_a_dry_run_of_a_shipped_recipe_lists_all_that_is_missing_here(train, name):
    before = names()
    shown = train(STAGES[name], "--recipe", name, "--dry-run", "--json")
    config = load_recipe(name).config
    assert shown.code == 3
    for path in (*config.data.train, *config.data.eval):
        assert f"{path} does not exist" in shown.errors
    run = MODELS[name].startswith("runs/")
    hub = "/" in MODELS[name] and not run
    assert (f"weights of {MODELS[name]} are not on this machine" in shown.errors) == hub
    assert (f"model {MODELS[name]} does not exist" in shown.errors) == run
    # The kind that has to be solved first comes first, and every kind has its hint.
    kinds = [problem["exit_code"] for problem in json.loads(shown.out)["problems"]]
    assert set(kinds) == ({3, 4} if hub or run else {3})
    assert len(shown.errors) == len(kinds)
    assert "does not exist" in shown.errors[0]
    assert "rft3d prepare" in shown.hint
    assert ("hf download" in shown.hint) == hub
    assert json.loads(shown.out)["ok"] is False
    assert names() == before


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if "/" in model and "runs/" not in model])
def test_with_data_at_hand_what_lacks_is_the_model(train, name):
    rewarded = {"det_f1": "detection", "ground_iou": "grounding", "mra": "number"}
    tasks = {task for reward, task in rewarded.items() if reward in load_recipe(name).config.rewards} or {"number"}
    mine = [record for record in records() if record.task in tasks]
    write_records("mine.jsonl", [item.model_copy(update={"id": f"{item.id}/{n}"}) for item in mine for n in range(64)])
    shown = train(STAGES[name], "--recipe", name, "data.train=mine.jsonl", "data.eval=mine.jsonl", "--dry-run")
    assert shown.code == 4
    assert f"weights of {MODELS[name]} are not on this machine" in shown.errors
    assert f"hf download {MODELS[name]}" in shown.hint


def test_a_dry_run_refuses_the_folder_that_the_run_would_refuse(train):
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("do not touch", encoding="utf-8")
    shown = train("sft", "--recipe", "sft.yaml", "--dry-run", "--out", "mine")
    assert (shown.code, shown.errors) == (2, ["mine exists and is not a run's folder"])


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_dry_run_that_finds_nothing_wrong_says_what_it_looked_at(train, stage):
    before = names()
    shown = train(stage, "--recipe", f"{stage}.yaml", "--dry-run", "--out", "mine")
    assert (shown.code, shown.out, shown.errors) == (0, "", [])
    for check in ("recipe", "train", "longest", "model"):
        assert f"\n  {check:<11}" in f"\n{shown.err}"
    assert "all.jsonl  1 grounding, 1 detection, 1 number" in shown.err
    assert shown.err.endswith("  would write mine/\n")
    document = train(stage, "--recipe", f"{stage}.yaml", "--dry-run", "--out", "mine", "--json").document
    assert (document["ok"], document["problems"], document["out"]) == (True, [], "mine")
    assert set(document["checks"]) >= {"recipe", "train", "longest", "model"}
    assert names() == before


@pytest.mark.parametrize(
    ("stage", "keys", "code", "message"),
    [
        pytest.param("sft", ["max_length=20"], 3, "takes", id="too long"),
        pytest.param("grpo", ["micro_batch=3"], 2, "no multiple of `train.micro_batch` 3", id="odd micro batch"),
        pytest.param("grpo", ["rewards={format: 1, det_f1: 1}"], 2, "no reward applies to grounding records",
                     id="a task without a reward"),
        pytest.param("sft", ["model.name=nonsense"], 4, "model nonsense does not exist", id="unknown model"),
        pytest.param("sft", ["data.media_root=nowhere"], 3, "1 of 1 media files are missing", id="no media"),
        pytest.param("sft", ["data.train=sft.yaml"], 3, "sft.yaml line 1: not JSON", id="no records"),
    ],
)  # fmt: skip
def test_a_dry_run_and_a_run_find_the_same(train, stage, keys, code, message):
    before = names()
    for dry in (("--dry-run",), ()):
        shown = train(stage, "--recipe", f"{stage}.yaml", *keys, *dry)
        assert shown.code == code
        assert any(message in error for error in shown.errors), shown.err
        assert shown.hint
        assert names() == before


# ---- Runs


def test_two_steps_of_sft(train):
    shown = train("sft", "--recipe", "sft.yaml", "steps=2", "--out", "run", "data.eval=all.jsonl", "--json")
    summary = shown.document
    assert (summary["stage"], summary["steps"], summary["run"], summary["model"]) == ("sft", 2, "run", "run/final")
    assert 0 <= summary["held_out"]["score"] <= 1
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2]
    assert {path.name for path in Path("run").iterdir()} >= {"recipe.yaml", "run.json", "metrics.jsonl", "final"}
    about = json.loads(Path("run/run.json").read_text(encoding="utf-8"))
    assert {"schema": 1, **about["summary"]} == summary
    assert about["records"] == {"grounding": 1, "detection": 1, "number": 1}
    # What was written is a recipe that gives the same tree, and a model that can be named.
    before, after = load_recipe("sft.yaml", ["steps=2", "data.eval=all.jsonl"]), load_recipe("run/recipe.yaml")
    assert {**after.leaves(), "output": None} == {**before.leaves(), "output": None}
    assert train("evaluate", "detection", "-d", "all.jsonl", "-m", "run", "--max-tokens", 4, "--json").code == 0
    assert not [path for path in Path("run").rglob("*") if path.name.endswith((".tmp", ".old"))]


def test_two_steps_of_grpo_and_a_run_that_is_complete_is_not_repeated(train, taught):
    Path("grpo.yaml").write_text(GRPO.replace("MODEL", str(taught)), encoding="utf-8")
    line = ("grpo", "--recipe", "grpo.yaml", "steps=2", "checkpoint.every=1", "--out", "run")
    shown = train(*line)
    assert (shown.code, shown.out) == (0, "run\n")
    assert "steps -> train.steps" in shown.err
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows if "reward" in row] == [1, 2]
    # A model that knows the answers by heart is mostly right, even where it is sampled.
    assert rows[0]["reward"] > 0.5
    assert json.loads(Path("run/run.json").read_text(encoding="utf-8"))["model"]["name"] == str(taught)

    again = train(*line)
    assert again.code == 2
    assert again.errors == ["run holds a run already"]
    assert "--resume" in again.hint
    changed = train(*line, "lr=1", "--resume")
    assert changed.code == 2
    assert "train.lr was" in changed.errors[0]
    weights = Path("run/final/model.safetensors").read_bytes()
    resumed = train(*line, "--resume")
    assert (resumed.code, resumed.out) == (0, "run\n")
    assert "resuming run from checkpoint-2" in resumed.err
    assert Path("run/final/model.safetensors").read_bytes() == weights
    assert Path("run/metrics.jsonl").read_text(encoding="utf-8").count('"reward"') == 2


@pytest.mark.parametrize("kind", ["a file", "a full folder"])
def test_a_run_does_not_start_in_what_is_no_run_s_folder(train, kind):
    mine = Path("mine") if kind == "a file" else Path("mine/thesis.txt")
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("do not touch", encoding="utf-8")
    for resume in ((), ("--resume",)):
        shown = train("sft", "--recipe", "sft.yaml", "--out", "mine", *resume)
        assert shown.code == 2
        assert shown.errors == ["mine exists and is not a run's folder"]
        assert "--out" in shown.hint
        assert mine.read_text(encoding="utf-8") == "do not touch"
