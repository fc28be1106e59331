from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import World, cli, recipe, sft_tree

from rft3d_cli.answers.target import exact_answer
from rft3d_cli.errors import DataError, ProblemList, SetupError, UsageError
from rft3d_cli.models.inputs import FrameStore
from rft3d_cli.models.loader import load_processor
from rft3d_cli.recipe import Recipe, load_recipe, to_yaml
from rft3d_cli.records import read_records, write_records
from rft3d_cli.rewards.registry import RewardSet
from rft3d_cli.train.devices import Gpu
from rft3d_cli.train.preflight import preflight
from rft3d_cli.train.sft import run_sft
from rft3d_cli.video import write_mp4

Make = Callable[..., Recipe]


@pytest.fixture
def broken(world: World, tmp_path: Path) -> Path:
    """Record files that are wrong in one way each, beside the frames of the good ones."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "frames").symlink_to(world.data / "frames")
    good = (world.data / "detection.jsonl").read_text().splitlines(keepends=True)
    (folder / "empty.jsonl").write_text("")
    (folder / "line.jsonl").write_text(good[0] + '{"id": 7}\n')
    (folder / "twice.jsonl").write_text(good[0] + good[0])
    lost = [json.loads(line) for line in good]
    lost[1]["video"]["frames"][0] = "frames/lost.png"
    (folder / "lost.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lost))
    escaping = json.loads(good[0])
    escaping["video"]["frames"][0] = "../frames/x.png"
    (folder / "escaping.jsonl").write_text(json.dumps(escaping) + "\n")
    mute = json.loads(good[0]) | {"task": "text", "target": None, "answer": None}
    (folder / "mute.jsonl").write_text(good[2] + json.dumps(mute) + "\n")
    marks = json.loads(good[0])
    marks["prompt"] = "<image> only one"
    (folder / "marks.jsonl").write_text(good[2] + json.dumps(marks) + "\n")
    return folder


def in_room(source: Path, out: Path, *scenes: str | None) -> str:
    """A record file whose records say which rooms they show."""
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    for row, scene in zip(rows, scenes, strict=False):
        row["meta"] = {"dataset": "scannet", "scene": scene}
    out.write_text("".join(json.dumps(row) + "\n" for row in rows[: len(scenes)]))
    return str(out)


@pytest.mark.parametrize(
    ("learnt", "asked", "shared"),
    [
        pytest.param(["scene0001_00"], ["scene0001_00"], "scene0001", id="the same scan"),
        pytest.param(["scene0001_00", "scene0002_00"], ["scene0001_01"], "scene0001", id="another scan of the room"),
        pytest.param(["scene0001_00"], ["scene0002_00", "scene0003_00"], None, id="other rooms"),
        pytest.param([None], [None], None, id="rooms unknown"),
        pytest.param(["kitchen_01"], ["kitchen_02"], None, id="names of one's own are whole"),
    ],
)
def test_rooms_of_both_sides_are_refused_unless_allowed(
    learnt: list[str | None],
    asked: list[str | None],
    shared: str | None,
    world: World,
    sft_recipe: Make,
    tmp_path: Path,
) -> None:
    (tmp_path / "frames").symlink_to(world.data / "frames")
    source = world.data / "detection.jsonl"
    keys = [
        f"data.train={in_room(source, tmp_path / 'train.jsonl', *learnt)}",
        f"data.eval={in_room(source, tmp_path / 'val.jsonl', *asked)}",
    ]
    found = [problem.message for problem in preflight(sft_recipe(*keys)).problems]
    said = [text for text in found if "data.eval are in data.train too" in text]
    assert [shared in text for text in said] == ([True] if shared else [])
    allowed = preflight(sft_recipe(*keys, "data.shared_scenes=true")).problems
    assert not any("data.eval are" in problem.message for problem in allowed)


@pytest.mark.parametrize(
    ("scenes", "dataset", "whose"),
    [
        pytest.param(["scene0001_00", "scene0025_00"], "scannet", "VSI-Bench): scene0025_00", id="VSI-Bench"),
        pytest.param(["scene0011_01", "scene0011_01"], "scannet", "ScanNet val): scene0011_01", id="ScanNet val"),
        pytest.param(["41069021"], "arkitscenes", "ARKitScenes val): 41069021", id="ARKitScenes val"),
        pytest.param(["scene0001_00", "kitchen"], "scannet", None, id="other scenes"),
        pytest.param([None], "scannet", None, id="scenes unknown"),
        pytest.param(["scene0011_00"], "rooms", None, id="questions about synthetic rooms"),
    ],
)
def test_scenes_that_are_evaluated_on_are_refused_unless_allowed(
    scenes: list[str | None], dataset: str, whose: str | None, world: World, sft_recipe: Make, tmp_path: Path
) -> None:
    (tmp_path / "frames").symlink_to(world.data / "frames")
    path = tmp_path / "train.jsonl"
    in_room(world.data / "detection.jsonl", path, *scenes)
    path.write_text(path.read_text().replace('"dataset": "scannet"', f'"dataset": "{dataset}"'))

    def said(*more: str) -> list[str]:
        problems = preflight(sft_recipe(f"data.train={path}", *more)).problems
        return [problem.message for problem in problems if "evaluated on" in problem.message]

    assert [whose in text for text in said()] == ([True] if whose else [])
    nameless = path.read_text()
    for scene in filter(None, scenes):
        nameless = nameless.replace(f'"scene": "{scene}"', '"scene": null')
    (tmp_path / "scene0011_00").symlink_to(world.data / "frames")
    (tmp_path / "shown.jsonl").write_text(nameless.replace('"frames/', '"scene0011_00/'))
    found = preflight(sft_recipe(f"data.train={tmp_path}/shown.jsonl")).problems
    assert any("(ScanNet val): scene0011_00/" in problem.message for problem in found) == (dataset != "rooms")
    assert said("data.shared_scenes=true") == []
    # Records of synthetic rooms, by the card of the rooms beside them or by their own.
    (tmp_path / "rooms").mkdir()
    (tmp_path / "rooms" / "rooms.card.json").write_text("{}")
    options = {"scans": str(tmp_path / "rooms" / "scans"), "frames": 4}
    path.with_suffix(".card.json").write_text(json.dumps({"options": options}))
    assert said() == []
    path.with_suffix(".card.json").write_text("[]")
    assert len(said()) == (1 if whose else 0)
    (tmp_path / "rooms.card.json").write_text("{}")
    assert said() == []


PROBLEMS = [
    pytest.param(["data.train={data}/none.jsonl"], DataError, "none.jsonl does not exist", id="no-file"),
    pytest.param(["data.train={data}/empty.jsonl"], DataError, "holds no records", id="empty-file"),
    pytest.param(["data.train={data}/line.jsonl"], DataError, "line.jsonl line 2: ", id="bad-line"),
    pytest.param(["data.train={data}/twice.jsonl"], DataError, "repeats line 1", id="repeated-id"),
    pytest.param(
        ["data.train={data}/lost.jsonl"], DataError, "1 of 8 media files are missing, first ", id="lost-frame"
    ),
    pytest.param(["data.eval={data}/lost.jsonl"], DataError, "media files are missing", id="lost-held-out-frame"),
    pytest.param(["data.train={data}/escaping.jsonl"], DataError, "leaves the media root", id="escaping-path"),
    pytest.param(
        ["data.train={data}/mute.jsonl"], DataError, "neither an answer nor references", id="nothing-to-teach"
    ),
    pytest.param(
        ["data.train={data}/marks.jsonl"], DataError, "1 <image> marks for 2 frames", id="marks-without-frames"
    ),
    pytest.param(["data.media_root={data}/nowhere"], DataError, "media files are missing", id="wrong-media-root"),
    pytest.param(["model.name={data}/gone"], SetupError, "gone does not exist", id="no-model"),
    pytest.param(["model.name=someone/never-fetched"], SetupError, "not on this machine", id="model-not-fetched"),
    pytest.param(["model.geometry=vggt"], SetupError, "VGGT", id="no-vggt"),
    pytest.param(["train.max_length=40"], DataError, r"record \S+/\d takes \d+ tokens, more than 40", id="too-long"),
]


@pytest.mark.parametrize("stage", ["sft", "grpo"])
@pytest.mark.parametrize(("overrides", "kind", "message"), PROBLEMS)
def test_a_problem_is_found_before_anything_is_written(
    sft_recipe: Make,
    grpo_recipe: Make,
    broken: Path,
    tmp_path: Path,
    stage: str,
    overrides: list[str],
    kind: type,
    message: str,
) -> None:
    make = sft_recipe if stage == "sft" else grpo_recipe
    extra = ["rewards={format: 1, length: 1}"] if stage == "grpo" else []
    checked = preflight(make(*[override.format(data=broken) for override in overrides], *extra))
    matching = [problem for problem in checked.problems if isinstance(problem, kind)]
    with pytest.raises(kind, match=message):
        raise matching[0]
    assert len(checked.problems) == 1
    assert "\n" not in matching[0].message


GRPO_PROBLEMS = [
    pytest.param(["rewards={accuracy: 1}"], "no reward applies to detection records", id="a-task-without-reward"),
    pytest.param(["data.limit=1", "rollout.prompts=2"], "1 records do not fill a rollout of 2", id="too-few-records"),
]


@pytest.mark.parametrize(("overrides", "message"), GRPO_PROBLEMS)
def test_a_rollout_that_cannot_work_is_refused(grpo_recipe: Make, overrides: list[str], message: str) -> None:
    problems = preflight(grpo_recipe(*overrides)).problems
    assert any(isinstance(problem, UsageError) and message in problem.message and problem.hint for problem in problems)


@pytest.mark.parametrize(
    ("stage", "world_size", "fits"),
    [("sft", "1", True), ("sft", "3", False), ("grpo", "1", True), ("grpo", "2", False)],
)
def test_batches_must_divide_over_the_processes(
    sft_recipe: Make, grpo_recipe: Make, monkeypatch: pytest.MonkeyPatch, stage: str, world_size: str, fits: bool
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world_size)
    checked = preflight(sft_recipe() if stage == "sft" else grpo_recipe())
    assert [type(problem) for problem in checked.problems] == ([] if fits else [UsageError])


def test_a_micro_batch_that_does_not_divide_the_batch_is_refused(sft_recipe: Make, grpo_recipe: Make) -> None:
    with pytest.raises(UsageError, match="no multiple of"):
        sft_recipe("train.micro_batch=3")
    with pytest.raises(UsageError, match="no multiple of"):
        grpo_recipe("train.micro_batch=5")


def test_a_checkpoint_within_a_generation_period_is_refused(grpo_recipe: Make) -> None:
    with pytest.raises(UsageError, match="generation periods"):
        grpo_recipe("train.iterations=3", "checkpoint.every=4")


def test_all_problems_are_listed_at_once_in_the_order_of_their_codes(grpo_recipe: Make, broken: Path) -> None:
    made = grpo_recipe(
        f"data.train=[{broken}/none.jsonl, {broken}/lost.jsonl]", f"model.name={broken}/gone", "rewards={accuracy: 1}"
    )
    with pytest.raises(ProblemList) as caught:
        preflight(made).raise_if_any()
    assert [problem.exit_code for problem in caught.value.problems] == [2, 3, 3, 4]
    assert caught.value.exit_code == 2
    for part in ("no reward applies", "none.jsonl", "lost.png", "gone"):
        assert part in caught.value.message


@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        pytest.param([], 0, id="good"),
        pytest.param(["train.steps=0"], 2, id="bad-value"),
        pytest.param(["trian.steps=1"], 2, id="unknown-key"),
        pytest.param(["data.train=none.jsonl"], 3, id="data"),
        pytest.param(["model.name=./none"], 4, id="model"),
        pytest.param(["data.train=none.jsonl", "model.name=./none"], 3, id="data-and-model"),
    ],
)
@pytest.mark.parametrize("dry", [True, False], ids=["dry", "real"])
def test_exit_codes(
    sft_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    overrides: list[str], code: int, dry: bool,
) -> None:  # fmt: skip
    if code == 0 and not dry:
        overrides = [*overrides, "train.steps=1"]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "r.yaml"
    path.write_text(to_yaml(sft_recipe()))
    out = tmp_path / "run"
    assert cli("sft", "--recipe", path, *overrides, "--out", out, *(["--dry-run"] if dry else [])) == code
    printed = capsys.readouterr()
    assert out.exists() == (code == 0 and not dry)
    assert printed.out == ("" if dry or code else f"{out}\n")
    if code:
        assert printed.err.count("error: ") == max(1, len([o for o in overrides if "none" in o]))
        assert "Traceback" not in printed.err


def test_a_dry_run_says_what_it_found_and_writes_nothing(
    grpo_recipe: Make, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(to_yaml(grpo_recipe(f"data.eval={world.data}/val.jsonl", "rollout.max_tokens=5")))
    before = sorted(tmp_path.rglob("*"))
    assert cli("grpo", "--recipe", path, "lr=2e-4", "--out", tmp_path / "run", "--dry-run", "--json") == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["ok"] is True
    assert document["problems"] == []
    assert document["out"] == str(tmp_path / "run")
    checks = document["checks"]
    assert "4 detection, 4 grounding, 4 choice, 4 number" in checks["train"]
    assert "2 detection" in checks["eval"]
    assert checks["rollouts"] == "4 completions × 2 prompts = 8 = 1 process(es) × 8 × 1 micro-batches"
    # Four tasks: format alone for choice and number, each worth 2; detection and grounding 3.
    assert "full precision 2.500" in checks["rewards"]
    assert "empty answer 0.000" in checks["rewards"]
    assert checks["clipped"].startswith("8 of 16 targets")
    assert "lr -> train.lr" in printed.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failing_dry_run_prints_the_problems_as_json_too(
    sft_recipe: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(to_yaml(sft_recipe()))
    assert cli("sft", "--recipe", path, "data.train=none.jsonl", "--dry-run", "--json") == 3
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert [problem["exit_code"] for problem in document["problems"]] == [3]


def test_prompt_lengths_are_known_without_decoding(world: World) -> None:
    processor = load_processor(str(world.plain))
    for name in ("mix", "val"):
        source = read_records(world.data / f"{name}.jsonl")
        store = FrameStore(source.media_root, processor)
        for record in source.records:
            for one in (record, record.model_copy(update={"camera": None})):
                assert store.prompt_length(one) == len(store.encode(one))


def test_the_limit_is_what_the_models_positions_reach(sft_recipe: Make, grpo_recipe: Make) -> None:
    problems = preflight(grpo_recipe("rollout.max_tokens=4090")).problems
    assert [type(problem) for problem in problems] == [DataError]
    assert "more than 4,096" in problems[0].message
    assert preflight(sft_recipe()).problems == []


def test_a_held_out_record_must_have_room_for_its_answer_too(sft_recipe: Make, world: World) -> None:
    tight = ("rollout.max_tokens=4090",)
    assert preflight(sft_recipe(*tight, "data.eval=null")).problems == []
    (problem,) = preflight(sft_recipe(*tight, f"data.eval={world.data / 'val.jsonl'}")).problems
    assert "more than 4,096" in problem.message


@pytest.mark.parametrize(
    ("overrides", "message", "hint"),
    [
        pytest.param(
            ["log.to=[jsonl, trackio]"], "log.to: trackio needs the package trackio", "pip install trackio", id="log"
        ),
        pytest.param(
            ["model.attention=flash_attention_2", "model.dtype=bfloat16"],
            "model.attention: flash_attention_2 needs the package flash_attn",
            "pip install flash-attn",
            id="attention",
        ),
    ],
)
def test_a_package_that_the_recipe_needs_and_is_not_here_is_named(
    grpo_recipe: Make, overrides: list[str], message: str, hint: str
) -> None:
    (problem,) = preflight(grpo_recipe(*overrides)).problems
    assert (type(problem), problem.message, problem.hint) == (SetupError, message, hint)


@pytest.fixture
def vllm_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that seems to have vLLM and a GPU."""
    monkeypatch.setattr("rft3d_cli.train.vllm.version", lambda name: "0.25.1+cu129")
    monkeypatch.setattr("rft3d_cli.train.preflight.gpus", lambda: [Gpu("NVIDIA H100", 2**41, True)])


