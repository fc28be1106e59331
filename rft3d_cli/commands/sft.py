"""``rft3d sft``: supervised warm-up."""

from __future__ import annotations

from rft3d_cli.commands._train import DryRun, Json, Out, Overrides, Quiet, RecipeOption, Resume, train

EPILOG = "$ rft3d sft --recipe tiny-sft\n\n$ rft3d sft --recipe det-sft data.train=mine.jsonl --dry-run"


def sft(
    recipe: RecipeOption,
    overrides: Overrides = None,
    out: Out = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Supervised warm-up: teach a model the answers of records."""

    def run(*args: object, **kwargs: object) -> dict[str, object]:
        from rft3d_cli.train.sft import run_sft

        return run_sft(*args, **kwargs)  # type: ignore[arg-type]

    train("sft", recipe, overrides, out, resume, dry_run, as_json, quiet, run)
