"""Models that rft3d knows by name: what each is, what it needs, and how its weights are fetched.

Facts about files on the hub: their names, sizes and the order of the angles in the boxes that they answer with. A name
that is not here works as well; only less can be said about it before its weights are on the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rft3d_cli.geometry.eras import Era


@dataclass(frozen=True)
class Known:
    """A model by name.

    Args:
        home: ``shipped`` with rft3d, ``fresh`` where it is made on the spot, or on the ``hub``.
        text: One line for people.
        parameters: How many, each counted once and without VGGT's unused heads; None where it is read from the files.
        branch: Its geometry branch, ``vggt``, ``none``, or None where that cannot be said without its files.
        angles: What it means by the angles of boxes (:mod:`rft3d_cli.geometry.eras`); None where it was not trained on
            boxes.
        note: What is worth knowing beside that.
        files: What to fetch, where the hub has more than is used; all where empty.
    """

    home: Literal["shipped", "fresh", "hub"]
    text: str
    parameters: int | None = None
    branch: Literal["vggt", "none"] | None = None
    angles: Era | None = None
    note: str = ""
    files: tuple[str, ...] = ()


_REPLACED = "its files were replaced on 28 November 2025; copies fetched before then have extrinsic angles"
_FIRST = "the files of mid-2025, whose weights have other names, which load too; the hub may no longer have them"
_SPATIAL = "VG-LLM for questions about space: choices and numbers"
_BOXES = "VG-LLM for detection, grounding and dense captions"

KNOWN: Mapping[str, Known] = {
    "tiny": Known("shipped", "the tiny model after SFT and GRPO on synthetic rooms: what infer uses"),
    "tiny-sft": Known("shipped", "the tiny model after SFT: where the tiny GRPO recipes start"),
    "tiny-random": Known("fresh", "a freshly initialised tiny model: where the tiny SFT recipes start"),
    "zd11024/vgllm-3d-vggt-4b": Known("hub", _BOXES, 4_705_686_528, "vggt", "intrinsic", _REPLACED),
    "zd11024/vgllm-3d-vggt-8b": Known("hub", _BOXES, 9_249_523_200, "vggt", "intrinsic", _REPLACED),
    "zd11024/vgllm-qa-vggt-4b": Known("hub", _SPATIAL, 4_705_686_528, "vggt"),
    "zd11024/vgllm-qa-vggt-8b": Known("hub", _SPATIAL, 9_249_523_200, "vggt"),
    "zd11024/VGLLM_for_3D_Scene_Understanding_4B": Known(
        "hub", f"{_BOXES}, first release", 4_705_686_528, "vggt", "extrinsic", _FIRST
    ),
    "zd11024/VGLLM_for_Spatial_Reasoning_4B": Known(
        "hub", f"{_SPATIAL}, first release", 4_705_686_528, "vggt", note=_FIRST
    ),
    "EricLHK/3D-RFT": Known(
        "hub",
        "3D-RFT's own weights",
        branch="vggt",
        angles="intrinsic",
        note="of March 2026 and later, made on VG-LLM's newer data; what the repository holds was not seen",
    ),
    "Qwen/Qwen2.5-VL-3B-Instruct": Known("hub", "a plain start; VGGT can be added", 3_754_622_976, "none"),
    "Qwen/Qwen2.5-VL-7B-Instruct": Known("hub", "a plain start; VGGT can be added", 8_292_166_656, "none"),
    "Qwen/Qwen3-VL-2B-Instruct": Known("hub", "a newer plain start, without geometry", 2_127_532_032, "none"),
    "Qwen/Qwen3-VL-4B-Instruct": Known("hub", "a newer plain start, without geometry", 4_437_815_808, "none"),
    "Qwen/Qwen3-VL-8B-Instruct": Known("hub", "a newer plain start, without geometry", 8_767_123_696, "none"),
    "facebook/VGGT-1B": Known(
        "hub",
        "VGGT itself: the branch that is added to a plain Qwen2.5-VL",
        909_112_320,
        "vggt",
        note="no model to ask: it gives model.geometry=vggt its weights",
        # The hub has all weights a second time as a pickle of five gigabytes, which rft3d would not open.
        files=("config.json", "model.safetensors"),
    ),
}
"""By name."""


def fetch_command(name: str) -> str:
    """The command that fetches a model's weights from the hub.

    >>> fetch_command("facebook/VGGT-1B")
    'hf download facebook/VGGT-1B config.json model.safetensors'
    """
    known = KNOWN.get(name)
    return " ".join(["hf download", name, *(known.files if known else ())])