def test_vllm_that_is_not_here_is_named_with_all_that_it_needs(grpo_recipe: Make) -> None:
    problems = preflight(grpo_recipe("rollout.engine=vllm")).problems
    assert [type(problem) for problem in problems] == [SetupError, SetupError]
    assert problems[0].message == "rollout.engine: vllm needs the package vllm"
    assert "needs a CUDA GPU" in problems[1].message


@pytest.mark.parametrize("found", ["0.21.4", "0.32.0", "1.0"])
def test_a_vllm_that_trl_does_not_know_is_refused(
    grpo_recipe: Make, vllm_here: None, monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    monkeypatch.setattr("rft3d_cli.train.vllm.version", lambda name: found)
    (problem,) = preflight(grpo_recipe("rollout.engine=vllm")).problems
    assert problem.message == f"vLLM {found} is installed, and TRL is written for 0.22 to 0.31"


def test_trls_own_window_of_vllm_is_the_one_that_is_said() -> None:
    import inspect

    from trl import import_utils

    from rft3d_cli.train.vllm import NEWEST, OLDEST

    source = inspect.getsource(import_utils.is_vllm_available)
    for pair in (OLDEST, NEWEST):
        assert f'Version("{".".join(map(str, pair))}.0")' in source


def test_a_dry_run_asks_the_named_server_whether_it_is_there(grpo_recipe: Make, vllm_here: None) -> None:
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    asked: list[str] = []

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    words = ["rollout.engine=vllm", "rollout.vllm.mode=server", f"rollout.vllm.server_url={url}"]
    try:
        assert preflight(grpo_recipe(*words)).problems == []
        assert asked == ["/health"]
    finally:
        server.shutdown()
        server.server_close()
    (problem,) = preflight(grpo_recipe(*words)).problems
    assert problem.message.startswith(f"no vLLM server answers at {url}/health: ")


@pytest.mark.parametrize(("world_size", "fits"), [("1", False), ("2", True)])
def test_vllms_gpus_must_divide_those_of_the_run(
    grpo_recipe: Make, vllm_here: None, monkeypatch: pytest.MonkeyPatch, world_size: str, fits: bool
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world_size)
    words = ["rollout.engine=vllm", "rollout.vllm.tensor_parallel=2", "train.micro_batch=4"]
    assert bool(preflight(grpo_recipe(*words)).problems) is not fits


CUT = {
    "FSDP": {"ACCELERATE_USE_FSDP": "true"},
    "DeepSpeed ZeRO-3": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
}


@pytest.mark.parametrize("name", CUT)
def test_weights_that_are_cut_into_pieces_do_not_share_prompts(
    grpo_recipe: Make, sft_recipe: Make, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for key, value in CUT[name].items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr("rft3d_cli.train.preflight.find_spec", lambda name: name)
    (problem,) = preflight(grpo_recipe()).problems
    assert name.split()[0] in problem.message
    assert "rollout.shared_prompt=false" in (problem.hint or "")
    report = preflight(grpo_recipe("rollout.shared_prompt=false"))
    assert report.problems == []
    assert any(text.startswith(f"{name} gathers all weights") for text in report.warnings)
    assert preflight(sft_recipe()).warnings == []
    assert preflight(sft_recipe()).problems == []


def test_zero_2_keeps_weights_whole_and_takes_its_own_steps(
    grpo_recipe: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    problems = preflight(grpo_recipe()).problems
    assert [type(problem) for problem in problems] == [SetupError, UsageError]
    assert problems[0].message == "accelerate is told to use DeepSpeed, which is not here"
    monkeypatch.setattr("rft3d_cli.train.preflight.find_spec", lambda name: name)
    report = preflight(grpo_recipe("rollout.shared_prompt=false"))
    assert (report.problems, report.warnings) == ([], [])
    # A file of DeepSpeed's own decides where it is named.
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 3}}')
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "ds.json"))
    assert len(preflight(grpo_recipe("rollout.shared_prompt=false")).warnings) == 1


