"""What the ``prepare`` commands share: options, checks, progress and the report."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from rft3d_cli import console

if TYPE_CHECKING:
    from rft3d_cli.errors import Rft3dError
    from rft3d_cli.prepare._view_filter import ViewRule
    from rft3d_cli.prepare.pictures import Places
    from rft3d_cli.prepare.pipeline import Policy, Report

ORDER = (
    *("rooms", "scannet", "embodiedscan", "scanrefer", "scan2cap", "sqa3d", "vsibench", "vgllm", "qa"),
    *("posed", "video", "spatialqa", "cot", "merge", "export"),
)


class _Ordered(TyperGroup):
    """Published data sets, then one's own, then what is made of records."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


app = typer.Typer(
    cls=_Ordered,
    no_args_is_help=True,
    help="Convert published data sets or your own to records, build synthetic rooms, or make questions and answers.",
    epilog="$ rft3d prepare rooms --out data/rooms\n\n"
    "$ rft3d prepare scannet --scans data/rooms/scans --annotations data/rooms/embodiedscan_infos_train.json "
    "-o data/rooms/train.jsonl",
)

# Panels of the help text.
INPUT, CONTENT, OUTPUT, RUN = "Input", "Content", "Output", "Run"

SCANNET_HINT = (
    "ScanNet is given on request at http://www.scan-net.org; synthetic rooms need nothing: "
    "rft3d prepare rooms --out data/rooms"
)
EMBODIEDSCAN_HINT = (
    "EmbodiedScan's annotations are given on request at https://github.com/InternRobotics/EmbodiedScan; "
    "synthetic rooms bring their own: rft3d prepare rooms --out data/rooms"
)

