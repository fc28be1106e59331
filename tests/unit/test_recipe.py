from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rft3d_cli import recipe_rules, resources
from rft3d_cli.errors import ProblemList, Rft3dError, SetupError, UsageError
from rft3d_cli.recipe import find_recipe, load_recipe, shipped_recipes, to_yaml
from rft3d_cli.recipe_overrides import apply, resolve
from rft3d_cli.recipe_schema import ONLY, STAGES, keys, stages_of

GRPO = """# A recipe to test with.
stage: grpo
model: {name: some/model}
data: {train: train.jsonl}
rewards: {format: 1, det_f1: 1}
train:
  lr: 2e-6
"""
SFT = "stage: sft\nmodel: {name: some/model}\ndata: {train: train.jsonl}\n"
REWARDS = frozenset({"format", "det_iou", "det_f1", "accuracy"})


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a recipe file and returns its path; the registry knows REWARDS only."""
    monkeypatch.setattr(recipe_rules, "reward_names", lambda: REWARDS)

    def writer(text: str = GRPO, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return writer


def messages(error: Rft3dError) -> list[str]:
    return [problem.message for problem in (error.problems if isinstance(error, ProblemList) else [error])]


def refused(path: Path, *overrides: str, stage: str | None = None) -> Rft3dError:
    with pytest.raises((UsageError, ProblemList)) as caught:
        load_recipe(path, overrides, stage=stage)
    assert caught.value.exit_code == 2
    return caught.value


# Values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "read"),
    [
        pytest.param("train.lr=1e-6", lambda c: c.train.lr == 1e-6, id="exponent without a dot"),
        pytest.param("train.lr=.5", lambda c: c.train.lr == 0.5, id="leading dot"),
        pytest.param("train.seed=010", lambda c: c.train.seed == 10, id="not octal"),
        pytest.param("video.tags=true", lambda c: c.video.tags is True, id="true"),
        pytest.param("eval.keep_best=false", lambda c: c.eval.keep_best is False, id="false"),
        pytest.param("model.name=a=b=c", lambda c: c.model.name == "a=b=c", id="split at the first equals sign"),
        pytest.param("model.name=123", lambda c: c.model.name == "123", id="digits where text is asked for"),
        pytest.param("model.name=[odd]", lambda c: c.model.name == "[odd]", id="text that looks like a list"),
        pytest.param("train.steps=null", lambda c: c.train.steps is None, id="null"),
        pytest.param("train.steps=None", lambda c: c.train.steps is None, id="None"),
        pytest.param("data.media_root=~", lambda c: c.data.media_root is None, id="tilde"),
        pytest.param("model.lora=none", lambda c: c.model.lora is None, id="none for a section"),
        pytest.param("model.geometry=none", lambda c: c.model.geometry == "none", id="none as a choice"),
        pytest.param(
            "train.scale_rewards=none", lambda c: c.train.scale_rewards == "none", id="none as another choice"
        ),
        pytest.param("data.eval=null", lambda c: c.data.eval == [], id="no held-out files"),
        pytest.param("model.freeze=[]", lambda c: c.model.freeze == [], id="empty list"),
        pytest.param("model.freeze=vision", lambda c: c.model.freeze == ["vision"], id="list of one"),
        pytest.param(
            "data.train=[a.jsonl, b,c.jsonl]", lambda c: c.data.train == ["a.jsonl", "b", "c.jsonl"], id="list"
        ),
        pytest.param("train.betas=[0.9, 95e-2]", lambda c: c.train.betas == (0.9, 0.95), id="pair of numbers"),
        pytest.param(
            "model.lora={rank: 8}", lambda c: (c.model.lora.rank, c.model.lora.alpha) == (8, 128), id="mapping"
        ),
        pytest.param("model.lora.rank=8", lambda c: c.model.lora.rank == 8, id="key of a section that was null"),
        pytest.param(
            "rewards.accuracy=2", lambda c: c.rewards["accuracy"] == 2 and len(c.rewards) == 3, id="one reward"
        ),
        pytest.param("rewards={format: 3}", lambda c: c.rewards == {"format": 3}, id="all rewards"),
        pytest.param("rewards.my/r.py:f=1", lambda c: c.rewards["my/r.py:f"] == 1, id="reward in a file"),
        pytest.param("train.warmup=10", lambda c: c.train.warmup == 10, id="warm-up in steps"),
    ],
)
def test_overrides_are_read_by_the_schemas_type(write, override, read):
    assert read(load_recipe(write(), [override]).config)


def test_a_files_numbers_are_read_by_the_schemas_type_too(write):
    config = load_recipe(write(GRPO + "  steps: 1_000\n  kl: 0\n")).config
    assert (config.train.lr, config.train.steps, config.train.kl) == (2e-6, 1000, 0.0)


def test_a_later_override_wins(write):
    assert load_recipe(write(), ["train.lr=1", "lr=3e-6"]).config.train.lr == 3e-6


@pytest.mark.parametrize(
    ("override", "says"),
    [
        pytest.param("train.lr=fast", "`train.lr` is fast: should be a number (command line)", id="word for a number"),
        pytest.param("train.lr=nan", "`train.lr` is nan", id="nan"),
        pytest.param("train.lr=inf", "`train.lr` is inf", id="infinity"),
        pytest.param("train.lr=-1", "`train.lr` is -1", id="negative rate"),
        pytest.param("train.seed=1.5", "`train.seed` is 1.5: should be a whole number", id="fraction"),
        pytest.param("train.seed=1:30", "`train.seed` is 1:30", id="not base 60"),
        pytest.param("video.tags=maybe", "`video.tags` is maybe: should be true or false", id="neither"),
        pytest.param("rollout.group=1", "`rollout.group` is 1", id="group of one"),
        pytest.param("rollout.top_p=0", "`rollout.top_p` is 0", id="empty nucleus"),
        pytest.param("train.warmup=2.5", "a share below 1 or a whole number of steps", id="half a step"),
        pytest.param("train.betas=0.9", "`train.betas` is 0.9: should be [number, number]", id="one number for two"),
        pytest.param("train.betas=[0.9]", "`train.betas` is [0.9]: should be [number, number]", id="list too short"),
        pytest.param("train.betas=[1, 2, 3]", "should be [number, number]", id="list too long"),
        pytest.param("model.name=null", "`model.name` is null: should be text", id="null where a value is needed"),
        pytest.param("model.freeze=[vision, legs]", "`model.freeze` item 2 is legs", id="wrong list item"),
        pytest.param(
            "model.lora=5", "`model.lora` is 5: should be a section with the keys rank", id="number for a section"
        ),
        pytest.param("rewards.format=-1", "`rewards.format` is -1", id="negative weight"),
        pytest.param("rewards=[format]", "`rewards` is [format]: should be a mapping", id="list of rewards"),
        pytest.param("data.train=[a", "`data.train` (command line) line 1", id="unclosed list"),
        pytest.param("train.lr", "`train.lr` is not KEY=VALUE", id="no equals sign"),
        pytest.param("=3", "is not KEY=VALUE", id="no key"),
        pytest.param("train.lr=", "`train.lr=` has no value", id="no value"),
        pytest.param("train={lr: 1}", "`train` is a section", id="whole section"),
        pytest.param("data.train=[]", "`data.train` is missing", id="no training data"),
    ],
)
def test_wrong_values_are_refused_in_words(write, override, says):
    error = refused(write(), override)
    assert any(says in message for message in messages(error)), messages(error)


# Keys -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        pytest.param("rollout.grup=8", "did you mean `rollout.group`?", id="section right, key wrong"),
        pytest.param("grup=8", "did you mean `rollout.group`?", id="bare key"),
        pytest.param("rolout.group=8", "did you mean `rollout.group`?", id="section wrong"),
        pytest.param("trian.lr=1", "did you mean `train.lr`?", id="letters swapped"),
        pytest.param("det_f1=2", "did you mean `rewards.det_f1`?", id="reward without its section"),
        pytest.param("model.lora.rnk=8", "did you mean `model.lora.rank`?", id="three deep"),
        pytest.param("xyzzy=1", "rft3d recipes keys lists every key", id="nothing near"),
    ],
)
def test_unknown_override_keys_get_a_near_match(write, override, hint):
    error = refused(write(), override)
    assert messages(error)[0].startswith(f"unknown key `{override.partition('=')[0]}` (command line)")
    assert error.hint == hint


def test_an_unknown_key_lists_what_its_section_has(write):
    error = refused(write(), "video.fps=2")
    assert error.message.splitlines()[1] == "  video has: frames, sampler, tags"


def test_unknown_keys_of_a_file_name_file_and_line(write):
    error = refused(write(GRPO + "  lrr: 1\ncolour: red\n"))
    assert messages(error)[0].startswith("unknown key `train.lrr` (mine.yaml line 8)\n  train has: lr, schedule,")
    assert messages(error)[1].startswith("unknown key `colour` (mine.yaml line 9)\n  a recipe has: stage, model,")
    assert "did you mean `train.lr`?" in str(error.hint)


def test_a_dotted_key_in_a_file_is_told_how_to_be_written(write):
    error = refused(write(SFT + "train.lr: 1\n"))
    assert error.message == "`train.lr` is written with a dot (mine.yaml line 4)"
    assert error.hint == "in a file, write `lr` under `train:`"


@pytest.mark.parametrize(
    ("alias", "key"),
    [
        pytest.param("lr", "train.lr", id="leaf"),
        pytest.param("frames", "video.frames", id="another leaf"),
        pytest.param("rank", "model.lora.rank", id="two down"),
        pytest.param("lora.rank", "model.lora.rank", id="tail of the dotted key"),
        pytest.param("lora", "model.lora", id="section that may be null"),
        pytest.param("stage", "stage", id="top of the tree"),
        pytest.param("train", "train", id="section before the leaf of that name"),
    ],
)
def test_an_alias_stands_for_the_only_key_that_ends_so(alias, key):
    assert resolve(alias, {}) == key


def test_aliases_are_returned_to_be_echoed(write):
    assert load_recipe(write(), ["lr=1e-6", "train.kl=0", "group=4"]).aliases == {
        "lr": "train.lr",
        "group": "rollout.group",
    }


@pytest.mark.parametrize("alias", ["limit", "every"])
def test_an_ambiguous_alias_lists_its_candidates(write, alias):
    error = refused(write(), f"{alias}=3")
    candidates = [key for key in keys() if key.endswith(f".{alias}")]
    assert len(candidates) > 1
    assert all(f"`{key}`" in error.message for key in candidates)


def test_a_section_that_shares_its_name_with_a_leaf_points_to_the_leaf(write):
    assert refused(write(), "train=x.jsonl").hint == "did you mean data.train=x.jsonl?"


def test_all_problems_are_reported_at_once(write):
    error = refused(write(GRPO + "  seed: x\n"), "grup=8", "train.kl=y", "oops")
    assert len(messages(error)) == 4


def test_overrides_leave_the_tree_they_are_laid_over_alone():
    tree = {"train": {"lr": "1"}, "rewards": {"format": "1"}}
    apply(tree, ["lr=2", "rewards.det_f1=1"])
    assert tree == {"train": {"lr": "1"}, "rewards": {"format": "1"}}


# Rules ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        pytest.param(["rewards={}"], "`rewards` is missing", id="no rewards"),
        pytest.param(["rewards={format: 0}"], "every reward has weight 0", id="nothing to learn"),
        pytest.param(["rewards.det_f=1"], "unknown reward `det_f`", id="unknown reward"),
        pytest.param(["rewards.my.py=1"], "does not name a reward in a file", id="file without a function"),
        pytest.param(["rewards.my.py:a-b=1"], "does not name a reward in a file", id="function that cannot be"),
        pytest.param(["train.iterations=3"], "`checkpoint.every` 50 is no whole number of generation", id="period"),
        pytest.param(["engine=vllm", "geometry=vggt"], "takes no input of the geometry branch", id="vllm, geometry"),
        pytest.param(["engine=vllm", "top_p=0.9"], "needs `rollout.top_p` 1", id="vllm, truncated sampling"),
        pytest.param(["micro_batch=5"], "64 completions are no multiple", id="uneven micro-batches"),
        pytest.param(
            ["reward_options.format=gate", "rewards={format: 1}"], "every reward but the gate", id="gate alone"
        ),
        pytest.param(["length.zero=10"], "must be above `full`", id="length penalty upside down"),
        pytest.param(["attention=flash_attention_2", "dtype=float32"], "does not compute in float32", id="flash"),
        pytest.param(["eval.metric=loss"], "means nothing in the stage grpo", id="metric of the other stage"),
        pytest.param(["train.batch=8"], "`train.batch` has no effect in the stage grpo", id="key without effect"),
    ],
)
def test_rules_across_keys_are_checked(write, overrides, says):
    found = messages(refused(write(), *overrides))
    assert len([message for message in found if says in message]) == 1, found


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["train.iterations=5"], id="period that divides"),
        pytest.param(["train.iterations=3", "checkpoint.every=51"], id="period that fits"),
        pytest.param(["engine=vllm"], id="vllm without geometry"),
        pytest.param(["geometry=none", "freeze=[geometry]"], id="frozen geometry that is not there"),
        pytest.param(["rewards.det_iou=0"], id="reward that is only logged"),
        pytest.param(["reward_options.format=gate", "rewards={det_f1: 1}"], id="gate without a weight for format"),
        pytest.param(["rollout.shared_prompt=true"], id="shared prompt"),
        pytest.param(["rollout.shared_prompt=false"], id="shared prompt off"),
    ],
)
def test_what_the_rules_allow_loads(write, overrides):
    load_recipe(write(), overrides)


def test_a_broken_rule_names_the_place_of_its_key(write):
    assert refused(write(), "engine=vllm", "geometry=vggt").message.endswith("(command line)")
    text = GRPO + "checkpoint:\n  every: 7\n"
    assert refused(write(text), "train.iterations=2").message.endswith("(mine.yaml line 9)")


def test_a_near_reward_name_is_suggested(write):
    assert refused(write(), "rewards.det_f2=1").hint == "did you mean `det_f1`?"


def test_the_hint_for_the_checkpoint_period_is_itself_allowed(write):
    hint = refused(write(), "train.iterations=7").hint
    assert load_recipe(write(), ["train.iterations=7", str(hint)]).config.checkpoint.every % 7 == 0


def test_the_generation_period_is_the_number_of_iterations(write):
    assert load_recipe(write(), ["train.iterations=2"]).config.generation_period_steps == 2
    assert load_recipe(write(SFT)).config.generation_period_steps == 1


@pytest.mark.parametrize(
    "override", ["rollout.group=4", "rewards.format=1", "train.kl=0", "reward_options.format=gate"]
)
def test_sft_refuses_what_only_grpo_uses(write, override):
    key = override.partition("=")[0]
    assert messages(refused(write(SFT), override)) == [f"`{key}` has no effect in the stage sft (command line)"]


def test_every_entry_of_the_stage_table_is_a_key():
    assert set(ONLY) <= set(keys())
    assert all(set(stages) <= set(STAGES) for stages in ONLY.values())


def test_an_sft_batch_must_hold_whole_micro_batches(write):
    assert "no multiple of `train.micro_batch` 4" in refused(write(SFT), "batch=6").message


def test_missing_keys_are_named(write):
    assert refused(write("stage: grpo\n")).message == "`model.name` is missing (mine.yaml)"
    assert messages(refused(write(SFT.replace("stage: sft\n", "")))) == ["`stage` is missing (mine.yaml)"]


# Stage ----------------------------------------------------------------------------------------------------------------


def test_a_recipe_without_a_stage_takes_the_commands(write):
    recipe = load_recipe(write(SFT.replace("stage: sft\n", "")), stage="sft")
    assert (recipe.config.stage, recipe.origin["stage"]) == ("sft", "command line")


def test_a_recipe_for_another_training_stage_is_refused(write):
    error = refused(write(), stage="sft")
    assert error.message == "mine.yaml is a recipe for grpo, not for sft"
    assert str(error.hint).startswith("rft3d grpo --recipe ")


@pytest.mark.parametrize("stage", ["evaluate", "infer"])
def test_evaluation_and_inference_take_any_recipe(write, stage):
    assert load_recipe(write(), stage=stage).config.stage == "grpo"


def test_an_evaluation_recipe_needs_no_training_data(write):
    recipe = load_recipe(write("stage: evaluate\nmodel: {name: m}\n"), ["frames=32"])
    assert recipe.config.video.frames == 32
    assert not any(key.startswith(("train.lr", "rewards", "checkpoint")) for key in recipe.leaves())


# Provenance -----------------------------------------------------------------------------------------------------------


def test_every_leaf_says_where_it_comes_from(write):
    recipe = load_recipe(write(), ["train.lr=1e-6", "group=4", "rewards.det_iou=1"])
    assert set(recipe.leaves()) <= set(recipe.origin)
    assert {key: recipe.origin[key] for key in ("train.lr", "rollout.group", "rewards.det_iou")} == dict.fromkeys(
        ("train.lr", "rollout.group", "rewards.det_iou"), "command line"
    )
    assert recipe.origin["rewards.det_f1"] == recipe.origin["model.name"] == "recipe"
    assert recipe.origin["train.kl"] == recipe.origin["model.lora"] == "default"
    assert recipe.origin["output"] == recipe.origin["rollout.completions"] == "computed"
    assert recipe.before == {"train.lr": ("recipe", "2e-6"), "rollout.group": ("default", 8)}
    assert recipe.computed["rollout.completions"] == 32


def test_a_replaced_section_comes_from_the_command_line_with_its_defaults(write):
    recipe = load_recipe(write(), ["model.lora={rank: 4}"])
    assert recipe.origin["model.lora.rank"] == "command line"
    assert recipe.origin["model.lora.alpha"] == "default"


def test_a_recipe_knows_its_file(write):
    path = write()
    recipe = load_recipe(path)
    assert (recipe.name, recipe.path, recipe.summary) == ("mine", path, "A recipe to test with.")
    assert recipe.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert recipe.config.output == "runs/mine"


# Finding --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file"),
    [
        pytest.param("det", "det.yaml", id="name"),
        pytest.param("det.yaml", "det.yaml", id="file name"),
        pytest.param("recipes/det.yaml", "det.yaml", id="as in a checkout"),
        pytest.param("tiny-det", "tiny/det.yaml", id="tiny by name"),
        pytest.param("tiny-det.yaml", "tiny/det.yaml", id="tiny by file name"),
        pytest.param("tiny/det.yaml", "tiny/det.yaml", id="tiny by path"),
        pytest.param("tiny/det", "tiny/det.yaml", id="tiny by path without ending"),
        pytest.param("ablate-sft-rl", "ablate/sft-rl.yaml", id="ablation by name"),
        pytest.param("recipes/ablate/sft.yaml", "ablate/sft.yaml", id="ablation as in a checkout"),
    ],
)
def test_shipped_recipes_are_found_from_any_folder(tmp_path, monkeypatch, name, file):
    monkeypatch.chdir(tmp_path)
    found = find_recipe(name)
    assert found.as_posix().endswith(f"recipes/{file}")


def test_a_file_beats_the_shipped_recipe_of_that_file_name_but_not_its_bare_name(write, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write(name="det.yaml")
    write(name="det")
    assert load_recipe("det.yaml").summary == "A recipe to test with."
    assert load_recipe("./det").summary == "A recipe to test with."
    assert load_recipe("det").summary != "A recipe to test with."


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        pytest.param("dett", "did you mean det", id="near"),
        pytest.param("tiny-dte.yaml", "did you mean tiny-det", id="near and tiny"),
        pytest.param("../../etc/passwd", "rft3d recipes list", id="path that leads nowhere"),
        pytest.param("", "rft3d recipes list", id="nothing"),
        pytest.param("x" * 5000, "rft3d recipes list", id="name too long for a file"),
        pytest.param("a\0b", "rft3d recipes list", id="zero byte"),
    ],
)
def test_unknown_recipes_get_near_matches(name, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no recipe") as caught:
        find_recipe(name)
    assert hint in str(caught.value.hint)


def test_an_installed_package_uses_the_files_inside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "package")
    (tmp_path / "recipes").mkdir()
    assert resources.recipes_dir() == tmp_path / "recipes"
    (tmp_path / "package" / "_recipes").mkdir(parents=True)
    assert resources.recipes_dir() == tmp_path / "package" / "_recipes"
    with pytest.raises(SetupError, match="no assets folder"):
        resources.assets_dir()


# Shipped --------------------------------------------------------------------------------------------------------------


def test_the_recipes_that_the_documentation_names_ship():
    named = {"det", "det-sft", "grounding", "grounding-sft", "vsi", "vsi-sft"}
    assert named | {"tiny-sft", "tiny-det", "tiny-mix", "tiny-geometry-sft"} <= set(shipped_recipes())


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_loads_and_describes_itself(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    header = recipe.path.read_text(encoding="utf-8").split("\nstage:")[0]
    assert recipe.summary.endswith(".")
    assert f"rft3d {recipe.config.stage} --recipe {name}" in header, "the command to run it"
    assert "rft3d prepare " in header, "the command that makes its data"
    change = next(line for line in header.splitlines() if line.startswith("# Change"))
    assert "=" in change, "an example override"


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_example_override_of_every_shipped_recipe_works(name):
    lines = find_recipe(name).read_text(encoding="utf-8").splitlines()
    words = shlex.split(next(line for line in lines if line.startswith("# Change")))[2:]
    at = words.index("--recipe")
    assert words[at + 1] == name
    assert load_recipe(name, words[at + 2 :], stage=words[1]).before


@pytest.mark.parametrize("name", ["det", "grounding"])
def test_perception_recipes_are_as_the_paper_says(name):
    config = load_recipe(name).config
    assert (config.model.lora, config.train.kl, config.train.loss) == (None, 0.04, "group")
    assert set(config.rewards.values()) == {1.0}
    assert config.model.freeze == ["vision", "vision_merger", "geometry"]


def test_the_reasoning_recipe_is_as_the_paper_says():
    config = load_recipe("vsi").config
    assert config.model.lora is not None
    assert (config.train.kl, config.rewards) == (0.0, {"format": 1.0, "accuracy": 1.0, "mra": 1.0})


def test_detection_leaves_room_for_long_lists():
    assert load_recipe("det").config.rollout.max_tokens >= 4096


# Writing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_resolved_recipe_loads_to_the_same_tree(name, tmp_path):
    recipe = load_recipe(name)
    path = tmp_path / "resolved.yaml"
    path.write_text(to_yaml(recipe), encoding="utf-8")
    again = load_recipe(path)
    assert again.config == recipe.config
    assert "default" not in {again.origin[key] for key in again.leaves()}


def test_small_floats_are_written_as_floats_for_any_yaml_reader(write):
    text = to_yaml(load_recipe(write(), ["lr=1e-6", "weight_decay=1e20"]))
    train = yaml.safe_load(text)["train"]
    assert (train["lr"], train["weight_decay"]) == (1e-6, 1e20)


NUMBERS = st.floats(1e-12, 1e12)
WORDS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12).filter(
    lambda word: word.strip() == word and word.lower() not in ("null", "none", "~")
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lr=NUMBERS,
    kl=NUMBERS,
    steps=st.none() | st.integers(1, 10**9),
    name=WORDS,
    media=st.none() | WORDS,
    freeze=st.lists(st.sampled_from(["vision", "vision_merger", "geometry"]), max_size=3),
    rank=st.none() | st.integers(1, 512),
    weight=NUMBERS,
)
def test_any_values_survive_overriding_writing_and_reading(write, lr, kl, steps, name, media, freeze, rank, weight):
    overrides = [
        f"lr={lr!r}",
        f"kl={kl!r}",
        f"train.steps={'null' if steps is None else steps}",
        f"model.name={name}",
        f"media_root={media or 'null'}",
        f"freeze=[{', '.join(freeze)}]",
        "lora=null" if rank is None else f"lora.rank={rank}",
        f"rewards.my/file.py:f={weight!r}",
    ]
    recipe = load_recipe(write(), overrides)
    config = recipe.config
    assert (config.train.lr, config.train.kl, config.train.steps) == (lr, kl, steps)
    assert (config.model.name, config.data.media_root, config.model.freeze) == (name, media, freeze)
    assert (config.model.lora and config.model.lora.rank) == rank
    assert config.rewards["my/file.py:f"] == weight
    assert load_recipe(write(to_yaml(recipe), "again.yaml")).config == config


# Schema ---------------------------------------------------------------------------------------------------------------


def test_every_key_is_described_in_one_line():
    for key in keys().values():
        assert key.text.strip(), key.key
        assert key.text.endswith("."), key.key
        assert "\n" not in key.text, key.key


def test_every_default_is_what_the_schema_would_accept(write):
    for key in keys().values():
        if key.kind in ("section", "optional section", "names") or key.required:
            continue
        stage = stages_of(key.key)[0]
        text = {"grpo": GRPO, "sft": SFT}[stage]
        if key.key == "data.train":
            continue
        value = "null" if key.default is None else str(key.default).replace("(", "[").replace(")", "]").replace("'", "")
        load_recipe(write(text), [f"{key.key}={value}"])
