"""Everything private to TRL and transformers that training touches.

An upgrade of either is work in this file. Each override says which behaviour it corrects; tests/train holds a test for
each that fails without it.
"""

from __future__ import annotations

import math
import os

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import trl.trainer.grpo_trainer
import trl.trainer.utils
from accelerate.utils import broadcast, gather, gather_object, is_peft_model
from torch import Tensor
from transformers import PrinterCallback, ProgressCallback
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from rft3d_cli.models.fusion import FusedModel
from rft3d_cli.models.quiet import no_progress
from rft3d_cli.models.shared_prompt import language_model, share_prompts
from rft3d_cli.rewards.registry import RewardSet, completion_text
from rft3d_cli.train.advantages import group_advantages, token_weights
from rft3d_cli.train.data import Examples
from rft3d_cli.train.dynamic import Refill
from rft3d_cli.train.rollout import Rollout, SeesRollouts, rollout_metrics, sample
from rft3d_cli.train.shared_prompt import SharedPrompts

__all__ = ["GRPOConfig", "PolicyTrainer", "SFTConfig", "WarmupTrainer"]

# TRL projects only labelled positions through the language head on GPUs, and every position elsewhere, for the sake of
# accelerators that compile per shape. A CPU compiles nothing; half of tiny's step would go into unused logits.
_on_accelerator = trl.trainer.utils._use_triton
trl.trainer.utils._use_triton = lambda device: device.type == "cpu" or _on_accelerator(device)


class _Ours:
    """What both trainers change."""

    model: Any
    args: Any
    state: Any
    control: Any
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool

    def _send_telemetry(self) -> None:
        """TRL reports each run to its makers. We report nothing."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL writes a model card into every checkpoint folder. The run folder says more, and once."""

    def _save(self, *args: Any, **kwargs: Any) -> None:
        """Write a checkpoint's model, without transformers' bar for one shard."""
        with no_progress():
            super()._save(*args, **kwargs)  # type: ignore[misc]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Restore the weights of a checkpoint.

        Checkpoints are written with the hub's key names, and transformers loads them back without conversion and with
        ``strict=False``: every key is missing, a warning is printed, and training goes on from the initial weights
        (transformers#43701). ``from_pretrained`` knows both sets of names.
        """
        model = model if model is not None else self.model
        if is_peft_model(model) or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        # In float32, which holds every format exactly: trained weights are float32 beside frozen ones in bfloat16.
        with no_progress():
            saved = type(model).from_pretrained(resume_from_checkpoint, dtype=torch.float32)
        model.load_state_dict(saved.state_dict(), strict=True)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """One epoch, unless all steps are made: transformers makes one more when a finished run is resumed."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)  # type: ignore[misc]
        else:
            self.control.should_training_stop = True

    def quiet(self) -> None:
        """Take out transformers' own progress: a bar, or dictionaries on stdout, which is for results.

        And PEFT's model card, which it writes into every folder of an adapter.
        """
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)  # type: ignore[attr-defined]
        if is_peft_model(self.model):
            self.model.create_or_update_model_card = lambda output_dir: None


class WarmupTrainer(_Ours, SFTTrainer):
    """TRL's SFT trainer.

    Args:
        **kwargs: TRL's.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _gradients_in_buckets(self.accelerator)
        # Qwen2.5-VL's forward takes no token count, so transformers would average the means of micro-batches: a letter
        # in one would weigh as much as a whole list in another. TRL's loss, which is used, does take the count.
        self.model_accepts_loss_kwargs = True

    @property
    def _total_train_tokens(self) -> int:
        """TRL's count for the log, kept where checkpoints keep it: a resumed run goes on counting."""
        return int(self.state.num_input_tokens_seen)

    @_total_train_tokens.setter
    def _total_train_tokens(self, count: int) -> None:
        self.state.num_input_tokens_seen = count


