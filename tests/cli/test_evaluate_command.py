from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import BOX, BOX_TEXT, DETECTION_ANSWER, GROUNDING_ANSWER, Shown, World, inside, record, run

from rft3d_cli.models import predict
from rft3d_cli.records import Record, write_records

FAR = [3.0, 0.0, 5.0, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0]
FAR_TEXT = ", ".join(f"{value:.1f}" for value in FAR)


def objects(*found: tuple[str, str]) -> str:
    lines = [f'{{"label": "{label}", "bbox_3d": [{box}]}}' for label, box in found]
    return "```json\n[\n\t" + ",\n\t".join(lines) + "\n]```"


def place(frame: int, box: str) -> str:
    return f'{{"frame": {frame}, "bbox_3d": [{box}]}}'


def detection(name: str, *found: tuple[str, list[float]]) -> Record:
    boxes = [{"label": label, "bbox_3d": box} for label, box in found]
    return record("detection", "find", "", {"boxes": boxes}, name=name)


def grounding(name: str, subset: str) -> Record:
    target = {"frame": 0, "bbox_3d": BOX, "bbox_world": BOX}
    return record("grounding", "where", "", target, name=name, subset=subset)


def question(name: str, kind: str, answer: float | str) -> Record:
    if isinstance(answer, str):
        target = {"letter": answer, "options": ["A. left", "B. right", "C. back"]}
        return record("choice", "which", "", target, name=name, question_type=kind)
    return record("number", "how many", "", {"value": answer}, name=name, question_type=kind)


RECORDS = {
    "detection": [
        detection("one", ("chair", BOX)),
        detection("two", ("chair", BOX), ("table", FAR)),
        detection("none"),
    ],
    "scanrefer": [grounding("alone", "unique"), grounding("twin", "multiple"), grounding("other", "multiple")],
    "vsibench": [
        question("count", "object_counting", 4),
        question("size", "object_size_estimation", 100),
        question("left", "object_rel_distance", "A"),
        question("right", "object_rel_distance", "B"),
    ],
}
SAID = {
    # One right; one right, one missed and one invented; nothing where nothing is.
    "detection": {
        "one": objects(("chair", BOX_TEXT)),
        "two": objects(("chair", BOX_TEXT), ("lamp", FAR_TEXT)),
        "none": "[]",
    },
    "scanrefer": {"alone": place(0, BOX_TEXT), "twin": place(1, BOX_TEXT), "other": place(0, FAR_TEXT)},
    # 81 for 100 is off by 0.19, which 7 of the 10 limits 0.5, 0.45, ... 0.05 allow.
    "vsibench": {"count": "4", "size": "81", "left": "A. left", "right": "C"},
}
EXPECTED = {
    "detection": {
        "micro": {"tp": 2, "fp": 1, "fn": 1, "precision": 200 / 3, "recall": 200 / 3, "f1": 200 / 3},
        "classes_8": {"classes": 8, "precision": 12.5, "recall": 12.5, "f1": 12.5},
    },
    "scanrefer": {
        "overall": {"n": 3, "acc@0.25": 200 / 3, "acc@0.5": 200 / 3, "mean_iou": 200 / 3},
        "unique": {"n": 1, "acc@0.25": 100.0, "acc@0.5": 100.0, "mean_iou": 100.0},
        "multiple": {"n": 2, "acc@0.25": 50.0, "acc@0.5": 50.0, "mean_iou": 50.0},
    },
    "vsibench": {"overall": (100 + 70 + 50) / 3, "overall_micro": (100 + 70 + 100 + 0) / 4, "incomplete": True},
}
BENCHMARKS = list(RECORDS)
DETAIL = {"id", "score", "parts", "answer", "why", "scene", "dataset", "question_type", "subset"}
OF_WORLD = {"detection": "detection", "scanrefer": "grounding", "vsibench": "number"}

Evaluate = Callable[..., Shown]


