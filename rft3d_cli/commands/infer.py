"""``rft3d infer``: one question about one video, answered in words, numbers and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

EPILOG = '$ rft3d infer clip.mp4 "where is the chair"\n\n$ rft3d infer clip.mp4 "find every chair" --model runs/det'

Task = Literal["auto", "grounding", "detection", "text"]


def infer(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video file, or a folder of frames.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask.")],
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="NAME", help="A shipped model, a folder, a run, or a hub name.")
    ] = "tiny",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Where pictures go; by default look/VIDEO.",
                                  show_default=False)
    ] = None,
    task: Annotated[Task, typer.Option(help="What is asked for; by default told from the question.")] = "auto",
    frames: Annotated[
        int | None, typer.Option(min=1, max=512, metavar="INT", help="Frames to show; by default the model's own.",
                                 show_default=False)
    ] = None,
    fov: Annotated[
        float | None, typer.Option(min=10, max=170, metavar="DEG", show_default=False,
                                   help="Horizontal field of view, where no camera file is there.")
    ] = None,
    camera: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Camera file; by default VIDEO's name with .camera.json.",
                                  show_default=False)
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="INT", help="Longest answer, in tokens.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print answer.json.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the answer and nothing else.")] = False,
) -> None:  # fmt: skip
    """Ask one question about one video; draw the answer."""
    from rft3d_cli import console
    from rft3d_cli.commands.prepare._shared import check_forms
    from rft3d_cli.show.answer import named
    from rft3d_cli.show.infer import ask

    check_forms(as_json, quiet)

    def say(name: str, text: str) -> None:
        if not quiet:
            console.note(f"  {name:<8}{text}")

    document: dict[str, Any] = ask(
        video,
        question,
        model=model,
        out=out or Path("look") / named(video).stem,
        task=task,
        frames=frames,
        fov=fov,
        camera_file=camera,
        max_tokens=max_tokens,
        say=say,
    )
    if as_json:
        console.print_json(document)
        return
    for line in document["words"]:
        console.out().print(console.clean(line), markup=False)
