"""Every command of the README, typed in the order in which it stands there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from command_line import Shown, inside, run

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

SHORTER = {
    "prepare rooms": ("--scenes", 6, "--size", "64x48"),
    "sft --recipe tiny-sft": ("train.steps=2", "data.train=data/rooms/train.jsonl", "data.eval=null"),
    "grpo --recipe tiny-det": ("train.steps=2", "rollout.prompts=2", "rollout.group=2", "train.micro_batch=4",
                               "rollout.max_tokens=24", "data.eval=null"),
    "evaluate detection": ("--limit", 3, "--max-tokens", 48),
    "evaluate vsibench": ("--limit", 6),
}  # fmt: skip
"""What a command is given besides, to take seconds: fewer rooms, fewer steps, fewer answers."""

LACKING = ("grpo --recipe det ", "sft --recipe det-sft ")
"""Commands for which this machine has neither data nor weights: they say so, and what to do."""


LEFT = {
    "inspect data/rooms/val.jsonl --out look/val": ("look/val/index.html", "look/val/sheet.png"),
    "report runs/tiny-det": ("runs/tiny-det/report.html",),
    "evaluate detection --data data/rooms/val.jsonl --model runs/tiny-det": ("eval/detection/tiny-det/result.json",),
    "infer assets/clips/room.mp4 'find every object'": (
        "look/room/answer.json",
        "look/room/video.mp4",
        "look/room/scene.html",
    ),
}
"""What the README says that a command leaves."""


def commands() -> list[str]:
    """The lines of its ``bash`` blocks that begin with ``rft3d``, without comments."""
    blocks = re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.join(shlex.split(line, comments=True)[1:]) for line in lines if line.startswith("rft3d ")]


def typed(line: str) -> Shown:
    more = next((words for start, words in SHORTER.items() if line.startswith(start)), ())
    if line.startswith("evaluate") and "--predictions" in line:
        more = more[:2]
    return run(*shlex.split(line), *more)


@pytest.mark.slow
def test_every_command_of_the_readme_runs_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFT3D_DEBUG", "")
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    lines = commands()
    assert len(lines) > 20
    with inside(tmp_path):
        for line in lines:
            if line.startswith("rewards score"):
                answer = {"id": "nobody", "prediction": "[]"}
                Path("predictions.jsonl").write_text(json.dumps(answer) + "\n", encoding="utf-8")
            shown = typed(line)
            if line.startswith(LACKING):
                assert shown.code in (3, 4), (line, shown.err)
                assert shown.errors, line
                assert shown.hint, line
                continue
            assert shown.code == 0, (line, shown.err)
            assert "Traceback" not in shown.err
            for path in LEFT.get(line, ()):
                assert Path(path).is_file(), (line, path)


def test_what_is_shortened_is_there() -> None:
    for start in (*SHORTER, *LACKING):
        assert any(line.startswith(start) for line in commands()), start
