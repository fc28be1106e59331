"""``rft3d infer``: questions about videos, answered in words, numbers and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rft3d_cli.commands._complete import complete_model

EPILOG = (
    '$ rft3d infer clip.mp4 "where is the chair"\n\n'
    '$ rft3d infer clip.mp4 "find every chair" "how far is the bed from the desk" --model runs/det\n\n'
    "$ rft3d infer videos/ --questions questions.txt --json\n\n"
    '$ rft3d infer clip.mp4 "which is larger" --options "bed,desk"'
)

Task = Literal["auto", "detection", "grounding", "choice", "number", "text"]

ASKING, OUTPUT = "How to ask", "Output"


def _some(context: typer.Context, questions: list[str] | None) -> list[str] | None:
    """Questions stand on the command line, or in a file."""
    if not questions and not context.params.get("questions") and not context.resilient_parsing:
        raise typer.BadParameter("ask something, or name a file: --questions FILE")
    return questions


def infer(
    video: Annotated[
        Path, typer.Argument(metavar="VIDEO", help="A video file, a folder of frames, or a folder of videos.",
                             show_default=False)
    ],
    question: Annotated[
        list[str] | None, typer.Argument(metavar="QUESTION...", help="What to ask; several are asked of one model.",
                                         callback=_some, show_default=False)
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="NAME", autocompletion=complete_model,
                          help="A shipped model, a folder, a run, or a hub name.")
    ] = "tiny",
    questions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="More questions, one a line.", is_eager=True,
                                  show_default=False, rich_help_panel=ASKING)
    ] = None,
    task: Annotated[
        Task, typer.Option(help="What is asked for; by default told from each question.", rich_help_panel=ASKING)
    ] = "auto",
    options: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Options to choose among, between commas.",
                                 show_default=False, rich_help_panel=ASKING)
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, max=512, metavar="INT", help="Frames to show; by default the model's own.",
                                 show_default=False, rich_help_panel=ASKING)
    ] = None,
    fov: Annotated[
        float | None, typer.Option(min=10, max=170, metavar="DEG", show_default=False, rich_help_panel=ASKING,
                                   help="Horizontal field of view, where no camera file is there.")
    ] = None,
    camera: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Camera file; by default VIDEO's name with .camera.json.",
                                  show_default=False, rich_help_panel=ASKING)
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="INT", help="Longest answer, in tokens.", show_default=False,
                                 rich_help_panel=ASKING)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Where answers go; by default look/VIDEO.",
                                  show_default=False, rich_help_panel=OUTPUT)
    ] = None,
    no_video: Annotated[
        bool, typer.Option("--no-video", help="Write no annotated video.", rich_help_panel=OUTPUT)
    ] = False,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Also write scene.rrd, for Rerun's viewer.", rich_help_panel=OUTPUT)
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be asked; load no model, write nothing.",
                           rich_help_panel=OUTPUT)
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print answer.json, or answers.json.", rich_help_panel=OUTPUT)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print the answers and nothing else.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:  # fmt: skip
    """Ask questions about videos; draw the answers.

    "where is the chair" asks for one box, "find every chair" for all of a class, "how many", "how far" and "how large"
    for a number; a question with options "A. … B. …" for one of them. Anything else is answered in words.
    """
    from rft3d_cli import console
    from rft3d_cli.commands.prepare._shared import check_forms
    from rft3d_cli.errors import ProblemList
    from rft3d_cli.show.infer import Wish, ask, look, make_plan
    from rft3d_cli.show.infer_questions import option_list, read_questions

    check_forms(as_json, quiet)

    def say(name: str, text: str) -> None:
        if not quiet:
            console.note(f"  {name:<8}{text}")

    texts = [*(question or []), *(read_questions(questions) if questions is not None else [])]
    wish = Wish(
        model=model,
        out=out,
        task=task,
        options=option_list(options) if options is not None else (),
        frames=frames,
        fov=fov,
        camera_file=camera,
        max_tokens=max_tokens,
        movie=not no_video,
        rerun=rerun,
    )
    plan = make_plan(video, texts, wish)
    result, lost = (look if dry_run else ask)(plan, say)
    if as_json:
        console.print_json(result)
    elif dry_run:
        _print_plan(result)
    else:
        _print_answers(result)
    if lost:
        raise lost[0] if len(lost) == 1 else ProblemList(lost)


def _print_answers(result: dict[str, Any]) -> None:
    """The answers, under their questions where there are several, and under their videos where there are several."""
    several = "videos" in result
    for document in result["videos"] if several else [result]:
        if "error" in document:
            continue
        if several:
            _line(document["video"]["path"])
        indent = "  " if several else ""
        asked = document["answers"]
        for answer in asked:
            if len(asked) > 1:
                _line(f"{indent}{answer['question']}")
            for line in answer["words"]:
                _line(f"{indent}{'  ' if len(asked) > 1 else ''}{line}")


def _print_plan(result: dict[str, Any]) -> None:
    for video in result["videos"]:
        if "error" in video:
            continue
        _line(f"{video['path']} -> {video['out']}")
        for asked in video["asked"]:
            unit = f" in {asked['unit']}" if asked["unit"] else ""
            _line(f"  {asked['task']}{unit}, {len(asked['frames'])} frames: {asked['question']}")


def _line(text: str) -> None:
    from rft3d_cli import console

    console.out().print(console.clean(text), markup=False)