@pytest.mark.parametrize(
    ("told", "dtype", "fits"),
    [("bf16", "bfloat16", True), ("no", "float32", True), ("bf16", "float32", False), ("fp16", "bfloat16", False)],
)
def test_accelerates_precision_must_be_the_recipes(
    grpo_recipe: Make, monkeypatch: pytest.MonkeyPatch, told: str, dtype: str, fits: bool
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", told)
    assert (preflight(grpo_recipe(f"model.dtype={dtype}")).problems == []) is fits


def test_one_process_beside_several_gpus_is_told_how_to_use_them(
    sft_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rft3d_cli.train import devices

    monkeypatch.setattr("rft3d_cli.train.preflight.gpus", lambda: [Gpu("NVIDIA H100", 2**41, True)] * 4)
    (said,) = preflight(sft_recipe()).warnings
    assert "torchrun --nproc_per_node 4 -m rft3d_cli sft" in said
    monkeypatch.setattr(devices, "visible", lambda: 4)
    for before, after in (("", "0"), ("2,3", "2"), ("GPU-8a,GPU-9b", "GPU-8a")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
        devices.use_one_gpu("sft")
        assert os.environ["CUDA_VISIBLE_DEVICES"] == after
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    devices.use_one_gpu("sft")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"


def test_hours_are_said_of_models_for_gpus_only(
    grpo_recipe: Make, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "time" not in dict(preflight(grpo_recipe()).lines)
    monkeypatch.setattr("rft3d_cli.train.cost.LARGE", 1)
    monkeypatch.setattr("rft3d_cli.train.preflight.gpus", lambda: [Gpu("NVIDIA A100-SXM4-80GB", 2**41, True)])
    report = preflight(grpo_recipe("train.steps=6"))
    assert "h for all 12 on 1 A100 (estimate at 20 % of peak)" in dict(report.lines)["time"]
    assert report.cost is not None
    assert report.cost["records"] == 2


def test_a_branch_that_comes_with_the_model_is_not_left_to_vllm(
    grpo_recipe: Make, world: World, vllm_here: None
) -> None:
    for model, said in ((world.warm, False), (world.fused, True), (world.vggt, True)):
        problems = preflight(grpo_recipe("rollout.engine=vllm", model=model)).problems
        assert [type(problem) for problem in problems] == [UsageError] * said
        for problem in problems:
            assert f"branch that {model} brings" in problem.message
            assert problem.hint == "use rollout.engine=transformers, or model.geometry=none"
    assert preflight(grpo_recipe("rollout.engine=vllm", "model.geometry=none", model=world.vggt)).problems == []


def test_adapters_over_a_branch_are_not_left_to_vllm_either(
    grpo_recipe: Make, world: World, tmp_path: Path, vllm_here: None
) -> None:
    from rft3d_cli.train.setup import trainable_model

    model, processor = trainable_model(grpo_recipe("model.lora.rank=4", model=world.vggt).config)
    model.save_pretrained(tmp_path / "adapters")
    processor.save_pretrained(tmp_path / "adapters")
    (problem,) = preflight(grpo_recipe("rollout.engine=vllm", model=tmp_path / "adapters")).problems
    assert "takes no input of the vggt branch" in problem.message


@pytest.mark.parametrize("model", ["warm", "vggt"])
def test_tokens_and_memory_are_of_the_longest_record(model: str, grpo_recipe: Make, world: World) -> None:
    report = preflight(grpo_recipe(model=getattr(world, model)))
    checks = dict(report.lines)
    assert checks["tokens"] == "2 frames × 12 = 24 a clip"
    assert report.budget is not None
    assert checks["memory"].startswith(f"{report.budget.needs()}: CUDA 1.0 GiB, ")
    row = report.budget.row
    assert f"{row.prompt + row.answer:,} tokens" in checks["longest"]
    names = {term.name for term in report.budget.terms if term.bytes}
    assert ("geometry encoder weights" in names) == (model == "vggt")


def test_memory_is_said_where_neither_weights_nor_data_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rft3d_cli.train.shape._folder", lambda name: None)
    checks = dict(preflight(load_recipe("det")).lines)
    assert checks["tokens"] == "4 frames × 252 = 1,008 a clip, where frames are 4:3"
    assert checks["memory"].startswith("about 75.2 GiB on 1 GPU (estimate): AdamW 23.3 GiB, ")


def test_frames_of_a_clip_are_counted_too(sft_recipe: Make, world: World, tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", [np.full((48, 64, 3), 9 * i, np.uint8) for i in range(8)], 4)
    row = json.loads((world.data / "choice.jsonl").read_text().splitlines()[0])
    row |= {"video": {"path": "clip.mp4"}, "camera": None}
    (tmp_path / "clips.jsonl").write_text(json.dumps(row) + "\n")
    checks = dict(preflight(sft_recipe(f"data.train={tmp_path / 'clips.jsonl'}", "video.frames=5")).lines)
    assert checks["tokens"] == "5 frames × 12 = 60 a clip"


@pytest.mark.parametrize(
    ("memory", "fits"), [pytest.param(2**20, False, id="a small GPU"), pytest.param(2**40, True, id="a large one")]
)
def test_a_gpu_that_seems_too_small_is_a_warning(
    memory: int, fits: bool, grpo_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("rft3d_cli.train.preflight.gpus", lambda: [Gpu("a", memory, True), Gpu("b", 2**41, True)])
    path = tmp_path / "r.yaml"
    path.write_text(to_yaml(grpo_recipe()))
    assert cli("grpo", "--recipe", path, "--out", tmp_path / "run", "--dry-run") == 0
    said = capsys.readouterr().err
    assert ("warning: this run is estimated to take" in said) is not fits
    assert cli("grpo", "--recipe", path, "--out", tmp_path / "run", "--dry-run", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True
    assert any("estimated to take" in text for text in document["warnings"]) is not fits
    assert document["budget"]["peak_bytes"] > 2**30
    assert {"name", "bytes", "when"} == set(document["budget"]["terms"][0])


def test_the_longest_record_is_named_exactly(world: World, sft_recipe: Make) -> None:
    checks = dict(preflight(sft_recipe()).lines)
    name, tokens = checks["longest"].split(": ")
    record = next(record for record in world.records("mix") if record.id == name)
    processor = load_processor(str(world.plain))
    prompt = FrameStore(world.data, processor).encode(record)
    answer = processor.tokenizer(record.answer, add_special_tokens=False)["input_ids"]
    assert tokens == f"{len(prompt) + len(answer) + 1:,} tokens of 4,096"


@pytest.mark.parametrize("task", ["detection", "grounding", "choice", "number"])
def test_the_target_at_full_precision_is_worth_everything(world: World, task: str) -> None:
    rewards = RewardSet({"det_f1": 1, "det_iou": 1, "det_soft_f1": 1, "ground_iou": 1, "accuracy": 1, "mra": 1})
    for record in world.records(task):
        scores = rewards.score(exact_answer(record), record)
        assert scores
        assert all(score.value == pytest.approx(1.0, abs=1e-9) for score in scores.values())


def test_the_code_of_a_reward_file_is_announced(
    grpo_recipe: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def paid(text, record):\n    return 1.0\n")
    preflight(grpo_recipe(f"rewards={{{path}:paid: 1}}"))
    assert f"running code from {path} (sha256 " in capsys.readouterr().err


def test_a_model_without_a_tokenizer_cannot_be_trained(sft_recipe: Make, world: World, tmp_path: Path) -> None:
    bare = shutil.copytree(world.plain, tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    problems = preflight(sft_recipe(model=bare)).problems
    assert [type(problem) for problem in problems] == [SetupError]
    assert "tokenizer" in problems[0].message


def test_an_unreadable_frame_ends_the_run_with_the_record_and_the_file(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(world.data / "frames", folder / "frames")
    write_records(folder / "detection.jsonl", world.records("detection")[:1])
    torn = folder / "frames" / "detection-0-1.png"
    torn.write_bytes(torn.read_bytes()[:200])
    made: Any = recipe(tmp_path / "r.yaml", sft_tree(folder, world.plain, "detection"))
    with pytest.raises(DataError, match=r"record detection/0: frame .*detection-0-1\.png"):
        run_sft(made, tmp_path / "run")