Scans = Annotated[
    Path,
    typer.Option(
        "--scans", metavar="DIR", help="Scans as downloaded: DIR/scene0000_00/scene0000_00.sens.", rich_help_panel=INPUT
    ),
]
Posed = Annotated[
    Path | None,
    typer.Option(
        "--posed-images",
        metavar="DIR",
        help="Exported frames, DIR/SCENE/00000.jpg: no .sens is read.",
        rich_help_panel=INPUT,
    ),
]
SplitName = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="[train|val|test|FILE]",
        help="Name of the split, or a file with one scene a line; by default read from the input's name.",
        rich_help_panel=INPUT,
    ),
]
Decimals = Annotated[
    int, typer.Option("--decimals", min=1, max=6, help="Digits in the answer text.", rich_help_panel=CONTENT)
]
InView = Annotated[
    float,
    typer.Option(
        "--in-view",
        metavar="SHARE",
        min=0,
        max=1,
        help="Least share of a box's volume that a frame which lists it has in view; 0 is VG-LLM's rule.",
        rich_help_panel=CONTENT,
    ),
]
MinArea = Annotated[
    float,
    typer.Option(
        "--min-area",
        metavar="PIXELS",
        min=0,
        help="Least area that a box's projection covers in such a frame, in the pictures' pixels.",
        rich_help_panel=CONTENT,
    ),
]
FirstFrame = Annotated[
    bool,
    typer.Option("--first-frame", help="Only what a clip's first frame lists is a target.", rich_help_panel=CONTENT),
]
Media = Annotated[
    Path | None,
    typer.Option(
        "--media",
        metavar="DIR",
        help="Where extracted media go; by default media/ beside the output.",
        rich_help_panel=OUTPUT,
    ),
]
MediaRoot = Annotated[
    Path | None,
    typer.Option(
        "--media-root",
        metavar="DIR",
        help="What the records' media paths are relative to; by default the output's folder where the media lie in it.",
        rich_help_panel=OUTPUT,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, show_default="CPU count", help="Processes; any number, same bytes.", rich_help_panel=RUN
    ),
]
OnError = Annotated[
    Literal["quarantine", "stop"],
    typer.Option("--on-error", help="What to do about a part that cannot be used.", rich_help_panel=RUN),
]
MaxBad = Annotated[
    float,
    typer.Option("--max-bad", min=0, max=1, help="Fail if more than this share cannot be used.", rich_help_panel=RUN),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Say what would be written; the exit code is that of a real run.", rich_help_panel=RUN
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Keep what an interrupted run has finished.", rich_help_panel=RUN),
]
Shard = Annotated[
    str,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="The I-th of N shares of the work, for array jobs; rft3d prepare merge joins them.",
        rich_help_panel=RUN,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=1,
        show_default="all",
        help="Only the first N of what there is: scenes, or rows of a file. --shard shares them out.",
        rich_help_panel=RUN,
    ),
]
HeldOutFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--held-out",
        metavar="FILE",
        help="More scenes to leave out of a train split, beside those of VSI-Bench and the val splits: one a line, "
        "VSI-Bench's questions, or records. May be repeated.",
        rich_help_panel=INPUT,
    ),
]
AllowEvaluation = Annotated[
    bool,
    typer.Option(
        "--allow-evaluation-scenes",
        help="Keep scenes in a train split that benchmarks evaluate on.",
        rich_help_panel=INPUT,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=RUN)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the path of the result.", rich_help_panel=RUN)]


def check_forms(as_json: bool, quiet: bool) -> None:
    """Refuse both machine forms at once."""
    from rft3d_cli.errors import UsageError

    if as_json and quiet:
        raise UsageError("--json and --quiet exclude each other")


def two_numbers(text: str, separator: str, option: str, example: str) -> tuple[int, int]:
    """An option like 160x120."""
    from rft3d_cli.errors import UsageError

    first, _, second = text.lower().partition(separator)
    if not (first.isdecimal() and second.isdecimal()):
        raise UsageError(f"{option} {text} is not two numbers", f"write it like {option} {example}")
    return int(first), int(second)


def no_folder(path: Path, what: str, hint: str) -> Rft3dError | None:
    """The problem of a folder that is not there."""
    from rft3d_cli.errors import DataError

    return None if path.is_dir() else DataError(f"there is no folder {path} ({what})", hint)


def no_file(path: Path, what: str, hint: str) -> Rft3dError | None:
    """The problem of a file that is not there."""
    from rft3d_cli.errors import DataError

    return None if path.is_file() else DataError(f"there is no file {path} ({what})", hint)


def check_inputs(*problems: Rft3dError | None) -> None:
    """Raise all problems together."""
    from rft3d_cli.errors import ProblemList

    found = [problem for problem in problems if problem is not None]
    if found:
        raise found[0] if len(found) == 1 else ProblemList(found)


def media_places(
    out: Path, scans: Path, posed: Path | None, media: Path | None, media_root: Path | None, dry_run: bool
) -> tuple[Places, Path]:
    """Where frames come from and go to, and the media root."""
    from rft3d_cli.errors import UsageError
    from rft3d_cli.prepare.pictures import Places
    from rft3d_cli.prepare.pipeline import Store, check_out, lies_in, relative_name

    check_out(out)
    if posed is not None and media is not None:
        raise UsageError("--media is for frames that are extracted; --posed-images extracts none")
    folder = posed or media or out.parent / "media"
    outside = folder.parent if posed is not None else folder
    root = media_root or (out.parent if lies_in(folder, out.parent) else outside)
    return Places(scans, posed, Store(folder, relative_name(folder, root), write=not dry_run)), root


def work_policy(
    workers: int | None,
    on_error: str,
    max_bad: float,
    dry_run: bool,
    resume: bool = False,
    shard: str = "1/1",
    limit: int | None = None,
    held_out: list[Path] | None = None,
    allow_evaluation_scenes: bool = False,
) -> Policy:
    """The policy that the options describe."""
    from rft3d_cli.errors import UsageError
    from rft3d_cli.prepare.heldout import HeldOut
    from rft3d_cli.prepare.pipeline import Policy, cpu_count

    number, count = two_numbers(shard, "/", "--shard", "2/4")
    if not 1 <= number <= count:
        raise UsageError(f"--shard {shard}: there is no such share", "the shares of four are 1/4, 2/4, 3/4 and 4/4")
    scenes = HeldOut(tuple(held_out or ()), allow=allow_evaluation_scenes)
    return Policy(workers or cpu_count(), on_error == "stop", max_bad, dry_run, resume, (number, count), limit, scenes)


def view_rule(in_view: float, min_area: float, first_frame: bool = False) -> ViewRule | None:
    """The rule that the options describe; None for all that annotations list."""
    from rft3d_cli.prepare._view_filter import ViewRule

    rule = ViewRule(in_view, min_area, first_frame)
    return rule if rule.options() else None


@contextmanager
def ticking(label: str, quiet: bool) -> Iterator[Callable[[int], Callable[[], object]]]:
    """What a prepare calls with its number of steps, to get what it calls after each."""
    from contextlib import ExitStack

    try:
        with ExitStack() as stack:

            def begin(total: int) -> Callable[[], object]:
                return (lambda: None) if quiet else stack.enter_context(console.progress(label, total)).advance

            yield begin
    except KeyboardInterrupt:
        console.note("  stopped; with --resume the same command keeps what is finished")
        raise


def announce(annotations: Path | None, quiet: bool) -> None:
    """Say what takes a while."""
    size = 0 if annotations is None else annotations.stat().st_size
    if size > 50_000_000 and not quiet:
        console.note(f"reading {annotations} ({size / 1e6:,.0f} MB)")


def from_rooms(source: Path | None) -> bool:
    """Whether a file or folder lies in a data set of rooms."""
    return source is not None and (source.parent / "rooms.card.json").exists()


def next_command(report: Report, split: str, benchmark: str, recipe: str) -> str:
    """The command that uses what was written: train on a train split, evaluate on any other."""
    elsewhere = report.media_root != report.out.parent
    if split == "train":
        root = [f"data.media_root={report.media_root}"] if elsewhere else []
        return shell_line("rft3d grpo --recipe", recipe, f"data.train={report.out}", *root)
    place: list[str | Path] = ["--media-root", report.media_root] if elsewhere else []
    return shell_line("rft3d evaluate", benchmark, "--data", report.out, *place)


def shell_line(start: str, *words: str | Path) -> str:
    """A command line to copy."""
    return " ".join([start, *(shlex.quote(str(word)) for word in words)])


def show(report: Report, name: str, following: str, as_json: bool, quiet: bool) -> None:
    """Print the report: results to stdout, warnings and advice to stderr."""
    from rft3d_cli.prepare.summary import document, lines, warnings

    for warning, scenes in warnings(report).items():
        some = ", ".join(scenes[:3]) + (", …" if len(scenes) > 3 else "")
        console.warn(f"{warning} ({len(scenes):,}: {some})")
    if as_json:
        console.print_json({**document(report, name), "next": following})
    elif quiet:
        typer.echo(report.out)
    else:
        for line in lines(report):
            typer.echo(console.clean(line))
        if not report.dry_run:
            console.note(f"  next     {following}")
