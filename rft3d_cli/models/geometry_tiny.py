"""The stand-in geometry encoder: VGGT's shape in miniature.

Patches of each frame attend to each other, then all patches of the clip attend to each other; both outputs are
concatenated. It is trained from scratch with tiny, so it shows the machinery, not VGGT's knowledge.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class _Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class TinyGeometryEncoder(nn.Module):
    """One pair of frame-wise and clip-wise attention over patches.

    Args:
        embed_dim: Width; the output is twice as wide.
        num_heads: Attention heads.
        patch_size: Patch side, pixels.
    """

    merger_hidden_dim = 192
    uncut = False

    def __init__(self, embed_dim: int = 48, num_heads: int = 4, patch_size: int = 8) -> None:
        super().__init__()
        self.output_dim = 2 * embed_dim
        self.patch_embed = nn.Conv2d(3, embed_dim, patch_size, patch_size)
        self.position = nn.Linear(4, embed_dim)
        self.first_frame = nn.Parameter(torch.zeros(embed_dim))
        self.frame_block = _Block(embed_dim, num_heads)
        self.global_block = _Block(embed_dim, num_heads)

    def unread(self) -> Iterable[nn.Parameter]:
        """None: features depend on all parameters."""
        return ()

    def forward(self, frames: Tensor) -> Tensor:
        """Features of one clip.

        Args:
            frames: ``(S, 3, H, W)`` in [0, 1].

        Returns:
            ``(S, H / patch, W / patch, 2 · embed_dim)``.
        """
        x = self.patch_embed(frames.to(self.patch_embed.weight.dtype) - 0.5)
        s, dim, h, w = x.shape
        v, u = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        grid = torch.stack([u, v, u * u, v * v], dim=-1).to(x)
        x = x.permute(0, 2, 3, 1) + self.position(grid)
        # As in VGGT, coordinates are the first frame's, so the encoder must know which frame that is.
        x = torch.cat([x[:1] + self.first_frame, x[1:]]).reshape(s, h * w, dim)
        per_frame = self.frame_block(x)
        across = self.global_block(per_frame.reshape(1, s * h * w, dim)).reshape(s, h * w, dim)
        return torch.cat([per_frame, across], dim=-1).reshape(s, h, w, 2 * dim)
