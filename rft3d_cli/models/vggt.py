"""The aggregator of VGGT (CVPR 2025, arXiv 2503.11651): what it sees of a clip's geometry, without its heads.

A DINOv2 vision transformer turns each frame into patch tokens; pairs of attention blocks, one within each frame and one
across all of them, relate those. Names and shapes of all tensors are those of the public ``facebook/VGGT-1B`` under
``aggregator.``, so that its weights load strictly. Only the blocks up to the wanted pair run, and nothing of the pairs
before it is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, which frames are normalised by."""
ROPE_BASE = 100.0
PUBLIC_SIZE: Mapping[str, int] = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
"""VGGT-1B's: DINOv2's ViT-L/14, and as many pairs of blocks of the same width."""
STRETCH = 4096
"""Tokens that pass linear layers at a time: the widest tensors there are stay small."""

Rope = tuple[Tensor, Tensor]
"""Cosines and sines by which queries and keys turn."""


class LayerScale(nn.Module):
    """One learned factor a channel."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``(…, dim)``."""
        return x * self.gamma


class Attention(nn.Module):
    """Self-attention, with normalised and rotated queries and keys where ``rotary``."""

    def __init__(self, dim: int, heads: int, *, rotary: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm: nn.Module = nn.LayerNorm(dim // heads) if rotary else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(dim // heads) if rotary else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def ask(self, x: Tensor, rope: Rope | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of some tokens.

        Args:
            x: ``(n, dim)``.
            rope: Cosines and sines of these tokens, ``(n, dim / heads)`` each.

        Returns:
            Three ``(n, heads, dim / heads)``.
        """
        q, k, v = self.qkv(x).view(len(x), 3, self.heads, -1).unbind(1)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        # A view of the values would keep the queries and keys beside them alive.
        return q.to(v.dtype), k.to(v.dtype), v.contiguous()


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(…, dim)``."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class VGGTBlock(nn.Module):
    """A pre-norm transformer block.

    All but the attention itself is done for a stretch of tokens at a time, so that only what attention needs of every
    token is ever there at once.

    Args:
        dim: Width.
        heads: Attention heads.
        eps: Of the layer norms.
        scale: Start of the layer scales.
        rotary: Whether positions come in by rotation of normalised queries and keys.
    """

    def __init__(self, dim: int, heads: int, *, eps: float, scale: float, rotary: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, rotary=rotary)
        self.ls1 = LayerScale(dim, scale)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, 4 * dim)
        self.ls2 = LayerScale(dim, scale)

    def forward(self, x: Tensor, sequences: int, rope: Rope | None = None) -> Tensor:
        """Transform tokens.

        Args:
            x: ``(T, dim)``, sequences one after another.
            sequences: How many; they are equally long and do not see each other.
            rope: Cosines and sines ``(T, dim / heads)`` of :func:`rope_tables`.
        """
        pieces = torch.split(x, STRETCH)
        turns = [None] * len(pieces) if rope is None else zip(*(torch.split(t, STRETCH) for t in rope), strict=True)
        asked = [self.attn.ask(self.norm1(piece), turn) for piece, turn in zip(pieces, turns, strict=True)]
        parts = [list(column) for column in zip(*asked, strict=True)]
        heads = asked[0][0].shape[1:]
        del asked
        # Popped, so that each list of pieces goes as soon as it is one tensor.
        q, k, v = (_joined(parts.pop(0)).view(sequences, -1, *heads).transpose(1, 2) for _ in range(3))
        seen = scaled_dot_product_attention(q, k, v)
        del q, k, v
        seen = seen.transpose(1, 2).reshape(x.shape)
        return _joined([self._rest(*both) for both in zip(pieces, torch.split(seen, STRETCH), strict=True)])

    def _rest(self, x: Tensor, seen: Tensor) -> Tensor:
        x = x + self.ls1(self.attn.proj(seen))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


class DinoV2(nn.Module):
    """DINOv2's vision transformer with registers.

    Args:
        img_size: Side of the square pictures that its positions were learned on, pixels.
        patch_size: Patch side, pixels.
        num_register_tokens: Registers.
        embed_dim: Width.
        depth: Blocks.
        num_heads: Attention heads.
    """

    def __init__(
        self, img_size: int, patch_size: int, num_register_tokens: int, embed_dim: int, depth: int, num_heads: int
    ) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.randn(1, (img_size // patch_size) ** 2 + 1, embed_dim) * 0.02)
        self.register_tokens = nn.Parameter(torch.zeros(1, num_register_tokens, embed_dim))
        # Of masked training; the public weights have it, and nothing reads it.
        self.mask_token = nn.Parameter(torch.zeros(1, embed_dim), requires_grad=False)
        self.patch_embed = _PatchEmbed(embed_dim, patch_size)
        self.blocks = nn.ModuleList(
            VGGTBlock(embed_dim, num_heads, eps=1e-6, scale=1.0, rotary=False) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)

    def forward(self, frames: Tensor) -> Tensor:
        """Patch tokens.

        Args:
            frames: ``(F, 3, H, W)`` in [0, 1].

        Returns:
            ``(F, H / patch · W / patch, embed_dim)``, rows first.
        """
        x = self._embedded(frames)
        count, tokens, dim = x.shape
        x = x.view(-1, dim)
        for block in self.blocks:
            x = block(x, sequences=count)
        out: Tensor = self.norm(x.view(count, tokens, dim)[:, 1 + self.register_tokens.shape[1] :])
        return out

    def _embedded(self, frames: Tensor) -> Tensor:
        mean, std = (torch.tensor(value, device=frames.device).view(3, 1, 1) for value in (MEAN, STD))
        dtype = self.patch_embed.proj.weight.dtype
        # A frame at a time: copies of all the pictures would be the largest tensors of all.
        grids = [self.patch_embed(((frame.float() - mean) / std).to(dtype)) for frame in torch.split(frames, 1)]
        rows, columns = grids[0].shape[-2:]
        lead = torch.cat([self.cls_token + self.pos_embed[:, :1], self.register_tokens], dim=1)
        # Under autocast the convolution gives bfloat16; the sum is taken in the weights' type, as in the public code.
        positions = self.positions(rows, columns).to(lead.dtype)
        return torch.cat([torch.cat([lead, g.flatten(2).transpose(1, 2) + positions], dim=1) for g in grids])

    def positions(self, rows: int, columns: int) -> Tensor:
        """Learned positions ``(1, rows · columns, embed_dim)``, resized where the grid is not the learned one."""
        learned = self.pos_embed[:, 1:]
        side = math.isqrt(learned.shape[1])
        if (rows, columns) == (side, side):
            return learned
        # In float32 always, as in the public code: the resized values then are those that the weights were used with.
        picture = learned.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
        resized = interpolate(picture, size=(rows, columns), mode="bicubic", antialias=True)
        return resized.flatten(2).transpose(1, 2)


class _PatchEmbed(nn.Module):
    """The public names have the convolution one level down."""

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, frames: Tensor) -> Tensor:
        out: Tensor = self.proj(frames)
        return out


class VGGTAggregator(nn.Module):
    """DINOv2 tokens of a clip, related by pairs of frame-wise and clip-wise attention.

    The defaults are VGGT-1B's: 909,112,320 parameters in 1,210 tensors.

    Args:
        img_size: Side of the square pictures that DINOv2's positions were learned on, pixels.
        patch_size: Patch side, pixels.
        num_register_tokens: Registers, of DINOv2 and of the aggregator.
        dino: ``embed_dim``, ``depth`` and ``num_heads`` of DINOv2; :data:`PUBLIC_SIZE` where absent.
        aggregator: The same of the pairs of blocks; widths must agree.

    Raises:
        ValueError: Where sizes do not fit each other.
    """

    def __init__(
        self,
        img_size: int = 518,
        patch_size: int = 14,
        num_register_tokens: int = 4,
        dino: Mapping[str, int] | None = None,
        aggregator: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        encoder, pairs = (_sizes(given) for given in (dino, aggregator))
        dim, heads = pairs["embed_dim"], pairs["num_heads"]
        if encoder["embed_dim"] != dim:
            raise ValueError(f"dino.embed_dim {encoder['embed_dim']} and aggregator.embed_dim {dim} differ")
        if img_size % patch_size:
            raise ValueError(f"img_size {img_size} is not a multiple of patch_size {patch_size}")
        if (dim // heads) % 4:
            raise ValueError(f"heads of {dim // heads} channels cannot be rotated by rows and columns: 4 must divide")
        self.patch_size, self.output_dim = patch_size, 2 * dim
        self.head_dim = dim // heads
        self.patch_embed = DinoV2(img_size, patch_size, num_register_tokens, **encoder)
        # Slot 0 is the first frame's, slot 1 every other's: what they say is in the first frame's coordinates.
        self.camera_token = nn.Parameter(torch.randn(1, 2, 1, dim) * 1e-6)
        self.register_token = nn.Parameter(torch.randn(1, 2, num_register_tokens, dim) * 1e-6)
        self.frame_blocks, self.global_blocks = (
            nn.ModuleList(VGGTBlock(dim, heads, eps=1e-5, scale=0.01, rotary=True) for _ in range(pairs["depth"]))
            for _ in range(2)
        )

    @property
    def special_tokens(self) -> int:
        """Tokens of each frame before its patches: camera and registers."""
        return 1 + self.register_token.shape[2]

    def forward(self, images: Tensor, layer: int = -2) -> Tensor:
        """Patch tokens of clips after one pair of blocks.

        On a GPU the blocks run under bfloat16 autocast, as the public code runs them; elsewhere in the weights' type.

        Args:
            images: ``(B, S, 3, H, W)`` in [0, 1]; H and W whole patches. All clips of a batch have one size.
            layer: The pair; negative counts from the end. -2, pair 22 of VGGT-1B's 0 to 23, is what VG-LLM and 3D-RFT
                use.

        Returns:
            ``(B, S, H / patch · W / patch, 2 · embed_dim)``: what the pair's frame-wise block gives, then what its
            clip-wise block gives; patches rows first.

        Raises:
            ValueError: For a size or a layer that cannot be.
        """
        if images.ndim != 5 or images.shape[2] != 3:
            raise ValueError(f"clips are (B, S, 3, H, W), not {tuple(images.shape)}")
        b, s, _, height, width = images.shape
        if not b or not s or not height or not width or height % self.patch_size or width % self.patch_size:
            raise ValueError(f"{s} frames of {width} x {height} pixels are not whole patches of {self.patch_size}")
        pairs = len(self.frame_blocks)
        if not -pairs <= layer < pairs:
            raise ValueError(f"there is no layer {layer} among {pairs}")
        with _autocast(images.device):
            return self._forward(images, layer % pairs)

    def _forward(self, images: Tensor, last: int) -> Tensor:
        b, s, _, height, width = images.shape
        rows, columns = height // self.patch_size, width // self.patch_size
        x = self._tokens(images)
        shape = x.shape
        x = x.view(-1, shape[-1])
        tables = rope_tables(rows, columns, self.special_tokens, self.head_dim, images.device)
        rope = tables[0].repeat(b * s, 1), tables[1].repeat(b * s, 1)
        within = x
        for frame_block, global_block in zip(
            self.frame_blocks[: last + 1], self.global_blocks[: last + 1], strict=True
        ):
            # One name for both, so that no older tensor stays alive.
            x = within = frame_block(x, b * s, rope)
            x = global_block(x, b, rope)
        return torch.cat([half.view(shape)[:, :, self.special_tokens :] for half in (within, x)], dim=-1)

    def _tokens(self, images: Tensor) -> Tensor:
        """Camera, registers and patches of each frame, ``(B, S, tokens, embed_dim)``."""
        b, s = images.shape[:2]
        patches = self.patch_embed(images.flatten(0, 1)).unflatten(0, (b, s))
        slots = torch.cat([self.camera_token, self.register_token], dim=2)
        lead = torch.cat([slots[:, :1], slots[:, 1:].expand(-1, s - 1, -1, -1)], dim=1)
        return torch.cat([lead.expand(b, -1, -1, -1), patches], dim=2)


def _sizes(given: Mapping[str, int] | None) -> dict[str, int]:
    sizes = dict(PUBLIC_SIZE) if given is None else dict(given)
    if sizes.keys() != PUBLIC_SIZE.keys():
        raise ValueError(f"sizes are {', '.join(PUBLIC_SIZE)}, not {', '.join(sizes) or 'none'}")
    if any(size < 1 for size in sizes.values()) or sizes["embed_dim"] % sizes["num_heads"]:
        raise ValueError(f"no block has {sizes['num_heads']} heads over {sizes['embed_dim']} channels")
    return sizes


def _autocast(device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def rope_tables(
    rows: int, columns: int, special: int, head_dim: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines that rotate one frame's tokens.

    Half of the channels turn with the row, half with the column; special tokens stand at (0, 0), the first patch at
    (1, 1).

    Args:
        rows: Patches a column.
        columns: Patches a row.
        special: Tokens before the patches.
        head_dim: Channels of a head.
        device: Where.

    Returns:
        Two ``(special + rows · columns, head_dim)`` float32 tables.
    """
    quarter = head_dim // 4
    turns = ROPE_BASE ** (-torch.arange(quarter, device=device, dtype=torch.float32) / quarter)
    row = torch.arange(1, rows + 1, device=device).repeat_interleave(columns)
    column = torch.arange(1, columns + 1, device=device).repeat(rows)
    angles = []
    for axis in (row, column):
        place = torch.cat([axis.new_zeros(special), axis]).float()[:, None] * turns
        angles += [place, place]
    table = torch.cat(angles, dim=-1)
    return table.cos(), table.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channels pairwise: each half of a head is two quarters, which are the coordinates that turn.

    Args:
        x: ``(N, heads, head_dim)``.
        cos: ``(N, head_dim)`` of :func:`rope_tables`.
        sin: Likewise.
    """
    a, b, c, d = x.chunk(4, dim=-1)
    turned = torch.cat([-b, a, -d, c], dim=-1)
    return x * cos.to(x.dtype)[:, None] + turned * sin.to(x.dtype)[:, None]


class VGGTEncoder(nn.Module):
    """The aggregator as a geometry encoder of :mod:`rft3d_cli.models.fusion`.

    Args:
        layer: See :meth:`VGGTAggregator.forward`.
        **sizes: Of :class:`VGGTAggregator`.
    """

    merger_hidden_dim = 4096
    uncut = True

    def __init__(self, layer: int = -2, **sizes: Any) -> None:
        super().__init__()
        self.layer = layer
        self.aggregator = VGGTAggregator(**sizes)
        self.output_dim = self.aggregator.output_dim

    def unread(self) -> Iterator[nn.Parameter]:
        """Parameters that no feature depends on: DINOv2's mask token, and the pairs of blocks after the wanted one."""
        body = self.aggregator
        first = self.layer % len(body.frame_blocks) + 1
        yield body.patch_embed.mask_token
        for block in (*body.frame_blocks[first:], *body.global_blocks[first:]):
            yield from block.parameters()

    def forward(self, frames: Tensor) -> Tensor:
        """Features of one clip.

        Args:
            frames: ``(S, 3, H, W)`` in [0, 1].

        Returns:
            ``(S, H / patch, W / patch, 2 · embed_dim)``.
        """
        patch = self.aggregator.patch_size
        rows, columns = frames.shape[-2] // patch, frames.shape[-1] // patch
        tokens: Tensor = self.aggregator(frames[None], layer=self.layer)
        return tokens.reshape(len(frames), rows, columns, self.output_dim)
