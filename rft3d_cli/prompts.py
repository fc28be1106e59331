"""The prompts: one a task, all in this file.

The words of the detection, grounding, caption and VSI-Bench prompts are those that the public VG-LLM checkpoints and
the VSI-Bench harness use, to the byte: a model answers best to what it was trained on. ``<image>`` marks the place of
each frame; a prompt without it gets its frames first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

IMAGE = "<image>"
FORBIDDEN = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
"""Tokens that stand for pixels: one written in a text, or sampled, would ask for pixels that do not exist."""

DETECTION = "\n".join(
    (
        "Detect the 3D bounding boxes in the camera coordinate system of the first frame.",
        'Output a json list where each entry contains the object name in "label" and its 3D bounding box in "bbox_3d".',
        "The 3D bounding box format should be "
        "[x_center, y_center, z_center, x_size, y_size, z_size, yaw, roll, pitch].",
    )
)

GROUNDING_HEAD = "Localize the first clear frame in the video showing the object described in the text."
GROUNDING_TAIL = (
    'Output a JSON dictionary with the frame index in "frame" '
    'and its 3D bounding box in "bbox_3d" in the frame\'s coordinates.'
)

CAPTION = "Carefully watch the video and describe the object located at {place} in detail."

SITUATED = "Carefully watch the video and answer the question."

VSI_HEAD = "These are frames of a video."
VSI_CHOICE = "Answer with the option's letter from the given choices directly."
VSI_NUMBER = "Please answer the question using a single word or phrase."
# Ours: neither the paper nor the harness says how to ask for a chain of thought.
THINK_CHOICE = (
    "Think first, between <think> and </think>. Then give the option's letter between <answer> and </answer>."
)
THINK_NUMBER = "Think first, between <think> and </think>. Then give one number between <answer> and </answer>."


def detection_prompt(frames: int) -> str:
    """The detection prompt for a clip of ``frames`` frames."""
    return f"{IMAGE}\n" * frames + DETECTION


def grounding_prompt(description: str, frames: int) -> str:
    """The grounding prompt for one description and a clip of ``frames`` frames.

    >>> grounding_prompt("The red chair.", 2).splitlines()[:1]
    ['Frame-0: <image>Frame-1: <image>']
    """
    tags = "".join(f"Frame-{i}: {IMAGE}" for i in range(frames))
    return f"{tags}\n{GROUNDING_HEAD}\nText: {description}\n{GROUNDING_TAIL}\n"


def caption_prompt(centre: Sequence[float], frames: int) -> str:
    """The prompt for a description of one object.

    Args:
        centre: Of its box in the first frame's camera coordinates, metres; written to two decimals.
        frames: Frames of the clip.

    >>> caption_prompt([-0.892, -0.74, 2.4512], 2).splitlines()[0]
    '<image><image>'
    >>> caption_prompt([-0.892, -0.74, 2.4512], 2).splitlines()[1]
    'Carefully watch the video and describe the object located at [-0.89, -0.74, 2.45] in detail.'
    """
    place = [round(float(value), 2) for value in centre]
    return f"{IMAGE * frames}\n{CAPTION.format(place=place)}"


def sqa3d_prompt(situation: str, question: str) -> str:
    """The prompt for a question about a place in a scene.

    Args:
        situation: Where one stands and what one faces, in words.
        question: About the scene from there.

    >>> print(sqa3d_prompt("I am facing the door.", "What is behind me?"))
    Carefully watch the video and answer the question.
    I am facing the door. What is behind me?
    Please answer the question using a single word or phrase.
    """
    return "\n".join((SITUATED, f"{situation} {question}", VSI_NUMBER))


def vsibench_prompt(question: str, options: Sequence[str] | None) -> str:
    """The VSI-Bench prompt: numeric without ``options``, multiple choice with them."""
    if options:
        return "\n".join((VSI_HEAD, question, "Options:", *options, VSI_CHOICE))
    return "\n".join((VSI_HEAD, question, VSI_NUMBER))


def thinking_prompt(prompt: str, *, choice: bool) -> str:
    """A prompt that asks for ``<think>…</think><answer>…</answer>``, the form that reasoning rewards pay for.

    Args:
        prompt: Of a choice or a number. The VSI-Bench harness's request for a bare answer gives way; a prompt that asks
            for thinking already stays as it is.
        choice: Whether an option's letter is asked for, or a number.

    >>> thinking_prompt(vsibench_prompt("How many?", None), choice=False).splitlines()[-1]
    'Think first, between <think> and </think>. Then give one number between <answer> and </answer>.'
    """
    ask = THINK_CHOICE if choice else THINK_NUMBER
    if prompt.endswith((THINK_CHOICE, THINK_NUMBER)):
        return prompt
    return "\n".join((prompt.removesuffix(VSI_CHOICE if choice else VSI_NUMBER).removesuffix("\n"), ask))


def prompt_hash(prompts: Sequence[str]) -> str:
    """A short hash of the distinct prompts of a run, for its result file.

    >>> prompt_hash(["a", "b", "a"]) == prompt_hash(["b", "a"])
    True
    """
    digest = hashlib.sha256("\0".join(sorted(set(prompts))).encode())
    return digest.hexdigest()[:16]
