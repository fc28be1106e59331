"""``rft3d grpo``: reinforcement fine-tuning with verifiable 3D rewards."""

from __future__ import annotations

from rft3d_cli.commands._train import DryRun, Json, Out, Overrides, Quiet, RecipeOption, Resume, train

EPILOG = "$ rft3d grpo --recipe tiny-det\n\n$ rft3d grpo --recipe det lr=2e-6 rollout.group=16 --dry-run"


def grpo(
    recipe: RecipeOption,
    overrides: Overrides = None,
    out: Out = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """GRPO with verifiable 3D rewards: reward a model's own answers."""

    def run(*args: object, **kwargs: object) -> dict[str, object]:
        from rft3d_cli.train.grpo import run_grpo

        return run_grpo(*args, **kwargs)  # type: ignore[arg-type]

    train("grpo", recipe, overrides, out, resume, dry_run, as_json, quiet, run)