class PolicyTrainer(_Ours, GRPOTrainer):
    """TRL's GRPO trainer with our rewards, advantages and prompt path.

    Args:
        examples: Training records.
        reward_set: Named rewards and their weights.
        std_floor: See :func:`~rft3d_cli.train.advantages.group_advantages`.
        group_loss: Normalise the loss by each group's tokens.
        shared_prompt: Compute each prompt once for its group; False leaves the computation to TRL.
        **kwargs: TRL's.
    """

    _buffered_inputs: list[dict[str, Any]] | None

    def __init__(
        self,
        *,
        examples: Examples,
        reward_set: RewardSet,
        std_floor: float,
        group_loss: bool,
        shared_prompt: bool = True,
        **kwargs: Any,
    ) -> None:
        self.examples, self.reward_set = examples, reward_set
        self.std_floor, self.group_loss = std_floor, group_loss
        self._totals = torch.empty(0)
        with no_progress():
            super().__init__(**kwargs)
        _gradients_in_buckets(self.accelerator)
        if self.ref_model is not None:
            # TRL loads the reference in one format. Where the policy's trained weights are float32 beside frozen ones
            # in bfloat16, the two would differ, and KL would not start at 0.
            for own, reference in zip(self.model.parameters(), self.ref_model.parameters(), strict=True):
                reference.data = reference.data.to(own.dtype)
            self.ref_model.requires_grad_(False)
        self.refill: Refill | None = None
        self.shared: SharedPrompts | None = None
        self._later: set[int] = set()
        if shared_prompt:
            self.shared = SharedPrompts(examples.prompt, self._tokenizer.pad_token_id)
            for model in filter(None, (self.model, self.ref_model)):
                share_prompts(language_model(self.accelerator.unwrap_model(model)))
            if self.accelerator.num_processes > 1:
                self._train_unwrapped()

    def _train_unwrapped(self) -> None:
        """Keep torch's DDP away, whose buckets are as large as all gradients: they are averaged here.

        DDP would also have given all processes the first one's weights.
        """
        prepare = self.accelerator.prepare_model

        def prepare_model(model: Any, device_placement: bool | None = None, evaluation_mode: bool = False) -> Any:
            return prepare(model, device_placement, evaluation_mode=True)

        self.accelerator.prepare_model = prepare_model
        for parameter in self.model.parameters():
            broadcast(parameter.data)

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """TRL's, in an order that depends on seed and epoch alone: a resumed run then meets the same records.

        TRL's own generator goes on from epoch to epoch, and a resumed process begins it anew.
        """
        sampler = super()._get_train_sampler(dataset)
        return _EpochSampler(
            sampler.data_source,
            sampler.mini_repeat_count,
            sampler.batch_size,
            sampler.repeat_count,
            sampler.shuffle,
            sampler.seed,
        )

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """TRL's, where prompts are shared without the shuffle, which would tear groups apart.

        All micro-batches of a rollout make one optimiser step, so their order is only that of a sum.
        """
        if self.shared is None or not self.model.training:
            return super()._prepare_inputs(generation_batch)
        parts = self.args.steps_per_generation
        if self._step % (parts * self.num_iterations) == 0 or self._buffered_inputs is None:
            rollout = self._generate_and_score_completions(generation_batch)
            # TRL's shuffle would draw this: the same seed then samples the same completions either way.
            torch.randperm(len(rollout["records"]))
            self._buffered_inputs = trl.trainer.grpo_trainer.split_tensor_dict(rollout, parts)
        part = self._step % parts
        self._later = {i for batch in self._buffered_inputs[part + 1 :] for i in batch["records"].tolist()}
        return self._buffered_inputs[part]

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's; then gradients go on into the prompts that are through, and are averaged over processes.

        torch's DDP would average in the last micro-batch's backward pass, before those of its prompts.
        """
        loss = super().training_step(*args, **kwargs)
        if self.shared is not None:
            self.shared.close(self._later)
            if self.accelerator.sync_gradients and self.accelerator.num_processes > 1:
                self._average_gradients()
        return loss

    def _average_gradients(self) -> None:
        """Mean over processes of every gradient, in pieces of some megabytes.

        A parameter that no process has a gradient of stays without one, as in a single process: given zeros, the
        optimiser would let weight decay move it.
        """
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        own = [float(parameter.grad is not None) for parameter in trained]
        having = self.accelerator.reduce(torch.tensor(own, device=self.accelerator.device), reduction="sum").tolist()
        trained = [parameter for parameter, count in zip(trained, having, strict=True) if count]
        for piece in _pieces(trained, numbers=2**24):
            for parameter in piece:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            flat = torch.cat([parameter.grad.reshape(-1) for parameter in piece])
            mean = self.accelerator.reduce(flat, reduction="mean")
            for parameter, part in zip(piece, mean.split([p.numel() for p in piece]), strict=True):
                parameter.grad.copy_(part.view_as(parameter))

    def _generate(self, prompts: list[Any]) -> Any:
        """TRL's, and again with other prompts where groups are refilled."""
        if self.shared is not None:
            self.shared.next_rollout()
        if self.refill is None or not self.model.training:
            return self.generate_once(prompts)
        out = self.refill.generate(prompts)
        if self.shared is not None:
            self.shared.keep(self._indices)
        return out

    def generate_once(self, prompts: list[Any]) -> tuple[Any, ...]:
        """TRL's. Where prompts are shared, frames go no further: TRL would process them for every completion."""
        if self.shared is None:
            found: tuple[Any, ...] = super()._generate(prompts)
            return found
        *found_, _, tool_images = super()._generate(prompts)
        return (*found_, None, tool_images)

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's, in the arithmetic of training, or ours, where prompts are shared.

        ``generate`` encodes frames outside the model's forward, which is all that accelerate casts. Frozen weights in
        bfloat16 would there meet trained ones in float32.
        """
        if self.shared is None or self.use_vllm:
            with self.accelerator.autocast(), self._geometry(self.model, self._indices):
                return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        with (
            self.accelerator.autocast(),
            trl.trainer.grpo_trainer.unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                generation_kwargs=self.generation_kwargs,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
        ):
            sampled = self.shared.sample(model, self._indices, self.generation_config)
        stop = torch.isin(sampled, torch.tensor(self.eos_token_ids, device=sampled.device))
        kept = stop.long().cumsum(dim=1) - stop.long() == 0
        return [row[own].tolist() for row, own in zip(sampled.cpu(), kept.cpu(), strict=True)], None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """TRL's, with the geometry encoder's own frames, which are not in its fixed list of model inputs; or ours."""
        if self.shared is None:
            with self._geometry(model, self._indices):
                return super()._get_per_token_logps_and_entropies(
                    model, input_ids, attention_mask, logits_to_keep, batch_size, **kwargs
                )
        with self.accelerator.autocast():
            log_probs, entropies = self.shared.log_probabilities(
                self.accelerator.unwrap_model(model),
                self._indices,
                input_ids[:, -logits_to_keep:],
                attention_mask[:, -logits_to_keep:],
                batch_size,
            )
        return log_probs, entropies, None

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        """TRL's, which cuts a rollout into micro-batches and shuffles them; whose rows they are travels with them."""
        self._indices = inputs["records"].tolist()
        return super()._compute_loss(model, inputs)

    def _geometry(self, model: Any, indices: Sequence[int]) -> AbstractContextManager[None]:
        clips = [self.examples.prompt(i).geometry for i in indices]
        backbone = next((m for m in model.modules() if isinstance(m, FusedModel)), None)
        if backbone is None or any(clip is None for clip in clips):
            return nullcontext()
        supplied: AbstractContextManager[None] = backbone.supplied(torch.from_numpy(clip) for clip in clips)
        return supplied

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], list[Any], dict[str, Any]]:
        """Encode prompts on the path that training and evaluation share, each distinct prompt once.

        TRL's own pass would decode, tile and tokenise a prompt for every completion of its group.
        """
        indices = self._indices
        encoded = [self.examples.prompt(i) for i in indices]
        if self.shared is not None and not self.use_vllm:
            # Frames come from the encoded prompts, once each.
            return [e.input_ids.tolist() for e in encoded], None, {}  # type: ignore[return-value]
        fields = {
            "pixel_values": torch.from_numpy(_concatenate([e.pixel_values for e in encoded])),
            "image_grid_thw": torch.from_numpy(_concatenate([e.image_grid_thw for e in encoded])),
            "mm_token_type_ids": [e.mm_token_type_ids.tolist() for e in encoded],
        }
        images = [self._frames(i) for i in indices]
        return [e.input_ids.tolist() for e in encoded], images, fields

    def _frames(self, index: int) -> list[Any]:
        example = self.examples[index]
        return example.store.load(example.record)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's rollout, then our advantages and loss weights in place of TRL's.

        Prompts are built here and not by the data set: a stored column of messages would have its missing keys filled
        with None, and Qwen's template would then see a video; and a transform would be pickled for its fingerprint,
        with all the records that it holds.
        """
        self._indices = [row["row"] for row in inputs]
        self._inputs = inputs = [{**row, "prompt": self.examples.messages(row["row"])} for row in inputs]
        with _padding_on_the_left(self._tokenizer):
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        mode = "train" if self.model.training else "eval"
        group = self.num_generations if mode == "train" else self.num_generations_eval
        advantages, std = group_advantages(self._totals, group, scale=self.scale_rewards, std_floor=self.std_floor)
        here = slice(self.accelerator.process_index * len(inputs), (self.accelerator.process_index + 1) * len(inputs))
        output["advantages"] = advantages[here]
        output["records"] = torch.tensor(self._indices)
        metrics = self._metrics[mode]
        metrics["reward"][-1] = torch.nanmean(self._totals).item()
        metrics["reward_std"][-1] = std.mean().item()
        metrics["frac_reward_zero_std"][-1] = (std < 1e-8).float().mean().item()
        metrics["frac_reward_below_floor"].append((std < self.std_floor).float().mean().item())
        if self.group_loss:
            # TRL multiplies the completion mask by `tool_mask` and divides the summed loss by `num_items_in_batch`.
            # With one over a group's tokens as the one and the number of groups as the other, the loss is the mean
            # over groups of each group's token mean, however the batch is cut into micro-batches. Both carry a factor:
            # TRL's logged means (KL, entropy, clip ratios) take a micro-batch's weights to sum to at least 1. As a
            # power of two it leaves every digit of the loss as it is.
            lengths = gather(output["completion_mask"].sum(dim=1))
            weights = token_weights(lengths, group)
            factor = 2.0 ** math.ceil(math.log2(1 / weights.min().item()))
            output["tool_mask"] = output["completion_mask"] * (factor * weights[here])[:, None]
            output["num_items_in_batch"] = torch.tensor(factor * len(lengths) / group, device=weights.device)
        rollout = Rollout(self.state.global_step + 1, self._samples, std.tolist())
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, SeesRollouts):
                callback.on_rollout(rollout)
        return output

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: Any, completions: Sequence[Any], completion_ids_list: Any
    ) -> Tensor:
        """Score completions by the reward set; parts go to the log, totals to the advantages.

        One pass over the completions instead of one a reward function: reading and overlaps are shared, and ``gate``
        needs all scores of a completion at once.
        """
        mode = "train" if self.model.training else "eval"
        device = self.accelerator.device
        names = list(self.reward_set.rewards)
        matrix = torch.full((len(inputs), len(names)), torch.nan, device=device)
        totals = torch.full((len(inputs),), torch.nan, device=device)
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        tokens = completion_ids_list or [[]] * len(inputs)
        samples = []
        answers = [
            (completion_text(completion), self.examples[source["row"]].record)
            for source, completion in zip(inputs, completions, strict=True)
        ]
        for row, scores in enumerate(self.reward_set.score_all(answers)):
            for name, score in scores.items():
                matrix[row, names.index(name)] = score.value
            text, record = answers[row]
            total = self.reward_set.total(scores)
            if scores:
                totals[row] = total
            clipped = bool(tokens[row]) and tokens[row][-1] not in ends
            samples.append(sample(record, text, scores, total, tokens=len(tokens[row]), clipped=clipped))
        # Means over all processes: a task that one process has none of would otherwise be missing from its log.
        self._samples = gather_object(samples)
        group = self.num_generations if mode == "train" else self.num_generations_eval
        for name, value in rollout_metrics(self._samples, group).items():
            self._metrics[mode][name].append(value)
        self._totals = gather(totals)
        return gather(matrix)


class _EpochSampler(trl.trainer.utils.RepeatSampler):
    """TRL's sampler with an order of its own in each epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Called at the start of each epoch."""
        if self.shuffle and self.seed is not None:
            self.generator.manual_seed(self.seed + epoch)