def write_predictions(path: Path, said: dict[str, str]) -> Path:
    lines = [json.dumps({"id": name, "prediction": text}) + "\n" for name, text in said.items()]
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def evaluate(rft3d, tmp_path: Path) -> Evaluate:
    for benchmark, records in RECORDS.items():
        write_records(tmp_path / f"{benchmark}.jsonl", records)
        write_predictions(tmp_path / f"{benchmark}-said.jsonl", SAID[benchmark])

    def score(benchmark: str, *options: object) -> Shown:
        files = ("--data", f"{benchmark}.jsonl", "--predictions", f"{benchmark}-said.jsonl")
        return rft3d("evaluate", benchmark, *files, *options)

    return score


def matches(found: object, expected: object) -> bool:
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(matches(found[key], value) for key, value in expected.items())
    return found == pytest.approx(expected)


# ---- Saved predictions


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_saved_predictions_are_scored(evaluate, benchmark):
    document = evaluate(benchmark, "--json").document
    assert matches(document, EXPECTED[benchmark]), document
    head = ("schema", "benchmark", "scorer", "answer_style", "n", "missing", "unreadable", "unknown_ids")
    assert [document[key] for key in head] == [1, benchmark, "official", "direct", len(RECORDS[benchmark]), 0, 0, 0]
    assert document["predictions"] == {"file": f"{benchmark}-said.jsonl", "format": "rft3d", "notes": []}
    assert (document["data"]["file"], document["data"]["records"]) == (f"{benchmark}.jsonl", len(RECORDS[benchmark]))


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_people_get_a_table_and_nothing_is_written(evaluate, tmp_path, benchmark):
    before = sorted(tmp_path.iterdir())
    shown = evaluate(benchmark)
    assert (shown.code, shown.err) == (0, "")
    assert f"{benchmark}, scorer official, {len(RECORDS[benchmark])} records" in shown.out
    assert "unreadable 0, missing 0" in shown.out
    number = {"detection": "66.7", "scanrefer": "66.7", "vsibench": "73.3"}[benchmark]
    assert number in shown.out
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_folder_gets_the_document_and_a_file_every_record(evaluate, tmp_path, benchmark):
    shown = evaluate(benchmark, "--json", "--out", "scores/mine", "--details", "why/details.jsonl")
    saved = json.loads(Path("scores/mine/result.json").read_text(encoding="utf-8"))
    assert saved == shown.document
    assert "wrote   scores/mine/result.json" in shown.err
    details = [json.loads(line) for line in Path("why/details.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [detail["id"] for detail in details] == [record.id for record in RECORDS[benchmark]]
    assert all(set(detail) == DETAIL for detail in details)
    assert all(0 <= detail["score"] <= 1 for detail in details)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_limit_scores_the_first_records_and_takes_the_rest_as_known(evaluate, benchmark):
    shown = evaluate(benchmark, "--limit", 1, "--json")
    assert shown.document["n"] == 1
    assert shown.err == ""


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_missing_predictions_score_0_and_are_warned_of(evaluate, benchmark):
    first = RECORDS[benchmark][0].id
    write_predictions(Path(f"{benchmark}-said.jsonl"), {first: SAID[benchmark][first]})
    shown = evaluate(benchmark, "--json", "--details", "details.jsonl")
    lacking = len(RECORDS[benchmark]) - 1
    assert (shown.document["missing"], shown.document["n"]) == (lacking, lacking + 1)
    assert f"warning: {lacking} of {lacking + 1} records have no prediction and score 0" in shown.err
    details = [json.loads(line) for line in Path("details.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [detail["why"] for detail in details[1:]] == ["no prediction"] * lacking
    assert [detail["score"] for detail in details[1:]] == [0.0] * lacking


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_predictions_of_another_data_set_are_warned_of(evaluate, benchmark):
    write_predictions(Path(f"{benchmark}-said.jsonl"), {"x": "A", "y": "B"})
    shown = evaluate(benchmark, "--json")
    count = len(RECORDS[benchmark])
    document = json.loads(shown.out)
    assert (document["missing"], document["unknown_ids"]) == (count, 2)
    assert (shown.code, shown.errors) == (3, ["no record has a prediction"])
    assert f"{count} of {count} records have no prediction" in shown.err
    assert "warning: 2 predictions are for ids that the data does not have" in shown.err


def test_ids_may_be_numbers_and_a_torn_last_line_is_left_out(evaluate):
    write_records(Path("vsibench.jsonl"), [question("7", "object_counting", 4)])
    Path("vsibench-said.jsonl").write_text('{"id": 7, "prediction": "4"}\n{"id": 8, "predic', encoding="utf-8")
    document = evaluate("vsibench", "--json").document
    assert (document["overall"], document["missing"], document["unknown_ids"]) == (100.0, 0, 0)


@pytest.mark.parametrize(
    ("benchmark", "name", "text", "official", "robust"),
    [
        pytest.param("vsibench", "left", "The answer is A.", 0.0, 100.0, id="a letter in a sentence"),
        pytest.param("vsibench", "count", "four", 0.0, 100.0, id="a number word"),
        pytest.param("scanrefer", "alone", "Sure:\n\n[" + place(0, BOX_TEXT) + "]", 0.0, 100.0, id="a listed place"),
        pytest.param("detection", "one", "Sure: " + DETECTION_ANSWER.replace("\n", " "), 0.0, 100.0, id="one line"),
    ],
)
def test_the_two_scorers_differ_and_each_result_names_the_other(evaluate, benchmark, name, text, official, robust):
    write_records(Path(f"{benchmark}.jsonl"), [item for item in RECORDS[benchmark] if item.id == name])
    write_predictions(Path(f"{benchmark}-said.jsonl"), {name: text})
    key = {"vsibench": ("overall", None), "scanrefer": ("overall", "acc@0.25"), "detection": ("micro", "f1")}[benchmark]
    for scorer, other, value in (("official", "robust", official), ("robust", "official", robust)):
        document = evaluate(benchmark, "--scorer", scorer, "--json").document
        found = document[key[0]] if key[1] is None else document[key[0]][key[1]]
        assert (document["scorer"], document["other_scorer"]["scorer"], found) == (scorer, other, value)


def test_thinking_answers_are_read_by_the_official_scorer_when_told(evaluate):
    thought = {name: f"<think>x</think><answer>{text}</answer>" for name, text in SAID["vsibench"].items()}
    write_predictions(Path("vsibench-said.jsonl"), thought)
    assert evaluate("vsibench", "--json").document["overall"] == 0.0
    shown = evaluate("vsibench", "--answer-style", "think", "--json")
    assert matches(shown.document, EXPECTED["vsibench"])


def test_questions_as_published_are_scored_as_they_are(rft3d):
    rows = [
        {"id": 0, "question_type": "object_counting", "ground_truth": "4", "options": None},
        {"id": 1, "question_type": "route_planning", "ground_truth": "B", "options": ["A. Left", "B. Right"]},
    ]
    place = {"dataset": "scannet", "scene_name": "scene0015_00", "question": "?"}
    Path("test.jsonl").write_text("".join(json.dumps({**place, **row}) + "\n" for row in rows), encoding="utf-8")
    write_predictions(Path("said.jsonl"), {"0": "4", "1": "A"})
    document = rft3d("evaluate", "vsibench", "--data", "test.jsonl", "--predictions", "said.jsonl", "--json").document
    assert (document["n"], document["missing"]) == (2, 0)
    assert (document["tasks"]["object_counting"], document["tasks"]["route_planning"]) == (100.0, 0.0)
    assert (document["overall"], document["overall_micro"]) == (50.0, 50.0)


def test_a_mixed_file_gives_each_benchmark_its_own_records(rft3d):
    write_records(Path("mixed.jsonl"), [record for records in RECORDS.values() for record in records])
    said = write_predictions(Path("said.jsonl"), {name: text for part in SAID.values() for name, text in part.items()})
    for benchmark, expected in EXPECTED.items():
        shown = rft3d("evaluate", benchmark, "-d", "mixed.jsonl", "-p", said, "--json")
        assert matches(shown.document, expected), benchmark
        assert shown.err == ""


def test_predictions_beyond_a_limit_are_not_unknown(evaluate):
    shown = evaluate("detection", "--limit", 1, "--json")
    assert (shown.document["n"], shown.document["unknown_ids"], shown.err) == (1, 0, "")


# ---- Thresholds


@pytest.mark.parametrize(
    ("benchmark", "wanted", "code", "message"),
    [
        pytest.param("detection", "micro.f1=66", 0, None, id="met"),
        pytest.param("scanrefer", "unique.acc@0.5=100", 0, None, id="just met"),
        pytest.param("detection", "micro.f1=67", 5, "micro.f1 is 66.67, below 67", id="missed"),
        pytest.param("vsibench", "overall=74", 5, "overall is 73.33, below 74", id="missed by a whole"),
        pytest.param("vsibench", "room_size_estimation=1", 5, "tasks.room_size_estimation is not measured, below 1",
                     id="not measured"),
    ],
)  # fmt: skip
def test_a_threshold_decides_the_exit_code_and_hides_nothing(evaluate, benchmark, wanted, code, message):
    shown = evaluate(benchmark, "--fail-under", wanted, "--json")
    assert shown.code == code
    assert shown.errors == ([message] if message else [])
    assert matches(json.loads(shown.out), EXPECTED[benchmark])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        pytest.param("micro.f1", "--fail-under 'micro.f1' is not METRIC=VALUE", id="no value"),
        pytest.param("micro.f1=good", "--fail-under 'micro.f1=good' is not METRIC=VALUE", id="a word"),
        pytest.param("micro.f1=nan", "--fail-under 'micro.f1=nan' is not METRIC=VALUE", id="not a number"),
        pytest.param("f1=1", "--fail-under: more than one metric 'f1'", id="ambiguous"),
        pytest.param("f2=1", "--fail-under: no metric 'f2'", id="unknown"),
        pytest.param("seed=0", "--fail-under: no metric 'seed'", id="no metric at all"),
        pytest.param("micro.tp=1", "--fail-under: no metric 'micro.tp'", id="a count"),
    ],
)
def test_a_threshold_that_cannot_be_held_is_refused_before_anything_is_scored(evaluate, wanted, message):
    shown = evaluate("detection", "--fail-under", wanted, "--json", "--out", "scores")
    assert (shown.code, shown.out) == (2, "")
    assert shown.errors == [message]
    assert not Path("scores").exists()


def test_details_never_replace_what_is_scored(evaluate, tmp_path):
    Path("folder").mkdir()
    for place, what in (("folder", "a folder"), ("detection.jsonl", "what is scored")):
        before = {path: path.read_bytes() for path in Path().glob("*.jsonl")}
        shown = evaluate("detection", "--details", place, "--out", "scores")
        assert (shown.code, shown.errors) == (2, [f"--details {place} is {what}"])
        assert {path: path.read_bytes() for path in Path().glob("*.jsonl")} == before
        assert not Path("scores").exists()


def test_every_threshold_counts(evaluate):
    line = ("--fail-under", "micro.f1=60", "--fail-under", "micro.recall=90", "--out", "scores")
    shown = evaluate("detection", *line)
    assert shown.code == 5
    assert "micro.recall" in shown.errors[0]
    assert Path("scores/result.json").is_file()


# ---- Models


def score_world(world: World, benchmark: str, model: Path | str, *options: object) -> Shown:
    return run("evaluate", benchmark, "-d", world.records, "--model", model, "--max-tokens", 40, *options)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_model_that_knows_the_answers_scores_100(rft3d, world, taught, benchmark):
    document = score_world(world, benchmark, taught, "--json", "--out", "scores").document
    value = {"detection": document.get("micro"), "scanrefer": document.get("overall"), "vsibench": document}[benchmark]
    key = {"detection": "f1", "scanrefer": "acc@0.5", "vsibench": "overall"}[benchmark]
    assert value[key] == 100.0
    about = document["model"]
    # Two frames: what its records have and what it was trained on, not the 32 of the field.
    assert (about["name"], about["frames"]) == (str(taught), 2)
    assert about["decoding"] == {"greedy": True, "max_tokens": 40, "repetition_penalty": 1.0}
    assert set(about["sha256"]) == {"model.safetensors"}
    wanted = {"detection": DETECTION_ANSWER, "scanrefer": GROUNDING_ANSWER, "vsibench": "1"}[benchmark]
    (line,) = Path("scores/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    answer = json.loads(line)
    assert (answer["id"], answer["prediction"]) == (OF_WORLD[benchmark], wanted)


def test_saved_answers_of_a_model_score_as_the_model_did(rft3d, world, taught):
    first = score_world(world, "detection", taught, "--json", "--out", "scores").document
    again = rft3d("evaluate", "detection", "-d", world.records, "-p", "scores/predictions.jsonl", "--json").document
    changing = {"run", "model", "predictions", "details", "damaged_clips"}
    assert {key: first[key] for key in first.keys() - changing} == {key: again[key] for key in again.keys() - changing}


def test_a_model_that_knows_nothing_gets_a_result_too(rft3d, world):
    shown = score_world(world, "detection", world.fresh, "--json")
    assert shown.document["micro"]["tp"] == 0
    assert shown.document["unreadable"] == 1
    assert "wrote   eval/detection/fresh/result.json" in shown.err
    assert json.loads(Path("eval/detection/fresh/result.json").read_text(encoding="utf-8")) == shown.document


def test_sampled_answers_follow_their_seed(rft3d, world):
    texts = []
    for seed in (1, 1, 2):
        options = ("--sample", "--seed", seed, "--out", "scores", "--fresh", "--json")
        shown = score_world(world, "detection", world.fresh, *options)
        assert shown.document["model"]["decoding"]["seed"] == seed
        texts.append(Path("scores/predictions.jsonl").read_text(encoding="utf-8"))
    assert texts[0] == texts[1] != texts[2]


def test_a_dry_run_says_what_would_be_asked_and_writes_nothing(rft3d, world, tmp_path):
    shown = score_world(world, "detection", world.fresh, "--dry-run")
    assert (shown.code, shown.out) == (0, "")
    assert f"would ask {world.fresh} 1 questions and write eval/detection/fresh/" in shown.err
    assert not any(tmp_path.iterdir())


def test_a_dry_run_lists_missing_media_and_a_missing_model_together(rft3d, world):
    line = ("evaluate", "detection", "-d", world.records, "--model", "nonsense", "--media-root", "nowhere")
    for dry in ((), ("--dry-run",)):
        shown = rft3d(*line, *dry)
        assert shown.code == 3
        assert "1 of 1 media files are missing, first nowhere/clip.mp4" in shown.errors[0]
        assert shown.errors[1] == "model nonsense does not exist"
        assert "--media-root DIR" in shown.hint
        assert "rft3d models list" in shown.hint


def test_only_the_media_that_are_asked_about_must_be_there(rft3d, world):
    known = record("detection", "<image>\n<image>\nfind", "", {"boxes": []}, name="first")
    lost = known.model_copy(update={"id": "second", "video": known.video.model_copy(update={"path": "lost.mp4"})})
    with inside(world.folder):
        write_records(Path("half.jsonl"), [known, lost])
    line = ("evaluate", "detection", "-d", world.folder / "half.jsonl", "--model", world.fresh, "--dry-run")
    assert rft3d(*line).code == 3
    assert rft3d(*line, "--limit", 1).code == 0


@pytest.mark.parametrize(
    ("known", "options", "penalty"),
    [
        pytest.param(1.05, (), 1.05, id="a model from elsewhere brings one"),
        pytest.param(None, (), 1.0, id="or does not"),
        pytest.param("much", (), 1.0, id="or says nonsense"),
        pytest.param(1.05, ("--repetition-penalty", 1), 1.0, id="the command decides"),
    ],
)
def test_the_repetition_penalty_is_the_checkpoint_s_and_said(rft3d, world, tmp_path, known, options, penalty):
    model = tmp_path / "theirs"
    shutil.copytree(world.fresh, model)
    (model / "rft3d.json").unlink(missing_ok=True)
    habits = json.loads((model / "generation_config.json").read_text()) if known is None else {}
    habits.pop("repetition_penalty", None)
    habits |= {} if known is None else {"repetition_penalty": known}
    (model / "generation_config.json").write_text(json.dumps(habits), encoding="utf-8")
    if isinstance(known, str):
        shown = score_world(world, "vsibench", model, "--dry-run")
        assert shown.code == 0
        return
    document = score_world(world, "vsibench", model, *options, "--json").document
    assert document["model"]["decoding"]["repetition_penalty"] == penalty


@pytest.mark.parametrize(
    ("style", "longest", "asks"), [("direct", 16, "a single word or phrase."), ("think", 1024, "between <think> and")]
)
def test_thinking_is_asked_for_with_a_limit_of_its_own(rft3d, world, monkeypatch, style, longest, asks):
    seen = []

    def answer_batch(model: object, processor: object, prompts: list, decoding: predict.Decoding, first: int) -> list:
        seen.append(decoding.max_tokens)
        seen.append(processor.tokenizer.decode(prompts[0].input_ids))
        return ["<think>two</think><answer>1</answer>"] * len(prompts)

    monkeypatch.setattr(predict, "answer_batch", answer_batch)
    line = ("evaluate", "vsibench", "-d", world.records, "--model", world.fresh, "--answer-style", style, "--json")
    document = rft3d(*line).document
    assert seen[0] == longest
    assert asks in seen[1]
    assert document["overall"] == (100.0 if style == "think" else 0.0)


def test_quiet_prints_the_headline_number_alone(evaluate):
    shown = evaluate("vsibench", "--quiet")
    assert (shown.code, shown.out, shown.err) == (0, "73.3\n", "")
    assert evaluate("vsibench", "--quiet", "--json").code == 2


def test_brief_is_the_same_score_without_the_rest(evaluate):
    whole, brief = evaluate("vsibench", "--json").document, evaluate("vsibench", "--brief", "--json").document
    assert brief["overall"] == whole["overall"]
    assert brief["intervals"] == {}
    assert "other_scorer" not in brief
    assert set(brief) == set(whole) - {"other_scorer"}


@pytest.mark.parametrize(
    ("data", "options", "problem"),
    [
        pytest.param("predictions.jsonl", ("--model", "tiny", "--fresh"), "would replace", id="data named as answers"),
        pytest.param("frames.jsonl", ("--model", "tiny"), "would replace", id="data named as frames"),
        pytest.param("mine.jsonl", ("--model", "tiny", "--details", "out/predictions.jsonl"), "a file of --out",
                     id="details over answers"),
        pytest.param("mine.jsonl", ("--model", "tiny", "-p", "said.jsonl"), "--predictions are answers already",
                     id="a model and answers"),
    ],
)  # fmt: skip
def test_own_names_never_replace_what_is_read_or_kept(rft3d, data, options, problem):
    Path("out").mkdir()
    write_records(Path("out") / data, RECORDS["vsibench"])
    write_predictions(Path("said.jsonl"), SAID["vsibench"])
    before = (Path("out") / data).read_bytes()
    shown = rft3d("evaluate", "vsibench", "--data", f"out/{data}", "--out", "out", *options)
    assert shown.code == 2
    assert problem in shown.errors[0]
    assert (Path("out") / data).read_bytes() == before


def test_scores_of_others_do_not_join_a_model_s_answers(rft3d, world):
    assert score_world(world, "vsibench", world.fresh, "--out", "mine").code == 0
    before = Path("mine/result.json").read_bytes()
    write_predictions(Path("said.jsonl"), {"number": "1"})
    line = ("evaluate", "vsibench", "-d", world.records, "--out", "mine")
    shown = rft3d(*line, "-p", "said.jsonl")
    assert (shown.code, Path("mine/result.json").read_bytes()) == (2, before)
    assert "holds the answers of a model" in shown.errors[0]
    assert rft3d(*line, "-p", "mine", "--scorer", "robust").code == 0
    assert json.loads(Path("mine/result.json").read_text())["scorer"] == "robust"
