"""The options of ``rft3d evaluate``, by panel of its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rft3d_cli.commands._complete import complete_model, complete_question_type

_IN, _ASK, _SCORE, _OUT = "Input", "Asking a model", "Scoring", "Output"

Data = Annotated[
    Path, typer.Option("--data", "-d", metavar="FILE", help="Records (rft3d prepare writes them).", rich_help_panel=_IN)
]
VsiData = Annotated[
    Path,
    typer.Option("--data", "-d", metavar="FILE", rich_help_panel=_IN,
                 help="Records, or VSI-Bench's test.jsonl or parquet as published."),
]  # fmt: skip
Predictions = Annotated[
    Path | None,
    typer.Option("--predictions", "-p", metavar="FILE", show_default=False, rich_help_panel=_IN,
                 help='Saved answers to score: {"id", "prediction"} a line, a log of another harness, or the folder '
                 "of an evaluation; no model is loaded."),
]  # fmt: skip
MediaRoot = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of the media; by default the data's own.",
                              show_default=False, rich_help_panel=_IN)
]  # fmt: skip
Types = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="Only these question types.",
        show_default=False,
        rich_help_panel=_IN,
        autocompletion=complete_question_type,
    ),
]
Subset = Annotated[
    str | None, typer.Option(metavar="NAME", help="Only debiased, pruned, unique or multiple.", show_default=False,
                             rich_help_panel=_IN)
]  # fmt: skip
Ids = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Only the ids in a file, one a line.", show_default=False,
                              rich_help_panel=_IN)
]  # fmt: skip
PrunedIds = Annotated[
    Path | None, typer.Option(metavar="FILE", show_default=False, rich_help_panel=_IN,
                              help="pruned_ids.txt, for files that do not say what the debiased cut leaves out.")
]  # fmt: skip
PerType = Annotated[
    int | None, typer.Option(min=1, metavar="INT", show_default=False, rich_help_panel=_IN,
                             help="Draw at most so many of each question type, by --seed.")
]  # fmt: skip
Limit = Annotated[
    int | None, typer.Option(min=1, metavar="INT", help="Only the first so many records.", show_default=False,
                             rich_help_panel=_IN)
]  # fmt: skip
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="NAME", autocompletion=complete_model, rich_help_panel=_ASK,
                 show_default="tiny", help="A shipped model, a folder, a run, or a hub name.")
]  # fmt: skip
Frames = Annotated[
    int | None, typer.Option(min=1, max=512, metavar="INT", show_default=False, rich_help_panel=_ASK,
                             help="Frames of a clip; by default what the records or the model say."),
]  # fmt: skip
MaxTokens = Annotated[
    int | None, typer.Option(min=1, metavar="INT", show_default=False, rich_help_panel=_ASK,
                             help="Longest answer, in tokens; by default by task and --answer-style.")
]  # fmt: skip
Penalty = Annotated[
    float | None,
    typer.Option("--repetition-penalty", min=0.5, max=2, metavar="FLOAT", rich_help_panel=_ASK,
                 show_default="what a model from elsewhere comes with, else 1",
                 help="Makes tokens that were read or said less likely; the public 3D scores were made with 1.05."),
]  # fmt: skip
Sample = Annotated[
    bool, typer.Option("--sample", help="Sample answers at temperature 1; by default greedy.", rich_help_panel=_ASK)
]
Blind = Annotated[
    bool, typer.Option("--blind", help="Show no frames: how much is guessed from the words?", rich_help_panel=_ASK)
]
Batch = Annotated[
    int | None, typer.Option(min=1, metavar="INT", help="Records a forward pass; by default by the clips' length.",
                             show_default=False, rich_help_panel=_ASK)
]  # fmt: skip
Confidence = Annotated[
    bool, typer.Option("--confidence", rich_help_panel=_ASK,
                       help="Also keep how likely the model finds each box: a precision-recall curve, and AP.")
]  # fmt: skip
Shard = Annotated[
    str | None, typer.Option(metavar="I/N", show_default=False, rich_help_panel=_ASK,
                             help="Only ask share I of N; repeated without it, the command scores all shares.")
]  # fmt: skip
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Throw away the answers that --out holds; by default the work goes on.",
                       rich_help_panel=_ASK)
]  # fmt: skip
Scorer = Annotated[
    Literal["official", "robust"],
    typer.Option(rich_help_panel=_SCORE,
                 help="official reads as the public scorer does; robust reads tolerantly and matches in any order."),
]  # fmt: skip
Style = Annotated[
    Literal["direct", "think"],
    typer.Option(rich_help_panel=_SCORE,
                 help="think asks for reasoning, with its own token limit, and takes answers out of <answer>."),
]  # fmt: skip
Seed = Annotated[
    int, typer.Option(min=0, metavar="INT", help="Of intervals, draws and sampled answers.", rich_help_panel=_SCORE)
]
MinConfidence = Annotated[
    float | None, typer.Option(metavar="LOGP", show_default=False, rich_help_panel=_SCORE,
                               help="Leave out boxes of which the model was less sure: a mean log-probability.")
]  # fmt: skip
ProposalFile = Annotated[
    Path | None,
    typer.Option("--proposals", metavar="FILE", show_default=False, rich_help_panel=_SCORE,
                 help="scannet_val_pred_box.json: also score each answer as the proposed box that it overlaps most."),
]  # fmt: skip
Angles = Annotated[
    Literal["intrinsic", "extrinsic"] | None,
    typer.Option(show_default="what the model says, else intrinsic", rich_help_panel=_SCORE,
                 help="What the model means by a box's angles: extrinsic before 28 November 2025."),
]  # fmt: skip
Brief = Annotated[
    bool, typer.Option("--brief", help="The score alone: no intervals, no second scorer.", rich_help_panel=_SCORE)
]
FailUnder = Annotated[
    list[str] | None,
    typer.Option(metavar="METRIC=VALUE", help="Exit with 5 where a metric is below this.", show_default=False,
                 rich_help_panel=_SCORE),
]  # fmt: skip
Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", show_default=False, rich_help_panel=_OUT,
                              help="Folder of answers and result; with a model by default eval/BENCHMARK/MODEL."),
]  # fmt: skip
Details = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Also write one line a record here: its score and why.", show_default=False,
                 rich_help_panel=_OUT),
]  # fmt: skip
Context = Annotated[
    bool, typer.Option("--context", help="Also show published results of the field.", rich_help_panel=_OUT)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check data, media and model, and stop.", rich_help_panel=_OUT)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.", rich_help_panel=_OUT)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the headline number alone.", rich_help_panel=_OUT)]