def _gradients_in_buckets(accelerator: Any) -> None:
    """Let DDP's buckets hold the gradients themselves and not copies of them: as much memory as all of them take."""
    if accelerator.ddp_handler is not None:
        accelerator.ddp_handler.gradient_as_bucket_view = True


@contextmanager
def _padding_on_the_left(tokenizer: Any) -> Iterator[None]:
    """Pad as TRL pads prompts, while it processes them a second time for log-probabilities and loss.

    It takes the side from the tokenizer. Padding on the other side would leave ``mm_token_type_ids`` of the shorter
    prompts beside their frames, and so give those frames the positions of text.
    """
    side = tokenizer.padding_side
    tokenizer.padding_side = "left"
    try:
        yield
    finally:
        tokenizer.padding_side = side


def _pieces(parameters: Sequence[Any], numbers: int) -> Iterator[list[Any]]:
    """Parameters of one format, one piece after another, each of about so many numbers."""
    piece: list[Any] = []
    for parameter in sorted(parameters, key=lambda p: str(p.dtype)):
        if piece and (sum(p.numel() for p in piece) >= numbers or parameter.dtype != piece[0].dtype):
            yield piece
            piece = []
        piece.append(parameter)
    if piece:
        yield piece


def _concatenate(arrays: Sequence[Any]) -> Any:
    import numpy as np

    return np.concatenate(arrays)


def reward_placeholders(names: Sequence[str]) -> list[Any]:
    """What TRL's constructor wants of reward functions: callables with names. ``_calculate_rewards`` does the work."""

    def make(name: str) -> Any:
        def function(**_: Any) -> list[float | None]:
            raise AssertionError("PolicyTrainer scores completions itself")

        function.__name__ = name
        return function

    return [make(name) for name in names]
