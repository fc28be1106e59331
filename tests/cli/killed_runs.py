"""Runs of ``rft3d prepare`` for tests, in this process or in one that kills itself after so many parts."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from rft3d_cli.commands.prepare import app
from rft3d_cli.errors import Rft3dError

KILLED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from rft3d_cli.prepare import unfinished
add = unfinished.Unfinished.add
def killing(self, part):
    add(self, part)
    if len(self.finished) == int(sys.argv[1]):
        os.kill(os.getpid(), int(sys.argv[2]))
unfinished.Unfinished.add = killing
from rft3d_cli.cli import main
main(sys.argv[3:])
"""


def good(line: str) -> str:
    result = CliRunner().invoke(app, shlex.split(line))
    assert result.exit_code == 0, (result.exception, result.output)
    return result.output


def refused(line: str) -> Rft3dError:
    result = CliRunner().invoke(app, shlex.split(line))
    assert isinstance(result.exception, Rft3dError), (result.exception, result.output)
    return result.exception


def files(out: Path) -> dict[str, bytes]:
    """The record file, its card, but for the file's own name, and its rejects."""
    card = json.loads(out.with_suffix(".card.json").read_text())
    del card["records"]["file"]
    rejects = out.with_suffix(".rejects.jsonl")
    return {
        "records": out.read_bytes(),
        "card": json.dumps(card).encode(),
        "rejects": rejects.read_bytes() if rejects.exists() else b"",
    }


def killed(command: str, after: int, number: int, script: str = KILLED) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", script, str(after), str(number), "prepare", *shlex.split(command)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
